"""The history that a running guest keeps, and the ways back into it: ``Guest.at`` and ``Guest.goto``.

Everything here is done while time stands still, one thing at a time, at a turn of the tasks; the guest
itself stays as it is until ``goto`` has all that it needs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import Machine
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.debugger import Debugging
from asyncvmm.runtime.history import MOST_SNAPSHOTS, History, Take
from asyncvmm.runtime.instants import check_disks, check_repeatable, come_to
from asyncvmm.runtime.journal_file import GOTO, HISTORY
from asyncvmm.runtime.snapshots import Snapshot, take


class GuestPast:
    """``living`` gives the guest's machine as it is now, or raises ConfigError when it has ended;
    ``knobs`` are what was said of its limits; ``note`` takes down what a replay has to do again.
    """

    def __init__(
        self,
        conductor: Conductor,
        debugging: Debugging,
        take: Take,
        living: Callable[[], Machine],
        knobs: Callable[[], dict[str, object]],
        note: Callable[..., None],
    ) -> None:
        self.history: History | None = None
        self._conductor = conductor
        self._debugging = debugging
        self._take = take
        self._living = living
        self._knobs = knobs
        self._note = note
        self._going_back = trio.Lock()

    def keep(self, spacing: int, snapshots: int) -> None:
        """See Guest.keep_history."""
        if spacing < 1 or not 2 <= snapshots <= MOST_SNAPSHOTS:
            raise ConfigError(
                f"a history has 2 to {MOST_SNAPSHOTS} snapshots, at least 1 step apart"
            )
        machine = self._living()
        if not self._conductor.between:
            raise ConfigError("a history begins between two quanta: call it when time stands still")
        check_repeatable(machine, self._knobs())
        revive = functools.partial(self._debugging.revive, machine)
        now_ns = functools.partial(self._conductor.guest_ns, machine.name)
        self.close()  # before: both would hear of what the machine does
        self.history = History(machine, self._take, revive, now_ns, spacing, snapshots)
        self._note(HISTORY, spacing=spacing, snapshots=snapshots)

    async def at(self, time_ns: int | None, steps: int | None) -> Snapshot:
        """See Guest.at."""
        history = self._kept()
        async with self._going_back:
            with self._conductor.held():
                await self._conductor.turn()
                visit = await come_to(history, time_ns, steps)
                try:
                    return take(visit.machine, visit.host_side)
                finally:
                    visit.close()

    async def goto(self, time_ns: int | None, steps: int | None) -> None:
        """See Guest.goto."""
        history = self._kept()
        check_disks(history.machine)
        async with self._going_back:
            with self._conductor.held():
                await self._conductor.turn()
                visit = await come_to(history, time_ns, steps)
                try:
                    await self._conductor.turn()
                    self._kept()
                    with take(visit.machine, visit.host_side) as snapshot:
                        self._note(GOTO, time_ns=time_ns, steps=steps)
                        history.remember_end()
                        self._debugging.put_back(history.machine.name, snapshot)
                    history.move(visit, self._living())
                finally:
                    visit.close()

    def input_came(self) -> None:
        """Something comes to the guest from outside."""
        if self.history is not None:
            self.history.input_came()

    def close(self) -> None:
        """Forget everything."""
        if self.history is not None:
            self.history.close()
            self.history = None

    def _kept(self) -> History:
        """The history; ConfigError when there is none, or it could not be repeated."""
        machine = self._living()
        if self.history is None:
            raise ConfigError(f"guest {machine.name} keeps no history: call keep_history before")
        check_repeatable(machine, self._knobs())
        return self.history
