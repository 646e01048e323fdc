"""Bare-metal test programs: a builder that writes assembly, numbers its checks and catches traps.

A program starts in M-mode with all of memory open to S and U (PMP entry 15), nothing delegated and
every trap going to a catcher that leaves in registers what it saw and goes on at the place that was
expected. Registers: tests use a0-a4, t0-t4, s0-s5; the builder keeps the rest. Code is position
independent, so that U-mode can run it at an alias of its own. It ends through HTIF `tohost` (1 is
pass, ``n << 1 | 1`` is check n; from 128 on, an unexpected trap after check n - 128) and then the
test finisher of QEMU's virt board.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

RAM = 0x8000_0000
TABLES = 0x8020_0000  # page tables are allocated from here
DATA = 0x8040_0000  # free for tests: zero at start, a megapage's alignment
NOWHERE = 0x1000_0000_0000  # a physical address where no board has anything
USER_ALIAS = 0x4000_0000  # the program's address less this is where U-mode sees it under paging

MODES = {"U": 0, "S": 1, "M": 3}
ILLEGAL, BREAKPOINT = 2, 3
FETCH_ACCESS, LOAD_ACCESS, STORE_ACCESS = 1, 5, 7
LOAD_MISALIGNED, STORE_MISALIGNED = 4, 6
ECALL_U, ECALL_S, ECALL_M = 8, 9, 11
FETCH_PAGE, LOAD_PAGE, STORE_PAGE = 12, 13, 15
INTERRUPT = 1 << 63

SIE, MIE, SPIE, MPIE, SPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8
MPP, FS, MPRV, SUM, MXR = 3 << 11, 3 << 13, 1 << 17, 1 << 18, 1 << 19
TVM, TW, TSR = 1 << 20, 1 << 21, 1 << 22

_SERVICE = 0x5E21  # a7 of an environment call to the catcher itself
_UNEXPECTED = 128

_PROLOGUE = f"""
    .section .text.start, "ax", @progbits
    .option norvc
    .globl _start, tohost, fromhost
_start:
    csrr t0, mhartid
    bnez t0, {{others}}
    la t0, m_catch
    csrw mtvec, t0
    la t0, s_catch
    csrw stvec, t0
    li t0, -1
    csrw pmpaddr15, t0
    csrw mcounteren, t0
    csrw scounteren, t0
    li t0, {0x1F << 56}
    csrw pmpcfg2, t0
    csrw pmpcfg0, zero
    li t0, {1 << 13}
    csrs mstatus, t0
    li gp, 0
    li a7, 0
    li s7, 0
    j test

park:
    wfi
    j park

    .balign 4
m_catch:
    csrr s8, mcause
    csrr s9, mepc
    csrr s10, mtval
    csrr s11, mstatus
    li t6, {_SERVICE}
    beq a7, t6, m_service
    beqz s7, unexpected
    bgez s8, m_resume
    csrw mie, zero
m_resume:
    li s6, {MODES["M"]}
    csrw mepc, s7
    li s7, 0
    mret
m_service:
    li a7, 0
    bnez a6, finish
    csrw mepc, a5
    li t6, {MPP}
    csrs mstatus, t6
    mret

    .balign 4
s_catch:
    csrr s8, scause
    csrr s9, sepc
    csrr s10, stval
    csrr s11, sstatus
    beqz s7, fail
    bgez s8, s_resume
    csrw sie, zero
s_resume:
    li s6, {MODES["S"]}
    csrw sepc, s7
    li s7, 0
    sret

fail:
    li a6, 1
    li a7, {_SERVICE}
    ecall

unexpected:
    ori gp, gp, {_UNEXPECTED}
    la t4, finish
    csrw mtvec, t4
    li t4, {MPRV}
    csrc mstatus, t4
    mv t3, s8
    jal t2, print
    mv t3, s9
    jal t2, print
    mv t3, s10
    jal t2, print
    .balign 4
