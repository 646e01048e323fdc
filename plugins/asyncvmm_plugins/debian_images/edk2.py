"""The image ``edk2``: Debian's UEFI firmware for RISC-V, in flash, up to its shell.

It is entered in S-mode under the built-in SBI, as under OpenSBI (``--firmware fw_dynamic.bin``). Its
variables are thrown away with the guest unless it is given a flash of its own for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from asyncvmm.base.units import MIB
from asyncvmm.plugin.images import (
    BootFiles,
    BuildError,
    DiskFile,
    ImageCache,
    ImageType,
    Progress,
)
from asyncvmm_plugins.debian_images import lockfile
from asyncvmm_plugins.debian_images.apt import AptDirectory
from asyncvmm_plugins.debian_images.debs import read_members
from asyncvmm_plugins.debian_images.installer import ARCHITECTURE, SUITE

PACKAGE: Final = "qemu-efi-riscv64"
RECIPE: Final = "edk2 1"
CODE: Final = "RISCV_VIRT_CODE.fd"
VARIABLES: Final = "RISCV_VIRT_VARS.fd"
FLASH_BYTES: Final = 32 * MIB


class Edk2Image(ImageType):
    """``edk2``."""

    name = "edk2"
    summary = "Debian's UEFI firmware (EDK2) in flash, with its shell (1.5 MB download)"
    size_bytes_estimate = 64 * MIB

    def pull(self, cache: ImageCache, progress: Progress) -> None:
        """Fetches the firmware's package and takes the two flash parts out of it."""
        with cache.lock(self.name):
            cache.require_space(80 * MIB, "the image edk2")
            lock = lockfile.load()
            apt = AptDirectory(cache, SUITE, ARCHITECTURE)
            package = apt.find(PACKAGE, lock, progress)
            parts = read_parts(apt.fetch(package, progress))
            with cache.build(self.name, recipe=RECIPE, sources=[str(package)]) as directory:
                for name, data in parts.items():
                    (directory / name).write_bytes(data)

    def boot_files(self, cache: ImageCache) -> BootFiles:
        """The two flash parts: the firmware, and its variables as they are shipped."""
        directory = self.require_present(cache)
        return BootFiles(
            flash=(DiskFile(directory / CODE, readonly=True), DiskFile(directory / VARIABLES)),
            memory="256M",
        )


def read_parts(deb: Path) -> dict[str, bytes]:
    """The flash parts in the package, by name. Raises `BuildError` if they are not what is expected."""
    files = read_members(deb, lambda name: name.rsplit("/", 1)[-1] in (CODE, VARIABLES))
    parts = {name.rsplit("/", 1)[-1]: data for name, data in files.items()}
    if set(parts) != {CODE, VARIABLES} or any(len(p) != FLASH_BYTES for p in parts.values()):
        sizes = {name: len(data) for name, data in parts.items()}
        raise BuildError(f"{PACKAGE} does not hold two flash parts of {FLASH_BYTES} bytes: {sizes}")
    return parts
