"""ARP, IPv4, ICMP, UDP and TCP headers: parsed with every length checked, built with checksums left open."""

from __future__ import annotations

import struct
from typing import Final

import attrs

from asyncvmm.device import Packet
from asyncvmm.device.net import GSO_NONE, GSO_TCP4
from asyncvmm.network.ethernet import ARP, HEADER, IPV4
from asyncvmm.network.offload import checksum

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
TTL: Final = 64
MAX_IPV4: Final = 65535

ARP_REQUEST: Final = 1
ARP_REPLY: Final = 2
_ARP_HEAD: Final = struct.pack(">HHBB", 1, IPV4, 6, 4)

FIN: Final = 1
SYN: Final = 2
RST: Final = 4
PSH: Final = 8
ACK: Final = 16


@attrs.frozen
class ArpPacket:
    """RFC 826, for Ethernet and IPv4. Addresses are bytes."""

    operation: int
    sender_mac: bytes
    sender: bytes
    target_mac: bytes
    target: bytes


@attrs.frozen
class Ipv4Packet:
    """RFC 791, not fragmented. ``summed`` is whether the sender left the transport's checksum open."""

    source: bytes
    target: bytes
    protocol: int
    payload: bytes
    header: bytes
    open_checksum: bool


@attrs.frozen
class UdpDatagram:
    """RFC 768."""

    source_port: int
    target_port: int
    payload: bytes


@attrs.frozen
class TcpSegment:
    """RFC 9293. ``mss`` and ``scale`` are the options of a SYN; None when it has none."""

    source_port: int
    target_port: int
    sequence: int
    acknowledged: int
    flags: int
    window: int
    payload: bytes = b""
    mss: int | None = None
    scale: int | None = None


