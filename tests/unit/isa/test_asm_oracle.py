"""The disassembler against GNU objdump, and the assembler against GNU as."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from random import Random

import pytest

from asyncvmm.isa.asm import assemble
from asyncvmm.isa.disasm import disassemble
from asyncvmm.isa.tables import ENCODINGS

pytestmark = pytest.mark.oracle
PREFIX = "riscv64-linux-gnu-"
MARCH = "-march=rv64imafdc_zicsr_zifencei_zba_zbb_zbs"
BASE = 0x80000000


@pytest.fixture(scope="module")
def objdump() -> str:
    return _tool("objdump")


@pytest.fixture(scope="module")
def gnu_as() -> str:
    return _tool("as")


def _tool(name: str) -> str:
    path = shutil.which(PREFIX + name)
    if path is None:
        pytest.skip(f"{PREFIX}{name} is not installed")
    return path


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def words(per_encoding: int) -> list[tuple[int, int]]:
    """(length, word) of every encoding with random operands that our text can spell."""
    random = Random(7)
    found = []
    for encoding in ENCODINGS:
        for _ in range(per_encoding):
            word = encoding.match | random.getrandbits(32) & ~encoding.mask
            word &= (1 << 8 * encoding.length) - 1
            if not disassemble(word).startswith("."):
                found.append((encoding.length, word))
    return found


def test_every_instruction_reads_as_objdump_says(tmp_path: Path, objdump: str) -> None:
    source, object_file = tmp_path / "words.s", str(tmp_path / "words.o")
    chosen = words(30)
    source.write_text("".join(f".insn {word:#x}\n" for _, word in chosen))
    run(_tool("as"), MARCH, str(source), "-o", object_file)
    listing = run(objdump, "-d", "-M", "no-aliases", f"--adjust-vma={BASE:#x}", object_file)
    lines = re.findall(r"^ *([0-9a-f]+):\t([0-9a-f]+) +\t(.*)$", listing, re.MULTILINE)
    assert len(lines) == len(chosen)
    wrong = []
    for (_, word), (address, raw, text) in zip(chosen, lines, strict=True):
        assert int(raw, 16) == word
        theirs = re.sub(r"\s*[#<].*", "", text.replace("\t", " ")).strip()
        ours = disassemble(word, int(address, 16))
        if not same(ours, theirs):
            wrong.append(f"{word:#x}: ours {ours!r}, objdump's {theirs!r}")
    assert not wrong, "\n".join(wrong[:40])


def same(ours: str, theirs: str) -> bool:
    """Whether both say the same, but for what binutils spells otherwise.

    Older ones lack the rounding modes of exact conversions; they name CSRs that we lack; c.nop and
    shifts by 0 have other names in them.
    """
    theirs = re.sub(r"^c\.addi zero,(.*)$", lambda f: f"c.nop {f[1]}".removesuffix(" 0"), theirs)
    theirs = re.sub(r"^(c\.s\w\wi)64 (\w+)$", r"\1 \2,0x0", theirs)
    if re.match(r"csr\w+ \w+,0x", ours):
        ours, theirs = (re.sub(r",\w+,", ",?,", text) for text in (ours, theirs))
    if re.match(r"(c\.)?(j|jal|b(eq|ne|lt|ge)\w*) ", ours):
        ours = re.sub(r"0x(\w+)$", r"\1", ours)  # an address, which objdump writes without 0x
    exact = re.match(r"fcvt\.d\.(w|wu|s) .*,.*,", ours)
    return ours == theirs or (exact is not None and theirs.startswith(".4byte"))


SOURCE = """
    .equ size, 4 * (3 + 5)
start:
    li a0, 0
    li a1, -2048
    li a2, 0x12345
    li a3, 0x7fffffff
    li a4, -0x80000000
    la s0, table
    lla s1, word
    call function
    tail function
1:  addi a0, a0, size - 1
    bnez a0, 1b
    beqz a1, 1f
    bgt a0, a1, 1b
    bleu a0, a1, start
    j 1f
