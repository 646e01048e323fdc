"""Results of a task on asyncvmm beside QEMU: runs in turn, medians, a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

OURS: Final = "asyncvmm"
PEER: Final = "qemu"
NEEDED: Final = 0.7


@attrs.frozen
class Task:
    """What is measured: so many ``amount`` of ``unit`` ("MB", "requests") in one go."""

    name: str
    amount: float
    unit: str


@attrs.define
class Result:
    """Seconds of every run of a task, by machine."""

    task: Task
    seconds: dict[str, list[float]] = attrs.field(factory=dict)

    def add(self, machine: str, seconds: float) -> None:
        """One more run."""
        self.seconds.setdefault(machine, []).append(seconds)

    def rate(self, machine: str) -> float | None:
        """Units per second, the median of the machine's runs; None without any."""
        runs = self.seconds.get(machine)
        return self.task.amount / statistics.median(runs) if runs else None

    @property
    def ratio(self) -> float | None:
        """How many times as fast as QEMU."""
        ours, peer = self.rate(OURS), self.rate(PEER)
        return ours / peer if ours is not None and peer is not None else None


class Results:
    """Results by task, in the order in which they first came."""

    def __init__(self) -> None:
        self.rows: Final[dict[str, Result]] = {}

    def add(self, machine: str, task: Task, seconds: float) -> None:
        """A run of a task has taken so long."""
        self.rows.setdefault(task.name, Result(task)).add(machine, seconds)

    def table(self) -> str:
        """Text: a line a task."""
        lines = [("task", "unit", OURS, PEER, "times")]
        for row in self.rows.values():
            cells = [_number(row.rate(OURS)), _number(row.rate(PEER)), _number(row.ratio, 2)]
            lines.append((row.task.name, f"{row.task.unit}/s", *cells))  # type: ignore[arg-type]
        return format_columns(lines)

    def to_json(self) -> list[dict[str, Any]]:
        """Every run, and what comes of them."""
        return [
            {
                **attrs.asdict(row.task),
                "seconds": _copied(row.seconds),
                OURS: row.rate(OURS),
                PEER: row.rate(PEER),
                "times": row.ratio,
            }
            for row in self.rows.values()
        ]


def format_columns(lines: Sequence[Sequence[str]]) -> str:
    """Words in columns, the first two to the left and the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _copied(seconds: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {machine: list(runs) for machine, runs in seconds.items()}
