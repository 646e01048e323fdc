"""The tasks of live devices: each device's own ``run(io)``, started again when it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import attrs
import trio

from asyncvmm.base.errors import BackendError, InternalError
from asyncvmm.device import DeviceGuard, Inbox
from asyncvmm.hypervisor.ledger import FAILED
from asyncvmm.machine.devices import Attached
from asyncvmm.plugin import Backend, backend_of
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.outbox import Outbox

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 30.0
GOOD_RUN_S: Final = 60.0  # after that long without a failure it counts as new
MAX_BUGS: Final = 5  # failures in a row that are not the world's, after which it is given up

T = TypeVar("T")
Io = TypeVar("Io")


class DeviceBroken(Exception):
    """The device was given up while its task waited."""


class LiveIo:
    """See ``asyncvmm.plugin.BackendIo``. One for each task; a device has one task."""

    def __init__(
        self, device: Attached, entrance: Entrance, outbox: Outbox, log: Callable[[str, str], None]
    ) -> None:
        self._path: str = device.io.path
        self._guard: DeviceGuard = device.io.guard
        self._entrance = entrance
        self._inbox: Inbox = device.io.inbox
        self._log = log
        self._news = trio.lowlevel.ParkingLot()
        # The device puts while its guest runs, perhaps in another thread: tasks are woken later.
        self._inbox.on_put = lambda: outbox.call(entrance.later, self._news.unpark_all)

    @property
    def path(self) -> str:
        """The device's."""
        return self._path

    async def receive(self) -> Any:
        """The oldest request; waits for one."""
        await self._entrance.turn()
        while not len(self._inbox):
            await self._news.park()
            await self._entrance.turn()
        return self._inbox.take()

    async def enter(self, action: Callable[[], T]) -> T:
        """Do ``action()`` to the device between two stretches of the guest's time."""
        await self._entrance.turn()
        return self._entrance.enter(lambda now: self._act(action), live=True)

    def log(self, message: str) -> None:
        """A line in the guest's log."""
        self._log(self.path, message)

    def _act(self, action: Callable[[], T]) -> T:
        results: list[T] = []
        errors: list[Exception] = []

        def act() -> None:
            # What fails is the backend's and is raised there, not held against the device.
            try:
                results.append(action())
            except Exception as error:
                errors.append(error)

        self._guard.run(act)
        if errors:
            raise errors[0]
        if not results:
            raise DeviceBroken(self.path)
        return results[0]

    def close(self) -> None:
        """The task is over: requests wake nobody any more."""
        self._inbox.on_put = None


@attrs.frozen
class Restarts:
    """How a task that fails is started again: after ``first_s``, then twice as long each time."""

    first_s: float = FIRST_PAUSE_S
    longest_s: float = LONGEST_PAUSE_S
    good_run_s: float = GOOD_RUN_S
    max_bugs: int = MAX_BUGS


async def supervise(
    run: Callable[[Io], Awaitable[None]],
    io: Io,
    report: Callable[[str], None],
    restarts: Restarts,
) -> None:
    """Run a device's or network's backend until it returns or is cancelled, through its failures.

    ``report`` hears of each. What the world outside did (BackendError, OSError) is tried again for
    ever; a backend's own bug a few times, then InternalError.
    """
    pause_s, bugs = restarts.first_s, 0
    while True:
        began = trio.current_time()
        try:
            await run(io)
            return
        except DeviceBroken:
            return
        except Exception as error:
            if trio.current_time() - began >= restarts.good_run_s:
                pause_s, bugs = restarts.first_s, 0
            if not isinstance(error, (BackendError, OSError)):
                bugs += 1
            if bugs >= restarts.max_bugs:
                raise InternalError(f"run(io) failed {bugs} times in a row: {error!r}") from error
            report(f"run(io) failed, again in {pause_s:g} s: {type(error).__name__}: {error}")
        await trio.sleep(pause_s)
        pause_s = min(2 * pause_s, restarts.longest_s)


class Backends:
    """The backend tasks of one host's guests."""

    def __init__(
        self, conductor: Conductor, entrance: Entrance, restarts: Restarts | None = None
    ) -> None:
        self.restarts: Final = restarts if restarts is not None else Restarts()
        self._conductor = conductor
        self._entrance = entrance
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[str, trio.CancelScope] = {}

    @property
    def nursery(self) -> trio.Nursery:
        """Where the tasks of the host's guests run."""
        assert self._nursery is not None
        return self._nursery

    def open(self, nursery: trio.Nursery) -> None:
        """From now on tasks can be started, in ``nursery``."""
        self._nursery = nursery

    def start(self, guest: Guest) -> None:
        """Start what a new guest's live devices have to do; they mark the host as live."""
        live = [device for device in guest.machine.devices if device.type.live]
        if live:
            self._entrance.live = True
        tasks = [(device, run) for device in live if (run := backend_of(device.device))]
        if not tasks:
            return
        assert self._nursery is not None
        scope = self._scopes[guest.name] = trio.CancelScope()
        self._nursery.start_soon(self._serve, guest, tasks, scope)

    def stop(self, guest: str) -> None:
        """The guest has ended."""
        scope = self._scopes.pop(guest, None)
        if scope is not None:
            scope.cancel()

    async def _serve(
        self, guest: Guest, tasks: list[tuple[Attached, Backend]], scope: trio.CancelScope
    ) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                for device, run in tasks:
                    nursery.start_soon(self._look_after, guest, device, run)

    async def _look_after(self, guest: Guest, device: Attached, run: Backend) -> None:
        io = LiveIo(device, self._entrance, guest.outbox, guest.log.add)

        def report(text: str) -> None:
            now_ns = self._conductor.now_ns
            self._conductor.ledger.record(now_ns, FAILED, guest.name, f"{io.path}: {text}")

        try:
            await supervise(run, io, report, self.restarts)
        except InternalError as error:
            await self._conductor.turn()
            report(str(error))
            self._give_up(guest, io.path, error)
        finally:
            io.close()

    def _give_up(self, guest: Guest, path: str, error: InternalError) -> None:
        """As if the device itself had failed: it alone, or its guest, which may be asleep."""
        machine = guest.machine
        self._entrance.enter(lambda now: machine.bus.fail(path, error), live=True)
        machine.containment.take_news()
        try:
            machine.bus.raise_failure()
        except InternalError as failure:
            guest.machine_failed(failure)
