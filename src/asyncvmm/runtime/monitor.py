"""``monitor`` commands of gdb: what the protocol has no packets for."""

from __future__ import annotations

from typing import Final, Protocol

from asyncvmm.base.errors import ConfigError
from asyncvmm.gdb import MachineTarget
from asyncvmm.machine import Machine
from asyncvmm.runtime.history import History, total_steps
from asyncvmm.runtime.scenario import parse_time_ns
from asyncvmm.runtime.travel import Past

HELP: Final = """\
info                 the guest, its time, its harts, and how far back one can go
snapshot [FOLDER]    remember this instant, or save it to a new folder
goto TIME            go to a virtual time (1.5s, 20ms, 300us, 4000ns) or to N steps, or to `now`
physical on|off      addresses of memory are physical ones
"""


class Debugger(Protocol):
    """What the commands are about."""

    why_no_past: str

    @property
    def machine(self) -> Machine:
        """The guest's."""
        ...

    @property
    def target(self) -> MachineTarget:
        """What gdb sees, which may be in the past."""
        ...

    @property
    def history(self) -> History | None:
        """What is remembered, or None where nothing can be."""
        ...

    def past(self) -> Past:
        """Where one is in it; ConfigError when there is none."""
        ...

    def snapshot(self, folder: str) -> str:
        """Remember this instant, or save it to a new folder; what there is to say."""
        ...


async def run_monitor(debugger: Debugger, command: str) -> str:
    """Do a command and return what it says; ConfigError says what is wrong."""
    words = command.split()
    match words:
        case ["info"]:
            return _info(debugger)
        case ["physical", ("on" | "off") as word]:
            debugger.target.physical = word == "on"
            return f"memory is shown by {'physical' if word == 'on' else 'virtual'} address\n"
        case ["snapshot", *rest] if len(rest) < 2:
            return debugger.snapshot(rest[0] if rest else "")
        case ["goto", *rest] if rest:
            return await _goto(debugger, rest)
        case [] | ["help"]:
            return HELP
        case _:
            return f"no monitor command {command!r}\n{HELP}"


async def _goto(debugger: Debugger, words: list[str]) -> str:
    past = debugger.past()
    match words:
        case ["now"]:
            await past.go_to(past.end)
        case [number, "steps"] if number.isdecimal():
            await past.go_to(int(number))
        case [text]:
            await past.go_to_time(parse_time_ns(text))
        case _:
            raise ConfigError("goto takes a time such as 1.5s, or `N steps`, or `now`")
    note = "(maintenance flush register-cache shows it)"
    return f"at {_place(debugger)} {note}\n"


def _place(debugger: Debugger) -> str:
    machine = debugger.target.machine
    now_ns = int(machine.scheduler.now_ns())
    return f"{now_ns / 1e9:.9f} s, {total_steps(machine)} steps"


def _info(debugger: Debugger) -> str:
    machine, target = debugger.target.machine, debugger.target
    lines = [f"guest {machine.name}: {_place(debugger)}"]
    if machine is not debugger.machine:
        lines.append(
            f"the guest itself is at {int(debugger.machine.scheduler.now_ns()) / 1e9:.9f} s"
        )
    for number, hart in enumerate(machine.harts):
        lines.append(
            f"hart {number}: {target.describe(number)}, pc {target.read_register(number, 32):#x}, "
            f"{int(hart.steps)} steps, {int(hart.traps)} traps"
        )
    lines.append(f"break- and watchpoints: {machine.guard.point_count}")
    if target.locked:
        lines.append("a journal is kept: nothing can be written")
    history = debugger.history
    if history is None:
        lines.append("no history: " + debugger.why_no_past)
    else:
        first = history.checkpoints[0]
        lines.append(
            f"history from {first.now_ns / 1e9:.9f} s ({first.steps} steps), "
            f"{len(history.checkpoints)} snapshots"
        )
    return "\n".join(lines) + "\n"
