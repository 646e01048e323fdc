"""Pseudo-instructions (Volume I, chapter 37): what each is spelled out as.

Names map to the operands' count and the lines that they become, with {0} {1} ... for the operands.
Those whose length depends on a value (li) are in ``expand_li``.
"""

from __future__ import annotations

from typing import Final

PSEUDO: Final[dict[tuple[str, int], tuple[str, ...]]] = {
    ("nop", 0): ("addi x0,x0,0",),
    ("mv", 2): ("addi {0},{1},0",),
    ("not", 2): ("xori {0},{1},-1",),
    ("neg", 2): ("sub {0},x0,{1}",),
    ("negw", 2): ("subw {0},x0,{1}",),
    ("sext.w", 2): ("addiw {0},{1},0",),
    ("zext.b", 2): ("andi {0},{1},255",),
    ("zext.w", 2): ("add.uw {0},{1},x0",),
    ("seqz", 2): ("sltiu {0},{1},1",),
    ("snez", 2): ("sltu {0},x0,{1}",),
    ("sltz", 2): ("slt {0},{1},x0",),
    ("sgtz", 2): ("slt {0},x0,{1}",),
    ("sgt", 3): ("slt {0},{2},{1}",),
    ("sgtu", 3): ("sltu {0},{2},{1}",),
    ("beqz", 2): ("beq {0},x0,{1}",),
    ("bnez", 2): ("bne {0},x0,{1}",),
    ("blez", 2): ("bge x0,{0},{1}",),
    ("bgez", 2): ("bge {0},x0,{1}",),
    ("bltz", 2): ("blt {0},x0,{1}",),
    ("bgtz", 2): ("blt x0,{0},{1}",),
    ("bgt", 3): ("blt {1},{0},{2}",),
    ("ble", 3): ("bge {1},{0},{2}",),
    ("bgtu", 3): ("bltu {1},{0},{2}",),
    ("bleu", 3): ("bgeu {1},{0},{2}",),
    ("j", 1): ("jal x0,{0}",),
    ("jal", 1): ("jal ra,{0}",),
    ("jr", 1): ("jalr x0,0({0})",),
    ("jalr", 1): ("jalr ra,0({0})",),
    ("ret", 0): ("jalr x0,0(ra)",),
    ("call", 1): ("auipc ra,%pcrel_hi({0})", "jalr ra,%back({0})(ra)"),
    ("tail", 1): ("auipc t1,%pcrel_hi({0})", "jalr x0,%back({0})(t1)"),
    ("la", 2): ("auipc {0},%pcrel_hi({1})", "addi {0},{0},%back({1})"),
    ("lla", 2): ("auipc {0},%pcrel_hi({1})", "addi {0},{0},%back({1})"),
    ("fence", 0): ("fence iorw,iorw",),
    ("pause", 0): ("fence w,unknown",),
    ("unimp", 0): ("csrrw x0,cycle,x0",),
    ("csrr", 2): ("csrrs {0},{1},x0",),
    ("csrw", 2): ("csrrw x0,{0},{1}",),
    ("csrs", 2): ("csrrs x0,{0},{1}",),
    ("csrc", 2): ("csrrc x0,{0},{1}",),
    ("csrwi", 2): ("csrrwi x0,{0},{1}",),
    ("csrsi", 2): ("csrrsi x0,{0},{1}",),
    ("csrci", 2): ("csrrci x0,{0},{1}",),
    ("rdcycle", 1): ("csrrs {0},cycle,x0",),
    ("rdtime", 1): ("csrrs {0},time,x0",),
    ("rdinstret", 1): ("csrrs {0},instret,x0",),
    ("frcsr", 1): ("csrrs {0},fcsr,x0",),
    ("fscsr", 1): ("csrrw x0,fcsr,{0}",),
    ("fscsr", 2): ("csrrw {0},fcsr,{1}",),
    ("frrm", 1): ("csrrs {0},frm,x0",),
    ("fsrm", 1): ("csrrw x0,frm,{0}",),
    ("fsrm", 2): ("csrrw {0},frm,{1}",),
    ("frflags", 1): ("csrrs {0},fflags,x0",),
    ("fsflags", 1): ("csrrw x0,fflags,{0}",),
    ("fsflags", 2): ("csrrw {0},fflags,{1}",),
    ("sfence.vma", 0): ("sfence.vma x0,x0",),
    ("sfence.vma", 1): ("sfence.vma {0},x0",),
    ("fmv.s", 2): ("fsgnj.s {0},{1},{1}",),
    ("fabs.s", 2): ("fsgnjx.s {0},{1},{1}",),
    ("fneg.s", 2): ("fsgnjn.s {0},{1},{1}",),
    ("fmv.d", 2): ("fsgnj.d {0},{1},{1}",),
    ("fabs.d", 2): ("fsgnjx.d {0},{1},{1}",),
    ("fneg.d", 2): ("fsgnjn.d {0},{1},{1}",),
    ("fmv.x.s", 2): ("fmv.x.w {0},{1}",),
    ("fmv.s.x", 2): ("fmv.w.x {0},{1}",),
    ("fgt.s", 3): ("flt.s {0},{2},{1}",),
    ("fge.s", 3): ("fle.s {0},{2},{1}",),
    ("fgt.d", 3): ("flt.d {0},{2},{1}",),
    ("fge.d", 3): ("fle.d {0},{2},{1}",),
}

IMMEDIATE_FORMS: Final = {
    "add": "addi", "addw": "addiw", "and": "andi", "or": "ori", "xor": "xori", "slt": "slti",
    "sltu": "sltiu", "sll": "slli", "srl": "srli", "sra": "srai", "sllw": "slliw", "srlw": "srliw",
    "sraw": "sraiw", "csrw": "csrwi", "csrs": "csrsi", "csrc": "csrci",
}  # fmt: skip
"""What a register form becomes when its last operand is no register."""


def expand_li(register: str, value: int) -> tuple[str, ...]:
    """Load a 64-bit constant: the shortest of lui and addiw, or a shorter constant shifted."""
    value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    if -2048 <= value < 2048:
        return (f"addi {register},x0,{value}",)
    low = (value + 2048) % 4096 - 2048
    if -(1 << 31) <= value < 1 << 31:
        upper = (value - low) >> 12 & 0xFFFFF
        lines = [f"lui {register},{upper:#x}"]
        if low:
            lines.append(f"addiw {register},{register},{low}")
        return tuple(lines)
    rest = (value - low) >> 12
    shift = 12
    while not rest & 1:
        rest >>= 1
        shift += 1
    more = (f"addi {register},{register},{low}",) if low else ()
    return (*expand_li(register, rest), f"slli {register},{register},{shift}", *more)
