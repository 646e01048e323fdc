"""Threads of one stretch: every job once, errors of the caller's thread after everybody is home."""

from __future__ import annotations

import functools
import threading

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine.engines import find_spin, why_not_jit
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.workers import MAX_WORKERS, Workers, sleep_at_once

SPINS = [lambda: sleep_at_once] if why_not_jit() else [lambda: sleep_at_once, find_spin]


@pytest.fixture(params=SPINS, ids=["sleep", "spin"][: len(SPINS)])
def workers(request):
    """Three threads, which end with the test."""
    made = Workers(3, request.param)
    yield made
    made.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("asyncvmm-worker")]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_every_job_is_done_once(workers, count):
    for _ in range(200):
        done: list[int] = []
        workers.run([functools.partial(done.append, number) for number in range(count)])
        assert sorted(done) == list(range(count))


def test_jobs_are_side_by_side(workers):
    together = threading.Barrier(3)
    workers.run([together.wait] * 3)  # hangs unless each has a thread of its own
    assert together.n_waiting == 0


def test_an_interrupt_waits_until_everybody_is_home(workers):
    """Whichever job takes it in the caller's thread, the other two have ended when it is raised."""
    caller = threading.current_thread()
    together = threading.Barrier(3)
    ended = []

    def job():
        together.wait()
        if threading.current_thread() is caller:
            raise KeyboardInterrupt
        ended.append(1)

    with pytest.raises(KeyboardInterrupt):
        workers.run([job] * 3)
    assert len(ended) == 2
    done = []
    workers.run([lambda: done.append(1)] * 3)
    assert len(done) == 3


@pytest.mark.parametrize("count", [0, -1, MAX_WORKERS + 1])
def test_a_wrong_number_is_refused(count):
    with pytest.raises(ConfigError, match="workers: 1 to"):
        Workers(count)


def test_an_outbox_keeps_calls_in_order_while_it_is_closed():
    outbox = Outbox()
    heard = []
    outbox.call(heard.append, 1)
    assert heard == [1]
    outbox.close()
    outbox.call(heard.append, 2)
    outbox.call(heard.append, 3)
    assert heard == [1]
    outbox.open()
    assert heard == [1, 2, 3]
    outbox.open()
    assert heard == [1, 2, 3]
