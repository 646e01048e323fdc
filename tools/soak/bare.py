"""A bare-metal guest that writes code, runs it, moves it to other addresses and writes it again.

S-mode under Sv39. Sixteen frames are seen through sixteen pages of a window. In each turn the program
writes a function of random instructions into a frame through another address, does FENCE.I and calls
it through the window up to some hundred times; or writes over one instruction of a function that was
called before; or swaps two pages of the window, with an SFENCE.VMA for one address or for all. Functions
store instructions into their own page, too. What goes wrong traps, and counts as a return. With several harts
each has a window of its own, and they write and run in the same frames.
"""

from __future__ import annotations

from random import Random
from typing import Final

from asyncvmm.engine.interpreter import Engine
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.tables import BY_NAME, ENCODINGS
from asyncvmm.machine import BootFile, BootFiles, GuestConfig, Machine
from tools.soak.work import Work

FREE: Final = (10, 11, 12, 13, 14, 15, 16, 17, 28, 29, 30, 31)
PAGE: Final = 20  # s4: the window's page of the function that runs
WORD: Final = 21  # s5: an instruction to store
TEMPLATES: Final = 256

SOURCE: Final = """
    la   t0, trapped
    csrw mtvec, t0
    li   t0, -1
    csrw pmpaddr0, t0
    li   t0, 0x1f
    csrw pmpcfg0, t0
    csrr a0, mhartid
    slli t0, a0, 14           # each hart has page tables of its own: root, middle, window
    li   s0, 0x80100000
    add  s0, s0, t0
    li   t3, 0x1000
    add  t4, s0, t3
    add  t5, t4, t3
    srli t1, t4, 2
    ori  t1, t1, 1
    sd   t1, 8(s0)
    li   t1, 0x200000cf       # all memory as it is
    sd   t1, 16(s0)
    srli t1, t5, 2
    ori  t1, t1, 1
    sd   t1, 0(t4)
    srli t6, s0, 12
    mv   s0, t5
    li   t1, 0x200800cf       # frames from 0x80200000
    mv   t0, s0
    li   t2, 16
1:  sd   t1, 0(t0)
    addi t1, t1, 1024
    addi t0, t0, 8
    addi t2, t2, -1
    bnez t2, 1b
    li   t0, 0x8000000000000000
    or   t0, t0, t6
    csrw satp, t0
    sfence.vma
    li   t0, 0x1800
    csrc mstatus, t0
    li   t0, 0x800
    csrs mstatus, t0
    la   t0, start
    csrw mepc, t0
    mret

trapped:
    addi s11, s11, 1
    csrw mepc, ra
    mret

start:
    li   s1, {seed}
    add  s1, s1, a0
    li   s2, 6364136223846793005
    li   s3, 1442695040888963407
    la   s6, templates
    li   s7, 0x80200000
    li   s8, 0x40000000
turn:
    mul  s1, s1, s2
    add  s1, s1, s3
    srli t0, s1, 60
    li   t1, 10
    bltu t0, t1, write
    li   t1, 13
    bltu t0, t1, patch

    srli t0, s1, 50           # swap two pages of the window
    andi t0, t0, 15
    srli t1, s1, 40
    andi t1, t1, 15
    slli t2, t0, 3
    add  t2, t2, s0
    slli t3, t1, 3
    add  t3, t3, s0
    ld   t4, 0(t2)
    ld   t5, 0(t3)
    sd   t5, 0(t2)
    sd   t4, 0(t3)
    andi t2, s1, 256
    beqz t2, 1f
    sfence.vma
    j    2f
1:  slli t0, t0, 12
    add  t0, t0, s8
    sfence.vma t0, zero
    slli t1, t1, 12
    add  t1, t1, s8
    sfence.vma t1, zero
2:  fence.i
    j    call

patch:                        # one instruction in a page that may have run
    srli t0, s1, 46
    li   t1, 0xfffc
    and  t0, t0, t1
    add  t0, t0, s7
    srli t1, s1, 30
    andi t1, t1, 0x3fc
    add  t1, t1, s6
    lw   t1, 0(t1)
    sw   t1, 0(t0)
    fence.i
    j    call

write:                        # a function, 64-aligned, of 4 to 19 instructions
    srli t0, s1, 44
    li   t1, 0xffc0
    and  t0, t0, t1
    add  t0, t0, s7
    srli t1, s1, 36
    andi t1, t1, 15
    addi t1, t1, 4
    mv   t2, s1
1:  mul  t2, t2, s2
    add  t2, t2, s3
    srli t3, t2, 40
    andi t3, t3, 0x3fc
    add  t3, t3, s6
    lw   t4, 0(t3)
    sw   t4, 0(t0)
    addi t0, t0, 4
    addi t1, t1, -1
    bnez t1, 1b
    li   t4, 0x8067
    sw   t4, 0(t0)
    fence.i

call:
    srli s9, s1, 44
    li   t1, 0xffc0
    and  s9, s9, t1
    add  s9, s9, s8
    li   t1, -4096
    and  s4, s9, t1
    srli t0, s1, 20
    andi t0, t0, 0x3fc
    add  t0, t0, s6
    lw   s5, 0(t0)
    srli s10, s1, 12
    andi s10, s10, 255
    andi t0, s1, 0x700
    beqz t0, 1f
    andi s10, s10, 15
1:  jalr s9
    addi s10, s10, -1
    bgtz s10, 1b
    j    turn

    .align 6
templates:
"""


def _template(random: Random) -> int:
    """An instruction word that goes on to the next or a little further, and keeps others' registers."""
    kind = random.randrange(12)
    if kind == 0:
        imm = 4 * random.randrange(512)
        return BY_NAME["sw"].encode({"rs1": PAGE, "rs2": WORD, "imm": imm})
    if kind == 1:
        imm = 8 * random.randrange(256)
        return BY_NAME["ld"].encode({"rd": random.choice(FREE), "rs1": PAGE, "imm": imm})
    if kind == 2:
        name = random.choice(("beq", "bne", "blt", "bge", "bltu", "bgeu"))
        operands = {"rs1": random.choice(FREE), "rs2": random.choice(FREE)}
        return BY_NAME[name].encode({**operands, "imm": 4 * random.randrange(2, 8)})
    encoding = random.choice(_ALU)
    values = {}
    for operand in encoding.operands:
        steps = (operand.high - operand.low) // operand.step
        value = operand.low + operand.step * random.randrange(steps + 1)
        values[operand.name] = random.choice(FREE) if operand.kind == "x" else value
    return encoding.encode(values)


_ALU: Final[tuple[Encoding, ...]] = tuple(
    one for one in ENCODINGS if one.role == "alu" and one.length == 4 and one.reserved is None
)


def program(seed: int) -> bytes:
    """The ELF file."""
    random = Random(seed)
    words = "".join(f"    .word {_template(random):#x}\n" for _ in range(TEMPLATES))
    source = SOURCE.replace("{seed}", str(random.getrandbits(62)))
    return to_elf(assemble(source + words, 0x80000000))


def self_modifying(seed: int, steps: int, looks: int, harts: int = 1) -> Work:
    """``steps`` of the program in all, compared ``looks`` times."""
    elf = program(seed)

    def make(engine: Engine) -> Machine:
        config = GuestConfig(elf="program.elf", memory="8M", seed=seed, harts=harts)
        files = BootFiles(elf=BootFile("program.elf", elf))
        return Machine(config, files, {}, engine=engine)

    return Work("self-modifying", make, steps // looks, looks)
