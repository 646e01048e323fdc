"""Which frames a card listens to (virtio 1.2, 5.1.6.5.1 and 5.1.6.5.2)."""

from __future__ import annotations

from typing import Final

from asyncvmm.network.ethernet import BROADCAST, is_group
from asyncvmm_plugins.virtio_net.state import MAX_TABLE

# Commands of class RX: the number of the mode's bit.
PROMISC: Final = 0
ALLMULTI: Final = 1
ALLUNI: Final = 2
NOMULTI: Final = 3
NOUNI: Final = 4
NOBCAST: Final = 5
MODES: Final = 6


class ReceiveFilter:
    """After a reset everything passes, for drivers that never say what they want."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Promiscuous, nothing in the tables."""
        self.mode = 1 << PROMISC
        self.unicast: frozenset[bytes] = frozenset()
        self.multicast: frozenset[bytes] = frozenset()
        self.overflow = 0  # bit 0: more unicast addresses than fit, bit 1: multicast

    def set_mode(self, number: int, on: bool) -> None:
        """A command of class RX."""
        self.mode = self.mode | 1 << number if on else self.mode & ~(1 << number)

    def set_tables(self, unicast: list[bytes], multicast: list[bytes]) -> None:
        """MAC_TABLE_SET. A table that does not fit lets all of its kind pass."""
        self.overflow = (len(unicast) > MAX_TABLE) | (len(multicast) > MAX_TABLE) << 1
        self.unicast = frozenset(unicast) if len(unicast) <= MAX_TABLE else frozenset()
        self.multicast = frozenset(multicast) if len(multicast) <= MAX_TABLE else frozenset()

    def passes(self, target: bytes, own: bytes) -> bool:
        """Whether the driver wants a frame to ``target``; ``own`` is the card's address."""
        mode = self.mode
        if mode & 1 << PROMISC:
            return True
        if target == BROADCAST:
            return not mode & 1 << NOBCAST
        if is_group(target):
            if mode & 1 << NOMULTI:
                return False
            wanted = mode & 1 << ALLMULTI or self.overflow & 2 or target in self.multicast
            return bool(wanted)
        if mode & 1 << NOUNI:
            return False
        if target == own:
            return True
        return bool(mode & 1 << ALLUNI or self.overflow & 1 or target in self.unicast)
