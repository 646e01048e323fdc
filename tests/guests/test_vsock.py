"""Sockets between Python and programs in real guests."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from asyncvmm.api import (
    ConfigError,
    ConnectFailedError,
    Guest,
    Host,
    find_image,
    image_config,
    open_host,
)
from asyncvmm.runtime.replay import open_replay
from tests.guests.conftest import require

pytestmark = pytest.mark.guest
PORT = 5000


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program that has vsock; busybox has none."""
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip(
            "riscv64-linux-gnu-gcc (Debian: gcc-riscv64-linux-gnu) builds the guest's program"
        )
    folder = tmp_path_factory.mktemp("program")
    source = Path(__file__).with_name("vsock_program.c")
    subprocess.run([compiler, "-O1", "-static", "-o", folder / "vsock", source], check=True)
    return folder


@asynccontextmanager
async def running(
    program: Path,
    image: str = "linux",
    journal: Path | None = None,
    devices: tuple[str, ...] = ("virtio-vsock",),
) -> AsyncIterator[tuple[Host, Guest]]:
    """A guest in which the program listens."""
    require(image)
    config = image_config(find_image(image), commands=True, shares=(str(program),), devices=devices)
    async with open_host(journal=journal) as host:
        guest = await host.start(config)
        script = (
            "mkdir /mnt 2>/dev/null; mount -t 9p -o trans=virtio,version=9p2000.L share /mnt && "
            f"(/mnt/vsock listen {PORT} > /tmp/out 2>&1 &) && "
            "until grep -q listening /tmp/out; do sleep 0.1; done"
        )
        done = await guest.run(["sh", "-c", script])
        assert done.status == 0, done
        yield host, guest


async def echo(guest: Guest, data: bytes) -> bytes:
    """What comes back."""
    async with await guest.vsock.connect(PORT) as stream:
        got = bytearray()

        async def send() -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while piece := await stream.receive_some():
                got += piece
    return bytes(got)


@pytest.mark.parametrize("image", ["linux", "debian-full"])
async def test_streams_into_a_guest(image: str, program: Path) -> None:
    async with running(program, image) as (host, guest):
        assert await echo(guest, b"hello") == b"hello"
        assert await echo(guest, b"") == b""
        data = random.Random(1).randbytes(3_000_000)
        assert await echo(guest, data) == data
        with pytest.raises(ConnectFailedError, match="port 77: the guest refused"):
            await guest.vsock.connect(77)
        stream = await guest.vsock.connect(PORT)
        stream.abort()
        assert await echo(guest, b"still there") == b"still there"
        assert not host.live


async def test_streams_out_of_a_guest(program: Path) -> None:
    async with running(program) as (_, guest):
        listener = await guest.vsock.listen(9, backlog=2)

        async def serve() -> None:
            stream = await listener.accept()
            request = b""
            while piece := await stream.receive_some(3):
                request += piece
            await stream.send_all(request.upper())
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            done = await guest.run(["/mnt/vsock", "connect", "9", "a question"])
        assert (done.status, done.stdout) == (0, b"A QUESTION")
        with pytest.raises(ConfigError, match="already"):
            await guest.vsock.listen(9)
        await listener.aclose()
        done = await guest.run(["/mnt/vsock", "connect", "9", "a question"])
        assert done.status == 1 and b"reset" in done.stderr
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()


async def test_streams_end_with_their_guest(program: Path) -> None:
    async with running(program) as (_, guest):
        stream = await guest.vsock.connect(PORT)
        listener = await guest.vsock.listen(9)
        await guest.aclose()
        with pytest.raises(trio.BrokenResourceError, match="has ended"):
            await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="ended"):
            await listener.accept()
        with pytest.raises(trio.BrokenResourceError, match="has ended"):
            await guest.vsock.connect(PORT)


async def test_a_fork_has_listeners_but_no_open_streams(program: Path) -> None:
    async with running(program) as (_, guest):
        stream = await guest.vsock.connect(PORT)
        await stream.send_all(b"one")
        assert await stream.receive_some() == b"one"
        (fork,) = await guest.fork()
        assert await echo(fork, b"in the fork") == b"in the fork"
        await stream.send_all(b"two")
        assert await stream.receive_some() == b"two"


async def test_two_runs_are_equal(program: Path) -> None:
    digests = []
    for _ in range(2):
        async with running(program) as (host, guest):
            assert await echo(guest, b"x" * 100_000) == b"x" * 100_000
            await host.run_until(10**10)
            digests.append(guest.machine.digest())
    assert digests[0] == digests[1]


async def test_a_guest_without_the_device() -> None:
    require("linux")
    async with open_host() as host:
        guest = await host.start(image_config(find_image("linux"), commands=True))
        with pytest.raises(ConfigError, match="virtio-vsock"):
            await guest.vsock.connect(PORT)


async def test_a_journal_repeats_what_programs_did(program: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    devices = ("virtio-vsock", "virtio-balloon")
    async with running(program, journal=journal, devices=devices) as (host, guest):
        assert await echo(guest, b"x" * 300_000) == b"x" * 300_000
        with pytest.raises(ConnectFailedError):
            await guest.vsock.connect(77)
        listener = await guest.vsock.listen(9, backlog=2)

        async def serve() -> None:
            async with await listener.accept() as stream:
                await stream.send_all((await stream.receive_some(4)).upper())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await guest.run(["/mnt/vsock", "connect", "9", "word"])
        await listener.aclose()
        await guest.balloon.set("32M")
        await guest.balloon.wait()
        assert await guest.balloon.statistics()
        await host.run_until(host.now_ns + 10**9)
        digest = guest.machine.digest()
    async with open_replay(journal) as replay:
        await replay.run()
        assert replay.recorded.complete and replay.compared
        assert replay.differing == []
        assert replay.guests[guest.name].machine.digest() == digest
