"""Device options, plugin discovery, and broken plugins that hurt nobody else."""

from __future__ import annotations

import sys
import tomllib
import types
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from typing import Literal

import attrs
import pytest

from asyncvmm.base.errors import ConfigError, InternalError
from asyncvmm.device import DeviceIo, MmioDevice
from asyncvmm.machine import GuestConfig
from asyncvmm.machine.devices import wanted_devices
from asyncvmm.plugin import (
    DeviceType,
    PluginManager,
    create_plugin_manager,
    hookimpl,
    split_options,
)

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


@attrs.frozen
class Config:
    """Options of every type."""

    path: Path
    readonly: bool = False
    queue_size: int = attrs.field(default=128, validator=attrs.validators.in_((128, 256)))
    serial: str | None = None
    mode: Literal["fast", "safe"] = "safe"
    ports: tuple[str, ...] = ()


def make(config: object, io: DeviceIo) -> MmioDevice:
    return MmioDevice(io, [])


def device_type(name: str = "sample") -> DeviceType:
    return DeviceType(name, "a sample", Config, make, "mmio")


def parse(text: str) -> Config:
    _, options = split_options(text)
    parsed = device_type().parse(options)
    assert isinstance(parsed, Config)
    return parsed


def test_options_of_every_type() -> None:
    assert parse("sample,path=disk.img") == Config(Path("disk.img"))
    assert parse("sample,path=a,,b,readonly,queue-size=0x100,serial=S1,mode=fast,ports=x+y") == (
        Config(Path("a,b"), True, 256, "S1", "fast", ("x", "y"))
    )
    assert parse("sample,path=d,readonly=no").readonly is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample", r"'path' is required \(sample,path=...\)"),
        ("sample,path=d,readonyl", "no option 'readonyl': did you mean 'readonly'"),
        ("sample,path=d,zzz", "known are: mode, path, ports, queue-size"),
        ("sample,path", "needs a value"),
        ("sample,path=", "needs a value"),
        ("sample,path=d,path=e", "given twice"),
        ("sample,path=d,readonly=maybe", "yes or no"),
        ("sample,path=d,queue-size=many", "a number such as"),
        ("sample,path=d,queue-size=100", "must be in"),
        ("sample,path=d,mode=fats", "did you mean 'fast'"),
        ("sample,,path=d", "'path' is required"),
        ("sample,path=d,=x", "option is missing"),
        (",path=d", "a device name"),
    ],
)
def test_wrong_options_name_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_sizes_have_suffixes() -> None:
    @attrs.frozen
    class Sized:
        size: int

    kind = DeviceType("sized", "", Sized, make, "mmio")
    values = [kind.parse({"size": text}).size for text in ("512", "4K", "64M", "2GiB", "0x10")]
    assert values == [512, 4096, 64 << 20, 2 << 30, 16]


def test_config_must_be_an_attrs_class_of_known_types() -> None:
    @attrs.frozen
    class Odd:
        value: complex = 1j

    with pytest.raises(InternalError, match="attrs"):
        DeviceType("odd", "", int, make, "mmio")
    with pytest.raises(InternalError, match="value"):
        DeviceType("odd", "", Odd, make, "mmio")
    with pytest.raises(ValueError, match="kind"):
        DeviceType("odd", "", Config, make, "pci")  # type: ignore[arg-type]


class Good:
    """A plugin with one device."""

    def __init__(self, name: str) -> None:
        self.name = name

    @hookimpl
    def asyncvmm_device_types(self) -> list[DeviceType]:
        return [device_type(self.name)]


class Failing:
    """A plugin whose hook raises."""

    @hookimpl
    def asyncvmm_device_types(self) -> list[DeviceType]:
        raise RuntimeError("out of order")


class Misspelt:
    """A plugin with a hook that does not exist."""

    @hookimpl
    def asyncvmm_device_typos(self) -> list[DeviceType]:
        return []


class Liar:
    """A plugin whose hook returns nonsense."""

    @hookimpl
    def asyncvmm_device_types(self) -> list[object]:
        return ["a string", device_type("honest")]


def test_broken_plugins_are_named_and_hurt_nobody() -> None:
    manager = PluginManager()
    for name, plugin in {
        "failing": Failing(),
        "good": Good("one"),
        "misspelt": Misspelt(),
        "liar": Liar(),
        "copycat": Good("one"),
    }.items():
        manager.register(plugin, name, f"dist-{name}")
    assert set(manager.device_types) == {"one", "honest"}
    text = "\n".join(map(str, manager.problems))
    assert "plugin 'failing' of dist-failing failed in asyncvmm_device_types: RuntimeError" in text
    assert "did you mean 'asyncvmm_device_types'" in text
    assert "'a string' is not a DeviceType" in text
    assert "'one' is a device of 'good' too" in text
    assert len(manager.problems) == 4
    assert manager.device_type("one").name == "one"


