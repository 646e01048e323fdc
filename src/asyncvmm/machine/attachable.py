"""What a device must be to become part of a machine: said when it is attached, not when it is saved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import MmioDevice
from asyncvmm.plugin import DeviceType, FdtValue, backend_of
from asyncvmm.virtio import VirtioDevice

# What only the board knows.
RESERVED: Final = frozenset({"reg", "interrupts", "interrupt-parent", "phandle"})


def check_device(kind: DeviceType, device: object, path: str) -> None:
    """ConfigError unless the factory made a device of its kind, which the runtime can look after."""
    base: type[Any] = VirtioDevice if kind.kind == "virtio" else MmioDevice
    if not isinstance(device, base):
        raise ConfigError(
            f"{path}: the factory of device type {kind.name!r} made {type(device).__name__}, "
            f"which is no {base.__name__}"
        )
    _check_pairs(device, base, path)
    if backend_of(device) is not None and not kind.live:
        raise ConfigError(
            f"{path}: a device with run(io) lives with the world outside: "
            f"its type {kind.name!r} has to say live=True"
        )


def _check_pairs(device: object, base: type[Any], path: str) -> None:
    """Saving without loading, and state without a type, are states that would be lost."""
    own = {name for name in ("save", "load", "state", "restore") if _overrides(device, base, name)}
    pairs = [("save", "load"), ("load", "save")]
    if "save" not in own:
        pairs.append(("state", "restore"))
    for one, other in pairs:
        if one in own and other not in own:
            raise cannot_be_saved(path, f"it has {one}() of its own, but no {other}()")
    for name in ("save", "load"):
        if not callable(getattr(device, name)):
            raise cannot_be_saved(path, f"it has no {name}()")
    state_type = getattr(device, "state_type", None)
    if state_type is not None and "state" not in own:
        raise cannot_be_saved(path, "it has a state_type, but no state()")
    if state_type is None and "state" in own and "save" not in own:
        raise cannot_be_saved(path, "it has state(), but no state_type")


def _overrides(device: object, base: type[Any], name: str) -> bool:
    return getattr(type(device), name) is not getattr(base, name)


def check_snapshot(target: MmioDevice, path: str) -> None:
    """ConfigError unless what a device just reset saves is plain data that it takes back."""
    try:
        saved = target.save()
        again = json.loads(json.dumps(saved))
        version = again.get("version")
    except Exception as error:
        raise cannot_be_saved(path, f"save() gives no plain data: {error!r}") from error
    if type(version) is not int:
        raise cannot_be_saved(path, "what save() gives has no version")
    try:
        target.load(again)
    except Exception as error:
        raise cannot_be_saved(path, f"load() does not take what save() gave: {error!r}") from error
    target.reset()


def cannot_be_saved(path: str, why: str) -> ConfigError:
    """The error of a device that would make its guest one that cannot be saved."""
    return ConfigError(f"{path}: a device that cannot be saved is not attached: {why}")


def node_properties(
    kind: DeviceType, config: Any, device: object, path: str
) -> Mapping[str, FdtValue]:
    """The device tree properties of a device, its own last; ConfigError for what is the board's."""
    own = getattr(device, "fdt_properties", None)
    properties = {**kind.fdt_properties(config), **(own() if own is not None else {})}
    for name, value in properties.items():
        if name in RESERVED:
            raise ConfigError(f"{path}: the device tree property {name!r} is the board's to say")
        if not _is_value(value):
            raise ConfigError(f"{path}: the device tree property {name!r} is {value!r}")
    return properties


def _is_value(value: object) -> bool:
    if isinstance(value, list):
        kinds = {type(item) for item in value}
        return kinds in ({int}, {str}) and all(not isinstance(n, int) or _cell(n) for n in value)
    return isinstance(value, (str, bytes, bool)) or (isinstance(value, int) and _cell(value))


def _cell(value: int) -> bool:
    return 0 <= value < 1 << 32
