"""Guests that share pages against plain memories of their own: no order of events tells them apart."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.machine import UNLIMITED, BootFile, BootFiles, GuestConfig, Machine
from asyncvmm.memory.merge import Merger
from asyncvmm.memory.pages import ABSENT, SHARED, PageTable, Ram
from tests.unit.machine.guest_machines import device_types

BASE = 0x8000_0000
PAGE = 4096
PAGES = 5
SIZE = PAGES * PAGE

offsets = st.one_of(st.integers(0, SIZE - 8), st.sampled_from([0, PAGE - 1, PAGE, 3 * PAGE]))
# Few contents, so that equal pages are common.
contents = st.builds(
    lambda word, count: word * count,
    st.sampled_from([b"\0", b"\0", b"A", b"B", b"page"]),
    st.sampled_from([1, 7, 8, PAGE // 4, PAGE, 2 * PAGE]),
)


class Guest:
    """One RAM, and the bytes that it must hold."""

    def __init__(self, merger: Merger) -> None:
        self.ram = Ram(BASE, SIZE, merger.shared_pages)
        self.model = bytearray(SIZE)


class SharedMemory(RuleBasedStateMachine):
    """Guests of one group write, read, are merged, frozen, restored, and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.merger = Merger()
        self.guests: list[Guest] = [Guest(self.merger), Guest(self.merger)]
        self.gone: list[Guest] = []
        self.tables: list[tuple[PageTable, bytes]] = []

    def pick(self, data: Any) -> Guest:
        return self.guests[data.draw(st.integers(0, len(self.guests) - 1))]

    @rule(data=st.data(), offset=offsets, content=contents)
    def dma(self, data: Any, offset: int, content: bytes) -> None:
        guest = self.pick(data)
        content = content[: SIZE - offset]
        guest.ram.write(BASE + offset, content)
        guest.model[offset : offset + len(content)] = content

    @rule(data=st.data(), offset=offsets, size=st.sampled_from([1, 2, 4, 8]), value=contents)
    def store(self, data: Any, offset: int, size: int, value: bytes) -> None:
        guest = self.pick(data)
        value = value[:size].ljust(size, b"\0")
        guest.ram.store(BASE + offset, size, int.from_bytes(value, "little", signed=True))
        guest.model[offset : offset + size] = value

    @rule(data=st.data(), word=st.integers(0, SIZE // 8 - 1), value=st.integers(-1, 1))
    def store_word(self, data: Any, word: int, value: int) -> None:
        guest = self.pick(data)
        guest.ram.store64(BASE + word * 8, value)
        guest.model[word * 8 : word * 8 + 8] = value.to_bytes(8, "little", signed=True)

    @rule(data=st.data(), offset=offsets)
    def load(self, data: Any, offset: int) -> None:
        guest = self.pick(data)
        for size in (1, 2, 4):
            want = int.from_bytes(guest.model[offset : offset + size], "little")
            assert guest.ram.load(BASE + offset, size) == want

    @rule(data=st.data(), start=st.integers(0, PAGES - 1), pages=st.integers(0, PAGES))
    def merge(self, data: Any, start: int, pages: int) -> None:
        position = self.merger.scan(self.pick(data).ram, start, pages)
        assert position == -1 or start <= position < PAGES

    @rule()
    def merge_all(self) -> None:
        for guest in self.guests:
            assert self.merger.scan(guest.ram, 0, PAGES) == -1
            for index in range(PAGES):
                page = guest.model[index * PAGE : (index + 1) * PAGE]
                absent = guest.ram.kind[index] == ABSENT
                # Zeros may be left only where the page was shared while it held them.
                assert not absent or not any(page)

    @rule(data=st.data())
    def load_image(self, data: Any) -> None:
        self.merger.share_all(self.pick(data).ram)

    @rule()
    def arrive(self) -> None:
        if len(self.guests) < 4:
            self.guests.append(Guest(self.merger))

    @precondition(lambda self: len(self.guests) > 1)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        guest = self.pick(data)
        self.guests.remove(guest)
        self.merger.forget(guest.ram)
        self.gone = [*self.gone[-2:], guest]

    @precondition(lambda self: self.gone)
    @rule(offset=offsets, content=contents)
    def write_where_a_guest_was(self, offset: int, content: bytes) -> None:
        guest = self.gone[-1]
        content = content[: SIZE - offset]
        guest.ram.write(BASE + offset, content)
        guest.model[offset : offset + len(content)] = content

    @rule(data=st.data())
    def reset(self, data: Any) -> None:
        guest = self.pick(data)
        guest.ram.clear()
        guest.model[:] = bytes(SIZE)

    @rule(data=st.data())
    def freeze(self, data: Any) -> None:
        guest = self.pick(data)
        if len(self.tables) < 3:
            self.tables.append((guest.ram.freeze(), bytes(guest.model)))

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), number=st.integers(0, 2))
    def thaw(self, data: Any, number: int) -> None:
        guest = self.pick(data)
        table, model = self.tables[number % len(self.tables)]
        guest.ram.thaw(table)
        guest.model[:] = model

    @precondition(lambda self: self.tables)
    @rule()
    def release(self) -> None:
        table, _ = self.tables.pop(0)
        table.release()

    @invariant()
    def every_memory_holds_what_was_written(self) -> None:
        for guest in (*self.guests, *self.gone):
            assert guest.ram.read(BASE, SIZE) == guest.model
        for table, model in self.tables:
            for index in range(PAGES):
                assert table.page_bytes(index) == model[index * PAGE : (index + 1) * PAGE]
        assert not any(self.guests[0].ram.zero)

    @invariant()
    def the_books_are_right(self) -> None:
        store = self.merger.shared_pages
        used: dict[int, int] = {}
        for guest in self.guests:
            kinds = [int(kind) for kind in guest.ram.kind]
            assert guest.ram.resident == sum(kind != ABSENT for kind in kinds)
            assert guest.ram.shared == sum(kind >= SHARED for kind in kinds)
            assert SHARED not in kinds
            for kind in kinds:
                if kind > SHARED:
                    used[kind - SHARED] = used.get(kind - SHARED, 0) + 1
        for table, _ in self.tables:
            for kind in table.kind:
                if kind > SHARED:
                    used[int(kind) - SHARED] = used.get(int(kind) - SHARED, 0) + 1
        assert store.count == len(used)
        assert store.references == sum(used.values())
        assert all(store.uses(number) == uses for number, uses in used.items())