def test_unknown_device_names_the_nearest_and_the_broken() -> None:
    manager = PluginManager()
    manager.register(Good("virtio-blk"), "good")
    manager.load([EntryPoint("gone", "no_such_module_at_all", "asyncvmm")])
    with pytest.raises(ConfigError, match="did you mean 'virtio-blk'") as caught:
        manager.device_type("virtio-block")
    assert "plugin 'gone' failed to import no_such_module_at_all" in str(caught.value)


def test_entry_points_are_loaded_in_order_of_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b", "a"):
        module = types.ModuleType(f"plugin_{name}")
        module.asyncvmm_device_types = Good(name).asyncvmm_device_types  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    manager = create_plugin_manager(
        [EntryPoint(name, f"plugin_{name}", "asyncvmm") for name in ("b", "a", "a")]
    )
    assert manager.names == ["a", "b"]
    assert list(manager.device_types) == ["a", "b"]
    assert manager.problems == []


def distributed(folder: Path, distribution: str, points: str, source: str) -> Distribution:
    """An installed distribution: its entry points, and one module named as the distribution."""
    (folder / f"{distribution}.py").write_text(source)
    info = folder / f"{distribution}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[asyncvmm]\n{points}\n")
    return Distribution.at(info)


COPYCAT = """
from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.test_finisher.config import TestFinisherConfig

@hookimpl
def asyncvmm_device_types():
    return [DeviceType(name, "a copy", TestFinisherConfig, print, "mmio") for name in ("ns16550", "own")]
"""


def test_nobody_takes_a_name_from_asyncvmm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a plugin's, nor a device's, although theirs come first in the alphabet."""
    copies = distributed(tmp_path, "acopy", "acopy = acopy\nns16550 = acopy", COPYCAT)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["asyncvmm"]
    first = distributed(tmp_path, "asyncvmm", f"ns16550 = {own['ns16550']}", "")
    manager = create_plugin_manager([*copies.entry_points, *first.entry_points])
    assert manager.device_type("ns16550").summary != "a copy"
    assert manager.origin("ns16550") == ("ns16550", "asyncvmm")
    assert manager.origin("own") == ("acopy", "acopy")
    name, device = map(str, manager.problems)
    assert name == (
        "plugin 'ns16550' of acopy failed to load acopy: ConfigError: that plugin's name is taken by "
        f"{own['ns16550']} of asyncvmm; pip uninstall acopy, or mend it"
    )
    assert device.startswith(
        "plugin 'acopy' of acopy failed in asyncvmm_device_types: ConfigError: "
    )
    assert "'ns16550' is a device of 'ns16550' too" in device


def test_a_machine_without_a_device_says_which_plugins_failed() -> None:
    manager = PluginManager()
    manager.load([EntryPoint("thermometer", "no_such_module_at_all", "asyncvmm")])
    config = GuestConfig(elf=Path("x"), devices=("thermometer",))
    with pytest.raises(ConfigError, match="no device 'thermometer': there are none\nplugin 'therm"):
        wanted_devices(config, manager.device_types)
    with pytest.raises(ConfigError, match=r"no device 'thermometer': there are none$"):
        wanted_devices(config, {})


def test_a_hook_reaches_every_plugin() -> None:
    heard: list[str] = []

    class Listener:
        def __init__(self, name: str) -> None:
            self.name = name

        @hookimpl
        def asyncvmm_machine_assembled(self, machine: object) -> None:
            heard.append(self.name)
            if self.name == "b":
                raise ValueError("no")

    manager = PluginManager()
    for name in "abc":
        manager.register(Listener(name), name)
    manager.call("asyncvmm_machine_assembled", machine=object())
    assert sorted(heard) == ["a", "b", "c"]
    assert [problem.plugin for problem in manager.problems] == ["b"]


def test_first_party_plugins_all_load() -> None:
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["asyncvmm"]
    manager = create_plugin_manager(
        [EntryPoint(name, value, "asyncvmm") for name, value in declared.items()]
    )
    manager.device_types  # noqa: B018
    assert [str(problem) for problem in manager.problems] == []
    assert set(manager.names) == set(declared)
    for kind in manager.device_types.values():
        assert kind.summary


@pytest.mark.parametrize(("version", "remedy"), [(2, "a newer asyncvmm"), (0, "a newer release")])
def test_a_device_written_for_another_version_of_the_api_is_named(
    version: int, remedy: str
) -> None:
    class Plugin:
        @hookimpl
        def asyncvmm_device_types(self) -> list[DeviceType]:
            return [DeviceType("sample", "", Config, make, "mmio", api_version=version)]

    manager = PluginManager()
    manager.register(Plugin(), "future", "future-devices")
    assert manager.device_types == {}
    (problem,) = manager.problems
    assert isinstance(problem.error, ConfigError)
    assert f"is written for version {version} of the device API" in str(problem)
    assert remedy in str(problem)
    with pytest.raises(ConfigError, match="plugin 'future' of future-devices failed"):
        manager.device_type("sample")
