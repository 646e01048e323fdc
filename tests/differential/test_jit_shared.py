"""Optimised code that another guest, process or thread has made."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.engine.jit.build import Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages, compile_request
from asyncvmm.engine.jit.regions import RegionStore, page_key
from asyncvmm.machine import Machine
from tests.differential.test_jit_regions import CONFLICT, translator_of
from tests.unit.machine.guest_machines import program_machine

MIX = """
    li   s0, 0x80100000
    li   s1, 12345
    li   s2, 6364136223846793005
loop:
    mul  s1, s1, s2
    addi s1, s1, 1442
    srli t0, s1, 40
    andi t0, t0, 2040
    add  t1, s0, t0
    ld   t2, 0(t1)
    add  t2, t2, s1
    sd   t2, 0(t1)
    andi t3, s1, 64
    beqz t3, loop
    addi s3, s3, 1
    j    loop
"""


def guest(source: str, store: RegionStore) -> tuple[Machine, Native]:
    """A machine with an engine of its own."""
    native = Native(hot=HotPages(store=store), watch=False, threshold=0)
    machine = program_machine(source)
    machine.scheduler.use(TranslatingEngine(native, native.enter))
    return machine, native


def warm(source: str, store: RegionStore) -> None:
    """Run a guest until its pages are optimised, as the background thread does it."""
    machine, native = guest(source, store)
    machine.run(max_steps=2000)
    assert native.hot is not None
    for page in translator_of(machine).pages.values():
        request = native.hot.request(translator_of(machine), page)
        assert request is not None
        made = compile_request(request, native.parts.rounds)
        assert made is not None
        store.add(request.key, made.region)


def digests(machine: Machine) -> list[str]:
    """After several numbers of steps."""
    found = []
    for steps in (1, 1000, 54_321):
        machine.run(max_steps=steps)
        found.append(machine.digest())
    return found


@pytest.mark.parametrize("source", [CONFLICT, MIX], ids=["conflict", "mix"])
def test_the_second_process_starts_hot(tmp_path: Path, source: str) -> None:
    warm(source, RegionStore(tmp_path))
    machine, native = guest(source, RegionStore(tmp_path))
    assert digests(machine) == digests(program_machine(source, engine="interpreter"))
    counted = native.statistics()
    assert counted["cache_hits"] == counted["regions"] == 1
    assert counted["optimising_ns"] == 0


@pytest.mark.parametrize("source", [CONFLICT, MIX], ids=["conflict", "mix"])
def test_the_second_process_translates_ahead(tmp_path: Path, source: str) -> None:
    first = RegionStore(tmp_path)
    native = Native(hot=HotPages(store=first), watch=False)
    learner = program_machine(source)
    learner.scheduler.use(TranslatingEngine(native, native.enter))
    learner.run(max_steps=60_000)
    first.entries.save()
    machine, other = guest(source, RegionStore(tmp_path))
    machine.run(max_steps=1)
    assert other.statistics()["blocks"] >= native.statistics()["blocks"] > 1
    machine, other = guest(source, RegionStore(tmp_path))
    assert digests(machine) == digests(program_machine(source, engine="interpreter"))


@pytest.mark.parametrize("source", [CONFLICT, MIX], ids=["conflict", "mix"])
def test_wrong_entries_change_nothing(source: str) -> None:
    """Blocks that begin at every slot, in the middle of instructions and at the page's end too."""
    store = RegionStore(None)
    code = "j 1f\n" + ".word 0x13\n" * 1022 + "1:\n.half 1\n.word 0x13\n" + source
    expected = digests(program_machine(code, engine="interpreter"))
    machine, _ = guest(code, store)
    for page in range(2):
        data = machine.ram.read(0x80000000 + 4096 * page, 4096)
        store.entries.of(page_key(data)).used.extend(range(2048))
    assert digests(machine) == expected


def test_stores_into_a_region_that_was_not_decoded_here(tmp_path: Path) -> None:
    """Of code from the cache, too, it must be noticed that it changes, before it ever ran."""
    store = RegionStore(tmp_path)
    warm(MIX, store)
    machine, native = guest(MIX, store)
    expected = program_machine(MIX, engine="interpreter")
    for one in (machine, expected):
        one.run(max_steps=20)
        at = one.ram.read(0x80000000, 4096).index((0x00198993).to_bytes(4, "little"))
        one.ram.write(0x80000000 + at, (0x00398993).to_bytes(4, "little"))  # addi s3, s3, 3
        one.run(max_steps=5000)
    assert native.statistics()["cache_hits"] == 1
    assert machine.digest() == expected.digest()
    assert machine.harts[0].x[19] > 300


def test_guests_in_threads_at_once(tmp_path: Path) -> None:
    """One translates and compiles while another runs; all of it shared but the arenas."""
    store = RegionStore(tmp_path)
    sources = [CONFLICT, MIX, CONFLICT, MIX]
    expected = {source: digests(program_machine(source, engine="interpreter")) for source in MIXED}
    found: list[list[str]] = [[] for _ in sources]

    def run(number: int) -> None:
        native = Native(hot=HotPages(0.0002, 1, store=store))
        machine = program_machine(sources[number])
        machine.scheduler.use(TranslatingEngine(native, native.enter))
        found[number] = digests(machine)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(sources))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected[source] for source in sources]


MIXED = (CONFLICT, MIX)
