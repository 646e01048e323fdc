"""The guest's side of the probes: its memory map and the M-mode program that works through them."""

from __future__ import annotations

import struct
from typing import Final

from asyncvmm.isa.asm import Program, assemble

BASE: Final = 0x80000000
PROBES: Final = 0x80100000
DATA: Final = 0x80400000
PAGES: Final = 8
"""Pages that accesses aim at: the lower half and the end are ecall instructions."""
TABLES: Final = 0x80410000
"""Four table pages, root first, and a page for entries that a probe does not need."""
LOG: Final = 0x80600000
NOWHERE: Final = 0xC0000000
PROBE: Final = struct.Struct("<26Q")
RESULT: Final = struct.Struct("<8Q")
MAX_PROBES: Final = 8000
PMP_USED: Final = 6
LOCKED: Final = 64
"""The last probes of an image, under locked PMP entries."""
PMP_LOCKED: Final = 0x80
PMP_TOR, PMP_NA4, PMP_NAPOT = 0x08, 0x10, 0x18

U, S, M = 0, 1, 3
V, R, W, X, USER, G, A, D = 1, 2, 4, 8, 16, 32, 64, 128
MPRV, SUM, MXR = 1 << 17, 1 << 18, 1 << 19
ADUE: Final = 1 << 61
SV39, SV48 = 8, 9
OPS: Final = ("lb", "lhu", "lw", "ld", "sb", "sh", "sw", "sd", "amoswap.w", "lr.d", "fetch")
FLUSHES: Final = ("all", "asid", "page and asid", "page")

_SOURCE: Final = """
_start: la      x5, handler
        csrw    mtvec, x5
        li      x5, -1
        csrw    pmpaddr15, x5
loop:   la      x5, state
        ld      s0, 0(x5)
        ld      s1, 8(x5)
        bgeu    s0, s1, finish
{entries}
        ld      x6, 112(s0)             # bit 0: PMP and menvcfg are new
        beqz    x6, 1f
        csrw    pmpcfg0, x0
        csrw    pmpcfg2, x0
{pmp}
        ld      x6, 120(s0)
        csrw    pmpcfg0, x6
        ld      x6, 128(s0)
        csrw    pmpcfg2, x6
        ld      x6, 72(s0)
        csrw    menvcfg, x6
        sfence.vma
1:      ld      x6, 64(s0)
        csrw    satp, x6
        ld      s1, 96(s0)              # the address
        ld      s2, 104(s0)             # the ASID
        ld      x6, 184(s0)             # how to flush
        la      x7, flushes
        add     x7, x7, x6
        jr      x7
flushes:
        sfence.vma
        j       2f
        sfence.vma x0, s2
        j       2f
        sfence.vma s1, s2
        j       2f
        sfence.vma s1, x0
2:      ld      x6, 80(s0)
        csrw    mstatus, x6
        ld      s3, 192(s0)             # what a store stores
        li      s4, 0
        li      s5, {mprv}
        csrw    mepc, s1
        li      a4, 0                   # a c.ld at a changed place would use it
        ld      x6, 88(s0)
        la      x7, stubs
        add     x7, x7, x6
        jr      x7
stubs:
{stubs}
        mret                            # the fetch, in the mode of MPP

done:   li      s6, -1
        j       log
        .balign 4
handler:
        csrr    s6, mcause
log:    li      x6, {clear}
        csrc    mstatus, x6
        la      x5, state
        ld      s0, 0(x5)
        ld      s7, 16(x5)
        csrr    x6, mtval
        li      x7, -1
        bne     s6, x7, 3f
        li      x6, 0
3:      sd      s6, 0(s7)
        sd      x6, 8(s7)
        sd      s4, 16(s7)
        csrr    x6, mstatus
        srli    x6, x6, 11
        andi    x6, x6, 3
        bne     s6, x7, 4f
        li      x6, 0
4:      sd      x6, 24(s7)
{read_back}
        addi    s0, s0, {probe_size}
        sd      s0, 0(x5)
        addi    s7, s7, {result_size}
        sd      s7, 16(x5)
        j       loop

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
        .balign 8
tohost: .dword  0
fromhost: .dword 0
state:  .dword  {probes}, {probes_end}, {log}
        .equ    begin_signature, {log}
        .equ    end_signature, {log_end}
"""


def assemble_probes(probes_size: int, log_size: int) -> Program:
    """The program for so many bytes of probes and of log."""
    entries = []
    for n in range(4):
        entries += [f"ld x6, {16 * n}(s0)", f"ld x7, {16 * n + 8}(s0)", "sd x7, 0(x6)"]
    pmp = []
    for n in range(PMP_USED):
        pmp += [f"ld x6, {136 + 8 * n}(s0)", f"csrw pmpaddr{n}, x6"]
    read_back = []
    for n in range(4):
        read_back += [f"ld x6, {16 * n}(s0)", "ld x7, 0(x6)", f"sd x7, {32 + 8 * n}(s7)"]
    stubs = []
    for op in OPS[:-1]:
        if op[0] == "s":
            access = f"{op} s3, 0(s1)"
        elif op == "amoswap.w":
            access = "amoswap.w s4, s3, (s1)"
        elif op == "lr.d":
            access = "lr.d s4, (s1)"
        else:
            access = f"{op} s4, 0(s1)"
        stubs += ["csrs mstatus, s5", access, "csrc mstatus, s5", "j done"]
    return assemble(
        _SOURCE.format(
            entries="\n".join(entries), pmp="\n".join(pmp), read_back="\n".join(read_back),
            stubs="\n".join(stubs), mprv=MPRV, clear=MPRV | SUM | MXR, probe_size=PROBE.size,
            result_size=RESULT.size, probes=PROBES, probes_end=PROBES + probes_size, log=LOG,
            log_end=LOG + log_size,
        ),
        BASE,
    )  # fmt: skip
