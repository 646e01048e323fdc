"""Linux goes back: in the middle of its boot, and before a command that it wishes it had not run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio
import trio.testing

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.ports import GuestEndedError
from asyncvmm.runtime.replay import open_replay
from tests.guests.conftest import require

MS = 1_000_000


def linux(**options: object) -> GuestConfig:
    require("linux")
    return image_config(find_image("linux"), ImageCache(), commands=True, name="base", **options)


@pytest.mark.parametrize("harts", [1, 2])
async def test_its_boot_again(harts: int) -> None:
    noted = {}
    async with open_host(paused=True) as host:
        guest = await host.start(linux(harts=harts))
        guest.keep_history()
        for instant in (21_234_567, 40 * MS, 57_000_001, 75 * MS):
            await host.run_until(instant)
            noted[host.now_ns] = guest.machine.digest()
        for instant, digest in noted.items():
            with await guest.at(instant) as there:
                copy = await host.start(there, name="copy")
                assert copy.machine.digest() == digest
                await copy.aclose()
        await guest.goto(33_333_333)  # nobody had looked there
        for instant, digest in noted.items():
            if instant > 33_333_333:
                await host.run_until(guest.since_ns + instant)
                assert guest.machine.digest() == digest


async def test_a_command_undone() -> None:
    async with open_host() as host:
        guest = await host.start(linux())
        guest.keep_history()
        await guest.run(["sh", "-c", "echo kept > /tmp/x"], check=True)
        before = guest.now_ns
        await guest.run(["rm", "/tmp/x"], check=True)
        assert (await guest.run(["cat", "/tmp/x"])).status == 1
        ended = []

        async def sleep() -> None:
            try:
                await guest.run(["sleep", "1000"])
            except GuestEndedError as error:
                ended.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            await trio.testing.wait_all_tasks_blocked()
            await guest.goto(before)
        assert len(ended) == 1
        assert (await guest.run(["cat", "/tmp/x"])).stdout == b"kept\n"
        with await guest.at(before) as there:
            fork = await host.start(there, name="fork")
        assert (await fork.run(["cat", "/tmp/x"])).stdout == b"kept\n"


async def test_the_balloon_is_an_input() -> None:
    """What was asked of it comes again at its instant."""
    async with open_host(paused=True) as host:
        guest = await host.start(linux(devices=("virtio-balloon",)))
        guest.keep_history()
        await host.run_until(100 * MS)
        await guest.balloon.set("8M")
        noted = {}
        for instant in (110 * MS, 130 * MS):
            await host.run_until(instant)
            noted[instant] = guest.machine.digest()
        assert guest.balloon.actual_bytes == 8 << 20
        for instant, digest in noted.items():
            await guest.goto(instant)
            assert guest.machine.digest() == digest
        await guest.goto(100 * MS)
        assert guest.balloon.actual_bytes == 0


TRANSFER = (
    "head -c 400000 /dev/urandom > /data; nc {0} 99 < /data & ping -c 100 -i 0.003 {0} > /ping &"
)


async def in_network(host: Host, name: str, address: str, harts: int) -> Guest:
    config = image_config(
        find_image("linux"), ImageCache(), commands=True, name=name, nets=("lan",), harts=harts
    )
    guest = await host.start(config)
    has = f"ip addr show eth0 | grep -q {address}/24"
    script = f"ip link set eth0 up; {has} || ip addr add {address}/24 dev eth0"
    await guest.run(["sh", "-c", script], check=True)
    return guest


@pytest.mark.parametrize(("harts", "cpus"), [(1, 8), (2, 8), (1, 1), (2, 1)])
@pytest.mark.parametrize("looked_at", ["a", "b"])
async def test_frames_come_again(looked_at: str, harts: int, cpus: int) -> None:
    """Of two guests in the middle of a lossy transfer, each at instants on and off the host's grid; with
    one CPU for both they are shown steal time, too.
    """
    require("linux")
    rng = random.Random(f"{looked_at} {harts} {cpus}")
    networks = {"lan": {"links": {"b": {"loss": 0.02, "reorder": 0.02}}}}
    async with open_host(seed=5, networks=networks, cpus=cpus) as host:
        a = await in_network(host, "a", "10.0.2.10", harts)
        b = await in_network(host, "b", "10.0.2.11", harts)
        guest = {"a": a, "b": b}[looked_at]
        guest.keep_history(spacing=3_000_000)
        await b.run(["sh", "-c", "sleep 100 | nc -l -p 99 > /got &"], check=True)
        await a.run(["sh", "-c", TRANSFER.format("10.0.2.11")], check=True)
        noted, began, neighbour = {}, host.now_ns, {"a": b, "b": a}[looked_at]
        host.pause()
        for instant in sorted(rng.randrange(60 * MS) for _ in range(7)):
            await host.run_until(began + instant)
            noted[host.now_ns - guest.since_ns] = guest.machine.digest()
        assert guest._past.history is not None and guest._past.history.arrivals.count > 30
        for instant, digest in reversed(noted.items()):
            with await guest.at(instant) as there:
                copy = await host.start(there, name="copy", apart=True)
                assert copy.machine.digest() == digest, instant
                await copy.aclose()
        beside = neighbour.machine.digest()
        last = max(noted)
        for instant in (*rng.sample(sorted(noted), 3), last):
            await guest.goto(instant)
            assert guest.machine.digest() == noted[instant]
        assert neighbour.machine.digest() == beside
        # It goes on from the past, in a network that has gone on.
        await guest.goto(min(noted))
        host.resume()
        there = {"a": "10.0.2.11", "b": "10.0.2.10"}[looked_at]
        done = await guest.run(["ping", "-c", "3", there], check=True)
        assert b"0% packet loss" in done.stdout or b"packets received" in done.stdout


async def test_frames_are_bounded_and_streams_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is forgotten at the front is refused, the rest is exact; the gateway's end of a connection
    does not outlive the guest's, and the next connection works.
    """
    require("linux")
    monkeypatch.setattr("asyncvmm.runtime.history.MAX_BYTES", 100_000)
    async with open_host() as host:
        guest = await in_network(host, "a", "10.0.2.10", 1)
        server = "for port in 98 99; do nc -l -p $port > /got$port & done > /dev/null 2>&1"
        await guest.run(["sh", "-c", server], check=True)
        guest.keep_history(spacing=1_000_000_000)
        first, digest = guest.now_ns, guest.machine.digest()
        stream = await host.connect("a", 99)
        noted = {}
        for _ in range(6):
            await stream.send_all(b"x" * 60_000)
            assert (await guest.run(["wc", "-c", "/got99"])).status == 0
            print(
                guest._past.history.arrivals.size_bytes,
                guest._past.history.arrivals.count,
                len(guest._past.history.checkpoints),
            )
            noted[guest.machine.scheduler.now_ns()] = guest.machine.digest()
        history = guest._past.history
        assert history is not None and history.arrivals.size_bytes <= 100_000 + 70_000
        assert digest not in noted.values()
        with pytest.raises(ConfigError, match="what is kept begins at"):
            await guest.goto(first)
        await guest.goto(max(noted) - 1000)
        with pytest.raises(trio.BrokenResourceError, match="went back in time"):
            await stream.send_all(b"x")
            await stream.receive_some()
        other = await host.connect("a", 98)
        await other.send_all(b"new")
        await other.aclose()
        assert (await guest.run(["sh", "-c", "sleep 1; cat /got98"])).stdout == b"new"


async def test_a_recorded_linux_goes_back(tmp_path: Path) -> None:
    """In a network, with commands and a program's connection, which end: a replay does the same."""
    require("linux")
    journal = tmp_path / "journal"
    async with open_host(journal=journal) as host:
        guest = await in_network(host, "a", "10.0.2.10", 2)
        guest.keep_history(spacing=3_000_000)
        await guest.run(["sh", "-c", "nc -l -p 98 > /got &"], check=True)
        stream = await host.connect("a", 98)
        await stream.send_all(b"x" * 5000)
        await guest.run(["sh", "-c", "echo kept > /tmp/x"], check=True)
        before = guest.now_ns
        await guest.run(["rm", "/tmp/x"], check=True)
        await guest.goto(before)
        await stream.aclose()
        assert (await guest.run(["cat", "/tmp/x"], check=True)).stdout == b"kept\n"
        lived = guest.machine.digest()
    async with open_replay(journal) as replay:
        await replay.run()
        assert replay.compared and replay.differing == []
        assert replay.guests["a"].machine.digest() == lived
