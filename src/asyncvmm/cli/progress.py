"""Progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from asyncvmm.plugin.images import ProgressTask

# A task is counted in bytes or in steps; nothing that counts steps has as many as this.
LEAST_BYTES = 100_000


class _Bar:
    def __init__(self, update: Callable[[float], object]) -> None:
        self._update = update

    def advance(self, amount: int) -> None:
        """See ProgressTask."""
        self._update(amount)


class BarProgress:
    """A Progress with one bar a task; without a terminal only the tasks' names, a line each."""

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[ProgressTask]:
        """See Progress."""
        from tqdm import tqdm  # slow to load, and most commands show no bar

        terminal = sys.stderr.isatty()
        if not terminal:
            print(f"asyncvmm: {label}", file=sys.stderr, flush=True)
        in_bytes = total is not None and total >= LEAST_BYTES
        with tqdm(
            total=total,
            desc=label,
            unit="B" if in_bytes else "step",
            unit_scale=in_bytes,
            unit_divisor=1024 if in_bytes else 1000,
            bar_format=None if total is not None else "{desc}: {elapsed}",
            file=sys.stderr,
            disable=not terminal,
            leave=False,
        ) as bar:
            yield _Bar(bar.update)

    def note(self, text: str) -> None:
        """See Progress."""
        print(f"asyncvmm: {text}", file=sys.stderr, flush=True)