1:  mv s2, s3
    not s2, s3
    neg s2, s3
    negw s2, s3
    sext.w s2, s3
    seqz s2, s3
    snez s2, s3
    sltz s2, s3
    sgtz s2, s3
    csrr t0, mstatus
    csrw mtvec, t0
    csrs sie, t0
    csrc sip, t0
    csrwi fcsr, 3
    csrsi mstatus, 8
    rdtime t1
    rdcycle t1
    frcsr t2
    fsrm t3, t4
    lui a0, %hi(0x12345fff)
    addi a0, a0, %lo(0x12345fff)
2:  auipc a1, %pcrel_hi(table)
    ld a1, %pcrel_lo(2b)(a1)
    lw a2, word
    and a0, a0, 15
    sll a0, a0, 3
    jr a0
    jalr a0
    jalr ra, 8(a0)
    jalr t0, a1
    jal start
    ret
    fence
    fence rw, w
    fence.tso
    fence.i
    sfence.vma
    sfence.vma a0
    sfence.vma a0, a1
    lr.w.aqrl a0, (a1)
    sc.d.rl a0, a2, (a1)
    amoadd.w.aq a0, a2, (a1)
    fadd.s fa0, fa1, fa2
    fadd.d fa0, fa1, fa2, rtz
    fmadd.d ft0, ft1, ft2, ft3, rup
    fcvt.w.d a0, fa0, rtz
    fcvt.d.w fa0, a0
    fcvt.d.s fa0, fa1
    fmv.d fa0, fa1
    fneg.s fa0, fa1
    fabs.d fa0, fa1
    fgt.d a0, fa0, fa1
    sh1add a0, a1, a2
    zext.h a0, a0
    rev8 a0, a0
    orc.b a0, a0
    bseti a0, a0, 63
    rori a0, a0, 7
    c.addi a0, -1
    c.nop
    .align 3
function:
    ecall
    ebreak
    mret
    sret
    wfi
    unimp
table:
    .dword start, 0x123456789abcdef0
word:
    .word 1, -1, 'A', function - table
    .half 0x1234, 1 << 3
    .byte 1, 2, ~0 & 0xff
    .ascii "ab", "c\\n"
    .asciz "x\\x41\\101;#"
    .string "y"
    .balign 8
    .zero 3
    .space 5
"""


def test_source_assembles_as_with_gnu_as(tmp_path: Path, gnu_as: str) -> None:
    """Without compression and relaxation, which ours has not, both give the same bytes."""
    source = tmp_path / "a.s"
    source.write_text(".option norvc\n.option norelax\n" + SOURCE.replace("    c.", "    # c."))
    ours = assemble(source.read_text(), BASE)
    object_file, linked, raw = (str(tmp_path / name) for name in ("a.o", "a.elf", "a.bin"))
    run(gnu_as, MARCH, "-mno-arch-attr", str(source), "-o", object_file)
    run(_tool("ld"), "-Ttext", hex(BASE), "-e", "start", object_file, "-o", linked, "--no-relax")
    run(_tool("objcopy"), "-O", "binary", "-j", ".text", linked, raw)
    theirs = Path(raw).read_bytes()
    differing = [
        f"{BASE + at:#x}: ours {disassemble(int.from_bytes(ours.data[at : at + 4], 'little'))!r}, "
        f"theirs {disassemble(int.from_bytes(theirs[at : at + 4], 'little'))!r}"
        for at in range(0, len(theirs), 4)
        if ours.data[at : at + 4] != theirs[at : at + 4]
    ]
    assert not differing, "\n".join(differing[:20])
    assert len(ours.data) == len(theirs)


def test_compressed_spellings_assemble_as_with_gnu_as(tmp_path: Path, gnu_as: str) -> None:
    lines = [disassemble(word) for length, word in words(10) if length == 2]
    texts = [text for text in lines if not re.match(r"c\.(j|beqz|bnez) ", text)]
    source = tmp_path / "c.s"
    source.write_text("\n".join(texts) + "\n")
    object_file, raw = str(tmp_path / "c.o"), tmp_path / "c.bin"
    run(gnu_as, MARCH, str(source), "-o", object_file)
    run(_tool("objcopy"), "-O", "binary", "-j", ".text", object_file, str(raw))
    assert assemble(source.read_text(), 0).data == raw.read_bytes()
