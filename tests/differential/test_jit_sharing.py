"""Guests of a process run the same code where their pages have the same bytes."""

from __future__ import annotations

import gc
import threading
import tracemalloc

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.engine.jit.build import Native, SharedCode
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages, compile_request
from asyncvmm.engine.jit.regions import CachedRegion, RegionStore
from asyncvmm.engine.jit.space import SEGMENT_BYTES
from asyncvmm.engine.jit.translator import BATCH_BYTES, BLOCK_BYTES
from asyncvmm.machine import Machine
from tests.differential.test_jit_regions import CONFLICT, translator_of
from tests.differential.test_jit_shared import MIX, digests
from tests.unit.machine.guest_machines import program_machine
from tools.differential.engines import optimise

ROOM = BLOCK_BYTES + BATCH_BYTES + 4096  # for code, when there is little of it
ADDI = (0x00198993).to_bytes(4, "little")  # addi s3, s3, 1
OTHER = (0x00398993).to_bytes(4, "little")  # addi s3, s3, 3

# Stores over the instruction at ``spot`` now and then, from the next page.
SELF = """
    la   s0, spot
    lw   s1, 0(s0)
    li   s2, 1048576
    li   s4, 0
loop:
    addi s4, s4, 1
    call work
    andi t0, s4, 15
    bnez t0, loop
    addw s1, s1, s2
    sw   s1, 0(s0)
    j    loop
    .zero 4096
work:
spot:
    addi s3, s3, 0
    ret
"""


def guest(
    source: str, shared: SharedCode, store: RegionStore | None = None, eager: bool = False
) -> tuple[Machine, Native]:
    """A machine whose engine shares its code; ``eager`` lets the background thread be at it."""
    hot = HotPages(0.0002, 1, store) if eager else HotPages(store=store)
    native = Native(hot=hot, watch=eager, threshold=0, shared=shared)
    machine = program_machine(source)
    machine.scheduler.use(TranslatingEngine(native, native.enter))
    return machine, native


def small() -> int:
    """The size of shared memory in which there is room for a few pages."""
    return int(SharedCode().ground.arena.start) + ROOM


def various(number: int) -> str:
    """A program like MIX that no other is equal to."""
    return MIX.replace("1442", str(number))


@pytest.mark.parametrize("source", [CONFLICT, MIX], ids=["conflict", "mix"])
def test_the_second_guest_translates_nothing(source: str) -> None:
    shared = SharedCode()
    expected = digests(program_machine(source, engine="interpreter"))
    first, one = guest(source, shared)
    assert digests(first) == expected
    used = int(shared.ground.arena.used)
    second, other = guest(source, shared)
    assert digests(second) == expected
    assert one.statistics()["blocks"] > 1
    assert other.statistics()["blocks"] == 0
    assert other.statistics()["reused"] == 1
    assert int(shared.ground.arena.used) == used


def test_the_second_guest_runs_optimised_code() -> None:
    shared = SharedCode()
    expected = digests(program_machine(MIX, engine="interpreter"))
    first, one = guest(MIX, shared)
    first.run(max_steps=1000)
    optimise(one, translator_of(first))
    first.run(max_steps=1000)
    assert one.statistics()["regions"] == 1
    second, other = guest(MIX, shared)
    assert digests(second) == expected
    assert other.statistics()["regions"] == 0
    assert other.statistics()["reused"] == 1
    assert other.statistics()["blocks"] <= 3  # where the budget was cut


@pytest.mark.parametrize("decoded", [True, False])
def test_a_guest_that_changes_its_code_leaves_the_others_theirs(decoded: bool) -> None:
    """Also where it has not decoded a single instruction itself."""
    shared = SharedCode()
    first, _ = guest(MIX, shared)
    second, _ = guest(MIX, shared)
    plain, changed = (program_machine(MIX, engine="interpreter") for _ in range(2))
    for one in (first, plain):
        one.run(max_steps=3000)
    for one in (second, changed):
        one.run(max_steps=3000 if decoded else 7)
        at = one.ram.read(0x80000000, 4096).index(ADDI)
        one.ram.write(0x80000000 + at, OTHER)
        one.run(max_steps=5000)
    first.run(max_steps=5000)
    plain.run(max_steps=5000)
    assert second.digest() == changed.digest()
    assert first.digest() == plain.digest()
    assert first.digest() != second.digest()


def test_code_that_changes_often_becomes_its_guests_own() -> None:
    """And is bounded there: the segment is filled and emptied; it comes back when the guest is gone."""
    shared = SharedCode(segments=1)
    free = list(shared.ground.arena._space.free)
    expected = program_machine(SELF, engine="interpreter")
    machine, native = guest(SELF, shared)
    neighbour, _ = guest(SELF, shared)
    for steps in (1000, 50_000, 400_000):
        for one in (machine, neighbour, expected):
            one.run(max_steps=steps)
        assert machine.digest() == neighbour.digest() == expected.digest()
    translator = translator_of(machine)
    assert translator.own is not None
    assert translator_of(neighbour).own is None  # there was one segment: this one is interpreted
    counted = native.statistics()
    assert counted["changed"] > 1000
    assert translator.own.most() - translator.own.origin <= SEGMENT_BYTES
    # What it changed did not stay with the others'.
    assert len(shared.pages.pages) < 16
    del translator, machine, native
    gc.collect()
    assert list(shared.ground.arena._space.free) == free


