"""Rates: integer token buckets for bytes and operations, exact in virtual time.

A bucket starts with its one-time burst and gains ``rate`` units per second. It never drifts: the
credit is kept in units of 1/1,000,000,000 of a unit, which makes a nanosecond's gain a whole number.
A request takes its tokens at once and is done when they are paid for, so requests are served in
order, a large one never starves, and what is done by time t is at most ``burst + rate * t``.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.base.errors import InternalError
from asyncvmm.base.units import MS, SECOND
from asyncvmm.hypervisor.book_state import BucketState, IoMaxState, LimiterState
from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.knobs import IoMax

# What an idle bucket saves up, as time: an unused rate comes back as a burst no longer than this.
DEPTH_NS: Final = 10 * MS


class TokenBucket:
    """``rate`` units per second, plus ``burst`` units once. Times are virtual ns and never fall."""

    def __init__(
        self, rate: int, burst: int = 0, now_ns: int = 0, depth_ns: int = DEPTH_NS
    ) -> None:
        if rate < 1 or burst < 0 or depth_ns < 0:
            raise InternalError(f"token bucket: rate {rate}, burst {burst}, depth {depth_ns}")
        self.rate = rate
        self._depth_ns = depth_ns
        self._credit = burst * SECOND
        self._time_ns = now_ns

    def _advance(self, now_ns: int) -> None:
        passed = now_ns - self._time_ns
        if passed <= 0:
            return
        self._time_ns = now_ns
        credit = self._credit
        full = self.rate * self._depth_ns
        # A burst that is left over stays, but only what was spent below the depth comes back.
        if credit < full:
            credit += self.rate * passed
            self._credit = credit if credit < full else full

    def _ready(self, credit: int, now_ns: int) -> int:
        start = now_ns if now_ns > self._time_ns else self._time_ns
        return start if credit >= 0 else start - credit // self.rate  # rounded up

    def ready_at(self, now_ns: int, units: int) -> int:
        """When a request for ``units`` made at ``now_ns`` would be done; nothing is taken."""
        self._advance(now_ns)
        return self._ready(self._credit - units * SECOND, now_ns)

    def take(self, now_ns: int, units: int) -> int:
        """Take ``units`` for a request made at ``now_ns``; returns when it is done (>= now)."""
        self._advance(now_ns)
        self._credit -= units * SECOND
        return self._ready(self._credit, now_ns)

    def change_rate(self, now_ns: int, rate: int) -> None:
        """Go on at another rate; what is owed stays owed, nothing is given as a burst."""
        if rate < 1:
            raise InternalError(f"token bucket: rate {rate}")
        self._advance(now_ns)
        self.rate = rate
        self._credit = min(self._credit, max(rate * self._depth_ns, 0))

    def state(self) -> BucketState:
        """Everything, as a value."""
        return BucketState(self.rate, self._depth_ns, self._credit, self._time_ns)

    @classmethod
    def from_state(cls, state: BucketState) -> TokenBucket:
        """The inverse of ``state``."""
        bucket = cls(state.rate, 0, state.time_ns, state.depth_ns)
        bucket._credit = state.credit
        return bucket


class DirectionLimit:
    """One direction of a device: a bucket for bytes and one for operations, either may be absent."""

    def __init__(self, bytes_bucket: TokenBucket | None, ops_bucket: TokenBucket | None) -> None:
        self.bytes_bucket = bytes_bucket
        self.ops_bucket = ops_bucket

    def ready_at(self, now_ns: int, size_bytes: int) -> int:
        """When one operation of ``size_bytes`` made now would be done; nothing is taken."""
        ready = now_ns
        if self.bytes_bucket is not None:
            ready = self.bytes_bucket.ready_at(now_ns, size_bytes)
        if self.ops_bucket is not None:
            ready = max(ready, self.ops_bucket.ready_at(now_ns, 1))
        return ready

    def take(self, now_ns: int, size_bytes: int) -> int:
        """Take one operation of ``size_bytes``; returns when both buckets allow it."""
        ready = now_ns
        if self.bytes_bucket is not None:
            ready = self.bytes_bucket.take(now_ns, size_bytes)
        if self.ops_bucket is not None:
            ready = max(ready, self.ops_bucket.take(now_ns, 1))
        return ready


class IoLimiter:
    """``io.max`` of one device of one guest (or the rates of one network device)."""

    def __init__(self, limits: IoMax, now_ns: int = 0) -> None:
        self.limits = limits
        self.delayed = 0
        self.delayed_ns = 0
        self._read = DirectionLimit(
            _bucket(limits.rbps, limits.burst_bytes, now_ns),
            _bucket(limits.riops, limits.burst_ops, now_ns),
        )
        self._write = DirectionLimit(
            _bucket(limits.wbps, limits.burst_bytes, now_ns),
            _bucket(limits.wiops, limits.burst_ops, now_ns),
        )

    def ready_at(self, now_ns: int, size_bytes: int, *, write: bool) -> int:
        """When a request made now would be done; nothing is taken."""
        return (self._write if write else self._read).ready_at(now_ns, size_bytes)

    def take(self, now_ns: int, size_bytes: int, *, write: bool) -> int:
        """Take the tokens of one request; returns the virtual time at which it may complete."""
        ready = (self._write if write else self._read).take(now_ns, size_bytes)
        if ready > now_ns:
            self.delayed += 1
            self.delayed_ns += ready - now_ns
        return ready

    def state(self) -> LimiterState:
        """Limits, tokens and counters, as a value."""
        read, write = self._read, self._write
        return LimiterState(
            IoMaxState.of(self.limits),
            self.delayed,
            self.delayed_ns,
            _saved(read.bytes_bucket),
            _saved(read.ops_bucket),
            _saved(write.bytes_bucket),
            _saved(write.ops_bucket),
        )

    @classmethod
    def from_state(cls, state: LimiterState) -> IoLimiter:
        """The inverse of ``state``; ConfigError when its buckets are not those of its limits."""
        limits = state.limits.limits()
        made = cls(limits)
        made.delayed = state.delayed
        made.delayed_ns = state.delayed_ns
        made._read = DirectionLimit(
            _restored(state.read_bytes, limits.rbps), _restored(state.read_ops, limits.riops)
        )
        made._write = DirectionLimit(
            _restored(state.write_bytes, limits.wbps), _restored(state.write_ops, limits.wiops)
        )
        return made

    def update(self, now_ns: int, limits: IoMax) -> None:
        """Other limits from now on. A new limit begins without a burst: that is for once."""
        read, write = self._read, self._write
        read.bytes_bucket = _changed(read.bytes_bucket, limits.rbps, now_ns)
        read.ops_bucket = _changed(read.ops_bucket, limits.riops, now_ns)
        write.bytes_bucket = _changed(write.bytes_bucket, limits.wbps, now_ns)
        write.ops_bucket = _changed(write.ops_bucket, limits.wiops, now_ns)
        self.limits = limits


def _bucket(rate: int | None, burst: int, now_ns: int) -> TokenBucket | None:
    return None if rate is None else TokenBucket(rate, burst, now_ns)


def _saved(bucket: TokenBucket | None) -> BucketState | None:
    return None if bucket is None else bucket.state()


def _restored(state: BucketState | None, rate: int | None) -> TokenBucket | None:
    require(rate == (None if state is None else state.rate), "a bucket of another rate")
    return None if state is None else TokenBucket.from_state(state)


def _changed(bucket: TokenBucket | None, rate: int | None, now_ns: int) -> TokenBucket | None:
    if rate is None or bucket is None:
        return _bucket(rate, 0, now_ns)
    bucket.change_rate(now_ns, rate)
    return bucket
