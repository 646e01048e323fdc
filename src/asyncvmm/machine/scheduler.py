"""Runs the harts of one guest in virtual time, deterministically.

One hart runs from event to event. Several harts run one after the other over the same virtual
interval, a quantum, whose ends lie at fixed multiples of its length unless an event comes first.
Each hart keeps its own place in time (``slice_start_ns`` at ``slice_start_steps``), which moves
only when it sleeps, so the result does not depend on how often ``run`` is called, or with which
limits.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64, mypyc_attr

from asyncvmm.arch.hart import EVENT_CHECK, STARTED, Hart
from asyncvmm.arch.hart_time import HartTime
from asyncvmm.base.errors import ConfigError
from asyncvmm.engine.interpreter import Engine
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import FOREVER, EarlierEventListener, Timeline

# Why ``run`` came back.
RAN_TIME: Final = 0  # ``until_ns`` is reached
RAN_STEPS: Final = 1  # ``max_steps`` are done
RAN_IDLE: Final = 2  # every hart waits and nothing is scheduled: only outside input can go on
RAN_STOP: Final = 3  # ``request_stop`` was called: power off, reboot, exit
RAN_ASLEEP: Final = 4  # with ``yields``: a hart that was granted a CPU has no use for it
RAN_PAUSE: Final = 5  # with ``pauses``: that took a while, call again
RAN_HALT: Final = 6  # a debugger's guard stopped a hart: call again to go on

UNLIMITED: Final = FOREVER


@mypyc_attr(allow_interpreted_subclasses=True)
class WakeListener:
    """Told when a waiting hart goes on."""

    def wakes(self, hart: Hart) -> None:
        """``hart`` has a pending interrupt and leaves WFI or suspend."""


class Scheduler(EarlierEventListener):
    """The harts, the engine that runs them, and where they are in the quantum."""

    def __init__(self, clock: Clock, harts: list[Hart], engine: Engine, quantum_steps: i64) -> None:
        self.clock: Clock = clock
        self.timeline: Timeline = clock.timeline
        self.harts: list[Hart] = harts
        self.engine: Engine = engine
        # What harts are run by: the engine, or what watches it.
        self.runner: Engine = engine
        self.quantum_ns: i64 = clock.ns_for(quantum_steps)
        if self.quantum_ns < 1:
            self.quantum_ns = 1
        self.wake_listener: WakeListener = WakeListener()
        self.quanta: i64 = 0
        self._times: list[HartTime] = [HartTime(hart, clock) for hart in harts]
        # 1 for a hart that takes part in the open quantum, and for one that has slept since it ran.
        self._runs: vec[i64] = vec[i64]([0] * len(harts))
        self._slept: vec[i64] = vec[i64]([1] * len(harts))
        # Under a simulated host: which harts have a physical CPU, and ``until_ns`` is exact.
        self.hosted: bool = False
        self.granted: vec[i64] = vec[i64]([1] * len(harts))
        # ... and somebody else wants the CPU of a hart that falls asleep.
        self.yields: bool = False
        self._paused: bool = False
        self._open: bool = False
        self._end_ns: i64 = 0
        self._slot: i64 = 0
        self._running: i64 = -1
        self._stop: bool = False
        self.timeline.listener = self

    def use(self, engine: Engine) -> None:
        """Run the harts by ``engine`` from now on, with nothing that watches it."""
        self.engine = engine
        self.runner = engine

    def request_stop(self) -> None:
        """Let ``run`` come back with RAN_STOP after the instruction that is being executed."""
        self._stop = True
        if self._running >= 0:
            hart = self.harts[self._running]
            hart.stop = True
            hart.event |= EVENT_CHECK

    def restart(self) -> None:
        """Forget the open quantum and a requested stop: after a reset of all harts."""
        self._open = False
        self._stop = False
        i: i64 = 0
        while i < len(self.harts):
            self._slept[i] = 1
            i += 1

    def earlier_event(self, time_ns: i64) -> None:
        """See EarlierEventListener: the open quantum ends at the new event."""
        if not self._open or time_ns >= self._end_ns:
            return
        now = self.timeline.now_ns
        self._end_ns = time_ns if time_ns > now else now
        if self._running >= 0:
            hart = self.harts[self._running]
            steps = self.clock.steps_for(self._end_ns - hart.slice_start_ns)
            hart.end_slice_at(hart.slice_start_steps + steps)

    def run(self, until_ns: i64, max_steps: i64) -> i64:
        """Run until ``until_ns`` or for ``max_steps`` of all harts together; a RAN_* code.

        Events due at ``until_ns`` have run when it returns RAN_TIME. With several harts it returns
        at the first end of a quantum from ``until_ns`` on.
        """
        left = max_steps
        while True:
            if self._stop:
                self._stop = False
                return RAN_STOP
            if not self._open:
                self.timeline.run_due()
                if self._stop:
                    continue
                if self.timeline.now_ns >= until_ns:
                    return RAN_TIME
                if not self._open_quantum(until_ns):
                    if not self.hosted and self.timeline.next_time_ns() == FOREVER:
                        return RAN_IDLE
                    if self.yields:
                        return RAN_ASLEEP
                    self._sleep_until(until_ns)
                    continue
            while self._slot < len(self.harts):
                if left <= 0:
                    return RAN_STEPS
                left -= self._run_slot(left)
                if self.runner.halted:
                    self.runner.halted = False
                    return RAN_HALT
                if self._stop:
                    break
                if self._paused:
                    self._paused = False
                    return RAN_PAUSE
            if not self._stop:
                self._close_quantum()
                if self.yields and self._anyone_slept():
                    return RAN_ASLEEP

    def finish_quantum(self) -> bool:
        """Close the open quantum if no hart has anything left to do in it, as ``run`` does before it goes
        on: for who let it stop after so many steps. Whether it did.
        """
        if not self._open:
            return False
        i = self._slot
        while i < len(self.harts):
            if self._runs[i] != 0:
                return False
            i += 1
        self._close_quantum()
        return True

    def gives_up(self) -> bool:
        """Whether ``run`` would come back with RAN_ASLEEP where a quantum was closed."""
        return self.yields and self._anyone_slept()

    def runnable(self, number: i64) -> bool:
        """Whether a hart has something to do: it is started and does not wait for an interrupt."""
        hart = self.harts[number]
        if hart.state != STARTED:
            return False
        return not hart.waiting or hart.pending_interrupts() != 0

    def pass_by(self, until_ns: i64) -> bool:
        """What ``run`` does up to ``until_ns`` when no hart has a CPU and no event is due by then:
        nothing but that time goes on. False when there is more to do.
        """
        if self._stop or self._open or self.timeline.next_time_ns() <= until_ns:
            return False
        i: i64 = 0
        while i < len(self.harts):
            self._slept[i] = 1
            i += 1
        if until_ns > self.timeline.now_ns:
            self.timeline.now_ns = until_ns
        return True

    def now_ns(self) -> i64:
        """The time up to which every hart that runs has come."""
        if not self._open:
            return self.timeline.now_ns
        earliest = self._end_ns
        i: i64 = 0
        while i < len(self.harts):
            if self._runs[i] != 0:
                place = self._times[i].place_ns()
                if place < earliest:
                    earliest = place
            i += 1
        return earliest

    def state(self) -> list[int]:
        """What a digest needs beside the harts: the place in the quantum."""
        values: list[int] = [int(self._end_ns), int(self._slot)] if self._open else [-1, 0]
        for i in range(len(self.harts)):
            time = self._times[i]
            values.append(int(self._slept[i]))
            if self._open:
                values += [int(self._runs[i]), int(time.base_ns), int(time.share)]
                values.append(int(time.opened_ns))
        return values

    def restore(self, values: list[int]) -> None:
        """Become what ``state`` told of as many harts; ConfigError when it is not possible."""
        harts = len(self.harts)
        is_open = len(values) > 0 and values[0] >= 0
        each = 5 if is_open else 1
        if len(values) != 2 + each * harts:
            raise ConfigError(f"saved scheduler: {len(values)} values for {harts} harts")
        if values[1] < 0 or values[1] > harts:
            raise ConfigError(f"saved scheduler: the turn is hart {values[1]}'s")
        i = 0
        while i < harts:
            share = values[2 + each * i + 3] if is_open else 1
            if share < 1 or share > harts:
                raise ConfigError(f"saved scheduler: {share} harts share a quantum")
            i += 1
        self._open = is_open
        self._end_ns = values[0] if is_open else 0
        self._slot = values[1]
        i = 0
        while i < harts:
            at = 2 + each * i
            self._slept[i] = 1 if values[at] != 0 else 0
            if is_open:
                self._runs[i] = 1 if values[at + 1] != 0 else 0
                time = self._times[i]
                time.base_ns = values[at + 2]
                time.share = values[at + 3]
                time.opened_ns = values[at + 4]
            i += 1

    def _sleep_until(self, until_ns: i64) -> None:
        first = self.timeline.next_time_ns()
        self.timeline.now_ns = first if first < until_ns else until_ns

    def _open_quantum(self, until_ns: i64) -> bool:
        """Wake who can go on, choose who runs and until when; False when nobody does."""
        now = self.timeline.now_ns
        anyone = False
        i: i64 = 0
        while i < len(self.harts):
            hart = self.harts[i]
            runs = hart.state == STARTED and self.granted[i] != 0
            if runs and hart.waiting:
                runs = hart.pending_interrupts() != 0
                if runs:
                    hart.waiting = False
                    self.wake_listener.wakes(hart)
            self._runs[i] = 1 if runs else 0
            if runs:
                anyone = True
                if self._slept[i] != 0:
                    self._slept[i] = 0
                    self._place(i, now)
            else:
                self._slept[i] = 1
            i += 1
        if not anyone:
            return False
        end = self.timeline.next_time_ns()
        if len(self.harts) > 1:
            boundary = (now // self.quantum_ns + 1) * self.quantum_ns
            if boundary < end:
                end = boundary
        if (self.hosted or len(self.harts) == 1) and until_ns < end:
            end = until_ns
        self._end_ns = end
        self._slot = 0
        self._open = True
        self._share_out(now)
        self.quanta += 1
        return True

    def _share_out(self, now: i64) -> None:
        """Divide what is read in the quantum among the harts that run in it."""
        count: i64 = 0
        i: i64 = 0
        while i < len(self.harts):
            count += self._runs[i]
            i += 1
        rank: i64 = 0
        i = 0
        while i < len(self.harts):
            if self._runs[i] != 0:
                time = self._times[i]
                time.opened_ns = now
                time.base_ns = now if rank == 0 else now + (self._end_ns - now) * rank // count
                time.share = count
                rank += 1
            i += 1

    def _place(self, number: i64, now: i64) -> None:
        """A hart that slept is at ``now``, unless it had run a little ahead of that."""
        hart = self.harts[number]
        was = self._times[number].place_ns()
        hart.slice_start_ns = now if now > was else was
        hart.slice_start_steps = hart.steps

    def _anyone_slept(self) -> bool:
        """Whether a hart that was granted a CPU does not need it."""
        i: i64 = 0
        while i < len(self.harts):
            if self.granted[i] != 0 and not self.runnable(i):
                return True
            i += 1
        return False

    def _run_slot(self, max_steps: i64) -> i64:
        """Run the hart whose turn it is for what is left of the quantum; returns its steps."""
        number = self._slot
        hart = self.harts[number]
        if self._runs[number] == 0 or hart.state != STARTED:
            self._slot += 1
            return 0
        wanted = hart.slice_start_steps + self.clock.steps_for(self._end_ns - hart.slice_start_ns)
        budget = wanted - hart.steps
        if budget <= 0:
            self._slot += 1
            return 0
        before = hart.steps
        self._running = number
        self.clock.running = self._times[number]
        if max_steps < budget:
            budget = max_steps
        self.runner.run(hart, budget)
        self.clock.running = None
        self._running = -1
        done = hart.steps - before
        if hart.stop:
            hart.stop = False
            if self._stop:
                return done
        wanted = hart.slice_start_steps + self.clock.steps_for(self._end_ns - hart.slice_start_ns)
        if hart.waiting or hart.state != STARTED:
            self._runs[number] = 0
            self._slept[number] = 1
            self._next_slot(hart)
        elif hart.steps >= wanted:
            self._next_slot(hart)
        else:
            self._paused = self.engine.pauses and done < budget
        return done

    def _next_slot(self, hart: Hart) -> None:
        if len(self.harts) > 1:
            hart.reservation = -1
        self._slot += 1

    def _close_quantum(self) -> None:
        """Time is at the quantum's end, or where the last hart fell asleep before it."""
        self._open = False
        latest: i64 = self.timeline.now_ns
        i: i64 = 0
        while i < len(self.harts):
            if self._runs[i] != 0:
                latest = self._end_ns
                break
            if self.harts[i].state == STARTED:
                place = self._times[i].place_ns()
                if place > latest:
                    latest = place
            i += 1
        self.timeline.now_ns = latest if latest < self._end_ns else self._end_ns