@pytest.mark.parametrize("limit", ["bytes", "pages"])
def test_shared_memory_is_bounded(limit: str) -> None:
    """Many programs, more than there is room for, each run in turns."""
    size, pages = (small(), 1000) if limit == "bytes" else (8 << 20, 5)
    shared = SharedCode(size=size, pages=pages)
    store = RegionStore(None)
    sources = [various(number) for number in range(24)]
    guests = [guest(source, shared, store) for source in sources]
    plain = [program_machine(source, engine="interpreter") for source in sources]
    for steps in (700, 3000, 20_000):
        for (machine, native), expected in zip(guests, plain, strict=True):
            machine.run(max_steps=steps)
            expected.run(max_steps=steps)
            assert machine.digest() == expected.digest()
            optimise(native, translator_of(machine))
            assert int(shared.ground.arena.most()) <= size
            assert len(shared.pages.pages) <= pages
    counted = [native.statistics() for _, native in guests]
    assert sum(found["evictions"] for found in counted) >= 10
    assert all(found["code_bytes_most"] <= size for found in counted)
    assert int(shared.ground.arena.generation) >= 1


def test_one_guest_does_not_fill_shared_memory_alone() -> None:
    shared = SharedCode(quota_bytes=100)
    machine, _ = guest(SELF, shared)
    expected = program_machine(SELF, engine="interpreter")
    for one in (machine, expected):
        one.run(max_steps=20_000)
    assert machine.digest() == expected.digest()
    translator = translator_of(machine)
    assert translator.own is not None
    assert int(translator.spent) <= 100 + BLOCK_BYTES


def test_changes_of_running_code_wait() -> None:
    """While another guest is in shared code, links and entries of it stay as they are."""
    shared = SharedCode()
    machine, native = guest(MIX, shared)
    expected = program_machine(MIX, engine="interpreter")
    arena = shared.ground.arena
    arena.running += 1  # somebody is in there all the time
    for steps in (10, 100, 3000):
        before = bytes(arena._bytes[arena.start : arena.used])
        machine.run(max_steps=steps)
        expected.run(max_steps=steps)
        assert machine.digest() == expected.digest()
        assert bytes(arena._bytes[arena.start : arena.start + len(before)]) == before
        optimise(native, translator_of(machine))
    waiting = int(arena.late)
    assert waiting > 2
    assert not shared.pages.make_room(1 << 30)
    arena.running -= 1
    machine.run(max_steps=1000)
    expected.run(max_steps=1000)
    assert machine.digest() == expected.digest()
    assert int(arena.late) == 0


@pytest.mark.parametrize("room", ["small", "large"])
def test_guests_in_threads_share_at_once(room: str) -> None:
    """They translate, optimise, change and throw away the same code, all at the same time."""
    size = small() if room == "small" else 32 << 20
    shared = SharedCode(size=size)
    store = RegionStore(None)
    sources = [CONFLICT, MIX, SELF, MIX, SELF, *(various(number) for number in range(8))]
    expected = {
        source: digests(program_machine(source, engine="interpreter")) for source in sources
    }
    found: list[list[list[str]]] = [[] for _ in sources]

    def run(number: int) -> None:
        for _ in range(3):
            machine, _ = guest(sources[number], shared, store, eager=True)
            found[number].append(digests(machine))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(sources))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[expected[source]] * 3 for source in sources]
    assert int(shared.ground.arena.running) == 0
    assert int(shared.ground.arena.most()) <= size


@pytest.mark.parametrize("own", [True, False])
def test_guests_come_and_go_and_nothing_of_them_stays(own: bool) -> None:
    """Tables, buffers and decoded pages: no vec that compiled and other code handed to each other."""
    shared = SharedCode(quota_bytes=0) if own else SharedCode()
    store = RegionStore(None)

    def large() -> int:
        gc.collect()
        return sum(int(trace.size) >= 2048 for trace in tracemalloc.take_snapshot().traces)

    def visit() -> None:
        machine, _ = guest(MIX, shared, store)
        digests(machine)
        machine.reset()
        machine.run(max_steps=5000)
        assert (translator_of(machine).own is not None) == own

    visit()
    tracemalloc.start()
    try:
        visit()
        before = large()
        for _ in range(8):
            visit()
        assert large() <= before + 4  # each guest has dozens
    finally:
        tracemalloc.stop()


def test_the_store_of_regions_is_bounded() -> None:
    """By what the object code takes, not only by how many pages there are."""
    machine, native = guest(MIX, SharedCode())
    machine.run(max_steps=1000)
    assert native.hot is not None
    page = next(iter(translator_of(machine).pages.values()))
    request = native.hot.request(translator_of(machine), page)
    assert request is not None
    made = compile_request(request, native.parts.rounds)
    assert made is not None
    region: CachedRegion = made.region
    store = RegionStore(None, 3 * len(region.data))
    for number in range(10):
        store.add(f"page {number}", region)
    assert [bool(store.find(f"page {number}")) for number in range(10)] == [False] * 7 + [True] * 3
    assert store.evictions == 7
