"""What a plugin says about a kind of device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import DeviceIo
from asyncvmm.plugin.options import check_config_class, parse_options

# The version of the device API that this package offers: everything that ``asyncvmm.device``,
# ``asyncvmm.virtio`` and ``asyncvmm.plugin`` export. It grows when a plugin has to be changed.
DEVICE_API: Final = 1

# A device tree property: a 32-bit cell, cells, a string, strings, bytes, or True for an empty one.
FdtValue: TypeAlias = "int | str | bytes | bool | list[int] | list[str]"

# Strings of the node's ``compatible`` property, most specific first.
Compatible: TypeAlias = "tuple[str, ...]"


@attrs.frozen
class BlobSpec:
    """Disk contents that a device needs: the machine opens them and puts them into ``io.blob``.

    ``format`` is "raw", "qcow2", or None for what goes by the file's name (never by its contents). With
    ``snapshot`` the file is only read, and what is written is gone with the guest.
    """

    path: Path
    read_only: bool = False
    format: str | None = None
    snapshot: bool = False


@attrs.frozen
class FolderSpec:
    """A folder of the host that a device needs: the machine captures it and puts it into ``io.folder``.

    More than ``limit_bytes`` of contents are a ConfigError: all of them are read once, at the start.
    """

    path: Path
    limit_bytes: int = 4 << 30


@attrs.frozen
class NetSpec:
    """A network that a device needs: the host plugs ``io.net`` in. ``mac`` None leaves the choice."""

    network: str
    mac: bytes | None = None


def _no_net(config: Any) -> NetSpec | None:
    return None


def _no_blob(config: Any) -> BlobSpec | None:
    return None


def _no_folder(config: Any) -> FolderSpec | None:
    return None


def _no_properties(config: Any) -> Mapping[str, FdtValue]:
    return {}


def _no_ports(config: Any) -> tuple[str, ...]:
    return ()


def check_api_version(kind: str, name: str, version: object) -> None:
    """ConfigError unless a plugin was written for the version of the API that there is."""
    if version != DEVICE_API:
        newer = type(version) is int and version > DEVICE_API
        raise ConfigError(
            f"{kind} {name!r} is written for version {version!r} of the device "
            f"API, and this asyncvmm has version {DEVICE_API}: it needs "
            f"{'a newer asyncvmm' if newer else 'a newer release of its plugin'}"
        )


@attrs.frozen
class DeviceType:
    """One kind of device.

    ``factory(config, io)`` makes an ``MmioDevice`` (kind "mmio") or a ``VirtioDevice`` (kind
    "virtio"); it touches nothing outside ``io``. ``config`` is an attrs class whose fields are the
    options. ``size_bytes`` is the address range of an mmio device. ``blob`` and ``ports`` say from
    a config what the machine must bring: disk contents, and the names of the ``io.port(name)`` used
    besides ``io.console``; ``net`` which network the host plugs ``io.net`` into, ``folder`` which folder
    ``io.folder`` shows. With ``window`` (of mmio devices), ``io.window`` is memory that lies at all of the
    device's address range.
    The board writes the device tree node from ``node_name``, ``compatible`` (empty for virtio devices,
    whose node is the transport's), ``fdt_properties``, and last the device's own
    ``fdt_properties()``. ``live`` marks a device that uses wall time or the world outside, and so may
    have ``async def run(self, io)``; it marks the run. ``api_version`` is the version of the device API
    that the plugin was written for.
    """

    name: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z0-9][a-z0-9-]*"))
    summary: str
    config: type[Any]
    factory: Callable[[Any, DeviceIo], Any]
    kind: Literal["mmio", "virtio"] = attrs.field(
        validator=attrs.validators.in_(("mmio", "virtio"))
    )
    size_bytes: int = 0x1000
    compatible: Compatible = ()
    node_name: str = ""
    fdt_properties: Callable[[Any], Mapping[str, FdtValue]] = _no_properties
    blob: Callable[[Any], BlobSpec | None] = _no_blob
    ports: Callable[[Any], tuple[str, ...]] = _no_ports
    net: Callable[[Any], NetSpec | None] = _no_net
    folder: Callable[[Any], FolderSpec | None] = _no_folder
    window: bool = False
    live: bool = False
    api_version: int = 1

    def __attrs_post_init__(self) -> None:
        check_api_version("device type", self.name, self.api_version)
        check_config_class(self.name, self.config)

    def parse(self, options: Mapping[str, str | None]) -> Any:
        """A config from option strings (None for a bare flag); ConfigError names what is wrong."""
        return parse_options(self.name, self.config, options)
