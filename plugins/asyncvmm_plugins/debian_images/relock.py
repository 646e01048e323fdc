"""``python -m asyncvmm_plugins.debian_images.relock``: pins what the archive has today.

Run by a maintainer, who then builds and tests the images and commits the lock file. The closure of
debian-root is not pinned: its hundred packages are taken as the suite's signed index has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm_plugins.debian_images import edk2, installer, kernel_package, lockfile, small_linux
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


def main() -> None:
    """Writes the lock file beside this module."""
    nothing = lockfile.LockFile([])
    pins = []
    for suite, architecture, names in WANTED:
        apt = AptDirectory(ImageCache(), suite, architecture)
        apt.update(SilentProgress())
        pins += [pin(apt.resolve(name, nothing, SilentProgress())) for name in names]
    target = Path(__file__).with_name(lockfile.NAME)
    target.write_text(lockfile.dump(pins), "utf-8")
    print(f"{target}: {len(pins)} packages")


if __name__ == "__main__":
    main()
