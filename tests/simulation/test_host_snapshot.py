"""Hosts as values: books, contention, connections, and files that lie."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.machine import GuestConfig, SnapshotError
from asyncvmm.network.inet import RST, parse_ipv4, parse_tcp
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime import snapshot_files
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.testing import assemble, to_elf

MS = 1_000_000
MIPS = 20

SPIN = "_start: addi s1, s1, 1\n j _start\n"
# Works for a while that depends on the work so far, then sleeps until its timer.
NAP = """
_start:
    li   s6, 0x0200bff8
    li   s7, 0x02004000
    li   t0, 0x80
    csrw mie, t0
1:  addi s1, s1, 1
    andi t1, s1, 15
    slli t1, t1, 8
2:  addi t1, t1, -1
    bgtz t1, 2b
    ld   t2, 0(s6)
    addi t2, t2, 700
    sd   t2, 0(s7)
    wfi
    j    1b
"""
POLICIES = ("eevdf", "round-robin", "static-partition")


def program(folder: Path, name: str, text: str, **options: Any) -> GuestConfig:
    path = folder / f"{name}.elf"
    path.write_bytes(to_elf(assemble(text, 0x80000000)))
    return GuestConfig(elf=path, name=name, memory=1 << 20, **options)


def linux(name: str, **options: Any) -> GuestConfig:
    found = find_image("linux")
    if not found.is_present(ImageCache()):
        pytest.skip("the image linux is not pulled")
    return image_config(found, commands=True, name=name, nets=("lan",), **options)


def digests(host: Host) -> dict[str, str]:
    return {name: guest.machine.digest() for name, guest in host.guests.items()}


def told(host: Host) -> list[object]:
    """What the host did and gave so far."""
    usages = {name: guest.usage() for name, guest in host.guests.items()}
    return [host.events, usages, host.now_ns]


async def crowd(folder: Path, host: Host, **knobs: Any) -> None:
    """Four guests that want two CPUs, one of them with a cap."""
    for number in range(2):
        await host.start(program(folder, f"spin{number}", SPIN, policy=knobs))
    cap = {"cpu.max": "3000 10000", **knobs}
    await host.start(program(folder, "capped", SPIN, policy=cap))
    await host.start(program(folder, "nap", NAP, harts=2, policy=knobs))
    if not knobs:
        host.guests["spin0"].policy.update(cpu_weight=300)


@pytest.mark.parametrize("policy", POLICIES)
def test_books_go_on_in_a_crowd(tmp_path: Path, policy: str) -> None:
    number = 0

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(1, 30 * MS), st.integers(1, 30 * MS), st.booleans())
    def at(first_ns: int, more_ns: int, on_disk: bool) -> None:
        nonlocal number
        number += 1
        place = tmp_path / f"{number}"

        async def main() -> None:
            async with open_host(cpus=2, mips=MIPS, policy=policy, paused=True) as host:
                reserve = {"cpu.reserve": 250} if policy == "static-partition" else {}
                await crowd(tmp_path, host, **reserve)
                await host.run_until(first_ns)
                snapshot = await host.snapshot()
                before = told(host)
                await host.run_until(first_ns + more_ns)
                expected = digests(host), told(host)
            if on_disk:
                snapshot.save(place)
                snapshot.close()
                snapshot = HostSnapshot.load(place)
            for _ in range(2):
                async with open_host(snapshot=snapshot, paused=True, workers=1) as host:
                    assert told(host) == before
                    await host.run_until(first_ns + more_ns)
                    assert (digests(host), told(host)) == expected
            snapshot.close()

        trio.run(main)

    at()


async def test_a_copy_lives_on_by_itself(tmp_path: Path) -> None:
    """Guests come and go in the copy, and knobs change, as on any host."""
    async with open_host(cpus=2, mips=MIPS, paused=True) as host:
        await crowd(tmp_path, host)
        await host.run_until(5 * MS)
        snapshot = await host.snapshot()
        await host.guests["spin0"].aclose()
    async with open_host(snapshot=snapshot, paused=True) as host:
        snapshot.close()
        assert list(host.guests) == ["spin0", "spin1", "capped", "nap"]
        await host.guests["spin1"].aclose()
        host.guests["capped"].policy.update(cpu_max="max")
        await host.start(program(tmp_path, "late", SPIN))
        await host.run_until(20 * MS)
        with await host.snapshot() as second:
            assert second.guests == ("spin0", "capped", "nap", "late")
            assert second.time_ns == 20 * MS
    with pytest.raises(ConfigError, match="closed"):
        async with open_host(snapshot=snapshot):
            pass
    with pytest.raises(ConfigError, match="give none"):
        async with open_host(snapshot=second, cpus=3):
            pass


async def test_connections_to_outside_end_in_the_copy_only() -> None:
    """What a program of the host says to a guest goes on in the original; the copy's guest sees RST."""
    async with open_host() as host:
        guest = await host.start(linux("web"))
        await guest.run(["sh", "-c", "(nc -l -p 99 > /got; echo $? > /how) & sleep 1"])
        stream = await host.connect("web", 99)
        await stream.send_all(b"before ")
        await guest.run(["sleep", "0.1"])
        with await host.snapshot() as snapshot:
            assert (await guest.run(["sh", "-c", "sleep 1; ls /how"])).status != 0
            await stream.send_all(b"after")
            await stream.aclose()
            assert (await guest.run(["sh", "-c", "sleep 1; cat /got /how"])).stdout == (
                b"before after0\n"
            )
            async with open_host(snapshot=snapshot) as copied:
                again = copied.guests["web"]
                done = await again.run(["sh", "-c", "sleep 1; cat /got /how"])
                assert done.stdout == b"before 0\n"  # nc takes RST for an end
                assert not copied.live
                await again.run(["sh", "-c", "(nc -l -p 98 > /got) & sleep 1"])
                async with await copied.connect("web", 98) as fresh:
                    await fresh.send_all(b"fresh")
                assert (await again.run(["sh", "-c", "sleep 1; cat /got"])).stdout == b"fresh"


