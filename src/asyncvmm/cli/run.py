"""``asyncvmm run``: a guest at the terminal, in a pipe, or for one command."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO

import trio

from asyncvmm.api import (
    AsyncvmmError,
    ConfigError,
    Guest,
    GuestConfig,
    GuestExit,
    find_image,
    image_config,
    open_host,
)
from asyncvmm.cli import image as image_command
from asyncvmm.cli import terminal
from asyncvmm.firmware.elf import is_elf
from asyncvmm.plugin.images import ImageCache

ESCAPE = 0x1D  # Ctrl-]
ESCAPE_NAME = "Ctrl-]"
TIMEOUT_STATUS = 124
CRASH_STATUS = 125
POWEROFF_PATIENCE_S = 5

EPILOG = f"""\
examples:
  asyncvmm run debian -- uname -a
  asyncvmm run debian -- sh -c 'cat /proc/cpuinfo; exit 7'; echo $?
  asyncvmm run linux --harts 2                 interactive; {ESCAPE_NAME} leaves
  asyncvmm run program.elf --stats             bare metal, M-mode
  asyncvmm run --kernel Image --initrd initrd.cpio --append console=ttyS0
  asyncvmm run --firmware fw_dynamic.bin --kernel u-boot.bin --until "=> "

exit status: the command's; for a guest that powers itself off, the code it gave (0 without one);
  2 wrong input, {TIMEOUT_STATUS} after --timeout, {CRASH_STATUS} when the guest cannot go on.
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
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="an image's name or an ELF file"
    )
    boot = parser.add_argument_group("what to boot")
    boot.add_argument("--kernel", type=Path, help="Linux Image, or what the firmware starts")
    boot.add_argument("--initrd", type=Path, help="initial RAM file system")
    boot.add_argument("--append", help="the kernel's command line (added to an image's)")
    boot.add_argument("--firmware", type=Path, help="firmware entered in M-mode")
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--memory", metavar="SIZE", help="RAM, such as 256M (default: 128M)")
    machine.add_argument("--harts", type=int, help="number of harts (default: 1)")
    machine.add_argument(
        "--disk", action="append", default=[], metavar="PATH[,readonly]", help="a raw disk image"
    )
    machine.add_argument(
        "--device", action="append", default=[], metavar="TYPE[,OPTION=VALUE...]", help="a device"
    )
    machine.add_argument("--seed", type=int, help="of all randomness in the guest (default: 0)")
    machine.add_argument(
        "--clock",
        choices=["virtual", "realtime"],
        help="virtual time as fast as it goes, or paced to the wall clock "
        "(default: realtime at a terminal, else virtual)",
    )
    machine.add_argument(
        "--engine",
        choices=["auto", "interpreter", "jit"],
        help="what runs the code: translated where llvmlite is installed (default: auto)",
    )
    ends = parser.add_argument_group("when to stop")
    ends.add_argument("--until", metavar="TEXT", help="stop with 0 once the console says TEXT")
    ends.add_argument("--max-instructions", type=int, metavar="N", help="stop after N instructions")
    ends.add_argument("--timeout", type=float, metavar="SECONDS", help="of wall time")
    output = parser.add_argument_group("output")
    output.add_argument("--log", type=Path, help="keep what the console says in a file")
    output.add_argument("--verbose", action="store_true", help="the console on standard error too")
    output.add_argument(
        "--stats", action="store_true", help="counters on standard error at the end"
    )
    parser.set_defaults(function=run_command)


def run_command(options: argparse.Namespace) -> int:
    """Build the configuration, then run the guest to its end."""
    if options.max_instructions is not None and options.max_instructions < 1:
        raise ConfigError(f"--max-instructions must be positive, not {options.max_instructions}")
    if options.timeout is not None and not options.timeout > 0:
        raise ConfigError(f"--timeout must be positive, not {options.timeout}")
    session = Session(options, make_config(options))
    try:
        return trio.run(session.run)
    except BaseExceptionGroup as group:
        raise _only(group) from None


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error behind trio's groups, the user's own Ctrl-C first."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    for kind in (KeyboardInterrupt, AsyncvmmError, BrokenPipeError):
        for error in leaves:
            if isinstance(error, kind):
                return error
    return leaves[0]


