"""Control and status registers: who may read and write which, and what a write leaves (chapter 2)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from asyncvmm.arch import csr_numbers as number
from asyncvmm.arch.hart import EVENT_CHECK, MACHINE, PMP_ENTRIES, SUPERVISOR, USER, Hart
from asyncvmm.arch.mmu import flush_all, update_context
from asyncvmm.arch.pmp import read_config, write_address, write_config
from asyncvmm.arch.status import (
    ALL_INTERRUPTS,
    DELEGABLE,
    FS,
    MENVCFG_WRITE,
    MPP,
    MPP_SHIFT,
    MSTATUS_WRITE,
    SATP_BARE,
    SATP_SV39,
    SATP_SV48,
    SD,
    SSI,
    SSTATUS_READ,
    SSTATUS_WRITE,
    SUPERVISOR_INTERRUPTS,
    TVM,
    XLEN_FIELDS,
)
from asyncvmm.arch.trap import illegal

SWAP: Final = 0
SET: Final = 1
CLEAR: Final = 2

_MISA: Final = -0x8000000000000000 | 0x14112F  # RV64 ABCDFIMSU


def access(hart: Hart, csr: i64, how: i64, value: i64, reads: bool, writes: bool) -> i64:
    """One CSR instruction: returns the old value; an illegal one notes the trap.

    ``how`` is SWAP, SET or CLEAR; ``reads`` is False for CSRRW with rd = x0, ``writes`` is False for
    CSRRS/C with rs1 = x0 (unprivileged architecture, Zicsr, table 7.1).
    """
    if hart.priv < ((csr >> 8) & 3) or (writes and (csr >> 10) == 3) or not _accessible(hart, csr):
        illegal(hart)
        return 0
    old: i64 = 0
    if reads or how != SWAP:
        old = read(hart, csr)
    if writes:
        if csr == number.CSR_MIP or csr == number.CSR_SIP:
            _write_pending(hart, csr, how, value)
        else:
            if how == SET:
                value = old | value
            elif how == CLEAR:
                value = old & ~value
            write(hart, csr, value)
    return old


def _accessible(hart: Hart, csr: i64) -> bool:
    """Whether ``csr`` exists and the state's own rules (FS, counter enables, TVM) let it be used."""
    if csr <= number.CSR_FCSR:
        return csr >= number.CSR_FFLAGS and (hart.mstatus & FS) != 0
    if csr >= number.CSR_CYCLE and csr <= number.CSR_HPMCOUNTER31:
        bit = csr & 31
        if hart.priv != MACHINE and ((hart.mcounteren >> bit) & 1) == 0:
            return False
        return hart.priv != USER or ((hart.scounteren >> bit) & 1) != 0
    if csr == number.CSR_SATP:
        return not (hart.priv == SUPERVISOR and (hart.mstatus & TVM) != 0)
    return exists(csr)


def exists(csr: i64) -> bool:
    """Whether the hart has this CSR (counters and floating point apart)."""
    if csr >= 0x100 and csr < 0x200:
        return (
            csr == number.CSR_SSTATUS
            or (csr >= number.CSR_SIE and csr <= number.CSR_SCOUNTEREN)
            or csr == number.CSR_SENVCFG
            or (csr >= number.CSR_SSCRATCH and csr <= number.CSR_SIP)
            or csr == number.CSR_SATP
        )
    if csr >= 0x300 and csr < 0x400:
        return (
            (csr >= number.CSR_MSTATUS and csr <= number.CSR_MCOUNTEREN)
            or csr == number.CSR_MENVCFG
            or csr == number.CSR_MCOUNTINHIBIT
            or (csr >= number.CSR_MHPMEVENT3 and csr <= number.CSR_MHPMEVENT31)
            or (csr >= number.CSR_MSCRATCH and csr <= number.CSR_MIP)
            or (csr >= number.CSR_PMPCFG0 and csr <= number.CSR_PMPCFG0 + 15 and (csr & 1) == 0)
            or (csr >= number.CSR_PMPADDR0 and csr <= number.CSR_PMPADDR63)
        )
    if csr >= 0x7A0 and csr <= 0x7A3:
        return True  # trigger registers: no trigger exists, all read zero
    if csr >= 0xB00 and csr < 0xB20:
        return csr != 0xB01
    return csr >= number.CSR_MVENDORID and csr <= number.CSR_MCONFIGPTR


def cycle(hart: Hart) -> i64:
    """mcycle: steps (instructions retired and traps taken), unless inhibited."""
    return hart.cycle_base if (hart.mcountinhibit & 1) != 0 else hart.steps + hart.cycle_base


