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
from typing import Any, Final

from asyncvmm.engine.jit.hot import HotPages, Request, compile_request, sample

IDLE_LOOKS: Final = 50  # in vain before an engine is not looked at until it runs again
_MAX_COUNTS: Final = 1 << 16

_log = logging.getLogger("asyncvmm")


class _Watched:
    """One engine: how often its pages were seen, and how often in vain it was looked at."""

    def __init__(self, session: Any) -> None:
        self.session: weakref.ref[Any] = weakref.ref(session)
        self.counts: dict[int, list[int]] = {}
        self.idle = 0


class Background:
    """Samples the harts of every engine that was added, and compiles what they ask for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of _all and _thread
        self._all: list[_Watched] = []
        self._thread: threading.Thread | None = None
        self._awake = threading.Event()
        self._over = False
        self.failures = 0

    def add(self, session: Any) -> None:
        """Look after an engine until it is gone. Any thread may call."""
        with self._lock:
            self._all.append(_Watched(session))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="asyncvmm-jit")
                self._thread.start()
        self._awake.set()

    def wake(self) -> None:
        """An engine runs again. Any thread may call."""
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
        """One look at each engine; the seconds until the next, or 0 to sleep until there is news."""
        with self._lock:
            self._all = [each for each in self._all if each.session() is not None]
            watched = list(self._all)
        interval_s = 0.0
        for each in watched:
            session = each.session()
            if session is None or session.asleep:
                continue
            hot: HotPages = session.hot
            each.idle = 0 if sample(session, hot, each.counts) else each.idle + 1
            if len(each.counts) > _MAX_COUNTS:
                each.counts.clear()  # tables come and go
            if hot.requests:
                self._compile(session, hot, hot.requests.popleft())
            elif each.idle >= IDLE_LOOKS:
                each.idle = 0
                session.asleep = True
                continue
            interval_s = min(interval_s or hot.interval_s, hot.interval_s)
        return interval_s

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
