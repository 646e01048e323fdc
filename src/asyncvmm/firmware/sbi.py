"""The host as the guest's SBI 2.0 firmware: BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN, STA, some
legacy calls.

An ECALL from S-mode comes here instead of trapping to M-mode. Extension and function are in a7 and
a6, arguments in a0 to a5; the answer is an error in a0 and a value in a1 (chapter 3).
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64, mypyc_attr

from asyncvmm.arch.hart import EVENT_CHECK, STARTED, STOPPED, SUPERVISOR, Hart
from asyncvmm.arch.mmu import flush_all, sfence_vma
from asyncvmm.arch.status import SIE
from asyncvmm.base.bits import ult
from asyncvmm.base.errors import ConfigError
from asyncvmm.firmware.environment import ClockedEnvironment
from asyncvmm.firmware.sbi_abi import (
    ERR_ALREADY_AVAILABLE,
    ERR_INVALID_ADDRESS,
    ERR_INVALID_PARAM,
    ERR_NOT_SUPPORTED,
    EXT_BASE,
    EXT_DBCN,
    EXT_HSM,
    EXT_IPI,
    EXT_LEGACY_CLEAR_IPI,
    EXT_LEGACY_GETCHAR,
    EXT_LEGACY_PUTCHAR,
    EXT_LEGACY_SET_TIMER,
    EXT_LEGACY_SHUTDOWN,
    EXT_RFENCE,
    EXT_SRST,
    EXT_STA,
    EXT_TIME,
    HSM_STARTED,
    HSM_STOPPED,
    HSM_SUSPENDED,
    IMPLEMENTATION_ID,
    IMPLEMENTATION_VERSION,
    REASON_SYSTEM_FAILURE,
    RESET_SHUTDOWN,
    RESET_WARM_REBOOT,
    SPEC_VERSION,
    SUCCESS,
    SUSPEND_NON_RETENTIVE,
    SUSPEND_RETENTIVE,
)
from asyncvmm.firmware.steal import StealTime
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import FOREVER, SUPERVISOR_TIMERS, Event

SSI: Final = 1
STI: Final = 5
A0: Final = 10
A1: Final = 11
A6: Final = 16
A7: Final = 17
CONSOLE_LIMIT: Final = 65536  # bytes of one DBCN call; the guest asks again for the rest
FLUSH_PAGES_LIMIT: Final = 64  # a remote fence of more pages than this flushes everything


@mypyc_attr(allow_interpreted_subclasses=True)
class SbiConsole:
    """Where DBCN and the legacy console calls go."""

    def write(self, data: bytes) -> i64:
        """Take bytes of output; returns how many were taken (0 when the console is congested)."""
        return len(data)

    def read(self, limit: i64) -> bytes:
        """At most ``limit`` bytes of input that wait; empty when there are none. Never blocks."""
        return b""


@mypyc_attr(allow_interpreted_subclasses=True)
class SystemReset:
    """Who carries out SRST: the machine."""

    def system_reset(self, reset_type: i64, reason: i64) -> None:
        """Stop all harts and shut down (0) or reboot (1 cold, 2 warm)."""
        raise NotImplementedError


class SupervisorTimer:
    """The SBI timer of one hart: STIP rises when ``mtime`` reaches ``compare``."""

    def __init__(self, clock: Clock, hart: Hart) -> None:
        self.clock: Clock = clock
        self.hart: Hart = hart
        self.priority: i64 = SUPERVISOR_TIMERS + hart.hart_id
        self.compare: i64 = -1
        self._event: Event | None = None

    def set(self, compare: i64) -> None:
        """Clear STIP and wait for ``compare`` (unsigned ticks), which may have passed."""
        self.stop()
        self.compare = compare
        if not ult(self.clock.mtime(), compare):
            self.hart.set_software_pending(STI, True)
            return
        self.hart.set_software_pending(STI, False)
        self._wait()

    def restore(self, compare: i64, waits: bool) -> None:
        """Become what a snapshot says; STIP is the hart's."""
        self.stop()
        self.compare = compare
        if waits:
            self._wait()

    @property
    def waits(self) -> bool:
        """Whether STIP is still to rise."""
        return self._event is not None

    def _wait(self) -> None:
        when = self.clock.when(self.compare)
        if when != FOREVER:
            self._event = self.clock.timeline.at(when, self._due, self.priority)

    def stop(self) -> None:
        """Wait no longer."""
        event = self._event
        if event is not None:
            event.cancel()
            self._event = None

    def _due(self) -> None:
        self._event = None
        self.hart.set_software_pending(STI, True)


