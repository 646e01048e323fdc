"""Commands, their errors and their exit codes."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import asyncvmm
from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.base.texts import KEPT, printable
from asyncvmm.cli import terminal
from asyncvmm.plugin.options import nearest

# Each is a module of this package, with ``add_parser``.
COMMANDS: Final = (
    "run",
    "create",
    "start",
    "stop",
    "console",
    "logs",
    "ps",
    "inspect",
    "config",
    "snapshot",
    "rm",
    "image",
    "disk",
    "devices",
    "new-device",
    "dtb",
    "bench",
    "up",
    "verify",
    "replay",
    "profile",
)
_SubParsers: Any = argparse._SubParsersAction
USAGE_STATUS = 2
FAILURE_STATUS = 1
INTERRUPTED_STATUS = 130

EPILOG = """\
examples:
  asyncvmm run demo                          a guest of our own, at once, without a download
  asyncvmm run debian -- uname -a            one command in Debian's own kernel
  asyncvmm run linux                         a shell in a small Linux
  asyncvmm run --kernel Image --append "console=ttyS0" --disk root.img
  asyncvmm disk create web.qcow2 4G          a disk that grows as it is written to
  asyncvmm image list                        what can be run by name
"""


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands, or of one: what the others need is then not loaded."""
    parser = argparse.ArgumentParser(
        prog="asyncvmm",
        description="Virtual machines as Python values: RISC-V operating systems in one process.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"asyncvmm {asyncvmm.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS if command is None else (command,):
        module = importlib.import_module(f"asyncvmm.cli.{name.replace('-', '_')}")
        module.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. 2: the user's input is wrong, 1: the world's."""
    terminal.open_missing_streams()
    try:
        try:
            status = _run(list(sys.argv[1:] if arguments is None else arguments))
        except ConfigError as error:
            status = _complain(str(error), USAGE_STATUS)
        except AsyncvmmError as error:
            status = _complain(str(error), FAILURE_STATUS)
        except KeyboardInterrupt:
            status = INTERRUPTED_STATUS
        terminal.flush_standard()
        return status
    except BrokenPipeError:
        # The reader of our output is gone; so is the reason to write.
        terminal.drop_standard()
        return 128 + signal.SIGPIPE


def _run(words: list[str]) -> int:
    guest_command: list[str] | None = None
    if "--" in words:
        at = words.index("--")
        words, guest_command = words[:at], words[at + 1 :]
    parser = build_parser(words[0] if words and words[0] in COMMANDS else None)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        _unknown(parser, options.command, unknown)
    if guest_command is not None:
        if options.command not in ("run", "profile"):
            parser.error(f"{options.command} takes no guest command after --")
        if not guest_command:
            parser.error("after -- comes the command to run in the guest")
    options.guest_command = guest_command
    try:
        status: int = options.function(options)
        return status
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}", FAILURE_STATUS)


def _unknown(parser: argparse.ArgumentParser, command: str, words: list[str]) -> NoReturn:
    """End with a usage error that has the nearest right spelling of the first option of ``words``."""
    (commands,) = (each for each in parser._actions if isinstance(each, _SubParsers))
    own: argparse.ArgumentParser = commands.choices[command]
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            known = [option for option in own._option_string_actions if len(option) > 2]
            own.error(f"no option {name}: {nearest(name, known)}")
    own.error(f"unrecognized arguments: {' '.join(words)}")


def _complain(text: str, status: int) -> int:
    # Files and guests may have had their say in it.
    print(f"asyncvmm: {printable(text, keep=KEPT)}", file=sys.stderr)
    return status
