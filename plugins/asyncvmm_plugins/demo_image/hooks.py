"""The guest image that needs no download."""

from __future__ import annotations

from collections.abc import Sequence

from asyncvmm.plugin import hookimpl
from asyncvmm.plugin.images import ImageType
from asyncvmm_plugins.demo_image.image import DemoImage


@hookimpl
def asyncvmm_images() -> Sequence[ImageType]:
    """``demo``."""
    return [DemoImage()]
