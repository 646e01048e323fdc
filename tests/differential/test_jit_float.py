"""Floating point in optimised regions: registers, flags and memory as the interpreter leaves them.

The registers are locals of a region there, so what matters is every way out of it: results that are
NaNs, loads and stores that miss the TLB, rounding modes, reads of fcsr, the end of the budget.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Final

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.arch.status import FS
from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.engine.jit.build import Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages
from asyncvmm.engine.jit.translator import Translator
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.tables import ENCODINGS
from tests.differential.test_budgets import snapshot, start
from tests.differential.test_jit import assemble, cut, run_in_parts
from tools.differential.engines import optimise
from tools.differential.wild import RAM_BASE, RAM_SIZE, Sequence
from tools.differential.words import FLOAT_CSRS, aim, random_float

BODY: Final = 28  # instructions of a loop
STEPS: Final = 400
POINTER: Final = 10  # a0: data, three pages of it
BY_NAME: Final = {encoding.name: encoding for encoding in ENCODINGS}
FLOATS: Final = [e for e in ENCODINGS if e.role == "float" and e.length == 4]
MEMORY: Final = [BY_NAME[name] for name in ("fld", "fsd", "flw", "fsw")]
DYNAMIC: Final = 7 << 12
TAME: Final = ("d", "s")  # programs of one format that seldom need the interpreter
TAME_NAMES: Final = (
    "fadd", "fsub", "fmul", "fdiv", "fmadd", "fmsub", "fnmadd", "fnmsub", "fsgnj", "fsgnjn", "fsgnjx",
    "feq", "flt", "fle",
)  # fmt: skip
BOX: Final = 0xFFFFFFFF << 32


def float_word(random: Random, encoding: Encoding) -> int:
    """The instruction on random registers, mostly with the dynamic rounding mode."""
    word = encoding.match | (random.getrandbits(32) & ~encoding.mask)
    has_mode = encoding.mask & DYNAMIC == 0
    if has_mode and random.randrange(8):
        word |= DYNAMIC
    if word >> 7 & 31 == POINTER:
        word ^= 1 << 7
    return word


def memory_word(random: Random, encoding: Encoding) -> int:
    """A load or store near the pointer."""
    store = encoding.name.startswith("fs")
    register = random.getrandbits(5)
    offset = random.randrange(128) * 8 + random.choice((0, 0, 0, 4))
    if store:
        return (
            encoding.match
            | POINTER << 15
            | register << 20
            | (offset >> 5) << 25
            | (offset & 31) << 7
        )
    return encoding.match | POINTER << 15 | register << 7 | offset << 20


def float_loop(random: Random, kind: str) -> bytes:
    """Instructions, a step of the pointer, and a jump back."""
    floats, memory = FLOATS, MEMORY
    if kind in TAME:
        floats = [BY_NAME[f"{name}.{kind}"] for name in TAME_NAMES]
        memory = [
            BY_NAME["fld" if kind == "d" else "flw"],
            BY_NAME["fsd" if kind == "d" else "fsw"],
        ]
    words = []
    for _ in range(BODY):
        choice = random.randrange(16)
        if choice < 6:
            words.append(memory_word(random, random.choice(memory)))
        elif choice == 6 and kind == "fcsr":
            how = random.choice((1, 2, 3, 5, 6, 7))
            number = random.choice(FLOAT_CSRS)
            words.append(number << 20 | random.getrandbits(5) << 15 | how << 12 | 5 << 7 | 0x73)
        else:
            words.append(float_word(random, random.choice(floats)))
    words.append(0x40050513)  # addi a0, a0, 1024: now and then into the next page
    words.append(aim(BY_NAME["jal"], 0x6F, -4 * len(words)))
    return assemble(*words)


def tame_float(random: Random, kind: str) -> int:
    """Bits of a number in the middle of the range, a single in both halves or a double."""
    value = random.uniform(0.5, 2.0) * 2.0 ** random.randrange(-9, 9) * random.choice((1, -1))
    if kind == "d":
        return int.from_bytes(struct.pack("<d", value), "little")
    return int.from_bytes(struct.pack("<ff", value, value), "little")


def float_start(random: Random, kind: str) -> tuple[Sequence, bytes]:
    """Such a loop at the start of RAM, registers, and what is in RAM."""
    x = [random.getrandbits(random.randrange(1, 65)) for _ in range(32)]
    x[0], x[POINTER] = 0, RAM_BASE + 4096
    frm = random.randrange(5) if random.randrange(2) else 0
    state = random.choice((0, 1, 2, 3, 3, 3))
    if kind in TAME:
        f = [tame_float(random, kind) | (BOX if kind == "s" else 0) for _ in range(32)]
        values = [tame_float(random, kind) for _ in range(RAM_SIZE // 8)]
        frm, state = frm & 3, 3
    else:
        f = [random_float(random) for _ in range(32)]
        values = [random_float(random) for _ in range(RAM_SIZE // 8)]
    code = float_loop(random, kind)
    fcsr = frm << 5
    made = Sequence(RAM_BASE, code, tuple(x), tuple(f), fcsr, state, RAM_BASE + 8, RAM_BASE, STEPS)
    return made, b"".join(value.to_bytes(8, "little") for value in values)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["wild", "fcsr", "d", "s"])
def test_loops_of_floating_point(seed: int, kind: str) -> None:
    """Wild values, all instructions and modes, or numbers that stay some; cut anywhere."""
    native = Native(hot=HotPages(), watch=False, threshold=0)
    engine = TranslatingEngine(native, native.enter)
    random = Random(8200 + seed)
    dirty = slow = 0
    for number in range(16):
        sequence, memory = float_start(random, kind)
        expected, hart = start(memory, sequence), start(memory, sequence)
        run_in_parts(Interpreter(), expected, [STEPS])
        run_in_parts(engine, hart, [64])
        translator = hart.code.listener
        assert isinstance(translator, Translator)
        optimise(native, translator)
        before = int(engine.slow)
        run_in_parts(engine, hart, cut(random, STEPS - 64))
        assert snapshot(hart) == snapshot(expected), f"seed {seed}, program {number}"
        dirty += hart.mstatus & FS == FS
        slow += int(engine.slow) - before
    assert dirty > 5
    assert native.hot is not None
    assert native.hot.regions > 10
    assert kind not in TAME or slow < 16 * STEPS // 10


def test_a_region_uses_the_mode_that_fcsr_has_now() -> None:
    """The same region with another rounding mode: 1/3 is rounded up, then down."""
    code = assemble(
        0x1A20F1D3,  # fdiv.d f3, f1, f2 with the dynamic mode
        0x00150513,  # addi a0, a0, 1
        0xFF9FF06F,  # j -8
    )
    native = Native(hot=HotPages(), watch=False, threshold=0)
    engine = TranslatingEngine(native, native.enter)
    f = [0] * 32
    f[1], f[2] = 0x3FF0000000000000, 0x4008000000000000
    sequence = Sequence(RAM_BASE, code, (0,) * 32, tuple(f), 0, 3, RAM_BASE, RAM_BASE, 0)
    hart = start(bytes(RAM_SIZE), sequence)
    run_in_parts(engine, hart, [60])
    translator = hart.code.listener
    assert isinstance(translator, Translator)
    optimise(native, translator)
    run_in_parts(engine, hart, [60])
    assert native.hot is not None and native.hot.regions == 1
    slow = engine.slow
    found = []
    for mode in (3, 2):
        hart.fp.frm, hart.fp.flags = mode, 0
        run_in_parts(engine, hart, [60])
        found.append((hart.f[3], hart.fp.flags))
    assert found == [(0x3FD5555555555556, 1), (0x3FD5555555555555, 1)]
    assert engine.slow == slow
