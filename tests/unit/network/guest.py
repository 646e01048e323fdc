"""A guest's network stack, as small as it goes: it talks to a gateway from within a test."""

from __future__ import annotations

import struct

from asyncvmm.device import Packet
from asyncvmm.network.config import NetworkConfig
from asyncvmm.network.ethernet import BROADCAST
from asyncvmm.network.gateway import Gateway
from asyncvmm.network.inet import (
    ARP_REPLY,
    ARP_REQUEST,
    ArpPacket,
    Ipv4Packet,
    TcpSegment,
    UdpDatagram,
    build_arp,
    build_icmp,
    build_tcp,
    build_udp,
    parse_arp,
    parse_ipv4,
    parse_tcp,
    parse_udp,
)

MAC = b"\x02\0\0\0\0\x42"
COOKIE = b"\x63\x82\x53\x63"


def address(text: str) -> bytes:
    """Four bytes from ``10.0.2.1``."""
    return bytes(map(int, text.split(".")))


class FakeGuest:
    """Sends frames to ``gateway`` and collects what comes back."""

    def __init__(self, config: NetworkConfig | None = None, seed: int = 0) -> None:
        self.gateway = Gateway("lan", config or NetworkConfig(), seed)
        self.now = 0
        found = self.gateway.leases.register("web", MAC)
        assert found is not None
        self.address = found
        self.macs = (MAC, self.gateway.mac)

    def exchange(self, *packets: Packet) -> list[Packet]:
        """Send packets, and take what the gateway has sent by then."""
        for packet in packets:
            self.now += 1000
            self.gateway.arrive(self.now, packet)
        return [packet for _, packet in self.gateway.take_frames()]

    def announce_quietly(self) -> None:
        """Let the gateway learn our MAC address; what it sends is still to be taken."""
        ask = ArpPacket(ARP_REQUEST, MAC, self.address, bytes(6), self.gateway.address)
        self.gateway.arrive(self.now, build_arp(ask, BROADCAST))

    def announce(self) -> None:
        """Let the gateway learn our MAC address."""
        self.announce_quietly()
        (reply,) = self.exchange()
        arp = parse_arp(reply.data)
        assert arp is not None
        assert (arp.operation, arp.sender_mac) == (ARP_REPLY, self.gateway.mac)

    def udp(self, target: bytes, ports: tuple[int, int], data: bytes) -> Packet:
        """A datagram from (port, to port)."""
        return build_udp(self.macs, (self.address, target), UdpDatagram(*ports, data))

    def tcp(self, target: bytes, segment: TcpSegment) -> Packet:
        """A segment."""
        return build_tcp(self.macs, (self.address, target), segment, 1460)

    def ping(self, target: bytes, data: bytes) -> Packet:
        """An echo request."""
        return build_icmp(self.macs, (self.address, target), 8, 0, data)


def ip_of(packet: Packet) -> Ipv4Packet:
    """The IPv4 packet in a frame."""
    ip = parse_ipv4(packet)
    assert ip is not None
    return ip


def udp_of(packet: Packet) -> UdpDatagram:
    """The datagram in a frame."""
    datagram = parse_udp(ip_of(packet))
    assert datagram is not None
    return datagram


def tcp_of(packet: Packet) -> TcpSegment:
    """The segment in a frame."""
    segment = parse_tcp(ip_of(packet))
    assert segment is not None
    return segment


def dhcp_request(
    kind: int, options: bytes = b"", client: bytes = bytes(4), flags: int = 0
) -> bytes:
    """A client's message."""
    fixed = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, flags) + client + bytes(12)
    return (fixed + MAC).ljust(236, b"\0") + COOKIE + bytes((53, 1, kind)) + options + b"\xff"


def dns_query(name: str, kind: int = 1, identity: int = 7) -> bytes:
    """A question."""
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return (
        struct.pack(">HHHHHH", identity, 0x100, 1, 0, 0, 0)
        + labels
        + struct.pack(">BHH", 0, kind, 1)
    )
