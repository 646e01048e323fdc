"""The roster: who has something to do, and that time passing by is what running would have done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.hart import STARTED, STOPPED, Hart
from asyncvmm.bus.address_map import Bus
from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.machine import ASLEEP, AWAKE, GRANTED, RAN_TIME, UNLIMITED, Roster, Scheduler
from asyncvmm.memory.pages import Ram
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import FOREVER, Timeline

SSI = 1


def scheduler(harts: int = 1) -> Scheduler:
    """A hosted guest whose harts wait for an interrupt."""
    ram, bus, code = Ram(0x80000000, 4096), Bus(), CodeCache()
    made = [Hart(i, ram, bus, code) for i in range(harts)]
    for hart in made:
        hart.state, hart.waiting, hart.mie = STARTED, True, 1 << SSI
    scheduler = Scheduler(Clock(Timeline(), 1000), made, Interpreter(), 1000)
    scheduler.hosted = True
    return scheduler


def wake(of: Scheduler, hart: int = 0) -> None:
    of.harts[hart].set_software_pending(SSI, True)


def test_who_wakes_up_is_told_until_it_is_awake() -> None:
    roster, guests = Roster(), [scheduler(), scheduler(2)]
    seats = [roster.join(guest, 0) for guest in guests]
    assert not roster.anyone_runnable() and roster.waking() == []
    wake(guests[1], 1)
    assert roster.anyone_runnable()
    assert roster.waking() == [(seats[1].number, 1)]
    seats[1].set_standing(1, AWAKE)
    assert roster.waking() == []
    seats[1].set_standing(1, ASLEEP)
    assert roster.waking() == [(seats[1].number, 1)]
    roster.leave(seats[1])
    assert not roster.anyone_runnable()


def test_numbers_of_seats_are_never_used_twice() -> None:
    roster = Roster()
    first = roster.join(scheduler(), 0)
    roster.leave(first)
    assert roster.join(scheduler(), 0).number != first.number


def test_who_could_stand_by() -> None:
    roster, guests = Roster(), [scheduler(), scheduler(2), scheduler(2)]
    seats = [roster.join(guest, 0) for guest in guests]
    guests[2].harts[1].state = STOPPED
    numbers = [seat.number for seat in seats]
    everyone = [(numbers[0], 0), (numbers[1], 0), (numbers[1], 1), (numbers[2], 0)]
    assert roster.idle_started(10) == everyone
    assert len(roster.idle_started(2)) == 3
    seats[1].set_standing(0, GRANTED)
    assert roster.idle_started(10) == [everyone[0], *everyone[2:]]
    assert [int(granted) for granted in guests[1].granted] == [1, 0]


def test_the_first_event_is_in_host_time() -> None:
    roster, late, early = Roster(), scheduler(), scheduler()
    roster.join(late, 1000)
    roster.join(early, 5000)
    assert roster.next_event_ns() == FOREVER
    late.timeline.at(4500, lambda: None)
    early.timeline.at(400, lambda: None)
    assert roster.next_event_ns() == 5400


def test_those_with_an_event_must_run() -> None:
    roster, guests = Roster(), [scheduler() for _ in range(4)]
    seats = [roster.join(guest, 0) for guest in guests]
    seats[0].set_standing(0, GRANTED)
    guests[1].timeline.at(100, lambda: None)
    guests[2].timeline.at(101, lambda: None)
    guests[3].request_stop()
    assert roster.pass_by(100) == [seats[1].number, seats[3].number]
    assert [int(guest.timeline.now_ns) for guest in guests] == [0, 0, 100, 0]


@given(
    steps=st.lists(st.integers(0, 500), min_size=1, max_size=8),
    events=st.lists(st.integers(1, 2000), max_size=5),
    harts=st.integers(1, 2),
)
def test_passing_by_is_running_without_a_cpu(
    steps: list[int], events: list[int], harts: int
) -> None:
    ran, passed = scheduler(harts), scheduler(harts)
    roster = Roster()
    roster.join(passed, 0)
    log: list[tuple[str, int]] = []
    for name, guest in (("ran", ran), ("passed", passed)):
        for hart in range(harts):
            guest.granted[hart] = 0
        for time_ns in events:
            guest.timeline.at(
                time_ns, lambda n=name, g=guest: log.append((n, int(g.timeline.now_ns)))
            )
    until = 0
    for step in steps:
        until += step
        assert ran.run(until, UNLIMITED) == RAN_TIME
        if roster.pass_by(until):
            assert passed.run(until, UNLIMITED) == RAN_TIME
        assert ran.state() == passed.state()
        assert int(ran.timeline.now_ns) == int(passed.timeline.now_ns) == until
    times = {name: [t for n, t in log if n == name] for name in ("ran", "passed")}
    assert times["ran"] == times["passed"]
