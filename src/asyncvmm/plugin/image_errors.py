"""Why an image cannot be had. Each text names the cause and the remedy."""

from __future__ import annotations

from asyncvmm.base.errors import BackendError


class ImageError(BackendError):
    """An image cannot be had; the text says why and what to do about it."""


class NoNetworkError(ImageError):
    """The package archive cannot be reached."""


class NoAptError(ImageError):
    """This machine has no apt, or none of its sources is a Debian archive."""


class NoSpaceError(ImageError):
    """The file system of the cache is too full."""


class ChecksumError(ImageError):
    """A file is not what it should be."""


class MissingToolError(ImageError):
    """A program that is needed to build the image is not installed."""


class BuildError(ImageError):
    """A step of a build failed."""
