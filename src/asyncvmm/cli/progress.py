"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from asyncvmm.plugin.images import ProgressTask


class _Bar:
    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar = bar

    def advance(self, amount: int) -> None:
        """See ProgressTask."""
        self._bar.update(amount)


class BarProgress:
    """A Progress with one bar a task; without a terminal only the tasks' names, a line each."""

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[ProgressTask]:
        """See Progress."""
        terminal = sys.stderr.isatty()
        if not terminal:
            print(f"asyncvmm: {label}", file=sys.stderr, flush=True)
        with tqdm(
            total=total,
            desc=label,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            file=sys.stderr,
            disable=not terminal,
            leave=False,
        ) as bar:
            yield _Bar(bar)

    def note(self, text: str) -> None:
        """See Progress."""
        print(f"asyncvmm: {text}", file=sys.stderr, flush=True)
