"""The images ``debian-root`` and ``debian-postgresql``: disks with a Debian 13 root, made without root.

The packages are unpacked, not installed: no maintainer script runs, because none could on this machine.
What their scripts would have done and the image needs is done in `finish_root`. The disk is filled by
``mke2fs -d``; for an ordinary user ``debugfs`` then gives every file to root.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from asyncvmm.base.units import MIB
from asyncvmm.plugin.images import (
    BootFiles,
    BuildError,
    ChecksumError,
    DiskFile,
    ImageCache,
    ImageType,
    MissingToolError,
    Progress,
)
from asyncvmm_plugins.debian_images import initramfs, lockfile, servers
from asyncvmm_plugins.debian_images.agent import agent_program
from asyncvmm_plugins.debian_images.apt import AptDirectory, PackageFile, package_file
from asyncvmm_plugins.debian_images.closure import PackageIndex
from asyncvmm_plugins.debian_images.debs import unpack
from asyncvmm_plugins.debian_images.kernel_package import DebianFullImage, verified_suite
from asyncvmm_plugins.debian_images.lockfile import LockFile
from asyncvmm_plugins.debian_images.small_linux import SmallLinuxImage

SUITES_STABLE_FIRST: Final = ("trixie", "forky", "sid")
RECIPE: Final = "debian-root 3"
DISK: Final = "root.ext4"
FIRST: Final = ("base-files", "base-passwd", "libc6", "libc-bin")
SYSTEM: Final = (
    *FIRST,
    *("bash", "dash", "coreutils", "util-linux", "mount", "grep", "sed", "mawk", "findutils"),
    *("tar", "gzip", "hostname", "procps", "ncurses-base", "ncurses-bin", "busybox-static"),
    *("e2fsprogs", "kmod", "iproute2", "iputils-ping", "netbase", "python3", "curl"),
)
"""What every root disk is asked for."""
ROOT_APPEND: Final = "root=/dev/vda ro asyncvmm.overlay=1"
"""The cached disk is never written: init.sh puts an overlay in the guest's memory over it."""
KEPT_APPEND: Final = "root=/dev/vda rw"
"""For a machine with an overlay of its own on the disk: what it writes is kept."""

WORK_BYTES: Final = 1200 * MIB
SHOWN_PACKAGES: Final = 5  # of those that a note is about
FREE_BYTES: Final = 256 * MIB
UUID: Final = "6b1f9c52-8d5b-4c2b-9f3e-1f7d9a60c113"
TOOLS: Final = ("mke2fs", "debugfs")
SYSTEM_DIRECTORIES: Final = ("/usr/sbin", "/sbin")

FSTAB: Final = (
    initramfs.FSTAB + "tmpfs /tmp tmpfs mode=1777 0 0\ntmpfs /dev/shm tmpfs mode=1777 0 0\n"
)


class DebianRootImage(ImageType):
    """``debian-root``; a subclass is another disk, with ``software`` of its own."""

    name = "debian-root"
    recipe = RECIPE
    software = servers.SERVERS
    summary = (
        "a Debian 13 root disk: bash, python3, curl; web, database, mail, print, file, game servers "
        "(~60 MB)"
    )
    size_bytes_estimate = 450 * MIB

    def pull(self, cache: ImageCache, progress: Progress) -> None:
        """Fetches the packages, fills the disk, and gets a kernel if there is none yet."""
        tools = {tool: find_tool(tool) for tool in TOOLS}
        with cache.lock(self.name):
            cache.require_space(WORK_BYTES, f"the image {self.name}")
            apt = verified_suite(cache, SUITES_STABLE_FIRST, progress)
            if apt.suite != SUITES_STABLE_FIRST[0]:
                progress.note(
                    f"{self.name} is made from Debian's suite {apt.suite}, not from Debian 13"
                )
            packages, debs = fetch_closure(apt, progress, self.name, self.software)
            sources = [f"Debian suite {apt.suite}", *packages]
            work = cache.work_directory()
            with (
                cache.build(self.name, recipe=self.recipe, sources=sources) as directory,
                tempfile.TemporaryDirectory(prefix=f"{self.name}.tree-", dir=work) as scratch,
            ):
                root = Path(scratch) / "root"
                root.mkdir(mode=0o755)
                with progress.task("unpacking packages", len(debs)) as task:
                    for deb in debs:
                        unpack(deb, root)
                        task.advance(1)
                finish_root(root, self.software)
                with progress.task("writing the disk", None):
                    make_disk(root, directory / DISK, tools)
        if not any(kernel.is_present(cache) for kernel in (SmallLinuxImage(), DebianFullImage())):
            DebianFullImage().pull(cache, progress)

    def boot_files(self, cache: ImageCache) -> BootFiles:
        """The disk, read-only, under the small Linux if that is there, else under debian-full's kernel."""
        disk = DiskFile(self.require_present(cache) / DISK, readonly=True)
        if SmallLinuxImage().is_present(cache):
            return BootFiles(
                kernel=SmallLinuxImage().boot_files(cache).kernel,
                disks=(disk,),
                append=f"console=ttyS0 {ROOT_APPEND}",
                append_kept=f"console=ttyS0 {KEPT_APPEND}",
                memory="128M",
                run_protocol="agent",
            )
        full = DebianFullImage().boot_files(cache)
        return BootFiles(
            kernel=full.kernel,
            initrd=full.initrd,
            disks=(disk,),
            append=f"{full.append} {ROOT_APPEND}",
            append_kept=f"{full.append} {KEPT_APPEND}",
            memory="256M",
            run_protocol="agent",
        )

    def is_present(self, cache: ImageCache) -> bool:
        """Whether the disk and a kernel for it are there."""
        kernels = (SmallLinuxImage(), DebianFullImage())
        return super().is_present(cache) and any(kernel.is_present(cache) for kernel in kernels)


