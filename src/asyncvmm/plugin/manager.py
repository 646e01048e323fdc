"""Finding plugins, and living with broken ones."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any, TypeVar

import attrs
import pluggy

from asyncvmm.base.errors import ConfigError
from asyncvmm.plugin import hookspecs
from asyncvmm.plugin.devices import DeviceType
from asyncvmm.plugin.network_backends import NetworkBackendType
from asyncvmm.plugin.options import nearest

GROUP = "asyncvmm"
OWN_DISTRIBUTION = "asyncvmm"  # its names are taken first: nobody gets them by being called earlier

Named = TypeVar("Named", DeviceType, NetworkBackendType)


@attrs.frozen
class PluginProblem:
    """A plugin that could not be loaded, or whose hook failed; the others go on without it."""

    plugin: str
    distribution: str
    doing: str
    error: Exception

    def __str__(self) -> str:
        """One line: which plugin of which distribution, doing what, why, and what can be done."""
        last = traceback.extract_tb(self.error.__traceback__)[-1:]
        place = f" ({last[0].filename}:{last[0].lineno})" if last else ""
        origin = f" of {self.distribution}" if self.distribution else ""
        stranger = self.distribution and self.distribution != OWN_DISTRIBUTION
        remedy = f"; pip uninstall {self.distribution}, or mend it" if stranger else ""
        return (
            f"plugin {self.plugin!r}{origin} failed {self.doing}: "
            f"{type(self.error).__name__}: {self.error}{place}{remedy}"
        )


class KnownTypes(dict[str, Named]):
    """Types by name. One that is not there is a ConfigError with the nearest right spelling, and with
    the plugins that failed: it may have been theirs.
    """

    def __init__(self, what: str, problems: list[PluginProblem]) -> None:
        super().__init__()
        self._what = what
        self._problems = problems

    def __missing__(self, name: str) -> Named:
        broken = "".join(f"\n{problem}" for problem in self._problems)
        raise ConfigError(f"no {self._what} {name!r}: {nearest(name, self)}{broken}")


class PluginManager:
    """The loaded plugins. Each is called on its own, so that one's failure is nobody else's."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._distributions: dict[str, str] = {}
        self._device_types: KnownTypes[DeviceType] | None = None
        self._network_backends: KnownTypes[NetworkBackendType] | None = None
        self._owners: dict[str, str] = {}
        self._backend_owners: dict[str, str] = {}
        self.problems: list[PluginProblem] = []

    @property
    def names(self) -> list[str]:
        """The loaded plugins in the order in which they are called."""
        return [name for name, _ in self._manager.list_name_plugin()]

    def register(self, plugin: object, name: str, distribution: str = "") -> None:
        """Add a plugin: a module or an object with ``@hookimpl`` functions. Failures are
        recorded.
        """
        self._distributions[name] = distribution
        try:
            _check_hook_names(plugin)
            self._manager.register(plugin, name)
        except Exception as error:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._record(name, "to register", error)
        self._device_types = None
        self._network_backends = None

    def load(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        """Import and register what the entry points name: asyncvmm's own, then others', in the order of
        their names. A plugin whose name is taken is left out, and that is recorded.
        """
        loaded: dict[str, metadata.EntryPoint] = {}
        for entry_point in sorted(entry_points, key=_load_order):
            origin = _origin(entry_point)
            if self._manager.has_plugin(entry_point.name):
                first = loaded.get(entry_point.name)
                if first is None or (first.value, _origin(first)) != (entry_point.value, origin):
                    owner = "" if first is None else f" by {first.value} of {_origin(first)}"
                    taken = ConfigError(f"that plugin's name is taken{owner}")
                    doing = f"to load {entry_point.value}"
                    self.problems.append(PluginProblem(entry_point.name, origin, doing, taken))
                continue
            loaded[entry_point.name] = entry_point
            self._distributions[entry_point.name] = origin
            try:
                plugin = entry_point.load()
            except Exception as error:
                self._record(entry_point.name, f"to import {entry_point.value}", error)
                continue
            self.register(plugin, entry_point.name, origin)

    def call(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Call ``hook`` in every plugin: (plugin's name, result) of each that has it and
        succeeded.
        """
        results: list[tuple[str, Any]] = []
        everyone = self._manager.list_name_plugin()
        for name, plugin in everyone:
            others = [other for _, other in everyone if other is not None and other is not plugin]
            caller = self._manager.subset_hook_caller(hook, others)
            try:
                results.extend((name, result) for result in caller(**arguments))
            except Exception as error:
                self._record(name, f"in {hook}", error)
        return results

    @property
    def device_types(self) -> KnownTypes[DeviceType]:
        """Every device type by name. A name taken twice stays with the first plugin that gave
        it.
        """
        if self._device_types is None:
            self._device_types, self._owners = self._named(
                "asyncvmm_device_types", DeviceType, "device"
            )
        return self._device_types

    @property
    def network_backends(self) -> KnownTypes[NetworkBackendType]:
        """Every kind of network backend by name. A name taken twice stays with the first plugin."""
        if self._network_backends is None:
            self._network_backends, self._backend_owners = self._named(
                "asyncvmm_network_backends", NetworkBackendType, "network backend"
            )
        return self._network_backends

    def network_backend(self, name: str) -> NetworkBackendType:
        """The network backend of that name; ConfigError with the nearest right spelling otherwise."""
        return self.network_backends[name]

    def backend_origin(self, name: str) -> tuple[str, str]:
        """(plugin, its distribution or "") that a known network backend is from."""
        plugin = self._backend_owners[name]
        return plugin, self._distributions.get(plugin, "")

    def device_type(self, name: str) -> DeviceType:
        """The device type of that name; ConfigError with the nearest right spelling otherwise."""
        return self.device_types[name]

    def origin(self, device_type: str) -> tuple[str, str]:
        """(plugin, its distribution or "") that a known device type is from."""
        plugin = self._owners[device_type]
        return plugin, self._distributions.get(plugin, "")

    def images(self) -> list[tuple[str, Any]]:
        """(plugin's name, image type) of every image that a plugin offers."""
        return list(self._each("asyncvmm_images"))

    def policies(self) -> list[tuple[str, Callable[[Any], Any]]]:
        """(name, factory) of every CPU policy that a plugin offers."""
        found: list[tuple[str, Callable[[Any], Any]]] = []
        for name, offered in self.call("asyncvmm_policies"):
            try:
                found += [(str(policy), factory) for policy, factory in offered.items()]
            except (AttributeError, TypeError, ValueError) as error:
                self._record(name, "in asyncvmm_policies", error)
        return found

    def cli_commands(self) -> dict[str, Callable[[Sequence[str]], int]]:
        """Further commands by name; the first plugin that gives a name keeps it."""
        commands: dict[str, Callable[[Sequence[str]], int]] = {}
        for _, offered in self.call("asyncvmm_cli_commands"):
            for command, function in offered.items():
                commands.setdefault(command, function)
        return commands

    def _named(
        self, hook: str, kind: type[Named], what: str
    ) -> tuple[KnownTypes[Named], dict[str, str]]:
        """All of one kind by name, and whose they are; what cannot be is recorded against its plugin."""
        types: KnownTypes[Named] = KnownTypes(what, self.problems)
        owners: dict[str, str] = {}
        for name, offered in self._each(hook):
            if not isinstance(offered, kind):
                error: Exception = TypeError(f"{offered!r} is not a {kind.__name__}")
            elif offered.name in owners:
                error = ConfigError(f"{offered.name!r} is a {what} of {owners[offered.name]!r} too")
            else:
                owners[offered.name] = name
                types[offered.name] = offered
                continue
            self._record(name, f"in {hook}", error)
        return types, owners

    def _each(self, hook: str) -> Iterator[tuple[str, Any]]:
        for name, offered in self.call(hook):
            try:
                items = list(offered)
            except TypeError as error:
                self._record(name, f"in {hook}", error)
                continue
            for item in items:
                yield name, item

    def _record(self, name: str, doing: str, error: Exception) -> None:
        self.problems.append(PluginProblem(name, self._distributions.get(name, ""), doing, error))


def create_plugin_manager(
    entry_points: Iterable[metadata.EntryPoint] | None = None,
) -> PluginManager:
    """A manager with every plugin of the entry point group ``asyncvmm`` (or those given) loaded.

    It never fails for a plugin's sake: look at ``problems`` for what was left out and why.
    """
    manager = PluginManager()
    manager.load(metadata.entry_points(group=GROUP) if entry_points is None else entry_points)
    return manager


def _origin(entry_point: metadata.EntryPoint) -> str:
    """The distribution that it is of, or nothing."""
    return entry_point.dist.name if entry_point.dist is not None else ""


def _load_order(entry_point: metadata.EntryPoint) -> tuple[bool, str, str]:
    return _origin(entry_point) != OWN_DISTRIBUTION, entry_point.name, entry_point.value


def _check_hook_names(plugin: object) -> None:
    """ConfigError when a function is marked as a hook that does not exist."""
    known = {name for name in vars(hookspecs) if name.startswith("asyncvmm_")}
    for name, member in inspect.getmembers(plugin, callable):
        marked = getattr(member, f"{hookspecs.PROJECT}_impl", None) is not None
        if marked and name not in known:
            raise ConfigError(f"there is no hook {name!r}: {nearest(name, known)}")


def warn_of_problems(manager: PluginManager) -> None:
    """Write each problem as a line to standard error."""
    for problem in manager.problems:
        print(f"asyncvmm: {problem}", file=sys.stderr)
