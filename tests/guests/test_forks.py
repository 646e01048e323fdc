"""Live copies of guests and hosts: equal to the bit, or with an identity of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from tests.guests.conftest import PATIENCE_S, require

pytestmark = pytest.mark.guest

MS = 1_000_000
DRAW = "head -c 16 /dev/urandom | sha256sum"
LOOK = "cat /sys/class/net/eth0/address; cat /etc/machine-id; date +%s; ip addr show eth0"


def linux(name: str = "base", **options: Any) -> GuestConfig:
    require("linux")
    options = {"devices": ("vmgenid", "virtio-rng"), "nets": ("lan",), **options}
    return image_config(find_image("linux"), ImageCache(), commands=True, name=name, **options)


async def sh(guest: Guest, script: str) -> str:
    done = await guest.run(["sh", "-c", script], check=True)
    return done.stdout.decode()


def digests(host: Host) -> dict[str, str]:
    return {name: guest.machine.digest() for name, guest in host.guests.items()}


async def test_randomness_of_forks_is_the_same_unless_reseeded() -> None:
    async with open_host() as host:
        guest = await host.start(linux())
        assert "random: crng reseeded" not in await sh(guest, "dmesg")
        same = await guest.fork(2)
        others = await guest.fork(2, reseed=True)
        chosen = await guest.fork(reseed=others[0].config.seed)
        drawn = [await sh(one, DRAW) for one in (*same, *others, *chosen)]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) == 3
        assert drawn[4] == drawn[2]  # the seed is all of it
        said = await sh(others[0], "dmesg")
        assert "crng reseeded due to virtual machine fork" in said
        assert "virtual machine fork" not in await sh(same[0], "dmesg")


async def test_without_a_notice_devices_have_other_randomness() -> None:
    async with open_host() as host:
        guest = await host.start(linux(devices=("virtio-rng",)))
        same = await guest.fork(2)
        others = await guest.fork(2, reseed=True)
        drawn = [await sh(one, "head -c 4096 /dev/hwrng | sha256sum") for one in (*same, *others)]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) == 3


async def test_identity_is_renewed_on_request() -> None:
    async with open_host() as host:
        guest = await host.start(linux())
        await guest.run(["true"])
        before = (await sh(guest, "cat /sys/class/net/eth0/address")).strip()
        moment = 2_000_000_000
        (fork,) = await guest.fork(reseed=True, clock=moment * 1_000_000_000)
        await fork.renew_identity()
        address, machine, date, shown = (await sh(fork, LOOK)).split("\n", 3)
        assert address != before
        assert address in {device.io.net.mac.hex(":") for device in fork.machine.devices}
        assert len(machine) == 32
        assert moment <= int(date) < moment + 60
        assert "10.0.2.10/24" in shown
        (other,) = await fork.fork(reseed=True)
        await other.renew_identity()
        lines = (await sh(other, LOOK)).split("\n")
        assert lines[0] not in (address, before)
        assert lines[1] != machine
        with pytest.raises(ConfigError, match="clock"):
            await guest.fork(clock="tomorrow")  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="from a snapshot"):
            await host.start(linux("new"), reseed=True)


async def test_a_host_forks_with_all_that_is_in_it() -> None:
    """Two guests that talk; the copy goes the same way by itself, a reseeded one another."""
    async with open_host(networks={"lan": {"links": {"b": {"loss": 0.02}}}}, seed=3) as host:
        for name in ("a", "b"):
            await host.start(linux(name, memory=32 << 20))
        await sh(host.guests["a"], "(nc -l -p 99 > /dev/null) & sleep 1")
        await sh(host.guests["b"], "(cat /dev/zero | nc 10.0.2.10 99) > /dev/null 2>&1 & sleep 1")
        await host.run_until(host.now_ns + 1)
        copies = [await host.fork() for _ in range(2)]
        (other,) = [await host.fork(reseed=True)]
        second = await copies[1].fork()
        assert all(list(one.guests) == ["a", "b"] for one in (*copies, other, second))
        until_ns = host.now_ns + 80 * MS
        for one in (host, *copies, second, other):
            await one.run_until(until_ns)
        expected = digests(host)
        assert [digests(one) for one in (*copies, second)] == [expected] * 3
        assert digests(other) != expected
        await copies[1].aclose()  # and with it what was forked from it
        await host.guests["a"].aclose()
        await copies[0].run_until(until_ns + MS)
        assert list(copies[0].guests) == ["a", "b"]
        copies[0].resume()
        assert (await sh(copies[0].guests["b"], "echo here")) == "here\n"


def test_bench_fork_prints_a_table_and_writes_figures(tmp_path: Path) -> None:
    require("linux")
    path = tmp_path / "fork.json"
    words = ("bench", "fork", "--forks", "3", "--memory", "32", "--json", str(path))
    done = subprocess.run(
        [sys.executable, "-m", "asyncvmm", *words],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"restore from disk, median (ms)" in done.stdout
    figures = json.loads(path.read_text())
    assert figures["forks"] == 3
    assert figures["memory_bytes"] == 32 << 20
    assert figures["process_bytes"] > figures["guest_bytes"] > 0
    assert min(figures["fork_ms"], figures["restore_ms"], figures["command_ms"]) > 0
