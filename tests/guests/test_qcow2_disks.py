"""A small Linux on qcow2 disks: file systems over reboots, throw-away writes, repeatable runs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from asyncvmm.api import disks, find_image, image_config, open_host
from asyncvmm.api.verify import verify_scenario
from asyncvmm.runtime.scenario import parse_scenario
from tests.guests.conftest import Run, require

pytestmark = pytest.mark.guest
MIB = 1 << 20


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A qcow2 overlay over a raw image with an empty ext4 file system."""
    require("linux")
    mke2fs = shutil.which("mke2fs") or shutil.which("mke2fs", path="/sbin:/usr/sbin")
    if mke2fs is None:
        pytest.skip("mke2fs (Debian: e2fsprogs) makes the file system")
    base = tmp_path / "base.img"
    subprocess.run([mke2fs, "-q", "-t", "ext4", str(base), "32M"], check=True)
    top = tmp_path / "web.qcow2"
    disks.create_image(top, backing="base.img")
    return top


async def in_guest(disk: str, script: str) -> str:
    """What a script says in a fresh guest, which is powered off afterwards."""
    config = image_config(find_image("linux"), commands=True, disks=(disk,))
    async with open_host() as host:
        guest = await host.start(config)
        done = await guest.run(["sh", "-c", f"set -e; {script}"])
        assert done.status == 0, done
        await guest.power_off()
    return done.stdout.decode()


MOUNT = "mkdir -p /mnt; mount -t ext4 /dev/vda /mnt"


async def test_a_file_system_on_an_overlay_over_a_reboot(overlay: Path) -> None:
    before = hashlib.sha256((overlay.parent / "base.img").read_bytes()).hexdigest()
    write = "dd if=/dev/urandom of=/mnt/file bs=64k count=100 2>/dev/null; sha256sum < /mnt/file"
    wrote = await in_guest(str(overlay), f"{MOUNT}; {write}; umount /mnt")
    assert disks.check_image(overlay).clean
    read = await in_guest(
        str(overlay), f"{MOUNT}; sha256sum < /mnt/file; rm /mnt/file; umount /mnt"
    )
    assert wrote == read != ""
    assert hashlib.sha256((overlay.parent / "base.img").read_bytes()).hexdigest() == before
    assert disks.check_image(overlay).clean
    raw = overlay.with_suffix(".raw")
    disks.convert_image(overlay, raw)
    if fsck := shutil.which("e2fsck", path="/sbin:/usr/sbin:/usr/bin"):
        done = subprocess.run([fsck, "-f", "-n", str(raw)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    if qemu_img := shutil.which("qemu-img"):
        subprocess.run([qemu_img, "check", "-q", str(overlay)], check=True)


async def test_what_a_snapshot_disk_is_told_is_forgotten(overlay: Path) -> None:
    before = overlay.read_bytes()
    script = f"{MOUNT}; echo hello > /mnt/file; sync; umount /mnt; {MOUNT}; cat /mnt/file"
    assert await in_guest(f"{overlay},snapshot", script) == "hello\n"
    assert overlay.read_bytes() == before
    assert await in_guest(f"{overlay},snapshot", f"{MOUNT}; ls /mnt") == "lost+found\n"


def test_the_snapshot_option_of_run(overlay: Path, command_line: Run) -> None:
    before = overlay.read_bytes()
    script = "echo hello > /dev/vda; head -c 5 /dev/vda"
    done = command_line("linux", "--disk", str(overlay), "--snapshot", "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (0, b"hello"), done.stderr
    assert overlay.read_bytes() == before


async def test_verify_lets_guests_write_to_snapshot_disks(overlay: Path) -> None:
    text = f"""
        [host]
        mips = 100
        [guests.a]
        image = "linux"
        disks = ["{overlay.name},snapshot"]
        [[steps]]
        guest = "a"
        run = ["sh", "-c", "{MOUNT}; echo hello > /mnt/file; sync; cat /mnt/file"]
        contains = "hello"
    """
    verdict = await verify_scenario(parse_scenario(text, overlay.parent / "s.toml"))
    assert verdict.first.failed is None
    assert verdict.equal
