"""Token buckets: never above burst + rate * t, and hardly below when backlogged."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import SECOND
from asyncvmm.hypervisor import IoLimiter, IoMax, TokenBucket
from asyncvmm.hypervisor.buckets import DEPTH_NS

quick = settings(max_examples=200, deadline=None, derandomize=True, database=None)

rates = st.one_of(st.integers(1, 10**4), st.integers(10**4, 10**10))
requests = st.lists(
    st.tuples(st.integers(0, 50_000_000), st.integers(1, 1 << 22)), min_size=1, max_size=60
)


def serve(bucket: TokenBucket, made: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(made, done, units) of each request; ``made`` gives the time since the one before."""
    now = 0
    done = []
    for wait, units in made:
        now += wait
        ready = bucket.ready_at(now, units)
        assert bucket.take(now, units) == ready >= now
        done.append((now, ready, units))
    return done


@quick
@given(rate=rates, burst=st.integers(0, 1 << 24), made=requests)
def test_never_more_than_burst_and_rate(rate: int, burst: int, made: list[tuple[int, int]]) -> None:
    total = 0
    last = 0
    for _, ready, units in serve(TokenBucket(rate, burst), made):
        assert ready >= last  # in order
        last = ready
        total += units
        assert total * SECOND <= burst * SECOND + rate * ready


@quick
@given(rate=rates, burst=st.integers(0, 1 << 20), made=requests)
def test_never_more_than_the_depth_in_any_interval(
    rate: int, burst: int, made: list[tuple[int, int]]
) -> None:
    """The burst comes once: from any request on, an interval gets its rate and what was saved."""
    done = serve(TokenBucket(rate, 0), made)
    for first in range(len(done)):
        start = done[first][1]
        units = sum(size for _, _, size in done[first + 1 :])
        end = done[-1][1]
        saved = rate * DEPTH_NS
        assert units * SECOND <= rate * (end - start) + saved + rate + done[first][2] * SECOND


@quick
@given(rate=rates, burst=st.integers(0, 1 << 20), size=st.integers(1, 1 << 20))
def test_backlogged_gets_the_whole_rate_without_drift(rate: int, burst: int, size: int) -> None:
    bucket = TokenBucket(rate, burst)
    total = 0
    now = 0
    for _ in range(500):
        total += size
        now = bucket.take(now, size)  # the next request follows at once
    assert burst * SECOND + rate * (now - 1) < total * SECOND or now == 0
    if now:
        paid = Fraction(max(total - burst, 0) * SECOND, rate)
        assert now - 1 < paid <= now
        assert paid >= Fraction(999, 1000) * now or now < 1000


def test_one_large_request_waits_its_time() -> None:
    bucket = TokenBucket(1000, burst=500)
    assert bucket.take(0, 500) == 0
    assert bucket.take(0, 10_000) == 10 * SECOND
    assert bucket.take(5 * SECOND, 1) == 10 * SECOND + 1_000_000


def test_idle_time_comes_back_only_up_to_the_depth() -> None:
    bucket = TokenBucket(1000)
    assert bucket.take(60 * SECOND, 10) == 60 * SECOND
    assert bucket.take(60 * SECOND, 10) == 60 * SECOND + 10_000_000


def test_state_goes_on_where_it_was() -> None:
    bucket = TokenBucket(12_345, 99)
    bucket.take(7, 1000)
    copy = TokenBucket.from_state(bucket.state())
    assert [copy.take(t, 77) for t in (9, 10, 10**9)] == [
        bucket.take(t, 77) for t in (9, 10, 10**9)
    ]


def test_limiter_takes_the_slower_of_bytes_and_operations() -> None:
    limiter = IoLimiter(IoMax.parse("wbps=1000000 wiops=100"))
    assert limiter.take(0, 4096, write=False) == 0
    assert limiter.take(0, 500, write=True) == 10_000_000  # one operation at 100 per second
    assert limiter.take(0, 999_500, write=True) == SECOND  # bytes
    assert (limiter.delayed, limiter.delayed_ns) == (2, SECOND + 10_000_000)
    limiter.update(SECOND, IoMax(wbps=None, wiops=None))
    assert limiter.take(SECOND, 1 << 30, write=True) == SECOND


def test_changing_the_rate_gives_no_burst() -> None:
    limiter = IoLimiter(IoMax(rbps=1000, burst_bytes=5000))
    assert limiter.take(0, 5000, write=False) == 0
    limiter.update(0, IoMax(rbps=2000, burst_bytes=5000))
    assert limiter.take(0, 2000, write=False) == SECOND


@pytest.mark.parametrize("text", ["rbps=0", "rbps", "rbps=x", "speed=1", "wiops=-5"])
def test_wrong_limits(text: str) -> None:
    with pytest.raises(ConfigError):
        IoMax.parse(text)
