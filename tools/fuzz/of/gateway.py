"""Frames of a guest for the gateway: DHCP, DNS, and the NAT with its TCP."""

from __future__ import annotations

import functools
from typing import Final

from asyncvmm.device import Packet
from asyncvmm.network.config import NetworkConfig
from asyncvmm.network.dns import build_answer, parse_query
from asyncvmm.network.gateway import (
    MAX_CONNECTIONS,
    MAX_NEIGHBOURS,
    MAX_REQUESTS,
    DatagramRequest,
    OpenRequest,
    ResolveRequest,
)
from asyncvmm.network.inet import ACK, FIN, PSH, RST, SYN, TcpSegment
from tests.unit.network.guest import FakeGuest, address, dhcp_request, dns_query

OUTSIDE: Final = address("93.184.216.34")
ROUNDS: Final = 2000  # inputs for one gateway; then there is a new one
_used: Final = [0]


@functools.cache
def _guest(number: int) -> FakeGuest:
    guest = FakeGuest(NetworkConfig.from_mapping({"allow": ["*", "*.debian.org"]}), seed=number)
    guest.announce()
    return guest


def _current() -> FakeGuest:
    number, used = divmod(_used[0], ROUNDS)
    _used[0] += 1
    if not used:
        _guest.cache_clear()
    return _guest(number)


def _seeds() -> dict[str, tuple[bytes, ...]]:
    guest = _guest(0)
    asked = bytes((50, 4)) + guest.address + bytes((55, 2, 1, 3))
    names = ("web", "gateway.lan", "a.debian.org", "x" * 63, "a" + ".b" * 60)
    numbers = ((1, 0, SYN), (2, 1, ACK | PSH), (3, 9, FIN | ACK), (4, 4, RST), (5, 6, SYN | ACK))
    return {
        "dhcp": tuple(
            guest.udp(b"\xff" * 4, (68, 67), dhcp_request(kind, asked)).data for kind in range(1, 9)
        ),
        "dns": tuple(
            guest.udp(guest.gateway.address, (9999, 53), dns_query(name, kind)).data
            for name in names
            for kind in (1, 28, 255)
        ),
        "nat": (
            guest.udp(OUTSIDE, (6000, 53), b"ask").data,
            guest.ping(OUTSIDE, b"12345678").data,
            *(
                guest.tcp(target, TcpSegment(port, 80, *number, 999, text, 1460, 7)).data
                for target in (OUTSIDE, guest.gateway.address)
                for port in (5000, 5001)
                for number in numbers
                for text in (b"", b"some data" * 9)
            ),
        ),
    }


SEEDS: Final = _seeds()  # by target


def _frame(data: bytes) -> Packet:
    """Of a guest that takes the trouble to fill in checksums, for two inputs of three."""
    start = 34 if len(data) > 60 and sum(data) % 3 else -1
    return Packet(data.ljust(14, b"\0"), start, 16 if data[23:24] == b"\x06" else 6)


def _check(guest: FakeGuest) -> None:
    gateway = guest.gateway
    assert len(gateway.connections) <= MAX_CONNECTIONS
    assert len(gateway.requests) <= MAX_REQUESTS
    assert len(gateway._neighbours) <= MAX_NEIGHBOURS
    for connection in gateway.connections.values():
        assert connection.readable <= 1 << 20


def fuzz_dhcp(data: bytes) -> None:
    """A frame; what the gateway says fits on the wire."""
    guest = _current()
    for packet in guest.exchange(_frame(data)):
        assert len(packet.data) <= 1514
    _check(guest)


def fuzz_dns(data: bytes) -> None:
    """A frame, and the answer from outside when a name is asked for; then the bytes as a query."""
    guest = _current()
    for packet in guest.exchange(_frame(data)):
        assert len(packet.data) <= 1514
    gateway = guest.gateway
    while gateway.requests:
        request = gateway.requests.popleft()
        if isinstance(request, ResolveRequest):
            gateway.resolved(guest.now, request, [OUTSIDE] * (data[-1] % 3) if data else [])
    query = parse_query(data[42:])
    if query is not None:
        assert len(build_answer(query, 0, [OUTSIDE])) <= 512
    _check(guest)


def fuzz_nat(data: bytes) -> None:
    """A frame; what it asks of the outside happens or fails, data comes, time passes."""
    guest = _current()
    gateway = guest.gateway
    guest.exchange(_frame(data))
    last = data[-1] if data else 0
    while gateway.requests:
        request = gateway.requests.popleft()
        if isinstance(request, OpenRequest):
            gateway.opened(guest.now, request, last % 4 != 0)
        elif isinstance(request, DatagramRequest):
            gateway.datagram(guest.now, request.flow, data[:100])
    for key, connection in list(gateway.connections.items())[-2:]:
        how = last % 7
        if how == 1:
            connection.send(data, guest.now)
        elif how == 2:
            connection.receive(1 << 16)
        elif how == 3:
            connection.close(guest.now)
        elif how == 4:
            connection.abort()
        gateway.changed(key, guest.now)
    if last % 5 == 0 and gateway.next_ns() <= guest.now + 10**10:
        guest.now = max(guest.now, gateway.next_ns())
        gateway.run(guest.now)
    for packet in guest.exchange():
        assert len(packet.data) <= 65568
    _check(guest)
