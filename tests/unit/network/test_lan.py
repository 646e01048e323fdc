"""The network on its clock: what a run is does not depend on who ran first or how time was cut."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.base.units import MS
from asyncvmm.device import NetPort, Packet
from asyncvmm.network import LinkShape, Network, NetworkConfig
from asyncvmm.network.ethernet import BROADCAST, IPV4
from asyncvmm.network.inet import ethernet
from asyncvmm.timeline.events import FOREVER, Timeline

QUANTUM = MS


class Card:
    """A card without a guest: it sends at given times and notes what arrives."""

    def __init__(self, name: str, number: int) -> None:
        self.timeline = Timeline()
        self.mac = bytes([2, 0, 0, 0, 0, number])
        self.port = NetPort(name, self.mac, lambda: int(self.timeline.now_ns))
        self.port.schedule = self.timeline.after
        self.port.on_packets = self._take
        self.got: list[tuple[int, bytes]] = []

    def _take(self) -> None:
        while (packet := self.port.receive()) is not None:
            self.got.append((int(self.timeline.now_ns), packet.data))

    def plan(self, time_ns: int, data: bytes) -> None:
        self.timeline.at(time_ns, lambda: self.port.send(Packet(data)) and None)

    def live_until(self, time_ns: int) -> None:
        while self.timeline.next_time_ns() <= time_ns:
            self.timeline.now_ns = max(self.timeline.now_ns, self.timeline.next_time_ns())
            self.timeline.run_due()
        self.timeline.now_ns = time_ns


Plan = list[tuple[int, int, int]]  # sender, time, payload


def run(
    plan: Plan, cuts: list[int], order: random.Random | None, config: NetworkConfig, seed: int = 5
) -> tuple[list[list[tuple[int, bytes]]], bytes]:
    """What each card got, and the capture."""
    network = Network("lan", config, seed, QUANTUM)
    out = _Kept()
    network.capture(out)
    cards = [Card(f"g{number}", number) for number in range(3)]
    for card in cards:
        network.plug(card.port.name, card.port, 0)
    for sender, time_ns, payload in plan:
        target = BROADCAST if payload % 3 == 0 else cards[(sender + 1) % 3].mac
        data = ethernet(target, cards[sender].mac, IPV4, struct.pack(">Q", payload).ljust(46, b"."))
        cards[sender].plan(time_ns, data)
    for now in sorted({*cuts, *range(QUANTUM, 40 * MS, QUANTUM)}):
        turn = list(cards)
        if order is not None:
            order.shuffle(turn)
        for card in turn:
            card.live_until(now)
        network.advance(now)
    network.close()
    return [card.got for card in cards], out.kept


class _Kept(io.BytesIO):
    kept = b""

    def close(self) -> None:
        self.kept = self.getvalue()
        super().close()


PLANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 20 * MS), st.integers(0, 1000)), max_size=60
)
SHAPES = st.builds(
    LinkShape,
    latency_ns=st.integers(QUANTUM, 3 * QUANTUM),
    bandwidth=st.sampled_from([0, 10_000_000]),
    loss=st.sampled_from([0.0, 0.3]),
    duplicate=st.sampled_from([0.0, 0.3]),
    reorder=st.sampled_from([0.0, 0.3]),
)


@settings(max_examples=60)
@given(PLANS, SHAPES, st.lists(st.integers(1, 39 * MS), max_size=30), st.integers(0, 2**32))
def test_order_and_cuts_change_nothing(
    plan: Plan, shape: LinkShape, cuts: list[int], salt: int
) -> None:
    plan = sorted(set(plan))
    config = NetworkConfig(shape=shape, gateway=False)
    plain = run(plan, [], None, config)
    assert run(plan, cuts, random.Random(salt), config) == plain
    assert plain[1].startswith(b"\x0a\x0d\x0d\x0a")


def test_another_seed_loses_other_frames() -> None:
    config = NetworkConfig(shape=LinkShape(loss=0.5), gateway=False)
    plan = [(0, number * 1000, 1) for number in range(200)]
    assert run(plan, [], None, config, 1)[0] != run(plan, [], None, config, 2)[0]


def test_latency_is_exact_and_each_cable_has_its_own() -> None:
    config = NetworkConfig.from_mapping(
        {"latency_ns": 2 * MS, "links": {"g1": {"latency_ns": 7 * MS}}, "gateway": False}
    )
    got, _ = run([(0, 12_345, 1), (1, 50_000, 1)], [], None, config)
    # 2 ms are 1 ms each way, 7 ms are 3.5 ms each way.
    assert [time for time, _ in got[1]] == [12_345 + MS + 7 * MS // 2]
    assert [time for time, _ in got[2]] == [12_345 + 2 * MS, 50_000 + MS + 7 * MS // 2]


@pytest.mark.parametrize("latency_ns", [MS, 3 * MS // 2, 2 * MS, 9 * MS + 1])
def test_a_round_trip_takes_the_latency_of_both_cables(latency_ns: int) -> None:
    links = {"g1": {"latency_ns": latency_ns}}
    config = NetworkConfig.from_mapping({"links": links, "gateway": False})
    got, _ = run([(0, 0, 1), (1, 0, 3)], [], None, config)
    assert got[1][0][0] + got[0][0][0] == latency_ns + MS
    assert got[1][0][0] >= QUANTUM


def test_guests_come_at_their_own_time_zero() -> None:
    network = Network("lan", NetworkConfig(gateway=False), 0, QUANTUM)
    early, late = Card("early", 1), Card("late", 2)
    network.plug("early", early.port, 0)
    early.live_until(5 * MS)
    network.advance(5 * MS)
    network.plug("late", late.port, 5 * MS)
    late.plan(MS // 2, ethernet(BROADCAST, late.mac, IPV4, bytes(46)))
    for now in range(6 * MS, 12 * MS, MS):
        early.live_until(now)
        late.live_until(now - 5 * MS)
        network.advance(now)
    assert [time for time, _ in early.got] == [5 * MS + MS // 2 + MS]


def test_a_partition_by_the_host_holds_from_its_instant_on() -> None:
    network = Network("lan", NetworkConfig(gateway=False), 0, QUANTUM)
    cards = [Card("a", 1), Card("b", 2)]
    for card in cards:
        network.plug(card.port.name, card.port, 0)
    for number in range(100):
        cards[0].plan(number * MS // 10, ethernet(BROADCAST, cards[0].mac, IPV4, bytes(46)))
    for now in range(MS, 30 * MS, MS):
        for card in cards:
            card.live_until(now)
        network.advance(now)
        if now in (3 * MS, 6 * MS):
            network.shape("a", up=now == 6 * MS)
    sent = [time - MS for time, _ in cards[1].got]
    assert sent == [n * MS // 10 for n in range(100) if not 3 * MS <= n * MS // 10 < 6 * MS]
    assert network.cables["a"].counters[0].cut == 30


def test_cables_are_no_faster_than_a_quantum() -> None:
    with pytest.raises(ConfigError, match="quantum"):
        Network("lan", NetworkConfig(shape=LinkShape(latency_ns=QUANTUM - 1)), 0, QUANTUM)
    network = Network("lan", NetworkConfig(), 0, QUANTUM)
    network.plug("a", Card("a", 1).port, 0)
    with pytest.raises(ConfigError, match="quantum"):
        network.shape("a", latency_ns=5)
    with pytest.raises(ConfigError, match="no cable"):
        network.shape("b", loss=0.5)
    assert network.cables["a"].shape == LinkShape()


def test_a_guest_that_is_gone_gets_and_sends_nothing_more() -> None:
    network = Network("lan", NetworkConfig(gateway=False), 0, QUANTUM)
    cards = [Card("a", 1), Card("b", 2)]
    cables = [network.plug(card.port.name, card.port, 0) for card in cards]
    for card in cards:
        card.plan(100, ethernet(BROADCAST, card.mac, IPV4, bytes(46)))
        card.live_until(MS)
    network.unplug(cables[0])
    network.advance(MS)
    for now in range(2 * MS, 9 * MS, MS):
        network.advance(now)
    assert network.switch.learnt == {(1, cards[1].mac): "b"}
    assert cards[0].port.waiting == 0


def test_captures_hold_each_frame_once_or_one_cards_view() -> None:
    network = Network("lan", NetworkConfig(gateway=False), 0, QUANTUM)
    cards = [Card("a", 1), Card("b", 2)]
    for card in cards:
        network.plug(card.port.name, card.port, 0)
    whole, of_b = io.BytesIO(), io.BytesIO()
    captures = [network.capture(whole), network.capture(of_b, "b")]
    cards[0].plan(100, ethernet(BROADCAST, cards[0].mac, IPV4, bytes(46)))
    for now in range(MS, 9 * MS, MS):
        for card in cards:
            card.live_until(now)
        network.advance(now)
    assert [capture.frames for capture in captures] == [1, 1]
    for raw in (whole.getvalue(), of_b.getvalue()):
        at, kinds = 0, []
        while at < len(raw):
            kind, length = struct.unpack_from("<II", raw, at)
            assert struct.unpack_from("<I", raw, at + length - 4) == (length,)
            kinds.append(kind)
            at += length
        assert kinds == [0x0A0D0D0A, 1, 6]
    with pytest.raises(ConfigError):
        network.capture(io.BytesIO(), "c")


class Door:
    """A station that says what it is told to."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, Packet]] = []

    def arrive(self, time_ns: int, packet: Packet) -> None:
        self.frames.append((time_ns, packet))  # back to where it came from

    def next_ns(self) -> int:
        return min((time for time, _ in self.frames), default=FOREVER)

    def run(self, time_ns: int) -> None:
        pass

    def take_frames(self) -> list[tuple[int, Packet]]:
        frames, self.frames = self.frames, []
        return frames


