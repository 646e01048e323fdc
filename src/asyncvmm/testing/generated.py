"""Generated programs: valid instruction sequences that stay in their own memory and always end.

A program is made from one number per piece (usually one instruction), so that leaving pieces out
gives a smaller valid program. Branches and jumps go forward, loops count down a register of their
own, memory is reached through registers that nothing else writes, and an ebreak is the end.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Final

from asyncvmm.isa.disasm import disassemble
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference import find_encoding
from asyncvmm.isa.tables import BY_NAME, ENCODINGS

BASE: Final = 0x80000000
SCRATCH: Final = 0x80010000
SCRATCH_SIZE: Final = 0x2000
"""Bytes of memory that a program may read and write, from SCRATCH."""

POINTERS: Final = (2, 8, 26, 27)
"""sp, s0, s10 and s11 point into the scratch memory, 2 KiB from either end at least, 8-aligned."""

COUNTER: Final = 31
KEPT: Final = frozenset((*POINTERS, COUNTER))

ALL_EXTENSIONS: Final = frozenset({encoding.extension for encoding in ENCODINGS})
FLOAT_CSRS: Final = (0x001, 0x002, 0x003)
MSCRATCH: Final = 0x340
EBREAK: Final = 0x00100073

# So often is each role chosen, in proportion.
_WEIGHTS: Final = {
    "alu": 30, "float": 30, "load": 12, "store": 10, "atomic": 8, "branch": 8, "jump": 4, "csr": 4,
    "fence": 1,
}  # fmt: skip

_WORDS: Final = (
    0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    0x100000000, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFF80000000, 0xFFFFFFFFFFFFFFFF,
)  # fmt: skip

_FLOATS: Final = (
    0.0, 1.0, 1.5, 2.5, 0.5, 3.0, 2.0**31, 2.0**32, 2.0**63, 2.0**64, 2.0**31 - 1, 1e-40, 1e-45,
    5e-324, 2.2250738585072014e-308, 1.1754943508222875e-38, 3.4028234663852886e38,
    1.7976931348623157e308, 1e10, 1 / 3, float("inf"), float("nan"),
)  # fmt: skip


@dataclass(frozen=True)
class GeneratedProgram:
    """Code at ``base``, contents of the scratch memory, and the registers to start with.

    ``x`` and ``f`` are unsigned 64-bit patterns; the code ends with an ebreak.
    """

    base: int
    code: bytes
    scratch: int
    data: bytes
    x: tuple[int, ...]
    f: tuple[int, ...]
    fcsr: int

    @property
    def listing(self) -> str:
        """The disassembled code, one instruction a line."""
        lines = []
        at = 0
        while at < len(self.code):
            length = 4 if self.code[at] & 3 == 3 else 2
            word = int.from_bytes(self.code[at : at + length], "little")
            lines.append(f"{self.base + at:#x}: {disassemble(word, self.base + at)}")
            at += length
        return "\n".join(lines)

    def __repr__(self) -> str:
        registers = " ".join(f"x{n}={value:#x}" for n, value in enumerate(self.x) if value)
        floats = " ".join(f"f{n}={value:#x}" for n, value in enumerate(self.f))
        return f"<program\n{self.listing}\n{registers}\n{floats} fcsr={self.fcsr:#x}>"


@dataclass
class _Line:
    """An instruction; ``skip`` pieces on is where a branch or jump goes (None: it is none)."""

    encoding: Encoding
    values: dict[str, int]
    skip: int | None = None


def random_word(random: Random) -> int:
    """A 64-bit value, often an edge."""
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(_WORDS)
    if kind < 5:
        return random.getrandbits(64)
    if kind == 5:
        return random.getrandbits(random.randrange(1, 64))
    if kind == 6:
        return -random.getrandbits(random.randrange(1, 32)) & 0xFFFFFFFFFFFFFFFF
    return 1 << random.randrange(64)


def random_float_register(random: Random) -> int:
    """A raw pattern: single (boxed), double, or anything."""
    kind = random.randrange(8)
    value = random.choice(_FLOATS) * random.choice((1, -1))
    if kind < 3:
        low = struct.unpack("<I", struct.pack("<f", _to_single(value)))[0]
        return 0xFFFFFFFF00000000 | int(low)
    if kind < 5:
        return int(struct.unpack("<Q", struct.pack("<d", value))[0])
    if kind == 5:
        return 0xFFFFFFFF00000000 | random.getrandbits(32)
    return random.getrandbits(64)


def _to_single(value: float) -> float:
    """The value, or an infinity if binary32 cannot hold it."""
    try:
        struct.pack("<f", value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return value


def build_program(
    pieces: Sequence[int],
    state: int,
    *,
    base: int = BASE,
    scratch: int = SCRATCH,
    extensions: frozenset[str] = ALL_EXTENSIONS,
) -> GeneratedProgram:
    """The program of these numbers, one piece each; ``state`` seeds registers and memory."""
    chosen = _by_role(extensions)
    made = [_piece(Random(number), chosen) for number in pieces]
    made.append([_Line(BY_NAME["ebreak"], {})])
    starts = []
    at = base
    for lines in made:
        starts.append(at)
        at += sum(line.encoding.length for line in lines)
    code = b""
    for index, lines in enumerate(made):
        for line in lines:
            code += _encode(line, index, base + len(code), starts)
    return GeneratedProgram(base, code, scratch, *_state(Random(state), scratch))


def with_state(program: GeneratedProgram, state: int) -> GeneratedProgram:
    """The same code with other registers and memory."""
    data, x, f, fcsr = _state(Random(state), program.scratch)
    return replace(program, data=data, x=x, f=f, fcsr=fcsr)


def _state(random: Random, scratch: int) -> tuple[bytes, tuple[int, ...], tuple[int, ...], int]:
    """Scratch memory, registers and fcsr to start with."""
    x = [0] + [random_word(random) for _ in range(31)]
    for register in POINTERS:
        x[register] = scratch + 0x800 + 8 * random.randrange((SCRATCH_SIZE - 0x1000) // 8)
    f = tuple(random_float_register(random) for _ in range(32))
    return random.randbytes(SCRATCH_SIZE), tuple(x), f, random.randrange(5) << 5


@cache
def _by_role(extensions: frozenset[str]) -> dict[str, list[Encoding]]:
    """The encodings to choose from; whole roles without any are left out."""
    roles: dict[str, list[Encoding]] = {}
    for encoding in ENCODINGS:
        # The base of a compressed instruction must be there too: c.fld needs D.
        base = BY_NAME[encoding.base] if encoding.base else encoding
        if {encoding.extension, base.extension} <= extensions and encoding.role in _WEIGHTS:
            if not encoding.name.startswith(("c.j", "c.addi16sp")) or encoding.name == "c.j":
                roles.setdefault(encoding.role, []).append(encoding)
    return roles


def _piece(random: Random, chosen: dict[str, list[Encoding]]) -> list[_Line]:
    """One piece: an instruction, an indirect jump, or a short loop."""
    if "branch" in chosen and random.randrange(40) == 0:
        return _loop(random, chosen)
    roles = list(chosen)
    role = random.choices(roles, [_WEIGHTS[role] for role in roles])[0]
    encoding = random.choice(chosen[role])
    if encoding.name == "jalr":
        return _indirect(random, encoding)
    if encoding.name.startswith("sc."):
        return _conditional(random, encoding)
    line = _Line(encoding, _values(random, encoding))
    if role in ("branch", "jump"):
        line.skip = random.randrange(1, 5)
    return [line]


def _indirect(random: Random, jalr: Encoding) -> list[_Line]:
    """auipc and jalr to the next piece or a nop further."""
    register = _destination(random)
    while register == 0:
        register = _destination(random)
    nop = _Line(BY_NAME["c.nop"], {"imm": 0})
    link = _destination(random)
    distance = 8 + 2 * random.randrange(3)
    return [
        _Line(BY_NAME["auipc"], {"rd": register, "imm": 0}),
        _Line(jalr, {"rd": link, "rs1": register, "imm": distance | random.randrange(2)}),
        nop,
        nop,
    ]


def _conditional(random: Random, sc: Encoding) -> list[_Line]:
    """A load-reserved with its store-conditional, and perhaps another one, which fails.

    What another size or address would do is the implementation's choice (I 13.3).
    """
    pair = BY_NAME[sc.name.replace("sc.", "lr.")]
    values = _values(random, sc)
    lr = _values(random, pair) | {"rs1": values["rs1"]}
    again = [_Line(sc, values | {"rd": _destination(random)})] if random.randrange(4) == 0 else []
    return [_Line(pair, lr), _Line(sc, values), *again]


def _loop(random: Random, chosen: dict[str, list[Encoding]]) -> list[_Line]:
    """A body that runs one to four times; nothing in it branches."""
    body = []
    roles = [role for role in chosen if role not in ("branch", "jump")]
    for _ in range(random.randrange(1, 5)):
        encoding = random.choice(chosen[random.choice(roles)]) if roles else BY_NAME["c.nop"]
        if encoding.name.startswith("sc."):
            encoding = BY_NAME[encoding.name.replace("sc.", "amoadd.")]
        body.append(_Line(encoding, _values(random, encoding)))
    back = -sum(line.encoding.length for line in body) - 4
    addi, bne = BY_NAME["addi"], BY_NAME["bne"]
    count = random.randrange(1, 5)
    return [
        _Line(addi, {"rd": COUNTER, "rs1": 0, "imm": count}),
        *body,
        _Line(addi, {"rd": COUNTER, "rs1": COUNTER, "imm": -1}),
        _Line(bne, {"rs1": COUNTER, "rs2": 0, "imm": back}),
    ]


def _destination(random: Random) -> int:
    """A register that programs may write; often one of a few, so that values are used again."""
    while True:
        register: int = random.choice((*range(32), 0, 5, 6, 7, 9, 10, 10, 11, 12))
        if register not in KEPT:
            return register


def _values(random: Random, encoding: Encoding) -> dict[str, int]:
    """Operands that make the instruction legal, harmless, and not a special case of it."""
    while True:
        values = _some_values(random, encoding)
        if encoding.length == 4 or find_encoding(encoding.encode(values)) is encoding:
            return values


def _some_values(random: Random, encoding: Encoding) -> dict[str, int]:
    """Operands that make the instruction legal and harmless."""
    memory = encoding.role in ("load", "store", "atomic")
    values: dict[str, int] = {}
    for operand in encoding.operands:
        steps = (operand.high - operand.low) // operand.step
        value = operand.low + operand.step * random.randrange(steps + 1)
        if operand.kind == "x" and operand.name == "rd":
            while value in KEPT or (encoding.reserved == ("rd", value)):
                value = operand.low + random.randrange(steps + 1)
        elif operand.name == "rs1" and memory:
            value = 8 if operand.bias else random.choice(POINTERS)
        elif operand.kind == "rm":
            value = random.choice((0, 1, 2, 3, 4, 7, 7, 7))
        elif operand.kind == "csr":
            value = random.choice((*FLOAT_CSRS, MSCRATCH))
        elif operand.name == "rs1" and encoding.role == "csr":
            value = random.randrange(32)
        values[operand.name] = value
    if encoding.reserved is not None and encoding.is_reserved(values):
        name = encoding.reserved[0]
        values[name] = next(o.step for o in encoding.operands if o.name == name)
    if values.get("csr") in (0x002, 0x003):
        # A reserved rounding mode would make everything after it illegal.
        if "uimm" in values:
            values["uimm"] = random.randrange(5)
            if encoding.name == "csrrsi":
                values["uimm"] = 0
        elif encoding.name != "csrrc":
            values["rs1"] = 0
    return values


def _encode(line: _Line, index: int, at: int, starts: list[int]) -> bytes:
    """The instruction's bytes; a branch that cannot reach its target becomes a nop."""
    values = line.values
    if line.skip is not None:
        target = starts[min(index + line.skip, len(starts) - 1)]
        values = {**values, "imm": target - at}
    try:
        word = line.encoding.encode(values)
    except ValueError:
        nop = BY_NAME["addi"] if line.encoding.length == 4 else BY_NAME["c.nop"]
        word = nop.encode({"rd": 0, "rs1": 0, "imm": 0})
    return word.to_bytes(line.encoding.length, "little")
