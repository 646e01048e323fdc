"""What a snapshot keeps of a flash; its contents are the storage's to keep."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from attrs.validators import and_, ge, in_, lt

from asyncvmm.plugin import DeviceState
from asyncvmm_plugins.cfi_flash.chip import BLOCK_WORDS, STATUS_BITS, Chip, Mode, Step
from asyncvmm_plugins.cfi_flash.query import BLOCKS, BUFFER_WORDS

CHIP_WORDS = BLOCKS * BLOCK_WORDS


def _locked(_state: Any, _attribute: Any, value: tuple[int, ...]) -> None:
    if list(value) != sorted({block for block in value if 0 <= block < BLOCKS}):
        raise ValueError(f"locked is {value!r}: rising numbers of blocks are expected")


@attrs.frozen
class BufferedWord(DeviceState):
    """A word that is to be programmed."""

    address: int = attrs.field(validator=and_(ge(0), lt(CHIP_WORDS)))
    value: int = attrs.field(validator=and_(ge(0), lt(1 << 16)))


@attrs.frozen
class ChipState(DeviceState):
    """A chip in the middle of a command."""

    mode: str = attrs.field(validator=in_([mode.value for mode in Mode]))
    step: str = attrs.field(validator=in_([step.value for step in Step]))
    status: int = attrs.field(validator=and_(ge(0), lt(256)))
    locked: tuple[int, ...] = attrs.field(validator=_locked)
    address: int = attrs.field(validator=and_(ge(0), lt(CHIP_WORDS)))
    count: int = attrs.field(validator=and_(ge(0), lt(BUFFER_WORDS + 1)))
    words: tuple[BufferedWord, ...]

    def __attrs_post_init__(self) -> None:
        addresses = {word.address for word in self.words}
        if self.step in (Step.BUFFER, Step.CONFIRM):
            full = len(self.words) == self.count
            base = self.address
            fits = (
                self.count > 0
                and base % BLOCK_WORDS == 0
                and len(addresses) == len(self.words) <= self.count
                and full == (self.step == Step.CONFIRM)
                and all(base <= address < base + BLOCK_WORDS for address in addresses)
                and (not addresses or max(addresses) - min(addresses) < self.count)
            )
        else:
            fits = not (self.words or self.count or self.address)
        if not fits or self.status & ~STATUS_BITS or not self.status & 0x80:
            raise ValueError(f"a chip that waits for its {self.step} does not look like this")

    @classmethod
    def of(cls, chip: Chip) -> ChipState:
        """The state of a chip."""
        words = tuple(BufferedWord(address, value) for address, value in chip.words.items())
        locked = tuple(sorted(chip.locked))
        return cls(
            chip.mode.value, chip.step.value, chip.status, locked, chip.address, chip.count, words
        )

    def put(self, chip: Chip) -> None:
        """Make a chip what this says."""
        chip.mode, chip.step, chip.status = Mode(self.mode), Step(self.step), self.status
        chip.locked = set(self.locked)
        chip.address, chip.count = self.address, self.count
        chip.words = {word.address: word.value for word in self.words}


@attrs.frozen
class CfiFlashState(DeviceState):
    """The two chips, the SHA-256 of what they hold (which must be the same again), and when changes
    will be made durable (virtual ns; None when there are none)."""

    version: ClassVar[int] = 1

    even: ChipState
    odd: ChipState
    contents: str = attrs.field(validator=attrs.validators.matches_re(r"[0-9a-f]{64}"))
    flush_ns: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(and_(ge(0), lt(1 << 62)))
    )
