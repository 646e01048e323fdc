"""``asyncvmm snapshot``: a machine's states, kept by name."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import attrs
import trio

from asyncvmm.api import VmFolder, open_folder
from asyncvmm.base.texts import printable
from asyncvmm.base.units import MIB, PAGE_SIZE
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.interrupts import Interruptible
from asyncvmm.cli.progress import BarProgress
from asyncvmm.cli.terminal import say
from asyncvmm.runtime.folder.client import ask
from asyncvmm.runtime.folder.diff import Difference
from asyncvmm.runtime.folder.head import Head
from asyncvmm.runtime.folder.snapshots import SnapshotInfo

EPILOG = """\
examples:
  asyncvmm snapshot save web.vm fresh --note "after the installation"
  asyncvmm snapshot list web.vm
  asyncvmm snapshot tree web.vm
  asyncvmm snapshot restore web.vm fresh && asyncvmm start web.vm
  asyncvmm snapshot diff web.vm fresh later
  asyncvmm snapshot delete web.vm fresh

A snapshot is all that the machine is: memory, registers, devices, disks, NVRAM. A machine that runs goes on
running. Of one that is stopped its kept state is saved, or else its power-on with its disks. Pages are kept
once, whichever snapshots have them. `restore` puts the disks back as they were: what the machine wrote to
them since its last snapshot is lost.
"""
LISTED = 20


def add_parser(commands: Any) -> None:
    """Add the command and its actions."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "snapshot",
        help="keep a machine's states by name, and go back to them",
        description="Keep a machine's states by name, go back to them, compare them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str, function: Any, *names: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        made.add_argument("folder", metavar="FOLDER")
        for each in names:
            made.add_argument(each, metavar=each.upper())
        made.set_defaults(function=function)
        return made

    action("save", "keep what the machine is now", save, "name").add_argument(
        "--note", default="", help="a line on what it is"
    )
    action("list", "all of them, oldest first", show_list).add_argument(
        "--json", action="store_true", help="for programs"
    )
    action("tree", "which one came from which", show_tree)
    action("restore", "let the stopped machine go on from one", restore, "name")
    action("delete", "forget one; pages that others have stay", delete, "name")
    action(
        "diff", "what differs: pages, registers, devices, disks", diff, "name", "other"
    ).add_argument("--json", action="store_true", help="for programs")


def _serves(folder: VmFolder) -> bool:
    holder = folder.holder
    return holder is not None and holder.serves


def _ask(folder: VmFolder, **request: Any) -> dict[str, Any]:
    try:
        return trio.run(ask, folder.paths, request)
    except BaseExceptionGroup as group:
        raise only_error(group) from None


def save(options: argparse.Namespace) -> int:
    """Through the machine's process when it runs."""
    folder = open_folder(options.folder)
    began = time.monotonic()
    with BarProgress().task("saving", None):
        if _serves(folder):
            pages = _ask(folder, do="snapshot", name=options.name, note=options.note)["new_pages"]
        else:
            try:
                pages = trio.run(folder.snapshot, options.name, options.note)
            except BaseExceptionGroup as group:
                raise only_error(group) from None
    took = time.monotonic() - began
    size = pages * PAGE_SIZE / MIB
    say(f"{options.name}: {pages} new pages ({size:.1f} MiB before compression) in {took:.2f} s")
    return 0


def show_list(options: argparse.Namespace) -> int:
    """A line each."""
    folder = open_folder(options.folder)
    found = list(folder.snapshots)
    if options.json:
        print(json.dumps([attrs.asdict(info) for info in found], indent=1))
        return 0
    for line in list_lines(folder.head, found):
        print(line)
    return 0


def list_lines(head: Head, found: Sequence[SnapshotInfo]) -> list[str]:
    """A line for each; a star for the one that the machine descends from."""
    width = max((len(info.name) for info in found), default=0)
    return [
        f"{'*' if info.name == head.parent else ' '} {info.name:<{width}}  {_line(info)}"
        for info in found
    ]