class DebianPostgresqlImage(DebianRootImage):
    """``debian-postgresql``: a disk of its own, since PostgreSQL brings ICU and Perl, 160 MB."""

    name = "debian-postgresql"
    recipe = "debian-postgresql 1"
    software = servers.POSTGRESQL
    summary = "a Debian 13 root disk: bash, python3, curl; PostgreSQL, server and client (~90 MB)"


def fetch_closure(
    apt: AptDirectory, progress: Progress, image: str, software: servers.Software
) -> tuple[list[str], list[Path]]:
    """Names with versions, and the fetched files, of what `choose_closure` chooses."""
    with progress.task("choosing packages", None):
        packages = choose_closure(
            apt.index(), apt.suite, lockfile.load(), progress, image, software
        )
    return [f"{p.package} {p.version}" for p in packages], apt.fetch_all(packages, progress)


def choose_closure(
    index: Iterable[Mapping[str, str]],
    suite: str,
    lock: LockFile,
    progress: Progress,
    image: str = "debian-root",
    software: servers.Software = servers.SERVERS,
) -> list[PackageFile]:
    """`SYSTEM`, the software and all that they need, `FIRST` first: pinned files, where there are such.

    What is newer than its pin, or has none, is taken as the index has it, with a note. Raises
    `ChecksumError` for a file that is not the one which was pinned under its name and version.
    """

    def is_pinned(stanza: Mapping[str, str]) -> bool:
        pin = lock.find(stanza.get("package", ""), suite)
        return pin is not None and pin.version == stanza.get("version")

    # The pinned version of a package comes first: of several, an index takes the first.
    known = PackageIndex(sorted(index, key=lambda stanza: not is_pinned(stanza)))
    names = known.closure((*SYSTEM, *software.packages))
    ordered = [*FIRST, *(name for name in names if name not in FIRST)]
    packages = [package_file(known.packages[name], suite) for name in ordered]
    others: list[str] = []
    for package in packages:
        pin = lock.find(package.package, suite)
        if pin is None:
            others.append(f"{package.package} {package.version} (not pinned)")
        elif pin.version != package.version:
            others.append(f"{package.package} {package.version} (pinned {pin.version})")
        elif (pin.sha256, pin.size_bytes) != (package.sha256, package.size_bytes):
            raise ChecksumError(
                f"{package} is not the file that asyncvmm was tested with: its SHA-256 is "
                f"{package.sha256}, the lock file says {pin.sha256}"
            )
    if others:
        shown = ", ".join(others[:SHOWN_PACKAGES])
        more = ", ..." if len(others) > SHOWN_PACKAGES else ""
        progress.note(
            f"{len(others)} of {len(packages)} packages of {image} are not those that it was "
            f"tested with: {shown}{more}"
        )
    return packages


