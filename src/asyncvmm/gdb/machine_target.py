"""A machine that stands still between two runs, as what gdb debugs.

Looking changes nothing: translations are walked without touching TLBs or accessed bits, devices are not
read. Break- and watchpoints are the guard's business, so memory is as the guest left it.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.arch import csr
from asyncvmm.arch.guard import HIT_BREAK, NO_HIT, READS, WRITES, Guard
from asyncvmm.arch.hart import MACHINE, STARTED, SUPERVISOR, USER
from asyncvmm.arch.mmu import PTE_R, PTE_V, PTE_W, PTE_X, update_context
from asyncvmm.arch.status import SATP_BARE, SATP_SV39
from asyncvmm.base.bits import to_signed, to_unsigned
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.engine.guarded import GuardedEngine
from asyncvmm.gdb.registers import (
    CSR_NUMBERS,
    FIRST_CSR,
    FIRST_FLOAT,
    PC,
    PRIVILEGE,
    WRITABLE_CSRS,
)
from asyncvmm.gdb.resume import Resume
from asyncvmm.gdb.target import Point, Stop
from asyncvmm.machine.machine import Machine

MODES: Final = {USER: "U", SUPERVISOR: "S", MACHINE: "M"}
_PPN: Final = (1 << 44) - 1
_PTE_RESERVED: Final = 0x3FF << 54
_HOWS: Final = {Point.WRITE: WRITES, Point.READ: READS, Point.ACCESS: READS | WRITES}
_REASONS: Final = {WRITES: "watch", READS: "rwatch", READS | WRITES: "awatch"}


class MachineTarget:
    """See ``Target``. From ``attach`` to ``detach`` the harts are run by a guarded engine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.frozen = False  # the past: nothing can be written
        self.locked = False  # neither in the present
        self.physical = False  # whether addresses of memory packets are physical
        self._points: set[tuple[Point, int, int]] = set()

    @property
    def _guard(self) -> Guard:
        return self.machine.guard

    def attach(self) -> None:
        """Run the harts by what watches them."""
        scheduler = self.machine.scheduler
        if not isinstance(scheduler.runner, GuardedEngine):
            scheduler.runner = GuardedEngine(scheduler.runner, self._guard)

    def detach(self) -> None:
        """No break- and watchpoints, and the engine as it was."""
        self._guard.clear()
        self._points.clear()
        self.physical = False
        runner = self.machine.scheduler.runner
        if isinstance(runner, GuardedEngine):
            self.machine.scheduler.runner = runner.inner

    def move(self, machine: Machine) -> None:
        """Go on with another machine: the same one at another time. Its points are those of now."""
        if machine is not self.machine:
            self._guard.clear()
            self.machine = machine
            self.attach()
            self.set_points(True)
        self._guard.forget_hit()
        self._guard.forget_passed()

    def set_points(self, wanted: bool) -> None:
        """All break- and watchpoints there, or none, without forgetting which they are."""
        self._guard.clear()
        if wanted:
            for point, address, length in self._points:
                self._set(point, address, length)

    # -- going on

    def prepare(self, resume: Resume) -> None:
        """Let the next runs of the machine do what ``resume`` says, forward."""
        guard = self._guard
        guard.forget_hit()
        guard.forget_step()
        if resume.step is not None:
            steps = int(self.machine.harts[resume.step].steps) + 1
            guard.step(resume.step, steps, to_signed(resume.start), to_signed(resume.end))

    def take_stop(self) -> Stop:
        """Why a run ended with RAN_HALT; the next one begins anew."""
        guard = self._guard
        hart, what, how = int(guard.hit_hart), guard.hit, int(guard.hit_how)
        address = to_unsigned(guard.hit_address)
        stepped = int(guard.step_hart)
        guard.forget_hit()
        guard.forget_step()
        if what == NO_HIT:
            return Stop(max(stepped, 0))
        if what == HIT_BREAK:
            return Stop(hart, reason="swbreak" if self._is_software(address) else "hwbreak")
        return Stop(hart, reason=_REASONS[how], address=address)

    def _is_software(self, address: int) -> bool:
        return any(point == Point.SOFTWARE and at == address for point, at, _ in self._points)

    def current_hart(self) -> int:
        """The hart to show when none was the reason: whose turn it is, or the first that runs."""
        scheduler = self.machine.scheduler
        state = scheduler.state()
        turn = int(state[1]) if state[0] >= 0 else 0
        harts = self.hart_count
        for hart in [(turn + i) % harts for i in range(harts)]:
            if scheduler.runnable(hart):
                return hart
        return 0

    # -- harts

    @property
    def hart_count(self) -> int:
        """See Target."""
        return len(self.machine.harts)

    def describe(self, hart: int) -> str:
        """See Target."""
        it = self.machine.harts[hart]
        if it.state != STARTED:
            return "stopped"
        return f"{MODES[int(it.priv)]}-mode, {'waits' if it.waiting else 'runs'}"

    def read_register(self, hart: int, number: int) -> int:
        """See Target."""
        it = self.machine.harts[hart]
        if number < PC:
            return to_unsigned(it.x[number])
        if number == PC:
            return to_unsigned(it.pc)
        if number < FIRST_CSR:
            return to_unsigned(it.f[number - FIRST_FLOAT])
        if number == PRIVILEGE:
            return int(it.priv)
        clock = self.machine.clock
        highest_ns = clock.highest_ns
        value = to_unsigned(csr.read(it, number - FIRST_CSR))
        clock.highest_ns = highest_ns  # the guest has not read the time
        return value

    def write_register(self, hart: int, number: int, value: int) -> bool:
        """See Target; CSRs take what their WARL rules leave of it."""
        if self.frozen or self.locked:
            return False
        it = self.machine.harts[hart]
        signed = to_signed(value & ((1 << 64) - 1))
        if number < PC:
            if number:
                it.x[number] = signed
        elif number == PC:
            it.pc = signed & ~1
        elif number < FIRST_CSR:
            it.f[number - FIRST_FLOAT] = signed
        elif number == PRIVILEGE:
            if value not in MODES:
                return False
            it.priv = value
            update_context(it)
        elif number - FIRST_CSR in WRITABLE_CSRS:
            status = it.mstatus
            csr.write(it, number - FIRST_CSR, signed)
            if number - FIRST_CSR <= CSR_NUMBERS["fcsr"]:
                it.mstatus = status  # as if it had always been there
        else:
            return False
        return True

    # -- memory

    def read_memory(self, hart: int, address: int, length: int) -> bytes:
        """See Target."""
        parts: list[bytes] = []
        ram = self.machine.ram
        while length > 0:
            count = min(length, PAGE_SIZE - address % PAGE_SIZE)
            place = self.translate(hart, address)
            index = -1 if place is None else int(ram.readable(place, count))
            if place is None or index < 0:
                break
            start = place % PAGE_SIZE
            parts.append(bytes(memoryview(ram.pages[index]).cast("B")[start : start + count]))
            address = (address + count) % (1 << 64)
            length -= count
        return b"".join(parts)

    def write_memory(self, hart: int, address: int, data: bytes) -> bool:
        """See Target."""
        if self.frozen or self.locked:
            return False
        ram = self.machine.ram
        chunks: list[tuple[int, bytes]] = []
        while data:
            count = min(len(data), PAGE_SIZE - address % PAGE_SIZE)
            place = self.translate(hart, address)
            if place is None or not ram.contains(place, count):
                return False
            chunks.append((place, data[:count]))
            address, data = (address + count) % (1 << 64), data[count:]
        for place, chunk in chunks:
            ram.write(place, chunk)
        return True

    def translate(self, hart: int, address: int) -> int | None:
        """The physical address that a hart's current translation has for ``address``, or None.

        Who may use the page does not matter here, only whether it is there.
        """
        it = self.machine.harts[hart]
        mode = (to_unsigned(it.satp) >> 60) & 15
        if self.physical or it.priv == MACHINE or mode == SATP_BARE:
            return address if address < 1 << 56 else None
        level = 2 if mode == SATP_SV39 else 3
        width = 12 + 9 * (level + 1)
        if (address >> (width - 1)) not in (0, (1 << (65 - width)) - 1):
            return None
        table = (to_unsigned(it.satp) & _PPN) << 12
        ram = self.machine.ram
        while level >= 0:
            place = table + (((address >> (12 + 9 * level)) & 511) << 3)
            if not ram.contains(place, 8):
                return None
            pte = to_unsigned(ram.load64(place))
            if not pte & PTE_V or pte & (PTE_R | PTE_W) == PTE_W or pte & _PTE_RESERVED:
                return None
            ppn = (pte >> 10) & _PPN
            if pte & (PTE_R | PTE_X):
                low = (1 << (9 * level)) - 1
                return None if ppn & low else ((ppn << 12) | (address & ((low << 12) | 4095)))
            table = ppn << 12
            level -= 1
        return None

    # -- break- and watchpoints

    def insert(self, point: Point, address: int, length: int) -> bool:
        """See Target."""
        if (point, address, length) in self._points:
            return True
        if not self._set(point, address, length):
            return False
        self._points.add((point, address, length))
        return True

    def _set(self, point: Point, address: int, length: int) -> bool:
        signed = to_signed(address)
        if point >= Point.WRITE:
            if not self._guard.add_watch(signed, length, _HOWS[point]):
                return False
            for hart in self.machine.harts:
                hart.tlb.drop_all()
            return True
        if not self._guard.add_break(signed):
            return False
        self.machine.coherence.keep_code_private()
        self.machine.code.forget_slot((address & 4095) >> 1)
        return True

    def remove(self, point: Point, address: int, length: int) -> None:
        """See Target."""
        if (point, address, length) not in self._points:
            return
        self._points.discard((point, address, length))
        if point >= Point.WRITE:
            self._guard.remove_watch(to_signed(address), length, _HOWS[point])
        elif not self._has_break(address):
            self._guard.remove_break(to_signed(address))

    def _has_break(self, address: int) -> bool:
        return any(point < Point.WRITE and at == address for point, at, _ in self._points)
