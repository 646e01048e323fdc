"""The interpreter and the reference executor on the same wild sequences, from fixed seeds."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.isa.tables import BY_NAME, ENCODINGS
from tools.differential.lockstep import Lockstep, Mismatch, Pair, new_hart
from tools.differential.mapped import MappedLockstep
from tools.differential.wild import (
    MACHINE_CSRS,
    POINTERS,
    RAM_BASE,
    RAM_SIZE,
    Sequence,
    WildSequences,
)
from tools.differential.words import EBREAK, Mixer

SESSIONS = 400
SEQUENCES = 16
MAPPED_CHUNKS = 3
CHUNKS = 16  # SESSIONS * SEQUENCES * CHUNKS is a little more than 100,000


@pytest.mark.parametrize("seed", range(CHUNKS))
def test_interpreter_equals_reference(seed: int) -> None:
    lockstep = Lockstep(seed, SEQUENCES)
    for session in range(SESSIONS):
        lockstep.session(session)
    assert lockstep.sequences == SESSIONS * SEQUENCES
    assert lockstep.steps > 25 * lockstep.sequences
    assert lockstep.stepped > lockstep.sequences // 10


@pytest.mark.parametrize("seed", range(MAPPED_CHUNKS))
def test_interpreter_equals_reference_under_translation(seed: int) -> None:
    """In S-mode, with pages that are aliases of each other, or lack rights, or are not there."""
    lockstep = MappedLockstep(seed, SEQUENCES)
    for session in range(SESSIONS):
        lockstep.session(session)
    assert lockstep.steps > 20 * lockstep.sequences
    assert {f"cause {n}" for n in (2, 3, 4, 6, 9, 12, 13, 15)} <= lockstep.seen.keys()


def test_sequences_reach_everything() -> None:
    """What the comparison is worth: every instruction and every M-mode cause is in it."""
    lockstep = Lockstep(0, SEQUENCES)
    for session in range(300):
        lockstep.session(session)
    system = {"mret", "sret", "wfi", "sfence.vma"}
    names = {e.name for e in ENCODINGS if not e.base} - system
    assert names <= lockstep.seen.keys()
    assert {f"cause {n}" for n in (1, 2, 3, 4, 5, 6, 7, 11)} <= lockstep.seen.keys()
    assert lockstep.traps > 1000


def test_a_difference_is_found() -> None:
    """The comparison itself can fail: one bit of one register, of memory, of fcsr."""
    supply = WildSequences(5)
    pair = Pair(supply.memory())
    pair.load(supply.sequence(1))
    assert pair.difference() == ""
    pair.hart.x[7] ^= 1 << 40
    assert pair.difference().startswith("x7: ")
    pair.hart.x[7] ^= 1 << 40
    pair.hart.fp.flags ^= 1
    assert pair.difference().startswith("fcsr: ")
    pair.hart.fp.flags ^= 1
    pair.data[0x123] ^= 0x10
    assert pair.difference().startswith("memory at 0x80000123")


def test_mismatch_names_session_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pair, "difference", lambda self: "x1: made up")
    with pytest.raises(
        Mismatch, match=r"seed 3, session 4, sequence 0(.|\n)*x1: made up(.|\n)*0x8"
    ):
        Lockstep(3).session(4)


@st.composite
def _sequences(draw: st.DrawFn) -> tuple[bytes, Sequence]:
    """Pieces of code as numbers: leaving some out leaves a smaller program, so failures shrink."""
    pieces = draw(st.lists(st.integers(0, 1 << 32), min_size=1, max_size=30))
    code = b""
    for number in pieces:
        word, encoding = Mixer(Random(number), POINTERS).word(32)
        code += word.to_bytes(encoding.length, "little")
    code += EBREAK.to_bytes(4, "little")
    supply = WildSequences(draw(st.integers(0, 1 << 32)))
    start = RAM_BASE + 0x2000 - 2 * draw(st.integers(0, len(code) // 2))
    made = supply.sequence(draw(st.integers(1, 40)))
    sequence = Sequence(
        start, code, made.x, made.f, made.fcsr, made.float_state, start + 8 & -4, start, made.steps
    )
    return supply.memory(), sequence


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(_sequences())
def test_generated_programs(made: tuple[bytes, Sequence]) -> None:
    memory, sequence = made
    pair = Pair(memory)
    pair.load(sequence)
    taken = pair.reference.run(sequence.steps)
    if taken:
        pair.engine.run(pair.hart, taken)
    assert pair.difference() == ""
    assert pair.hart.steps == taken


def test_reservations_cover_the_address_whatever_the_size() -> None:
    """SC.D after LR.W to the same place succeeds, in both (unprivileged 13.2 allows it)."""
    supply = WildSequences(1)
    base = supply.sequence(3)
    lr = BY_NAME["lr.w"].encode({"aq": 0, "rl": 0, "rs1": 2, "rd": 5})
    sc = BY_NAME["sc.d"].encode({"aq": 0, "rl": 0, "rs2": 6, "rs1": 2, "rd": 7})
    x = list(base.x)
    x[2] = RAM_BASE + 0x100
    code = lr.to_bytes(4, "little") + sc.to_bytes(4, "little")
    start = RAM_BASE + 0x1000
    pair = Pair(supply.memory())
    pair.load(Sequence(start, code, tuple(x), base.f, 0, 1, start, start, 2))
    assert pair.reference.run(2) == 2
    pair.engine.run(pair.hart, 2)
    assert pair.difference() == ""
    assert pair.hart.x[7] == 0


@pytest.mark.parametrize("upper", [-0x80000000, 0x7FFFF000, 0, -0x1000])
def test_ends_of_auipc(upper: int) -> None:
    """The lowest offset, too, at both ends of a page and across it (unprivileged 2.4)."""
    word = BY_NAME["auipc"].encode({"rd": 5, "imm": upper}).to_bytes(4, "little")
    base = WildSequences(1).sequence(1)
    for at in (0x1000, 0x1FFC, 0x1FFE):
        start = RAM_BASE + at
        pair = Pair(bytes(RAM_SIZE))
        pair.load(Sequence(start, word, base.x, base.f, 0, 1, RAM_BASE, start, 1))
        assert pair.reference.run(1) == 1
        pair.engine.run(pair.hart, 1)
        assert pair.difference() == ""
        assert pair.hart.x[5] == start + upper


def test_machine_csrs_are_drawn() -> None:
    """The traps' registers are read and written by the sequences themselves."""
    supply = WildSequences(2)
    words = set()
    for _ in range(200):
        code = supply.sequence(1).code
        words |= {int.from_bytes(code[i : i + 4], "little") for i in range(0, len(code) - 3, 2)}
    csrs = {word >> 20 for word in words if word & 0x7F == 0x73 and word >> 12 & 3}
    assert set(MACHINE_CSRS) <= csrs
    assert new_hart(supply.memory()).ram.read(RAM_BASE, 1)
