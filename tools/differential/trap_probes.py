"""ELFs that probe traps: random mstatus, delegation, interrupts and vectors, one action in M, S or U.

Each probe sets the CSRs in M-mode, goes to its mode by MRET, acts, and logs which handler was entered
where, cause, epc, tval and mstatus on both levels, and the CSRs' values as they read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from random import Random
from typing import Final

from asyncvmm.isa.asm import Program, assemble
from asyncvmm.isa.elf_writer import to_elf

BASE: Final = 0x80000000
PROBES: Final = 0x80100000
LOG: Final = 0x80400000
PROBE: Final = struct.Struct("<16Q")
RESULT: Final = struct.Struct("<20Q")
MAX_PROBES: Final = 16000
FIELDS: Final = (
    "m entry", "mcause", "mepc", "mtval", "mstatus", "mip", "a0", "s entry", "scause", "sepc",
    "stval", "sstatus in the handler", "medeleg", "mideleg", "mie", "mtvec", "stvec", "mcounteren",
    "sie", "sip",
)  # fmt: skip

U, S, M = 0, 1, 3
SIE, MIE, SPIE, MPIE, SPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8
MPRV, SUM, MXR, TVM, TW, TSR = (1 << n for n in range(17, 23))
XLEN: Final = 0xA << 32
SOFTWARE: Final = 0x222
"""mip and mie bits that M-mode software sets: SSI, STI, SEI."""

READ: Final = (
    "sstatus", "sie", "sip", "stvec", "scounteren", "senvcfg", "sscratch", "satp", "mstatus",
    "mie", "mip", "mscratch", "mtvec", "pmpcfg0", "pmpaddr3", "fflags", "frm", "fcsr",
)  # fmt: skip
"""Registers that are read, for their value."""
TOUCHED: Final = ("cycle", "time", "instret", "mhartid", "mcycle", "minstret", "misa", "marchid")
"""Registers of which only the permission to read is probed."""
WRITTEN: Final = (
    "sstatus", "sie", "sip", "stvec", "sscratch", "sepc", "scause", "stval", "mscratch", "mie",
    "mip", "fflags", "frm", "fcsr", "cycle", "scounteren",
)  # fmt: skip
ACTIONS: Final = (
    ("ecall",), ("ebreak",), ("c.ebreak",), (".4byte 0xffffffff",), (".2byte 0",), ("nop",),
    ("sret",), ("mret",), ("sfence.vma",), ("sfence.vma a0, a1",), ("wfi",),
    ("fadd.d f1, f2, f3",), ("fsd f1, 0(a2)",), ("fld f1, 0(a2)",), ("c.fld f8, 0(a2)",),
    ("csrrs a0, fcsr, x0",), ("fadd.d f1, f2, f3, rup",),
    *((f"csrr a0, {name}",) for name in READ),
    *((f"csrr x0, {name}",) for name in TOUCHED),
    *((f"csrrw a0, {name}, a1",) for name in WRITTEN if name != "cycle"),
    *((f"csrw {name}, a1",) for name in WRITTEN),
    *((f"csrs {name}, a1",) for name in WRITTEN),
    *((f"csrrc a0, {name}, a1",) for name in WRITTEN),
    *((f"csrrsi a0, {name}, 0",) for name in ("sstatus", "mstatus", "fcsr")),
    *((f"csrrci x0, {name}, 0",) for name in ("cycle", "time", "instret")),
    *((f"csrr a0, {number:#x}",) for number in (0x005, 0x123, 0x345, 0x5C0, 0x8FF, 0xCFF)),
)  # fmt: skip
WFI: Final = ACTIONS.index(("wfi",))
SRET: Final = ACTIONS.index(("sret",))

_SOURCE: Final = """
_start: la      x5, 1f                  # without a CLINT the store faults, and that is fine
        csrw    mtvec, x5
        li      x6, 0x2004000           # mtimecmp: no timer interrupt is pending
        li      x7, -1
        sd      x7, 0(x6)
        .balign 4
1:      la      x5, m_vectors
        csrw    mtvec, x5
        li      x5, -1
        csrw    pmpaddr0, x5
        li      x5, 0x1f
        csrw    pmpcfg0, x5
