"""The guest images that are made from Debian's packages."""

from __future__ import annotations

from collections.abc import Sequence

from asyncvmm.plugin import hookimpl
from asyncvmm.plugin.images import ImageType
from asyncvmm_plugins.debian_images.edk2 import Edk2Image
from asyncvmm_plugins.debian_images.installer import DebianImage
from asyncvmm_plugins.debian_images.kernel_package import DebianFullImage
from asyncvmm_plugins.debian_images.root_disk import DebianPostgresqlImage, DebianRootImage
from asyncvmm_plugins.debian_images.small_linux import SmallLinuxImage


@hookimpl
def asyncvmm_images() -> Sequence[ImageType]:
    """``debian``, ``debian-full``, ``linux``, ``debian-root``, ``debian-postgresql`` and ``edk2``."""
    return [
        DebianImage(),
        DebianFullImage(),
        SmallLinuxImage(),
        DebianRootImage(),
        DebianPostgresqlImage(),
        Edk2Image(),
    ]
