"""``asyncvmm start``: a folder's machine in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import trio

from asyncvmm.api import AsyncvmmError, BackendError, VmFolder, open_folder
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.run_options import add_date
from asyncvmm.cli.terminal import say
from asyncvmm.machine.renewal import FREEZE
from asyncvmm.runtime.folder.index import remember
from asyncvmm.runtime.folder.protocol import error_values, raise_error
from asyncvmm.runtime.folder.running import RunningMachine, StartOptions, open_machine
from asyncvmm.runtime.folder.server import POWER_OFF_S, ControlServer
from asyncvmm.storage.bounded import own_file

EPILOG = """\
examples:
  asyncvmm start web.vm
  asyncvmm console web.vm                    look at it; Ctrl-] leaves, and it runs on
  asyncvmm run web.vm -- uptime              a command in it
  asyncvmm stop web.vm                       it shuts down
  asyncvmm stop --save web.vm                its state is kept: the next start goes on from there
  asyncvmm start --cold web.vm               boots, and forgets a kept state
  asyncvmm start --date host web.vm          goes on, with the date of today

There is no daemon: each machine is one process, which listens on control.sock in its folder (for its user
only) and writes logs/vm.log and logs/console.log. SIGTERM shuts the guest down. --foreground is for service
managers: the process that was started is the machine.
"""
MESSAGE_BYTES: Final = 64 << 10


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "start",
        help="start a folder's machine and let it run",
        description="Start a folder's machine in a process of its own.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--cold", action="store_true", help="boot, and forget a kept state")
    parser.add_argument("--engine", choices=["auto", "interpreter", "jit"], help="this once")
    parser.add_argument("--clock", choices=["virtual", "realtime"], help="default: realtime")
    add_date(parser)
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="a journal of all that enters the guest: `asyncvmm replay FILE` repeats the run",
    )
    parser.add_argument("--foreground", action="store_true", help="stay, until the machine ends")
    parser.add_argument("--ready-fd", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(function=start)


def start(options: argparse.Namespace) -> int:
    """Start it, here or in a process of its own."""
    folder = open_folder(options.folder)
    if options.foreground:
        return _stay(folder, options)
    remember(folder.path)
    words = ["-P", "-m", "asyncvmm", "start", "--foreground", str(folder.path)]
    words += [f"--{name}={getattr(options, name)}" for name in ("engine", "clock", "date")
              if getattr(options, name)]  # fmt: skip
    if options.cold:
        words.append("--cold")
    if options.record is not None:
        words.append(f"--record={options.record}")
    answer = _spawn(folder, words)
    raise_error(answer)
    resumed = answer.get("resumed")
    say(f"{options.folder} runs (pid {answer['pid']}){', from its kept state' if resumed else ''}")
    for text in answer.get("ports", []):
        say(text)
    return 0


def _spawn(folder: VmFolder, words: list[str]) -> dict[str, Any]:
    """What the new process says once the machine runs, or why it does not."""
    folder.paths.logs.mkdir(exist_ok=True)
    hear, tell = os.pipe()
    os.set_inheritable(tell, True)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    errors = own_file(str(folder.paths.server_log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, *words, f"--ready-fd={tell}"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, errors, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        raise BackendError(f"{sys.executable}: {error.strerror}") from error
    finally:
        for fd in (tell, null, errors):
            os.close(fd)
    try:
        with open(hear, "rb") as stream:
            line = stream.readline(MESSAGE_BYTES)
    except BaseException:  # Ctrl-C while it starts
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    if not line:
        os.waitpid(pid, 0)
        said = folder.paths.server_log.read_text(errors="replace").strip()[-2000:]
        raise BackendError(f"{folder.path}: its process ended at once: {said or 'it said nothing'}")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        os.waitpid(pid, 0)
    return answer


def _stay(folder: VmFolder, options: argparse.Namespace) -> int:
    """Be the machine."""

    def tell(values: dict[str, Any]) -> None:
        if options.ready_fd is not None:
            with open(options.ready_fd, "wb") as out:
                out.write(json.dumps(values).encode() + b"\n")
            options.ready_fd = None

    try:
        return trio.run(_serve, folder, options, tell)
    except BaseExceptionGroup as group:
        error = only_error(group)
        if isinstance(error, AsyncvmmError):
            tell(error_values(error))
        raise error from None
    except AsyncvmmError as error:
        tell(error_values(error))
        raise


async def _serve(folder: VmFolder, options: argparse.Namespace, tell: Any) -> int:
    defaults = {"clock": "realtime", "epoch_ns": time.time_ns()}
    changes = {"engine": options.engine, "clock": options.clock}
    wanted = StartOptions(
        cold=options.cold,
        changes=changes,
        defaults=defaults,
        date=options.date or FREEZE,
        journal=options.record,
    )
    command = shlex.split(f"asyncvmm start {shlex.quote(str(folder.path))}")
    opened = open_machine(
        folder.paths, wanted, command=command, serves=True, plugins=folder.plugins
    )
    remember(folder.path)
    async with opened as machine:
        ports = []
        for forward in machine.settings.publish:
            port = await machine.host.forward(machine.guest.name, forward)
            ports.append(f"{forward.host}:{port} is the guest's port {forward.port}")
        async with trio.open_nursery() as nursery:
            server = ControlServer(machine)
            await nursery.start(_end_on_signal, machine, server)
            await nursery.start(server.listen)
            tell({"pid": os.getpid(), "ports": ports, "resumed": machine.resumed})
            ended = await machine.guest.wait()
            await server.told()
            nursery.cancel_scope.cancel()
    if ended.reason == "crash":
        raise BackendError(f"{folder.path}: the guest cannot go on: {ended.detail}")
    return ended.code & 0xFF


async def _end_on_signal(
    machine: RunningMachine,
    server: ControlServer,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The first signal shuts the guest down in good order, the second one ends it."""
    count = 0
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async with trio.open_nursery() as nursery:
            async for number in signals:
                count += 1
                machine.log.add("signal", number=int(number))
                if count > 1:
                    await machine.guest.aclose()
                else:
                    nursery.start_soon(_shut_down, machine, server)


async def _shut_down(machine: RunningMachine, server: ControlServer) -> None:
    try:
        await server.power_off(POWER_OFF_S)
    except AsyncvmmError as error:
        machine.log.add("not powered off", text=str(error))
        await machine.guest.aclose()
