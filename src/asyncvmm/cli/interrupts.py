"""Ctrl-C for work on files: it takes effect where the file is whole."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any, NoReturn

from tqdm import tqdm


class Interruptible:
    """A block with a progress bar that Ctrl-C or SIGTERM end at the next call of the progress.

    The value of the block is that progress: a function of what is done and of all there is to do.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._signalled = 0
        self._before: dict[int, Any] = {}
        self._bar: tqdm[NoReturn] | None = None

    def __enter__(self) -> Interruptible:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signalled = number

    def __call__(self, done: int, total: int) -> None:
        """Show how far it is; KeyboardInterrupt when it should end here."""
        if self._signalled:
            raise KeyboardInterrupt
        if self._bar is None:
            counts_bytes = total >= 1 << 16
            self._bar = tqdm(
                total=total,
                desc=self._label,
                unit="B" if counts_bytes else "table",
                unit_scale=counts_bytes,
                unit_divisor=1024,
                file=sys.stderr,
                disable=not sys.stderr.isatty(),
                leave=False,
            )
        if not self._bar.disable:
            self._bar.update(done - self._bar.n)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)
