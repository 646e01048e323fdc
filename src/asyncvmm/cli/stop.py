"""``asyncvmm stop``: end a machine that runs for itself."""

from __future__ import annotations

import argparse
from typing import Any, Final

import trio

from asyncvmm.api import VmFolder, open_folder
from asyncvmm.cli.checks import check_timeout
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.terminal import say
from asyncvmm.runtime.folder.client import NotRunningError, ask
from asyncvmm.runtime.folder.server import POWER_OFF_S

RELEASE_S: Final = 10  # until the process that ends has let go of the folder


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "stop",
        help="shut a started machine down, or keep its state",
        description="Ask a machine's guest to power off, and wait for that.",
        epilog="examples:\n  asyncvmm stop web.vm\n  asyncvmm stop --save web.vm db.vm\n"
        "  asyncvmm stop --force web.vm             as a power cut",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--save", action="store_true", help="keep its state: the next start goes on")
    how.add_argument("--force", action="store_true", help="at once, as a power cut")
    parser.add_argument(
        "--timeout",
        type=float,
        default=POWER_OFF_S,
        metavar="SECONDS",
        help=f"how long the guest may take (default: {POWER_OFF_S:g}); it runs on afterwards",
    )
    parser.set_defaults(function=stop)


def stop(options: argparse.Namespace) -> int:
    """Each of them."""
    check_timeout(options)
    mode = "save" if options.save else "force" if options.force else "power-off"
    request = {"do": "stop", "mode": mode, "timeout_s": options.timeout}
    for path in options.folders:
        folder = open_folder(path)
        try:
            ended = trio.run(_ended, folder, request)
        except NotRunningError:
            say(f"{path} does not run")
            continue
        except BaseExceptionGroup as group:
            raise only_error(group) from None
        code = ended.get("code") or 0
        how = (
            "its state is kept" if options.save else "stopped" + (f", code {code}" if code else "")
        )
        say(f"{path}: {how}")
    return 0


async def _ended(folder: VmFolder, request: dict[str, Any]) -> dict[str, Any]:
    """What the machine's process says of the end; who stops it may start it again at once."""
    before = folder.holder
    ended = await ask(folder.paths, request)
    with trio.move_on_after(RELEASE_S):
        while before is not None and folder.holder == before:  # it said so a moment before
            await trio.sleep(0.01)
    return ended
