"""A cluster of real guests, taken in the middle of what they do, goes on in another process as if never
stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.api.images import find_image, image_config
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from tests.guests.conftest import require

pytestmark = pytest.mark.guest

MS = 1_000_000
LONG_NS = 120 * MS  # of a transfer, looked at
NETWORKS = {
    "lan": {
        "bandwidth": "200M",
        "links": {"one": {"bandwidth": "200M", "loss": 0.02, "reorder": 0.02}},
    }
}
SERVE = """
mkdir -p /var/log/nginx /var/lib/nginx
head -c 3000000 /dev/urandom > /var/www/html/file
nginx
"""
FETCH = """
(sleep 0.01; while true; do curl -s -o /tmp/got http://web/file; done) > /dev/null 2>&1 &
"""
GO_ON = """
import json, sys, trio
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot

async def main():
    found = []
    for path in sys.argv[2:]:
        with HostSnapshot.load(path) as snapshot:
            async with open_host(snapshot=snapshot, paused=True, workers=1) as host:
                await host.run_until(int(sys.argv[1]))
                found.append({name: g.machine.digest() for name, g in host.guests.items()})
    print(json.dumps(found))

trio.run(main)
"""


def in_a_new_process(until_ns: int, paths: list[Path]) -> list[dict[str, str]]:
    """The digests of all guests at ``until_ns`` of each saved host."""
    done = subprocess.run(
        [sys.executable, "-c", GO_ON, str(until_ns), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def config(name: str, engine: str, harts: int) -> GuestConfig:
    """A guest with nginx and curl of Debian."""
    image = find_image("debian-root")
    return image_config(
        image, ImageCache(), commands=True, name=name, nets=("lan",), memory=64 << 20,
        engine=engine, harts=harts,
    )  # fmt: skip


def digests(host: Host) -> dict[str, str]:
    """Of all guests."""
    return {name: guest.machine.digest() for name, guest in host.guests.items()}


async def fetching(engine: str, harts: int, folder: Path) -> tuple[int, dict[str, str]]:
    """Save a cluster as two of three guests fetch files from the third; when the transfers end for
    this test, and what the guests are then when nobody stops them.
    """
    async with open_host(seed=7, networks=NETWORKS) as host:
        guests = [await host.start(config(n, engine, harts)) for n in ("web", "one", "two")]
        await guests[0].run(["sh", "-c", SERVE], check=True)
        for guest in guests[1:]:
            await guest.run(["sh", "-c", FETCH], check=True)
        cable = host.networks["lan"].cables["two"]
        await host.run_until(lambda: cable.counters[1].sent > 300)
        with await host.snapshot() as snapshot:
            snapshot.save(folder / "begun")
        until_ns = host.now_ns + LONG_NS
        await host.run_until(until_ns)
        assert cable.counters[1].sent > 600
        return until_ns, digests(host)


@pytest.mark.parametrize(("engine", "harts"), [("jit", 1), ("jit", 2), ("interpreter", 1)])
def test_a_cluster_in_the_middle_of_transfers(
    tmp_path_factory: pytest.TempPathFactory, engine: str, harts: int
) -> None:
    require("debian-root")
    folder = tmp_path_factory.mktemp("cluster")
    until_ns, expected = trio.run(fetching, engine, harts, folder)
    count = in_flight = 0

    @settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.integers(1, LONG_NS - 1), min_size=1, max_size=3, unique=True))
    def instants(after_ns: list[int]) -> None:
        async def stop_there() -> list[Path]:
            nonlocal count, in_flight
            paths = []
            with HostSnapshot.load(folder / "begun") as begun:
                async with open_host(snapshot=begun, paused=True) as host:
                    for ns in sorted(after_ns):
                        await host.run_until(until_ns - LONG_NS + ns)
                        count += 1
                        paths.append(folder / f"at{count}")
                        with await host.snapshot() as taken:
                            lan = taken.saved.networks["networks"]["lan"]["state"]
                            in_flight += len(lan["events"])
                            taken.save(paths[-1])
                    await host.run_until(until_ns)
                    assert digests(host) == expected
            return paths

        for found in in_a_new_process(until_ns, trio.run(stop_there)):
            assert found == expected

    instants()
    assert in_flight
