"""Kernel modules for an initramfs: which ones, in which order, and as light as they can be."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from typing import Final

from asyncvmm.plugin.images import BuildError

SIGNATURE_MAGIC: Final = b"~Module signature appended~\n"
SIGNATURE_TRAILER_BYTES: Final = 12


def module_name(path: str) -> str:
    """``virtio_net`` for ``.../virtio-net.ko.xz``: dashes and underscores are one to the kernel."""
    file_name = path.rsplit("/", 1)[-1]
    return re.sub(r"\.ko(\.xz|\.zst|\.gz)?$", "", file_name).replace("-", "_")


def is_module(path: str) -> bool:
    """Whether the path names a kernel module."""
    return re.search(r"\.ko(\.xz|\.zst|\.gz)?$", path) is not None


def decompress(path: str, data: bytes) -> bytes:
    """The plain module. Raises `BuildError` for a compression that is not handled."""
    if path.endswith(".ko"):
        return data
    if path.endswith(".ko.xz"):
        try:
            return lzma.decompress(data)
        except lzma.LZMAError as error:
            raise BuildError(f"{path}: {error}") from error
    raise BuildError(f"{path}: modules compressed in this way are not handled")


def without_signature(data: bytes) -> bytes:
    """The module without an appended signature, whose check costs a guest far more than the module.

    Format: Linux ``kernel/module/signing.c``: the signature, a 12-byte trailer that ends in its length
    (big-endian), and the magic. Modules that lie about the length are returned as they are.
    """
    if not data.endswith(SIGNATURE_MAGIC):
        return data
    trailer_at = len(data) - len(SIGNATURE_MAGIC) - SIGNATURE_TRAILER_BYTES
    if trailer_at < 0:
        return data
    length = int.from_bytes(data[trailer_at + 8 : trailer_at + 12], "big")
    return data[: trailer_at - length] if 0 < length <= trailer_at else data


def dependencies(data: bytes) -> list[str]:
    """The modules that a plain module needs, from its ``depends=`` information string."""
    match = re.search(rb"\0depends=([^\0]*)\0", data)
    if match is None:
        return []
    names = match[1].decode("ascii", "replace").split(",")
    return [name.replace("-", "_") for name in names if name]


def in_load_order(wanted: Iterable[str], available: Mapping[str, bytes]) -> list[str]:
    """``wanted`` (those that are ``available``) and all that they need, each after what it needs."""
    order: list[str] = []
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in order or name in visiting or name not in available:
            return
        visiting.add(name)
        for needed in dependencies(available[name]):
            visit(needed)
        order.append(name)

    for name in wanted:
        visit(name)
    return order