def make_config(options: argparse.Namespace) -> GuestConfig:
    """The guest that the command line describes; images are pulled when they are not here."""
    interactive = options.guest_command is None and terminal.is_terminal(0)
    changes: dict[str, Any] = {
        "memory": options.memory,
        "harts": options.harts,
        "append": options.append,
        "seed": options.seed,
        "engine": options.engine,
        "clock": options.clock or ("realtime" if interactive else "virtual"),
        "disks": tuple(options.disk),
        "devices": tuple(options.device),
        "epoch_ns": time.time_ns() if interactive else None,
    }
    parts = {name: getattr(options, name) for name in ("kernel", "initrd", "firmware")}
    target = options.target
    if target is None:
        if not parts["kernel"] and not parts["firmware"]:
            raise ConfigError(
                "nothing to run: name an image (see `asyncvmm image list`) or an ELF file, "
                "or give --kernel or --firmware"
            )
        return _plain(changes, parts)
    given = [f"--{name}" for name, value in parts.items() if value]
    if _is_file(target):
        if given:
            raise ConfigError(f"{target} is a whole program: {given[0]} does not go with it")
        if not is_elf(_first_bytes(Path(target))):
            raise ConfigError(f"{target}: is not an ELF file; a kernel is given with --kernel")
        return _plain(changes, {"elf": Path(target)})
    image = find_image(target)
    cache = ImageCache()
    image_command.ensure(image, cache)
    changes.update({name: value for name, value in parts.items() if value})
    return image_config(image, cache, commands=options.guest_command is not None, **changes)


def _plain(changes: dict[str, Any], parts: dict[str, Any]) -> GuestConfig:
    settings = {key: value for key, value in (changes | parts).items() if value is not None}
    return GuestConfig.from_mapping(settings)


def _is_file(target: str) -> bool:
    return "/" in target or Path(target).is_file()


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


