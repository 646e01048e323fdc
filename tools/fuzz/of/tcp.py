"""One end of a TCP connection against any peer: segments near what is expected, and time."""

from __future__ import annotations

from typing import Final

from asyncvmm.network.inet import ACK, FIN, PSH, RST, SYN, TcpSegment
from asyncvmm.network.tcp import CLOSED, RECEIVE_BUFFER, SEND_BUFFER, TcpConnection
from asyncvmm.timeline.events import FOREVER

ISN: Final = 0xFFFFFF00  # so that numbers wrap
PEER: Final = 0xFFFFFFF0
FLAGS: Final = (ACK, ACK, ACK | PSH, ACK, FIN | ACK, SYN, SYN | ACK, RST, RST | ACK, 0, 63)
MASK: Final = 0xFFFFFFFF


def fuzz_one(data: bytes) -> None:
    """Steps of five bytes after the handshake: buffers stay bounded, acknowledgements in order, and
    what the application gets is what came in order.
    """
    now = 1_000_000
    first = data[0] if data else 0
    if first & 1:
        connection = TcpConnection(80, 999, ISN, now, 1460)
        reply = TcpSegment(999, 80, PEER, (ISN + 1) & MASK, SYN | ACK, 9999, b"", 1460, 2)
    else:
        syn = TcpSegment(999, 80, PEER, 0, SYN, 9999, b"", 1460, 2)
        connection = TcpConnection.accept(syn, ISN, now, 1460)
        reply = TcpSegment(999, 80, (PEER + 1) & MASK, (ISN + 1) & MASK, ACK, 9999)
    if first < 250:
        connection.segment(reply, now)
    known = first < 250  # where the peer's numbers begin
    sent = 0
    theirs = 1
    for at in range(1, len(data) - 4, 5):
        what, one, two, three, four = data[at : at + 5]
        now += one << (two % 22)
        if what < 150:
            flags = FLAGS[three % len(FLAGS)]
            sequence = (PEER + theirs + (four if four < 100 else 100 - four) * 10) & MASK
            if four >= 100 and what & 1:
                sequence = (PEER + theirs) & MASK
            text = bytes(two * 8) if what & 2 else b""
            acked = (ISN + 1 + sent - (three if what & 4 else 0)) & MASK
            window = two << 8 if what & 8 else 0
            connection.segment(
                TcpSegment(999, 80, sequence, acked, flags, window, text, None, None), now
            )
        elif what < 180:
            connection.send(bytes(one * 40), now)
        elif what < 210:
            connection.receive(1 + one * 100)
        elif what < 235:
            if connection.next_ns() != FOREVER:
                now = max(now, connection.next_ns())
                connection.timer(now)
        elif what < 245:
            connection.finish(now)
        elif what < 252:
            connection.close(now)
        else:
            connection.abort()
        for segment in connection.take_segments():
            end = (segment.sequence - ISN) & MASK
            assert len(segment.payload) <= 60_000
            if end < 1 << 31:
                sent = max(sent, end - 1 + len(segment.payload))
            if segment.flags & ACK:
                ahead = (segment.acknowledged - PEER - theirs) & MASK
                assert ahead < 1 << 31 or not known, "an acknowledgement went back"
                known = True
                theirs = (segment.acknowledged - PEER) & MASK
        assert connection.readable <= RECEIVE_BUFFER
        assert 0 <= connection.send_room <= SEND_BUFFER
        assert connection.state != CLOSED or connection.next_ns() == FOREVER