class Sbi(ClockedEnvironment):
    """SBI for ``harts``, which are numbered 0, 1, 2, ... in list order."""

    def __init__(
        self, clock: Clock, harts: list[Hart], console: SbiConsole, reset: SystemReset
    ) -> None:
        super().__init__(clock)
        self.harts: list[Hart] = harts
        self.console: SbiConsole = console
        self.reset: SystemReset = reset
        self.timers: list[SupervisorTimer] = [SupervisorTimer(clock, hart) for hart in harts]
        self.steal: StealTime = StealTime(harts[0].ram, len(harts))
        self.suspended: vec[i64] = vec[i64]([0] * len(harts))
        self.calls: i64 = 0
        self._value: i64 = 0  # what a1 gets

    def ecall(self, hart: Hart) -> bool:
        """Serve one call of ``hart``; False (take the trap) unless it is in S-mode."""
        if hart.priv != SUPERVISOR:
            return False
        self.calls += 1
        x = hart.x
        extension = x[A7]
        if extension >= 0 and extension < EXT_BASE:
            x[A0] = self._legacy(hart, extension)
            return True
        self._value = 0
        function = x[A6]
        error: i64 = ERR_NOT_SUPPORTED
        if extension == EXT_TIME:
            if function == 0:
                self.timers[hart.hart_id].set(x[A0])
                error = SUCCESS
        elif extension == EXT_RFENCE:
            error = self._remote_fence(hart, function)
        elif extension == EXT_IPI:
            if function == 0:
                error = self._send_ipi(x[A0], x[A1])
        elif extension == EXT_HSM:
            if function == 3 and x[A0] & 0xFFFFFFFF == SUSPEND_NON_RETENTIVE:
                return self._suspend_and_resume_at(hart, x[A1], x[12])
            error = self._hart_state(hart, function)
        elif extension == EXT_DBCN:
            error = self._debug_console(hart, function)
        elif extension == EXT_STA:
            if function == 0:
                error = self.steal.set_shmem(hart.hart_id, x[A0], x[A1], x[12])
        elif extension == EXT_BASE:
            error = self._base(function, x[A0])
        elif extension == EXT_SRST:
            if function == 0:
                error = self._system_reset(x[A0], x[A1])
        x[A0] = error
        x[A1] = self._value
        return True

    def start(self, hart: Hart, address: i64, argument: i64) -> None:
        """Put a hart at ``address``: S-mode, no translation, SIE off (9.1, table 8)."""
        _enter_supervisor(hart, address, argument)
        hart.waiting = False
        hart.set_software_pending(SSI, False)
        hart.set_software_pending(STI, False)
        self.suspended[hart.hart_id] = 0
        hart.state = STARTED

    def stop_timers(self) -> None:
        """For a reset of the machine: no timer waits."""
        for timer in self.timers:
            timer.stop()
            timer.compare = -1
        self.steal.reset()

    def wakes(self, hart: Hart) -> None:
        """The scheduler lets a waiting hart go on."""
        self.suspended[hart.hart_id] = 0

    def reports_steal(self) -> bool:
        """Whether some hart asked to see its steal time."""
        return self.steal.enabled

    def set_steal(self, number: i64, steal_ns: i64) -> None:
        """Hart ``number`` was runnable without running for ``steal_ns`` in all (STA)."""
        self.steal.put(number, steal_ns)

    def state(self) -> list[int]:
        """All that a digest or a snapshot needs beside the harts."""
        values: list[int] = []
        for timer in self.timers:
            values.append(int(timer.compare))
        for timer in self.timers:
            values.append(1 if timer.waits else 0)
        for flag in self.suspended:
            values.append(int(flag))
        return values + self.steal.state()

    def restore(self, values: list[int]) -> None:
        """Become what ``state`` told, after the clock and RAM; ConfigError when it is not possible."""
        harts = len(self.harts)
        if len(values) != 5 * harts:
            raise ConfigError(f"saved SBI: {len(values)} values for {harts} harts")
        self.steal.restore(values[3 * harts :])
        i = 0
        while i < harts:
            self.timers[i].restore(values[i], values[harts + i] != 0)
            self.suspended[i] = 1 if values[2 * harts + i] != 0 else 0
            i += 1

    def _base(self, function: i64, argument: i64) -> i64:
        """Chapter 4."""
        if function == 0:
            self._value = SPEC_VERSION
        elif function == 1:
            self._value = IMPLEMENTATION_ID
        elif function == 2:
            self._value = IMPLEMENTATION_VERSION
        elif function == 3:
            self._value = 1 if _implemented(argument) else 0
        elif function < 4 or function > 6:  # 4 to 6: mvendorid, marchid, mimpid, all 0
            return ERR_NOT_SUPPORTED
        return SUCCESS

    def _mask_valid(self, mask: i64, base: i64) -> bool:
        """Whether all harts of a hart mask exist (3.1); base -1 means all harts."""
        if base == -1 or mask == 0:
            return True
        count: i64 = len(self.harts)
        if not ult(base, count):
            return False
        if count - base >= 64:
            return True
        one: i64 = 1
        return mask & ~((one << (count - base)) - 1) == 0

    def _in_mask(self, number: i64, mask: i64, base: i64) -> bool:
        if base == -1:
            return True
        distance = number - base
        return distance >= 0 and distance < 64 and (mask >> distance) & 1 != 0

    def _send_ipi(self, mask: i64, base: i64) -> i64:
        """Chapter 7. A stopped hart has no use for an IPI."""
        if not self._mask_valid(mask, base):
            return ERR_INVALID_PARAM
        for hart in self.harts:
            if hart.state == STARTED and self._in_mask(hart.hart_id, mask, base):
                hart.set_software_pending(SSI, True)
        return SUCCESS

    def _remote_fence(self, hart: Hart, function: i64) -> i64:
        """Chapter 8. Fetches see stores at once here, so FENCE.I needs no work."""
        x = hart.x
        mask = x[A0]
        base = x[A1]
        if function < 0 or function > 2:
            return ERR_NOT_SUPPORTED
        if not self._mask_valid(mask, base):
            return ERR_INVALID_PARAM
        if function == 0:
            return SUCCESS
        for other in self.harts:
            if self._in_mask(other.hart_id, mask, base):
                _fence(other, x[12], x[13], x[14], function == 2)
        return SUCCESS

    def _hart_state(self, hart: Hart, function: i64) -> i64:
        """Chapter 9."""
        x = hart.x
        if function == 0:
            return self._hart_start(x[A0], x[A1], x[12])
        if function == 1:
            self.timers[hart.hart_id].stop()
            hart.state = STOPPED
            hart.stop = True
            hart.event |= EVENT_CHECK
            return SUCCESS
        if function == 2:
            return self._hart_status(x[A0])
        if function == 3:
            return self._hart_suspend(hart, x[A0] & 0xFFFFFFFF)
        return ERR_NOT_SUPPORTED

    def _hart_start(self, number: i64, address: i64, argument: i64) -> i64:
        if number < 0 or number >= len(self.harts):
            return ERR_INVALID_PARAM
        other = self.harts[number]
        if other.state != STOPPED:
            return ERR_ALREADY_AVAILABLE
        if address & 1 != 0 or not other.ram.contains(address, 2):
            return ERR_INVALID_ADDRESS
        self.start(other, address, argument)
        return SUCCESS

    def _hart_status(self, number: i64) -> i64:
        if number < 0 or number >= len(self.harts):
            return ERR_INVALID_PARAM
        if self.harts[number].state == STOPPED:
            self._value = HSM_STOPPED
        elif self.suspended[number] != 0 and self.harts[number].waiting:
            self._value = HSM_SUSPENDED
        else:
            self._value = HSM_STARTED
        return SUCCESS

    def _hart_suspend(self, hart: Hart, kind: i64) -> i64:
        """Retentive suspend is a WFI; platform-specific kinds are not there."""
        if kind == SUSPEND_RETENTIVE:
            self._wait(hart)
            return SUCCESS
        return ERR_NOT_SUPPORTED if kind & 0x7FFFFFFF >= 0x10000000 else ERR_INVALID_PARAM

    def _suspend_and_resume_at(self, hart: Hart, address: i64, argument: i64) -> bool:
        """Non-retentive suspend: the hart comes back at ``address`` as if it were started there."""
        if address & 1 != 0 or not hart.ram.contains(address, 2):
            hart.x[A0] = ERR_INVALID_ADDRESS
            hart.x[A1] = 0
            return True
        _enter_supervisor(hart, address, argument)
        self._wait(hart)
        return True

    def _wait(self, hart: Hart) -> None:
        if hart.pending_interrupts() == 0:
            self.suspended[hart.hart_id] = 1
            hart.waiting = True
            hart.event |= EVENT_CHECK

    def _system_reset(self, kind: i64, reason: i64) -> i64:
        """Chapter 10."""
        kind &= 0xFFFFFFFF
        reason &= 0xFFFFFFFF
        if kind > RESET_WARM_REBOOT:
            return ERR_NOT_SUPPORTED if kind >= 0xF0000000 else ERR_INVALID_PARAM
        if reason > REASON_SYSTEM_FAILURE and reason < 0xE0000000:
            return ERR_INVALID_PARAM
        self.reset.system_reset(kind, reason)
        return SUCCESS

    def _debug_console(self, hart: Hart, function: i64) -> i64:
        """Chapter 12: buffers are guest-physical; the high half of the address must be 0."""
        x = hart.x
        if function == 2:
            taken = self.console.write(bytes([int(x[A0] & 0xFF)]))
            return SUCCESS if taken == 1 else ERR_NOT_SUPPORTED
        if function < 0 or function > 2:
            return ERR_NOT_SUPPORTED
        length = x[A0]
        address = x[A1]
        if x[12] != 0 or length < 0 or not hart.ram.contains(address, length):
            return ERR_INVALID_PARAM
        if length > CONSOLE_LIMIT:
            length = CONSOLE_LIMIT
        if length == 0:
            return SUCCESS
        if function == 0:
            self._value = self.console.write(hart.ram.read(address, length))
            return SUCCESS
        data = self.console.read(length)
        hart.ram.write(address, data)
        self._value = len(data)
        return SUCCESS

    def _legacy(self, hart: Hart, extension: i64) -> i64:
        """Chapter 5: only a0 is changed."""
        argument = hart.x[A0]
        if extension == EXT_LEGACY_SET_TIMER:
            self.timers[hart.hart_id].set(argument)
        elif extension == EXT_LEGACY_PUTCHAR:
            self.console.write(bytes([int(argument & 0xFF)]))
        elif extension == EXT_LEGACY_GETCHAR:
            data = self.console.read(1)
            return data[0] if len(data) == 1 else -1
        elif extension == EXT_LEGACY_CLEAR_IPI:
            pending = hart.mip_soft & (1 << SSI)
            hart.set_software_pending(SSI, False)
            return 1 if pending != 0 else 0
        elif extension == EXT_LEGACY_SHUTDOWN:
            self.reset.system_reset(RESET_SHUTDOWN, 0)
        else:
            return ERR_NOT_SUPPORTED
        return 0


