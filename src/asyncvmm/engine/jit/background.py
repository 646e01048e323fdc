"""The thread that finds hot code and compiles it, one for all engines of a process.

It starts with the first engine that wants it, sleeps while no hart runs and is joined when the process
ends. It holds engines by weak references, and never touches a guest: see ``hot``.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections import deque
from typing import Any, Final

from asyncvmm.engine.jit.hot import HotPages, Request, compile_request, sample

IDLE_LOOKS: Final = 50  # in vain before an engine is not looked at until it runs again
CALM_LOOKS: Final = 16  # rounds without news before the next ones come more and more rarely
MAX_CALM: Final = 4  # up to 2**4 times
FEW_ENGINES: Final = 4  # of more than these, each is left at the first look in vain
_MAX_COUNTS: Final = 1 << 16

_log = logging.getLogger("asyncvmm")


class Watched:
    """One engine: how often its pages were seen, and how often in vain it was looked at."""

    def __init__(self, session: Any) -> None:
        self.session: weakref.ref[Any] = weakref.ref(session)
        self.counts: dict[int, list[int]] = {}
        self.idle = 0


class Background:
    """Samples the harts of every engine that was added, and compiles what they ask for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of _thread
        self._woken: deque[Watched] = deque()
        self._active: list[Watched] = []  # those that are looked at: the thread's own
        self._thread: threading.Thread | None = None
        self._awake = threading.Event()
        self._over = False
        self._calm = 0  # rounds in a row in which all harts were in optimised code
        self.failures = 0

    def add(self, session: Any) -> Watched:
        """Look after an engine until it is gone; what to ``wake`` it with. Any thread may call."""
        watched = Watched(session)
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="asyncvmm-jit")
                self._thread.start()
        self.wake(watched)
        return watched

    def wake(self, watched: Watched) -> None:
        """An engine runs again. Any thread may call."""
        self._woken.append(watched)
        if not self._awake.is_set():
            self._awake.set()

    def finish(self) -> None:
        """End the thread: LLVM must not be at work when the process takes it down."""
        self._over = True
        self._awake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over:
            self._awake.clear()
            interval_s = self._round()
            if interval_s:
                time.sleep(interval_s)
            else:
                self._awake.wait()

    def _round(self) -> float:
        """One look at each engine that runs; the seconds until the next, or 0 to sleep until there is
        news.

        A look takes Python's lock and a core, which two busy guests on two cores have no other of: where
        all is optimised it comes rarely.
        """
        active = self._active
        while self._woken:
            watched = self._woken.popleft()
            if watched not in active:
                active.append(watched)
        vain = IDLE_LOOKS if len(active) <= FEW_ENGINES else 1
        interval_s = 0.0
        self._calm += 1
        stay = []
        for each in active:
            session = each.session()
            if session is None:
                continue
            hot: HotPages = session.hot
            running, news = sample(session, hot, each.counts)
            each.idle = 0 if running else each.idle + 1
            if news or hot.requests:
                self._calm = 0
            if len(each.counts) > _MAX_COUNTS:
                each.counts.clear()  # tables come and go
            if hot.requests:
                self._compile(session, hot, hot.requests.popleft())
            elif each.idle >= vain and not hot.wanted:
                each.idle = 0
                session.asleep = True
                continue
            stay.append(each)
            interval_s = min(interval_s or hot.interval_s, hot.interval_s)
        self._active = stay
        return interval_s * (1 << min(self._calm // CALM_LOOKS, MAX_CALM))

    def _compile(self, session: Any, hot: HotPages, request: Request) -> None:
        try:
            made = compile_request(request, session.parts.rounds)
        except Exception:  # the first tier goes on without it
            self.failures += 1
            if self.failures == 1:
                _log.exception("a hot page could not be optimised")
            return
        if made is not None:
            hot.made.append(made)
            session.pending = 1
            hot.store.add(request.key, made.region)


_shared: Background | None = None
_creating: Final = threading.Lock()


def background() -> Background:
    """The process's one. Any thread may call."""
    global _shared
    with _creating:
        if _shared is None:
            _shared = Background()
            atexit.register(_shared.finish)
        return _shared
