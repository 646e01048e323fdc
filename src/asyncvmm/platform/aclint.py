"""ACLINT in the layout of the SiFive CLINT: MSWI at 0, MTIMER's mtimecmp at 0x4000, mtime at
0xBFF8.

RISC-V ACLINT specification 1.0-rc4, chapters 2 (MTIMER) and 3 (MSWI). MTIP of a hart is high
exactly while ``mtime >= mtimecmp``, both unsigned; MSIP follows bit 0 of the hart's ``msip``
register.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from asyncvmm.base.bits import ult
from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.bus.address_map import MmioTarget
from asyncvmm.interrupts.lines import InterruptLine, InterruptSink
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import FOREVER, MACHINE_TIMERS, Event

MSIP: Final = 0x0000
MTIMECMP: Final = 0x4000
MTIME: Final = 0xBFF8
SIZE: Final = 0x10000
MAX_HARTS: Final = 4095

MSI: Final = 3
MTI: Final = 7
NEVER: Final = -1  # mtimecmp after reset: the highest unsigned value
LOW_HALF: Final = 0xFFFFFFFF


class MachineTimer:
    """``mtimecmp`` and the MTIP line of one hart."""

    def __init__(self, clock: Clock, hart: InterruptSink, number: i64) -> None:
        self.clock: Clock = clock
        self.priority: i64 = MACHINE_TIMERS + number
        self.line: InterruptLine = InterruptLine(hart, MTI)
        self.compare: i64 = NEVER
        self._event: Event | None = None

    def update(self) -> None:
        """Drive the line for the time now and wait for the instant at which it changes next."""
        event = self._event
        if event is not None:
            event.cancel()
            self._event = None
        due = not ult(self.clock.mtime(), self.compare)
        self.line.set(due)
        if due and self.compare == 0:
            return  # high for ever
        # Due already: the line falls again when mtime wraps to 0.
        when = self.clock.when(0 if due else self.compare)
        if when != FOREVER:
            self._event = self.clock.timeline.at(when, self.update, self.priority)


class Aclint(MmioTarget):
    """MSWI and MTIMER of all harts of a guest, in hart order."""

    def __init__(self, clock: Clock, harts: list[InterruptSink]) -> None:
        self.clock: Clock = clock
        self.timers: list[MachineTimer] = [
            MachineTimer(clock, harts[number], number) for number in range(len(harts))
        ]
        self.software: list[InterruptLine] = [InterruptLine(hart, MSI) for hart in harts]

    def read(self, offset: i64, size: i64) -> i64:
        """``msip``, ``mtimecmp`` or ``mtime``; 0 where no hart has a register."""
        if offset < MTIMECMP:
            self._check(size == 4)
            hart = offset >> 2
            if hart < len(self.software) and self.software[hart].level:
                return 1
            return 0
        self._check(size >= 4)
        return self._part(self._word(offset), offset, size)

    def write(self, offset: i64, size: i64, value: i64) -> None:
        """Writes where no hart has a register are ignored."""
        if offset < MTIMECMP:
            self._check(size == 4)
            hart = offset >> 2
            if hart < len(self.software):
                self.software[hart].set(value & 1 != 0)
            return
        self._check(size >= 4)
        word = self._merge(self._word(offset), offset, size, value)
        if offset >= MTIME:
            if offset < MTIME + 8:
                self.clock.set_mtime(word)
                for timer in self.timers:
                    timer.update()
            return
        number = (offset - MTIMECMP) >> 3
        if number < len(self.timers):
            timer = self.timers[number]
            timer.compare = word
            timer.update()

    def reset(self) -> None:
        """Power-on state: no interrupt pending or awaited, ``mtime`` counting from 0."""
        self.clock.set_mtime(0)
        for timer in self.timers:
            timer.compare = NEVER
            timer.update()
        for line in self.software:
            line.set(False)

    def state(self) -> list[int]:
        """What a digest or a snapshot needs: mtime offset, then compare and msip by hart."""
        values: list[int] = [int(self.clock.mtime_offset)]
        for timer in self.timers:
            values.append(int(timer.compare))
        for line in self.software:
            values.append(1 if line.level else 0)
        return values

    def restore(self, values: list[int]) -> None:
        """Become what ``state`` told, as many values, after the clock has been restored."""
        harts = len(self.timers)
        if len(values) != 1 + 2 * harts:
            raise ConfigError(f"saved ACLINT: {len(values)} values for {harts} harts")
        self.clock.mtime_offset = values[0]
        i = 0
        while i < harts:
            self.timers[i].compare = values[1 + i]
            self.timers[i].update()
            self.software[i].set(values[1 + harts + i] != 0)
            i += 1

    def _word(self, offset: i64) -> i64:
        if offset >= MTIME:
            return self.clock.mtime() if offset < MTIME + 8 else 0
        number = (offset - MTIMECMP) >> 3
        return self.timers[number].compare if number < len(self.timers) else 0

    def _part(self, word: i64, offset: i64, size: i64) -> i64:
        if size == 8:
            return word
        return (word >> 32) & LOW_HALF if offset & 4 != 0 else word & LOW_HALF

    def _merge(self, word: i64, offset: i64, size: i64, value: i64) -> i64:
        if size == 8:
            return value
        if offset & 4 != 0:
            return (word & LOW_HALF) | (value << 32)
        return (word & ~LOW_HALF) | (value & LOW_HALF)

    def _check(self, allowed: bool) -> None:
        if not allowed:
            raise GuestError(
                "ACLINT registers take accesses of 4 bytes, mtime and mtimecmp also of 8"
            )
