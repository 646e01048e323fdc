"""Running bare-metal programs: how they end, and what is said when they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.testing.bare_metal import run_bare_metal

BASE = 0x8000_0000
EXIT = "\nla t6, tohost\nsd t5, 0(t6)\n1: j 1b\n.balign 64\ntohost: .dword 0\nfromhost: .dword 0\n"

MakeElf = Callable[[str], Path]


@pytest.fixture
def elf(tmp_path: Path) -> MakeElf:
    """Assembly text to a file."""

    def make(source: str) -> Path:
        path = tmp_path / "program.elf"
        path.write_bytes(to_elf(assemble(source, BASE)))
        return path

    return make


@pytest.mark.parametrize("code", [0, 1, 200])
def test_the_exit_code_is_htif_s(elf: MakeElf, code: int) -> None:
    result = run_bare_metal(elf(f"li t5, {code << 1 | 1}{EXIT}"))
    assert result.code == code
    assert result.console == b""
    assert result.instructions == 4  # li, la (two), sd


def test_the_console_is_htif_s_without_a_uart(elf: MakeElf) -> None:
    putchar = f"li t5, {1 << 56 | 1 << 48 | ord('x')}\nla t6, tohost\nsd t5, 0(t6)\n"
    wait = "2: ld t5, 0(t6)\nbnez t5, 2b\n"
    assert run_bare_metal(elf(f"{putchar}{wait}li t5, 1{EXIT}")).console == b"x"


def test_a_program_that_waits_for_ever_is_named(elf: MakeElf) -> None:
    with pytest.raises(GuestError, match=r"program\.elf waits for ever"):
        run_bare_metal(elf("wfi\nj .-4"))


def test_a_program_that_does_not_end_is_named(elf: MakeElf) -> None:
    with pytest.raises(GuestError, match=r"program\.elf has not ended after 1000 steps"):
        run_bare_metal(elf("1: j 1b"), max_steps=1000)


def test_a_faulting_trap_vector_is_contained(elf: MakeElf) -> None:
    with pytest.raises(GuestError, match="has not ended"):
        run_bare_metal(elf("csrw mtvec, zero\n.word 0"), max_steps=1000)


def test_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no program" * 100)
    with pytest.raises(ConfigError, match=r"text: not an ELF file"):
        run_bare_metal(path)


def test_harts_have_their_numbers(elf: MakeElf) -> None:
    """The last of three harts ends the program with its number."""
    source = f"csrr t0, mhartid\nli t1, 2\n3: bne t0, t1, 3b\nslli t5, t0, 1\nori t5, t5, 1{EXIT}"
    assert run_bare_metal(elf(source), harts=3).code == 2