def finish_root(root: Path, software: servers.Software = servers.SERVERS) -> None:
    """What the packages' scripts would have done, our init and agent. Raises `BuildError`."""
    for name in ("bin", "sbin", "lib"):
        if not (root / name).is_symlink():
            raise BuildError(f"the root's /{name} is not the link that Debian 13 has")
    mount_points = ("proc", "sys", "dev", "run", "tmp", "mnt", "root")
    for name in (*mount_points, *software.directories):
        (root / name).mkdir(parents=True, exist_ok=True)
    accounts = root / "usr/share/base-passwd"
    passwd = (accounts / "passwd.master").read_text("utf-8").replace("root:*:", "root::")
    group = (accounts / "group.master").read_text("utf-8")
    for name, (number, home) in software.accounts.items():
        passwd += f"{name}:*:{number}:{number}::{home}:/usr/sbin/nologin\n"
        group += f"{name}:*:{number}:\n"
    for name, number in software.groups.items():
        group += f"{name}:*:{number}:\n"
    texts = {
        "etc/passwd": passwd,
        "etc/group": group,
        "etc/hostname": "asyncvmm\n",
        "etc/hosts": "127.0.0.1 localhost asyncvmm\n::1 localhost ip6-localhost\n",
        "etc/fstab": FSTAB,
        "etc/asyncvmm-root": "This root was made by asyncvmm from unpacked Debian packages.\n",
        "etc/profile.d/asyncvmm.sh": "export HOME=/root\n",
        **software.files,
    }
    for name, text in texts.items():
        _write(root / name, text.encode(), 0o644)
    _copy(root, "usr/share/base-files/nsswitch.conf", "etc/nsswitch.conf")
    _copy(root, "usr/share/base-files/profile", "etc/profile")
    links = {
        "usr/bin/awk": "mawk",
        "etc/inittab": "/run/inittab",
        "etc/mtab": "/proc/mounts",
        **software.links,
        **{f"usr/sbin/{name}": "../bin/busybox" for name in ("poweroff", "reboot", "halt")},
    }
    for name, target in links.items():
        path = root / name
        if not path.is_symlink() and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
    _write(root / "usr/sbin/init", initramfs.init_script(), 0o755)
    _write(root / "usr/sbin/asyncvmm-agent", agent_program(), 0o755)
    _write(root / "usr/sbin/asyncvmm-network", initramfs.network_script(), 0o755)


def make_disk(root: Path, disk: Path, tools: dict[str, str]) -> None:
    """An ext4 file system at ``disk``, a sparse file, with what is below ``root``, all of it root's."""
    used = sum(path.lstat().st_size + 4096 for path in root.rglob("*"))
    size = (used * 11 // 10 + FREE_BYTES) // MIB * MIB
    with disk.open("wb") as out:
        out.truncate(size)
    options = f"root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,hash_seed={UUID}"
    _tool(
        [
            tools["mke2fs"], "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "asyncvmm",
            "-O", "^metadata_csum,^orphan_file", "-U", UUID, "-E", options, "-d", str(root), str(disk),
        ]
    )  # fmt: skip
    commands = ownership_commands(root)
    if commands:
        with tempfile.NamedTemporaryFile("w", suffix=".debugfs", dir=disk.parent) as script:
            script.write(commands)
            script.flush()
            _tool([tools["debugfs"], "-w", "-f", script.name, str(disk)])


def ownership_commands(root: Path) -> str:
    """debugfs commands that give to root what an ordinary user unpacked; nothing if root did it."""
    lines = []
    for path in [*root.rglob("*")]:
        status = path.lstat()
        if status.st_uid == 0 and status.st_gid == 0:
            continue
        if status.st_uid != os.getuid():
            continue  # unpacked by root, who could keep the owner that the package gives
        name = f'"/{path.relative_to(root)}"'
        lines += [f"set_inode_field {name} uid 0", f"set_inode_field {name} gid 0"]
    return "".join(line + "\n" for line in lines)


def find_tool(name: str) -> str:
    """The path of a file system tool, also where an ordinary user's PATH does not lead."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *SYSTEM_DIRECTORIES])
    found = shutil.which(name, path=path)
    if found is None:
        raise MissingToolError(
            f"making the disk of debian-root needs {name}: run `sudo apt-get install e2fsprogs`"
        )
    return found


def _tool(command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def _write(path: Path, data: bytes, permissions: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        path.unlink()
    path.write_bytes(data)
    path.chmod(stat.S_IMODE(permissions))


def _copy(root: Path, source: str, target: str) -> None:
    if (root / source).is_file() and not (root / target).exists():
        _write(root / target, (root / source).read_bytes(), 0o644)
