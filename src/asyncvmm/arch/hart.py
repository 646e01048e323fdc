"""The state of one hart: registers, CSRs, its TLB and its place in virtual time.

State only: what the state means is in ``trap``, ``csr``, ``mmu``, ``pmp`` and ``access`` beside this
file, and the loop that runs it in the engine. All 64-bit registers are two's complement ``i64``.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64, mypyc_attr

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.arch.guard import Guard
from asyncvmm.arch.tlb import Tlb
from asyncvmm.bus.address_map import Bus
from asyncvmm.interrupts.lines import InterruptSink
from asyncvmm.memory.pages import Ram
from asyncvmm.timeline.clock import Clock

USER: Final = 0
SUPERVISOR: Final = 1
MACHINE: Final = 3

# Bits of ``event``: what a slow path tells the engine's loop.
EVENT_NONE: Final = 0
EVENT_TRAP: Final = 1  # the instruction did not complete: trap_cause and trap_value say why
EVENT_CHECK: Final = 2  # it completed; interrupts, limit, mode or translation may have changed
EVENT_HALT: Final = 4  # it has not begun: a debugger wants the hart to stop here, or see EVENT_BAIL

# Hart states of SBI HSM (chapter 9), as far as a hart itself can be in them.
STOPPED: Final = 0
STARTED: Final = 1

PMP_ENTRIES: Final = 16

# What ``run`` of an engine answers.
EXIT_BUDGET: Final = 0  # the budget is used up exactly, or a slice end was moved nearer
EXIT_WFI: Final = 1  # the hart waits for an interrupt
EXIT_STOP: Final = 2  # somebody set ``stop``: power off, stopped hart, HTIF exit


@mypyc_attr(allow_interpreted_subclasses=True)
class Environment:
    """What is outside the hart: called for ECALLs that the host serves, and on HTIF stores."""

    def ecall(self, hart: Hart) -> bool:
        """Serve an ECALL from S-mode and return True, or return False to take the trap."""
        return False

    def exact_clock(self) -> Clock | None:
        """The clock whose ``mtime`` is all that ``time_ticks`` answers, if there is one."""
        return None

    def time_ns(self, hart: Hart) -> i64:
        """Virtual time at the instruction that ``hart`` executes now, in ns."""
        return hart.slice_start_ns + (hart.steps - hart.slice_start_steps)

    def time_ticks(self, hart: Hart) -> i64:
        """What the ``time`` CSR reads: mtime, at 10 MHz."""
        return self.time_ns(hart) // 100


class Hart(InterruptSink):
    """One RISC-V hardware thread (RV64GC, M, S and U modes)."""

    def __init__(self, hart_id: i64, ram: Ram, bus: Bus, code: CodeCache) -> None:
        self.hart_id: i64 = hart_id
        self.ram: Ram = ram
        self.bus: Bus = bus
        self.code: CodeCache = code
        self.environment: Environment = Environment()
        self.tlb: Tlb = Tlb()
        self.cross_page: vec[i64] = code.cross_page()
        # x[32] is the sink that decoded instructions with rd = x0 write to.
        self.x: vec[i64] = vec[i64]([0] * 33)
        self.f: vec[i64] = vec[i64]([0] * 32)
        self.fp: FloatStatus = FloatStatus()
        self.guard: Guard = Guard(hart_id + 1)  # one for all harts of a guest, see Machine
        self.pc: i64 = 0
        self.priv: i64 = MACHINE
        self.state: i64 = STARTED

        self.mstatus: i64 = 0
        self.medeleg: i64 = 0
        self.mideleg: i64 = 0
        self.mie: i64 = 0
        self.mip_lines: i64 = 0  # driven by controllers: MEI, MTI, MSI and SEI's external half
        self.mip_soft: i64 = 0  # written by software (SEI, STI, SSI) or by the host's SBI
        self.mtvec: i64 = 0
        self.mcounteren: i64 = 0
        self.mcountinhibit: i64 = 0
        self.menvcfg: i64 = 0
        self.mscratch: i64 = 0
        self.mepc: i64 = 0
        self.mcause: i64 = 0
        self.mtval: i64 = 0
        self.stvec: i64 = 0
        self.scounteren: i64 = 0
        self.senvcfg: i64 = 0
        self.sscratch: i64 = 0
        self.sepc: i64 = 0
        self.scause: i64 = 0
        self.stval: i64 = 0
        self.satp: i64 = 0
        self.pmpcfg: vec[i64] = vec[i64]([0] * PMP_ENTRIES)  # one byte each
        self.pmpaddr: vec[i64] = vec[i64]([0] * PMP_ENTRIES)
        self.pmp_active: bool = False  # some entry is not OFF
        self.pmp_open: bool = False  # the entry that decides first allows everything everywhere

        # Derived from mstatus and satp by mmu.update_context: privilege of loads and stores (MPRV).
        self.data_priv: i64 = MACHINE

        # LR reservation: the virtual address, -1 for none. Traps and turns of other harts clear it.
        self.reservation: i64 = -1

        # Counting. A step is an instruction retired or a trap taken: time is steps.
        self.steps: i64 = 0
        self.traps: i64 = 0
        self.cycle_base: i64 = 0  # mcycle = steps + cycle_base, or cycle_base while inhibited
        self.instret_base: i64 = 0  # minstret = steps - traps + instret_base, likewise
        self.steps_end: i64 = 0  # where the running slice ends; may be moved nearer, never away
        self.slice_start_ns: i64 = 0
        self.slice_start_steps: i64 = 0

        # Between slow paths and the loop.
        self.event: i64 = EVENT_NONE
        self.trap_cause: i64 = 0
        self.trap_value: i64 = 0
        self.walk_whole_page: bool = False  # mmu: the last translation holds for its whole page
        self.waiting: bool = False  # in WFI
        self.stop: bool = False

        # Statistics (never visible to the guest).
        self.mmio_accesses: i64 = 0
        self.tlb_misses: i64 = 0
        self.interrupts_taken: i64 = 0

    def set_level(self, number: i64, level: bool) -> None:
        """Drive interrupt-pending bit ``number`` of mip (3 MSI, 7 MTI, 9 SEI, 11 MEI)."""
        one: i64 = 1
        if level:
            self.mip_lines |= one << number
        else:
            self.mip_lines &= ~(one << number)
        self.event |= EVENT_CHECK

    def set_software_pending(self, number: i64, level: bool) -> None:
        """Set or clear mip bit 1 (SSI), 5 (STI) or 9 (SEI) as M-mode software would."""
        one: i64 = 1
        if level:
            self.mip_soft |= one << number
        else:
            self.mip_soft &= ~(one << number)
        self.event |= EVENT_CHECK

    def end_slice_at(self, steps: i64) -> None:
        """Let the running slice end at ``steps`` if that is nearer than its end now."""
        if steps < self.steps_end:
            self.steps_end = steps
            self.event |= EVENT_CHECK

    def pending_interrupts(self) -> i64:
        """Bits of mip & mie that are pending and enabled one by one (not yet globally)."""
        return (self.mip_lines | self.mip_soft) & self.mie
