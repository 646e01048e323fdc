"""Bare-metal guests for whole hosts: one that computes, and neighbours of every bad kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from asyncvmm.machine import GuestConfig
from asyncvmm.testing import assemble, to_elf

MS: Final = 1_000_000
BASE: Final = 0x80000000

# Sorts of work in turn: multiplies into its memory, prints, sleeps until its timer wakes it. Reads the
# clock all the time and mixes it in: what it computes depends on when it runs.
COMPUTATION: Final = """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   s0, 0x10000000
    li   s1, 0x80100000
    li   s2, 12345
    li   s5, 0x0200bff8
    li   s6, 0x02004000
    li   t0, 0x80
    csrw mie, t0
    sd   zero, 0(s6)
    csrsi mstatus, 8
fill:
    li   s3, 4096
    mv   t0, s1
1:  li   t1, 6364136223846793005
    mul  s2, s2, t1
    csrr t1, time
    xor  s2, s2, t1
    srli t1, s2, 20
    sd   t1, 0(t0)
    addi t0, t0, 8
    addi s3, s3, -1
    bnez s3, 1b
    andi t1, s2, 15
    addi t1, t1, 'A'
    sb   t1, 0(s0)
    andi t1, s2, 3
    bnez t1, fill
    wfi
    j    fill
.balign 4
tick:
    csrw mscratch, t0
    ld   t0, 0(s5)
    addi t0, t0, 1777
    sd   t0, 0(s6)
    addi s4, s4, 1
    csrr t0, mscratch
    mret
"""

# Two harts that hand a token to and fro by software interrupts, and sleep in between.
PING_PONG: Final = """
_start:
    la   t0, caught
    csrw mtvec, t0
    li   s0, 0x02000000
    csrr s1, mhartid
    slli t0, s1, 2
    add  s2, s0, t0             # our MSIP
    xori t0, s1, 1
    slli t0, t0, 2
    add  s3, s0, t0             # the other one's
    li   s5, 0x80200000
    slli t0, s1, 12
    add  s5, s5, t0
    li   t0, 8
    csrw mie, t0
    bnez s1, 2f
1:  li   t0, 1
    sw   t0, 0(s3)
2:  wfi
    lw   t0, 0(s2)
    beqz t0, 2b
    sw   zero, 0(s2)
    addi s4, s4, 1
    li   t1, 700
3:  csrr t2, time
    xor  s6, s6, t2
    sd   s6, 0(s5)
    addi t1, t1, -1
    bnez t1, 3b
    j    1b
.balign 4
caught:
    mret
"""

SPIN: Final = "_start: addi s1, s1, 1\n j _start\n"

HOSTILE: Final = {
    "cpu-hog": SPIN,
    # Touches every page of its memory, again and again.
    "memory-hog": """
_start:
    li   t0, 0x80002000
    li   t1, 0x80800000
    li   t2, 4096
1:  sd   t0, 0(t0)
    add  t0, t0, t2
    bltu t0, t1, 1b
    j    _start
""",
    # Copies itself to the next page and goes on there, without end: new code everywhere.
    "fork-bomb": """
_start:
    la   s0, _start
    li   s2, 4096
    li   s3, 0x80700000
    la   s4, end
1:  add  t1, s0, s2
    bltu t1, s3, 2f
    li   t1, 0x80010000
2:  mv   t2, s0
    sub  t3, s4, s0
    la   t3, end
    la   t4, _start
    sub  t3, t3, t4
    mv   t5, t1
3:  ld   t4, 0(t2)
    sd   t4, 0(t5)
    addi t2, t2, 8
    addi t5, t5, 8
    addi t3, t3, -8
    bgtz t3, 3b
    fence.i
    jr   t1
.balign 8
end:
    .dword 0
""",
    # Rings the bell of its disk and asks the serial device, as often as it can.
    "mmio-storm": """
_start:
    li   s0, 0x10001000
    li   s2, 0x10000000
1:  sw   zero, 0x50(s0)
    lbu  t0, 5(s2)
    sb   t0, 0(s2)
    j    1b
""",
    # Its timer is always due: an interrupt after every instruction.
    "interrupt-storm": """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   t0, 0x80
    csrw mie, t0
    li   s6, 0x02004000
    sd   zero, 0(s6)
    csrsi mstatus, 8
1:  addi s1, s1, 1
    j    1b
.balign 4
tick:
    addi s4, s4, 1
    mret
