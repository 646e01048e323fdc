"""What a guest is made of, as the user says it: checked before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import shown
from asyncvmm.base.units import GIB, MIB, PAGE_SIZE
from asyncvmm.plugin.options import nearest, parse_options
from asyncvmm.timeline.clock import DEFAULT_MIPS, MAX_MIPS

NVRAM: Final = "nvram"  # the format of a flash that is in a machine's NVRAM
FORMATS: Final = ("raw", "qcow2", NVRAM)

MAX_HARTS = 64
# 2026-01-01 UTC. Not 0: nginx takes second 0 for "time not read yet". Not now: runs are repeatable.
DEFAULT_EPOCH_NS = 1_767_225_600 * 10**9
MIN_MEMORY = MIB
MAX_MEMORY = 256 * GIB
_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str | int) -> int:
    """Bytes from a number or from ``128M``, ``1GiB``, ``0x8000000``; ConfigError otherwise."""
    if isinstance(text, int):
        return text
    if not isinstance(text, str):
        raise ConfigError(f"{shown(text)} is not a size: write for example 128M or 1G")
    word = text.strip().upper().removesuffix("IB").removesuffix("B")
    suffix = word[-1:] if word[-1:] in ("K", "M", "G") else ""
    try:
        return int(word.removesuffix(suffix), 0) * _SUFFIXES[suffix]
    except ValueError:
        raise ConfigError(f"{shown(text)} is not a size: write for example 128M or 1G") from None


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)


def _words(value: Any) -> tuple[str, ...]:
    """One string, or several: disks and devices."""
    return (value,) if isinstance(value, str) else tuple(value)


def _between(low: int, high: int, unit: str = "") -> Any:
    def check(_instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
        if not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"{attribute.name} must be {low} to {high}{unit}, not {shown(value)}")

    return check


def _one_of(*known: str) -> Any:
    def check(_instance: Any, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in known:
            raise ConfigError(f"{attribute.name}: no {shown(value)}: {nearest(str(value), known)}")

    return check


def _page_multiple(_instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
    _between(MIN_MEMORY, MAX_MEMORY, " bytes")(_instance, attribute, value)
    if value % PAGE_SIZE:
        raise ConfigError(f"{attribute.name} must be a multiple of {PAGE_SIZE} bytes, not {value}")


@attrs.frozen
class GuestConfig:
    """One guest. A wrong value is a ConfigError.

    Boot: ``elf`` is a bare-metal program entered in M-mode; ``firmware`` a binary or ELF entered in
    M-mode, with ``kernel`` (an Image or a raw binary such as U-Boot) for it to start; ``kernel``
    alone is a Linux Image under the built-in SBI; without a kernel, what is in the first flash is
    started. ``flash`` are up to two flash parts, ``path`` with the options of disks. ``disks`` are
    ``path`` with any of ``,readonly``, ``,snapshot`` (what is written is thrown away) and
    ``,format=raw|qcow2``, ``nets`` are ``network[,option=value...]`` (a card each), ``shares`` are
    ``path[:tag][:cow]`` (folders of the host that it can mount, see ``virtio-9p``), ``devices`` are
    ``type,option=value,...``. ``quantum`` (steps) is how long one hart runs before the next one when
    there are several; ``mips`` says how many million steps are a second of virtual time.
    ``epoch_ns`` is the date (Unix time) of its power-on, the same for every run unless it is given.
    Who it is comes from ``seed`` and its name, unless ``mac_seed`` (the addresses of its cards),
    ``machine_id`` (32 hexadecimal digits) and ``uuid`` say otherwise; the latter two are told in its
    device tree and on its kernel's command line.
    ``trust_group`` names the guests that it may share equal pages with, which costs none of them
    anything that it can see; without one it shares with nobody.
    ``policy`` are the guest's knobs on its host, by the names of cgroup v2 (``{"cpu.weight": 200}``).
    """

    name: str = attrs.field(default="guest", validator=attrs.validators.matches_re(r"[\w.-]{1,64}"))
    memory: int = attrs.field(default=128 * MIB, converter=parse_size, validator=_page_multiple)
    harts: int = attrs.field(default=1, validator=_between(1, MAX_HARTS))
    kernel: Path | None = attrs.field(default=None, converter=_path)
    initrd: Path | None = attrs.field(default=None, converter=_path)
    append: str = ""
    firmware: Path | None = attrs.field(default=None, converter=_path)
    elf: Path | None = attrs.field(default=None, converter=_path)
    dtb: Path | None = attrs.field(default=None, converter=_path)
    flash: tuple[str, ...] = attrs.field(default=(), converter=_words)
    disks: tuple[str, ...] = attrs.field(default=(), converter=_words)
    nets: tuple[str, ...] = attrs.field(default=(), converter=_words)
    shares: tuple[str, ...] = attrs.field(default=(), converter=_words)
    devices: tuple[str, ...] = attrs.field(default=(), converter=_words)
    seed: int = attrs.field(default=0, validator=_between(0, 2**64 - 1))
    clock: Literal["virtual", "realtime"] = attrs.field(
        default="virtual", validator=_one_of("virtual", "realtime")
    )
    mips: int = attrs.field(default=DEFAULT_MIPS, validator=_between(1, MAX_MIPS))
    quantum: int = attrs.field(default=10_000, validator=_between(100, 100_000_000))
    engine: Literal["auto", "interpreter", "jit"] = attrs.field(
        default="auto", validator=_one_of("auto", "interpreter", "jit")
    )
    mmu: Literal["sv39", "sv48"] = attrs.field(default="sv39", validator=_one_of("sv39", "sv48"))
    trust_group: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.matches_re(r"[\w.-]{1,64}")),
    )
    policy: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    epoch_ns: int = attrs.field(default=DEFAULT_EPOCH_NS, validator=_between(0, 2**63 - 1))
    mac_seed: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_between(0, 2**64 - 1))
    )
    machine_id: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(attrs.validators.matches_re(r"[0-9a-f]{32}")),
    )
    uuid: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(
            attrs.validators.matches_re(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
        ),
    )

    def __attrs_post_init__(self) -> None:
        if self.elf is not None and (self.kernel or self.firmware or self.initrd):
            raise ConfigError(
                "elf is a whole program: kernel, firmware and initrd do not go with it"
            )
        if self.initrd is not None and self.kernel is None:
            raise ConfigError("initrd needs a kernel")
        if "\0" in self.append:
            raise ConfigError("append contains a NUL character")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> GuestConfig:
        """A config from keywords; an unknown one is a ConfigError that suggests the nearest."""
        known = [field.name for field in attrs.fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"guest: no option {shown(key)}: {nearest(key, known)}")
        try:
            return cls(**values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"guest: {error.args[0] if error.args else error}") from error

    @classmethod
    def from_options(cls, options: Mapping[str, str | None]) -> GuestConfig:
        """A config from option texts (None for a bare flag)."""
        config = parse_options("guest", cls, options)
        assert isinstance(config, cls)
        return config


@attrs.frozen
class DiskOptions:
    """One entry of ``disks`` or ``flash``. ``format`` is None for what goes by the file's name; a flash
    of format ``nvram`` is the one in a machine's NVRAM.
    """

    path: Path
    readonly: bool = False
    snapshot: bool = False
    format: str | None = None

    @property
    def keeps_writes(self) -> bool:
        """Whether the file is another one after the guest has run."""
        return not (self.readonly or self.snapshot)

    @property
    def in_nvram(self) -> bool:
        """Whether it is no file of its own."""
        return self.format == NVRAM


def split_disk(text: str) -> DiskOptions:
    """``path[,readonly][,snapshot][,format=raw|qcow2]``: options at its end; a path may have commas."""
    found: dict[str, Any] = {}
    while True:
        path, comma, word = text.rpartition(",")
        key, _, value = word.partition("=")
        if comma and word in ("readonly", "ro", "snapshot"):
            found["readonly" if word == "ro" else word] = True
        elif comma and key == "format":
            if value not in FORMATS:
                raise ConfigError(f"disk {text}: {nearest(value, FORMATS)}")
            found["format"] = value
        else:
            break
        text = path
    if not text:
        raise ConfigError("a disk needs a path: path[,readonly][,snapshot][,format=raw|qcow2]")
    return DiskOptions(Path(text), **found)


def share_options(shares: tuple[str, ...]) -> list[dict[str, str | None]]:
    """The options of ``virtio-9p`` for each ``path[:tag][:cow]``; a path may have colons before a slash.

    The tag is ``share`` unless said; ConfigError for two of one tag.
    """
    found: list[dict[str, str | None]] = []
    for text in shares:
        options: dict[str, str | None] = {"tag": "share"}
        path, colon, word = text.rpartition(":")
        if colon and word in ("cow", "ro"):
            if word == "cow":
                options["cow"] = None
            text = path
            path, colon, word = text.rpartition(":")
        if colon and path and "/" not in word:
            options["tag"], text = word, path
        if not text or not options["tag"]:
            raise ConfigError(f"share {shown(text)}: path[:tag][:cow] is expected")
        if any(each["tag"] == options["tag"] for each in found):
            raise ConfigError(f"two shares have the tag {shown(options['tag'])}: write path:tag")
        found.append({"path": text, **options})
    return found
