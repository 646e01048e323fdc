"""One piece of work: a machine that is run on any engine, and what it was like on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from asyncvmm.base.errors import AsyncvmmError
from asyncvmm.engine.interpreter import Engine
from asyncvmm.machine import RAN_STEPS, Machine

MARK: Final = "SOAK-END"
"""What a session's script says when it comes to its end."""

FAULT: Final = "SOAK-BAD"
"""What it says when a command failed."""

MakeMachine = Callable[[Engine], Machine]


class WorkFailedError(AsyncvmmError):
    """A guest crashed, stopped, or did not come to the end of its work."""


@dataclass(frozen=True)
class Work:
    """A guest and what it is told.

    The machine is looked at every ``grid_steps``; ``looks`` says at how many of these points it is
    compared at most. With a ``session``, it is typed in when there is a prompt, and the work ends a
    grid step after its end mark; else it ends after the last look.
    """

    name: str
    make: MakeMachine
    grid_steps: int
    looks: int
    session: bytes = b""
    digest_every: int = 1


@dataclass(frozen=True)
class Trace:
    """What there was to see: (steps, digest) of each look, and the console's output."""

    digests: tuple[tuple[int, str], ...]
    output: bytes
    steps: int
    virtual_ns: int


def perform(work: Work, engine: Engine, cuts: Random | None = None) -> Trace:
    """Do it. With ``cuts``, the steps between two looks are done in several runs.

    WorkFailedError when the guest stops, panics or does not come to the end.
    """
    machine = work.make(engine)
    digests: list[tuple[int, str]] = []
    output = bytearray()
    waiting = work.session
    for look in range(1, work.looks + 1):
        _run(machine, work, look * work.grid_steps, cuts)
        output += machine.console.take_output()
        if b"Kernel panic" in output or b"Oops" in output:
            raise WorkFailedError(f"{work.name}: the guest crashed{_said(output)}")
        ended = bool(work.session) and f"\n{MARK}".encode() in output
        if look % work.digest_every == 0 or ended or look == work.looks:
            digests.append((look * work.grid_steps, machine.digest()))
        if ended:
            break
        if waiting and (waiting != work.session or b"# " in output[-16:]):
            waiting = waiting[machine.console.push(waiting) :]
    else:
        if work.session:
            raise WorkFailedError(f"{work.name}: it does not come to its end{_said(output)}")
    if FAULT.encode() in output:
        raise WorkFailedError(f"{work.name}: a command failed{_said(output)}")
    steps = sum(int(hart.steps) for hart in machine.harts)
    return Trace(tuple(digests), bytes(output), steps, int(machine.scheduler.now_ns()))


def _run(machine: Machine, work: Work, until: int, cuts: Random | None) -> None:
    """Go on until that many steps were done since the start."""
    done = sum(int(hart.steps) for hart in machine.harts)
    while done < until:
        left = until - done
        part = left if cuts is None or left < 1000 else cuts.randrange(left // 3, left + 1)
        reason = machine.run(max_steps=part)
        done = sum(int(hart.steps) for hart in machine.harts)
        if reason != RAN_STEPS:
            raise WorkFailedError(f"{work.name}: it stopped ({reason}) after {done} steps")


def _said(output: bytes | bytearray) -> str:
    return f"; it said {bytes(output[-400:]).decode(errors='replace')!r}"
