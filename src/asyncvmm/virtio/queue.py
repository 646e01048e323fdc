"""Split virtqueues (2.7), seen from the device. Everything in the rings is the driver's word.

Nothing here believes it: indices, addresses, lengths, flags and the order of a chain are checked
before a device sees the chain, and no walk is longer than the queue or one indirect table.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64, mypyc_attr

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device.io import Dma
from asyncvmm.virtio.chain import Chain

MAX_QUEUE_SIZE: Final = 32768
# 2.7.5.3.1 allows no more than the queue's size; Linux goes beyond for small queues, so this is it.
MAX_INDIRECT: Final = 1024
MAX_CHAIN_BYTES: Final = 1 << 32

DESC_NEXT: Final = 1
DESC_WRITE: Final = 2
DESC_INDIRECT: Final = 4

AVAIL_NO_INTERRUPT: Final = 1


_ADDRESSES: Final = ("descriptors", "available", "used")
_COUNTERS: Final = ("next_available", "next_used", "signalled")


class QueueError(GuestError):
    """The driver broke a rule of the split virtqueue; the text names the clause."""


@mypyc_attr(allow_interpreted_subclasses=True)
class QueueOwner:
    """Whoever a queue reports to: its device."""

    def used_buffers(self) -> None:
        """The driver wants to hear that there are used buffers (2.7.8)."""

    def fail(self, message: str) -> None:
        """The driver broke the rules: the device needs a reset (2.1.2)."""


class VirtQueue:
    """Queue number ``index`` of a device, with at most ``max_size`` entries (a power of two).

    Life: reset -> set up by the driver (``size``, the three addresses) -> ``enable`` -> ``live``
    once the driver is ready -> (``pop`` -> ``complete``)* -> reset. ``pop`` and ``complete`` never
    raise: a driver that breaks the rules is reported to the owner, and the queue then gives nothing
    more.
    """

    def __init__(self, index: int, max_size: int, dma: Dma, owner: QueueOwner) -> None:
        if max_size < 1 or max_size > MAX_QUEUE_SIZE or max_size & (max_size - 1) != 0:
            raise ConfigError(f"queue size {max_size} is not a power of two up to {MAX_QUEUE_SIZE}")
        self.index: int = index
        self.max_size: int = max_size
        # Chains of before a reset have another generation and are not completed any more.
        self.generation: i64 = 0
        self._dma: Dma = dma
        self._owner: QueueOwner = owner
        self._clear()

    def _clear(self) -> None:
        self.size: i64 = self.max_size
        self.descriptors: i64 = 0
        self.available: i64 = 0
        self.used: i64 = 0
        self.ready: bool = False
        self.live: bool = False
        self.event_index: bool = False
        self.indirect: bool = False
        # Free-running 16-bit counters: next to take, next to give, last signalled.
        self.next_available: i64 = 0
        self.next_used: i64 = 0
        self._signalled: i64 = 0
        self._holding: bool = False
        # Heads popped and not completed, in order; and those of a snapshot, to be popped once more.
        self.in_flight: dict[int, bool] = {}
        self._redo: list[int] = []
        # While a device is resumed: what the driver has made available, but not rung the bell for when
        # the snapshot was taken, is not there yet.
        self.known_only: bool = False

    def reset(self) -> None:
        """Forget everything; chains still in a device's hands become void."""
        self.generation += 1
        self._clear()

    def enable(self) -> None:
        """QueueReady: check the size and the rings (2.7, 2.7.1); QueueError when they are bad."""
        size = self.size
        if size < 1 or size > self.max_size or size & (size - 1) != 0:
            raise QueueError(f"queue {self.index}: size {int(size)} is not allowed (2.7)")
        self._check_ring("descriptor table", self.descriptors, 16 * size, 16)
        self._check_ring("available ring", self.available, 6 + 2 * size, 2)
        self._check_ring("used ring", self.used, 6 + 8 * size, 4)
        self.ready = True

    def _check_ring(self, what: str, address: i64, length: i64, alignment: i64) -> None:
        if address % alignment != 0:
            raise QueueError(f"queue {self.index}: {what} is not aligned to {int(alignment)} (2.7)")
        if not self._dma.contains(address, length):
            raise QueueError(f"queue {self.index}: {what} at {int(address):#x} is outside RAM")

    # Taking chains.

    def pending(self) -> int:
        """How many chains the driver has made available; 0 also for a queue that is not live."""
        if not self.live:
            return 0
        if self.known_only:
            return len(self._redo)
        count = (self._dma.load(self.available + 2, 2) - self.next_available) & 0xFFFF
        if count > self.size:
            self._fail(f"available index is {int(count)} ahead, the queue has {int(self.size)}")
            return 0
        return count + len(self._redo)

    def pop(self) -> Chain | None:
        """The next chain, or None when there is none or the driver broke the rules."""
        if self.pending() == 0:
            return None
        dma = self._dma
        again = len(self._redo) > 0
        if again:
            head: i64 = self._redo[0]
        else:
            slot = self.next_available & (self.size - 1)
            head = dma.load(self.available + 4 + 2 * slot, 2)
        try:
            if head in self.in_flight:
                raise QueueError(f"head {int(head)} is in use already (2.7.13)")
            chain = self._walk(head)
        except QueueError as error:
            self._fail(str(error))
            return None
        self.in_flight[head] = again
        if again:
            del self._redo[0]
        else:
            self._take(1)
        return chain

    def unpop(self, chain: Chain) -> None:
        """Put back the chain that was popped last, untouched: it is the next one again."""
        if chain.generation != self.generation or chain.completed or not self.live:
            return
        chain.completed = True
        if self.in_flight.pop(chain.head):
            self._redo.insert(0, chain.head)
        else:
            self._take(-1)

    def _take(self, step: i64) -> None:
        self.next_available = (self.next_available + step) & 0xFFFF
        if self.event_index:
            # avail_event: tell us of the next buffer (2.7.10).
            self._dma.store(self.used + 4 + 8 * self.size, 2, self.next_available)

    def _walk(self, head: i64) -> Chain:
        dma = self._dma
        chain = Chain(dma, head, self.generation)
        table = self.descriptors
        count = self.size
        left = count
        index = head
        inside = False
        # Buffers that add up to more than the RAM overlap: no driver does that, and copying them
        # all could take forever.
        limit: i64 = dma.size_bytes
        if limit > MAX_CHAIN_BYTES:
            limit = MAX_CHAIN_BYTES
        while True:
            if index >= count:
                raise QueueError(f"descriptor {int(index)} of {int(count)} (2.7.5)")
            if left == 0:
                raise QueueError("a descriptor chain is a loop or too long (2.7.5.2)")
            left -= 1
            address = dma.load(table + 16 * index, 8)
            word = dma.load(table + 16 * index + 8, 8)
            length = word & 0xFFFFFFFF
            flags = (word >> 32) & 0xFFFF
            if flags & DESC_INDIRECT != 0:
                if not self.indirect:
                    raise QueueError("indirect descriptors were not negotiated (2.7.5.3.1)")
                if inside:
                    raise QueueError("an indirect table within an indirect table (2.7.5.3.1)")
                if flags & DESC_NEXT != 0:
                    raise QueueError("INDIRECT together with NEXT (2.7.5.3.1)")
                if length == 0 or length & 15 != 0 or length > 16 * MAX_INDIRECT:
                    raise QueueError(f"an indirect table of {int(length)} bytes (2.7.5.3.1)")
                self._check_memory(address, length)
                inside = True
                table = address
                count = length >> 4
                left = count
                index = 0
                continue
            if length == 0:
                raise QueueError("a descriptor of length zero (2.7.5)")
            self._check_memory(address, length)
            writable = flags & DESC_WRITE != 0
            if not writable and chain.writable_bytes != 0:
                raise QueueError("a readable descriptor after a writable one (2.7.4.2)")
            chain.add(address, length, writable)
            if chain.readable_bytes + chain.writable_bytes > limit:
                raise QueueError(f"a chain of more than {int(limit)} bytes (2.7.5.2)")
            if flags & DESC_NEXT == 0:
                return chain
            index = (word >> 48) & 0xFFFF

    def _check_memory(self, address: i64, length: i64) -> None:
        if not self._dma.contains(address, length):
            raise QueueError(f"{int(length)} bytes at {int(address):#x} are outside RAM")

    def _fail(self, message: str) -> None:
        self.live = False
        self._owner.fail(f"queue {self.index}: {message}")

    @property
    def interrupted(self) -> bool:
        """Whether chains that were in flight in a snapshot wait to be popped again."""
        return len(self._redo) > 0

    # Giving them back.

    def complete(self, chain: Chain, written: int = -1) -> None:
        """Give the chain back with ``written`` bytes in its writable part (all that went through
        ``chain.write`` when left out). A chain of before a reset, or given back already, is
        ignored.
        """
        if chain.generation != self.generation or chain.completed or not self.live:
            return
        chain.completed = True
        del self.in_flight[chain.head]
        dma = self._dma
        entry = self.used + 4 + 8 * (self.next_used & (self.size - 1))
        dma.store(entry, 4, chain.head)
        dma.store(entry + 4, 4, chain.written if written < 0 else written)
        self.next_used = (self.next_used + 1) & 0xFFFF
        dma.store(self.used + 2, 2, self.next_used)
        if not self._holding:
            self._signal()

    def hold_signals(self) -> None:
        """Collect completions until ``release_signals``: one interrupt for a batch."""
        self._holding = True

    def release_signals(self) -> None:
        """Interrupt for what was completed since ``hold_signals``, if the driver wants it."""
        self._holding = False
        if self.live:
            self._signal()

    def _signal(self) -> None:
        """2.7.7.2 and 2.7.10: does the driver want to hear of the buffers used since last time?"""
        old = self._signalled
        new = self.next_used
        if old == new:
            return
        self._signalled = new
        if self.event_index:
            event = self._dma.load(self.available + 4 + 2 * self.size, 2)
            wanted = ((new - event - 1) & 0xFFFF) < ((new - old) & 0xFFFF)
        else:
            wanted = self._dma.load(self.available, 2) & AVAIL_NO_INTERRUPT == 0
        if wanted:
            self._owner.used_buffers()

    # Snapshots.

    def save(self) -> dict[str, object]:
        """Plain data. Chains in flight are saved as such and popped again after ``load``."""
        return {
            "size": int(self.size),
            "descriptors": int(self.descriptors),
            "available": int(self.available),
            "used": int(self.used),
            "ready": self.ready,
            "next_available": int(self.next_available),
            "next_used": int(self.next_used),
            "signalled": int(self._signalled),
            "in_flight": [*self.in_flight, *self._redo],
        }

    def load(self, saved: dict[str, object]) -> None:
        """Take back what ``save`` gave, into a queue just reset; ConfigError when it is wrong."""
        numbers: dict[str, int] = {}
        for name in _ADDRESSES:
            numbers[name] = self._saved_number(saved, name, -(1 << 63), (1 << 63) - 1)
        # Size and addresses are the driver's word until the queue is enabled, which checks them.
        numbers["size"] = self._saved_number(saved, "size", 0, 0xFFFFFFFF)
        for name in _COUNTERS:
            numbers[name] = self._saved_number(saved, name, 0, 0xFFFF)
        heads = saved.get("in_flight")
        ready = saved.get("ready")
        if type(ready) is not bool or not isinstance(heads, list) or len(saved) != 9:
            raise ConfigError(f"saved queue {self.index} has wrong fields")
        redo: list[int] = []
        for head in heads:
            known = type(head) is int and head >= 0 and head < numbers["size"]
            if not known or not ready or head in redo or len(redo) == self.max_size:
                raise ConfigError(f"saved queue {self.index}: in flight is {head!r}")
            redo.append(head)
        self.size = numbers["size"]
        self.descriptors = numbers["descriptors"]
        self.available = numbers["available"]
        self.used = numbers["used"]
        if ready:
            try:
                self.enable()
            except QueueError as error:
                self._clear()
                raise ConfigError(f"saved queue {self.index}: {error}") from error
        self.next_available = numbers["next_available"]
        self.next_used = numbers["next_used"]
        self._signalled = numbers["signalled"]
        self._redo = redo

    def _saved_number(self, saved: dict[str, object], name: str, low: int, high: int) -> int:
        value = saved.get(name)
        if type(value) is not int or value < low or value > high:
            raise ConfigError(f"saved queue {self.index}: {name} is {value!r}")
        return value
