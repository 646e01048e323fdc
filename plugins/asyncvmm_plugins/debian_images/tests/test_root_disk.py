"""The root disk: what replaces the packages' scripts, and a disk that is all root's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from asyncvmm.plugin.images import (
    BuildError,
    ChecksumError,
    ImageCache,
    ImageError,
    MissingToolError,
    SilentProgress,
)
from asyncvmm_plugins.debian_images import lockfile, root_disk, servers
from asyncvmm_plugins.debian_images.apt import package_file
from asyncvmm_plugins.debian_images.lockfile import LockFile
from asyncvmm_plugins.debian_images.relock import pin
from asyncvmm_plugins.debian_images.root_disk import (
    FIRST,
    SYSTEM,
    DebianPostgresqlImage,
    DebianRootImage,
    choose_closure,
    find_tool,
    finish_root,
    make_disk,
    ownership_commands,
)

TOOLS = {name: shutil.which(name, path="/usr/sbin:/sbin:/usr/bin") for name in root_disk.TOOLS}
needs_e2fsprogs = pytest.mark.skipif(None in TOOLS.values(), reason="e2fsprogs is not installed")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the essential packages leave, in small."""
    root = tmp_path / "root"
    for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/share/base-passwd", "usr/share/base-files"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "usr/share/base-passwd/passwd.master").write_text("root:*:0:0:root:/root:/bin/bash\n")
    (root / "usr/share/base-passwd/group.master").write_text("root:*:0:\n")
    (root / "usr/share/base-files/nsswitch.conf").write_text("passwd: files\n")
    return root


def test_the_root_gets_accounts_init_and_agent(root: Path) -> None:
    finish_root(root)
    assert (root / "etc/passwd").read_text().startswith("root::0:0:")
    assert "redis" in (root / "etc/group").read_text()
    assert "ftp:*:103:103::/srv/ftp:" in (root / "etc/passwd").read_text()
    assert (root / "etc/pam.d/common-auth").is_file(), "vsftpd asks PAM"
    assert (root / "var/spool/cups/tmp").is_dir()
    assert (root / "usr/sbin/init").read_text().startswith("#!/bin/sh")
    assert (root / "usr/sbin/asyncvmm-agent").read_bytes()[:4] == b"\x7fELF"
    assert os.access(root / "usr/sbin/init", os.X_OK)
    assert (root / "usr/bin/awk").readlink() == Path("mawk")
    assert (root / "etc/nsswitch.conf").is_file()
    assert (root / "etc/asyncvmm-root").is_file(), "init.sh tells by it where it runs"


def test_a_disk_has_the_accounts_of_its_own_software(root: Path) -> None:
    finish_root(root, DebianPostgresqlImage.software)
    passwd = (root / "etc/passwd").read_text()
    assert "postgres:*:101:101::/var/lib/postgresql:" in passwd and "redis" not in passwd
    assert (root / "var/log/postgresql").is_dir() and not (root / "etc/nginx").exists()


def test_what_a_package_brings_is_not_replaced_by_a_link(root: Path) -> None:
    (root / "usr/bin/awk").write_text("own")
    finish_root(root)
    assert (root / "usr/bin/awk").read_text() == "own"


def test_an_unmerged_root_is_refused(root: Path) -> None:
    (root / "bin").unlink()
    (root / "bin").mkdir()
    with pytest.raises(BuildError, match="/bin is not the link"):
        finish_root(root)


