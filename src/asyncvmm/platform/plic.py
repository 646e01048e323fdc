"""The platform-level interrupt controller, RISC-V PLIC specification 1.0.0.

Context ``2 * hart`` is a hart's M-mode (MEI), ``2 * hart + 1`` its S-mode (SEI). All sources are
level-triggered. A gateway forwards a request when its line is high and the previous request has
been completed; a request stays pending until it is claimed, even if the line falls before.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.bus.address_map import MmioTarget
from asyncvmm.interrupts.lines import InterruptLine, InterruptSink

PRIORITY: Final = 0x000000
PENDING: Final = 0x001000
ENABLE: Final = 0x002000
ENABLE_STRIDE: Final = 0x80
CONTEXT: Final = 0x200000
CONTEXT_STRIDE: Final = 0x1000
SIZE: Final = 0x600000
MAX_SOURCES: Final = 127
PRIORITY_MASK: Final = 7

SEI: Final = 9
MEI: Final = 11


class Plic(MmioTarget):
    """Priorities, pending bits and gateways of ``sources`` inputs, and two contexts per hart."""

    def __init__(self, harts: list[InterruptSink], sources: i64 = MAX_SOURCES) -> None:
        if sources < 1 or sources > MAX_SOURCES:
            raise ConfigError(f"a PLIC has 1 to {MAX_SOURCES} sources, not {int(sources)}")
        self.sources: i64 = sources
        self.contexts: i64 = 2 * len(harts)
        self.priority: vec[i64] = vec[i64]([0] * 128)
        # Bit sets of sources: two 64-bit words each.
        self.level: vec[i64] = vec[i64]([0] * 2)
        self.pending: vec[i64] = vec[i64]([0] * 2)
        self.claimed: vec[i64] = vec[i64]([0] * 2)
        self.enabled: vec[i64] = vec[i64]([0] * int(2 * self.contexts))
        self.threshold: vec[i64] = vec[i64]([0] * int(self.contexts))
        self.lines: list[InterruptLine] = []
        for hart in harts:
            self.lines.append(InterruptLine(hart, MEI))
            self.lines.append(InterruptLine(hart, SEI))
        self.input: PlicInput = PlicInput(self)

    def read(self, offset: i64, size: i64) -> i64:
        """One 32-bit register; 0 where there is none. Reading ``claim`` claims."""
        self._check(size)
        if offset < PENDING:
            source = offset >> 2
            return self.priority[source] if source <= self.sources else 0
        if offset < ENABLE:
            return self._half(self.pending, 0, (offset - PENDING) >> 2)
        if offset < CONTEXT:
            context = (offset - ENABLE) // ENABLE_STRIDE
            if context >= self.contexts:
                return 0
            return self._half(self.enabled, 2 * context, (offset % ENABLE_STRIDE) >> 2)
        context = (offset - CONTEXT) // CONTEXT_STRIDE
        register = offset % CONTEXT_STRIDE
        if context >= self.contexts:
            return 0
        if register == 0:
            return self.threshold[context]
        return self.claim(context) if register == 4 else 0

    def write(self, offset: i64, size: i64, value: i64) -> None:
        """Write one 32-bit register; pending bits and absent registers ignore it."""
        self._check(size)
        if offset < PENDING:
            source = offset >> 2
            if source != 0 and source <= self.sources:
                self.priority[source] = value & PRIORITY_MASK
        elif offset < ENABLE:
            return
        elif offset < CONTEXT:
            context = (offset - ENABLE) // ENABLE_STRIDE
            if context < self.contexts:
                self._enable(context, (offset % ENABLE_STRIDE) >> 2, value)
        else:
            context = (offset - CONTEXT) // CONTEXT_STRIDE
            if context >= self.contexts:
                return
            register = offset % CONTEXT_STRIDE
            if register == 0:
                self.threshold[context] = value & PRIORITY_MASK
            elif register == 4:
                self.complete(context, value & 0xFFFFFFFF)
        self._drive()

    def set_source(self, source: i64, level: bool) -> None:
        """A device's line changed: the gateway forwards a rise unless a request is being served."""
        if source < 1 or source > self.sources:
            return
        word = source >> 6
        one: i64 = 1
        bit = one << (source & 63)
        if level:
            self.level[word] |= bit
            if self.claimed[word] & bit == 0:
                self.pending[word] |= bit
                self._drive()
        else:
            self.level[word] &= ~bit

    def claim(self, context: i64) -> i64:
        """The pending, enabled source of highest priority, lowest number first; 0 when none.

        The threshold does not matter here (specification, chapter 8).
        """
        source = self._best(context, 0)
        if source != 0:
            word = source >> 6
            one: i64 = 1
            bit = one << (source & 63)
            self.pending[word] &= ~bit
            self.claimed[word] |= bit
            self._drive()
        return source

    def complete(self, context: i64, source: i64) -> None:
        """Open the gateway of ``source`` again; ignored when it is not enabled for the context."""
        if source < 1 or source > self.sources:
            return
        word = source >> 6
        one: i64 = 1
        bit = one << (source & 63)
        if self.enabled[2 * context + word] & bit == 0:
            return
        self.claimed[word] &= ~bit
        if self.level[word] & bit != 0:
            self.pending[word] |= bit

    def reset(self) -> None:
        """Power-on state; a line that is high is a new request."""
        for words in (self.priority, self.claimed, self.enabled, self.threshold):
            i: i64 = 0
            while i < len(words):
                words[i] = 0
                i += 1
        self.pending[0] = self.level[0]
        self.pending[1] = self.level[1]
        self._drive()

    def state(self) -> list[int]:
        """All that a digest or a snapshot needs, in a fixed order."""
        values: list[int] = []
        for words in (
            self.priority,
            self.level,
            self.pending,
            self.claimed,
            self.enabled,
            self.threshold,
        ):
            for i in range(len(words)):
                values.append(int(words[i]))
        return values

    def restore(self, values: list[int]) -> None:
        """Become what ``state`` told, as many values; ConfigError, with nothing changed, when these
        are not possible. The devices' lines must be what they were.
        """
        parts = (
            self.priority,
            self.level,
            self.pending,
            self.claimed,
            self.enabled,
            self.threshold,
        )
        wanted: i64 = 0
        for words in parts:
            wanted += len(words)
        if len(values) != wanted:
            raise ConfigError(f"saved PLIC: {len(values)} values instead of {int(wanted)}")
        at = 0
        for number in range(len(parts)):
            words = parts[number]
            for i in range(len(words)):
                word: i64 = values[at]
                if number == 0 or number == 5:
                    wrong = (word & ~PRIORITY_MASK) != 0
                else:
                    wrong = (word & ~self._implemented(i & 1)) != 0
                if wrong:
                    raise ConfigError(f"saved PLIC: value {at} is {values[at]}")
                at += 1
        at = 0
        for words in parts:
            for i in range(len(words)):
                words[i] = values[at]
                at += 1
        self._drive()

    def _best(self, context: i64, above: i64) -> i64:
        """The source to serve among those with a priority greater than ``above``; 0 when none."""
        best: i64 = 0
        highest = above
        word: i64 = 0
        while word < 2:
            left = self.pending[word] & self.enabled[2 * context + word]
            source = word << 6
            while left != 0:
                if left & 1 != 0 and self.priority[source] > highest:
                    highest = self.priority[source]
                    best = source
                left = (left >> 1) & 0x7FFFFFFFFFFFFFFF
                source += 1
            word += 1
        return best

    def _drive(self) -> None:
        context: i64 = 0
        while context < self.contexts:
            self.lines[context].set(self._best(context, self.threshold[context]) != 0)
            context += 1

    def _enable(self, context: i64, number: i64, value: i64) -> None:
        if number >= 4:
            return
        slot = 2 * context + (number >> 1)
        shift = (number & 1) << 5
        low: i64 = 0xFFFFFFFF
        word = (self.enabled[slot] & ~(low << shift)) | ((value & low) << shift)
        self.enabled[slot] = word & self._implemented(number >> 1)

    def _implemented(self, word: i64) -> i64:
        """The sources that exist in a word of 64; source 0 does not."""
        one: i64 = 1
        last = self.sources - (word << 6)
        if last < 0:
            return 0
        mask: i64 = -1 if last >= 63 else (one << (last + 1)) - 1
        return mask & ~one if word == 0 else mask

    def _half(self, words: vec[i64], first: i64, number: i64) -> i64:
        if number >= 4:
            return 0
        return (words[first + (number >> 1)] >> ((number & 1) << 5)) & 0xFFFFFFFF

    def _check(self, size: i64) -> None:
        if size != 4:
            raise GuestError("PLIC registers take accesses of 4 bytes")


class PlicInput(InterruptSink):
    """The side of the PLIC that devices' lines end at: the input number is the source."""

    def __init__(self, plic: Plic) -> None:
        self._plic = plic

    def set_level(self, number: i64, level: bool) -> None:
        """See ``Plic.set_source``."""
        self._plic.set_source(number, level)
