"""Assembler, disassembler and ELF writer."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.isa.asm import AssemblyError, assemble
from asyncvmm.isa.asm_pseudo import expand_li
from asyncvmm.isa.disasm import disassemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference import ReferenceHart, ReferenceRam
from asyncvmm.isa.tables import ENCODINGS

BASE = 0x80000000


@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_what_is_disassembled_assembles_to_the_same_bits(encoding: Encoding) -> None:
    random = Random(encoding.name)
    for _ in range(50):
        word = (encoding.match | random.getrandbits(32) & ~encoding.mask) & (
            (1 << 8 * encoding.length) - 1
        )
        text = disassemble(word, BASE)
        assert assemble(text, BASE).data == word.to_bytes(encoding.length, "little"), text


@settings(derandomize=True)
@given(st.integers(0, (1 << 32) - 1))
def test_any_word_has_a_text_that_assembles_to_it(word: int) -> None:
    length = 4 if word & 3 == 3 else 2
    text = disassemble(word, BASE)
    assert int.from_bytes(assemble(text, BASE).data, "little") == word & ((1 << 8 * length) - 1)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0xFE010113, "addi sp,sp,-32"),
        (0x00113C23, "sd ra,24(sp)"),
        (0x4501, "c.li a0,0"),
        (0x8082, "c.jr ra"),
        (0x10500073, "wfi"),
        (0x02A5F553, "fadd.d fa0,fa1,fa0"),
        (0x02A59553, "fadd.d fa0,fa1,fa0,rtz"),
        (0x30529073, "csrrw zero,mtvec,t0"),
        (0x0FF0000F, "fence iorw,iorw"),
        (0x1005A52F, "lr.w a0,(a1)"),
        (0x06C5B52F, "amoadd.d.aqrl a0,a2,(a1)"),
        (0xFFFFFFFF, ".4byte 0xffffffff"),
        (0x0000, ".2byte 0x0"),
    ],
)
def test_spelling(word: int, text: str) -> None:
    assert disassemble(word, BASE) == text


@settings(derandomize=True)
@given(
    st.one_of(
        st.integers(-(1 << 63), (1 << 63) - 1),
        st.integers(-(1 << 33), 1 << 33),
        st.builds(lambda a, b: (a << b) - (1 << 63), st.integers(0, 4095), st.integers(0, 52)),
    )
)
def test_li_loads_the_constant(value: int) -> None:
    program = assemble(f"li a0, {value}\nebreak", BASE)
    ram = ReferenceRam(BASE, 0x1000)
    ram.data[: len(program.data)] = program.data
    hart = ReferenceHart(ram, BASE)
    for _ in range(len(expand_li("a0", value))):
        hart.step()
    assert hart.x[10] == value & (1 << 64) - 1
    assert hart.pc == BASE + len(program.data) - 4
    assert len(expand_li("a0", value)) <= 8


def test_sections_labels_and_local_labels() -> None:
    program = assemble(
        """
        .data
    value:  .dword value, end - value
    end:
        .text
    _start:                     # a comment with "quotes"
        la a0, value            // another
    1:  addi a0, a0, 1; bnez a0, 1b
        j 1f                    /* and
                                   one more */
        .dword 0
    1:  ret
        """,
        BASE,
    )
    assert program.symbols["_start"] == BASE
    assert program.symbols["value"] == BASE + 0x20
    assert program.data[0x20:] == struct.pack("<QQ", BASE + 0x20, 16)
    assert disassemble(int.from_bytes(program.data[12:16], "little"), BASE + 12) == (
        f"bne a0,zero,{BASE + 8:#x}"
    )
    assert disassemble(int.from_bytes(program.data[16:20], "little"), BASE + 16) == (
        f"jal zero,{BASE + 0x1C:#x}"
    )


@pytest.mark.parametrize(
    ("source", "line", "why"),
    [
        ("nop\nfrob a0", 2, "no instruction frob"),
        ("addi a0, a1, 2048", 1, "imm is 2048, not in -2048..2047"),
        ("addi a0, a1", 1, "takes 3 operands, not 2"),
        ("add a0, a1, f2", 1, "no expression|not defined|not an integer register"),
        ("\n\nj nowhere", 3, "nowhere is not defined"),
        ("x: nop\nx: nop", 2, "x is already defined"),
        ("lw a0, 4[a1]", 1, "no expression"),
        ("lw a0, (a1", 1, "form offset|no expression|bracket"),
        ("lr.w a0, 4(a1)", 1, "takes no offset"),
        (".frob 1", 1, "no directive .frob"),
        (".word 0x100000000", 1, "does not fit 4 bytes"),
        (".section .note", 1, "no section"),
        ("c.addi4spn a0, sp, 0", 1, "reserved"),
        ("c.lw t0, 0(a0)", 1, "rd is 5, not in 8..15"),
        ("fadd.s fa0, fa1, fa2, nearest", 1, "no rounding mode"),
        ("li a0, later\nlater:", 1, "not known at this point"),
        (".align 40", 1, "power of two"),
        (".ascii abc", 1, "not a string"),
        (".word 1 / 0", 1, "division by zero"),
        ("1: j 2f", 1, "2f is not defined"),
        ("beq a0, a1, . + 0x2000", 1, "imm is 8192"),
        ("addi a0,, 3", 1, "an operand is missing"),
    ],
)
def test_mistakes_name_the_line(source: str, line: int, why: str) -> None:
    with pytest.raises(AssemblyError, match=why) as caught:
        assemble(source, BASE)
    assert caught.value.line == line


@settings(derandomize=True)
@given(st.text(alphabet="aft01x.:,()%+-\"'\\\n #;liw addj{}", max_size=60))
def test_any_text_assembles_or_says_why(source: str) -> None:
    try:
        assemble(source, BASE)
    except AssemblyError as error:
        assert str(error).startswith("line ")


def test_elf_holds_the_code_and_its_symbols() -> None:
    program = assemble("_start: j _start\n.balign 64\ntohost: .dword 0\nfromhost: .dword 0", BASE)
    elf = to_elf(program)
    assert elf[:7] == b"\x7fELF\x02\x01\x01"
    kind, machine, _, entry, phoff, shoff, flags = struct.unpack_from("<HHIQQQI", elf, 16)
    assert (kind, machine, entry, flags) == (2, 243, BASE, 5)
    p_type, p_flags, offset, vaddr, _, size, memory = struct.unpack_from("<IIQQQQQ", elf, phoff)
    assert (p_type, p_flags, vaddr, size, memory) == (1, 7, BASE, 80, 80)
    assert elf[offset : offset + size] == program.data
    symtab = struct.unpack_from("<IIQQQQIIQQ", elf, shoff + 2 * 64)
    strtab = struct.unpack_from("<IIQQQQIIQQ", elf, shoff + 3 * 64)
    symbols = {}
    for at in range(symtab[4], symtab[4] + symtab[5], 24):
        name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", elf, at)
        start = strtab[4] + name
        symbols[elf[start : elf.index(b"\0", start)].decode()] = value
    assert symbols == {"": 0, "_start": BASE, "tohost": BASE + 64, "fromhost": BASE + 72}


def test_alignments_hold_for_addresses_in_every_section() -> None:
    program = assemble(
        """
        nop
        .balign 64
        code: nop
        .rodata
        .byte 1
        .data
        .byte 2
        .balign 4096
        page: .dword page
        .bss
        .zero 3
        .balign 256
        block: .zero 8
        """,
        BASE,
    )
    assert program.symbols["code"] == BASE + 64
    assert program.symbols["page"] == BASE + 0x2000
    assert program.data[0x2000:0x2008] == (BASE + 0x2000).to_bytes(8, "little")
    assert program.symbols["block"] == BASE + 0x2200
    with pytest.raises(AssemblyError, match="line 1: the base 0x80000010 is not aligned to 64"):
        assemble(".balign 64", BASE + 16)
