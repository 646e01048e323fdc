"""Hostile frames for the switch and the gateway: nothing is raised, nothing grows without bound.

``ASYNCVMM_FUZZ`` multiplies the number of inputs (1000 gives some millions); the seed is printed.
"""

from __future__ import annotations

import os
import random

from asyncvmm.device import Packet
from asyncvmm.network.acl import AccessList, parse_rules
from asyncvmm.network.config import NetworkConfig
from asyncvmm.network.ethernet import ARP, BROADCAST, IPV4, IPV6, VLAN
from asyncvmm.network.gateway import MAX_CONNECTIONS, MAX_NEIGHBOURS, MAX_REQUESTS
from asyncvmm.network.inet import ACK, FIN, RST, SYN, TcpSegment, ethernet
from asyncvmm.network.offload import wire_packets
from asyncvmm.network.switch import TABLE_SIZE, Switch, SwitchPort
from asyncvmm.timeline.events import FOREVER
from tests.unit.network.guest import MAC, FakeGuest, address, dhcp_request, dns_query

TIMES = int(os.environ.get("ASYNCVMM_FUZZ", "1"))
INPUTS = 4000 * TIMES
SEED = int(os.environ.get("ASYNCVMM_FUZZ_SEED", "20261"))
OUTSIDE = address("93.184.216.34")


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, a piece cut off, doubled, or nothing done to it."""
    raw = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        if raw:
            raw[rng.randrange(len(raw))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    choice = rng.random()
    if choice < 0.1:
        return bytes(raw[: rng.randrange(len(raw) + 1)])
    if choice < 0.15:
        at = rng.randrange(len(raw) + 1)
        return bytes(raw[:at] + raw[at:] * 2)
    return bytes(raw)


def mutated_packet(rng: random.Random, packet: Packet) -> Packet:
    data = mutated(rng, packet.data)
    if len(data) < 14:
        data = data.ljust(14, b"\0")
    if rng.random() < 0.2:
        return Packet(
            data,
            rng.choice((-1, 0, 34, len(data), 65535)),
            rng.choice((0, 6, 16, 65535)),
            rng.choice((0, 1, 4, 77)),
            rng.choice((0, 1, 8, 1460, 65535)),
        )
    return Packet(data, packet.checksum_start, packet.checksum_offset, packet.gso, packet.gso_size)


def good_packets(guest: FakeGuest, rng: random.Random) -> list[Packet]:
    """One of each kind that the gateway understands."""
    gateway = guest.gateway.address
    port = rng.randrange(65536)
    numbers = rng.randrange(2**32), rng.randrange(2**32)
    flags = rng.choice((SYN, SYN | ACK, ACK, FIN | ACK, RST, RST | ACK, 0, 63))
    segment = TcpSegment(
        port, rng.choice((80, 32768, 32770)), *numbers, flags, 999, b"data", 1460, 7
    )
    name = rng.choice(("web", "a.debian.org", "x" * 63, "a" + ".b" * 60))
    options = bytes((50, 4)) + rng.choice((guest.address, bytes(4))) + bytes((55, 2, 1, 3))
    return [
        guest.udp(b"\xff" * 4, (68, 67), dhcp_request(rng.randrange(10), options)),
        guest.udp(gateway, (port, 53), dns_query(name, rng.choice((1, 28, 255, 12)))),
        guest.udp(OUTSIDE, (port, 53), bytes(rng.randrange(100))),
        guest.ping(rng.choice((gateway, OUTSIDE)), bytes(rng.randrange(4, 100))),
        guest.tcp(rng.choice((gateway, OUTSIDE)), segment),
    ]


def test_the_gateway_takes_anything() -> None:
    print(f"seed {SEED}, {INPUTS} inputs")
    rng = random.Random(SEED)
    guest = FakeGuest(NetworkConfig.from_mapping({"allow": ["*", "*.debian.org"]}))
    guest.announce()
    for number in range(INPUTS):
        if number % 500 == 0:
            guest.gateway.connect(guest.now, guest.address, 80)
        packet = rng.choice(good_packets(guest, rng))
        guest.exchange(mutated_packet(rng, packet))
        while guest.gateway.next_ns() <= guest.now + 10**9 and rng.random() < 0.1:
            guest.now = max(guest.now, guest.gateway.next_ns())
            guest.gateway.run(guest.now)
        if rng.random() < 0.01:
            guest.gateway.requests.clear()
        assert len(guest.gateway.connections) <= MAX_CONNECTIONS
        assert len(guest.gateway.requests) <= MAX_REQUESTS
        assert len(guest.gateway._neighbours) <= MAX_NEIGHBOURS
    guest.announce_quietly()
    (reply,) = [
        p for p in guest.exchange(guest.ping(guest.gateway.address, bytes(8))) if p.data[23] == 1
    ]
    assert reply.data[:6] == MAC  # it still works
    assert guest.gateway.next_ns() <= FOREVER


def test_the_gateway_takes_noise() -> None:
    rng = random.Random(SEED + 1)
    guest = FakeGuest()
    for _ in range(INPUTS):
        kind = rng.choice((ARP, IPV4, IPV6, VLAN, rng.randrange(65536)))
        target = rng.choice((guest.gateway.mac, BROADCAST))
        payload = rng.choice((b"\x45", b"")) + rng.randbytes(rng.randrange(120))
        guest.exchange(Packet(ethernet(target, rng.randbytes(6), kind, payload)))


def test_the_switch_takes_anything_and_stays_small() -> None:
    rng = random.Random(SEED + 2)
    switch = Switch()
    rules = AccessList(
        parse_rules(["deny in tcp port 25", "deny out udp from 10.0.0.0/8", "allow arp"])
    )
    switch.add(SwitchPort("a", access=rules))
    switch.add(SwitchPort("b", vlan=10, access=rules))
    switch.add(SwitchPort("c", trunk=frozenset({10, 20})))
    for number in range(INPUTS):
        kind = rng.choice((ARP, IPV4, VLAN, VLAN, rng.randrange(65536)))
        target = rng.choice((BROADCAST, rng.randbytes(6), b"\x02\0\0\0\0" + rng.randbytes(1)))
        source = rng.choice((rng.randbytes(6), b"\x02\0\0\0\0" + rng.randbytes(1)))
        packet = mutated_packet(rng, Packet(ethernet(target, source, kind, rng.randbytes(60))))
        for name, out in switch.forward(number, rng.choice("abcd"), packet):
            assert name in "abc"
            assert len(out.data) >= 14
            assert sum(len(piece.data) for piece in wire_packets(out)) < 100 * len(out.data) + 100
        assert len(switch.learnt) <= TABLE_SIZE or number % 97
