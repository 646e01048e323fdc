"""Which registers gdb knows of a hart: their numbers, and the target description that says so.

Numbers are gdb's for RISC-V: x0 to x31, pc, f0 to f31, then CSRs from 65 on and the privilege.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.arch import csr_numbers

PC: Final = 32
FIRST_FLOAT: Final = 33
FIRST_CSR: Final = 65
PRIVILEGE: Final = FIRST_CSR + 0x1000

INTEGER_NAMES: Final = (
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "fp", "s1", "a0", "a1", "a2", "a3", "a4",
    "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4",
    "t5", "t6",
)  # fmt: skip
FLOAT_NAMES: Final = (
    *(f"ft{i}" for i in range(8)), "fs0", "fs1", *(f"fa{i}" for i in range(8)),
    *(f"fs{i}" for i in range(2, 12)), *(f"ft{i}" for i in range(8, 12)),
)  # fmt: skip
FLOAT_CSRS: Final = ("fflags", "frm", "fcsr")
CSRS: Final = (
    "cycle", "time", "instret",
    "sstatus", "sie", "stvec", "scounteren", "senvcfg", "sscratch", "sepc", "scause", "stval",
    "sip", "satp",
    "mstatus", "misa", "medeleg", "mideleg", "mie", "mtvec", "mcounteren", "menvcfg",
    "mcountinhibit", "mscratch", "mepc", "mcause", "mtval", "mip", "mhartid",
)  # fmt: skip
CSR_NUMBERS: Final = {
    name: int(getattr(csr_numbers, f"CSR_{name.upper()}")) for name in (*FLOAT_CSRS, *CSRS)
}
WRITABLE_CSRS: Final = frozenset(
    CSR_NUMBERS[name]
    for name in CSR_NUMBERS
    if name not in ("cycle", "time", "instret", "misa", "mhartid", "mip", "sip")
)

NUMBERS: Final = frozenset(
    (*range(FIRST_CSR), *(FIRST_CSR + csr for csr in CSR_NUMBERS.values()), PRIVILEGE)
)
GENERAL: Final = range(PC + 1)  # what ``g`` shows; gdb asks for the rest one by one


def size_bytes(number: int) -> int:
    """How many bytes a register of NUMBERS has in a packet."""
    return 4 if FIRST_CSR <= number <= FIRST_CSR + CSR_NUMBERS["fcsr"] else 8


def target_description() -> bytes:
    """The XML document that gdb reads as ``target.xml``."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        '<target version="1.0">',
        "<architecture>riscv:rv64</architecture>",
        '<feature name="org.gnu.gdb.riscv.cpu">',
    ]
    pointers = {"sp": "data_ptr", "gp": "data_ptr", "tp": "data_ptr", "fp": "data_ptr"}
    pointers["ra"] = "code_ptr"
    for number, name in enumerate(INTEGER_NAMES):
        lines.append(_register(name, number, 64, pointers.get(name, "int")))
    lines += [
        _register("pc", PC, 64, "code_ptr"),
        "</feature>",
        '<feature name="org.gnu.gdb.riscv.fpu">',
        '<union id="riscv_double">',
        '<field name="float" type="ieee_single"/><field name="double" type="ieee_double"/>',
        "</union>",
    ]
    for number, name in enumerate(FLOAT_NAMES):
        lines.append(_register(name, FIRST_FLOAT + number, 64, "riscv_double"))
    for name in FLOAT_CSRS:
        lines.append(_register(name, FIRST_CSR + CSR_NUMBERS[name], 32, "int"))
    lines += ["</feature>", '<feature name="org.gnu.gdb.riscv.csr">']
    for name in CSRS:
        lines.append(_register(name, FIRST_CSR + CSR_NUMBERS[name], 64, "int"))
    lines += [
        "</feature>",
        '<feature name="org.gnu.gdb.riscv.virtual">',
        _register("priv", PRIVILEGE, 64, "int"),
        "</feature>",
        "</target>",
    ]
    return "\n".join(lines).encode()


def _register(name: str, number: int, bits: int, kind: str) -> str:
    return f'<reg name="{name}" bitsize="{bits}" type="{kind}" regnum="{number}"/>'