def ethernet(target: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    """A frame."""
    return target + source + kind.to_bytes(2, "big") + payload


def parse_arp(data: bytes) -> ArpPacket | None:
    """From an untagged frame; None when it is not one."""
    body = data[HEADER:]
    if len(body) < 28 or body[:6] != _ARP_HEAD:
        return None
    operation = body[6] << 8 | body[7]
    return ArpPacket(operation, body[8:14], body[14:18], body[18:24], body[24:28])


def build_arp(packet: ArpPacket, to: bytes) -> Packet:
    """A frame to ``to``."""
    body = _ARP_HEAD + packet.operation.to_bytes(2, "big") + packet.sender_mac + packet.sender
    return Packet(ethernet(to, packet.sender_mac, ARP, body + packet.target_mac + packet.target))


def parse_ipv4(packet: Packet) -> Ipv4Packet | None:
    """From an untagged frame; None when it is not one, is a fragment or has a wrong checksum."""
    data = packet.data
    body = data[HEADER:]
    if len(body) < 20 or body[0] >> 4 != 4 or data[12:14] != b"\x08\0":
        return None
    header = (body[0] & 15) * 4
    total = body[2] << 8 | body[3]
    if header < 20 or total < header or total > len(body) or checksum(body[:header]) != 0:
        return None
    if (body[6] << 8 | body[7]) & 0x3FFF:
        return None
    return Ipv4Packet(
        body[12:16],
        body[16:20],
        body[9],
        body[header:total],
        body[:header],
        packet.checksum_start >= 0,
    )


def build_ipv4(
    macs: tuple[bytes, bytes],
    addresses: tuple[bytes, bytes],
    protocol: int,
    payload: bytes,
    *,
    checksum_offset: int = -1,
    gso_size: int = 0,
) -> Packet:
    """A frame; ``macs`` and ``addresses`` are (source, target).

    With ``checksum_offset`` the transport's checksum there is left open, over the pseudo header that was
    put in. With ``gso_size`` it is a large TCP segment.
    """
    total = 20 + len(payload)
    head = struct.pack(">BBHHHBBH", 0x45, 0, total, 0, 0x4000, TTL, protocol, 0)
    head += addresses[0] + addresses[1]
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    if checksum_offset < 0:
        return Packet(ethernet(macs[1], macs[0], IPV4, head + payload))
    pseudo = _pseudo(addresses, protocol, len(payload)) % 0xFFFF
    at = checksum_offset
    payload = payload[:at] + pseudo.to_bytes(2, "big") + payload[at + 2 :]
    return Packet(
        ethernet(macs[1], macs[0], IPV4, head + payload),
        HEADER + 20,
        at,
        GSO_TCP4 if gso_size else GSO_NONE,
        gso_size,
    )


def _pseudo(addresses: tuple[bytes, bytes], protocol: int, length: int) -> int:
    return int.from_bytes(addresses[0] + addresses[1], "big") + protocol + length


def _sums_up(ip: Ipv4Packet, data: bytes) -> bool:
    """Whether the transport's checksum is right."""
    if ip.open_checksum:
        return True
    pseudo = _pseudo((ip.source, ip.target), ip.protocol, len(data)) % 0xFFFF
    return checksum(data, pseudo) == 0


def parse_udp(ip: Ipv4Packet) -> UdpDatagram | None:
    """The datagram in a packet; None when it is malformed."""
    data = ip.payload
    if len(data) < 8:
        return None
    source, target, length, summed = struct.unpack(">HHHH", data[:8])
    if length < 8 or length > len(data) or (summed and not _sums_up(ip, data[:length])):
        return None
    return UdpDatagram(source, target, data[8:length])


def build_udp(
    macs: tuple[bytes, bytes], addresses: tuple[bytes, bytes], datagram: UdpDatagram
) -> Packet:
    """A frame."""
    head = struct.pack(
        ">HHHH", datagram.source_port, datagram.target_port, 8 + len(datagram.payload), 0
    )
    return build_ipv4(macs, addresses, UDP, head + datagram.payload, checksum_offset=6)


def parse_tcp(ip: Ipv4Packet) -> TcpSegment | None:
    """The segment in a packet; None when it is malformed. Unknown options are skipped."""
    data = ip.payload
    if len(data) < 20:
        return None
    source, target, sequence, acknowledged, size, flags, window = struct.unpack(
        ">HHIIBBH", data[:16]
    )
    begin = (size >> 4) * 4
    if begin < 20 or begin > len(data) or not _sums_up(ip, data):
        return None
    mss, scale = _tcp_options(data[20:begin]) if flags & SYN else (None, None)
    return TcpSegment(
        source, target, sequence, acknowledged, flags & 0x3F, window, data[begin:], mss, scale
    )


def _tcp_options(options: bytes) -> tuple[int | None, int | None]:
    mss: int | None = None
    scale: int | None = None
    at = 0
    while at < len(options) and options[at] != 0:
        if options[at] == 1:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2:
            break
        value = options[at + 2 : at + options[at + 1]]
        if options[at] == 2 and len(value) == 2:
            mss = int.from_bytes(value, "big")
        elif options[at] == 3 and len(value) == 1:
            scale = min(value[0], 14)
        at += options[at + 1]
    return mss, scale


def build_tcp(
    macs: tuple[bytes, bytes], addresses: tuple[bytes, bytes], segment: TcpSegment, mss: int
) -> Packet:
    """A frame; a large one when there is more payload than ``mss``."""
    options = b""
    if segment.mss is not None:
        options += struct.pack(">BBH", 2, 4, segment.mss)
    if segment.scale is not None:
        options += struct.pack(">BBBB", 1, 3, 3, segment.scale)
    head = struct.pack(
        ">HHIIBBHHH",
        segment.source_port,
        segment.target_port,
        segment.sequence,
        segment.acknowledged,
        (20 + len(options)) << 2,
        segment.flags,
        segment.window,
        0,
        0,
    )
    return build_ipv4(
        macs,
        addresses,
        TCP,
        head + options + segment.payload,
        checksum_offset=16,
        gso_size=mss if len(segment.payload) > mss else 0,
    )


def build_icmp(
    macs: tuple[bytes, bytes], addresses: tuple[bytes, bytes], kind: int, code: int, rest: bytes
) -> Packet:
    """A frame; ``rest`` is what follows the checksum (RFC 792)."""
    body = bytes((kind, code, 0, 0)) + rest
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    return build_ipv4(macs, addresses, ICMP, body)
