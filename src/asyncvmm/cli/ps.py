"""``asyncvmm ps``: the machines of this user, and how they are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import trio

from asyncvmm.api import AsyncvmmError, VmFolder, open_folder
from asyncvmm.base.texts import printable
from asyncvmm.base.units import MIB
from asyncvmm.runtime.folder.client import ask
from asyncvmm.runtime.folder.index import known
from asyncvmm.runtime.folder.layout import is_folder

HEADINGS: Final = ("FOLDER", "STATE", "PID", "UP", "VIRTUAL", "MEMORY", "CPU", "VIEWERS")
PATIENCE_S: Final = 5.0


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "ps",
        help="which machines there are, and how they are",
        description="Show machines: those that this user made or started, or those in the given folders.",
        epilog="examples:\n  asyncvmm ps\n  asyncvmm ps ~/machines          also all that are in there\n"
        "  asyncvmm ps --json\n\nUP is wall time and VIRTUAL the guest's own; MEMORY is what it uses of "
        "its RAM;\nCPU is the time of this machine's cores that its process took.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="*")
    parser.add_argument("--running", action="store_true", help="only those that run")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(function=ps)


def ps(options: argparse.Namespace) -> int:
    """Print a line each."""
    folders = [open_folder(path) for path in _find([Path(path) for path in options.folders])]
    states = trio.run(describe_all, folders)
    if options.running:
        states = [state for state in states if state["state"] in ("running", "busy", "idle")]
    if options.json:
        print(json.dumps(states, indent=1))
        return 0
    rows = [HEADINGS, *(describe_row(state) for state in states)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print(printable("  ".join(cells).rstrip()))
    return 0


def _find(given: list[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in given:
        if is_folder(path) or not path.is_dir():
            found[path.absolute()] = None
        else:
            found.update(
                {each: None for each in sorted(path.absolute().iterdir()) if is_folder(each)}
            )
    if not given:
        found.update(dict.fromkeys(known()))
    return list(found)


async def describe_all(folders: list[VmFolder]) -> list[dict[str, Any]]:
    """The state of each, asked all at once."""
    found: list[dict[str, Any]] = [{} for _ in folders]

    async def one(number: int, folder: VmFolder) -> None:
        found[number] = await describe(folder)

    async with trio.open_nursery() as nursery:
        for number, folder in enumerate(folders):
            nursery.start_soon(one, number, folder)
    return found


async def describe(folder: VmFolder) -> dict[str, Any]:
    """A machine's state as plain data."""
    state: dict[str, Any] = {"folder": str(folder.path), "state": "stopped"}
    holder = folder.holder
    try:
        if holder is None:
            if folder.head.resume is not None:
                state["state"] = "saved"
        elif not holder.serves:
            state.update(state="in use", pid=holder.pid, command=holder.command)
        else:
            state.update(state="starting", pid=holder.pid)
            with trio.move_on_after(PATIENCE_S) as patience:
                state.update(await ask(folder.paths, {"do": "status"}))
            if patience.cancelled_caught:
                state["state"] = "hangs"
    except AsyncvmmError as error:
        state["error"] = str(error)
    return state


def describe_row(state: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a machine's line."""

    def shown(key: str, text: str) -> str:
        return text.format(state[key]) if key in state else "-"

    memory = "-"
    if "memory_bytes" in state:
        memory = f"{state['memory_bytes'] / MIB:.0f}/{state['memory_size_bytes'] / MIB:.0f} MiB"
    name = str(state["state"])
    if name == "running":
        name = "running" if state.get("busy") else "idle"
    virtual = f"{state['virtual_ns'] / 1e9:.1f} s" if "virtual_ns" in state else "-"
    return (
        _short(Path(state["folder"])),
        name if "error" not in state else f"{name}: {state['error'][:60]}",
        shown("pid", "{}"),
        shown("wall_s", "{:.1f} s"),
        virtual,
        memory,
        shown("cpu_s", "{:.1f} s"),
        shown("viewers", "{}"),
    )


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)