def instret(hart: Hart) -> i64:
    """minstret: instructions retired before this one, unless inhibited."""
    if (hart.mcountinhibit & 4) != 0:
        return hart.instret_base
    return hart.steps - hart.traps + hart.instret_base


def status_with_summary(hart: Hart) -> i64:
    """mstatus as it reads: SD summarises FS, SXL and UXL are constant (3.1.6)."""
    value = hart.mstatus | XLEN_FIELDS
    if (value & FS) == FS:
        value |= SD
    return value


def read(hart: Hart, csr: i64) -> i64:
    """The value of a CSR that exists; no permission is checked."""
    if csr < 0x100:
        if csr == number.CSR_FFLAGS:
            return hart.fp.flags
        if csr == number.CSR_FRM:
            return hart.fp.frm
        return (hart.fp.frm << 5) | hart.fp.flags
    if csr < 0x200:
        return _read_supervisor(hart, csr)
    if csr < 0x400:
        return _read_machine(hart, csr)
    if csr == number.CSR_CYCLE or csr == number.CSR_MCYCLE:
        return cycle(hart)
    if csr == number.CSR_INSTRET or csr == number.CSR_MINSTRET:
        return instret(hart)
    if csr == number.CSR_TIME:
        return hart.environment.time_ticks(hart)
    if csr == number.CSR_MHARTID:
        return hart.hart_id
    return 0


def _read_supervisor(hart: Hart, csr: i64) -> i64:
    if csr == number.CSR_SSTATUS:
        return status_with_summary(hart) & (SSTATUS_READ | SD)
    if csr == number.CSR_SIE:
        return hart.mie & hart.mideleg
    if csr == number.CSR_SIP:
        return (hart.mip_lines | hart.mip_soft) & hart.mideleg
    if csr == number.CSR_STVEC:
        return hart.stvec
    if csr == number.CSR_SCOUNTEREN:
        return hart.scounteren
    if csr == number.CSR_SENVCFG:
        return hart.senvcfg
    if csr == number.CSR_SSCRATCH:
        return hart.sscratch
    if csr == number.CSR_SEPC:
        return hart.sepc
    if csr == number.CSR_SCAUSE:
        return hart.scause
    if csr == number.CSR_STVAL:
        return hart.stval
    return hart.satp


def _read_machine(hart: Hart, csr: i64) -> i64:
    if csr == number.CSR_MSTATUS:
        return status_with_summary(hart)
    if csr == number.CSR_MISA:
        return _MISA
    if csr == number.CSR_MEDELEG:
        return hart.medeleg
    if csr == number.CSR_MIDELEG:
        return hart.mideleg
    if csr == number.CSR_MIE:
        return hart.mie
    if csr == number.CSR_MTVEC:
        return hart.mtvec
    if csr == number.CSR_MCOUNTEREN:
        return hart.mcounteren
    if csr == number.CSR_MENVCFG:
        return hart.menvcfg
    if csr == number.CSR_MCOUNTINHIBIT:
        return hart.mcountinhibit
    if csr == number.CSR_MSCRATCH:
        return hart.mscratch
    if csr == number.CSR_MEPC:
        return hart.mepc
    if csr == number.CSR_MCAUSE:
        return hart.mcause
    if csr == number.CSR_MTVAL:
        return hart.mtval
    if csr == number.CSR_MIP:
        return hart.mip_lines | hart.mip_soft
    if csr >= number.CSR_PMPADDR0 and csr < number.CSR_PMPADDR0 + PMP_ENTRIES:
        return hart.pmpaddr[csr - number.CSR_PMPADDR0]
    if csr >= number.CSR_PMPCFG0 and csr <= number.CSR_PMPCFG0 + 15:
        return read_config(hart, (csr - number.CSR_PMPCFG0) << 2)
    return 0


def write(hart: Hart, csr: i64, value: i64) -> None:
    """Write a CSR that exists and is writable, through its WARL rules; mip and sip apart."""
    if csr < 0x100:
        _write_float(hart, csr, value)
    elif csr < 0x200:
        _write_supervisor(hart, csr, value)
    elif csr < 0x400:
        _write_machine(hart, csr, value)
    elif csr == number.CSR_MCYCLE:
        # The instruction that writes is not counted afterwards (3.1.10): -1 for its own step.
        hart.cycle_base = value if (hart.mcountinhibit & 1) != 0 else value - hart.steps - 1
    elif csr == number.CSR_MINSTRET:
        if (hart.mcountinhibit & 4) != 0:
            hart.instret_base = value
        else:
            hart.instret_base = value - (hart.steps - hart.traps) - 1


