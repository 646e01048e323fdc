"""Framing of the remote serial protocol (gdb manual, appendix E.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.gdb.packets import ACK, BAD, INTERRUPT, MAX_PAYLOAD, NACK, PacketReader, frame


def test_a_packet_and_what_stands_between() -> None:
    assert frame(b"OK") == b"$OK#9a"
    assert PacketReader().feed(b"+-\x03 noise $OK#9a") == [ACK, NACK, INTERRUPT, b"OK"]


def test_special_bytes_are_escaped() -> None:
    assert frame(b"a}b")[:5] == b"$a}]b"
    assert PacketReader().feed(b"$}\x03#80") == [b"#"]


@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(1, 7))
def test_packets_come_through_in_pieces_of_any_size(payloads: list[bytes], size: int) -> None:
    wire = b"".join(frame(payload) for payload in payloads)
    reader, events = PacketReader(), []
    for start in range(0, len(wire), size):
        events += reader.feed(wire[start : start + size])
    assert events == payloads


@pytest.mark.parametrize("packet", [b"$OK#9b", b"$OK#zz", b"$OK# 9"])
def test_a_wrong_checksum_is_bad(packet: bytes) -> None:
    assert PacketReader().feed(packet + b"$g#67") == [BAD, b"g"]


def test_a_packet_that_is_cut_off_is_forgotten() -> None:
    assert PacketReader().feed(b"$m800000$g#67") == [b"g"]


def test_the_longest_packet_is_taken_and_a_longer_one_is_bad_and_not_kept() -> None:
    assert PacketReader().feed(frame(b"}" * MAX_PAYLOAD)) == [b"}" * MAX_PAYLOAD]
    assert PacketReader().feed(frame(b"a" * (MAX_PAYLOAD + 1))) == [BAD]
    reader = PacketReader()
    reader.feed(b"$" + b"a" * (8 * MAX_PAYLOAD))
    assert len(reader._body or b"") == 2 * MAX_PAYLOAD
    assert reader.feed(b"#00$g#67") == [BAD, b"g"]
