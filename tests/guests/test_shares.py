"""Folders of the host in real guests: read, written as copies, kept in snapshots, the same in every run."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from asyncvmm.api import ConfigError, Guest, find_image, image_config, open_host
from asyncvmm.runtime.snapshots import Snapshot
from tests.guests.conftest import require

pytestmark = pytest.mark.guest
MOUNT = "mkdir -p /mnt && mount -t 9p -o trans=virtio,version=9p2000.L share /mnt && cd /mnt"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("hello\n")
    (folder / "big").write_bytes(os.urandom(1 << 20) * 3 + b"end")
    (folder / "run.sh").write_text("#!/bin/sh\necho it ran\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "out").symlink_to("/etc/hostname")
    return folder


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if not path.is_symlink()
    }


async def say(guest: Guest, script: str) -> str:
    done = await guest.run(["sh", "-c", f"set -e; {script}"])
    assert done.status == 0, done
    return done.stdout.decode()


@pytest.mark.parametrize("image", ["linux", "debian-full"])
async def test_a_share_is_read_and_written(image: str, shared: Path) -> None:
    require(image)
    before = everything(shared)
    config = image_config(find_image(image), commands=True, shares=(f"{shared}:share:cow",))
    async with open_host() as host:
        guest = await host.start(config)
        await say(guest, MOUNT)
        assert await say(guest, "cd /mnt; ls; ./run.sh; cat a.txt; readlink out") == (
            "a.txt\nbig\nout\nrun.sh\nsub\nit ran\nhello\n/etc/hostname\n"
        )
        digest = hashlib.sha256((shared / "big").read_bytes()).hexdigest()
        assert (await say(guest, "sha256sum /mnt/big")).split()[0] == digest
        await say(guest, "cd /mnt; echo more >> a.txt; mv a.txt sub/b.txt; rm big; mkdir -p x/y")
        await say(guest, "cd /mnt; dd if=/dev/zero of=x/y/zeros bs=64k count=8 2>&1; ln run.sh x/r")
        assert await say(guest, "cd /mnt; cat sub/b.txt; ls . x; wc -c < x/y/zeros") == (
            "hello\nmore\n.:\nout\nrun.sh\nsub\nx\n\nx:\nr\ny\n524288\n"
        )
        assert await say(guest, "cd /mnt; rm -r x; ls; mknod sub/mem c 1 1 || echo no") == (
            "out\nrun.sh\nsub\nno\n"
        )
        assert not host.live
    assert everything(shared) == before


async def test_a_read_only_share_stays_as_it_is(shared: Path) -> None:
    require("linux")
    config = image_config(find_image("linux"), commands=True, shares=(str(shared),))
    async with open_host() as host:
        guest = await host.start(config)
        done = await guest.run(
            ["sh", "-c", f"{MOUNT}; echo x > new; echo x >> a.txt; rm a.txt; ls"]
        )
        assert done.stdout == b"a.txt\nbig\nout\nrun.sh\nsub\n"
        assert done.stderr.count(b"Read-only file system") == 3


async def test_a_share_in_a_snapshot(shared: Path, tmp_path: Path) -> None:
    require("linux")
    config = image_config(find_image("linux"), commands=True, shares=(f"{shared}:share:cow",))
    async with open_host() as host:
        guest = await host.start(config)
        await say(guest, f"{MOUNT}; echo mine > new; cat big > /dev/null")
        with await guest.snapshot() as taken:
            taken.save(tmp_path / "taken")
            fork = await host.start(taken, name="fork")
            await say(fork, "echo fork >> /mnt/new; rm /mnt/a.txt")
            assert await say(guest, "cd /mnt; cat new; ls") == (
                "mine\na.txt\nbig\nnew\nout\nrun.sh\nsub\n"
            )
            assert (
                await say(fork, "cd /mnt; cat new; ls")
                == "mine\nfork\nbig\nnew\nout\nrun.sh\nsub\n"
            )
    async with open_host() as host:
        again = await host.start(Snapshot.load(tmp_path / "taken"))
        assert await say(again, "cat /mnt/new") == "mine\n"
    (shared / "a.txt").write_text("other\n")
    async with open_host() as host:
        with pytest.raises(ConfigError, match="is not what it was"):
            await host.start(Snapshot.load(tmp_path / "taken"))


async def test_what_changes_on_the_host_is_not_seen(shared: Path) -> None:
    require("linux")
    config = image_config(find_image("linux"), commands=True, shares=(str(shared),))
    async with open_host() as host:
        guest = await host.start(config)
        await say(guest, MOUNT)
        (shared / "big").write_bytes(b"secret" * 600_000)
        (shared / "later").write_text("later")
        assert await say(guest, "cd /mnt; ls; cat big || echo refused") == (
            "a.txt\nbig\nout\nrun.sh\nsub\nrefused\n"
        )


async def test_two_runs_are_equal(shared: Path) -> None:
    require("linux")
    config = image_config(find_image("linux"), commands=True, shares=(f"{shared}:share:cow",))
    digests = []
    for _ in range(2):
        async with open_host(seed=3) as host:
            guest = await host.start(config)
            await say(
                guest, f"{MOUNT}; echo x > n; ls -laR . > /dev/null || ls -la; cat big | wc -c"
            )
            await host.run_until(10**10)
            digests.append(guest.machine.digest())
        os.utime(shared / "a.txt", (5, 5))
    assert digests[0] == digests[1]
