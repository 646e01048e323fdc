"""Which address belongs to whom in one subnet: by name for guests' cards, by MAC address for others."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from asyncvmm.network.saved import Saved

FIRST_HOST: Final = 10


class Leases:
    """Addresses are given for good: a guest that comes back has the one it had."""

    def __init__(self, subnet: ipaddress.IPv4Network) -> None:
        self.subnet: Final = subnet
        self.gateway: Final = _nth(subnet, 1)
        self._names: dict[str, bytes] = {}
        self._macs: dict[bytes, bytes] = {}
        self._owners: dict[bytes, str] = {}
        self._next = FIRST_HOST
        self._limit = min(subnet.num_addresses - 1, FIRST_HOST + 60_000)

    def register(self, name: str, mac: bytes) -> bytes | None:
        """A card named ``name`` is there: its address; None when there is none left."""
        if name not in self._names:
            address = self._fresh()
            if address is None:
                return None
            self._names[name] = address
        self._macs[mac] = self._names[name]
        self._owners[mac] = name
        return self._names[name]

    def take_over(self, other: Leases) -> None:
        """Know what ``other`` knows: for a copy of its network."""
        self._names = dict(other._names)
        self._macs = dict(other._macs)
        self._owners = dict(other._owners)
        self._next = other._next

    def save(self) -> dict[str, Any]:
        """Who has what, and how many were given."""
        return {
            "next": self._next,
            "names": [[name, address.hex()] for name, address in self._names.items()],
            "macs": [[mac.hex(), address.hex()] for mac, address in self._macs.items()],
            "owners": [[mac.hex(), name] for mac, name in self._owners.items()],
        }

    def load(self, saved: Saved) -> None:
        """What ``save`` gave."""
        self._next = saved.number("next", FIRST_HOST, self._limit)
        self._names = dict(saved.rows("names", "tb"))
        self._macs = dict(saved.rows("macs", "bb"))
        self._owners = dict(saved.rows("owners", "bt"))
        for address in (*self._names.values(), *self._macs.values()):
            if len(address) != 4 or not self.within(address):
                raise saved.wrong("names", f"have an address of another subnet: {address.hex()}")
        saved.done()

    def of_mac(self, mac: bytes) -> bytes | None:
        """The address of any card; a new one for a card that was never seen."""
        if mac not in self._macs:
            address = self._fresh()
            if address is None:
                return None
            self._macs[mac] = address
        return self._macs[mac]

    def of_name(self, name: str) -> bytes | None:
        """The address of a guest."""
        return self._names.get(name)

    def name_of(self, mac: bytes) -> str:
        """The guest that a card belongs to; empty when it is none's."""
        return self._owners.get(mac, "")

    def within(self, address: bytes) -> bool:
        """Whether an address is in the subnet."""
        mask = int(self.subnet.netmask)
        return int.from_bytes(address, "big") & mask == int(self.subnet.network_address)

    def _fresh(self) -> bytes | None:
        if self._next >= self._limit:
            return None
        address = _nth(self.subnet, self._next)
        self._next += 1
        return address


def _nth(subnet: ipaddress.IPv4Network, number: int) -> bytes:
    return (int(subnet.network_address) + number).to_bytes(4, "big")
