"""Linux guests in networks: they reach each other and a gateway, and two runs are the same to the byte."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.connections import ConnectFailedError
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host

pytestmark = pytest.mark.guest

ADDRESSES = {"a": "10.0.2.10", "b": "10.0.2.11"}


def config(name: str, image: str = "linux", **options: Any) -> GuestConfig:
    found = find_image(image)
    if not found.is_present(ImageCache()):
        pytest.skip(f"the image {image} is not pulled")
    return image_config(found, commands=True, name=name, nets=("lan",), **options)


async def sh(guest: Guest, script: str) -> str:
    done = await guest.run(["sh", "-c", script])
    assert done.status == 0, (script, done)
    return done.stdout.decode()


async def up(host: Host, name: str, image: str = "linux") -> Guest:
    """A guest whose card has its address, whether or not its image asks for one by itself."""
    guest = await host.start(config(name, image))
    address = ADDRESSES[name]
    await sh(
        guest,
        f"ip link set eth0 up; ip addr show eth0 | grep -q {address}/24 || "
        f"ip addr add {address}/24 dev eth0; ip route replace default via 10.0.2.1 || "
        "ip route add default via 10.0.2.1; true",
    )
    return guest


async def transfer(path: Path, order: tuple[str, str]) -> tuple[dict[str, str], str]:
    """Two guests: pings, and a file sent through a link that loses frames."""
    networks = {"lan": {"links": {"b": {"loss": 0.02, "reorder": 0.02}}}}
    async with open_host(seed=11, networks=networks) as host:
        host.networks["lan"].capture(path.open("wb"))
        guests = {name: await up(host, name) for name in order}
        said = await sh(guests["a"], "ping -c 3 10.0.2.11")
        await sh(guests["b"], "sleep 100 | nc -l -p 99 > /got &")
        await sh(
            guests["a"],
            "head -c 300000 /dev/urandom > /data; nc 10.0.2.11 99 < /data & sleep 5; true",
        )
        sent = await sh(guests["a"], "sha256sum < /data")
        assert await sh(guests["b"], "sha256sum < /got") == sent
        lost = host.networks["lan"].cables["b"].counters[1].lost
        assert lost > 0
        return {name: guest.machine.digest() for name, guest in guests.items()}, said


async def test_two_runs_of_one_seed_give_the_same_capture(tmp_path: Path) -> None:
    captures = [tmp_path / "1.pcapng", tmp_path / "2.pcapng"]
    first = await transfer(captures[0], ("a", "b"))
    assert "packets received" in first[1]
    assert await transfer(captures[1], ("a", "b")) == first
    assert captures[0].read_bytes() == captures[1].read_bytes()
    tshark = shutil.which("tshark")
    if tshark is not None:
        checks = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"]
        bad = "_ws.malformed || ip.checksum.status==0 || tcp.checksum.status==0"
        found = subprocess.run(
            [tshark, "-r", str(captures[0]), *checks, "-Y", bad], capture_output=True, check=True
        )
        assert found.stdout == b""


async def test_a_lease_a_name_and_an_echo_from_the_gateway() -> None:
    async with open_host() as host:
        guest = await up(host, "a")
        said = await sh(guest, "udhcpc -i eth0 -n -q -f -s /bin/true 2>&1")
        assert "lease of 10.0.2.10 obtained from 10.0.2.1" in said
        assert "1 packets received" in await sh(guest, "ping -c 1 10.0.2.1")
        await sh(guest, "echo nameserver 10.0.2.1 > /etc/resolv.conf")
        assert "(10.0.2.10)" in await sh(guest, "ping -c 1 a.lan")
        done = await guest.run(["ping", "-c", "1", "example.org"])
        assert done.status != 0
        assert not host.live


async def test_programs_on_the_host_talk_to_a_guest() -> None:
    async with open_host() as host:
        guest = await up(host, "a")
        with pytest.raises(ConnectFailedError, match="refused"):
            await host.connect("a", 99)
        await sh(guest, "head -c 2000000 /dev/urandom > /data; nc -l -p 99 < /data > /got &")
        stream = await host.connect("a", 99)
        got = hashlib.sha256()
        await stream.send_all(b"hello")
        async for data in stream:
            got.update(data)
        await stream.aclose()
        assert got.hexdigest() in await sh(guest, "sha256sum /data")
        assert await sh(guest, "cat /got") == "hello"
        assert not host.live  # nothing came from outside this process


async def test_a_guest_that_ends_breaks_its_connections() -> None:
    async with open_host() as host:
        guest = await up(host, "a")
        await sh(guest, "sleep 1000 | nc -l -p 99 > /got &")
        stream = await host.connect("a", 99)
        await stream.send_all(b"x")
        await guest.aclose()
        with pytest.raises(trio.BrokenResourceError, match="the guest has ended"):
            await stream.receive_some()
        with pytest.raises(ConfigError, match="no guest"):
            await host.connect("a", 99)


async def test_a_forwarded_port_is_on_loopback_and_marks_the_host_live() -> None:
    async with open_host() as host:
        guest = await up(host, "a")
        port = await host.forward("a", "0:99")
        await sh(guest, "(echo hello; cat) | nc -l -p 99 > /got &")
        with trio.fail_after(60):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(b"from outside")
                assert await stream.receive_some() == b"hello\n"
        assert host.live


async def test_wrong_networks_are_named() -> None:
    async with open_host() as host:
        wrong = attrs.evolve(config("x"), nets=("lane",))
        with pytest.raises(ConfigError, match="did you mean 'lan'"):
            await host.start(wrong)
        with pytest.raises(ConfigError, match="no guest"):
            await host.connect("nobody", 80)


async def test_net_max_holds_to_the_byte() -> None:
    rate, burst = 1_000_000, 100_000
    async with open_host() as host:
        slow = attrs.evolve(config("a"), policy={"net.max": f"wbps={rate} burst_bytes={burst}"})
        guest = await host.start(slow)
        await sh(guest, "ip link set eth0 up; ip addr add 10.0.2.10/24 dev eth0; true")
        await sh(guest, "head -c 1000000 /dev/zero > /data; nc -l -p 99 < /data > /got &")
        began = host.now_ns
        stream = await host.connect("a", 99)
        count = 0
        async for data in stream:
            count += len(data)
            assert count <= burst + rate * (host.now_ns - began) // 1_000_000_000
        assert count == 1_000_000
        (card,) = guest.usage().cards
        assert card.delayed > 0
