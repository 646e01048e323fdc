"""Bare-metal ELFs of random blocks: each block's registers and every trap go to a signature.

What all machines must do alike is in them: no device, no counter, no address outside the scratch
memory but one pointer that faults. ``Signature`` takes the result apart for comparing.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Final

from asyncvmm.isa.asm import Program, assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference import find_encoding
from asyncvmm.isa.tables import BY_NAME, ENCODINGS
from tools.differential.signature import (
    BASE,
    BLOCKS,
    FINISHER,
    MAX_BLOCKS,
    MEMORY_MIB,
    MODES,
    NOWHERE,
    PAGE_TABLES,
    RECORD_SIZE,
    RECORDS,
    SCRATCH,
    SCRATCH_SIZE,
    TABLE,
    TRAP_SIZE,
    Image,
)
from tools.differential.words import (
    C_EBREAK,
    EBREAK,
    ECALL,
    Mixer,
    aim,
    random_float,
    random_word,
)

# x3 is the record, x4 the way back, the pointers hold addresses in the scratch memory.
_ALIGNED: Final = (2, 8, 26)
_UNALIGNED: Final = (9, 27)
_NOWHERE_POINTER: Final = 18
_KEPT: Final = frozenset((3, 4, *_ALIGNED, *_UNALIGNED, _NOWHERE_POINTER))

_RUNTIME: Final = """
_start:
        la      x5, handler
        csrw    mtvec, x5
        li      x5, 3 << 13             # mstatus.FS
        csrs    mstatus, x5
        li      x5, -1                  # all of memory is open to S and U
        csrw    pmpaddr0, x5
        li      x5, 0x1f
        csrw    pmpcfg0, x5
        li      x5, {satp:#x}
        csrw    satp, x5
        sfence.vma
        li      x5, 3 << 11             # mstatus.MPP
        csrc    mstatus, x5
        li      x5, {mode} << 11
        csrs    mstatus, x5
        la      x5, enter
        csrw    mepc, x5
        mret
enter:
        li      x3, {records:#x} - 512
        jal     x4, next                # loads the first block's state
        li      x5, {blocks:#x}
        jr      x5

finish: ecall                           # to M-mode, at the end of the last block
ended:
        la      x5, park
        csrw    mtvec, x5
        la      x5, tohost
        li      x6, 1
        sd      x6, 0(x5)
        li      x5, 0x7777             # reset: QEMU 7.2 exits at once on 0x5555
        li      x6, {finisher:#x}
        sw      x5, 0(x6)
        .balign 4
park:   j       park

        .balign 4
handler:                                # logs mcause, mepc, mtval and skips the instruction
        sd      x5, 40(x3)
        sd      x6, 48(x3)
        csrr    x6, mepc
        la      x5, finish
        beq     x5, x6, ended
        la      x5, trap_pointer
        ld      x6, 0(x5)
        csrr    x5, mcause
        sd      x5, 0(x6)
        csrr    x5, mtval
        sd      x5, 16(x6)
        csrr    x5, mepc
        sd      x5, 8(x6)
        lhu     x6, 0(x5)
        andi    x6, x6, 3
        sltiu   x6, x6, 3
        slli    x6, x6, 1
        addi    x5, x5, 4
        sub     x5, x5, x6
        csrw    mepc, x5
        la      x5, trap_pointer
        ld      x6, 0(x5)
        addi    x6, x6, 24
        sd      x6, 0(x5)
        ld      x5, 40(x3)
        ld      x6, 48(x3)
        mret

dump:                                   # the state to the record at x3, then the next state
{save}
        csrr    x5, fcsr
        sd      x5, 0(x3)
next:   la      x5, table_pointer
        ld      x6, 0(x5)
        addi    x7, x6, 512
        sd      x7, 0(x5)
        ld      x5, 0(x6)
        csrw    fcsr, x5
{restore}
        ld      x6, 48(x6)
        addi    x3, x3, 512
        jr      x4

        .balign 8
tohost: .dword  0
fromhost: .dword 0
trap_pointer: .dword {traps:#x}
table_pointer: .dword {table:#x}
        .equ    begin_signature, {scratch:#x}
        .equ    end_signature, {end:#x}
"""


class ImageBuilder:
    """Images from one seed, without the instructions named in ``avoid``.

    The blocks run in ``mode``, one of MODES; with translation memory is mapped to itself, the code
    and the scratch memory by pages of 4 KiB, the rest by 2 MiB.
    """

    def __init__(self, seed: int, avoid: frozenset[str] = frozenset(), mode: str = "m") -> None:
        self.privilege, self.scheme = MODES[mode]
        self.random = Random(seed)
        self.mixer = Mixer(self.random, _ALIGNED + _UNALIGNED, avoid)

    def build(self, blocks: int, length: int) -> Image:
        """``blocks`` blocks of about ``length`` instructions."""
        if not 0 < blocks <= MAX_BLOCKS:
            raise ValueError(f"{blocks} blocks, not 1..{MAX_BLOCKS}")
        random = self.random
        traps = RECORDS + RECORD_SIZE * (blocks + 1)  # the last ECALL's handler writes in one more
        counts = 0
        starts = []
        code = bytearray()
        runtime = self._runtime(traps, traps)
        dump, finish = runtime.symbols["dump"], runtime.symbols["finish"]
        for _ in range(blocks):
            starts.append(BLOCKS + len(code))
            pieces = [self._piece() for _ in range(length)]
            counts += sum(map(len, pieces))
            code += _place(pieces, random)
            code += _jal(4, dump - BLOCKS - len(code))
        code += _jal(0, finish - BLOCKS - len(code))
        if BLOCKS + len(code) > TABLE:
            raise ValueError("the blocks do not fit: fewer or shorter ones")
        end = traps + TRAP_SIZE * (counts + 1)
        end += -end % 64
        runtime = self._runtime(traps, end)
        data = bytearray(runtime.data).ljust(SCRATCH - BASE + SCRATCH_SIZE, b"\0")
        if len(runtime.data) > BLOCKS - BASE:
            raise ValueError("the runtime does not fit before the blocks")
        data[BLOCKS - BASE : BLOCKS - BASE + len(code)] = code
        table = b"".join(self._state() for _ in range(blocks + 1))
        data[TABLE - BASE : TABLE - BASE + len(table)] = table
        tables = self._page_tables()
        data[PAGE_TABLES - BASE : PAGE_TABLES - BASE + len(tables)] = tables
        data[SCRATCH - BASE :] = random.randbytes(SCRATCH_SIZE)
        elf = to_elf(Program(bytes(data), runtime.symbols, BASE))
        return Image(elf, tuple(starts), bytes(code), counts, SCRATCH, end - SCRATCH)

    def _runtime(self, traps: int, end: int) -> Program:
        saved = [n for n in range(1, 32) if n not in (3, 4)]
        save = [f"sd x{n}, {8 * n}(x3)" for n in saved]
        save += [f"fsd f{n}, {256 + 8 * n}(x3)" for n in range(32)]
        restore = [f"fld f{n}, {256 + 8 * n}(x6)" for n in range(32)]
        restore += [f"ld x{n}, {8 * n}(x6)" for n in saved if n != 6]
        source = _RUNTIME.format(
            records=RECORDS,
            blocks=BLOCKS,
            finisher=FINISHER,
            traps=traps,
            table=TABLE,
            scratch=SCRATCH,
            end=end,
            mode=self.privilege,
            satp=self.scheme << 60 | PAGE_TABLES >> 12 if self.scheme else 0,
            save="\n".join(save),
            restore="\n".join(restore),
        )
        return assemble(source, BASE)

    def _page_tables(self) -> bytes:
        """Root first; A and D are set. Nothing is mapped but RAM."""
        if not self.scheme:
            return b""
        flags = 0xEF if self.privilege else 0xFF
        flags &= ~0x20  # not global
        levels = 3 if self.scheme == 8 else 4
        tables = [[0] * 512 for _ in range(levels - 1)]
        for level in range(levels - 1, 1, -1):
            here = levels - 1 - level
            tables[here][BASE >> 12 + 9 * level & 511] = _pointer(here + 1)
        for mega in range(MEMORY_MIB // 2):
            at = BASE + (mega << 21)
            entry = at >> 2 | flags
            if mega in (0, (SCRATCH - BASE) >> 21):
                entry = _pointer(len(tables))
                tables.append([at + 4096 * page >> 2 | flags for page in range(512)])
            tables[levels - 2][mega] = entry
        return b"".join(struct.pack("<512Q", *table) for table in tables)

    def _state(self) -> bytes:
        random = self.random
        x = [0] + [random_word(random) for _ in range(31)]
        frm = random.randrange(8) if random.randrange(16) == 0 else random.randrange(5)
        x[0] = frm << 5 | (random.getrandbits(5) if random.getrandbits(1) else 0)
        for register in _ALIGNED:
            x[register] = SCRATCH + 0x800 + 8 * random.randrange((SCRATCH_SIZE - 0x1000) // 8)
        x[9] = SCRATCH + 0x1000 + random.randrange(-32, 32)
        x[27] = SCRATCH + 0x800 + random.randrange(SCRATCH_SIZE - 0x1000)
        x[_NOWHERE_POINTER] = NOWHERE + random.randrange(0x800, 0x1000)
        f = [random_float(random) for _ in range(32)]
        return struct.pack("<64Q", *x, *f)

    def _piece(self) -> list[Part]:
        """One instruction, or a few that belong together."""
        random = self.random
        kind = random.randrange(128)
        if kind == 0:
            return [(*random.choice(((EBREAK, 4), (C_EBREAK, 2), (ECALL, 4))), None)]
        if kind == 1:
            return [(_illegal(random), 4, None)]
        if kind < 5:
            return self._reserve()
        while True:
            word, drawn = self.mixer.word(64)
            encoding = _as_fetched(word, drawn)
            if encoding is None:
                if drawn.length == 4:
                    return [(word, 4, None)]  # a reserved rounding mode
                continue
            made = self._tame(encoding, word)
            if made:
                return made

    def _reserve(self) -> list[Part]:
        """LR, an addition, SC to the same place; or the SC alone, which fails."""
        random = self.random
        size = random.choice((2, 3)) << 12
        pointer = random.choice(_ALIGNED)
        order = random.getrandbits(2) << 25
        lr = 0x1000002F | size | order | pointer << 15 | self._free() << 7
        sc = 0x1800002F | size | order | pointer << 15 | random.randrange(32) << 20
        sc |= self._free() << 7
        if random.randrange(4) == 0:
            return [(sc, 4, None)]
        between = BY_NAME["addi"].encode({"rd": self._free(), "rs1": 5, "imm": 1})
        return [(lr, 4, None), (between, 4, None), (sc, 4, None)]

    def _free(self) -> int:
        """A register that a block may write."""
        return self.random.choice(_FREE)

    def _tame(self, encoding: Encoding, word: int) -> list[Part]:
        """The instruction with harmless operands; nothing when that cannot be."""
        role, length = encoding.role, encoding.length
        base = encoding.base or encoding.name
        if base == "jalr":
            return self._indirect(encoding)
        if base.startswith(("lr.", "sc.")):
            return []
        if length == 2:
            if base == "jal" or role == "branch":
                return [(word, 2, encoding)] if encoding.name in _BRANCHES else []
            values = encoding.expand(encoding.values(word))[1]
            if values.get("rd") in _KEPT and base in _WRITES_X:
                return []
            if role in ("load", "store") and values["rs1"] not in _POINTERS:
                return []
            return [(word, 2, None)]
        if base in _WRITES_X and word >> 7 & 31 in _KEPT:
            word = word & ~(31 << 7) | self._free() << 7
        if role == "atomic" or role == "load" or role == "store":
            # A misaligned AMO is 6 here, 7 in Spike (or it works), 4 in QEMU: not in images.
            allowed = _ALIGNED if role == "atomic" else _POINTERS
            if word >> 15 & 31 not in allowed:
                word = word & ~(31 << 15) | self.random.choice(allowed) << 15
        return [(word, 4, encoding if encoding.name in _BRANCHES else None)]

    def _indirect(self, encoding: Encoding) -> list[Part]:
        """jalr, c.jr and c.jalr to the instruction after them."""
        register = self._free()
        auipc = (BY_NAME["auipc"].encode({"rd": register, "imm": 0}), 4, None)
        if encoding.length == 4:
            imm = 8 + self.random.getrandbits(1)
            values = {"rd": self._free(), "rs1": register, "imm": imm}
            return [auipc, (encoding.encode(values), 4, None)]
        add = BY_NAME["addi"].encode({"rd": register, "rs1": register, "imm": 10})
        return [auipc, (add, 4, None), (encoding.encode({"rs1": register}), 2, None)]


Part = tuple[int, int, Encoding | None]
"""A word, its length in bytes, and its encoding when it is a branch or jump still to be aimed."""

# Compressed encodings overlap, so what a word is has to be looked up: once.
_SHORT: Final[dict[int, Encoding | None]] = {}


def _as_fetched(word: int, drawn: Encoding) -> Encoding | None:
    """What the hart will take the word for; None when it is illegal."""
    if drawn.length == 4:
        return None if drawn.name in _ROUNDS and word >> 12 & 7 in (5, 6) else drawn
    if word not in _SHORT:
        _SHORT[word] = find_encoding(word)
    return _SHORT[word]


def _has(encoding: Encoding, operand: str, kind: str) -> bool:
    return any(o.name == operand and o.kind == kind for o in encoding.operands)


_ROUNDS: Final = frozenset(e.name for e in ENCODINGS if _has(e, "rm", "rm"))
_WRITES_X: Final = frozenset(e.name for e in ENCODINGS if _has(e, "rd", "x"))
_POINTERS: Final = (*_ALIGNED, *_ALIGNED, *_UNALIGNED, _NOWHERE_POINTER)
_FREE: Final = tuple(n for n in range(32) if n not in _KEPT and n != 0)
_BRANCHES: Final = frozenset(
    e.name for e in ENCODINGS if e.role == "branch" or e.name in ("jal", "c.j")
)
_MAJOR: Final = (0x33, 0x3B, 0x13, 0x1B, 0x53, 0x43, 0x2F, 0x03, 0x23, 0x63, 0x07, 0x27)


def _illegal(random: Random) -> int:
    """A word that is no instruction here, in a major opcode that is full elsewhere too."""
    while True:
        word: int = random.getrandbits(25) << 7 | random.choice(_MAJOR)
        if find_encoding(word) is None:
            return word


def _place(pieces: list[list[Part]], random: Random) -> bytes:
    """The pieces' bytes; branches and jumps go forward to where a piece begins, at most four on."""
    starts = []
    at = 0
    for piece in pieces:
        starts.append(at)
        for _, length, _ in piece:
            at += length
    starts.append(at)
    code = bytearray()
    for index, piece in enumerate(pieces):
        for word, length, encoding in piece:
            if encoding is not None:
                target = starts[min(index + random.randrange(1, 5), len(pieces))]
                word = aim(encoding, word, target - len(code))
            code += word.to_bytes(length, "little")
    return bytes(code)


def _pointer(table: int) -> int:
    return PAGE_TABLES + 4096 * table >> 2 | 1


def _jal(rd: int, offset: int) -> bytes:
    return BY_NAME["jal"].encode({"rd": rd, "imm": offset}).to_bytes(4, "little")
