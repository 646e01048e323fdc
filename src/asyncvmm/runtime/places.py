"""Where the guests of a host are: each one's time, its harts' slices of CPU, its seat in the roster.

``Place`` is one guest's; ``Places`` are all, in the order in which they came. What a hart has is said in
two places, for Python and for the compiled loops, which ``give`` and ``take`` keep the same: a slice in
``Place.slices`` is a standing of GRANTED in the seat; and whoever has a slice is among ``busy``.
"""

from __future__ import annotations

from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor import PARKED, RUNNING, WAITING, Vcpu
from asyncvmm.machine import ASLEEP, AWAKE, GRANTED, RAN_HALT, RAN_PAUSE, RAN_TIME, Roster, Seat
from asyncvmm.runtime.host_saved import PlaceState
from asyncvmm.runtime.residents import Resident


@attrs.define(eq=False)  # a frozen one takes a microsecond to make
class Slice:
    """A grant under way: how many steps the hart had done before, may do, and until when."""

    steps_before: int
    budget: int
    end_ns: int


@attrs.define(eq=False)
class Place:
    """A guest on the host: its vCPUs, when it came, to when it has lived, what its harts may do.

    ``why`` and ``error`` are how its last run ended, until that is seen to.
    """

    guest: Resident
    vcpus: list[Vcpu]
    since_ns: int
    lived_ns: int
    seat: Seat
    slices: dict[int, Slice] = attrs.field(factory=dict)
    why: int = RAN_TIME
    error: Exception | None = None
    private: int = -1  # resident pages, as last counted
    name: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.name = self.guest.name

    @property
    def awake(self) -> bool:
        """It has a CPU and uses it; whoever only stands by does not."""
        return any(map(self.guest.machine.scheduler.runnable, self.slices))

    @property
    def wants_thread(self) -> bool:
        """It has a CPU and uses it outside Python's lock."""
        return self.guest.machine.runs_unlocked and self.awake

    @property
    def unfinished(self) -> bool:
        """It came back early from its stretch, to be called again."""
        return self.why in (RAN_PAUSE, RAN_HALT) and self.error is None

    @property
    def halted(self) -> bool:
        """A debugger stopped it on its way."""
        return self.why == RAN_HALT and self.error is None

    def state(self) -> PlaceState:
        """The same as a value, between two stretches."""
        slices = tuple(
            (number, one.steps_before, one.budget, one.end_ns)
            for number, one in self.slices.items()
        )
        return PlaceState(self.name, self.since_ns, self.lived_ns, slices)


class Places:
    """All of a host's guests. ``seated`` has them by the numbers of their seats, ``busy`` those of them
    with a slice.
    """

    def __init__(self) -> None:
        self.by_name: Final[dict[str, Place]] = {}
        self.seated: Final[dict[int, Place]] = {}
        self.busy: Final[dict[int, Place]] = {}
        self.roster: Final = Roster()

    def join(self, guest: Resident, vcpus: list[Vcpu], since_ns: int, now_ns: int) -> Place:
        """A guest came, whose own time was 0 at ``since_ns``; nobody has given it a CPU."""
        scheduler = guest.machine.scheduler
        scheduler.hosted = True
        scheduler.engine.pauses = True
        seat = self.roster.join(scheduler, since_ns)
        place = Place(guest, vcpus, since_ns, now_ns, seat)
        self.by_name[guest.name] = self.seated[seat.number] = place
        return place

    def join_again(
        self, guest: Resident, vcpus: list[Vcpu], saved: PlaceState, now_ns: int
    ) -> Place:
        """A guest of a saved host came: its harts have the slices that they had then. ConfigError when
        they are not those that ``vcpus`` have in the books.
        """
        place = self.join(guest, vcpus, saved.since_ns, now_ns)
        place.lived_ns = saved.lived_ns
        for vcpu in vcpus:
            awake = AWAKE if vcpu.state in (WAITING, PARKED) else ASLEEP
            place.seat.set_standing(vcpu.number, awake)
        for number, *rest in saved.slices:
            if not 0 <= number < len(vcpus) or vcpus[number].state != RUNNING:
                raise ConfigError(f"guest {saved.guest}: saved hart {number} has no CPU")
            self.give(place, number, Slice(*rest))
        if len(place.slices) != sum(vcpu.state == RUNNING for vcpu in vcpus):
            raise ConfigError(f"guest {saved.guest}: a saved CPU runs nobody")
        return place

    def leave(self, place: Place) -> None:
        """A guest has ended, whose slices were taken."""
        self.roster.leave(place.seat)
        del self.by_name[place.name]
        del self.seated[place.seat.number]

    def lives(self, place: Place) -> bool:
        """Whether its guest is still here; its name may be another one's by now."""
        return self.by_name.get(place.name) is place

    def give(self, place: Place, number: int, granted: Slice) -> None:
        """A hart has a CPU from now on."""
        place.slices[number] = granted
        place.seat.set_standing(number, GRANTED)
        self.busy[place.seat.number] = place

    def take(self, place: Place, number: int, *, awake: bool) -> Slice:
        """A hart has no CPU any more; ``awake`` is whether it competes for one."""
        granted = place.slices.pop(number)
        if not place.slices:
            del self.busy[place.seat.number]
        place.seat.set_standing(number, AWAKE if awake else ASLEEP)
        return granted

    def anyone_runnable(self) -> bool:
        """Whether any hart of any guest has something to do."""
        return bool(self.roster.anyone_runnable())

    def with_cpu(self) -> list[Place]:
        """Those with a slice, in the order in which they came."""
        return [self.busy[number] for number in sorted(self.busy)]

    def without_cpu(self) -> list[Place]:
        """The others, in that order."""
        return [place for place in self.by_name.values() if not place.slices]

    def pass_by(self, until_ns: int) -> list[Place]:
        """Let time pass to ``until_ns`` for those without a CPU that have nothing to do; the rest of
        them.
        """
        return [self.seated[number] for number in self.roster.pass_by(until_ns)]
