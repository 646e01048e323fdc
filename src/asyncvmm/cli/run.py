"""``asyncvmm run``: a guest at the terminal, in a pipe, or for one command."""

from __future__ import annotations

import argparse
from typing import Any

from asyncvmm.api import ConfigError
from asyncvmm.cli.run_options import add_arguments, add_date, check_options, make_config
from asyncvmm.cli.session import CRASH_STATUS, TIMEOUT_STATUS, Session, run_session
from asyncvmm.cli.terminal import ESCAPE_NAME
from asyncvmm.runtime.folder.layout import is_folder

EPILOG = f"""\
examples:
  asyncvmm run debian -- uname -a
  asyncvmm run debian -- sh -c 'cat /proc/cpuinfo; exit 7'; echo $?
  asyncvmm run linux --harts 2                 interactive; {ESCAPE_NAME} leaves
  asyncvmm run debian-root -p 8080:80 -- nginx -g 'daemon off;'
  asyncvmm run program.elf --stats             bare metal, M-mode
  asyncvmm run --kernel Image --initrd initrd.cpio --append console=ttyS0
  asyncvmm run linux --disk web.qcow2 --snapshot   what is written is thrown away
  asyncvmm run web.vm -- apt list              a machine of `asyncvmm create`: its disks are kept
  asyncvmm run linux --share ./src -- sh -c 'mount -t 9p -o trans=virtio share /mnt; ls /mnt'
  asyncvmm run --firmware fw_dynamic.bin --kernel u-boot.bin --until "=> "
  asyncvmm run edk2 --flash vars.fd            UEFI; its variables are kept in vars.fd

exit status: the command's; for a guest that powers itself off, the code it gave (0 without one);
  1 when --until never came true, 2 wrong input, {TIMEOUT_STATUS} after --timeout, {CRASH_STATUS} when
  the guest cannot go on, 128 + the signal's number after one (130 after an interrupt).
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="run a guest, or one command in it",
        usage="asyncvmm run [TARGET] [options] [-- COMMAND [ARGUMENT...]]",
        description="Run a guest: an image by name, a bare-metal ELF, or a kernel or firmware.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "--cold", action="store_true", help="a folder's machine: boot, and forget its kept state"
    )
    add_date(parser)
    parser.set_defaults(function=run_command)


def run_command(options: argparse.Namespace) -> int:
    """Build the configuration, then run the guest to its end."""
    check_options(options)
    if options.target is not None and is_folder(options.target):
        from asyncvmm.cli.run_folder import run_folder  # only folders need what it needs

        return run_folder(options)
    if options.cold:
        raise ConfigError("--cold is for the folder of a machine (see `asyncvmm create`)")
    if options.date is not None:
        raise ConfigError("--date is for the folder of a machine (see `asyncvmm create`)")
    return run_session(Session(options, make_config(options)))
