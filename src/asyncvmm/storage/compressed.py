"""Compressed clusters: read only, never more than a cluster of them at once."""

from __future__ import annotations

import importlib
import zlib
from pathlib import Path
from typing import Any

from asyncvmm.storage import layout
from asyncvmm.storage.errors import DamagedImageError, ImageError


class Decompressor:
    """For one image's compression type. ImageError when this Python has not got it."""

    def __init__(self, kind: int, path: Path) -> None:
        self._path = path
        self._zstd: Any = None
        if kind == layout.COMPRESSION_ZSTD:
            try:
                self._zstd = importlib.import_module("zstandard")
            except ImportError:
                raise ImageError(
                    f"disk image {path}: its clusters are compressed with zstd: "
                    "install the Python package zstandard"
                ) from None

    def cluster(self, data: bytes, cluster_bytes: int, place: str) -> bytes:
        """The cluster in ``data``; DamagedImageError with ``place`` when it is not all there."""
        try:
            if self._zstd is None:
                out = zlib.decompressobj(-15).decompress(data, cluster_bytes)
            else:
                most = max(cluster_bytes, 1 << 23)
                reader = self._zstd.ZstdDecompressor(max_window_size=most).stream_reader(data)
                out = b""
                while len(out) < cluster_bytes and (more := reader.read(cluster_bytes - len(out))):
                    out += more
        except (zlib.error, ValueError) as error:
            raise self._damaged(place, str(error)) from error
        except Exception as error:
            if self._zstd is None or not isinstance(error, self._zstd.ZstdError):
                raise
            raise self._damaged(place, str(error)) from error
        if len(out) != cluster_bytes:
            raise self._damaged(place, f"holds {len(out)} bytes of {cluster_bytes}")
        return bytes(out)

    def _damaged(self, place: str, text: str) -> DamagedImageError:
        return DamagedImageError(f"disk image {self._path}: {place}: {text}")
