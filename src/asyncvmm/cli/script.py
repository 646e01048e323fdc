"""The command ``asyncvmm`` as a process: it begins with ``main`` and ends at once after it."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

from asyncvmm.cli.main import main
from asyncvmm.cli.terminal import flush_standard


def script() -> NoReturn:
    """Run the command line and end the process.

    Taking the interpreter apart frees object by object what goes with the process anyway, guests' memory and
    all: that took 65 to 160 ms, which is what one waits after Ctrl-C. What was registered with ``atexit`` is
    done, and output is written.
    """
    try:
        status = main()
    except SystemExit as error:  # argparse's
        status = _status(error.code)
    atexit._run_exitfuncs()
    try:
        flush_standard()
    finally:
        os._exit(status)


def _status(code: object) -> int:
    if code is None or isinstance(code, int):
        return code or 0
    print(code, file=sys.stderr)
    return 1
