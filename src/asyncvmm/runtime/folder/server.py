"""A machine that runs for itself: serves its folder's control socket until it ends."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import AsyncvmmError, BackendError, ConfigError
from asyncvmm.runtime.folder.client import short_name
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.protocol import (
    ControlError,
    Kind,
    Link,
    error_values,
    unpack_window,
)
from asyncvmm.runtime.folder.remote_command import RemoteCommand
from asyncvmm.runtime.folder.running import RunningMachine

MAX_CONNECTIONS: Final = 64
HISTORY_BYTES: Final = 64 << 10
BEHIND_BYTES: Final = 1 << 20
LAST_WORDS_S: Final = 2.0
POWER_OFF_S: Final = 30.0


class Viewer:
    """Somebody who looks at the console. One that does not read misses output; the guest never waits."""

    def __init__(self, history: bytes) -> None:
        self._waiting = bytearray(history)
        self._missed = 0
        self._news = trio.Event()

    def hear(self, data: bytes) -> None:
        """More output."""
        self._waiting += data
        excess = len(self._waiting) - BEHIND_BYTES
        if excess > 0:
            del self._waiting[:excess]
            self._missed += excess
        self._news.set()

    async def next(self) -> bytes:
        """What was said since the last time, when there is something."""
        while not self._waiting:
            self._news = trio.Event()
            await self._news.wait()
        missed, self._missed = self._missed, 0
        data = bytes(self._waiting)
        self._waiting.clear()
        note = f"\r\n[asyncvmm: {missed} bytes were not shown]\r\n".encode() if missed else b""
        return note + data

    @property
    def behind(self) -> bool:
        """Whether there is something that was not sent."""
        return bool(self._waiting)


class ControlServer:
    """Serves one machine."""

    def __init__(self, machine: RunningMachine) -> None:
        self.machine: Final = machine
        self._viewers: list[Viewer] = []
        self._history = bytearray()
        self._began_s = time.monotonic()
        self._connections = 0
        self._busy = 0
        self._quiet = trio.Event()
        machine.guest.console.taps.append(self._tap)
        self._requests: dict[str, Callable[[Link, dict[str, Any]], Awaitable[None]]] = {
            "status": self._status,
            "stop": self._stop,
            "console": self._console,
            "run": self._run_command,
            "snapshot": self._snapshot,
            "delete-snapshot": self._delete_snapshot,
        }

    def _tap(self, data: bytes) -> None:
        self._history += data
        del self._history[: max(0, len(self._history) - HISTORY_BYTES)]
        for viewer in self._viewers:
            viewer.hear(data)

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started once commands can connect."""
        paths = self.machine.paths
        listener = trio.SocketListener(_listen(paths))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._serve, [listener])
                task_status.started()
        finally:
            paths.socket.unlink(missing_ok=True)

    async def told(self) -> None:
        """Return when everybody who asked has an answer, also that the machine has ended; soon."""
        with trio.move_on_after(LAST_WORDS_S):
            while self._busy:
                self._quiet = trio.Event()
                await self._quiet.wait()

    async def _serve(self, stream: trio.SocketStream) -> None:
        if self._connections >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        self._connections += 1
        try:
            async with Link(stream) as link:
                await self._answer(link)
        finally:
            self._connections -= 1

    async def _answer(self, link: Link) -> None:
        self._busy += 1
        try:
            with suppress(ControlError):
                try:
                    request = await link.receive_line()
                    action = self._requests.get(str(request.get("do")))
                    if action is None:
                        raise ConfigError(f"the machine does not know {str(request.get('do'))!r}")
                    await action(link, request)
                except ControlError:
                    raise
                except AsyncvmmError as error:
                    await link.send_line(error_values(error))
        finally:
            self._busy -= 1
            self._quiet.set()

    # -- requests

    async def _status(self, link: Link, request: dict[str, Any]) -> None:
        await link.send_line({"ok": self.status()})

    def status(self) -> dict[str, Any]:
        """For ``ps`` and ``inspect``: plain data."""
        guest = self.machine.guest
        stats = guest.stats
        scheduler = guest.machine.scheduler
        busy = any(scheduler.runnable(number) for number in range(guest.config.harts))
        return {
            "state": "running" if guest.exit is None else guest.exit.reason,
            "busy": busy,
            "pid": os.getpid(),
            "virtual_ns": guest.now_ns,
            "wall_s": time.monotonic() - self._began_s,
            "cpu_s": time.process_time(),
            "guest_cpu_s": stats.wall_ns / 1e9,
            "instructions": stats.instructions,
            "engine": stats.engine.name,
            "memory_bytes": stats.resident_bytes,
            "memory_size_bytes": guest.config.memory,
            "harts": guest.config.harts,
            "clock": guest.config.clock,
            "resumed": self.machine.resumed,
            "viewers": len(self._viewers),
            "log_lines_lost": self.machine.log.lost,
        }

    async def _stop(self, link: Link, request: dict[str, Any]) -> None:
        mode = request.get("mode", "power-off")
        self.machine.log.add("stop asked", mode=str(mode))
        if mode == "save":
            await self.machine.save_and_stop()
        elif mode == "force":
            await self.machine.guest.aclose()
        elif mode == "power-off":
            await self.power_off(_seconds(request.get("timeout_s", POWER_OFF_S)))
        else:
            raise ConfigError(f"no way to stop is called {str(mode)!r}")
        ended = self.machine.guest.exit
        await link.send_line({"ok": attrs.asdict(ended) if ended is not None else {}})

    async def power_off(self, timeout_s: float) -> None:
        """Ask the guest to shut down; BackendError when it does not in this time."""
        root = self.machine.paths.root
        try:
            with trio.move_on_after(timeout_s):
                await self.machine.power_off()
        except ConfigError as error:
            raise ConfigError(
                f"{root}: cannot be asked to power off, since it has no agent: type `poweroff` at its "
                f"console, or `asyncvmm stop --save {root}` keeps its state, or --force ends it"
            ) from error
        if self.machine.guest.exit is None:
            raise BackendError(
                f"{root}: did not power off within {timeout_s:g} s: give --timeout more, or `asyncvmm "
                f"stop --force {root}`, which is as a power cut"
            )

    async def _console(self, link: Link, request: dict[str, Any]) -> None:
        keep = request.get("history", 0)
        if type(keep) is not int or not 0 <= keep <= HISTORY_BYTES:
            raise ConfigError(f"history of {str(keep)[:40]} bytes")
        viewer = Viewer(bytes(self._history[len(self._history) - min(keep, len(self._history)) :]))
        await link.send_line({"ok": {}})
        self._viewers.append(viewer)
        self.machine.log.add("console attached", viewers=len(self._viewers))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._show, link, viewer)
                nursery.start_soon(self._type, link, nursery.cancel_scope)
                ended = await self.machine.guest.wait()
                while viewer.behind:
                    await link.send(Kind.OUTPUT, await viewer.next())
                await link.send(Kind.ENDED, json.dumps(attrs.asdict(ended)).encode())
                nursery.cancel_scope.cancel()
        except* ControlError:
            pass  # the viewer is gone
        finally:
            self._viewers.remove(viewer)
            self.machine.log.add("console detached", viewers=len(self._viewers))

    async def _show(self, link: Link, viewer: Viewer) -> None:
        while True:
            await link.send(Kind.OUTPUT, await viewer.next())

    async def _type(self, link: Link, scope: trio.CancelScope) -> None:
        console = self.machine.guest.console
        with suppress(trio.BrokenResourceError):  # the guest has ended
            while (frame := await link.receive()) is not None:
                kind, payload = frame
                if kind == Kind.KEYS:
                    await console.send_all(payload)
                elif kind == Kind.WINDOW:
                    console.resize(*unpack_window(payload))
                else:
                    raise ControlError(f"the control socket: {kind.name} is not for a console")
            scope.cancel()

    async def _run_command(self, link: Link, request: dict[str, Any]) -> None:
        words = request.get("arguments")
        if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
            raise ConfigError("a command is a list of words")
        await link.send_line({"ok": {}})
        self.machine.log.add("command", arguments=words[:20])
        await RemoteCommand(self.machine.guest, link, words).run()

    async def _snapshot(self, link: Link, request: dict[str, Any]) -> None:
        name, note = request.get("name"), request.get("note", "")
        if not isinstance(name, str) or not isinstance(note, str):
            raise ConfigError("a snapshot needs a name")
        pages = await self.machine.snapshot(name, note)
        await link.send_line({"ok": {"new_pages": pages}})

    async def _delete_snapshot(self, link: Link, request: dict[str, Any]) -> None:
        await self.machine.delete_snapshot(str(request.get("name")))
        await link.send_line({"ok": {}})


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e7:
        raise ConfigError(f"a timeout of {str(value)[:40]} seconds")
    return float(value)


def _listen(paths: FolderPaths) -> trio.socket.SocketType:
    """The socket in the folder, for its user only. The folder's lock is held: what is there is stale."""
    paths.socket.unlink(missing_ok=True)
    name, fd = short_name(paths)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(name)
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise BackendError(f"{paths.socket}: cannot be listened on: {error.strerror}") from error
    finally:
        os.umask(before)
        os.close(fd)
    return trio.socket.from_stdlib_socket(sock)
