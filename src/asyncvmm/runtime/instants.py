"""The instants of a guest's kept history, for ``Guest.at`` and ``Guest.goto``."""

from __future__ import annotations

from typing import Final

import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import Machine
from asyncvmm.runtime.history import History
from asyncvmm.runtime.visits import Checkpoint, Visit

HELD_UP: Final = ("io.", "net.")


async def come_to(history: History, time_ns: int | None, steps: int | None) -> Visit:
    """A visit at one instant of the history: by virtual time, or by steps. Close it.

    What entered at that very instant has not yet. ConfigError when it is not in the history.
    """
    if (time_ns is None) == (steps is None):
        raise ConfigError("an instant is a virtual time in ns, or steps=N")
    wanted = time_ns if steps is None else steps
    assert wanted is not None
    _check(history, wanted, by_time=steps is None)

    def place(checkpoint: Checkpoint) -> int:
        return checkpoint.now_ns if steps is None else checkpoint.steps

    def earlier(checkpoint: Checkpoint) -> bool:
        if steps is None and not checkpoint.fresh:
            return checkpoint.now_ns <= wanted
        return place(checkpoint) < wanted

    visit = history.visit(history.before(earlier) or history.checkpoints[0])
    try:
        while True:
            for _ in visit.advance_to(wanted) if steps is None else visit.advance(wanted):
                await trio.lowlevel.checkpoint()
            after = visit.next
            if (visit.now_ns if steps is None else visit.steps) >= wanted:
                return visit
            if after is None or place(after) > wanted:
                raise ConfigError(f"the history of {history.machine.name} has a gap there")
            visit.close()
            visit = history.visit(after)  # it was reset on the way
    except BaseException:
        visit.close()
        raise


def _check(history: History, wanted: int, *, by_time: bool) -> None:
    first = history.checkpoints[0]
    begin = first.now_ns if by_time else first.steps
    end = history.end[0 if by_time else 1]
    unit = "ns" if by_time else "steps"
    if wanted < begin:
        raise ConfigError(
            f"what is kept begins at {begin} {unit}, after {wanted}: call keep_history earlier, or "
            "with more snapshots"
        )
    if wanted > end:
        raise ConfigError(f"{wanted} {unit} is in the future: {end} is the last instant known")


def check_repeatable(machine: Machine, knobs: dict[str, object]) -> None:
    """ConfigError when a guest with such knobs does not repeat itself on a machine beside it."""
    for name in knobs:
        if name.startswith(HELD_UP):
            raise ConfigError(
                f"{name} holds up the devices of {machine.name}, which going back does not repeat: "
                "keep its history without it"
            )


def check_disks(machine: Machine) -> None:
    """ConfigError when a disk's file would stay as the guest's future left it."""
    for device in machine.devices:
        spec = device.type.blob(device.config)
        if spec is not None and not spec.read_only and not spec.snapshot:
            raise ConfigError(
                f"{spec.path} is written in place and would not go back with its guest: start that "
                "with ,snapshot after the disk's name, or start a new guest from guest.at(...)"
            )
