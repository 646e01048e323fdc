"""The books of a host: who has a CPU from when to when, and what everybody used of CPUs and memory.

``Books`` stands between the policy, which knows vCPUs and numbers, and the guests' places. It is called
between two stretches only, with the host's time, and in an order that is the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from asyncvmm.arch.hart import STARTED
from asyncvmm.hypervisor import WAITING, Cpus, Grant, HostMemory
from asyncvmm.machine import AWAKE
from asyncvmm.runtime.places import Place, Places, Slice
from asyncvmm.runtime.sharing import Sharing


class Books:
    """``roomy`` is whether every hart has a CPU, or would have one as soon as it woke; ``contended``
    whether somebody waits for one. Where the policy isolates, neither changes what a guest can see.
    """

    def __init__(self, cpus: Cpus, memory: HostMemory, sharing: Sharing, places: Places) -> None:
        self.isolates: Final[bool] = cpus.policy.isolates
        self.roomy = True
        self.contended = False
        self._cpus = cpus
        self._memory = memory
        self._sharing = sharing
        self._places = places
        self._grid_ns = cpus.spec.quantum_ns

    # -- at the beginning of a stretch

    def wake_runnable(self, now_ns: int) -> None:
        """Enter who has something to do.

        Under a policy that isolates this is at the beginning of slots only: those that neighbours
        end a stretch at must change nothing.
        """
        if self.isolates and now_ns % self._grid_ns:
            return
        places = self._places
        for seat, number in places.roster.waking():
            place = places.seated[seat]
            if place.lived_ns <= now_ns:
                self._cpus.wake(place.vcpus[number], now_ns)
                place.seat.set_standing(number, AWAKE)

    def decide(self, now_ns: int) -> None:
        """Grant CPUs. Those left over stand by for harts that may wake up in the stretch; when there
        is one for everybody, or the policy isolates, no guest can notice another.
        """
        cpus, places = self._cpus, self._places
        self._grant(cpus.decide(now_ns), now_ns)
        self.roomy = True
        self.contended = False
        if self.isolates:
            for place in places.by_name.values():
                for number in range(len(place.vcpus)):
                    if number not in place.slices:
                        self._stand_by(place, number, now_ns)
            return
        idle = places.roster.idle_started(cpus.free + 1)  # one too many is enough
        if len(idle) > cpus.free:
            # The stretch ends at the first event, so only those with a sibling that runs may wake up.
            self.roomy = False
            idle = [
                (place.seat.number, number)
                for place in places.busy.values()
                if len(place.vcpus) > 1
                for number, hart in enumerate(place.guest.machine.harts)
                if hart.state == STARTED and number not in place.slices
            ]
        for seat, number in idle:
            place = places.seated[seat]
            if number not in place.slices:
                self._stand_by(place, number, now_ns)
            if number not in place.slices:
                self.roomy = False
                break
        if not self.roomy:
            self.contended = any(
                places.seated[seat].vcpus[number].state == WAITING
                for seat, number in places.roster.awake()
            )

    def next_ns(self, now_ns: int) -> int:
        """The first instant at which a grant ends, a budget is refilled, or somebody who ran ahead is
        caught up with.
        """
        until = int(self._cpus.next_ns(now_ns))
        for place in self._places.busy.values():
            for granted in place.slices.values():
                until = min(until, granted.end_ns)
            if place.lived_ns > now_ns:
                until = min(until, place.lived_ns)
        return until

    def _stand_by(self, place: Place, number: int, now_ns: int) -> None:
        if self._cpus.free and place.lived_ns <= now_ns:
            self._grant(self._cpus.stand_by(place.vcpus[number], now_ns), now_ns)

    def _grant(self, grants: Sequence[Grant], now_ns: int) -> None:
        cpus, places = self._cpus, self._places
        grid_ns = self._grid_ns - now_ns % self._grid_ns
        longer = 0 if self.isolates or cpus.crowded else cpus.spec.steps_for(grid_ns)
        for grant in grants:
            place = places.by_name[grant.vcpu.guest.name]
            number = grant.vcpu.number
            machine = place.guest.machine
            steps = int(machine.harts[number].steps)
            budget, slice_ns = grant.steps, grant.slice_ns
            if longer > budget:
                budget = cpus.extend(grant.vcpu, longer)
                # Up to the grid even where no whole number of steps leads there.
                slice_ns = grid_ns if budget == longer else cpus.spec.ns_for(budget)
            places.give(place, number, Slice(steps, budget, now_ns + slice_ns))
            if machine.sbi is not None and machine.sbi.reports_steal():
                machine.sbi.set_steal(number, cpus.steal_ns(grant.vcpu, now_ns))

    # -- at its end

    def close(self, places: Sequence[Place], now_ns: int, *, cut: bool) -> None:
        """A stretch of those who had a CPU is over: they give it back. In one that was ``cut`` where a
        CPU fell free, only those do who sleep, and whoever ran beyond the cut keeps what it has.
        """
        for place in places:
            if place.lived_ns > now_ns:
                continue
            harts, scheduler = place.guest.machine.harts, place.guest.machine.scheduler
            for number, granted in list(place.slices.items()):
                if not cut or not scheduler.runnable(number):
                    self.release(
                        place, number, int(harts[number].steps) - granted.steps_before, now_ns
                    )

    def release(self, place: Place, number: int, steps: int, now_ns: int) -> None:
        """A hart gives its CPU back, on which it did ``steps``."""
        runnable = place.guest.machine.scheduler.runnable(number)
        granted = self._places.take(place, number, awake=runnable)
        self._cpus.stop(
            place.vcpus[number], now_ns, min(steps, granted.budget), asleep=not runnable
        )

    def account(self, places: Sequence[Place], now_ns: int) -> None:
        """Count resident pages of those who ran, against the limits."""
        names = []
        for place in places:
            if not self._places.lives(place):
                continue
            names.append(place.name)
            ram = place.guest.machine.ram
            private = int(ram.resident - ram.shared)
            if private != place.private:
                place.private = private
                self._memory.set_private(place.name, private)
        self._sharing.serve(now_ns, self._memory, names)
        for error in self._memory.enforce(now_ns):
            place_of = self._places.by_name.get(error.guest)
            if place_of is not None:
                place_of.guest.machine_failed(error)

    def leave(self, place: Place, now_ns: int, cause: str) -> None:
        """A guest has ended; its CPUs and memory are free."""
        for number in list(place.slices):
            self.release(place, number, 0, now_ns)
        self._cpus.remove(place.name, now_ns, cause)
        self._memory.remove(place.name)
        self._sharing.leave(place.name)
