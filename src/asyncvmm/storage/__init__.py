"""Disk images behind ``asyncvmm.device.Blob``: raw files (``raw.py``)."""

from asyncvmm.storage.raw import RawImage

__all__ = ["RawImage"]
