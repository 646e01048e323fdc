"""Talking with a folder's machine that runs in another process."""

from __future__ import annotations

import os
import socket
from typing import Any

import trio

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.lock import FolderBusyError, holder_of
from asyncvmm.runtime.folder.protocol import Link, raise_error


class NotRunningError(ConfigError):
    """The machine does not run."""


def short_name(paths: FolderPaths) -> tuple[str, int]:
    """A name of the control socket that is short enough for the kernel (108 bytes), and the descriptor of
    the folder, to be closed, that it goes through.
    """
    fd = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        return f"/proc/self/fd/{fd}/{paths.socket.name}", fd
    return str(paths.socket), fd


async def connect(paths: FolderPaths) -> Link:
    """A connection; NotRunningError when the machine is stopped, FolderBusyError when it runs at
    somebody's terminal.
    """
    name, fd = short_name(paths)
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await sock.connect(name)
    except BaseException as error:
        sock.close()
        if not isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            if isinstance(error, OSError):
                raise BackendError(f"{paths.socket}: {error.strerror}") from error
            raise
        holder = holder_of(paths.lock)
        if holder is not None:
            raise FolderBusyError(paths.root, holder) from None
        raise NotRunningError(
            f"{paths.root}: does not run: `asyncvmm start {paths.root}` starts it"
        ) from None
    finally:
        os.close(fd)
    return Link(trio.SocketStream(sock))


async def ask(paths: FolderPaths, request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request; what the machine's side raised is raised here."""
    async with await connect(paths) as link:
        return await ask_over(link, request)


async def ask_over(link: Link, request: dict[str, Any]) -> dict[str, Any]:
    """As ``ask``; frames may follow."""
    await link.send_line(request)
    answer = await link.receive_line()
    raise_error(answer)
    found = answer.get("ok")
    return found if isinstance(found, dict) else {}
