"""One direction of a cable: latency, bandwidth, loss, duplication, reordering and partition.

All of it is in virtual time and comes from one stream of randomness per direction, so what happens to
the n-th frame depends on the seed, the link's path and the frames before it, and on nothing else.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS, SECOND, US
from asyncvmm.device import RandomStream
from asyncvmm.network.saved import Saved

ONE: Final = 1_000_000_000  # probabilities are counted in billionths
FRAME_OVERHEAD: Final = 24  # preamble, FCS and gap: what a frame costs besides its bytes
DRAW_BYTES: Final = 16
DEFAULT_QUEUE_BYTES: Final = 1 << 20
_UNITS: Final = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000}


def _probability(_instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f"{attribute.name} must be 0 to 1, not {value!r}")


def _count(_instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
        raise ConfigError(f"{attribute.name} must be a whole number from 0 on, not {value!r}")


def parse_bandwidth(value: int | str) -> int:
    """Bits per second from a number or from ``10M``, ``1G`` (powers of ten); 0 is unlimited."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    word = str(value).strip().lower().removesuffix("bit")
    unit = word[-1:] if word[-1:] in _UNITS else ""
    try:
        return int(word.removesuffix(unit)) * _UNITS[unit]
    except ValueError:
        raise ConfigError(
            f"bandwidth: {value!r} is not a rate: write for example 100M or 1G (bit/s)"
        ) from None


@attrs.frozen
class LinkShape:
    """How a cable treats frames, the same in both directions; ConfigError for what cannot be.

    ``latency_ns`` is what the cable adds to a round trip: half of it each way, but at least a quantum
    of the host towards the card (see ``lan.py``), and so by default all of it. ``bandwidth`` is in bit/s
    with 24 bytes of overhead a frame (0: unlimited); frames that would wait behind more than
    ``queue_bytes`` are dropped. ``loss``, ``duplicate`` and ``reorder`` are the
    probabilities that a frame vanishes, comes twice, or is held back by up to ``reorder_ns``. ``up``
    False is a partition: nothing passes.
    """

    latency_ns: int = attrs.field(default=MS, validator=_count)
    bandwidth: int = attrs.field(default=0, converter=parse_bandwidth, validator=_count)
    queue_bytes: int = attrs.field(default=DEFAULT_QUEUE_BYTES, validator=_count)
    loss: float = attrs.field(default=0.0, validator=_probability)
    duplicate: float = attrs.field(default=0.0, validator=_probability)
    reorder: float = attrs.field(default=0.0, validator=_probability)
    reorder_ns: int = attrs.field(default=500 * US, validator=_count)
    up: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))

    def change(self, **changes: Any) -> LinkShape:
        """With other values; ConfigError names an unknown one."""
        for key in changes:
            if key not in attrs.fields_dict(LinkShape):
                raise ConfigError(f"a link has no {key!r}: there are {', '.join(self.names())}")
        try:
            return attrs.evolve(self, **changes)
        except TypeError as error:
            raise ConfigError(f"link: {error}") from error

    def save(self) -> dict[str, Any]:
        """As plain data: what ``from_saved`` and ``change`` take."""
        return attrs.asdict(self)

    @classmethod
    def from_saved(cls, saved: Saved, key: str) -> LinkShape:
        """What ``save`` gave."""
        values = saved.take(key)
        if not isinstance(values, dict) or set(values) != set(cls.names()):
            raise saved.wrong(key, "is not the shape of a cable")
        return cls().change(**values)

    @staticmethod
    def names() -> list[str]:
        """What can be changed."""
        return list(attrs.fields_dict(LinkShape))


@attrs.define
class LinkCounters:
    """What became of the frames: sent + duplicated = delivered + lost + overflowed + cut."""

    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    overflowed: int = 0  # the queue before a slow link was full
    cut: int = 0  # the link was down


