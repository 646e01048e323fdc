"""The 16550A (National Semiconductor PC16550D data sheet; section numbers are that document's)."""

from __future__ import annotations

from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import UNKNOWN_IS_ZERO, DeviceIo, MmioDevice, Register
from asyncvmm_plugins.ns16550.config import Ns16550Config
from asyncvmm_plugins.ns16550.state import Ns16550State

FIFO_BYTES: Final = 16

# Interrupt enable register.
IER_RECEIVED: Final = 0x01
IER_THR_EMPTY: Final = 0x02
IER_LINE_STATUS: Final = 0x04
IER_MODEM_STATUS: Final = 0x08

# Interrupt identification register.
IIR_NONE: Final = 0x01
IIR_MODEM_STATUS: Final = 0x00
IIR_THR_EMPTY: Final = 0x02
IIR_RECEIVED: Final = 0x04
IIR_LINE_STATUS: Final = 0x06
IIR_TIMEOUT: Final = 0x0C
IIR_FIFOS: Final = 0xC0

FCR_ENABLE: Final = 0x01
FCR_CLEAR_RECEIVE: Final = 0x02
FCR_CLEAR_TRANSMIT: Final = 0x04
_TRIGGERS: Final = (1, 4, 8, 14)

LCR_DIVISOR_LATCH: Final = 0x80

MCR_LOOPBACK: Final = 0x10

LSR_DATA_READY: Final = 0x01
LSR_OVERRUN: Final = 0x02
LSR_THR_EMPTY: Final = 0x20
LSR_IDLE: Final = 0x40

MSR_CTS: Final = 0x10
MSR_DSR: Final = 0x20
MSR_RI: Final = 0x40
MSR_DCD: Final = 0x80
# The other end is always there: carrier, data set ready, clear to send.
_LINES_CONNECTED: Final = MSR_CTS | MSR_DSR | MSR_DCD


