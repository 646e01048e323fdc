"""Errors say whose fault it is. One class per condition that a caller can act on."""

from __future__ import annotations


class AsyncvmmError(Exception):
    """The root of everything that asyncvmm raises on purpose; its text names cause and remedy."""


class ConfigError(AsyncvmmError):
    """What the user asked for cannot be done: a wrong option, file, image or combination."""


class GuestError(AsyncvmmError):
    """The guest did something that no machine can carry on with; only that guest stops."""


class BackendError(AsyncvmmError):
    """The world outside failed: a host file, the network, a tool."""


class InternalError(AsyncvmmError):
    """A bug in asyncvmm or in a device plugin."""


class DmaError(GuestError):
    """A device was pointed by its driver at memory that is not the guest's RAM."""
