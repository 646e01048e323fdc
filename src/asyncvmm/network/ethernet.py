"""Ethernet II frames and 802.1Q tags. Everything in a frame is some guest's word."""

from __future__ import annotations

from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Packet

HEADER: Final = 14
TAG: Final = 4
MIN_MTU: Final = 68
MAX_MTU: Final = 9000
BROADCAST: Final = b"\xff" * 6
ARP: Final = 0x0806
IPV4: Final = 0x0800
IPV6: Final = 0x86DD
VLAN: Final = 0x8100
MAX_VLAN: Final = 4094
_RESERVED: Final = b"\x01\x80\xc2\x00\x00"  # 802.1Q 8.6.3: never forwarded by a bridge


def mac_text(mac: bytes) -> str:
    """``02:00:00:00:00:01``."""
    return ":".join(f"{byte:02x}" for byte in mac)


def parse_mac(text: str) -> bytes:
    """The six bytes of a unicast address; ConfigError for anything else."""
    parts = text.strip().split(":")
    try:
        mac = bytes(int(part, 16) for part in parts) if all(map(len, parts)) else b""
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & 1 or not any(mac):
        raise ConfigError(f"{text!r} is not a MAC address such as 02:00:00:00:00:01")
    return mac


def ether_type(data: bytes) -> int:
    """The type field: that of the tag (VLAN) in a tagged frame."""
    return data[12] << 8 | data[13]


def is_group(mac: bytes) -> bool:
    """Whether it is a multicast or the broadcast address."""
    return bool(mac[0] & 1)


def is_reserved(mac: bytes) -> bool:
    """Whether a switch keeps frames to this address to itself."""
    return mac[:5] == _RESERVED and mac[5] < 16


def vlan_of(data: bytes) -> int | None:
    """The VLAN id of a tagged frame (0: only a priority), None of an untagged or cut-off one."""
    if len(data) < HEADER + TAG or ether_type(data) != VLAN:
        return None
    return (data[14] << 8 | data[15]) & 0xFFF


def untag(packet: Packet) -> Packet:
    """Without its 802.1Q tag."""
    data = packet.data[:12] + packet.data[16:]
    return _moved(packet, data, -TAG)


def tag(packet: Packet, vlan: int) -> Packet:
    """With an 802.1Q tag of priority 0."""
    data = packet.data[:12] + bytes((0x81, 0, vlan >> 8, vlan & 0xFF)) + packet.data[12:]
    return _moved(packet, data, TAG)


def _moved(packet: Packet, data: bytes, by: int) -> Packet:
    start = packet.checksum_start
    return Packet(
        data,
        start + by if start >= 0 else start,
        packet.checksum_offset,
        packet.gso,
        packet.gso_size,
    )