def _enter_supervisor(hart: Hart, address: i64, argument: i64) -> None:
    """The state of a hart that begins at ``address`` (9.1, table 8)."""
    hart.pc = address
    hart.priv = SUPERVISOR
    hart.satp = 0
    hart.mstatus &= ~SIE
    hart.x[A0] = hart.hart_id
    hart.x[A1] = argument
    hart.reservation = -1
    flush_all(hart)


def _implemented(extension: i64) -> bool:
    if extension >= EXT_BASE:
        return extension in (
            EXT_BASE,
            EXT_TIME,
            EXT_IPI,
            EXT_RFENCE,
            EXT_HSM,
            EXT_SRST,
            EXT_DBCN,
            EXT_STA,
        )
    return (
        extension >= 0 and extension <= EXT_LEGACY_CLEAR_IPI
    ) or extension == EXT_LEGACY_SHUTDOWN


def _fence(hart: Hart, start: i64, size: i64, asid: i64, has_asid: bool) -> None:
    """SFENCE.VMA of a range; all of it when the range is the whole space, or large."""
    first = start & -4096
    span = start + size - first
    if (start == 0 and size == 0) or size < 0 or span < 0 or span > FLUSH_PAGES_LIMIT * 4096:
        sfence_vma(hart, 0, asid, False, has_asid)
        return
    offset: i64 = 0
    while offset < span:
        sfence_vma(hart, first + offset, asid, True, has_asid)
        offset += 4096