TestSharedMemory = SharedMemory.TestCase
TestSharedMemory.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


# Stores of all kinds to pages that were merged, code that rewrites itself in a shared page, atomics.
PROGRAM = """
    la s0, work
    li s1, {seed}
    li s4, 6364136223846793005
    li s5, {rounds}
again:
    mul s1, s1, s4
    addi s1, s1, 1013
    srli t0, s1, 33
    li t1, 0x7fff
    and t0, t0, t1
    andi t0, t0, -8
    add t1, s0, t0
    andi t2, s1, 1023
    srli t3, s1, 40
    andi t3, t3, 7
    beqz t3, word
    addi t3, t3, -1
    beqz t3, byte
    addi t3, t3, -1
    beqz t3, atomic
    addi t3, t3, -1
    beqz t3, reserve
    addi t3, t3, -1
    beqz t3, rewrite
    addi t3, t3, -1
    beqz t3, wide
    addi t3, t3, -1
    beqz t3, clear
    sd zero, 0(t1)
    ld t4, 8(t1)
    add s6, s6, t4
    j next
clear:
    srli t1, t1, 12
    slli t1, t1, 12
    li t4, 512
more:
    sd zero, 0(t1)
    addi t1, t1, 8
    addi t4, t4, -1
    bnez t4, more
    j next
word:
    sw t2, 4(t1)
    j next
byte:
    sb t2, 3(t1)
    j next
atomic:
    amoadd.d t4, t2, (t1)
    add s6, s6, t4
    j next
reserve:
    lr.d t4, (t1)
    addi t4, t4, 1
    sc.d t4, t4, (t1)
    add s6, s6, t4
    j next
wide:
    sd t2, 5(t1)
    ld t4, 5(t1)
    add s6, s6, t4
    j next
rewrite:
    la t4, patch
    slli t5, t2, 20
    li t6, 0x13 | 29 << 7 | 29 << 15
    or t5, t5, t6
    sw t5, 0(t4)
    fence.i
patch:
    addi t4, t4, 0
    add s6, s6, t4
next:
    addi s5, s5, -1
    bnez s5, again
    li t0, 0x5555
    li t1, 0x100000
    sw t0, 0(t1)
stop:
    j stop
    .align 12
work:
    .zero 65536
"""


def guest_machine(engine: str, merger: Merger | None, seed: int) -> Machine:
    source = PROGRAM.format(seed=seed, rounds=400)
    elf = to_elf(assemble(source, BASE))
    config = GuestConfig(elf="program.elf", memory="8M", engine=engine)
    files = BootFiles(elf=BootFile("program.elf", elf))
    machine = Machine(config, files, device_types(), merger=merger)
    machine.share_image()
    return machine


@pytest.mark.parametrize("engine", ["interpreter", "jit"])
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(choice=st.integers(0, 1 << 32))
def test_a_guest_that_shares_has_the_digest_of_one_that_does_not(engine: str, choice: int) -> None:
    rng = random.Random(choice)
    merger = Merger()
    seeds = [choice, choice, choice + 1]
    plain = [guest_machine(engine, None, seed) for seed in seeds]
    sharing = [guest_machine(engine, merger, seed) for seed in seeds]
    assert all(machine.ram.shared for machine in sharing)
    tables: list[PageTable] = []
    while sharing[0].ending is None:
        steps = rng.choice([1, 17, 300, 3000])
        for one, other in zip(plain, sharing, strict=True):
            one.run(UNLIMITED, steps)
            other.run(UNLIMITED, steps)
            assert one.digest() == other.digest(), f"seed {choice}"
            if rng.random() < 0.8:
                merger.scan(other.ram, rng.randrange(4), rng.choice([1, 9, 5000]))
            if rng.random() < 0.1:
                tables.append(other.ram.freeze())
            if len(tables) > 2:
                tables.pop(0).release()
            assert one.digest() == other.digest(), f"seed {choice}"
    assert merger.merged > 0
    assert merger.zeros > 0


def test_a_reset_guest_shares_its_image_again() -> None:
    merger = Merger()
    machines = [guest_machine("interpreter", merger, 1) for _ in range(2)]
    fresh = machines[0].digest()
    kept = merger.shared_pages.count
    machines[0].run(UNLIMITED, 5000)
    assert machines[0].ram.shared < machines[0].ram.resident
    machines[0].reset()
    assert machines[0].ram.shared == machines[0].ram.resident
    assert merger.shared_pages.count == kept
    assert machines[0].ram.read(BASE, SIZE) == machines[1].ram.read(BASE, SIZE)
    assert fresh == machines[1].digest()