finish:
    li t4, {MPRV}
    csrc mstatus, t4
    slli t5, gp, 1
    ori t5, t5, 1
    la t6, tohost
    sd t5, 0(t6)
    li t6, 0x100000
    li t5, 0x5555
    beqz gp, finisher
    li t4, 0x3333
    slli t5, gp, 16
    or t5, t5, t4
finisher:
    la t4, park
    csrw mtvec, t4
    sw t5, 0(t6)
    j park

print:
    li t5, 60
    li t6, 0x10000000
digit:
    srl t4, t3, t5
    andi t4, t4, 15
    sltiu t0, t4, 10
    addi t4, t4, 87
    beqz t0, letter
    addi t4, t4, -39
letter:
    sb t4, 0(t6)
    addi t5, t5, -4
    bgez t5, digit
    li t4, 10
    sb t4, 0(t6)
    jr t2

test:
"""

_EPILOGUE = """
    li gp, 0
    li a6, 2
    li a7, {service}
    ecall
    .balign 64
tohost:
    .dword 0
    .balign 64
fromhost:
    .dword 0
"""

Operand = int | str


class Program:
    """One test program; every method appends to it. `checks[n - 1]` says what check n is about.

    With several `harts` the others jump to the label ``others`` (t0 is the hart's number), which
    the test must place; hart 0 runs the program and its checks.
    """

    def __init__(self, harts: int = 1) -> None:
        self.harts = harts
        self._lines: list[str] = []
        self.checks: list[str] = []
        self._labels = 0
        self._mode = "M"
        self._alias = False

    def source(self) -> str:
        """The whole assembly text."""
        elsewhere = "others" if self.harts > 1 else "park"
        return (
            _PROLOGUE.replace("{others}", elsewhere)
            + "\n".join(self._lines)
            + _EPILOGUE.format(service=_SERVICE)
        )

    def asm(self, text: str) -> None:
        """Append instructions and labels as they are."""
        self._lines.append(textwrap.indent(textwrap.dedent(text).strip(), "    "))

    def label(self, name: str = "l") -> str:
        """A label that nobody else uses; the caller places it."""
        self._labels += 1
        return f"{name}_{self._labels}"

    def li(self, register: str, value: int) -> None:
        """Load a constant of up to 64 bits."""
        self.asm(f"li {register}, {_signed(value)}")

    def write(self, csr: str, value: int) -> None:
        """Write a CSR."""
        self.li("t5", value)
        self.asm(f"csrw {csr}, t5")

    def set(self, csr: str, bits: int) -> None:
        """Set bits of a CSR."""
        self.li("t5", bits)
        self.asm(f"csrs {csr}, t5")

    def clear(self, csr: str, bits: int) -> None:
        """Clear bits of a CSR."""
        self.li("t5", bits)
        self.asm(f"csrc {csr}, t5")

    def store(self, address: int, value: int, *, width: int = 8) -> None:
        """Store `width` bytes at a physical (or mapped) address."""
        self.li("t5", address)
        self.li("t6", value)
        self.asm(f"s{_WIDTHS[width]} t6, 0(t5)")

    def check(self, register: str, *accepted: Operand, what: str, mask: int | None = None) -> None:
        """The register (and `mask`) equals one of these constants or registers, or we fail."""
        self.checks.append(what)
        number = len(self.checks)
        assert number < _UNEXPECTED, "split the test"
        good = self.label("good")
        self.li("gp", number)
        if mask is not None:
            self.li("t5", mask)
            self.asm(f"and t6, {register}, t5")
            register = "t6"
        for value in accepted:
            if isinstance(value, int):
                self.li("t5", value)
                value = "t5"
            self.asm(f"beq {register}, {value}, {good}")
        self.asm(f"j fail\n{good}:")

    def check_csr(
        self, csr: str, *accepted: Operand, what: str = "", mask: int | None = None
    ) -> None:
        """The CSR (and `mask`) equals one of these."""
        self.asm(f"csrr t6, {csr}")
        self.check("t6", *accepted, what=what or csr, mask=mask)

    def check_memory(self, address: int, value: int, *, what: str, width: int = 8) -> None:
        """The `width` bytes at an address equal this, read without sign."""
        self.li("t5", address)
        self.asm(f"l{_WIDTHS[width]}{'' if width == 8 else 'u'} t6, 0(t5)")
        self.check("t6", value, what=what)

    def trap(
        self,
        instructions: str,
        *causes: int,
        tval: Operand | Sequence[Operand] | None = None,
        epc: Operand | None = None,
        by: str = "M",
        what: str = "",
    ) -> None:
        """The last of the instructions traps into mode `by` with one of the causes, and the program
        goes on behind it.

        `tval` and `epc` are a constant, a register or "pc" (the instruction's address, which is the
        default for `epc`); several constants for `tval` mean any of them. The catcher's registers
        (s8 cause, s9 epc, s10 tval, s11 status) stay for further checks.
        """
        site, resume = self.label("site"), self.label("resume")
        lines = textwrap.dedent(instructions).strip().splitlines()
        what = what or lines[-1].strip()
        self.asm("\n".join([f"la s7, {resume}", "li s6, 0", *lines[:-1]]))
        self.asm(f"{site}:\n{lines[-1]}\n{resume}:")
        self.check("s6", MODES[by], what=f"{what}: trapped into {by}")
        self.check("s8", *causes, what=f"{what}: cause")
        self._check_address("s9", "pc" if epc is None else epc, site, f"{what}: epc")
        if tval is not None:
            self._check_address("s10", tval, site, f"{what}: tval")

    def interrupt(self, instructions: str, cause: int, *, by: str = "M", what: str = "") -> None:
        """After the instructions an interrupt with this code has been taken into mode `by`.

        The catcher clears mie (sie) so that it comes once.
        """
        resume = self.label("resume")
        what = what or f"interrupt {cause}"
        self.asm(f"la s7, {resume}\nli s6, 0\nli s8, 0")
        self.asm(instructions)
        self.asm("nop\nnop")
        self.asm(f"{resume}:")
        self.check("s6", MODES[by], what=f"{what}: taken by {by}")
        self.check("s8", INTERRUPT | cause, what=f"{what}: cause")
        self.li("s7", 0)

    def enter(self, mode: str, *, alias: bool = False) -> None:
        """From M-mode go on in S or U; with `alias` at the program's U-mode addresses."""
        here = self.label("enter")
        self.clear("mstatus", MPP)
        self.set("mstatus", MODES[mode] << 11)
        self.asm(f"la t5, {here}")
        if alias:
            self.asm(f"li t6, {USER_ALIAS}\nsub t5, t5, t6")
        self.asm(f"csrw mepc, t5\nmret\n{here}:")
        self._mode, self._alias = mode, alias

    def leave(self) -> None:
        """Go on in M-mode, by a call to the catcher (which S-mode must not have had delegated)."""
        here = self.label("leave")
        self.asm(f"la a5, {here}")
        if self._alias:
            self.asm(f"li t6, {USER_ALIAS}\nadd a5, a5, t6")
        self.asm(f"li a6, 0\nli a7, {_SERVICE}\necall\n{here}:")
        self._mode, self._alias = "M", False

    def _check_address(
        self, register: str, expected: Operand | Sequence[Operand], site: str, what: str
    ) -> None:
        values = [expected] if isinstance(expected, int | str) else list(expected)
        if "pc" in values:
            self.asm(f"la t4, {site}")
        self.check(register, *("t4" if value == "pc" else value for value in values), what=what)


Run = Callable[[Program], None]
"""The `run` fixture: run a program on the machine of this test, and fail with its check's words."""

_WIDTHS = {1: "b", 2: "h", 4: "w", 8: "d"}


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