@needs_e2fsprogs
def test_the_disk_holds_the_files_and_is_clean(root: Path, tmp_path: Path) -> None:
    finish_root(root)
    (root / "usr/bin/tool").write_bytes(b"12345")
    (root / "usr/bin/tool").chmod(0o4755)
    disk = tmp_path / "disk.ext4"
    make_disk(root, disk, {name: find_tool(name) for name in root_disk.TOOLS})
    assert disk.stat().st_size >= root_disk.FREE_BYTES
    assert disk.stat().st_blocks * 512 < disk.stat().st_size, "it is sparse"
    stat = subprocess.run(
        [find_tool("debugfs"), "-R", "stat /usr/bin/tool", str(disk)],
        capture_output=True,
        text=True,
    ).stdout
    assert "Mode:  04755" in stat and "User:     0   Group:     0" in stat and "Size: 5" in stat
    check = subprocess.run([find_tool("e2fsck"), "-fn", str(disk)], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


@needs_e2fsprogs
def test_an_ordinary_users_files_become_roots(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "usr/bin/my tool").write_bytes(b"x")
    if os.getuid() == 0:
        os.chown(root / "usr/bin/my tool", 1234, 1234)
        monkeypatch.setattr(os, "getuid", lambda: 1234)
    assert 'set_inode_field "/usr/bin/my tool" uid 0' in ownership_commands(root)
    disk = tmp_path / "disk.ext4"
    make_disk(root, disk, {name: find_tool(name) for name in root_disk.TOOLS})
    stat = subprocess.run(
        [find_tool("debugfs"), "-R", 'stat "/usr/bin/my tool"', str(disk)],
        capture_output=True,
        text=True,
    ).stdout
    assert "User:     0   Group:     0" in stat


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingToolError, match="apt-get install e2fsprogs"):
        find_tool("no-such-mke2fs")


def test_a_disk_without_a_kernel_is_not_present(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    with cache.build("debian-root") as directory:
        (directory / root_disk.DISK).write_bytes(b"disk")
    assert not DebianRootImage().is_present(cache)
    with pytest.raises(ImageError, match="image pull debian-root"):
        DebianRootImage().boot_files(cache)
    with cache.build("linux") as directory:
        (directory / "Image").write_bytes(b"kernel")
    files = DebianRootImage().boot_files(cache)
    assert files.initrd is None and files.disks[0].readonly
    assert files.kernel == cache.directory("linux") / "Image"
    assert "asyncvmm.overlay=1" in files.append


def stanza(name: str, version: str = "1", salt: str = "") -> dict[str, str]:
    return {
        "package": name,
        "version": version,
        "architecture": "riscv64",
        "size": "100",
        "sha256": (name + version + salt).encode().hex().ljust(64, "0")[:64],
    }


PACKAGES = (*SYSTEM, *servers.SERVERS.packages)
INDEX = [stanza(name) for name in PACKAGES]
LOCK = LockFile([pin(package_file(each, "forky")) for each in INDEX])


def test_pinned_packages_are_taken_without_a_word() -> None:
    progress = SilentProgress()
    newer = stanza("bash", "2")
    packages = choose_closure([newer, *INDEX], "forky", LOCK, progress)
    assert [package.package for package in packages[: len(FIRST)]] == list(FIRST)
    assert {package.version for package in packages} == {"1"}, "the pinned of two versions"
    assert progress.notes == []


def test_what_has_vanished_is_replaced_by_the_newest_and_said() -> None:
    progress = SilentProgress()
    index = [stanza("bash", "2") if each["package"] == "bash" else each for each in INDEX]
    packages = choose_closure(index, "forky", LOCK, progress)
    assert [package.version for package in packages if package.package == "bash"] == ["2"]
    (note,) = progress.notes
    assert note.startswith("1 of ") and note.endswith("bash 2 (pinned 1)")
    other = SilentProgress()
    choose_closure(INDEX, "sid", LOCK, other)
    assert f"{len(set(PACKAGES))} of" in other.notes[0] and "(not pinned), ..." in other.notes[0]


def test_another_file_under_a_pinned_version_is_refused() -> None:
    index = [stanza("bash", "1", "x") if each["package"] == "bash" else each for each in INDEX]
    with pytest.raises(ChecksumError, match="bash 1 "):
        choose_closure(index, "forky", LOCK, SilentProgress())


@pytest.mark.parametrize("image", [DebianRootImage, DebianPostgresqlImage])
def test_the_shipped_lock_pins_the_whole_root(image: type[DebianRootImage]) -> None:
    lock = lockfile.load()
    suites = {suite for name, suite in lock.pins if name == "base-files"}
    assert len(suites) == 1
    (suite,) = suites
    assert all(lock.find(name, suite) is not None for name in (*SYSTEM, *image.software.packages))
