"""One chip: 16 MiB of 16-bit words behind the bus cycles of Intel's command set 0001.

Word addresses count from the chip's start. Programming and erasing take no time: a chip is always
ready. What is suspended is thus never, and both commands for it do nothing.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final, Protocol

from asyncvmm_plugins.cfi_flash.query import (
    BLOCK_BYTES,
    BUFFER_WORDS,
    DEVICE,
    MANUFACTURER,
    QUERY,
)

BLOCK_WORDS: Final = BLOCK_BYTES // 2


class Mode(StrEnum):
    """What reads give."""

    ARRAY = "array"
    STATUS = "status"
    IDENTIFIER = "identifier"
    QUERY = "query"


class Step(StrEnum):
    """What the next write is taken for."""

    COMMAND = "command"
    ERASE = "erase"  # the confirmation
    PROGRAM = "program"  # the word
    COUNT = "count"  # of words in the buffer, less one
    BUFFER = "buffer"  # a word for it
    CONFIRM = "confirm"  # the confirmation to program it
    LOCK = "lock"  # which way


class Command(IntEnum):
    """First bus cycles, and confirmations."""

    PROGRAM_OLD = 0x10
    ERASE = 0x20
    PROGRAM = 0x40
    CLEAR_STATUS = 0x50
    LOCK = 0x60
    STATUS = 0x70
    IDENTIFIER = 0x90
    QUERY = 0x98
    SUSPEND = 0xB0
    CONFIRM = 0xD0
    BUFFER = 0xE8
    ARRAY = 0xFF
    LOCK_BLOCK = 0x01
    LOCK_DOWN = 0x2F


READY: Final = 0x80
ERASE_ERROR: Final = 0x20
PROGRAM_ERROR: Final = 0x10
SEQUENCE_ERROR: Final = ERASE_ERROR | PROGRAM_ERROR
LOCKED: Final = 0x02
STATUS_BITS: Final = READY | SEQUENCE_ERROR | LOCKED

_READS: Final = {
    Command.ARRAY: Mode.ARRAY,
    Command.STATUS: Mode.STATUS,
    Command.IDENTIFIER: Mode.IDENTIFIER,
    Command.QUERY: Mode.QUERY,
}
_STEPS: Final = {
    Command.ERASE: Step.ERASE,
    Command.PROGRAM: Step.PROGRAM,
    Command.PROGRAM_OLD: Step.PROGRAM,
    Command.BUFFER: Step.COUNT,
    Command.LOCK: Step.LOCK,
}


class Cells(Protocol):
    """The memory of a chip. Both calls say whether they could: False for what is write protected."""

    def word(self, address: int) -> int:
        """The word there."""

    def program(self, address: int, words: dict[int, int]) -> bool:
        """Clear the bits that are zero in ``words`` (by address, all in one block)."""

    def erase(self, block: int) -> bool:
        """All ones."""


class Chip:
    """The state machine. ``read`` and ``write`` are single bus cycles of 16 bits."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self.reset()

    def reset(self) -> None:
        """As after power-on: reads give the array, no block is locked."""
        self.mode = Mode.ARRAY
        self.step = Step.COMMAND
        self.status = READY
        self.locked: set[int] = set()
        self.address = 0  # of the buffer's block: in it is the first cycle of the command
        self.count = 0  # words that the buffer will hold
        self.words: dict[int, int] = {}

    @property
    def is_array(self) -> bool:
        """Whether reads give the array, and nothing is under way."""
        return self.mode == Mode.ARRAY and self.step == Step.COMMAND

    def read(self, address: int) -> int:
        """The word that a read at a word address gives."""
        if self.mode == Mode.ARRAY:
            return self._cells.word(address)
        if self.mode == Mode.STATUS:
            return self.status
        if self.mode == Mode.QUERY:
            place = address & 0xFF
            return QUERY[place] if place < len(QUERY) else 0
        place = address % BLOCK_WORDS
        if place == 2:
            return int(address // BLOCK_WORDS in self.locked)
        return (MANUFACTURER, DEVICE)[place] if place < 2 else 0

    def write(self, address: int, value: int) -> None:
        """A write cycle; commands are in the low eight bits."""
        match self.step:
            case Step.COMMAND:
                self._command(value & 0xFF)
            case Step.PROGRAM:
                self._program({address: value})
            case Step.ERASE:
                self._erase(address // BLOCK_WORDS, value & 0xFF)
            case Step.LOCK:
                self._lock(address // BLOCK_WORDS, value & 0xFF)
            case Step.COUNT:
                self._begin_buffer(address, value)
            case Step.BUFFER:
                self._fill_buffer(address, value)
            case Step.CONFIRM:
                if value & 0xFF == Command.CONFIRM:
                    self._program(self.words)
                else:
                    self._fail(SEQUENCE_ERROR)

    def _command(self, command: int) -> None:
        if command in _STEPS:
            self.step = _STEPS[Command(command)]
            self.mode = Mode.STATUS
        elif command == Command.CLEAR_STATUS:
            self.status = READY
        elif command not in (Command.SUSPEND, Command.CONFIRM):
            # What is no command at all is taken for "read array": a way back for confused drivers.
            self.mode = (
                _READS.get(Command(command), Mode.ARRAY) if _is_command(command) else Mode.ARRAY
            )

    def _done(self) -> None:
        self.step = Step.COMMAND
        self.mode = Mode.STATUS
        self.words = {}
        self.address = self.count = 0

    def _fail(self, bits: int) -> None:
        self.status |= bits
        self._done()

    def _program(self, words: dict[int, int]) -> None:
        address = next(iter(words))
        if address // BLOCK_WORDS in self.locked or not self._cells.program(address, words):
            self._fail(PROGRAM_ERROR | LOCKED)
        else:
            self._done()

    def _erase(self, block: int, confirmation: int) -> None:
        if confirmation != Command.CONFIRM:
            self._fail(SEQUENCE_ERROR)
        elif block in self.locked or not self._cells.erase(block):
            self._fail(ERASE_ERROR | LOCKED)
        else:
            self._done()

    def _lock(self, block: int, which: int) -> None:
        if which in (Command.LOCK_BLOCK, Command.LOCK_DOWN):
            self.locked.add(block)
        elif which == Command.CONFIRM:
            self.locked.discard(block)
        else:
            self._fail(SEQUENCE_ERROR)
            return
        self._done()

    def _begin_buffer(self, address: int, value: int) -> None:
        if value >= BUFFER_WORDS:
            self._fail(SEQUENCE_ERROR)
            return
        self.address = address // BLOCK_WORDS * BLOCK_WORDS
        self.count = value + 1
        self.step = Step.BUFFER

    def _fill_buffer(self, address: int, value: int) -> None:
        """Words come in any order, but from one stretch as long as the buffer."""
        low = min(self.words, default=address)
        high = max(self.words, default=address)
        inside = self.address <= address < self.address + BLOCK_WORDS
        if (
            not inside
            or max(high, address) - min(low, address) >= self.count
            or address in self.words
        ):
            self._fail(SEQUENCE_ERROR)
            return
        self.words[address] = value
        if len(self.words) == self.count:
            self.step = Step.CONFIRM


def _is_command(value: int) -> bool:
    return value in Command.__members__.values()
