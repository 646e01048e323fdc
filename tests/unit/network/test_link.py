"""Links are exact: every frame is accounted for, and its fate follows from seed, path and position."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS, SECOND, US
from asyncvmm.device import RandomStream
from asyncvmm.network.link import DRAW_BYTES, FRAME_OVERHEAD, ONE, LinkDirection, LinkShape

FRAMES = 100_000
CHANCES = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1))


def fates(seed: int, path: str, count: int) -> list[int]:
    """The draws of a link's stream, taken independently of it."""
    data = RandomStream(seed, path).bytes(DRAW_BYTES * count)
    words = range(0, len(data), DRAW_BYTES)
    return [int.from_bytes(data[at : at + DRAW_BYTES], "little") for at in words]


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**64 - 1),
    loss=CHANCES,
    duplicate=CHANCES,
    reorder=CHANCES,
    latency_ns=st.integers(0, SECOND),
)
def test_loss_duplication_and_reordering_are_exact_over_100000_frames(
    seed: int, loss: float, duplicate: float, reorder: float, latency_ns: int
) -> None:
    shape = LinkShape(
        latency_ns=latency_ns,
        loss=loss,
        duplicate=duplicate,
        reorder=reorder,
        reorder_ns=300 * US,
    )
    link = LinkDirection(shape, seed, "net/lan/a/up")
    arrivals = [link.pass_frame(10 * number, 64) for number in range(FRAMES)]
    counted = link.counters
    assert counted.sent == FRAMES
    assert counted.sent + counted.duplicated == counted.delivered + counted.lost
    assert sum(map(len, arrivals)) == counted.delivered
    if not link.single:
        assert arrivals == [(10 * number + latency_ns,) for number in range(FRAMES)]
        return
    lost = twice = held = 0
    for number, draw in enumerate(fates(seed, "net/lan/a/up", FRAMES)):
        is_lost, is_twice, is_held = (
            (draw >> shift & 0xFFFFFFFF) / 2**32 < round(chance * ONE) / ONE
            for shift, chance in ((0, loss), (32, duplicate), (64, reorder))
        )
        late = (draw >> 96) * shape.reorder_ns >> 32 if is_held and not is_lost else 0
        due = 10 * number + latency_ns + late
        assert arrivals[number] == (() if is_lost else (due, due) if is_twice else (due,))
        lost += is_lost
        twice += is_twice and not is_lost
        held += is_held and not is_lost
    assert (counted.lost, counted.duplicated, counted.reordered) == (lost, twice, held)
    # Five standard deviations of so many independent draws.
    assert abs(lost - loss * FRAMES) <= 5 * (FRAMES * loss * (1 - loss)) ** 0.5 + 1


@settings(max_examples=20)
@given(
    rate=st.integers(1_000, 40_000_000_000),
    frames=st.lists(
        st.tuples(st.integers(0, 2 * MS), st.integers(14, 9018)), min_size=1, max_size=200
    ),
)
def test_bandwidth_is_never_exceeded_and_never_wasted(
    rate: int, frames: list[tuple[int, int]]
) -> None:
    link = LinkDirection(LinkShape(latency_ns=0, bandwidth=rate, queue_bytes=1 << 40), 0, "x")
    now, busy_since, bits, last = 0, 0, 0, 0
    for gap, size in frames:
        now += gap
        if now * rate > busy_since * rate + bits * SECOND:
            busy_since, bits = now, 0
        bits += 8 * (size + FRAME_OVERHEAD)
        (arrives,) = link.pass_frame(now, size)
        assert arrives == busy_since + -(-bits * SECOND // rate)  # exactly, rounded up once
        assert arrives >= last
        last = arrives
    assert link.counters.delivered == len(frames)


def test_a_full_queue_drops() -> None:
    shape = LinkShape(latency_ns=0, bandwidth=8_000_000, queue_bytes=10_000)
    link = LinkDirection(shape, 0, "x")
    taken = sum(len(link.pass_frame(0, 976)) for _ in range(100))
    assert taken == 11  # ten wait behind the one that is being sent
    assert (link.counters.overflowed, link.counters.delivered) == (89, 11)


@settings(max_examples=10)
@given(cuts=st.lists(st.integers(0, FRAMES), min_size=2, max_size=6, unique=True))
def test_a_partition_cuts_exactly_the_frames_in_it(cuts: list[int]) -> None:
    link = LinkDirection(LinkShape(), 3, "x")
    up, passed = True, []
    switches = set(cuts)
    for number in range(FRAMES):
        if number in switches:
            up = not up
            link.reshape(LinkShape(up=up))
        if link.pass_frame(number, 60):
            passed.append(number)
    assert passed == _outside(sorted(cuts))
    assert link.counters.cut == FRAMES - len(passed)


def _outside(cuts: list[int]) -> list[int]:
    edges = [0, *cuts, FRAMES]
    return [
        number
        for begin, end in zip(edges[::2], edges[1::2], strict=False)
        for number in range(begin, end)
    ]


def test_two_links_of_one_seed_differ_and_one_repeats() -> None:
    shape = LinkShape(loss=0.5)

    def run(path: str) -> list[tuple[int, ...]]:
        link = LinkDirection(shape, 9, path)
        return [link.pass_frame(number, 60) for number in range(1000)]

    assert run("net/lan/a/up") == run("net/lan/a/up")
    assert run("net/lan/a/up") != run("net/lan/a/down")


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": 1.1},
        {"loss": -0.1},
        {"loss": True},
        {"latency_ns": -1},
        {"latency_ns": 1.5},
        {"bandwidth": "fast"},
        {"up": 1},
        {"speed": 3},
    ],
)
def test_wrong_shapes_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LinkShape().change(**changes)


def test_bandwidths_as_texts() -> None:
    assert LinkShape(bandwidth="10M").bandwidth == 10_000_000
    assert LinkShape(bandwidth="1Gbit").bandwidth == 1_000_000_000
    assert attrs.asdict(LinkShape().change(loss=0.5))["loss"] == 0.5
