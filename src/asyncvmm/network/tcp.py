"""One end of a TCP connection (RFC 9293) without I/O: the gateway's side of what guests talk to.

Segments go in with the time, bytes come out, and the other way round. Every buffer is bounded, timers
are instants of virtual time, and the first sequence number is given, so that a run can be repeated.
Losses are repaired by timeout (RFC 6298) and by three duplicate acknowledgements (RFC 5681).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from asyncvmm.base.units import MS, SECOND
from asyncvmm.network.inet import ACK, FIN, PSH, RST, SYN, TcpSegment
from asyncvmm.network.saved import Saved
from asyncvmm.timeline.events import FOREVER

SYN_SENT: Final = "syn-sent"
SYN_RECEIVED: Final = "syn-received"
ESTABLISHED: Final = "established"
FIN_WAIT_1: Final = "fin-wait-1"
FIN_WAIT_2: Final = "fin-wait-2"
CLOSE_WAIT: Final = "close-wait"
CLOSING: Final = "closing"
LAST_ACK: Final = "last-ack"
TIME_WAIT: Final = "time-wait"
CLOSED: Final = "closed"

SEND_BUFFER: Final = 1 << 19
RECEIVE_BUFFER: Final = 1 << 20
SCALE: Final = 5
DEFAULT_MSS: Final = 536  # of a peer that does not say
MAX_SEGMENT: Final = 60_000  # a large segment, which the receiver's card cuts
FIRST_WINDOW: Final = 10  # segments (RFC 6928)
MAX_PIECES: Final = 256  # out of order

FIRST_RTO_NS: Final = 1 * SECOND
MIN_RTO_NS: Final = 200 * MS
MAX_RTO_NS: Final = 60 * SECOND
MAX_RETRIES: Final = 8
TIME_WAIT_NS: Final = 2 * SECOND
ORPHAN_NS: Final = 60 * SECOND  # how long a closed end waits for the other one's FIN
# RFC 9293 3.8.6.3: what little came is acknowledged with the answer to it, or after this time. Each
# acknowledgement alone costs the guest an interrupt.
DELAYED_ACK_NS: Final = 4 * MS

_MASK: Final = 0xFFFFFFFF
_STATES: Final = (
    *(SYN_SENT, SYN_RECEIVED, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING),
    *(LAST_ACK, TIME_WAIT, CLOSED),
)
# What a snapshot keeps besides buffers: sequence numbers, counts and times, flags.
_SEQUENCES: Final = ("_isn", "_una", "_nxt", "_max", "_rcv", "_told", "_acked", "_recover")
_NUMBERS: Final = (
    *("mss", "retransmitted", "_own_mss", "_window", "_scale", "_cwnd", "_threshold"),
    *("_duplicates", "_rto_ns", "_srtt_ns", "_variance_ns", "_retries", "_deadline_ns"),
    "_ack_due_ns",
)
_FLAGS: Final = ("_scaling", "_fin_wanted", "_eof", "_discard")


def distance(a: int, b: int) -> int:
    """How far sequence number ``a`` is ahead of ``b`` (negative: behind)."""
    return ((a - b + 0x80000000) & _MASK) - 0x80000000


def _nothing() -> None:
    return None


class TcpConnection:
    """``on_change`` is called when bytes, room or another state are there.

    Open actively by making one, or passively with ``accept`` for a SYN. Then ``send``, ``receive``,
    ``finish`` and ``abort`` are the application's side, ``segment``, ``next_ns``, ``timer`` and
    ``take_segments`` the network's.
    """

    def __init__(self, source_port: int, target_port: int, isn: int, now_ns: int, mss: int) -> None:
        self.source_port: Final = source_port
        self.target_port: Final = target_port
        self.mss = mss
        self.state = SYN_SENT
        self.failure = ""  # why it is CLOSED, when not in good order
        self.on_change: Callable[[], None] = _nothing
        self.retransmitted = 0
        self._own_mss = mss
        self._isn = isn & _MASK
        self._una = self._isn  # the first that was not acknowledged
        self._nxt = self._isn  # the next to send
        self._max = self._isn  # the highest sent + 1
        self._window = 0
        self._scale = 0  # of the peer's windows
        self._scaling = True
        self._out = bytearray()  # from _una on (from _isn + 1 while SYN is not acknowledged)
        self._fin_wanted = False
        self._rcv = 0
        self._in = bytearray()
        self._pieces: dict[int, bytes] = {}
        self._peer_fin: int | None = None
        self._eof = False
        self._told = 0  # the right edge of the window that the peer was told
        self._acked = 0  # what was acknowledged last
        self._ack_due_ns = FOREVER  # when the rest will be, if nothing is sent before
        self._discard = False
        self._cwnd = FIRST_WINDOW * mss
        self._threshold = 1 << 30
        self._duplicates = 0
        self._recover = self._isn
        self._rto_ns = FIRST_RTO_NS
        self._srtt_ns = 0
        self._variance_ns = 0
        self._timed: tuple[int, int] | None = None  # sequence number, when it was sent
        self._retries = 0
        self._deadline_ns = FOREVER
        self._segments: list[TcpSegment] = []
        self._send_syn(now_ns)

    @classmethod
    def accept(cls, syn: TcpSegment, isn: int, now_ns: int, mss: int) -> TcpConnection:
        """The connection that a SYN asks for."""
        made = cls.__new__(cls)
        made.__init__(syn.target_port, syn.source_port, isn, now_ns, mss)  # type: ignore[misc]
        made._segments = []
        made.state = SYN_RECEIVED
        made._take_syn(syn)
        made._send_syn(now_ns)
        return made

    # -- the application's side

    @property
    def connected(self) -> bool:
        """The handshake is over and nothing went wrong since."""
        return self.state not in (SYN_SENT, SYN_RECEIVED, CLOSED)

    @property
    def send_room(self) -> int:
        """How many bytes ``send`` takes now."""
        if self._fin_wanted or self.state == CLOSED:
            return 0
        return SEND_BUFFER - len(self._out)

    @property
    def readable(self) -> int:
        """How many bytes ``receive`` can give now."""
        return len(self._in)

    @property
    def eof(self) -> bool:
        """The peer has finished (or the connection failed) and everything was received."""
        return not self._in and (self._eof or self.state == CLOSED)

    def send(self, data: bytes, now_ns: int) -> int:
        """Queue bytes; how many fitted."""
        taken = data[: self.send_room]
        self._out += taken
        self._push(now_ns)
        return len(taken)

    def receive(self, limit: int) -> bytes:
        """Up to ``limit`` bytes that came."""
        data = bytes(self._in[:limit])
        del self._in[: len(data)]
        if data and self.state not in (CLOSED, TIME_WAIT) and not self._eof:
            # RFC 9293 3.8.6.2.2: tell of more room when it is worth it.
            edge = self._rcv + self._room()
            if distance(edge, self._told) >= min(RECEIVE_BUFFER // 2, 4 * self.mss):
                if distance(self._told, self._rcv) < RECEIVE_BUFFER // 4:
                    self._acknowledge()
        return data

    def finish(self, now_ns: int) -> None:
        """No more will be sent: FIN after everything queued."""
        if not self._fin_wanted and self.state != CLOSED:
            self._fin_wanted = True
            self._push(now_ns)

    def close(self, now_ns: int) -> None:
        """Nobody reads or writes any more: FIN, and what still comes is thrown away."""
        self.finish(now_ns)
        self._discard = True
        self._in.clear()
        if self.state == FIN_WAIT_2:
            self._deadline_ns = now_ns + ORPHAN_NS

    def abort(self, reason: str = "aborted") -> None:
        """RST."""
        if self.state not in (CLOSED, TIME_WAIT):
            if self.state == SYN_SENT:
                self._segments = []
            else:
                self._emit(RST | ACK, self._nxt)
        self._fail(reason)

    # -- the network's side

    @property
    def has_segments(self) -> bool:
        """Whether ``take_segments`` would give any."""
        return bool(self._segments)

    def take_segments(self) -> list[TcpSegment]:
        """What is to be sent now."""
        segments, self._segments = self._segments, []
        return segments

    def next_ns(self) -> int:
        """When ``timer`` is due; FOREVER when not."""
        return min(self._deadline_ns, self._ack_due_ns)

    def timer(self, now_ns: int) -> None:
        """Something took too long, or an acknowledgement is due."""
        if now_ns >= self._ack_due_ns:
            self._acknowledge()
        if now_ns < self._deadline_ns:
            return
        self._deadline_ns = FOREVER
        if self.state in (TIME_WAIT, FIN_WAIT_2):
            self._fail("" if self.state == TIME_WAIT else "the other end never finished")
            return
        self._retries += 1
        if self._retries > MAX_RETRIES:
            self.abort("timed out")
            return
        self._rto_ns = min(2 * self._rto_ns, MAX_RTO_NS)
        self._timed = None
        if self.state in (SYN_SENT, SYN_RECEIVED):
            self._send_syn(now_ns)
            return
        self.retransmitted += 1
        flight = distance(self._nxt, self._una)
        self._threshold = max(flight // 2, 2 * self.mss)
        self._cwnd = self.mss
        self._duplicates = 0
        self._recover = self._max
        self._nxt = self._una
        if self._window == 0 and self._out:
            self._transmit(now_ns, 1)  # RFC 9293 3.8.6.1: probe a window that is closed
        self._push(now_ns)
        self._arm(now_ns)

    def segment(self, segment: TcpSegment, now_ns: int) -> None:
        """A segment for this connection has come (RFC 9293 3.10.7)."""
        if self.state == CLOSED:
            return
        if self.state == SYN_SENT:
            self._in_syn_sent(segment, now_ns)
            return
        if segment.flags & SYN and self.state == SYN_RECEIVED:
            if (segment.sequence + 1) & _MASK == self._rcv:
                self._send_syn(now_ns)
            return
        if not self._acceptable(segment):
            if not segment.flags & RST:
                self._acknowledge()
            return
        if segment.flags & RST:
            if segment.sequence == self._rcv:
                self._fail("reset by the guest")
            else:
                self._acknowledge()  # RFC 5961 3.2
            return
        if segment.flags & SYN:
            self._acknowledge()  # RFC 5961 4.2
            return
        if not segment.flags & ACK or not self._take_ack(segment, now_ns):
            return
        self._take_data(segment, now_ns)
        self._push(now_ns)
        self.on_change()

    # -- snapshots

    @property
    def orphaned(self) -> bool:
        """Nobody reads or writes at this side any more: it ends by itself."""
        return self._discard

    def save(self) -> dict[str, Any]:
        """All of it, between two stretches: nothing waits in ``take_segments``."""
        timed = self._timed
        return {
            "ports": [[self.source_port, self.target_port]],
            "state": self.state,
            "failure": self.failure,
            "sequences": [[getattr(self, name) for name in _SEQUENCES]],
            "numbers": [[getattr(self, name) for name in _NUMBERS]],
            "flags": [[getattr(self, name) for name in _FLAGS]],
            "out": self._out.hex(),
            "in": self._in.hex(),
            "pieces": [[at, data.hex()] for at, data in self._pieces.items()],
            "peer_fin": -1 if self._peer_fin is None else self._peer_fin,
            "timed": [] if timed is None else [list(timed)],
        }

    @classmethod
    def from_saved(cls, saved: Saved) -> TcpConnection:
        """What ``save`` gave, with nobody at this side."""
        (ports,) = saved.rows("ports", "nn", 1) or [(0, 0)]
        made = cls(ports[0], ports[1], 0, 0, DEFAULT_MSS)
        made._segments = []
        made.state = saved.text("state")
        if made.state not in _STATES or not 0 < max(ports) <= 0xFFFF:
            raise saved.wrong("state", f"is {made.state!r}")
        made.failure = saved.text("failure")
        for names, key, kind, top in (
            (_SEQUENCES, "sequences", "n", _MASK),
            (_NUMBERS, "numbers", "n", FOREVER),
            (_FLAGS, "flags", "f", 1),
        ):
            for row in saved.rows(key, kind * len(names), 1):
                if max(row) > top:
                    raise saved.wrong(key, f"are {row}")
                for name, value in zip(names, row, strict=True):
                    setattr(made, name, value)
        made.mss = max(64, min(made.mss, MAX_SEGMENT))
        made._scale = min(made._scale, 14)
        made._out = bytearray(saved.data("out", SEND_BUFFER))
        made._in = bytearray(saved.data("in", RECEIVE_BUFFER + MAX_SEGMENT))
        made._pieces = dict(saved.rows("pieces", "nb", MAX_PIECES))
        fin = saved.number("peer_fin", -1, _MASK)
        made._peer_fin = None if fin < 0 else fin
        timed = saved.rows("timed", "nn", 1)
        made._timed = (timed[0][0], timed[0][1]) if timed else None
        saved.done()
        return made

    # -- the handshake

    def _send_syn(self, now_ns: int) -> None:
        flags = SYN if self.state == SYN_SENT else SYN | ACK
        scale = SCALE if self._scaling else None
        self._emit(flags, self._isn, mss=self._own_mss, scale=scale)
        self._nxt = self._max = (self._isn + 1) & _MASK
        self._arm(now_ns)

    def _take_syn(self, syn: TcpSegment) -> None:
        self._rcv = self._told = (syn.sequence + 1) & _MASK
        self._scaling = syn.scale is not None
        self._scale = syn.scale or 0
        self.mss = max(64, min(self._own_mss, syn.mss or DEFAULT_MSS))
        self._cwnd = FIRST_WINDOW * self.mss
        self._window = syn.window

    def _in_syn_sent(self, segment: TcpSegment, now_ns: int) -> None:
        if not segment.flags & ACK or segment.acknowledged != (self._isn + 1) & _MASK:
            return
        if segment.flags & RST:
            self._fail("refused")
        elif segment.flags & SYN:
            self._take_syn(segment)
            self._una = (self._isn + 1) & _MASK
            self._established()
            self._acknowledge()
            self._push(now_ns)
            self.on_change()

    def _established(self) -> None:
        self.state = ESTABLISHED
        self._retries = 0
        self._deadline_ns = FOREVER
        self._rto_ns = FIRST_RTO_NS

    # -- what comes in

    def _acceptable(self, segment: TcpSegment) -> bool:
        """3.10.7.4: whether any of it is within the window."""
        offset = distance(segment.sequence, self._rcv)
        length = len(segment.payload)
        room = self._room()
        if length == 0:
            return offset == 0 or 0 <= offset < room
        return -length < offset < max(room, 1)

    def _take_ack(self, segment: TcpSegment, now_ns: int) -> bool:
        """False when the segment acknowledges what was never sent."""
        ack = segment.acknowledged
        if distance(ack, self._max) > 0:
            self._acknowledge()
            return False
        if self.state == SYN_RECEIVED:
            if ack != (self._isn + 1) & _MASK and distance(ack, self._una) <= 0:
                return False
            self._una = (self._isn + 1) & _MASK
            self._established()
        window = segment.window << self._scale
        fresh = distance(ack, self._una)
        if fresh > 0:
            self._acknowledged(fresh, now_ns)
        elif (
            fresh == 0
            and not segment.payload
            and window == self._window
            and distance(self._max, self._una) > 0
        ):
            self._duplicate(now_ns)
        if fresh >= 0:
            if self._window == 0:
                self._retries = 0  # it lives, and the probe was not taken
                if window > 0:
                    self._nxt = self._una
            self._window = window
        return True

    def _acknowledged(self, fresh: int, now_ns: int) -> None:
        ack = (self._una + fresh) & _MASK
        if self._timed is not None and distance(ack, self._timed[0]) > 0:
            self._measure(now_ns - self._timed[1])
            self._timed = None
        data = min(fresh, len(self._out))
        del self._out[:data]
        self._una = ack
        if distance(self._nxt, ack) < 0:
            self._nxt = ack
        self._retries = 0
        self._duplicates = 0
        if distance(ack, self._recover) < 0 and self._cwnd > self._threshold:
            self._transmit(now_ns, self.mss, again=True)  # a partial one (RFC 6582)
        elif self._cwnd < self._threshold:
            self._cwnd += min(fresh, 2 * self.mss * 8)
        else:
            self._cwnd += max(1, self.mss * fresh // self._cwnd)
        self._cwnd = min(self._cwnd, 4 << 20)
        if fresh > data:
            self._fin_acknowledged(now_ns)
        self._arm(now_ns)

    def _measure(self, rtt_ns: int) -> None:
        """RFC 6298."""
        if self._srtt_ns == 0:
            self._srtt_ns, self._variance_ns = rtt_ns, rtt_ns // 2
        else:
            error = abs(self._srtt_ns - rtt_ns)
            self._variance_ns = (3 * self._variance_ns + error) // 4
            self._srtt_ns = (7 * self._srtt_ns + rtt_ns) // 8
        self._rto_ns = max(MIN_RTO_NS, self._srtt_ns + max(4 * self._variance_ns, 10 * MS))

    def _duplicate(self, now_ns: int) -> None:
        self._duplicates += 1
        if self._duplicates == 3 and distance(self._una, self._recover) >= 0:
            self._threshold = max(distance(self._max, self._una) // 2, 2 * self.mss)
            self._cwnd = self._threshold + 3 * self.mss
            self._recover = self._max
            self.retransmitted += 1
            self._timed = None
            self._transmit(now_ns, self.mss, again=True)

    def _take_data(self, segment: TcpSegment, now_ns: int) -> None:
        offset = distance(segment.sequence, self._rcv)
        data = segment.payload
        if segment.flags & FIN and self._peer_fin is None:
            self._peer_fin = (segment.sequence + len(data)) & _MASK
        if not data and not segment.flags & FIN:
            return
        if self._eof:
            self._acknowledge()
            return
        if offset < 0:
            data, offset = data[-offset:], 0
        data = data[: max(0, self._room() - offset)]
        in_order = offset == 0 and not self._pieces
        if offset == 0:
            self._append(data)
            self._join_pieces()
        elif data and len(self._pieces) < MAX_PIECES:
            start = (self._rcv + offset) & _MASK
            if len(self._pieces.get(start, b"")) < len(data):
                self._pieces[start] = data
        if self._peer_fin is not None and self._rcv == self._peer_fin:
            self._rcv = (self._rcv + 1) & _MASK
            self._eof = True
            self._peer_finished(now_ns)
        if in_order and not self._eof and distance(self._rcv, self._acked) < 2 * self.mss:
            self._ack_due_ns = min(self._ack_due_ns, now_ns + DELAYED_ACK_NS)
        else:
            self._acknowledge()

    def _append(self, data: bytes) -> None:
        self._rcv = (self._rcv + len(data)) & _MASK
        if not self._discard:
            self._in += data

    def _join_pieces(self) -> None:
        """What came out of order and is in order now."""
        for start in sorted(self._pieces, key=lambda start: distance(start, self._rcv)):
            behind = distance(self._rcv, start)
            if behind < 0:
                break
            data = self._pieces.pop(start)[behind:]
            if data:
                self._append(data[: self._room()])

    # -- the end

    def _peer_finished(self, now_ns: int) -> None:
        if self.state == ESTABLISHED:
            self.state = CLOSE_WAIT
        elif self.state == FIN_WAIT_1:
            self.state = CLOSING
        elif self.state == FIN_WAIT_2:
            self._linger(now_ns)

    def _fin_acknowledged(self, now_ns: int) -> None:
        if self.state == FIN_WAIT_1:
            self.state = FIN_WAIT_2
        elif self.state == CLOSING:
            self._linger(now_ns)
        elif self.state == LAST_ACK:
            self._fail("")

    def _linger(self, now_ns: int) -> None:
        self.state = TIME_WAIT
        self._deadline_ns = now_ns + TIME_WAIT_NS

    def _fail(self, reason: str) -> None:
        if self.state != CLOSED:
            self.state = CLOSED
            self.failure = reason
            self._deadline_ns = self._ack_due_ns = FOREVER
            self._out.clear()
            self._pieces.clear()
            self.on_change()

    # -- what goes out

    def _push(self, now_ns: int) -> None:
        """Send as much as the windows allow."""
        if self.state not in (ESTABLISHED, CLOSE_WAIT, FIN_WAIT_1, CLOSING, LAST_ACK):
            return
        window = min(self._window, self._cwnd)
        while True:
            flight = distance(self._nxt, self._una)
            left = len(self._out) - flight
            room = window - flight
            if left <= 0 or room <= 0 or (room < min(self.mss, left) and flight > 0):
                break
            self._transmit(now_ns, min(left, room, MAX_SEGMENT))
        if self._fin_wanted and distance(self._nxt, self._una) == len(self._out):
            self._emit(FIN | ACK, self._nxt)
            self._sent_to((self._nxt + 1) & _MASK)
            if self.state == ESTABLISHED:
                self.state = FIN_WAIT_1
            elif self.state == CLOSE_WAIT:
                self.state = LAST_ACK
        if self._deadline_ns == FOREVER:
            self._arm(now_ns)

    def _transmit(self, now_ns: int, limit: int, again: bool = False) -> None:
        """One segment from ``_nxt`` on, or the first one ``again``."""
        at = 0 if again else distance(self._nxt, self._una)
        data = bytes(self._out[at : at + limit])
        if not data:
            return
        sequence = (self._una + at) & _MASK
        last = at + len(data) == len(self._out)
        self._emit(ACK | PSH if last else ACK, sequence, data)
        if again:
            return
        if self._timed is None and sequence == self._max:
            self._timed = (sequence, now_ns)
        self._sent_to((sequence + len(data)) & _MASK)

    def _sent_to(self, sequence: int) -> None:
        self._nxt = sequence
        if distance(sequence, self._max) > 0:
            self._max = sequence

    def _arm(self, now_ns: int) -> None:
        """The retransmission timer runs while anything is not acknowledged, or cannot be sent."""
        if self.state in (TIME_WAIT, CLOSED):
            return
        waiting = distance(self._max, self._una) > 0 or (self._out and self._window == 0)
        if self.state == FIN_WAIT_2 and not waiting:
            self._deadline_ns = now_ns + ORPHAN_NS if self._discard else FOREVER
        else:
            self._deadline_ns = now_ns + self._rto_ns if waiting else FOREVER

    def _acknowledge(self) -> None:
        self._emit(ACK, self._nxt)

    def _room(self) -> int:
        """The window: never less than was promised, because only what comes uses it up."""
        room = RECEIVE_BUFFER - len(self._in)
        limit = 0xFFFF << SCALE if self._scaling else 0xFFFF
        return max(0, min(room, limit))

    def _emit(
        self,
        flags: int,
        sequence: int,
        data: bytes = b"",
        mss: int | None = None,
        scale: int | None = None,
    ) -> None:
        room = self._room()
        window = min(room, 0xFFFF) if flags & SYN or not self._scaling else room >> SCALE
        if flags & ACK:
            self._told = (self._rcv + room) & _MASK
            self._acked = self._rcv
            self._ack_due_ns = FOREVER
        self._segments.append(
            TcpSegment(
                self.source_port,
                self.target_port,
                sequence,
                self._rcv if flags & ACK else 0,
                flags,
                window,
                data,
                mss,
                scale,
            )
        )
