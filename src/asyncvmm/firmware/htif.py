"""HTIF, the host interface of bare-metal test programs: ``tohost`` and ``fromhost`` in memory.

A store of a non-zero doubleword to ``tohost`` is a command: device in bits 63..56, command in
55..48, payload below. Device 0 is the system-call proxy, or an exit code when bit 0 of the payload
is set; device 1 is a console. The answer is stored to ``fromhost`` once the program has cleared
that.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64, mypyc_attr

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.coherence import Coherence
from asyncvmm.base.errors import ConfigError
from asyncvmm.device.charport import CharPort
from asyncvmm.memory.pages import Ram

PAYLOAD: Final = 0xFFFFFFFFFFFF
DEVICE_SYSCALL: Final = 0
DEVICE_CONSOLE: Final = 1
CONSOLE_GETCHAR: Final = 0
CONSOLE_PUTCHAR: Final = 1
SYSCALL_WRITE: Final = 64
SYSCALL_EXIT: Final = 93
ENOSYS: Final = -38
EFAULT: Final = -14
EBADF: Final = -9
WRITE_LIMIT: Final = 65536  # bytes of one write; the program sees a short count
MAX_ANSWERS: Final = 16


@mypyc_attr(allow_interpreted_subclasses=True)
class HtifExit:
    """Who ends the run when the program exits: the machine."""

    def htif_exit(self, code: i64) -> None:
        """The program is done; ``code`` 0 means success."""
        raise NotImplementedError


class Htif:
    """The host's end. ``poll`` is called after every store to the pages of the two words."""

    def __init__(
        self, ram: Ram, tohost: i64, fromhost: i64, console: CharPort, exits: HtifExit
    ) -> None:
        """``fromhost`` may be 0: the program has none. ConfigError for words outside RAM."""
        if tohost & 7 != 0 or not ram.contains(tohost, 8):
            raise ConfigError(f"tohost at {int(tohost):#x} is not an aligned doubleword of RAM")
        if fromhost != 0 and (fromhost & 7 != 0 or not ram.contains(fromhost, 8)):
            raise ConfigError(f"fromhost at {int(fromhost):#x} is not an aligned doubleword of RAM")
        self.ram: Ram = ram
        self.tohost: i64 = tohost
        self.fromhost: i64 = fromhost
        self.console: CharPort = console
        self.exits: HtifExit = exits
        self.reading: bool = False  # the program waits for a character
        self._answers: list[i64] = []
        self._busy: bool = False

    def watches(self, ppn: i64) -> bool:
        """Whether one of the words is in physical page ``ppn``."""
        return ppn == self.tohost >> 12 or (self.fromhost != 0 and ppn == self.fromhost >> 12)

    def poll(self) -> None:
        """Serve a command in ``tohost``, and give an answer that waits for ``fromhost``."""
        if self._busy:
            return
        self._busy = True
        command = self.ram.load64(self.tohost)
        if command != 0:
            self.ram.store64(self.tohost, 0)
            self._serve(command)
        self._give_answers()
        self._busy = False

    def input_arrived(self) -> None:
        """The console has input: a pending read gets a character."""
        if self.reading:
            data = self.console.receive(1)
            if len(data) == 1:
                self.reading = False
                self._answer(DEVICE_CONSOLE, CONSOLE_GETCHAR, 0x100 | data[0])
                self._give_answers()

    def state(self) -> list[int]:
        """All that a snapshot needs: where the words are, whether a character is awaited, answers."""
        values: list[int] = [int(self.tohost), int(self.fromhost), 1 if self.reading else 0]
        for answer in self._answers:
            values.append(int(answer))
        return values

    def restore(self, values: list[int]) -> None:
        """Become what ``state`` told of the same words; ConfigError when it is not possible."""
        if len(values) < 3 or len(values) > 3 + MAX_ANSWERS:
            raise ConfigError(f"saved HTIF: {len(values)} values")
        self.reading = values[2] != 0
        self._answers = [i64(value) for value in values[3:]]

    def _serve(self, command: i64) -> None:
        device = (command >> 56) & 0xFF
        operation = (command >> 48) & 0xFF
        payload = command & PAYLOAD
        if device == DEVICE_SYSCALL and operation == 0:
            if payload & 1 != 0:
                self.exits.htif_exit(payload >> 1)
            else:
                self._system_call(payload)
                self._answer(DEVICE_SYSCALL, 0, 1)
        elif device == DEVICE_CONSOLE and operation == CONSOLE_PUTCHAR:
            self.console.transmit(bytes([int(payload & 0xFF)]))
        elif device == DEVICE_CONSOLE and operation == CONSOLE_GETCHAR:
            self.reading = True
            self.input_arrived()

    def _system_call(self, block: i64) -> None:
        """Eight doublewords at ``block``: the number and the arguments; the result replaces [0]."""
        ram = self.ram
        if block & 7 != 0 or not ram.contains(block, 64):
            return
        number = ram.load64(block)
        result: i64 = ENOSYS
        if number == SYSCALL_EXIT:
            self.exits.htif_exit(ram.load64(block + 8) & 0xFF)
            result = 0
        elif number == SYSCALL_WRITE:
            file = ram.load64(block + 8)
            address = ram.load64(block + 16)
            length = ram.load64(block + 24)
            if file != 1 and file != 2:
                result = EBADF
            elif not ram.contains(address, length):
                result = EFAULT
            else:
                if length > WRITE_LIMIT:
                    length = WRITE_LIMIT
                result = self.console.transmit(ram.read(address, length))
        ram.store64(block, result)

    def _answer(self, device: i64, operation: i64, payload: i64) -> None:
        if self.fromhost != 0 and len(self._answers) < MAX_ANSWERS:
            self._answers.append((device << 56) | (operation << 48) | payload)

    def _give_answers(self) -> None:
        if len(self._answers) > 0 and self.ram.load64(self.fromhost) == 0:
            self.ram.store64(self.fromhost, self._answers.pop(0))


class HtifCoherence(Coherence):
    """Coherence that also lets ``htif`` look at stores: its pages pass for pages with code."""

    def __init__(self, ram: Ram, code: CodeCache, htif: Htif) -> None:
        super().__init__(ram, code)
        self.htif: Htif = htif
        self.code_created(htif.tohost >> 12)
        if htif.fromhost != 0:
            self.code_created(htif.fromhost >> 12)

    def code_gone(self, ppn: i64) -> None:
        """See Coherence; a page that lost its code stays watched."""
        if not self.htif.watches(ppn):
            super().code_gone(ppn)

    def page_written(self, ppn: i64, offset: i64, length: i64) -> None:
        """See Coherence."""
        super().page_written(ppn, offset, length)
        if self.htif.watches(ppn):
            self.htif.poll()
