"""The network socket of a device: instants, bounds, rates and saved state."""

from __future__ import annotations

import json
from typing import Any

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import IoRate, NetPort, Packet
from asyncvmm.device.net import (
    INBOX_BYTES,
    INBOX_PACKETS,
    MAX_PACKET,
    OUTBOX_PACKETS,
    RATE_QUEUE_NS,
)
from asyncvmm.timeline.events import Timeline


class Rig:
    def __init__(self) -> None:
        self.timeline = Timeline()
        self.port = NetPort("card", b"\2\0\0\0\0\1", lambda: int(self.timeline.now_ns))
        self.port.schedule = self.timeline.after
        self.port.on_packets = self.take
        self.got: list[tuple[int, bytes]] = []
        self.taking = True

    def take(self) -> None:
        while self.taking and (packet := self.port.receive()) is not None:
            self.got.append((int(self.timeline.now_ns), packet.data))

    def until(self, time_ns: int) -> None:
        while self.timeline.next_time_ns() <= time_ns:
            self.timeline.now_ns = self.timeline.next_time_ns()
            self.timeline.run_due()
        self.timeline.now_ns = time_ns


def frame(number: int, size: int = 60) -> Packet:
    return Packet(number.to_bytes(4, "big") * (size // 4))


class Slow(IoRate):
    """A packet every ``gap_ns`` in each direction."""

    def __init__(self, gap_ns: int) -> None:
        super().__init__()
        self.gap_ns = gap_ns
        self.free = {True: 0, False: 0}

    def ready_at(self, now_ns: int, size_bytes: int, write: bool) -> int:
        return max(now_ns, self.free[write])

    def take(self, now_ns: int, size_bytes: int, write: bool) -> int:
        ready = self.ready_at(now_ns, size_bytes, write)
        self.free[write] = ready + self.gap_ns
        return ready


def test_packets_arrive_at_their_instants_whatever_the_order_of_the_calls() -> None:
    rig = Rig()
    for time_ns in (500, 100, 300, 100):
        assert rig.port.arrive(time_ns, frame(time_ns))
    rig.until(1000)
    assert [time for time, _ in rig.got] == [100, 100, 300, 500]
    rig.port.arrive(10, frame(1))  # late: now
    rig.until(1001)
    assert rig.got[-1][0] == 1000


def test_what_is_sent_has_its_time_and_is_bounded() -> None:
    rig = Rig()
    rig.until(77)
    for number in range(OUTBOX_PACKETS + 5):
        assert rig.port.send(frame(number)) is (number < OUTBOX_PACKETS)
    sent = rig.port.take_sent()
    assert {each.time_ns for each in sent} == {77}
    assert (len(sent), rig.port.dropped_sending) == (OUTBOX_PACKETS, 5)
    assert rig.port.take_sent() == []
    assert not rig.port.send(Packet(b"short"))
    assert not rig.port.send(Packet(bytes(MAX_PACKET + 1)))


def test_what_nobody_takes_is_bounded() -> None:
    rig = Rig()
    rig.taking = False
    for number in range(INBOX_PACKETS + 3):
        rig.port.arrive(number, frame(number))
    rig.until(10_000)
    assert (rig.port.waiting, rig.port.dropped_arriving) == (INBOX_PACKETS, 3)
    rig.port.clear()
    large = INBOX_BYTES // 65536
    taken = sum(rig.port.arrive(20_000, frame(1, 65536)) for _ in range(large + 3))
    assert taken == large


def test_a_rate_holds_back_both_directions_and_drops_what_waits_too_long() -> None:
    rig = Rig()
    rig.port.rate = Slow(1_000_000)
    assert [rig.port.send(frame(n)) for n in range(300)].count(True) == 201
    assert [each.time_ns for each in rig.port.take_sent()] == [n * 1_000_000 for n in range(201)]
    for number in range(300):
        rig.port.arrive(5, frame(number))
    rig.until(10**9)
    assert [time for time, _ in rig.got] == [5 + n * 1_000_000 for n in range(201)]
    assert rig.port.dropped_arriving == 99
    assert RATE_QUEUE_NS == 200_000_000


def test_a_pulled_cable_sends_nothing() -> None:
    rig = Rig()
    told: list[bool] = []
    rig.port.on_link = lambda: told.append(rig.port.link_up)
    rig.port.set_link(False)
    rig.port.set_link(False)
    assert told == [False]
    assert not rig.port.send(frame(1))


def test_saved_packets_arrive_in_the_copy() -> None:
    rig, copy = Rig(), Rig()
    rig.taking = False
    rig.port.arrive(10, frame(1))
    rig.port.arrive(5000, Packet(bytes(60), 34, 6))
    rig.port.arrive(4000, frame(2))
    rig.until(1000)
    saved = json.loads(json.dumps(rig.port.save()))
    copy.timeline.now_ns = 1000
    copy.port.load(saved)
    assert copy.port.save() == saved
    copy.take()
    copy.until(6000)
    assert [time for time, _ in copy.got] == [1000, 4000, 5000]


@pytest.mark.parametrize(
    "spoil",
    [
        {"version": 2},
        {"inbox": None},
        {"inbox": [["00", -1, 0, 0, 0]]},
        {"inbox": [["zz" * 60, -1, 0, 0, 0]]},
        {"inbox": [["00" * 60, -2, 0, 0, 0]]},
        {"inbox": [["00" * 60, -1, 0, 0]]},
        {"arriving": [[-1, False, ["00" * 60, -1, 0, 0, 0]]]},
        {"arriving": [[5, 1, ["00" * 60, -1, 0, 0, 0]]]},
        {"arriving": [5]},
        {"link_up": 1},
        {"inbox": [["00" * 60, -1, 0, 0, 0]] * (INBOX_PACKETS + 1)},
    ],
)
def test_spoilt_state_is_refused_and_changes_nothing(spoil: dict[str, Any]) -> None:
    rig = Rig()
    rig.port.arrive(10, frame(1))
    before = rig.port.save()
    with pytest.raises(ConfigError):
        rig.port.load({**before, **spoil})
    assert rig.port.save() == before