async def test_frames_that_cut_connections_are_resets() -> None:
    """And a connection that the program had closed already ends as it would have."""
    async with open_host() as host:
        guest = await host.start(linux("web"))
        await guest.run(["sh", "-c", "(nc -l -p 99 > /got) & (nc -l -p 98 > /gut) & sleep 1"])
        stream = await host.connect("web", 99)
        async with await host.connect("web", 98) as closed:
            await closed.send_all(b"x")
        with await host.snapshot() as snapshot:
            rows = snapshot.saved.networks["networks"]["lan"]["state"]["station"]["connections"]
            assert sorted(row[3] for row in rows) == [98, 99]
        gateway = host._networks.gateways["lan"]
        left = dict(gateway.connections)
        assert gateway.cut_off(host.now_ns) == 1
        assert sorted(key[3] for key in gateway.connections) == [98]
        resets = [parse_tcp(ip) for _, packet in gateway._frames if (ip := parse_ipv4(packet))]
        assert [s.flags & RST for s in resets if s is not None and s.target_port == 99] == [RST]
        (cut,) = [c for key, c in left.items() if key[3] == 99]
        assert "copy" in cut.failure
        with pytest.raises(trio.BrokenResourceError, match="copy"):
            await stream.send_all(b"more")


def test_a_folder_of_the_other_kind_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_host(mips=MIPS, paused=True) as host:
            guest = await host.start(program(tmp_path, "spin", SPIN))
            with await guest.snapshot() as one, await host.snapshot() as all_of_it:
                one.save(tmp_path / "s" / "guest")
                assert all_of_it.save(tmp_path / "s" / "host") == 0  # the same pages

    trio.run(main)
    with pytest.raises(SnapshotError, match=r"HostSnapshot\.load"):
        Snapshot.load(tmp_path / "s" / "host")
    with pytest.raises(SnapshotError, match=r"Snapshot\.load"):
        HostSnapshot.load(tmp_path / "s" / "guest")
    snapshot_files.delete(tmp_path / "s" / "guest")
    HostSnapshot.load(tmp_path / "s" / "host").close()
    snapshot_files.delete(tmp_path / "s" / "host")
    assert not list((tmp_path / "s" / "pages").glob("*.pack"))


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in nested data."""
    if isinstance(value, dict):
        return [at, *(x for key, item in value.items() for x in leaves(item, (*at, key)))]
    if isinstance(value, list):
        return [at, *(x for key, item in enumerate(value) for x in leaves(item, (*at, key)))]
    return [at]


LIES = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70), st.text(max_size=5),
    st.just([]), st.just({}), st.just([[1, 2], "x"]), st.floats(),
)  # fmt: skip


def test_manifests_that_lie_are_refused_or_only_the_copy_s_problem(tmp_path: Path) -> None:
    """Any one value of host.json replaced: a typed error that names the file, or a host that runs."""

    async def make() -> None:
        networks = {"lan": {"links": {"b": {"loss": 0.1}}}}
        async with open_host(mips=1000, networks=networks, paused=True) as host:
            for name in ("a", "b"):
                await host.start(linux(name, memory=24 << 20, engine="interpreter"))
            await host.run_until(3 * MS)
            with await host.snapshot() as snapshot:
                snapshot.save(tmp_path / "good")

    trio.run(make)
    file = tmp_path / "good" / "host.json"
    good = json.loads(file.read_text())
    places = [at for at in leaves(good) if at]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(places), LIES)
    def lie(at: tuple[Any, ...], value: Any) -> None:
        bad = copy.deepcopy(good)
        part = bad
        for key in at[:-1]:
            part = part[key]
        part[at[-1]] = value
        file.write_text(json.dumps(bad))

        async def main() -> None:
            with HostSnapshot.load(tmp_path / "good") as snapshot:
                async with open_host(snapshot=snapshot, paused=True, workers=1) as host:
                    with trio.move_on_after(20):
                        await host.run_until(min(host.now_ns, 10 * MS) + 10_000)

        try:
            trio.run(main)
        except AsyncvmmError as error:
            assert isinstance(error, ConfigError), error

    lie()