loop:   la      x5, state
        ld      s0, 0(x5)
        ld      s1, 8(x5)
        bgeu    s0, s1, finish
        csrw    mie, x0
        csrw    mip, x0
        csrw    satp, x0
        csrw    scause, x0
        csrw    stval, x0
        csrw    sscratch, x0
        csrw    mscratch, x0
        csrw    mtval, x0
        csrw    mcause, x0
        csrw    senvcfg, x0
        li      x6, 3 << 13
        csrs    mstatus, x6
        csrw    fcsr, x0
        fmv.d.x f2, x0
        fmv.d.x f3, x0
        ld      x6, 8(s0)
        csrw    medeleg, x6
        ld      x6, 16(s0)
        csrw    mideleg, x6
        ld      x6, 32(s0)
        csrw    mip, x6
        ld      x6, 40(s0)              # 1 for vectored, in bit 0 of each
        la      x7, m_vectors
        add     x7, x7, x6
        csrw    mtvec, x7
        ld      x6, 48(s0)
        la      x7, s_vectors
        add     x7, x7, x6
        csrw    stvec, x7
        ld      x6, 56(s0)
        csrw    mcounteren, x6
        ld      x6, 64(s0)
        csrw    scounteren, x6
        ld      x6, 72(s0)              # the action
        slli    x6, x6, 4
        la      x7, actions
        add     x7, x7, x6
        csrw    mepc, x7
        la      x6, after
        csrw    sepc, x6
        ld      x6, 0(s0)
        csrw    mstatus, x6
        ld      a1, 80(s0)
        la      a2, room
        li      a0, 0
        li      s2, 0
        li      s3, 0
        li      s4, 0
        li      s5, 0
        li      s9, 0
        li      s10, 0
        ld      x6, 24(s0)
        csrw    mie, x6
        mret

after:  ecall                           # where SRET goes
        j       after

m_trap: la      x5, state
        ld      s0, 0(x5)
        ld      s7, 16(x5)
        la      x6, m_vectors
        sub     s9, s9, x6
        sd      s9, 0(s7)
        la      x6, s_vectors
        beqz    s10, 1f
        sub     s10, s10, x6
1:      sd      s10, 56(s7)
        sd      a0, 48(s7)
        sd      s5, 88(s7)
        csrr    x6, mcause
        sd      x6, 8(s7)
        csrr    x6, mepc
        sd      x6, 16(s7)
        csrr    x6, mtval
        sd      x6, 24(s7)
        csrr    x6, mstatus
        sd      x6, 32(s7)
        csrr    x6, mip
        sd      x6, 40(s7)
        csrr    x6, scause
        sd      x6, 64(s7)
        csrr    x6, sepc
        sd      x6, 72(s7)
        csrr    x6, stval
        sd      x6, 80(s7)
        csrr    x6, medeleg
        sd      x6, 96(s7)
        csrr    x6, mideleg
        sd      x6, 104(s7)
        csrr    x6, mie
        sd      x6, 112(s7)
        csrr    x6, mtvec
        sd      x6, 120(s7)
        csrr    x6, stvec
        sd      x6, 128(s7)
        csrr    x6, mcounteren
        sd      x6, 136(s7)
        csrr    x6, sie
        sd      x6, 144(s7)
        csrr    x6, sip
        sd      x6, 152(s7)
        la      x6, m_vectors
        csrw    mtvec, x6
        addi    s0, s0, {probe_size}
        sd      s0, 0(x5)
        addi    s7, s7, {result_size}
        sd      s7, 16(x5)
        j       loop

s_trap: csrr    s5, sstatus
        ecall                           # is never delegated
        j       s_trap

finish: la      x5, park
        csrw    mtvec, x5
        la      x5, tohost
        li      x6, 1
        sd      x6, 0(x5)
        li      x5, 0x7777
        li      x6, 0x100000
        sw      x5, 0(x6)
        .balign 4
park:   j       park

        .balign 256
m_vectors:
{m_vectors}
        .balign 256
s_vectors:
{s_vectors}
        .balign 256
actions:
{actions}
        .balign 8
room:   .dword  0
tohost: .dword  0
fromhost: .dword 0
state:  .dword  {probes}, {probes_end}, {log}
        .equ    begin_signature, {log}
        .equ    end_signature, {log_end}
