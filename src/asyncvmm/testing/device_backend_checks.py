"""Checks of a live device's ``run(io)``: cancelled at every await, it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, TypeVar, cast

import trio
import trio.testing

from asyncvmm.device import DeviceIo
from asyncvmm.plugin import Backend, backend_of
from asyncvmm.testing.device_specimen import Specimen, Subject, blame

T = TypeVar("T")

MAX_AWAITS: Final = 40
STUBBORN: Final = 100  # awaits after the cancellation, before a task counts as one that goes on
MANY: Final = 2000  # awaits after which a task that is left alone is cancelled all the same
LIFE_S: Final = (
    1000.0  # of trio's virtual clock: as long as a run that waits for nothing is watched
)
STEPS_BEFORE: Final = 60


class BenchBackendIo:
    """``asyncvmm.plugin.BackendIo`` for a device on a bench; ``device`` is who is given what comes in."""

    def __init__(self, io: DeviceIo, device: Any = None) -> None:
        self._io = io
        self._device = device
        self._news = trio.lowlevel.ParkingLot()
        io.inbox.on_put = self._wake
        self.entered = 0
        self.messages: list[str] = []

    def _wake(self) -> None:
        self._news.unpark_all()

    @property
    def path(self) -> str:
        """See BackendIo."""
        return self._io.path

    async def receive(self) -> Any:
        """See BackendIo."""
        await trio.lowlevel.checkpoint()
        while not len(self._io.inbox):
            await self._news.park()
        return self._io.inbox.take()

    async def enter(self, action: Callable[[], T]) -> T:
        """See BackendIo."""
        await trio.lowlevel.checkpoint()
        self.entered += 1
        return action()

    async def give(self, data: bytes) -> None:
        """See BackendIo."""
        await trio.lowlevel.checkpoint()
        self.entered += 1
        self._device.entered(data)

    def log(self, message: str) -> None:
        """See BackendIo."""
        self.messages.append(message)


class _Counted:
    """A coroutine whose awaits are counted, and which is cancelled at one of them (0: never)."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, None], cancel_at: int, scope: trio.CancelScope
    ) -> None:
        self._coroutine = coroutine
        self._cancel_at, self._scope = cancel_at, scope
        self.awaits = 0
        self._after = 0  # awaits since the cancellation

    def __await__(self) -> Generator[Any, Any, None]:
        step: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731
        while True:
            try:
                waits_for = step()
            except StopIteration:
                return
            self.awaits += 1
            if self.awaits == (self._cancel_at or MANY):
                self._scope.cancel()
            self._after += self._scope.cancel_called
            if self._after > STUBBORN:
                self._coroutine.close()
                where = self._cancel_at or self.awaits - STUBBORN
                raise AssertionError(f"run(io), cancelled at await {where}, goes on")
            try:
                value = yield waits_for
            except BaseException as error:
                thrown = error
                step = lambda: self._coroutine.throw(thrown)  # noqa: B023, E731
            else:
                sent = value
                step = lambda: self._coroutine.send(sent)  # noqa: B023, E731


def check_cancellation(subject: Subject) -> None:
    """``run(io)`` can be cancelled at each of its awaits, and be started again on the same device."""
    if backend_of(subject.make().device) is None:
        return
    assert subject.device_type.live, "a device with run(io) has to say live=True"
    awaits = min(_run(subject, 0), MAX_AWAITS)
    for number in range(1, awaits + 1):
        _run(subject, number)


def _run(subject: Subject, cancel_at: int) -> int:
    """Run the backend, cancel it at an await, and run it once more; how many awaits it came to."""
    specimen = subject.make()
    for step in subject.script()[:STEPS_BEFORE]:
        specimen.perform(step)
    awaits = _run_once(specimen, cancel_at)
    if cancel_at:
        where = f"run(io), cancelled at await {cancel_at}"
        state = specimen.snapshot()
        with blame(f"{where}: load"):
            restored = subject.make()
            restored.become(specimen)
        assert restored.snapshot() == state, f"{where}, leaves a state that is not restored"
        _run_once(specimen, 0)
    return awaits


def _run_once(specimen: Specimen, cancel_at: int) -> int:
    return trio.run(
        _watched, specimen, cancel_at, clock=trio.testing.MockClock(autojump_threshold=0)
    )


async def _watched(specimen: Specimen, cancel_at: int) -> int:
    run = cast(Backend, backend_of(specimen.device))
    io = BenchBackendIo(specimen.io, specimen.device)
    scope = trio.CancelScope(deadline=trio.current_time() + LIFE_S)
    counted = _Counted(cast("Coroutine[Any, Any, None]", run(io)), cancel_at, scope)
    with (
        blame(f"run(io), {f'cancelled at await {cancel_at}' if cancel_at else 'left alone'}"),
        scope,
    ):
        await _guarded(counted)
    reached = cancel_at == 0 or counted.awaits >= cancel_at
    assert reached, f"run(io) came to {counted.awaits} awaits, and to {cancel_at} before"
    if cancel_at:
        assert scope.cancelled_caught, f"run(io) swallows the cancellation at await {cancel_at}"
    return counted.awaits


async def _guarded(counted: _Counted) -> None:
    await counted