class Session:
    """One run of the command."""

    def __init__(self, options: argparse.Namespace, config: GuestConfig) -> None:
        self.options = options
        self.config = config
        self.status = 0
        self.started = time.monotonic()

    async def run(self) -> int:
        """Start the guest, serve it, and say how it ended."""
        with ExitStack() as stack:
            log = stack.enter_context(_open_log(self.options.log)) if self.options.log else None
            async with open_host() as host:
                guest = await host.start(
                    self.config, max_instructions=self.options.max_instructions
                )
                _tap(guest, log, self.options)
                with trio.move_on_after(self.options.timeout or float("inf")) as scope:
                    await self._serve(guest)
                if scope.cancelled_caught:
                    _say(f"stopped after {self.options.timeout:g} s (--timeout)")
                    self.status = TIMEOUT_STATUS
                if self.options.stats:
                    _print_stats(guest, time.monotonic() - self.started)
        return self.status

    async def _serve(self, guest: Guest) -> None:
        if self.options.guest_command is not None:
            await self._run_command(guest)
        elif self.options.until is not None:
            await self._until(guest, self.options.until)
        elif terminal.is_terminal(0) and terminal.is_terminal(1):
            await self._interactive(guest)
        else:
            await self._piped(guest)

    async def _run_command(self, guest: Guest) -> None:
        terminal.flush_standard()
        stdin = b"" if terminal.is_terminal(0) else terminal.read_fd(0)
        result: list[int] = []

        async def command() -> None:
            done = await guest.run(
                self.options.guest_command,
                stdin=stdin,
                stdout=lambda data: terminal.write_all(1, data),
                stderr=lambda data: terminal.write_all(2, data),
            )
            result.append(done.status)

        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                ended = await guest.wait()
                if not result:
                    nursery.cancel_scope.cancel()
                    self._guest_ended(ended)
                    if self.status == 0:
                        self.status = CRASH_STATUS
                        _say("the guest ended before the command did; --verbose shows its console")

            nursery.start_soon(watch)
            await command()
            nursery.cancel_scope.cancel()
        if result:
            self.status = result[0]
            if self.config.disks:
                with trio.move_on_after(POWEROFF_PATIENCE_S):
                    await guest.power_off()  # its file systems are written back

    async def _until(self, guest: Guest, text: str) -> None:
        """Show the console until it says ``text``."""
        guest.console.taps.append(lambda data: terminal.write_all(1, data))
        await guest.console.expect(text)
        terminal.write_all(1, b"\n")

    async def _piped(self, guest: Guest) -> None:
        """Standard input is typed at the console, the console is standard output."""
        guest.console.taps.append(lambda data: terminal.write_all(1, data))
        async with trio.open_nursery() as nursery:

            async def type_input() -> None:
                async for data in terminal.read_fd(0):
                    await guest.console.send_all(data)

            nursery.start_soon(_quietly, type_input)
            self._guest_ended(await guest.wait())
            nursery.cancel_scope.cancel()

    async def _interactive(self, guest: Guest) -> None:
        """Keys go to the console as they are typed; the escape key leaves."""
        _say(f"the guest's console follows; {ESCAPE_NAME} leaves")
        terminal.flush_standard()
        guest.console.taps.append(lambda data: terminal.write_all(1, data))
        with terminal.raw_mode(0):
            async with trio.open_nursery() as nursery:

                async def type_keys() -> None:
                    async for data in terminal.read_fd(0):
                        before, escape, _ = data.partition(bytes([ESCAPE]))
                        if before:
                            await guest.console.send_all(before)
                        if escape:
                            nursery.cancel_scope.cancel()
                            return

                nursery.start_soon(_quietly, type_keys)
                nursery.start_soon(_follow_window, guest)
                ended = await guest.wait()
                nursery.cancel_scope.cancel()
                self._guest_ended(ended)
        terminal.write_all(1, b"\n")

    def _guest_ended(self, ended: GuestExit) -> None:
        if ended.reason == "crash":
            _say(f"the guest cannot go on: {ended.detail}")
            self.status = CRASH_STATUS
        elif ended.reason == "limit":
            _say(f"stopped: {ended.detail} (--max-instructions)")
        else:
            self.status = ended.code & 0xFF


async def _quietly(function: Callable[[], Any]) -> None:
    """A guest that ends while input is under way is no error."""
    with suppress(trio.BrokenResourceError):
        await function()


async def _follow_window(guest: Guest) -> None:
    """Tell the guest the window's size, now and whenever it changes."""
    guest.console.resize(*terminal.window_size())
    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            guest.console.resize(*terminal.window_size())


def _open_log(path: Path) -> BinaryIO:
    try:
        return path.open("wb", buffering=0)
    except OSError as error:
        raise ConfigError(f"--log {path}: {error.strerror}") from error


def _write_log(log: BinaryIO, data: bytes) -> None:
    log.write(data)


def _tap(guest: Guest, log: BinaryIO | None, options: argparse.Namespace) -> None:
    if log is not None:
        guest.console.taps.append(lambda data: _write_log(log, data))
    if options.verbose:
        guest.console.taps.append(lambda data: terminal.write_all(2, data))


def _say(text: str) -> None:
    print(f"asyncvmm: {text}", file=sys.stderr, flush=True)


def _print_stats(guest: Guest, wall_s: float) -> None:
    stats = guest.stats
    lines = [
        f"{'instructions':<16}{stats.instructions:>16,}",
        f"{'MIPS':<16}{stats.mips:>16.1f}",
        f"{'virtual time':<16}{stats.virtual_ns / 1e9:>16.6f} s",
        f"{'wall time':<16}{wall_s:>16.3f} s (guest {stats.wall_ns / 1e9:.3f} s)",
        f"{'traps':<16}{stats.traps:>16,}",
        f"{'device accesses':<16}{stats.device_accesses:>16,}",
        f"{'TLB misses':<16}{stats.tlb_misses:>16,}",
        f"{'resident memory':<16}{stats.resident_bytes / (1 << 20):>16.1f} MiB",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)
