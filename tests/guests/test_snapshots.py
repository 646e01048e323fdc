"""Snapshots of real Linux guests: forks, disks, a new process, a command under way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig, SnapshotError
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.snapshots import Snapshot
from tests.guests.conftest import require

MS = 1_000_000
AGAIN = """
import sys, trio
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.snapshots import Snapshot

async def main():
    async with open_host(paused=True, workers=1) as host:
        with Snapshot.load(sys.argv[1]) as snapshot:
            guest = await host.start(snapshot)
        await host.run_until(int(sys.argv[2]))
        print(guest.machine.digest())

trio.run(main)
"""


def linux(**options: object) -> GuestConfig:
    require("linux")
    return image_config(find_image("linux"), ImageCache(), commands=True, name="base", **options)


async def test_forks_go_their_own_ways() -> None:
    async with open_host() as host:
        guest = await host.start(linux())
        await guest.run(["sh", "-c", "echo one > /tmp/x"], check=True)
        with await guest.snapshot() as snapshot:
            forks = [await host.start(snapshot, name=f"fork{n}") for n in range(2)]
        forks += await guest.fork()
        assert [fork.name for fork in forks] == ["fork0", "fork1", "base.1"]
        for number, fork in enumerate(forks):
            done = await fork.run(["sh", "-c", f"echo fork{number} >> /tmp/x; cat /tmp/x"])
            assert done.stdout == f"one\nfork{number}\n".encode()
        assert (await guest.run(["cat", "/tmp/x"])).stdout == b"one\n"
        with pytest.raises(ConfigError, match="closed"):
            await host.start(snapshot, name="late")


async def test_equal_forks_do_the_same() -> None:
    async with open_host(paused=True) as host:
        guest = await host.start(linux())
        await host.run_until(60 * MS)
        with await guest.snapshot() as snapshot:
            forks = [await host.start(snapshot, name=f"fork{n}") for n in range(2)]
        await host.run_until(90 * MS)
        digests = {one.machine.digest() for one in (guest, *forks)}
        assert len(digests) == 1


@pytest.mark.parametrize("harts", [1, 2])
async def test_a_new_process_goes_on_to_the_same_digest(tmp_path: Path, harts: int) -> None:
    async with open_host(paused=True) as host:
        guest = await host.start(linux(harts=harts))
        await host.run_until(35 * MS)  # in the middle of its boot
        with await guest.snapshot() as snapshot:
            snapshot.save(tmp_path / "half")
            with pytest.raises(ConfigError, match="another name"):
                snapshot.save(tmp_path / "half")
        await host.run_until(75 * MS)
        expected = guest.machine.digest()
    again = subprocess.run(
        [sys.executable, "-c", AGAIN, str(tmp_path / "half"), str(40 * MS)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert again.stdout.strip() == expected


async def test_disks_are_what_they_were(tmp_path: Path) -> None:
    """One written in place, one with a throw-away overlay: in forks, and from files."""
    for name in ("place", "over"):
        (tmp_path / f"{name}.raw").write_bytes(b"\x11" * (1 << 20))
    disks = (str(tmp_path / "place.raw"), f"{tmp_path / 'over.raw'},snapshot")
    both = "for d in vda vdb; do dd if=/dev/$d bs=4 count=1 skip=25600 2>/dev/null; done; echo"
    write = "for d in vda vdb; do printf {} | dd of=/dev/$d bs=4 seek=25600 2>/dev/null; done; sync"
    drop = "echo 3 > /proc/sys/vm/drop_caches; " + both
    async with open_host() as host:
        guest = await host.start(linux(disks=disks))
        await guest.run(["sh", "-c", write.format("AAAA")], check=True)
        snapshot = await guest.snapshot()
        snapshot.save(tmp_path / "saved")
        await guest.run(["sh", "-c", write.format("BBBB")], check=True)
        fork = await host.start(snapshot, name="fork")
        assert (await fork.run(["sh", "-c", drop])).stdout == b"AAAAAAAA\n"
        await fork.run(["sh", "-c", write.format("CCCC")], check=True)
        assert (await guest.run(["sh", "-c", drop])).stdout == b"BBBBBBBB\n"
        assert (await fork.run(["sh", "-c", drop])).stdout == b"CCCCCCCC\n"
        snapshot.close()
    assert (tmp_path / "place.raw").read_bytes()[102400:102404] == b"BBBB"
    assert (tmp_path / "over.raw").read_bytes() == b"\x11" * (1 << 20)
    async with open_host() as host:
        with Snapshot.load(tmp_path / "saved") as loaded:
            again = await host.start(loaded)
        assert (await again.run(["sh", "-c", drop])).stdout == b"AAAAAAAA\n"
    (tmp_path / "over.raw").write_bytes(b"\x22" * (1 << 20))
    with pytest.raises(SnapshotError, match=r"over\.raw: has changed"):
        Snapshot.load(tmp_path / "saved")


async def test_a_command_that_ran_is_killed_in_the_fork() -> None:
    async with open_host() as host:
        guest = await host.start(linux())
        await guest.wait_ready()
        snapshots: list[Snapshot] = []

        async def pieces():  # type: ignore[no-untyped-def]
            yield b"first\n"
            snapshots.append(await guest.snapshot())
            yield b"second\n"

        done = await guest.run(["cat"], stdin=pieces())
        assert done.stdout == b"first\nsecond\n"
        with snapshots[0] as snapshot:
            fork = await host.start(snapshot, name="fork")
        assert (await fork.run(["echo", "here"])).stdout == b"here\n"
        assert b"cat" not in (await fork.run(["ps"])).stdout.replace(b"/cat", b"")


async def test_a_guest_that_has_ended_has_no_snapshot() -> None:
    async with open_host() as host:
        guest = await host.start(linux())
        await guest.aclose()
        with pytest.raises(ConfigError, match="has ended"):
            await guest.snapshot()