def test_what_enters_between_stretches_takes_a_quantum_less_and_overtakes_nothing() -> None:
    network = Network("lan", NetworkConfig(shape=LinkShape(latency_ns=3 * MS)), 0, QUANTUM)
    door, card = Door(), Card("a", 1)
    network.attach(door)
    network.plug("a", card.port, 0)

    def live(until_ns: int) -> None:
        for now in range(network.now_ns + MS, until_ns + 1, MS):
            card.live_until(now)
            network.advance(now)

    def say(payload: bytes) -> Packet:
        return Packet(ethernet(card.mac, b"\2\0\0\0\0\x99", IPV4, payload.ljust(46, b".")))

    live(5 * MS)
    door.frames.append((5 * MS, say(b"entered")))
    network.entered(5 * MS)
    live(20 * MS)
    # 3 ms are 1.5 ms each way.
    assert [time for time, _ in card.got] == [5 * MS + MS // 2]
    door.frames.append((20 * MS - 1, say(b"from within")))
    network.advance(20 * MS)
    door.frames.append((20 * MS, say(b"entered")))
    network.entered(20 * MS)
    live(30 * MS)
    assert [time for time, _ in card.got[1:]] == [20 * MS - 1 + 3 * MS // 2] * 2
    assert [data[14:25] for _, data in card.got[1:]] == [b"from within", b"entered...."]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is full is needed")
@pytest.mark.parametrize("buffering", [0, -1])
def test_a_capture_that_cannot_be_written_is_named(buffering: int) -> None:
    network, card = Network("lan", NetworkConfig(), 0, QUANTUM), Card("a", 1)
    network.plug("a", card.port, 0)
    full = Path("/dev/full").open("wb", buffering=buffering)  # noqa: SIM115
    with pytest.raises(BackendError, match="capture /dev/full: cannot be written: No space left"):
        network.capture(full)
        card.plan(5, b"\xff" * 12 + bytes(50))
        card.live_until(MS)
        network.advance(MS)
        network.close()
    network.close()
    assert full.closed
