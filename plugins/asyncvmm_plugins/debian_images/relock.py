"""``python -m asyncvmm_plugins.debian_images.relock``: pins what the archive has today.

Run by a maintainer, who then builds and tests the images and commits the lock file. Of the root
disks all packages of their closures are pinned, in the suite that they are made from today.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm_plugins.debian_images import (
    edk2,
    installer,
    kernel_package,
    lockfile,
    root_disk,
    small_linux,
)
from asyncvmm_plugins.debian_images.apt import AptDirectory, PackageFile

WANTED: Final = (
    (
        installer.SUITE,
        installer.ARCHITECTURE,
        (installer.PACKAGE, small_linux.PACKAGE, edk2.PACKAGE),
    ),
    (
        kernel_package.SUITES_NEWEST_FIRST[0],
        kernel_package.ARCHITECTURE,
        (kernel_package.META_PACKAGE, kernel_package.BUSYBOX),
    ),
)


def pin(package: PackageFile) -> lockfile.Pin:
    """The pin of a package file."""
    return lockfile.Pin(
        package.package,
        package.suite,
        package.architecture,
        package.version,
        package.size_bytes,
        package.sha256,
    )


def closure_pins(apt: AptDirectory) -> list[lockfile.Pin]:
    """The pins of debian-root and debian-postgresql, as the index of ``apt`` is now."""
    nothing, index = lockfile.LockFile([]), list(apt.index())
    packages = [
        package
        for image in (root_disk.DebianRootImage, root_disk.DebianPostgresqlImage)
        for package in root_disk.choose_closure(
            index, apt.suite, nothing, SilentProgress(), image.name, image.software
        )
    ]
    return list({package.package: pin(package) for package in packages}.values())


def main() -> None:
    """Writes the lock file beside this module."""
    nothing = lockfile.LockFile([])
    pins = []
    for suite, architecture, names in WANTED:
        apt = AptDirectory(ImageCache(), suite, architecture)
        apt.update(SilentProgress())
        pins += [pin(apt.resolve(name, nothing, SilentProgress())) for name in names]
    root = kernel_package.verified_suite(
        ImageCache(), root_disk.SUITES_STABLE_FIRST, SilentProgress()
    )
    taken = {(each.package, each.suite) for each in pins}
    pins += [each for each in closure_pins(root) if (each.package, each.suite) not in taken]
    target = Path(__file__).with_name(lockfile.NAME)
    target.write_text(lockfile.dump(pins), "utf-8")
    print(f"{target}: {len(pins)} packages")


if __name__ == "__main__":
    main()
