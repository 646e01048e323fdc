"""Threads in which guests live through the same stretch of virtual time side by side.

Translated code runs without Python's lock, so guests in different threads use different cores. A
stretch is less than a millisecond of wall time, and waking a thread that sleeps can cost a tenth of
that: so both sides look for a moment, outside the lock, whether the other one is there already, and
sleep only when it is not.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from asyncvmm.base.errors import ConfigError

MAX_WORKERS: Final = 64
LOOKS: Final = 10_000  # 150 to 500 us
FEW_LOOKS: Final = (
    1_000  # 15 to 50 us: where jobs are long, less is lost by sleeping than by looking
)
LINGER: Final = 200  # 4 to 10 us: whoever advanced the gate has let go of Python's lock by then
SHORT_LINGER: Final = 100  # of a helper that has come home: nothing is left for it to do
Spin = Callable[[int, int, int, int], int]
Job = Callable[[], None]


def default_workers() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    return min(os.cpu_count() or 1, MAX_WORKERS)


def sleep_at_once(place: int, seen: int, limit: int, linger: int) -> int:
    """The ``spin`` of where there is none: nothing has changed yet."""
    return 0


def check_workers(count: int | None) -> None:
    """ConfigError for a number of threads that cannot be."""
    if count is not None and not 1 <= count <= MAX_WORKERS:
        raise ConfigError(f"workers: 1 to {MAX_WORKERS} threads, not {count}")


class Workers:
    """Runs jobs in ``count`` threads, of which the caller's is one. Jobs must not raise.

    ``find_spin`` is called when threads are first needed; see ``asyncvmm.engine.jit.waiting``.
    """

    def __init__(
        self, count: int | None = None, find_spin: Callable[[], Spin] = lambda: sleep_at_once
    ) -> None:
        check_workers(count)
        self.count: Final = default_workers() if count is None else count
        self._find_spin = find_spin
        self._helpers: list[_Helper] = []

    def run(self, jobs: Sequence[Job], looks: int = LOOKS) -> None:
        """Return when all jobs are done, even when an interrupt comes meanwhile: then raise it.

        Threads look ``looks`` times for more, or for the end of others, before they sleep.
        """
        left = list(reversed(jobs))
        wanted = max(min(self.count, len(jobs)) - 1, 0)
        while len(self._helpers) < wanted:
            self._helpers.append(_Helper(len(self._helpers), self._find_spin()))
        helpers = self._helpers[:wanted]
        interrupt: BaseException | None = None
        for helper in helpers:
            helper.begin(left, looks)
        try:
            _work(left)
        except BaseException as error:  # KeyboardInterrupt: the others have to come home first
            interrupt = error
        for helper in helpers:
            while not helper.is_home:
                try:
                    helper.wait()
                except BaseException as error:
                    interrupt = error
        if interrupt is not None:
            raise interrupt

    def close(self) -> None:
        """End the threads."""
        for helper in self._helpers:
            helper.close()
        self._helpers.clear()


def _work(left: list[Job]) -> None:
    """Take jobs (each in one step, so that no job is taken twice) until none is left."""
    while True:
        try:
            job = left.pop()
        except IndexError:
            return
        job()


class _Gate:
    """A counter that one thread advances and one other waits for."""

    def __init__(self, spin: Spin, linger: int) -> None:
        self._linger: Final = linger
        self._word: Final = ctypes.c_long(0)
        self._address: Final = ctypes.addressof(self._word)
        self._spin: Final = spin
        self._sleep: Final = threading.Lock()
        self._sleep.acquire()
        self._asleep = False
        self.looks = LOOKS

    @property
    def count(self) -> int:
        return self._word.value

    def advance(self) -> None:
        self._word.value += 1
        # A sleeper that has just woken up by itself finds the lock open next time, and looks again.
        if self._asleep and self._sleep.locked():
            self._sleep.release()

    def wait(self, seen: int) -> None:
        """Return when the count is not ``seen`` any more, or now and then before that."""
        if self._spin(self._address, seen, self.looks, self._linger):
            return
        self._asleep = True
        if self.count == seen:
            self._sleep.acquire()
        self._asleep = False


class _Helper:
    """One thread that waits for work."""

    def __init__(self, number: int, spin: Spin) -> None:
        self._go: Final = _Gate(spin, LINGER)
        self._home: Final = _Gate(spin, SHORT_LINGER)
        self._left: list[Job] | None = None
        self._thread: Final = threading.Thread(
            target=self._main, name=f"asyncvmm-worker-{number}", daemon=True
        )
        self._thread.start()

    @property
    def is_home(self) -> bool:
        return self._home.count == self._go.count

    def begin(self, left: list[Job], looks: int) -> None:
        self._left = left
        self._go.looks = self._home.looks = looks
        self._go.advance()

    def wait(self) -> None:
        self._home.wait(self._go.count - 1)

    def close(self) -> None:
        self._left = None
        self._go.advance()
        self._thread.join()

    def _main(self) -> None:
        seen = 0
        while True:
            while self._go.count == seen:
                self._go.wait(seen)
            seen += 1
            left = self._left
            if left is None:
                return
            _work(left)
            self._left = None
            self._home.advance()
