"""``asyncvmm run``: a guest at the terminal, in a pipe, or for one command."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import attrs
import trio

from asyncvmm.api import (
    BackendError,
    ConfigError,
    EngineStats,
    Forward,
    Guest,
    GuestConfig,
    GuestEndedError,
    GuestExit,
    Host,
    NetworkConfig,
    find_image,
    image_config,
    open_host,
)
from asyncvmm.cli import image as image_command
from asyncvmm.cli import terminal
from asyncvmm.cli.checks import check_timeout
from asyncvmm.cli.failures import failure_lines
from asyncvmm.cli.groups import only_error
from asyncvmm.firmware.elf import is_elf
from asyncvmm.machine.config import split_disk
from asyncvmm.machine.renewal import FREEZE, HOST
from asyncvmm.network import DEFAULT_NETWORK
from asyncvmm.plugin.images import DiskFile, ImageCache
from asyncvmm.runtime.folder.layout import is_folder
from asyncvmm.runtime.printable import KEPT, printable

ESCAPE = 0x1D  # Ctrl-]
ESCAPE_NAME = "Ctrl-]"
GDB_PORT = 1234
TIMEOUT_STATUS = 124
CRASH_STATUS = 125
POWEROFF_PATIENCE_S = 30
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

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


def add_date(parser: argparse.ArgumentParser) -> None:
    """What a folder's machine takes for the date."""
    parser.add_argument(
        "--date", choices=[FREEZE, HOST],
        help="a folder's machine: its clock shows this machine's date, with what its guest has set it to "
        "differ; or that of a kept state goes on (freeze, the default)",
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which guest runs, and until when."""
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="an image's name, an ELF file, a folder"
    )
    boot = parser.add_argument_group("what to boot")
    boot.add_argument("--kernel", type=Path, help="Linux Image, or what the firmware starts")
    boot.add_argument("--initrd", type=Path, help="initial RAM file system")
    boot.add_argument("--append", help="the kernel's command line (added to an image's)")
    boot.add_argument("--firmware", type=Path, help="firmware entered in M-mode")
    boot.add_argument(
        "--flash",
        action="append",
        default=[],
        metavar="PATH[,readonly][,snapshot]",
        help="a flash part (two at most; started when there is no kernel); for an image with flash, "
        "what its last part is kept in: made when it is not there",
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--memory", metavar="SIZE", help="RAM, such as 256M (default: 128M)")
    machine.add_argument("--harts", type=int, help="number of harts (default: 1)")
    machine.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="PATH[,readonly][,snapshot][,format=raw|qcow2]",
        help="a disk image, qcow2 when it is named so and raw otherwise (see `asyncvmm disk`)",
    )
    machine.add_argument(
        "--snapshot",
        action="store_true",
        help="throw away what the guest writes to its disks and flash",
    )
    machine.add_argument(
        "--share",
        action="append",
        default=[],
        metavar="FOLDER[:TAG][:cow]",
        help="a folder for the guest to mount (mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt; "
        "TAG is share unless said): read-only, or with cow writable for the guest alone",
    )
    machine.add_argument(
        "--device", action="append", default=[], metavar="TYPE[,OPTION=VALUE...]", help="a device"
    )
    network = parser.add_argument_group("the network")
    network.add_argument(
        "--net",
        action="append",
        default=[],
        metavar="lan[,OPTION=VALUE...]",
        help="a network card, with DHCP, DNS and echo from a gateway",
    )
    network.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[ADDRESS:]PORT:GUESTPORT",
        help="forward a port of this machine (loopback unless said) to the guest's",
    )
    network.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="let the guest reach this outside: a name, *.domain, an address, a network, * for all",
    )
    network.add_argument(
        "--capture", type=Path, metavar="FILE", help="every frame, as pcapng with virtual time"
    )
    machine.add_argument("--seed", type=int, help="of all randomness in the guest (default: 0)")
    machine.add_argument(
        "--clock",
        choices=["virtual", "realtime"],
        help="virtual time as fast as it goes, or paced to the wall clock "
        "(default: realtime at a terminal and with -p or --allow, else virtual)",
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
    debug = parser.add_argument_group("debugging")
    debug.add_argument(
        "--gdb",
        nargs="?",
        type=int,
        const=GDB_PORT,
        metavar="PORT",
        help=f"serve gdb at a loopback port (default: {GDB_PORT}; 0: a free one)",
    )
    debug.add_argument(
        "--gdb-wait",
        action="store_true",
        help="the same, and wait for gdb before the first instruction",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="a journal of all that enters the guest: `asyncvmm replay FILE` repeats the run",
    )
    output.add_argument("--log", type=Path, help="keep what the console says in a file")
    output.add_argument("--verbose", action="store_true", help="the console on standard error too")
    output.add_argument(
        "--stats", action="store_true", help="counters on standard error at the end"
    )


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


def check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for what the parser of ``add_arguments`` lets through."""
    if options.max_instructions is not None and options.max_instructions < 1:
        raise ConfigError(f"--max-instructions must be positive, not {options.max_instructions}")
    check_gdb(options)
    check_timeout(options)
    if options.until == "":
        raise ConfigError("--until needs a text to wait for")
    if options.until is not None and options.guest_command is not None:
        raise ConfigError("--until is for a console: it does not go with a command after --")
    options.publish = [Forward.parse(text) for text in options.publish]
    taken = [(each.host, each.host_port) for each in options.publish if each.host_port]
    for host, port in taken:
        if taken.count((host, port)) > 1:
            raise ConfigError(f"-p: port {port} of {host} is forwarded twice")


def check_gdb(options: argparse.Namespace) -> None:
    """ConfigError for a port that is none."""
    if options.gdb is not None and not 0 <= options.gdb <= 65535:
        raise ConfigError(f"--gdb: ports are 0 to 65535, not {options.gdb}")


def run_session(session: Session) -> int:
    """Run the guest; returns the exit status."""
    try:
        return trio.run(session.run)
    except BaseExceptionGroup as group:
        raise only_error(group) from None


def make_config(options: argparse.Namespace) -> GuestConfig:
    """The guest that the command line describes; images are pulled when they are not here."""
    config = _config(options)
    if options.snapshot:
        config = attrs.evolve(
            config,
            disks=tuple(f"{disk},snapshot" for disk in config.disks),
            flash=tuple(f"{part},snapshot" for part in config.flash),
        )
    return config


def _config(options: argparse.Namespace) -> GuestConfig:
    interactive = options.guest_command is None and terminal.is_terminal(0)
    outside = bool(options.publish or options.allow)
    changes: dict[str, Any] = {
        "memory": options.memory,
        "harts": options.harts,
        "append": options.append,
        "seed": options.seed,
        "engine": options.engine,
        "clock": options.clock or ("realtime" if interactive or outside else "virtual"),
        "flash": tuple(options.flash),
        "disks": tuple(options.disk),
        "nets": tuple(options.net) or (("lan",) if outside or options.capture else ()),
        "shares": tuple(options.share),
        "devices": tuple(options.device),
        "epoch_ns": time.time_ns() if interactive else None,
    }
    parts = {name: getattr(options, name) for name in ("kernel", "initrd", "firmware")}
    target = options.target
    if target is None:
        if not parts["kernel"] and not parts["firmware"] and not options.flash:
            raise ConfigError(
                "nothing to run: name an image (see `asyncvmm image list`) or an ELF file, "
                "or give --kernel, --firmware or --flash"
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
    _make_flash(image.boot_files(cache).flash, options.flash)
    return image_config(image, cache, commands=options.guest_command is not None, **changes)


def _make_flash(parts: Sequence[DiskFile], own: Sequence[str]) -> None:
    """Give the user's flash files that are not there yet what the image's parts begin with."""
    for part, text in zip(reversed(parts), reversed(own), strict=False):
        path = split_disk(text).path
        if not part.readonly and not path.exists():
            try:
                shutil.copyfile(part.path, path)
            except OSError as error:
                raise ConfigError(f"--flash {path}: {error.strerror}") from error
            say(f"made {path} from the image's {part.path.name}")


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
    """One run of the command. ``output`` is the file descriptor for what the guest says."""

    def __init__(self, options: argparse.Namespace, config: GuestConfig) -> None:
        self.options = options
        self.config = config
        self.networks = {DEFAULT_NETWORK: NetworkConfig.from_mapping({"allow": options.allow})}
        self.status = 0
        self.started = time.monotonic()
        self.interactive = (
            options.guest_command is None and terminal.is_terminal(0) and terminal.is_terminal(1)
        )
        self.output = 1

    @asynccontextmanager
    async def hosted(self) -> AsyncIterator[tuple[Host, Guest]]:
        """The guest on its host, for a block."""
        async with open_host(networks=self.networks, journal=self.options.record) as host:
            yield (
                host,
                await host.start(self.config, max_instructions=self.options.max_instructions),
            )

    def guest_started(self, guest: Guest) -> None:
        """The guest is there; it has not run yet. For commands that watch it."""

    async def command_begins(self, guest: Guest) -> None:
        """The command is about to be run in the guest."""

    async def command_ended(self, guest: Guest) -> None:
        """The command has ended; the guest runs on."""

    async def run(self) -> int:
        """Start the guest, serve it, and say how it ended."""
        with ExitStack() as stack:
            path = self.options.log
            log = stack.enter_context(_open_for("--log", path, buffering=0)) if path else None
            async with trio.open_nursery() as nursery:
                await nursery.start(self._end_on_signal, nursery.cancel_scope)
                async with self.hosted() as (host, guest):
                    self.guest_started(guest)
                    await self.serve_gdb(guest)
                    self._tap(guest, log)
                    if self.options.capture:
                        out = _open_for("--capture", self.options.capture)
                        host.networks[DEFAULT_NETWORK].capture(out)
                    for forward in self.options.publish:
                        port = await host.forward(guest.name, forward)
                        if not forward.host_port:
                            say(f"{forward.host}:{port} is the guest's port {forward.port}")
                    try:
                        await self._serve_in_time(host, guest)
                    finally:
                        ended = guest.exit
                        known = () if ended is None else (ended.detail,)
                        for text in failure_lines(host.events, known):
                            say(text)
                        if self.options.stats:
                            _print_stats(guest, time.monotonic() - self.started)
                nursery.cancel_scope.cancel()
        return self.status

    async def serve_gdb(self, guest: Guest) -> None:
        """With --gdb or --gdb-wait: let gdb at it."""
        options = self.options
        if options.gdb is None and not options.gdb_wait:
            return
        wanted = GDB_PORT if options.gdb is None else options.gdb
        port = await guest.gdb(wanted, wait=options.gdb_wait)
        if options.record is not None:
            say("a journal is kept: gdb can look and stop, but write nothing")
        say(f"gdb-multiarch: target remote :{port}")

    async def _end_on_signal(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """An interrupt ends the run in good order: the terminal is restored, disks are closed."""
        awaited = [each for each in END_SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        with trio.open_signal_receiver(*awaited) as signals:
            task_status.started()
            async for number in signals:
                self.status = 128 + number
                scope.cancel()

    async def _serve_in_time(self, host: Host, guest: Guest) -> None:
        with trio.move_on_after(self.options.timeout or float("inf")) as scope:
            if self.options.guest_command is not None:
                await self._run_command(guest)
            else:
                await self.show_console(host, guest)
        if scope.cancelled_caught:
            say(f"stopped after {self.options.timeout:g} s (--timeout)")
            self.status = TIMEOUT_STATUS

    async def _run_command(self, guest: Guest) -> None:
        terminal.flush_standard()
        try:
            await self.command_begins(guest)
            done = await guest.run(
                self.options.guest_command,
                stdin=b"" if terminal.is_terminal(0) else terminal.read_fd(0),
                stdout=lambda data: terminal.write_all(self.output, data),
                stderr=lambda data: terminal.write_all(2, data),
            )
        except GuestEndedError:
            self._guest_ended(await guest.wait())
            self.status = self.status or CRASH_STATUS
            say("the guest ended before the command did; --verbose shows its console")
            return
        self.status = done.status
        with suppress(GuestEndedError):
            await self.command_ended(guest)
        await self.leave(guest)

    async def leave(self, guest: Guest) -> None:
        """The command is over and the guest is to end."""
        if self.config.disks:
            with trio.move_on_after(POWEROFF_PATIENCE_S):
                with suppress(GuestEndedError):
                    await guest.power_off()  # its file systems are written back

    async def show_console(self, host: Host, guest: Guest) -> None:
        """The console is standard output, and what comes from standard input is typed at it."""
        with ExitStack() as stack:
            if self.interactive:
                say(f"the guest's console follows; {ESCAPE_NAME} leaves")
                stack.callback(terminal.write_all, 1, b"\n")
                stack.enter_context(terminal.raw_mode(0))
            terminal.flush_standard()
            guest.console.taps.append(lambda data: terminal.write_all(self.output, data))
            async with trio.open_nursery() as nursery:
                if self.interactive:
                    nursery.start_soon(_follow_window, guest)
                else:
                    nursery.start_soon(terminal.watch_reader, self.output)
                nursery.start_soon(self._type_input, host, guest, nursery.cancel_scope)
                if self.options.until is not None:
                    nursery.start_soon(self._await_text, guest, nursery.cancel_scope)
                ended = await guest.wait()
                nursery.cancel_scope.cancel()
                stack.close()  # messages come after the terminal is itself again
                self._guest_ended(ended)
                if self.options.until is not None:
                    say(f"the guest ended before it said {self.options.until!r}")
                    self.status = self.status or 1

    async def _type_input(self, host: Host, guest: Guest, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):  # the guest ended while input was under way
            async for data in terminal.read_fd(0):
                keys, escape, _ = data, b"", b""
                if self.interactive:
                    keys, escape, _ = data.partition(bytes([ESCAPE]))
                if keys:
                    await guest.console.send_all(keys)
                if escape:
                    scope.cancel()
                    return
            if not self.interactive:
                await host.wait_quiet()
                say("the guest waits for input, and there is no more")
            scope.cancel()

    async def _await_text(self, guest: Guest, scope: trio.CancelScope) -> None:
        """End the session once the console says ``--until``'s text."""
        wanted = self.options.until.encode(errors="surrogateescape")
        tail = bytearray()
        found = trio.Event()

        def look(data: bytes) -> None:
            nonlocal tail
            tail += data
            if wanted in tail:
                found.set()
            del tail[: max(0, len(tail) - len(wanted) + 1)]

        guest.console.taps.append(look)
        await found.wait()
        if not self.interactive:
            terminal.write_all(self.output, b"\n")
        scope.cancel()

    def _tap(self, guest: Guest, log: BinaryIO | None) -> None:
        if log is not None:
            guest.console.taps.append(lambda data: _write_log(log, data))
        shown = self.options.guest_command is None and (
            self.output == 2 or terminal.is_same_file(1, 2)
        )
        if self.options.verbose and not shown:
            guest.console.taps.append(lambda data: terminal.write_all(2, data))

    def _guest_ended(self, ended: GuestExit) -> None:
        if ended.reason == "crash":
            say(f"the guest cannot go on: {ended.detail}")
            self.status = CRASH_STATUS
        elif ended.reason == "limit":
            say(f"stopped: {ended.detail} (--max-instructions)")
        else:
            self.status = ended.code & 0xFF


async def _follow_window(guest: Guest) -> None:
    """Tell the guest the window's size, now and whenever it changes."""
    guest.console.resize(*terminal.window_size(0))
    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            guest.console.resize(*terminal.window_size(0))


def _open_for(option: str, path: Path, buffering: int = -1) -> BinaryIO:
    try:
        return path.open("wb", buffering=buffering)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from error


def _write_log(log: BinaryIO, data: bytes) -> None:
    try:
        log.write(data)
    except OSError as error:
        raise BackendError(f"--log {log.name}: {error.strerror}") from error


def say(text: str) -> None:
    """A line for the user, on standard error."""
    print(f"asyncvmm: {printable(text, keep=KEPT)}", file=sys.stderr, flush=True)


def engine_lines(engine: EngineStats) -> list[str]:
    lines = [f"{'engine':<16}{engine.name:>16}"]
    if engine.name == "interpreter":
        return lines
    share = 100 * engine.interpreted / max(engine.steps, 1)
    return [
        *lines,
        f"{'  interpreted':<16}{engine.interpreted:>16,} ({share:.2f} %)",
        f"{'  blocks':<16}{engine.blocks:>16,} in {engine.translation_ns / 1e9:.3f} s",
        f"{'  regions':<16}{engine.regions:>16,} in {engine.optimising_ns / 1e9:.3f} s aside",
        f"{'  cache':<16}{engine.cache_hits:>16,} hits, {engine.cache_misses:,} misses",
        f"{'  void pages':<16}{engine.changed:>16,} written, {engine.evictions:,} evicted",
        f"{'  shared pages':<16}{engine.reused:>16,} translated by other guests",
        f"{'  code':<16}{engine.code_bytes / (1 << 20):>16.1f} MiB"
        f" (most {engine.code_bytes_most / (1 << 20):.1f} MiB)",
    ]


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
        *engine_lines(stats.engine),
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)