"""


@dataclass(frozen=True)
class TrapProbe:
    """CSRs to set, and the number of the action in ACTIONS."""

    mstatus: int
    medeleg: int
    mideleg: int
    mie: int
    mip: int
    m_vectored: int
    s_vectored: int
    mcounteren: int
    scounteren: int
    action: int
    value: int

    def packed(self) -> bytes:
        """The record that the guest reads."""
        words = (
            self.mstatus, self.medeleg, self.mideleg, self.mie, self.mip, self.m_vectored,
            self.s_vectored, self.mcounteren, self.scounteren, self.action, self.value,
        )  # fmt: skip
        return PROBE.pack(*words, *[0] * (16 - len(words)))

    def __str__(self) -> str:
        return (
            f"{ACTIONS[self.action][0]} in {'US-M'[self.mstatus >> 11 & 3]} value {self.value:#x} "
            f"mstatus {self.mstatus:#x} medeleg {self.medeleg:#x} mideleg {self.mideleg:#x} "
            f"mie {self.mie:#x} mip {self.mip:#x} counters {self.mcounteren:#x} "
            f"{self.scounteren:#x}"
        )


@dataclass(frozen=True)
class TrapImage:
    """An ELF of trap probes, and where its log is."""

    elf: bytes
    probes: tuple[TrapProbe, ...]
    signature: int
    signature_size: int

    def differences(self, ours: bytes, theirs: bytes, names: tuple[str, str]) -> list[str]:
        """One text for each probe with another result."""
        found = []
        for number, probe in enumerate(self.probes):
            a = RESULT.unpack_from(ours, RESULT.size * number)
            b = RESULT.unpack_from(theirs, RESULT.size * number)
            if a != b:
                fields = [
                    f"  {name}: {names[0]} {x:#x}, {names[1]} {y:#x}"
                    for name, x, y in zip(FIELDS, a, b, strict=True)
                    if x != y
                ]
                found.append("\n".join([f"probe {number}: {probe}", *fields]))
        return found


class TrapBuilder:
    """Trap probes from one seed; ``avoid`` names actions by their text."""

    def __init__(self, seed: int, avoid: frozenset[str] = frozenset()) -> None:
        self.random = Random(seed)
        self.actions = [n for n, lines in enumerate(ACTIONS) if lines[0] not in avoid]

    def build(self, count: int) -> TrapImage:
        """An image of ``count`` probes."""
        if not 0 < count <= MAX_PROBES:
            raise ValueError(f"{count} probes, not 1..{MAX_PROBES}")
        probes = tuple(self._probe() for _ in range(count))
        records = b"".join(probe.packed() for probe in probes)
        runtime = _assemble(len(records), RESULT.size * count)
        data = runtime.data.ljust(PROBES - BASE, b"\0") + records
        elf = to_elf(Program(data, runtime.symbols, BASE))
        return TrapImage(elf, probes, LOG, RESULT.size * count)

    def _probe(self) -> TrapProbe:
        random = self.random
        action = random.choice(self.actions)
        if random.randrange(4) == 0:
            action = random.choice((0, 1, 3, 5, SRET, WFI))
        mode = random.choice((U, U, S, S, M))
        mstatus = XLEN | mode << 11 | random.choice((0, 1, 2, 3)) << 13
        for bit in (SIE, SPIE, MPIE, SPP, MPRV, SUM, MXR, TVM, TW, TSR):
            mstatus |= bit * random.getrandbits(1)
        mie = mip = 0
        if random.randrange(3) == 0:
            mie = random.getrandbits(12) & SOFTWARE
            mip = random.getrandbits(12) & SOFTWARE
        if action == WFI and mie & mip == 0 and mode != U and not (mode == S and mstatus & TW):
            mie, mip = SOFTWARE, 0x20  # or it would wait for ever
        return TrapProbe(
            mstatus,
            # Not ECALL from S, which the S handler uses to come back.
            random.choice((0, 0xB3FF, random.getrandbits(16))) & 0xB1FE,
            random.choice((0, SOFTWARE, random.getrandbits(12) & SOFTWARE)),
            mie,
            mip,
            random.getrandbits(1),
            random.getrandbits(1),
            random.choice((0, 7, random.getrandbits(3))),
            random.choice((0, 7, random.getrandbits(3))),
            action,
            self._value(),
        )

    def _value(self) -> int:
        random = self.random
        return random.choice((0, (1 << 64) - 1, random.getrandbits(64), 1 << random.randrange(64)))


def _assemble(probes_size: int, log_size: int) -> Program:
    actions = []
    for lines in ACTIONS:
        actions += [*lines, "ecall", ".balign 16"]
    return assemble(
        _SOURCE.format(
            probe_size=PROBE.size, result_size=RESULT.size, probes=PROBES,
            probes_end=PROBES + probes_size, log=LOG, log_end=LOG + log_size,
            m_vectors="\n".join(["jal s9, m_trap"] * 16),
            s_vectors="\n".join(["jal s10, s_trap"] * 16),
            actions="\n".join(actions),
        ),
        BASE,
    )  # fmt: skip
