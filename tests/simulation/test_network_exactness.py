"""100,000 frames from card to card over two cables and the switch: an independent count of every one.

Links, partitions and the seed are Hypothesis's. What arrives, when, what the counters say and, byte for
byte, what a second run captures must be what follows from them.
"""

from __future__ import annotations

import hashlib
import io
import struct

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.units import MS, US
from asyncvmm.device import RandomStream
from asyncvmm.network import LinkCounters, LinkShape, Network, NetworkConfig
from asyncvmm.network.config import CableConfig
from asyncvmm.network.ethernet import IPV4
from asyncvmm.network.inet import ethernet
from asyncvmm.network.link import DRAW_BYTES, ONE
from tests.unit.network.test_lan import Card

FRAMES = 100_000
GAP_NS = 20 * US
QUANTUM = MS
STRETCHES = FRAMES * GAP_NS // QUANTUM
PREFIX = 14


@attrs.frozen
class Plan:
    """Two cables, and when each is cut, in stretches."""

    seed: int
    latency_ns: tuple[int, int]
    loss: tuple[float, float]
    cuts: tuple[tuple[int, int], tuple[int, int]]

    def is_cut(self, cable: int, time_ns: int) -> bool:
        begin, end = self.cuts[cable]
        return begin * QUANTUM <= time_ns < end * QUANTUM


@attrs.frozen
class Seen:
    arrivals: list[tuple[int, int]]  # time, number
    up: LinkCounters
    down: LinkCounters
    capture_bytes: int
    capture: str


class _Hash(io.RawIOBase):
    """A file of which only size and hash are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.hash = hashlib.sha256()

    def write(self, data: object) -> int:
        assert isinstance(data, bytes)
        self.size += len(data)
        self.hash.update(data)
        return len(data)


def run(plan: Plan) -> Seen:
    """All frames from ``a`` to ``b``, and what came of them."""
    cables = {
        name: CableConfig(LinkShape(latency_ns=plan.latency_ns[i], loss=plan.loss[i]))
        for i, name in enumerate("ab")
    }
    network = Network("lan", NetworkConfig(gateway=False, cables=cables), plan.seed, QUANTUM)
    out = _Hash()
    network.capture(out)  # type: ignore[arg-type]
    sender, receiver = Card("a", 1), Card("b", 2)
    for card in (sender, receiver):
        network.plug(card.port.name, card.port, 0)
    first = 0
    begin = 1  # time 0 is the last instant of no stretch
    a, b = network.cables["a"], network.cables["b"]
    for stretch in range(STRETCHES + 200):
        for i, name in enumerate("ab"):
            if stretch in plan.cuts[i]:
                network.shape(name, up=not plan.is_cut(i, stretch * QUANTUM))
        now = (stretch + 1) * QUANTUM
        while first < FRAMES and begin + first * GAP_NS < now:
            data = struct.pack(">Q", first).ljust(46, b".")
            sender.plan(begin + first * GAP_NS, ethernet(receiver.mac, sender.mac, IPV4, data))
            first += 1
        sender.live_until(now)
        receiver.live_until(now)
        network.advance(now)
    network.close()
    arrivals = [(at, int.from_bytes(data[PREFIX : PREFIX + 8], "big")) for at, data in receiver.got]
    assert sender.got == []
    return Seen(arrivals, a.up.counters, b.down.counters, out.size, out.hash.hexdigest())


def survivors(
    plan: Plan, cable: int, path: str, frames: list[tuple[int, int]]
) -> list[bool | None]:
    """Of each frame at its time: True when it passes, False when it is lost, None when it is cut."""
    chance = round(plan.loss[cable] * ONE)
    stream = RandomStream(plan.seed, path)
    fates: list[bool | None] = []
    for time_ns, _ in frames:
        if plan.is_cut(cable, time_ns):
            fates.append(None)
        elif not chance:
            fates.append(True)
        else:
            draw = int.from_bytes(stream.bytes(DRAW_BYTES), "little") & 0xFFFFFFFF
            fates.append(draw * ONE >> 32 >= chance)
    return fates


CUTS = st.tuples(st.integers(1, STRETCHES), st.integers(1, STRETCHES)).map(sorted)
LOSSES = st.one_of(st.just(0.0), st.floats(0, 1))


@settings(max_examples=3, deadline=None)
@given(
    st.builds(
        Plan,
        seed=st.integers(0, 2**63),
        latency_ns=st.tuples(*[st.integers(QUANTUM, 40 * MS)] * 2),
        loss=st.tuples(LOSSES, LOSSES),
        cuts=st.tuples(CUTS.map(tuple), CUTS.map(tuple)),
    )
)
def test_loss_partition_and_latency_over_100000_frames(plan: Plan) -> None:
    seen = run(plan)
    sent = [(1 + number * GAP_NS, number) for number in range(FRAMES)]
    up = survivors(plan, 0, "net/lan/a/up", sent)
    up_ns = min(plan.latency_ns[0] // 2, plan.latency_ns[0] - QUANTUM)
    switched = [(at + up_ns, n) for (at, n), fate in zip(sent, up, strict=True) if fate]
    down = survivors(plan, 1, "net/lan/b/down", switched)
    far_ns = plan.latency_ns[1] - min(plan.latency_ns[1] // 2, plan.latency_ns[1] - QUANTUM)
    expected = [(at + far_ns, n) for (at, n), fate in zip(switched, down, strict=True) if fate]
    assert seen.arrivals == expected
    for counters, fates in ((seen.up, up), (seen.down, down)):
        assert counters.sent == len(fates)
        assert counters.delivered == fates.count(True)
        assert counters.lost == fates.count(False)
        assert counters.cut == fates.count(None)
        assert counters.duplicated == counters.reordered == counters.overflowed == 0
    assert seen.capture_bytes > FRAMES * 60
    assert run(plan) == seen  # and the capture, byte for byte
