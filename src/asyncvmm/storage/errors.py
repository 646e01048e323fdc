"""What can be wrong with a disk image, by whose fault and at what moment."""

from __future__ import annotations

from asyncvmm.base.errors import BackendError, ConfigError


class ImageError(ConfigError):
    """A file cannot be used as the image it is said to be; found before anything was done with it."""


class DamagedImageError(BackendError):
    """An image in use turned out to be wrong inside; only the request at hand fails."""
