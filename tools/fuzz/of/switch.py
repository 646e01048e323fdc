"""Frames for a switch with VLANs and access rules."""

from __future__ import annotations

from typing import Final

from asyncvmm.device import Packet
from asyncvmm.network.acl import AccessList, parse_rules
from asyncvmm.network.ethernet import ARP, BROADCAST, IPV4, VLAN
from asyncvmm.network.inet import ethernet
from asyncvmm.network.offload import wire_packets
from asyncvmm.network.switch import Switch, SwitchPort

TABLE: Final = 16
RULES: Final = parse_rules(["deny in tcp port 25", "deny out udp from 10.0.0.0/8", "allow arp"])
MACS: Final = (b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2", BROADCAST, b"\x01\x80\xc2\0\0\0")
_IP: Final = bytes.fromhex("45000028000040004006000a0a000001c0a80001") + bytes.fromhex(
    "0050001900000001000000015018ffff00000000"
)
_OPTIONS: Final = bytes((0, 0, 0, 0))
SEEDS: Final = tuple(
    _OPTIONS + ethernet(target, source, kind, payload)
    for target in MACS
    for source in MACS[:2]
    for kind, payload in (
        (IPV4, _IP),
        (ARP, bytes(28)),
        (VLAN, b"\0\x0a\x08\0" + _IP),
        (VLAN, b"\0\0\x08\x06" + bytes(28)),
    )
)


def _switch() -> Switch:
    switch = Switch(table_size=TABLE)
    rules = AccessList(RULES)
    switch.add(SwitchPort("a", access=rules))
    switch.add(SwitchPort("b", vlan=10, access=rules))
    switch.add(SwitchPort("c", trunk=frozenset({10, 20})))
    return switch


_shared: Final = [_switch()]
_clock: Final = [0]


def fuzz_one(data: bytes) -> None:
    """A port, offloads and a frame: it comes out of known ports, other ones, whole, and cut well."""
    switch = _shared[0]
    _clock[0] += 1000
    options, frame = data[:4].ljust(4, b"\0"), data[4:]
    start = (-1, 0, 34, len(frame), 65535)[options[1] % 5]
    offset, gso = (0, 6, 16, 65535)[options[2] % 4], (0, 1, 4, 77)[options[2] // 4 % 4]
    packet = Packet(frame, start, offset, gso, (0, 1, 8, 1460, 65535)[options[3] % 5])
    source = "abcd"[options[0] % 4]
    for name, out in switch.forward(_clock[0], source, packet):
        assert name in "abc" and name != source
        assert len(out.data) >= 14
        assert sum(len(piece.data) for piece in wire_packets(out)) < 100 * len(out.data) + 100
    assert len(switch.learnt) <= TABLE
