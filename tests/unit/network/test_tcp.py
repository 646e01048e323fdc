"""Two ends of TCP over a link that loses, duplicates and reorders: everything arrives, once, in order."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.units import MS, SECOND
from asyncvmm.network.inet import ACK, FIN, PSH, RST, SYN, TcpSegment
from asyncvmm.network.link import LinkDirection, LinkShape
from asyncvmm.network.tcp import (
    CLOSED,
    DELAYED_ACK_NS,
    ESTABLISHED,
    RECEIVE_BUFFER,
    SYN_SENT,
    TIME_WAIT,
    TIME_WAIT_NS,
    TcpConnection,
)
from asyncvmm.timeline.events import FOREVER

MSS = 1460


class Pair:
    """A client, a server made by its SYN, and a link each way."""

    def __init__(self, shape: LinkShape, seed: int = 1, isn: tuple[int, int] = (7, 2**32 - 5)):
        self.now = 0
        self.client = TcpConnection(4000, 80, isn[0], 0, MSS)
        self.server: TcpConnection | None = None
        self.isn = isn[1]
        self.links = [LinkDirection(shape, seed, "a"), LinkDirection(shape, seed, "b")]
        self.wire: list[tuple[int, int, int, TcpSegment]] = []
        self.count = 0
        self.flush()

    def ends(self) -> list[TcpConnection]:
        return [self.client] if self.server is None else [self.client, self.server]

    def flush(self) -> None:
        for side, end in enumerate(self.ends()):
            for segment in end.take_segments():
                for time_ns in self.links[side].pass_frame(self.now, len(segment.payload) + 54):
                    self.count += 1
                    heapq.heappush(self.wire, (time_ns, self.count, side, segment))

    def step(self) -> bool:
        """Go on to the next thing that happens; False when nothing will."""
        due = min(end.next_ns() for end in self.ends())
        first = self.wire[0][0] if self.wire else FOREVER
        if min(due, first) == FOREVER:
            return False
        if first <= due:
            self.now, _, side, segment = heapq.heappop(self.wire)
            self.deliver(1 - side, segment)
        else:
            self.now = due
            for end in self.ends():
                end.timer(self.now)
        self.flush()
        return True

    def deliver(self, side: int, segment: TcpSegment) -> None:
        if side == 0:
            self.client.segment(segment, self.now)
        elif self.server is not None:
            self.server.segment(segment, self.now)
        elif segment.flags == SYN:
            self.server = TcpConnection.accept(segment, self.isn, self.now, MSS)

    def exchange(
        self, up: bytes, down: bytes, limit_ns: int = 3000 * SECOND
    ) -> tuple[bytes, bytes]:
        """Send both ways, finish both ways, and return what came (at the server, at the client)."""
        got: list[bytearray] = [bytearray(), bytearray()]
        todo = [up, down]
        while self.now < limit_ns:
            for side, end in enumerate(self.ends()):
                if end.state == CLOSED and end.failure:
                    raise AssertionError(end.failure)
                todo[side] = todo[side][end.send(todo[side], self.now) :]
                if not todo[side]:
                    end.finish(self.now)
                while data := end.receive(10_000):
                    got[1 - side] += data
            self.flush()
            done = self.server is not None and all(end.eof for end in self.ends())
            if done and not any(todo):
                break
            if not self.step():
                break
        return bytes(got[0]), bytes(got[1])


def payload(size: int, salt: int) -> bytes:
    return bytes((i * 7 + (i >> 8) * 13 + salt) & 0xFF for i in range(size))


def test_rfc9293_handshake_data_and_close() -> None:
    pair = Pair(LinkShape(latency_ns=MS))
    up, down = pair.exchange(payload(1000, 1), payload(3_000_000, 2))
    assert (up, down) == (payload(1000, 1), payload(3_000_000, 2))
    while pair.step():
        pass
    assert [end.state for end in pair.ends()] == [CLOSED, CLOSED]
    assert [end.failure for end in pair.ends()] == ["", ""]
    assert [end.retransmitted for end in pair.ends()] == [0, 0]


def established(isn: int = 0) -> TcpConnection:
    """Our end of a connection that a peer, whose numbers begin at 100, has opened at time 0."""
    end = TcpConnection.accept(TcpSegment(9, 80, 100, 0, SYN, 9000, b"", MSS, 0), isn, 0, MSS)
    end.segment(TcpSegment(9, 80, 101, isn + 1, ACK, 9000), 0)
    end.take_segments()
    return end


def test_rfc9293_little_data_is_acknowledged_with_the_answer_to_it_or_in_time() -> None:
    end = established()
    end.segment(TcpSegment(9, 80, 101, 1, ACK | PSH, 9000, b"ask"), MS)
    assert end.take_segments() == [] and end.next_ns() == MS + DELAYED_ACK_NS
    end.send(b"answer", 2 * MS)
    (answer,) = end.take_segments()
    assert (answer.acknowledged, answer.payload) == (104, b"answer")
    end.segment(TcpSegment(9, 80, 104, 7, ACK | PSH, 9000, b"more"), 3 * MS)
    end.timer(3 * MS + DELAYED_ACK_NS)
    (alone,) = end.take_segments()
    assert (alone.acknowledged, alone.payload, end.next_ns()) == (108, b"", FOREVER)


@pytest.mark.parametrize(
    "coming",
    [
        pytest.param([(101, b"x" * 2 * MSS)], id="two full segments"),
        pytest.param([(101, b"x" * MSS), (101 + MSS, b"x" * MSS)], id="every second"),
        pytest.param([(111, b"x")], id="a gap"),
        pytest.param([(101, b"x"), (101, b"x")], id="once more"),
    ],
)
def test_rfc5681_what_may_not_wait_is_acknowledged_at_once(coming: list[tuple[int, bytes]]) -> None:
    end = established()
    for sequence, data in coming:
        assert end.take_segments() == []
        end.segment(TcpSegment(9, 80, sequence, 1, ACK, 9000, data), MS)
    assert [segment.payload for segment in end.take_segments()] == [b""]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.2),
    duplicate=st.floats(0, 0.3),
    reorder=st.floats(0, 0.5),
    bandwidth=st.sampled_from([0, 1_000_000, 100_000_000]),
    sizes=st.tuples(st.integers(0, 60_000), st.integers(0, 200_000)),
    isn=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
)
def test_any_link_delivers_everything_once_and_in_order(
    seed: int,
    loss: float,
    duplicate: float,
    reorder: float,
    bandwidth: int,
    sizes: tuple[int, int],
    isn: tuple[int, int],
) -> None:
    shape = LinkShape(
        latency_ns=MS,
        loss=loss,
        duplicate=duplicate,
        reorder=reorder,
        reorder_ns=5 * MS,
        bandwidth=bandwidth,
    )
    pair = Pair(shape, seed, isn)
    up, down = payload(sizes[0], 3), payload(sizes[1], 4)
    assert pair.exchange(up, down) == (up, down)


def test_a_receiver_that_does_not_read_closes_the_window_and_reopens_it() -> None:
    pair = Pair(LinkShape(latency_ns=MS))
    data = payload(3 * RECEIVE_BUFFER, 5)
    left, got = data, bytearray()
    for _ in range(20_000):
        if pair.server is not None:
            left = left[pair.server.send(left, pair.now) :]
            pair.flush()
        if not pair.step() or pair.now > 30 * SECOND:
            break
    assert pair.client.readable == RECEIVE_BUFFER
    while len(got) < len(data):
        got += pair.client.receive(100_000)
        assert pair.server is not None
        left = left[pair.server.send(left, pair.now) :]
        pair.flush()
        assert pair.step()
    assert bytes(got) == data
    assert pair.client.state == ESTABLISHED


def test_rfc9293_nobody_answers() -> None:
    pair = Pair(LinkShape(latency_ns=MS, up=False))
    while pair.step():
        pass
    assert (pair.client.state, pair.client.failure) == (CLOSED, "timed out")
    assert pair.now > 60 * SECOND


def test_rfc9293_refused() -> None:
    client = TcpConnection(4000, 80, 100, 0, MSS)
    client.take_segments()
    client.segment(TcpSegment(80, 4000, 0, 55, RST | ACK, 0), 1)
    assert client.state == SYN_SENT  # it acknowledges something else
    client.segment(TcpSegment(80, 4000, 0, 101, RST | ACK, 0), 2)
    assert (client.state, client.failure, client.next_ns()) == (CLOSED, "refused", FOREVER)


def test_rfc5961_only_the_exact_sequence_number_resets() -> None:
    pair = Pair(LinkShape(latency_ns=MS))
    while pair.client.state != ESTABLISHED:
        pair.step()
    client = pair.client
    client.take_segments()
    exact = 2**32 - 5 + 1
    client.segment(TcpSegment(80, 4000, (exact + 10) % 2**32, 0, RST, 0), pair.now)
    assert client.state == ESTABLISHED
    assert [segment.flags for segment in client.take_segments()] == [ACK]
    client.segment(TcpSegment(80, 4000, exact, 0, RST, 0), pair.now)
    assert client.state == CLOSED


def test_time_wait_ends() -> None:
    pair = Pair(LinkShape(latency_ns=MS))
    pair.exchange(b"x", b"y")
    while not any(end.state == TIME_WAIT for end in pair.ends()):
        assert pair.step()
    began = pair.now
    while pair.step():
        pass
    assert TIME_WAIT_NS <= pair.now - began <= TIME_WAIT_NS + 2 * MS  # the other one came later


@settings(max_examples=200)
@given(
    segments=st.lists(
        st.builds(
            TcpSegment,
            st.just(80),
            st.just(4000),
            st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 5, 2**32 - 1)),
            st.one_of(st.integers(0, 2**32 - 1), st.integers(7, 60)),
            st.integers(0, 63),
            st.integers(0, 65535),
            st.binary(max_size=40),
            st.one_of(st.none(), st.integers(0, 65535)),
            st.one_of(st.none(), st.integers(0, 14)),
        ),
        max_size=30,
    ),
    established=st.booleans(),
)
def test_no_segment_breaks_it(segments: list[TcpSegment], established: bool) -> None:
    pair = Pair(LinkShape(latency_ns=MS))
    while established and pair.client.state != ESTABLISHED:
        pair.step()
    client = pair.client
    client.send(b"hello", pair.now)
    for number, segment in enumerate(segments):
        client.segment(segment, pair.now + number)
        sent = client.take_segments()
        assert len(sent) < 10
        assert client.readable <= RECEIVE_BUFFER
        if client.next_ns() != FOREVER and number % 3 == 0:
            client.timer(client.next_ns())


@pytest.mark.parametrize("flags", [FIN, FIN | ACK, 0, SYN, SYN | FIN])
def test_closed_is_closed(flags: int) -> None:
    client = TcpConnection(4000, 80, 7, 0, MSS)
    client.abort()
    client.take_segments()
    client.segment(TcpSegment(80, 4000, 0, 8, flags, 100), 1)
    assert client.take_segments() == []
    assert client.send(b"x", 2) == 0
    assert client.eof
