"""The image ``debian-full``: Debian's packaged kernel with the modules for all of our devices.

The kernel comes from the newest suite whose riscv64 index verifies; which one is said in a note and
kept in the image's manifest.
"""

from __future__ import annotations

import os
import re
from typing import Final

from asyncvmm.base.units import MIB
from asyncvmm.plugin.images import (
    BootFiles,
    BuildError,
    ChecksumError,
    ImageCache,
    ImageError,
    ImageType,
    Progress,
)
from asyncvmm_plugins.debian_images import cpio, initramfs, lockfile
from asyncvmm_plugins.debian_images.apt import AptDirectory, PackageFile
from asyncvmm_plugins.debian_images.debs import read_members
from asyncvmm_plugins.debian_images.installer import APPEND, MODULES, check_kernel
from asyncvmm_plugins.debian_images.modules import (
    decompress,
    dependencies,
    is_module,
    module_name,
    without_signature,
)

ARCHITECTURE: Final = "riscv64"
SUITES_NEWEST_FIRST: Final = ("sid", "forky", "trixie")
META_PACKAGE: Final = "linux-image-riscv64"
BUSYBOX: Final = "busybox-static"
RECIPE: Final = "debian-full 1"
SMALL_CMA: Final = "cma=16M"
"""Its default of 128 MiB is kept from everything but movable pages: of 256 MiB modules find too little."""
FULL_MODULES: Final = (*MODULES, "overlay", "squashfs", "virtiofs", "virtio_console")


class DebianFullImage(ImageType):
    """``debian-full``."""

    name = "debian-full"
    summary = (
        "Debian's packaged kernel of the newest suite, with disk, net, 9p, vsock, ext4 (~120 MB)"
    )
    size_bytes_estimate = 170 * MIB

    def pull(self, cache: ImageCache, progress: Progress) -> None:
        """Fetches the kernel's packages and busybox of one suite and packs them."""
        with cache.lock(self.name):
            cache.require_space(450 * MIB, "the image debian-full")
            apt = verified_suite(cache, SUITES_NEWEST_FIRST, progress)
            progress.note(f"debian-full is made from Debian's suite {apt.suite}")
            lock = lockfile.load()
            packages = kernel_packages(apt, lock, progress)
            box_package = apt.resolve(BUSYBOX, lock, progress)
            debs = [apt.fetch(package, progress) for package in packages]
            box_deb = apt.fetch(box_package, progress)
            sources = [str(package) for package in (*packages, box_package)]
            with progress.task("unpacking the kernel", None):
                files: dict[str, bytes] = {}
                for deb in debs:
                    files.update(read_members(deb, _is_wanted))
                box = read_members(box_deb, lambda name: name.endswith("bin/busybox"))
            if len(box) != 1:
                raise BuildError(f"{box_package} does not hold one busybox")
            with (
                cache.build(self.name, recipe=RECIPE, sources=sources) as directory,
                progress.task("building debian-full's initramfs", None),
            ):
                (directory / "Image").write_bytes(_kernel(files, packages))
                archive = build_initramfs(next(iter(box.values())), _modules(files))
                (directory / "initrd.cpio").write_bytes(archive)

    def boot_files(self, cache: ImageCache) -> BootFiles:
        """Kernel, initramfs and command line."""
        directory = self.require_present(cache)
        return BootFiles(
            kernel=directory / "Image",
            initrd=directory / "initrd.cpio",
            append=f"{APPEND} {SMALL_CMA}",
            memory="256M",
            run_protocol="agent",
        )


def verified_suite(cache: ImageCache, suites: tuple[str, ...], progress: Progress) -> AptDirectory:
    """apt for the first of ``suites`` whose riscv64 index verifies; ``ASYNCVMM_DEBIAN_SUITE`` asks for
    another. Says in a note which were passed over. Raises the last failure if there is none."""
    wanted = os.environ.get("ASYNCVMM_DEBIAN_SUITE")
    failure: ImageError | None = None
    for suite in (wanted,) if wanted else suites:
        if re.fullmatch(r"[a-z][a-z0-9-]*", suite) is None:
            raise ImageError(f"ASYNCVMM_DEBIAN_SUITE={suite!r} is no name of a Debian suite")
        apt = AptDirectory(cache, suite, ARCHITECTURE)
        try:
            apt.update(progress)
        except ChecksumError as error:
            reason = str(error).partition(" (apt said")[0]
            progress.note(f"Debian's suite {suite} is passed over: {reason}")
            failure = error
            continue
        return apt
    assert failure is not None
    raise failure


def kernel_packages(
    apt: AptDirectory, lock: lockfile.LockFile, progress: Progress
) -> list[PackageFile]:
    """The packages that the kernel's meta-package stands for: one with everything up to Debian 13,
    the binary and the modules apart since."""
    meta = apt.resolve(META_PACKAGE, lock, progress)
    todo, done = [meta], {meta.package: meta}
    while todo:
        depends = todo.pop().depends
        for name, version in re.findall(
            r"(linux-(?:image|binary|modules)-[0-9][^\s(,|]*)(?:\s*\(=\s*([^)\s]+)\))?", depends
        ):
            if name in done:
                continue
            found = [p for p in apt.packages([name]) if not version or p.version == version]
            if not found:
                raise ImageError(f"{apt.suite} has no {name} {version}, which {meta} needs")
            done[name] = found[0]
            todo.append(found[0])
    del done[META_PACKAGE]
    return list(done.values())


def build_initramfs(box: bytes, modules: dict[str, bytes]) -> bytes:
    """The static busybox with every module of `FULL_MODULES`."""
    return initramfs.pack(
        [
            *initramfs.busybox_entries(box),
            *initramfs.module_entries(FULL_MODULES, modules),
            *initramfs.base_entries(),
            cpio.directory("lib"),
        ]
    )


def _is_wanted(name: str) -> bool:
    return _is_kernel(name) or is_module(name)


def _is_kernel(name: str) -> bool:
    return re.fullmatch(r"(boot|usr/lib/modules/[^/]+)/vmlinu[xz][^/]*", name) is not None


def _kernel(files: dict[str, bytes], packages: list[PackageFile]) -> bytes:
    kernels = [data for name, data in files.items() if _is_kernel(name)]
    if len(kernels) != 1:
        raise BuildError(f"{', '.join(map(str, packages))} hold {len(kernels)} kernels, not one")
    return check_kernel(kernels[0], str(packages[0]))


def _modules(files: dict[str, bytes]) -> dict[str, bytes]:
    """The modules that are wanted and what they need, plain and unsigned, by name."""
    compressed = {module_name(name): name for name in files if is_module(name)}
    plain: dict[str, bytes] = {}
    todo: list[str] = [name for name in FULL_MODULES if name in compressed]
    while todo:
        name = todo.pop()
        if name in plain or name not in compressed:
            continue
        path = compressed[name]
        plain[name] = without_signature(decompress(path, files[path]))
        todo += dependencies(plain[name])
    return plain
