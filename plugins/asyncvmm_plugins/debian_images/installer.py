"""The image ``debian``: Debian 13's own kernel and a small initramfs from Debian's installer.

The package is "arch: all", so the index of any architecture leads to it and the machine's keyring
verifies it; nothing has to be compiled and 52 MB is all that is fetched.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Final

from attrs import frozen

from asyncvmm.base.units import MIB
from asyncvmm.plugin.images import BootFiles, BuildError, ImageCache, ImageType, Progress
from asyncvmm_plugins.debian_images import cpio, initramfs, lockfile
from asyncvmm_plugins.debian_images.apt import AptDirectory, PackageFile
from asyncvmm_plugins.debian_images.debs import read_members
from asyncvmm_plugins.debian_images.modules import (
    decompress,
    is_module,
    module_name,
    without_signature,
)
from asyncvmm_plugins.debian_images.tree import Tree

SUITE: Final = "trixie"
ARCHITECTURE: Final = "amd64"
PACKAGE: Final = "debian-installer-13-netboot-riscv64"
RECIPE: Final = "debian 2"
APPEND: Final = "console=ttyS0 cryptomgr.notests initcall_blacklist=jent_mod_init"
"""Without the crypto self-tests and the jitter generator's (185 M instructions, a third of the boot);
the kernel's own random numbers do not come from it."""

MODULES: Final = (
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "9pnet_virtio",
    "9p",
    "vmw_vsock_virtio_transport",
    "ext4",
)
"""Those that the package has are carried; the installer's has no disk, 9p, vsock or ext4."""

RISCV_IMAGE_MAGIC_OFFSET: Final = 0x38
RISCV_IMAGE_MAGIC: Final = b"RSC\x05"
MAX_INITRD_BYTES: Final = 1024 * MIB


@frozen
class Installer:
    """The parts of the installer package that are used."""

    kernel: bytes
    tree: Tree

    @property
    def busybox(self) -> bytes:
        """Its busybox."""
        return self.tree.read("bin/busybox")

    def modules(self) -> dict[str, bytes]:
        """Its kernel modules, plain and unsigned, by name: those that `MODULES` can need."""
        wanted = {*MODULES, "net_failover", "failover"}
        return {
            module_name(path): without_signature(decompress(path, entry.data))
            for path, entry in self.tree.entries.items()
            if entry.is_file and is_module(path) and module_name(path) in wanted
        }


class DebianImage(ImageType):
    """``debian``."""

    name = "debian"
    summary = "Debian 13's own kernel with busybox, from Debian's installer (52 MB download)"
    size_bytes_estimate = 90 * MIB

    def pull(self, cache: ImageCache, progress: Progress) -> None:
        """Fetches the installer package and repacks it."""
        with cache.lock(self.name):
            cache.require_space(220 * MIB, "the image debian")
            installer, source = read_installer(cache, progress)
            with (
                cache.build(self.name, recipe=RECIPE, sources=[str(source)]) as directory,
                progress.task("building debian's initramfs", None),
            ):
                (directory / "Image").write_bytes(installer.kernel)
                (directory / "initrd.cpio").write_bytes(build_initramfs(installer))

    def boot_files(self, cache: ImageCache) -> BootFiles:
        """Kernel, initramfs and command line."""
        directory = self.require_present(cache)
        return BootFiles(
            kernel=directory / "Image",
            initrd=directory / "initrd.cpio",
            append=APPEND,
            memory="128M",
            run_protocol="agent",
        )


def read_installer(cache: ImageCache, progress: Progress) -> tuple[Installer, PackageFile]:
    """The installer's kernel and file system, fetched and verified if need be, and where from."""
    lock = lockfile.load()
    apt = AptDirectory(cache, SUITE, ARCHITECTURE)
    package = apt.find(PACKAGE, lock, progress)
    path = apt.fetch(package, progress)
    with progress.task(f"unpacking {PACKAGE}", None):
        return _unpack(path), package


def build_initramfs(installer: Installer) -> bytes:
    """The initramfs of the installer's busybox, kmod and modules."""
    tree = installer.tree
    programs = {"bin/kmod": tree.read("bin/kmod")}
    box = initramfs.busybox_entries(installer.busybox)
    return initramfs.pack(
        [
            *initramfs.program_entries(tree, {"bin/busybox": installer.busybox, **programs}),
            *box,
            *(cpio.symlink(f"sbin/{name}", "../bin/kmod") for name in KMOD_NAMES),
            *initramfs.module_entries(MODULES, installer.modules()),
            *initramfs.base_entries(),
        ]
    )


KMOD_NAMES: Final = ("insmod", "rmmod", "lsmod", "modprobe", "modinfo")


def check_kernel(image: bytes, origin: str) -> bytes:
    """``image`` if it is a plain RISC-V Linux Image (Linux ``Documentation/arch/riscv/boot-image-header``).

    Raises `BuildError` for anything else, a compressed EFI application for example.
    """
    magic = image[RISCV_IMAGE_MAGIC_OFFSET : RISCV_IMAGE_MAGIC_OFFSET + 4]
    if magic != RISCV_IMAGE_MAGIC:
        raise BuildError(f"the kernel of {origin} is not a plain RISC-V Image (magic {magic!r})")
    return image


def _unpack(deb: Path) -> Installer:
    files = read_members(deb, lambda name: name.endswith(("/riscv64/linux", "/riscv64/initrd.gz")))
    by_name = {name.rsplit("/", 1)[-1]: data for name, data in files.items()}
    if set(by_name) != {"linux", "initrd.gz"}:
        raise BuildError(f"{PACKAGE} does not hold one kernel and one initrd, but {sorted(files)}")
    decompressor = zlib.decompressobj(wbits=31)
    try:
        archive = decompressor.decompress(by_name["initrd.gz"], MAX_INITRD_BYTES)
    except (zlib.error, gzip.BadGzipFile) as error:
        raise BuildError(f"the initrd of {PACKAGE} cannot be decompressed: {error}") from error
    return Installer(check_kernel(by_name["linux"], PACKAGE), Tree(cpio.read(archive)))
