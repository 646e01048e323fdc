"""What senders leave to the wire: open checksums, large TCP segments (virtio 1.2, 5.1.6)."""

from __future__ import annotations

from typing import Final

from asyncvmm.device import Packet
from asyncvmm.device.net import GSO_NONE, GSO_TCP4
from asyncvmm.network.ethernet import HEADER, IPV4, IPV6, TAG, VLAN, ether_type

MIN_GSO_SIZE: Final = 8
MAX_SEGMENTS: Final = 8192
TCP: Final = 6
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80


def checksum(data: bytes, initial: int = 0) -> int:
    """The Internet checksum (RFC 1071) of ``data`` after ``initial``, as it is stored."""
    if len(data) & 1:
        data += b"\0"
    total = int.from_bytes(data, "big") + initial
    # 2**16 is 1 modulo 65535, so the remainder is the ones' complement sum.
    rest = total % 0xFFFF
    return 0xFFFF - rest if rest or not total else 0


def completed(packet: Packet) -> Packet:
    """With its checksum filled in. Offsets that lie outside leave it as it is."""
    start = packet.checksum_start
    if start < 0:
        return packet
    data = packet.data
    at = start + packet.checksum_offset
    if at + 2 > len(data):
        return Packet(data)
    # The field holds the sum of the pseudo header; it is part of what is summed up.
    value = checksum(data[start:]) or 0xFFFF
    return Packet(data[:at] + value.to_bytes(2, "big") + data[at + 2 :])


def wire_packets(packet: Packet) -> list[Packet]:
    """The frames that really go over a wire: cut and with checksums. None of a malformed large one."""
    if packet.gso == GSO_NONE:
        return [completed(packet)]
    return [Packet(data) for data in _cut(packet)]


def wire_frames(packet: Packet) -> int:
    """How many frames ``wire_packets`` gives, about."""
    if packet.gso == GSO_NONE or packet.gso_size < MIN_GSO_SIZE:
        return 1
    return max(1, -(-(len(packet.data) - 54) // packet.gso_size))


def network_offset(data: bytes) -> tuple[int, int]:
    """Where the network header begins, and its type."""
    kind = ether_type(data)
    if kind == VLAN and len(data) >= HEADER + TAG:
        return HEADER + TAG, data[16] << 8 | data[17]
    return HEADER, kind


def _cut(packet: Packet) -> list[bytes]:
    """TCP segmentation as a card does it; an empty list when the headers do not make sense."""
    data, size = packet.data, packet.gso_size
    at, kind = network_offset(data)
    four = packet.gso == GSO_TCP4
    header = 20 if four else 40
    if size < MIN_GSO_SIZE or kind != (IPV4 if four else IPV6) or len(data) < at + header + 20:
        return []
    if four:
        header = (data[at] & 15) * 4
        protocol = data[at + 9]
    else:
        protocol = data[at + 6]
    tcp = at + header
    if header < 20 or protocol != TCP or len(data) < tcp + 20:
        return []
    begin = tcp + (data[tcp + 12] >> 4) * 4
    payload = len(data) - begin
    if begin < tcp + 20 or payload < 0 or payload > size * MAX_SEGMENTS:
        return []
    pieces: list[bytes] = []
    sequence = int.from_bytes(data[tcp + 4 : tcp + 8], "big")
    identity = int.from_bytes(data[at + 4 : at + 6], "big")
    flags = data[tcp + 13]
    addresses = data[at + 12 : at + 20] if four else data[at + 8 : at + 40]
    for number, offset in enumerate(range(0, max(payload, 1), size)):
        chunk = data[begin + offset : begin + offset + size]
        last = offset + size >= payload
        head = bytearray(data[at:begin])
        length = len(head) + len(chunk)
        if four:
            head[2:4] = length.to_bytes(2, "big")
            head[4:6] = ((identity + number) & 0xFFFF).to_bytes(2, "big")
            head[10:12] = b"\0\0"
            head[10:12] = checksum(bytes(head[:header])).to_bytes(2, "big")
        else:
            head[4:6] = (length - 40).to_bytes(2, "big")
        head[header + 4 : header + 8] = ((sequence + offset) & 0xFFFFFFFF).to_bytes(4, "big")
        flag = flags if last else flags & ~_FIN_PSH
        head[header + 13] = flag if number == 0 else flag & ~_CWR
        head[header + 16 : header + 18] = b"\0\0"
        segment = bytes(head[header:]) + chunk
        pseudo = int.from_bytes(addresses, "big") % 0xFFFF + TCP + len(segment)
        value = checksum(segment, pseudo)
        head[header + 16 : header + 18] = value.to_bytes(2, "big")
        pieces.append(data[:at] + bytes(head) + chunk)
    return pieces
