"""An Ethernet switch: learns which address is behind which port, keeps VLANs apart, obeys access lists."""

from __future__ import annotations

from typing import Any, Final

import attrs

from asyncvmm.base.units import SECOND
from asyncvmm.device import Packet
from asyncvmm.network.acl import AccessList
from asyncvmm.network.ethernet import HEADER, is_group, is_reserved, tag, untag, vlan_of
from asyncvmm.network.saved import Saved

TABLE_SIZE: Final = 1024
AGE_NS: Final = 300 * SECOND
NATIVE: Final = 1


@attrs.define(eq=False)
class SwitchPort:
    """A port. Untagged frames belong to ``vlan``; those of the VLANs in ``trunk`` are tagged."""

    name: str
    vlan: int = NATIVE
    trunk: frozenset[int] = frozenset()
    access: AccessList = attrs.field(factory=AccessList)
    dropped: int = 0

    def carries(self, vlan: int) -> bool:
        """Whether frames of this VLAN come out of the port."""
        return vlan == self.vlan or vlan in self.trunk


@attrs.define
class _Place:
    port: SwitchPort
    seen_ns: int


class Switch:
    """``forward`` says where a frame goes. Frames come in the order of their times."""

    def __init__(self, table_size: int = TABLE_SIZE, age_ns: int = AGE_NS) -> None:
        self.ports: Final[dict[str, SwitchPort]] = {}
        self.dropped = 0
        self._table: dict[tuple[int, bytes], _Place] = {}  # the longest unseen first
        self._table_size = table_size
        self._age_ns = age_ns

    def add(self, port: SwitchPort) -> None:
        """A new port."""
        self.ports[port.name] = port

    def remove(self, name: str) -> None:
        """Take a port away, and all that was learnt of it."""
        port = self.ports.pop(name)
        self._table = {key: place for key, place in self._table.items() if place.port is not port}

    @property
    def learnt(self) -> dict[tuple[int, bytes], str]:
        """(VLAN, address) to port, as far as known."""
        return {key: place.port.name for key, place in self._table.items()}

    def forward(self, time_ns: int, source: str, packet: Packet) -> list[tuple[str, Packet]]:
        """The ports (in the order in which they were added) out of which ``packet`` comes."""
        port = self.ports.get(source)
        data = packet.data
        if port is None or len(data) < HEADER or is_group(data[6:12]) or is_reserved(data[:6]):
            self.dropped += 1
            return []
        vlan = vlan_of(data)
        if vlan is None:
            vlan = port.vlan
        elif vlan == 0:
            packet, vlan = untag(packet), port.vlan
        elif vlan in port.trunk:
            packet = untag(packet)
        else:
            port.dropped += 1
            return []
        data = packet.data
        if not port.access.passes("in", data):
            return []
        self._learn(time_ns, (vlan, data[6:12]), port)
        return [
            (target.name, packet if vlan == target.vlan else tag(packet, vlan))
            for target in self._targets(time_ns, vlan, data[:6], port)
            if target.access.passes("out", data)
        ]

    def _targets(
        self, time_ns: int, vlan: int, address: bytes, source: SwitchPort
    ) -> list[SwitchPort]:
        place = None if is_group(address) else self._table.get((vlan, address))
        if place is not None and time_ns - place.seen_ns <= self._age_ns:
            known = place.port is not source and place.port.carries(vlan)
            return [place.port] if known else []
        return [port for port in self.ports.values() if port is not source and port.carries(vlan)]

    def _learn(self, time_ns: int, key: tuple[int, bytes], port: SwitchPort) -> None:
        known = self._table.pop(key, None)
        if known is None and len(self._table) >= self._table_size:
            del self._table[next(iter(self._table))]
        self._table[key] = _Place(port, time_ns)

    # -- snapshots

    def save(self) -> dict[str, Any]:
        """What was learnt and counted; the ports themselves are their cables' to save."""
        return {
            "dropped": self.dropped,
            "ports": [[p.name, p.dropped, p.access.denied] for p in self.ports.values()],
            "table": [
                [vlan, address.hex(), place.port.name, place.seen_ns]
                for (vlan, address), place in self._table.items()
            ],
        }

    def load(self, saved: Saved) -> None:
        """What ``save`` gave, with the same ports in place already."""
        self.dropped = saved.number("dropped")
        for name, dropped, denied in saved.rows("ports", "tnn"):
            if name not in self.ports:
                raise saved.wrong("ports", f"has {name!r}, which has no cable")
            self.ports[name].dropped = dropped
            self.ports[name].access.denied = denied
        self._table = {}
        for vlan, address, name, seen_ns in saved.rows("table", "nbtn", self._table_size):
            if name not in self.ports or len(address) != 6:
                raise saved.wrong("table", f"knows of {name!r}, which has no cable")
            self._table[vlan, address] = _Place(self.ports[name], seen_ns)
        saved.done()