class Ns16550(MmioDevice):
    """A serial port whose far end is ``io.console``.

    A byte written is sent at once, whatever the baud rate, as long as the port has room; without
    room it waits in the transmit FIFO and THRE stays low. Input is taken from the port as the FIFO
    has room, so nothing overruns. The baud rate counts only in the receive timeout (four
    characters).
    """

    def __init__(self, config: Ns16550Config, io: DeviceIo) -> None:
        names = ("data", "ier", "iir_fcr", "lcr", "mcr", "lsr", "msr", "scratch")
        step = config.register_shift
        registers = [Register(name, number << step, 1) for number, name in enumerate(names)]
        super().__init__(io, registers, 0x100, UNKNOWN_IS_ZERO)
        self.config = config
        self.port = io.console
        self.receive_fifo = bytearray()
        self.transmit_fifo = bytearray()
        self._timeout = io.clock.after(0, self._reach_timeout)
        self._timeout.cancel()
        self._clear()

    def reset(self) -> None:
        """Master reset (8.0, table III). What waits in the port stays there until it is asked
        for.
        """
        super().reset()
        self._timeout.cancel()
        self._clear()
        self.port.on_input = self._input_arrived
        self.port.on_room = self._drain

    def _clear(self) -> None:
        self.ier = self.fcr = self.lcr = self.mcr = self.scratch = 0
        self.lsr_errors = self.msr_deltas = 0
        self.msr_lines = _LINES_CONNECTED
        self.divisor = 1
        self.thre_pending = self.timed_out = False
        self.receive_fifo.clear()
        self.transmit_fifo.clear()

    # Registers.

    def read_data(self) -> int:
        """RBR, or the divisor latch's low byte."""
        if self.lcr & LCR_DIVISOR_LATCH:
            return self.divisor & 0xFF
        self._take_input()
        if not self.receive_fifo:
            return 0
        byte = self.receive_fifo.pop(0)
        # Reading restarts the timeout and takes its indication back (8.4).
        self.timed_out = False
        self._take_input()
        self._start_timeout()
        self._update()
        return byte

    def write_data(self, value: int) -> None:
        """THR, or the divisor latch's low byte."""
        if self.lcr & LCR_DIVISOR_LATCH:
            self.divisor = (self.divisor & 0xFF00) | value
            return
        self.thre_pending = False
        if self.mcr & MCR_LOOPBACK:
            self._receive(bytes([value]))
            self.thre_pending = True
        elif not self.transmit_fifo and self.port.transmit(bytes((value,))):
            self.thre_pending = True  # gone at once: a console's usual case
        else:
            if len(self.transmit_fifo) < self._fifo_size():
                self.transmit_fifo.append(value)
            self._drain()
        self._update()

    def read_ier(self) -> int:
        """IER, or the divisor latch's high byte."""
        return self.divisor >> 8 if self.lcr & LCR_DIVISOR_LATCH else self.ier

    def write_ier(self, value: int) -> None:
        """IER, or the divisor latch's high byte."""
        if self.lcr & LCR_DIVISOR_LATCH:
            self.divisor = (self.divisor & 0x00FF) | (value << 8)
            return
        enabled = value & ~self.ier
        self.ier = value & 0x0F
        # Enabling the interrupt while the holding register is empty raises it (Linux's THRE test).
        if enabled & IER_THR_EMPTY and not self.transmit_fifo:
            self.thre_pending = True
        self._input_arrived()
        self._update()

    def read_iir_fcr(self) -> int:
        """IIR; reading it while THRE is the source shown takes that back (table IV)."""
        source = self._source()
        if source == IIR_THR_EMPTY:
            self.thre_pending = False
            self._update()
        return source | (IIR_FIFOS if self.fcr & FCR_ENABLE else 0)

    def write_iir_fcr(self, value: int) -> None:
        """FCR; turning the FIFOs on or off empties both (8.6)."""
        toggled = (value ^ self.fcr) & FCR_ENABLE
        if toggled or value & FCR_CLEAR_RECEIVE:
            self.receive_fifo.clear()
            self.timed_out = False
            self._timeout.cancel()
        if (toggled or value & FCR_CLEAR_TRANSMIT) and self.transmit_fifo:
            self.transmit_fifo.clear()
            self.thre_pending = True
        # The other bits can be programmed only together with the enable bit.
        self.fcr = value & 0xC9 if value & FCR_ENABLE else 0
        self._input_arrived()
        self._update()

    def read_lcr(self) -> int:
        """LCR."""
        return self.lcr

    def write_lcr(self, value: int) -> None:
        """LCR; a break has nobody to hear it."""
        self.lcr = value

    def read_mcr(self) -> int:
        """MCR."""
        return self.mcr

    def write_mcr(self, value: int) -> None:
        """MCR; in loopback its outputs are the modem status inputs (8.7.1)."""
        was_loopback = self.mcr & MCR_LOOPBACK
        self.mcr = value & 0x1F
        self._set_lines(self._looped_lines() if value & MCR_LOOPBACK else _LINES_CONNECTED)
        if was_loopback and not value & MCR_LOOPBACK:
            self._take_input()
        self._update()

    def read_lsr(self) -> int:
        """LSR; reading clears the error bits."""
        self._take_input()
        value = self.lsr_errors
        if self.receive_fifo:
            value |= LSR_DATA_READY
        if not self.transmit_fifo:
            value |= LSR_THR_EMPTY | LSR_IDLE
        if self.lsr_errors:
            self.lsr_errors = 0
            self._update()
        return value

    def write_lsr(self, value: int) -> None:
        """Only for factory tests: ignored."""

    def read_msr(self) -> int:
        """MSR; reading clears the delta bits."""
        value = self.msr_lines | self.msr_deltas
        if self.msr_deltas:
            self.msr_deltas = 0
            self._update()
        return value

    def write_msr(self, value: int) -> None:
        """Read-only in practice: ignored."""

    def read_scratch(self) -> int:
        """SCR."""
        return self.scratch

    def write_scratch(self, value: int) -> None:
        """SCR."""
        self.scratch = value

    # Data.

    def _fifo_size(self) -> int:
        return FIFO_BYTES if self.fcr & FCR_ENABLE else 1

    def _trigger(self) -> int:
        return _TRIGGERS[self.fcr >> 6] if self.fcr & FCR_ENABLE else 1

    def _receive(self, data: bytes) -> None:
        room = self._fifo_size() - len(self.receive_fifo)
        if len(data) > room:
            self.lsr_errors |= LSR_OVERRUN
        self.receive_fifo += data[:room]
        self._start_timeout()

    def _take_input(self) -> None:
        """Fill the receive FIFO from the port."""
        if self.mcr & MCR_LOOPBACK:
            return
        while room := self._fifo_size() - len(self.receive_fifo):
            data = self.port.receive(room)
            if not data:
                break
            self._receive(data)
            self._update()

    def _input_arrived(self) -> None:
        """Until a driver has set the port up nobody may ever look: input stays in the port, where
        other consoles of the machine (SBI, HTIF) can have it.
        """
        if self.ier & IER_RECEIVED or self.fcr & FCR_ENABLE:
            self._take_input()

    def _drain(self) -> None:
        """Move the transmit FIFO to the port; the port calls this when it has room again."""
        sent = self.port.transmit(bytes(self.transmit_fifo))
        waiting = bool(self.transmit_fifo)
        del self.transmit_fifo[:sent]
        if waiting and not self.transmit_fifo:
            self.thre_pending = True
            self._update()

    def _character_ns(self) -> int:
        bits = 1 + 5 + (self.lcr & 3) + (1 if self.lcr & 8 else 0) + (2 if self.lcr & 4 else 1)
        return bits * 16 * max(self.divisor, 1) * 1_000_000_000 // self.config.clock_hz

    def _start_timeout(self) -> None:
        """Less than a trigger level of data that nobody reads interrupts after four characters."""
        self._timeout.cancel()
        if self.fcr & FCR_ENABLE and 0 < len(self.receive_fifo) < self._trigger():
            self._timeout = self.io.clock.after(4 * self._character_ns(), self._reach_timeout)

    def _reach_timeout(self) -> None:
        self.timed_out = bool(self.receive_fifo)
        self._update()

    def _looped_lines(self) -> int:
        """RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD."""
        mcr = self.mcr
        return (mcr & 2) << 3 | (mcr & 1) << 5 | (mcr & 4) << 4 | (mcr & 8) << 4

    def _set_lines(self, lines: int) -> None:
        changed = lines ^ self.msr_lines
        # The ring indicator counts only when it ends.
        ended = MSR_RI & self.msr_lines & ~lines
        self.msr_deltas |= ((changed & ~MSR_RI) | ended) >> 4
        self.msr_lines = lines

    # Interrupts.

    def _source(self) -> int:
        """The pending source of the highest priority (table IV), as IIR shows it."""
        if self.ier & IER_LINE_STATUS and self.lsr_errors:
            return IIR_LINE_STATUS
        if self.ier & IER_RECEIVED:
            if len(self.receive_fifo) >= self._trigger():
                return IIR_RECEIVED
            if self.timed_out:
                return IIR_TIMEOUT
        if self.ier & IER_THR_EMPTY and self.thre_pending:
            return IIR_THR_EMPTY
        if self.ier & IER_MODEM_STATUS and self.msr_deltas:
            return IIR_MODEM_STATUS
        return IIR_NONE

    def _update(self) -> None:
        self.io.irq.set(self._source() != IIR_NONE)

    # Snapshots.

    def state(self) -> Ns16550State:
        """Everything that a reset UART lacks; what waits in the port is saved with the port."""
        left = self._timeout.time_ns - self.io.clock.now_ns if self._timeout.pending else -1
        return Ns16550State(
            ier=self.ier,
            fcr=self.fcr,
            lcr=self.lcr,
            mcr=self.mcr,
            lsr_errors=self.lsr_errors,
            msr_deltas=self.msr_deltas,
            msr_lines=self.msr_lines,
            scratch=self.scratch,
            divisor=self.divisor,
            thre_pending=self.thre_pending,
            timed_out=self.timed_out,
            timeout_left_ns=left,
            receive_fifo=bytes(self.receive_fifo),
            transmit_fifo=bytes(self.transmit_fifo),
        )

    def restore(self, state: Ns16550State) -> None:
        """Become what ``state`` says; ConfigError, with nothing changed, when it cannot be."""
        size = FIFO_BYTES if state.fcr & FCR_ENABLE else 1
        if max(len(state.receive_fifo), len(state.transmit_fifo)) > size:
            raise ConfigError(f"{self.io.path}: saved FIFOs are longer than {size} bytes")
        self._timeout.cancel()
        for name in (
            "ier",
            "fcr",
            "lcr",
            "mcr",
            "lsr_errors",
            "msr_deltas",
            "msr_lines",
            "scratch",
        ):
            setattr(self, name, getattr(state, name))
        self.divisor = state.divisor
        self.thre_pending = state.thre_pending
        self.timed_out = state.timed_out
        self.receive_fifo[:] = state.receive_fifo
        self.transmit_fifo[:] = state.transmit_fifo
        if state.timeout_left_ns >= 0:
            self._timeout = self.io.clock.after(state.timeout_left_ns, self._reach_timeout)
        self._update()

    def save(self) -> dict[str, object]:
        """``state()`` as plain data."""
        return self.state().save()

    def load(self, saved: dict[str, object]) -> None:
        """``restore`` from plain data."""
        self.restore(Ns16550State.load(saved))

    def resume(self) -> None:
        """See MmioDevice: what waited for room goes on. Input that the port kept, as no driver had asked
        for it, stays there: turning the FIFOs on later would lose what is taken now.
        """
        self._drain()
        self._input_arrived()
