"""Open checksums and large segments: what the wire would have carried."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.device import Packet
from asyncvmm.device.net import GSO_TCP4, GSO_TCP6
from asyncvmm.network.inet import (
    ACK,
    FIN,
    PSH,
    TcpSegment,
    UdpDatagram,
    build_icmp,
    build_tcp,
    build_udp,
    parse_ipv4,
    parse_tcp,
    parse_udp,
)
from asyncvmm.network.offload import checksum, completed, wire_frames, wire_packets

MACS = (b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2")
HOSTS = (bytes((10, 0, 2, 1)), bytes((10, 0, 2, 9)))


def slow_checksum(data: bytes) -> int:
    """RFC 1071 in its own words."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=100))
def test_rfc1071_checksum(data: bytes) -> None:
    assert checksum(data) == slow_checksum(data)
    if len(data) % 2 == 0:
        assert checksum(data + checksum(data).to_bytes(2, "big")) == 0


@given(st.binary(max_size=200), st.integers(0, 65535))
def test_udp_round_trip_with_the_checksum_left_open_and_done(data: bytes, port: int) -> None:
    datagram = UdpDatagram(port, 53, data)
    packet = build_udp(MACS, HOSTS, datagram)
    for each in (packet, completed(packet)):
        ip = parse_ipv4(each)
        assert ip is not None
        assert parse_udp(ip) == datagram
    done = completed(packet).data
    broken = parse_ipv4(Packet(done[:-1] + bytes([done[-1] ^ 1])))
    assert broken is not None
    assert parse_udp(broken) is None


@given(st.integers(0, 40_000), st.integers(100, 1460), st.integers(0, 2**32 - 1))
def test_large_segments_are_cut_like_a_card_does(size: int, mss: int, sequence: int) -> None:
    data = bytes(number * 11 & 0xFF for number in range(size))
    segment = TcpSegment(80, 5000, sequence, 77, ACK | PSH | FIN, 1000, data)
    packet = build_tcp(MACS, HOSTS, segment, mss)
    pieces = wire_packets(packet)
    assert abs(len(pieces) - wire_frames(packet)) <= 0
    got, at = b"", sequence
    for number, piece in enumerate(pieces):
        assert len(piece.data) <= 14 + 40 + mss
        ip = parse_ipv4(piece)
        assert ip is not None
        part = parse_tcp(ip)  # which checks the checksum
        assert part is not None
        assert part.sequence == at & 0xFFFFFFFF
        assert bool(part.flags & (FIN | PSH)) is (number == len(pieces) - 1)
        got += part.payload
        at += len(part.payload)
    assert got == data


@given(
    st.binary(min_size=14, max_size=200),
    st.sampled_from([GSO_TCP4, GSO_TCP6]),
    st.integers(0, 65535),
    st.integers(0, 65535),
    st.integers(0, 65535),
)
def test_nothing_hostile_breaks_the_cutting(
    data: bytes, gso: int, size: int, start: int, offset: int
) -> None:
    for head in (data[:12], data[:12] + b"\x08\x00\x45", data[:12] + b"\x86\xdd"):
        packet = Packet(head + data, start, offset, gso, size)
        assert sum(len(piece.data) for piece in wire_packets(packet)) <= 60 * len(packet.data) + 60
        assert len(completed(packet).data) == len(packet.data)


def test_ipv6_segments() -> None:
    tcp = bytes(12) + bytes([0x50, 0x18]) + bytes(6)
    header = b"\x60" + bytes(5) + bytes([6, 64]) + bytes(range(32))
    frame = bytes(12) + b"\x86\xdd" + header + tcp + bytes(3000)
    pieces = wire_packets(Packet(frame, 54, 16, GSO_TCP6, 1000))
    assert [len(piece.data) for piece in pieces] == [14 + 40 + 20 + 1000] * 3
    for piece in pieces:
        body = piece.data[54:]
        pseudo = int.from_bytes(piece.data[22:54], "big") % 0xFFFF + 6 + len(body)
        assert checksum(body, pseudo) == 0
        assert int.from_bytes(piece.data[18:20], "big") == len(body)


@pytest.mark.parametrize("size", [0, 3, 56])
def test_icmp_sums_up(size: int) -> None:
    ip = parse_ipv4(build_icmp(MACS, HOSTS, 8, 0, bytes(range(size)).ljust(4, b"x")))
    assert ip is not None
    assert checksum(ip.payload) == 0
