"""Links of any shape, and frames of any size at any time."""

from __future__ import annotations

from asyncvmm.base.errors import ConfigError
from asyncvmm.network.link import LinkDirection, LinkShape


def fuzz_one(data: bytes) -> None:
    """A shape that may be refused, then frames: every one is counted once, none arrives too early."""
    data = data.ljust(40, b"\0")
    try:
        shape = LinkShape(
            latency_ns=int.from_bytes(data[0:4], "little"),
            bandwidth=int.from_bytes(data[4:9], "little") if data[9] & 1 else 0,
            queue_bytes=int.from_bytes(data[10:13], "little"),
            loss=data[13] / 200,
            duplicate=data[14] / 200,
            reorder=data[15] / 200,
            reorder_ns=int.from_bytes(data[16:20], "little", signed=data[9] & 2 != 0),
            up=data[20] < 240,
        )
    except ConfigError:
        return
    link = LinkDirection(shape, data[21], "fuzz")
    now = arrived = frames = 0
    for at in range(22, len(data) - 3, 4):
        now += data[at] << (data[at + 1] % 24)
        size, many = data[at + 2] * 257, 1 + data[at + 3] % 50
        if link.single:
            many = 1
        times = link.pass_frame(now, size, many)
        frames += many
        arrived += many * len(times)
        assert len(times) <= 2
        for time_ns in times:
            assert now + shape.latency_ns <= time_ns
    counters = link.counters
    gone = counters.lost + counters.overflowed + counters.cut
    assert counters.sent == frames and counters.delivered == arrived
    assert counters.sent + counters.duplicated == counters.delivered + gone
