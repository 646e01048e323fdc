"""A host without guests: vCPUs that are told how long to run and sleep, on real policies.

It drives ``Cpus`` as the runtime does, and keeps a tally of its own that tests compare with.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

from asyncvmm.hypervisor import CpuKnobs, Cpus, CpuSpec, Grant, Ledger, Policy, Vcpu, make_policy
from asyncvmm.timeline.events import FOREVER

# How long a vCPU runs before it sleeps, and then sleeps (ns): None never sleeps.
Habit = Callable[[random.Random], tuple[int, int]]


class SimulatedHost:
    """Time, a heap of ends and wake-ups, and who got how much when."""

    def __init__(self, policy: str = "eevdf", spec: CpuSpec | None = None, seed: int = 1) -> None:
        self.spec = spec or CpuSpec()
        self.policy: Policy = make_policy(policy, self.spec)
        self.ledger = Ledger()
        self.cpus = Cpus(self.spec, self.policy, self.ledger)
        self.rng = random.Random(seed)
        self.now_ns = 0
        self.quantum_steps = self.spec.steps_for(self.spec.quantum_ns)
        self.habits: dict[Vcpu, Habit | None] = {}
        self.runs: list[tuple[int, int, Vcpu, int]] = []  # start, pcpu, vCPU, steps
        self.watcher: Callable[[], None] = lambda: None
        self._left_ns: dict[Vcpu, int] = {}
        self._events: list[tuple[int, int, str, Vcpu, int]] = []
        self._sequence = 0
        self._running: dict[Vcpu, tuple[int, int]] = {}  # granted at, steps that it will run

    def join(self, name: str, vcpus: int = 1, habit: Habit | None = None, **knobs: object) -> None:
        """Add a guest whose vCPUs wake up at once."""
        for vcpu in self.cpus.add(name, vcpus, CpuKnobs(**knobs), self.now_ns):
            self.habits[vcpu] = habit
            self.cpus.wake(vcpu, self.now_ns)
            self._plan(vcpu)

    def leave(self, name: str) -> None:
        """Stop a guest wherever it is."""
        for vcpu in self.cpus.guests[name].vcpus:
            if vcpu in self._running:
                start, steps = self._running.pop(vcpu)
                done = min(steps, self.spec.steps_for(self.now_ns - start))
                self.cpus.stop(vcpu, self.now_ns, done, asleep=True)
                self._note(start, vcpu, done)
            del self.habits[vcpu]
        self._events = [e for e in self._events if e[3].guest.name != name]
        heapq.heapify(self._events)
        self.cpus.remove(name, self.now_ns, "test")

    def run_until(self, time_ns: int) -> None:
        """Everything up to ``time_ns``; slices may go on beyond it."""
        self._decide()
        while True:
            first = self._events[0][0] if self._events else FOREVER
            first = min(first, self.cpus.next_ns(self.now_ns))
            if first > time_ns:
                self.now_ns = max(self.now_ns, time_ns)
                return
            self.now_ns = first
            while self._events and self._events[0][0] == first:
                _, _, what, vcpu, steps = heapq.heappop(self._events)
                if what == "wake":
                    self.cpus.wake(vcpu, first)
                    self._plan(vcpu)
                else:
                    self._end(vcpu, steps, what == "sleep")
            self._decide()

    def received(self, name: str) -> int:
        """Steps that a guest got, from slices that ended."""
        return sum(vcpu.received_steps for vcpu in self.cpus.guests[name].vcpus)

    def received_with_running(self, name: str) -> int:
        """The same and what its open slices have run by now."""
        return self.received(name) + sum(
            min(steps, self.spec.steps_for(self.now_ns - start))
            for vcpu, (start, steps) in self._running.items()
            if vcpu.guest.name == name
        )

    def _plan(self, vcpu: Vcpu) -> None:
        habit = self.habits[vcpu]
        if habit is not None:
            run_ns, _ = habit(self.rng)
            self._left_ns[vcpu] = run_ns

    def _decide(self) -> None:
        for grant in self.cpus.decide(self.now_ns):
            self._begin(grant)
        self.watcher()

    def _begin(self, grant: Grant) -> None:
        vcpu, steps, what = grant.vcpu, grant.steps, "end"
        if self.habits[vcpu] is not None:
            wish = max(self.spec.steps_for(self._left_ns[vcpu]), 1)
            if wish <= steps:
                steps, what = wish, "sleep"
            self._left_ns[vcpu] -= self.spec.ns_for(steps)
        self._running[vcpu] = (self.now_ns, steps)
        self._push(self.now_ns + self.spec.ns_for(steps), what, vcpu, steps)

    def _end(self, vcpu: Vcpu, steps: int, asleep: bool) -> None:
        start, _ = self._running.pop(vcpu)
        self.cpus.stop(vcpu, self.now_ns, steps, asleep=asleep)
        self._note(start, vcpu, steps)
        if asleep:
            habit = self.habits[vcpu]
            assert habit is not None
            _, sleep_ns = habit(self.rng)
            self._push(self.now_ns + sleep_ns, "wake", vcpu, 0)

    def _note(self, start: int, vcpu: Vcpu, steps: int) -> None:
        self.runs.append((start, vcpu.pcpu, vcpu, steps))

    def _push(self, time_ns: int, what: str, vcpu: Vcpu, steps: int) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time_ns, self._sequence, what, vcpu, steps))


def habit(low_run: int, high_run: int, low_sleep: int, high_sleep: int) -> Habit:
    """Run and sleep for random times between these (ns)."""

    def choose(rng: random.Random) -> tuple[int, int]:
        return rng.randint(low_run, high_run), rng.randint(low_sleep, high_sleep)

    return choose
