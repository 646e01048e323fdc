"""A virtual machine's NVRAM: its flash, its clock's offset and who it is, in one file.

The file (little-endian)::

    0   "AVMNVRM1"
    8   u32 version (1)      12  u32 bytes of the body
    16  SHA-256 of the first 16 bytes and the body
    48  the body: uuid (16), machine-id (16), u64 MAC seed, u64 random seed, i64 clock offset (ns),
        u32 flash parts, then each part: u64 size, u32 pages, then each page in rising order:
        u32 number, u8 kind; kind 0 is followed by 4096 bytes, kind 1 by one byte that fills the page

A page of flash that is not there is erased (all ones). So a file is as large as what was written to the
flash, at most ``MAX_FILE_BYTES``. It is replaced as a whole: written beside its name, made durable,
renamed. ``update_nvram`` is how a machine that runs changes its own.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MIB, PAGE_SIZE
from asyncvmm.storage.bounded import read_bounded
from asyncvmm.storage.packs import write_durably

MAGIC: Final = b"AVMNVRM1"
VERSION: Final = 1
MAX_PARTS: Final = 4
MAX_PART_BYTES: Final = 64 * MIB
MAX_FILE_BYTES: Final = MAX_PARTS * (MAX_PART_BYTES + MAX_PART_BYTES // PAGE_SIZE * 5) + 4096
ERASED: Final = b"\xff" * PAGE_SIZE

_HEAD: Final = struct.Struct("<8sII")
_DIGEST_BYTES: Final = 32
_IDENTITY: Final = struct.Struct("<16s16sQQqI")
_PART: Final = struct.Struct("<QI")
_PAGE: Final = struct.Struct("<IB")
_DATA: Final = 0
_FILL: Final = 1


class NvramError(ConfigError):
    """A file is no NVRAM, or is damaged; the text names the file and the place."""


def _bytes_of(length: int) -> Any:
    def check(_nvram: Any, attribute: attrs.Attribute[bytes], value: bytes) -> None:
        if not isinstance(value, bytes) or len(value) != length:
            raise ConfigError(f"NVRAM: {attribute.name} must be {length} bytes, not {value!r}")

    return check


def _between(low: int, high: int) -> Any:
    def check(_nvram: Any, attribute: attrs.Attribute[int], value: int) -> None:
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"NVRAM: {attribute.name} must be {low} to {high}, not {value!r}")

    return check


def _is_pages(part: Any, _attribute: Any, pages: Mapping[int, bytes]) -> None:
    for number, data in pages.items():
        if type(number) is not int or not 0 <= number < part.size_bytes // PAGE_SIZE:
            raise ConfigError(f"NVRAM: a flash of {part.size_bytes} bytes has no page {number!r}")
        if not isinstance(data, bytes) or len(data) != PAGE_SIZE or data == ERASED:
            raise ConfigError(
                f"NVRAM: page {number} is not {PAGE_SIZE} bytes, some of them written"
            )


def _part_size(_part: Any, _attribute: Any, value: int) -> None:
    if type(value) is not int or value % PAGE_SIZE or not PAGE_SIZE <= value <= MAX_PART_BYTES:
        raise ConfigError(f"NVRAM: a flash part cannot have {value!r} bytes")


@attrs.frozen
class FlashPart:
    """What one flash part holds: ``size_bytes`` (a multiple of 4096), erased but for ``pages``.

    ``pages`` is page number to 4096 bytes; pages of ones only are not in it.
    """

    size_bytes: int = attrs.field(validator=_part_size)
    pages: Mapping[int, bytes] = attrs.field(
        factory=dict, validator=_is_pages, hash=False, repr=lambda pages: f"{len(pages)} pages"
    )

    @classmethod
    def of(cls, data: bytes, size_bytes: int) -> Self:
        """The part that holds ``data`` (at most ``size_bytes``) and is erased from there on."""
        if len(data) > size_bytes:
            raise ConfigError(f"NVRAM: {len(data)} bytes do not fit a flash of {size_bytes}")
        data += b"\xff" * (-len(data) % PAGE_SIZE)
        chunks = (data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE))
        return cls(size_bytes, {n: page for n, page in enumerate(chunks) if page != ERASED})

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``, which must be inside."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"bytes {offset}+{length} are outside the flash part")
        first, end = offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)
        data = b"".join(self.pages.get(number, ERASED) for number in range(first, end))
        return data[offset - first * PAGE_SIZE :][:length]


@attrs.frozen
class Nvram:
    """The NVRAM of one machine, as a value: ``attrs.evolve`` makes the next one.

    ``uuid`` and ``machine_id`` are 16 bytes each; ``mac_seed`` and ``random_seed`` are what the
    addresses of its cards and the randomness in it come from; ``clock_offset_ns`` is its clock minus
    the host's (Unix time, either way); ``flash`` is what its flash parts hold, in the board's order.

    ``Nvram.load(path)`` raises NvramError (a ConfigError) for a file that is damaged, too large or not
    one; ``save(path)`` replaces the file durably and raises BackendError when that fails.
    ``Nvram.fresh(seed)`` is a machine that never ran.
    """

    uuid: bytes = attrs.field(validator=_bytes_of(16), repr=bytes.hex)
    machine_id: bytes = attrs.field(validator=_bytes_of(16), repr=bytes.hex)
    mac_seed: int = attrs.field(validator=_between(0, 2**64 - 1))
    random_seed: int = attrs.field(validator=_between(0, 2**64 - 1))
    clock_offset_ns: int = attrs.field(default=0, validator=_between(-(2**63), 2**63 - 1))
    flash: tuple[FlashPart, ...] = ()

    def __attrs_post_init__(self) -> None:
        if len(self.flash) > MAX_PARTS:
            raise ConfigError(f"NVRAM: {len(self.flash)} flash parts are more than {MAX_PARTS}")

    @classmethod
    def fresh(cls, seed: int | None = None) -> Nvram:
        """A new machine's: the identity that belongs to ``seed``, or one that nobody else has."""
        entropy = os.urandom(64) if seed is None else b"asyncvmm nvram\0%d" % seed
        found = hashlib.sha512(entropy).digest()
        uuid = bytearray(found[:16])
        uuid[6] = uuid[6] & 0x0F | 0x40  # RFC 9562: version 4, variant 10
        uuid[8] = uuid[8] & 0x3F | 0x80
        mac, rng = struct.unpack("<QQ", found[32:48])
        return cls(bytes(uuid), found[16:32], mac, rng)

    @classmethod
    def load(cls, path: Path) -> Nvram:
        """The NVRAM in a file; NvramError names the file and the place of what is wrong with it."""
        try:
            data = read_bounded(path, MAX_FILE_BYTES, NvramError)
        except OSError as error:
            raise NvramError(f"{path}: {error.strerror or error}") from error
        return cls.from_bytes(data, str(path))

    def save(self, path: Path) -> None:
        """Replace the file: whole or not at all, and durable once this returns."""
        write_durably(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """What ``save`` writes; the same for equal values."""
        body = bytearray(
            _IDENTITY.pack(
                self.uuid, self.machine_id, self.mac_seed, self.random_seed,
                self.clock_offset_ns, len(self.flash),
            )
        )  # fmt: skip
        for part in self.flash:
            body += _PART.pack(part.size_bytes, len(part.pages))
            for number, page in sorted(part.pages.items()):
                filled = page == page[:1] * PAGE_SIZE
                body += _PAGE.pack(number, _FILL if filled else _DATA)
                body += page[:1] if filled else page
        head = _HEAD.pack(MAGIC, VERSION, len(body))
        return head + hashlib.sha256(head + body).digest() + bytes(body)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Nvram:
        """The value that ``to_bytes`` wrote; ``name`` stands for it in messages. See ``load``."""
        if len(data) > MAX_FILE_BYTES:
            raise NvramError(f"{name}: is larger than any NVRAM ({MAX_FILE_BYTES} bytes)")
        start = _HEAD.size + _DIGEST_BYTES
        if len(data) < start:
            raise NvramError(f"{name}: {len(data)} bytes are too few for an NVRAM")
        magic, version, length = _HEAD.unpack_from(data)
        if magic != MAGIC:
            raise NvramError(f"{name}: is no NVRAM: it begins with {magic!r}")
        if version != VERSION:
            raise NvramError(f"{name}: byte 8: version {version} is not known (this is {VERSION})")
        if start + length != len(data):
            raise NvramError(
                f"{name}: byte 12: {length} bytes follow, the file has {len(data) - start}"
            )
        if hashlib.sha256(data[: _HEAD.size] + data[start:]).digest() != data[_HEAD.size : start]:
            raise NvramError(f"{name}: byte {_HEAD.size}: the checksum does not fit: it is damaged")
        return _Reader(data, start, name).nvram()


_updating: Final = threading.Lock()


def update_nvram(path: Path, change: Callable[[Nvram], Nvram]) -> Nvram:
    """Replace the NVRAM at ``path`` by what ``change`` makes of it, durably, and return that.

    A machine's flash and its clock are changed from different threads: one at a time. Other processes
    stay away because of the folder's lock.
    """
    with _updating:
        before = Nvram.load(path)
        after = change(before)
        if after != before:
            after.save(path)
        return after


class _Reader:
    """Takes a body apart. Its checksum was right, which says nothing of who wrote it."""

    def __init__(self, data: bytes, at: int, name: str) -> None:
        self._data, self._at, self._name = data, at, name

    def _error(self, at: int, text: str) -> NvramError:
        return NvramError(f"{self._name}: byte {at}: {text}")

    def _take(self, length: int) -> bytes:
        at = self._at
        if at + length > len(self._data):
            raise self._error(at, f"{length} bytes are expected, {len(self._data) - at} are there")
        self._at += length
        return self._data[at : self._at]

    def nvram(self) -> Nvram:
        """All of it."""
        at = self._at
        uuid, machine, mac, rng, offset, parts = _IDENTITY.unpack(self._take(_IDENTITY.size))
        if parts > MAX_PARTS:
            raise self._error(at, f"{parts} flash parts are more than {MAX_PARTS}")
        flash = tuple([self._part() for _ in range(parts)])
        if self._at != len(self._data):
            raise self._error(self._at, "nothing more is expected")
        return Nvram(uuid, machine, mac, rng, offset, flash)

    def _part(self) -> FlashPart:
        at = self._at
        size, count = _PART.unpack(self._take(_PART.size))
        if size % PAGE_SIZE or not PAGE_SIZE <= size <= MAX_PART_BYTES or count > size // PAGE_SIZE:
            raise self._error(at, f"a flash part of {size} bytes with {count} pages")
        pages: dict[int, bytes] = {}
        before = -1
        for _ in range(count):
            at = self._at
            number, kind = _PAGE.unpack(self._take(_PAGE.size))
            if not before < number < size // PAGE_SIZE or kind not in (_DATA, _FILL):
                raise self._error(at, f"page {number} of kind {kind} after page {before}")
            page = self._take(1) * PAGE_SIZE if kind == _FILL else self._take(PAGE_SIZE)
            if page == ERASED or (kind == _DATA and page == page[:1] * PAGE_SIZE):
                raise self._error(at, f"page {number} is not written the short way")
            pages[number] = page
            before = number
        return FlashPart(size, pages)