def _write_float(hart: Hart, csr: i64, value: i64) -> None:
    hart.mstatus |= FS
    if csr != number.CSR_FRM:
        hart.fp.flags = value & 31
        value >>= 5
        if csr == number.CSR_FFLAGS:
            return
    hart.fp.frm = value & 7
    hart.event |= EVENT_CHECK


def _write_supervisor(hart: Hart, csr: i64, value: i64) -> None:
    if csr == number.CSR_SSTATUS:
        hart.mstatus = (hart.mstatus & ~SSTATUS_WRITE) | (value & SSTATUS_WRITE)
        update_context(hart)
    elif csr == number.CSR_SIE:
        hart.mie = (hart.mie & ~hart.mideleg) | (value & hart.mideleg)
        hart.event |= EVENT_CHECK
    elif csr == number.CSR_STVEC:
        hart.stvec = value & ~2
    elif csr == number.CSR_SCOUNTEREN:
        hart.scounteren = value & 0xFFFFFFFF
    elif csr == number.CSR_SENVCFG:
        hart.senvcfg = value & 1
    elif csr == number.CSR_SSCRATCH:
        hart.sscratch = value
    elif csr == number.CSR_SEPC:
        hart.sepc = value & ~1
    elif csr == number.CSR_SCAUSE:
        hart.scause = value
    elif csr == number.CSR_STVAL:
        hart.stval = value
    elif csr == number.CSR_SATP:
        _write_satp(hart, value)


def _write_satp(hart: Hart, value: i64) -> None:
    """4.1.11: a write with a mode that is not there has no effect."""
    mode = (value >> 60) & 15
    if mode != SATP_BARE and mode != SATP_SV39 and mode != SATP_SV48:
        return
    old_mode = (hart.satp >> 60) & 15
    hart.satp = value
    if old_mode != mode:
        flush_all(hart)
    else:
        update_context(hart)


def _write_machine(hart: Hart, csr: i64, value: i64) -> None:
    if csr == number.CSR_MSTATUS:
        if ((value & MPP) >> MPP_SHIFT) == 2:  # reserved: keep the old one
            value = (value & ~MPP) | (hart.mstatus & MPP)
        hart.mstatus = (hart.mstatus & ~MSTATUS_WRITE) | (value & MSTATUS_WRITE)
        update_context(hart)
    elif csr == number.CSR_MEDELEG:
        hart.medeleg = value & DELEGABLE
    elif csr == number.CSR_MIDELEG:
        hart.mideleg = value & SUPERVISOR_INTERRUPTS
        hart.event |= EVENT_CHECK
    elif csr == number.CSR_MIE:
        hart.mie = value & ALL_INTERRUPTS
        hart.event |= EVENT_CHECK
    elif csr == number.CSR_MTVEC:
        hart.mtvec = value & ~2
    elif csr == number.CSR_MCOUNTEREN:
        hart.mcounteren = value & 0xFFFFFFFF
    elif csr == number.CSR_MENVCFG:
        hart.menvcfg = value & MENVCFG_WRITE
        flush_all(hart)
    elif csr == number.CSR_MCOUNTINHIBIT:
        _write_inhibit(hart, value & 5)
    elif csr == number.CSR_MSCRATCH:
        hart.mscratch = value
    elif csr == number.CSR_MEPC:
        hart.mepc = value & ~1
    elif csr == number.CSR_MCAUSE:
        hart.mcause = value
    elif csr == number.CSR_MTVAL:
        hart.mtval = value
    elif csr >= number.CSR_PMPADDR0:
        write_address(hart, csr - number.CSR_PMPADDR0, value)
        flush_all(hart)
    elif csr >= number.CSR_PMPCFG0:
        write_config(hart, (csr - number.CSR_PMPCFG0) << 2, value)
        flush_all(hart)


def _write_inhibit(hart: Hart, value: i64) -> None:
    """Counters keep their value across a change of mcountinhibit (3.1.12)."""
    now_cycle = cycle(hart)
    now_instret = instret(hart)
    hart.mcountinhibit = value
    hart.cycle_base = now_cycle if (value & 1) != 0 else now_cycle - hart.steps
    hart.instret_base = now_instret if (value & 4) != 0 else now_instret - (hart.steps - hart.traps)


def _write_pending(hart: Hart, csr: i64, how: i64, value: i64) -> None:
    """mip and sip: only software's own bits change, whatever the lines say (3.1.9)."""
    mask: i64 = SUPERVISOR_INTERRUPTS
    if csr == number.CSR_SIP:
        mask = SSI & hart.mideleg
    if how == SWAP:
        hart.mip_soft = (hart.mip_soft & ~mask) | (value & mask)
    elif how == SET:
        hart.mip_soft |= value & mask
    else:
        hart.mip_soft &= ~(value & mask)
    hart.event |= EVENT_CHECK