def _line(info: SnapshotInfo) -> str:
    if info.damage:
        return printable(f"damaged: {info.damage}")
    created = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(info.created_s))
    memory = f"{info.memory_bytes / MIB:.0f} MiB"
    line = f"{created}  {info.time_ns / 1e9:>12.3f} s  {memory:>9}  {info.note}"
    return printable(line.rstrip())


def show_tree(options: argparse.Namespace) -> int:
    """Each below the one that it descends from; where the machine is now."""
    folder = open_folder(options.folder)
    print("\n".join(tree_lines(folder.head, folder.snapshots)))
    return 0


def tree_lines(head: Head, found: Sequence[SnapshotInfo]) -> list[str]:
    """Each snapshot below the one that it descends from, and the machine itself."""
    names = {info.name for info in found}
    children: dict[str | None, list[SnapshotInfo]] = {}
    for info in found:
        children.setdefault(info.parent if info.parent in names else None, []).append(info)
    now = "kept state" if head.resume == "_stopped" else "the machine"
    lines: list[str] = []
    seen: set[str] = set()

    def walk(parent: str | None, indent: str) -> None:
        below: list[SnapshotInfo | None] = [
            i for i in children.get(parent, []) if i.name not in seen
        ]
        if head.parent == parent or (parent is None and head.parent not in names):
            below.append(None)
        for number, info in enumerate(below):
            last = number == len(below) - 1
            branch, more = (
                ("", "") if parent is None else ("`- ", "   ") if last else ("|- ", "|  ")
            )
            if info is None:
                lines.append(f"{indent}{branch}({now})")
                continue
            seen.add(info.name)
            lines.append(f"{indent}{branch}{info.name}  {_line(info)}")
            walk(info.name, indent + more)

    walk(None, "")
    return lines


def restore(options: argparse.Namespace) -> int:
    """Only while it is stopped."""
    folder = open_folder(options.folder)
    with Interruptible("restoring its disks") as progress:
        folder.restore(options.name, progress)
    say(
        f"{options.folder} goes on from {options.name}: `asyncvmm start {options.folder}`, or `asyncvmm run`"
    )
    return 0


def delete(options: argparse.Namespace) -> int:
    """Through the machine's process when it runs."""
    folder = open_folder(options.folder)
    if _serves(folder):
        _ask(folder, do="delete-snapshot", name=options.name)
    else:
        folder.delete_snapshot(options.name)
    return 0


def diff(options: argparse.Namespace) -> int:
    """0 when nothing differs, 1 when something does."""
    found = open_folder(options.folder).diff(options.name, options.other)
    if options.json:
        print(json.dumps(attrs.asdict(found), indent=1))
    elif found.same:
        print("the same")
    else:
        print("\n".join(difference_lines(found)))
    return 0 if found.same else 1


def difference_lines(found: Difference) -> list[str]:
    """What differs, for people."""
    before, after = found.time_ns
    lines = [f"time       {before / 1e9:.6f} s, {after / 1e9:.6f} s"]
    lines += [f"config     {key}" for key in found.config]
    lines += _run_lines("memory", "pages", found.memory)
    for name, runs in found.disks.items():
        lines += _run_lines(name, "blocks", runs)
    lines += [
        f"hart {hart}     {register:<12} {_hex(old)} -> {_hex(new)}"
        for hart, register, old, new in found.registers[:LISTED]
    ]
    if len(found.registers) > LISTED:
        lines.append(
            f"           and {len(found.registers) - LISTED} more registers (--json has all)"
        )
    lines += [f"device     {path}: {part}" for path, part in found.devices]
    lines += [f"machine    {part}" for part in found.parts]
    return [printable(line) for line in lines]


def _hex(number: int) -> str:
    return f"{number & (1 << 64) - 1:#x}"


def _run_lines(what: str, unit: str, runs: tuple[tuple[int, int], ...]) -> list[str]:
    if not runs:
        return []
    total = sum(count for _, count in runs)
    lines = [f"{what:<10} {total} {unit} of 4 KiB differ, in {len(runs)} places"]
    lines += [f"           {first * PAGE_SIZE:#012x} {count}" for first, count in runs[:LISTED]]
    if len(runs) > LISTED:
        lines.append(f"           and {len(runs) - LISTED} more places (--json has all)")
    return lines