class LinkDirection:
    """Give it frames in the order of their times; it says when each arrives, if it does."""

    def __init__(self, shape: LinkShape, seed: int, path: str) -> None:
        self.counters: Final = LinkCounters()
        self._random = RandomStream(seed, path)
        self._free_ns = 0  # when the sender of a slow link has sent everything
        self._free_part = 0  # ... and that many (1/bandwidth) ns
        self.reshape(shape)

    def reshape(self, shape: LinkShape) -> None:
        """Treat frames otherwise from now on."""
        self._shape = shape
        self._loss = round(shape.loss * ONE)
        self._duplicate = round(shape.duplicate * ONE)
        self._reorder = round(shape.reorder * ONE)
        self._free_part = 0
        # Whether single frames fare differently, so that large segments must be cut first.
        self.single: bool = bool(self._loss or self._duplicate or self._reorder)

    def pass_frame(self, time_ns: int, size_bytes: int, frames: int = 1) -> tuple[int, ...]:
        """When a frame (or ``frames`` in one) sent at ``time_ns`` arrives: never, once or twice."""
        shape, counters = self._shape, self.counters
        counters.sent += frames
        if not shape.up:
            counters.cut += frames
            return ()
        if shape.bandwidth:
            sent_ns = self._serialized(time_ns, size_bytes + FRAME_OVERHEAD * frames)
            if sent_ns < 0:
                counters.overflowed += frames
                return ()
        else:
            sent_ns = time_ns
        arrives_ns = sent_ns + shape.latency_ns
        if not self.single:
            counters.delivered += frames
            return (arrives_ns,)
        return self._impaired(arrives_ns)

    def _serialized(self, time_ns: int, size_bytes: int) -> int:
        """When the last bit is sent, rounded up; -1 when the queue before the link is full.

        Exact: fractions of a nanosecond are carried from frame to frame.
        """
        rate = self._shape.bandwidth
        free_ns, part = self._free_ns, self._free_part
        if free_ns < time_ns:
            free_ns, part = time_ns, 0
        if (free_ns - time_ns) * rate > self._shape.queue_bytes * 8 * SECOND:
            return -1
        work = size_bytes * 8 * SECOND + part
        self._free_ns, self._free_part = free_ns + work // rate, work % rate
        return self._free_ns + (1 if self._free_part else 0)

    def _impaired(self, arrives_ns: int) -> tuple[int, ...]:
        """One draw a frame, whatever comes of it."""
        counters, shape = self.counters, self._shape
        draw = int.from_bytes(self._random.bytes(DRAW_BYTES), "little")
        lost = (draw & 0xFFFFFFFF) * ONE >> 32 < self._loss
        twice = (draw >> 32 & 0xFFFFFFFF) * ONE >> 32 < self._duplicate
        held = (draw >> 64 & 0xFFFFFFFF) * ONE >> 32 < self._reorder
        if lost:
            counters.lost += 1
            return ()
        if held:
            counters.reordered += 1
            arrives_ns += (draw >> 96) * shape.reorder_ns >> 32
        if twice:
            counters.duplicated += 1
            counters.delivered += 2
            return (arrives_ns, arrives_ns)
        counters.delivered += 1
        return (arrives_ns,)

    # -- snapshots

    def save(self) -> dict[str, Any]:
        """Everything but the shape, which the cable knows."""
        return {
            "counters": [list(attrs.astuple(self.counters))],
            "random": self._random.position,
            "free_ns": self._free_ns,
            "free_part": self._free_part,
        }

    def load(self, saved: Saved) -> None:
        """What ``save`` gave, with the shape that it had then in place already."""
        fields = attrs.fields(LinkCounters)
        for row in saved.rows("counters", "n" * len(fields), 1):
            for field, count in zip(fields, row, strict=True):
                setattr(self.counters, field.name, count)
        self._random.position = saved.number("random")
        self._free_ns = saved.number("free_ns")
        self._free_part = saved.number("free_part")
        saved.done()
