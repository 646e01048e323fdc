"""Network backends of plugins: made with a host's networks, their tasks beside it."""

from __future__ import annotations

import functools
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import ConfigError, InternalError
from asyncvmm.hypervisor.ledger import FAILED
from asyncvmm.network.outlet import NetworkIo, Outlet
from asyncvmm.plugin import NetworkBackend, PluginManager, split_options
from asyncvmm.plugin.network_backends import NetworkTask
from asyncvmm.runtime.backends import Restarts, supervise
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.journal_file import OUTLET


@attrs.frozen
class LiveOutlet:
    """A backend with a task; ``place`` is what its host calls the network."""

    place: str
    outlet: Outlet
    run: NetworkTask


class OutletIo:
    """See ``asyncvmm.plugin.NetworkTaskIo``."""

    def __init__(self, live: LiveOutlet, entrance: Entrance) -> None:
        self._live = live
        self._entrance = entrance
        self._news = trio.lowlevel.ParkingLot()
        self._inbox: Final = live.outlet.io.inbox
        # The network moves frames while tasks have no turn.
        self._inbox.on_put = lambda: entrance.later(self._news.unpark_all)

    @property
    def path(self) -> str:
        """The backend's."""
        return self._live.outlet.io.path

    async def receive(self) -> Any:
        """The oldest request; waits for one."""
        await self._entrance.turn()
        while not len(self._inbox):
            await self._news.park()
            await self._entrance.turn()
        return self._inbox.take()

    async def give(self, data: bytes) -> None:
        """See NetworkTaskIo."""
        await self._entrance.turn()
        names = {"place": self._live.place, "backend": self._live.outlet.name}
        self._entrance.enter(
            lambda now: self._live.outlet.enter(now, data), live=True, note=(OUTLET, names, data)
        )

    def log(self, message: str) -> None:
        """A line in the backend's messages."""
        self._live.outlet.io.log(message)

    def close(self) -> None:
        """The task is over: requests wake nobody any more."""
        self._inbox.on_put = None


class Outlets:
    """Makes the backends of one host's networks, and looks after their tasks."""

    def __init__(
        self,
        plugins: PluginManager,
        conductor: Conductor,
        entrance: Entrance,
        restarts: Restarts | None = None,
    ) -> None:
        self.restarts: Final = restarts if restarts is not None else Restarts()
        self._plugins = plugins
        self._conductor = conductor
        self._entrance = entrance
        self._nursery: trio.Nursery | None = None
        self._waiting: list[LiveOutlet] = []

    def make(self, place: str, name: str, options: str, seed: int) -> Outlet:
        """The backend ``name`` of the network ``place``.

        ConfigError names what is wrong with its options, InternalError the plugin that does not make it.
        """
        where = f"network {place}: backend {name}"
        kind_name, given = split_options(options)
        try:
            kind = self._plugins.network_backend(kind_name)
            config = kind.parse(given)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        plugin, distribution = self._plugins.backend_origin(kind_name)
        origin = f"plugin {plugin!r}" + (f" of {distribution}" if distribution else "")
        path = f"net/{place}/{name}"
        io = NetworkIo(path, seed, functools.partial(self._record, path))
        try:
            end = kind.factory(config, io)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        except Exception as error:
            raise InternalError(
                f"{where}: {kind_name!r} of {origin} failed to be made: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(end, NetworkBackend):
            raise InternalError(
                f"{where}: the factory of {kind_name!r} of {origin} made {type(end).__name__}, "
                "which is no NetworkBackend"
            )
        run = getattr(end, "run", None)
        if run is not None and not kind.live:
            raise InternalError(
                f"{where}: {kind_name!r} of {origin} has run(io), so its type has to say live=True"
            )
        outlet = Outlet(name, io, end)
        if run is not None:
            self._waiting.append(LiveOutlet(place, outlet, run))
        return outlet

    def open(self, nursery: trio.Nursery) -> None:
        """From now on tasks can be started, in ``nursery``."""
        self._nursery = nursery

    def close_door(self) -> None:
        """The outside does not exist: no task is started."""
        self._waiting.clear()

    def start(self) -> None:
        """Guests have come, or time begins to pass: the tasks begin. They mark the host as live."""
        if self._nursery is None:
            return
        waiting, self._waiting = self._waiting, []
        for live in waiting:
            self._entrance.live = True
            self._nursery.start_soon(self._look_after, live)

    @property
    def waiting(self) -> bool:
        """Whether there are tasks that have not begun."""
        return bool(self._waiting)

    async def _look_after(self, live: LiveOutlet) -> None:
        io = OutletIo(live, self._entrance)
        try:
            await supervise(live.run, io, functools.partial(self._record, io.path), self.restarts)
        except InternalError as error:
            self._record(io.path, str(error))
        finally:
            io.close()

    def _record(self, path: str, text: str) -> None:
        self._conductor.ledger.record(self._conductor.now_ns, FAILED, path, text)