""",
    # Sv39 with one gigapage; flushes the TLB before each of its loads from 512 pages.
    "tlb-thrash": """
_start:
    la   s0, table
    li   t0, 0x200000cf         # 0x80000000, 1 GiB, all rights
    sd   t0, 16(s0)
    srli t0, s0, 12
    li   t1, 8
    slli t1, t1, 60
    or   t0, t0, t1
    csrw satp, t0
    li   t0, -1
    csrw pmpaddr0, t0
    li   t0, 0x1f
    csrw pmpcfg0, t0
    li   t0, 0x800
    csrs mstatus, t0
    li   t0, 0x1000
    csrc mstatus, t0
    la   t0, inside
    csrw mepc, t0
    mret
inside:
    li   t0, 0x80100000
    li   t1, 0x80300000
    li   t2, 4096
1:  sfence.vma
    ld   t3, 0(t0)
    add  t0, t0, t2
    bltu t0, t1, 1b
    j    inside
.balign 4096
table:
    .zero 4096
""",
    # Reads sector 0 of its disk without end, and sleeps until each read is done.
    "disk-flood": """
_start:
    li   s0, 0x10001000
    la   s1, queue
    sw   zero, 0x70(s0)         # reset, then acknowledge, driver
    li   t0, 3
    sw   t0, 0x70(s0)
    li   t0, 1
    sw   t0, 0x24(s0)           # VERSION_1 and no other feature
    sw   t0, 0x20(s0)
    sw   zero, 0x24(s0)
    sw   zero, 0x20(s0)
    li   t0, 11
    sw   t0, 0x70(s0)
    sw   zero, 0x30(s0)
    li   t0, 8
    sw   t0, 0x38(s0)
    sw   s1, 0x80(s0)           # descriptors, available ring, used ring
    addi t0, s1, 256
    sw   t0, 0x90(s0)
    addi t0, s1, 512
    sw   t0, 0xa0(s0)
    li   t0, 1
    sw   t0, 0x44(s0)
    li   t0, 15
    sw   t0, 0x70(s0)
    li   t1, 0x0c000004         # PLIC: the disk's source, for this hart in M-mode
    li   t0, 1
    sw   t0, 0(t1)
    li   t1, 0x0c002000
    li   t0, 2
    sw   t0, 0(t1)
    li   t0, 0x800
    csrw mie, t0
    li   s4, 0
1:  addi s4, s4, 1
    sh   s4, 258(s1)            # one more request is available
    fence
    sw   zero, 0x50(s0)
2:  lhu  t0, 514(s1)            # done?
    slli t1, s4, 48
    srli t1, t1, 48
    beq  t0, t1, 3f
    wfi
    li   t1, 0x0c200004
    lw   t0, 0(t1)
    lw   t2, 0x60(s0)
    sw   t2, 0x64(s0)
    sw   t0, 0(t1)
    j    2b
3:  j    1b
.balign 4096
queue:
    .dword request, 0x0001000100000010
    .dword buffer, 0x0002000300000200
    .dword status, 0x0000000200000001
    .zero 1024                  # the rings
request:
    .dword 0, 0
status:
    .dword 0
buffer:
    .zero 512
""",
    # Sleeps nearly always, and wants a CPU for an instant every 20 us.
    "napper": """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   s5, 0x0200bff8
    li   s6, 0x02004000
    li   t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
    sd   zero, 0(s6)
1:  wfi
    j    1b
.balign 4
tick:
    ld   t0, 0(s5)
    addi t0, t0, 200
    sd   t0, 0(s6)
    addi s4, s4, 1
    mret
""",
}


class Programs:
    """The ELF of each program in a folder, and configurations of guests that run it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.disk = directory / "disk.img"
        self.disk.write_bytes(bytes(range(256)) * 256)

    def elf(self, source: str, name: str) -> Path:
        """The program of a source text."""
        path = self.directory / f"{name}.elf"
        if not path.exists():
            path.write_bytes(to_elf(assemble(source, BASE)))
        return path

    def config(self, source: str, name: str, **options: Any) -> GuestConfig:
        """A guest of 8 MiB that runs a source text."""
        return GuestConfig(name=name, elf=self.elf(source, name), **{"memory": "8M", **options})

    def hostile(self, kind: str, **options: Any) -> GuestConfig:
        """A neighbour of this kind."""
        if kind in ("disk-flood", "mmio-storm"):
            options = {"disks": (f"{self.disk},readonly",), **options}
        return self.config(HOSTILE[kind], kind, **options)
