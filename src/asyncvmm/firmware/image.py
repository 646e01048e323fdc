"""The Linux ``Image`` of RISC-V: its 64-byte header (Documentation/arch/riscv/boot-image-
header.rst).
"""

from __future__ import annotations

import struct
import zlib

import attrs

from asyncvmm.base.errors import ConfigError

MAX_PE_OFFSET = 4096  # where the PE header of an EFI stub can be
HEADER_SIZE = 64
MAGIC2 = b"RSC\x05"
GZIP = b"\x1f\x8b"
MAX_IMAGE_BYTES = 256 * 1024 * 1024
MAX_TEXT_OFFSET = 1 << 30
FLAG_BIG_ENDIAN = 1
# Formats that a kernel file may have by mistake: first bytes and what they are.
FOREIGN = (
    (b"\xfd7zXZ", "xz-compressed data: unpack it with xz -d"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data: unpack it with zstd -d"),
    (b"BZh", "bzip2-compressed data: unpack it with bzip2 -d"),
    (
        b"\x7fELF",
        "an ELF file: give the Image (arch/riscv/boot/Image), or use --elf for bare metal",
    ),
    (b"\x27\x05\x19\x56", "a U-Boot uImage: give the Image itself"),
    (b"!<arch>", "a Debian package or archive: unpack it first"),
)


@attrs.frozen
class Image:
    """A kernel: ``data`` goes to RAM base + ``text_offset``, with ``memory_bytes`` of its own."""

    data: bytes = attrs.field(repr=lambda data: f"{len(data)} bytes")
    text_offset: int
    memory_bytes: int
    version: tuple[int, int]


def unpack(blob: bytes, name: str) -> bytes:
    """``blob`` itself, or what is in it when it is gzip data (``Image.gz``, vmlinuz)."""
    if blob[:2] != GZIP:
        return blob
    stream = zlib.decompressobj(wbits=31)
    try:
        data = stream.decompress(blob, MAX_IMAGE_BYTES)
    except zlib.error as error:
        raise ConfigError(f"{name}: damaged gzip data: {error}") from None
    if stream.unconsumed_tail:
        raise ConfigError(f"{name}: unpacks to more than {MAX_IMAGE_BYTES >> 20} MiB")
    if not stream.eof:
        raise ConfigError(f"{name}: the gzip data is truncated")
    return data


def is_image(blob: bytes) -> bool:
    """Whether ``blob`` has the magic of a RISC-V Linux Image."""
    return blob[56:60] == MAGIC2


def parse_image(blob: bytes, name: str) -> Image:
    """Check ``blob`` (gzip allowed); a ConfigError names the file ``name`` and the cause."""
    data = unpack(blob, name)
    for magic, what in FOREIGN:
        if data.startswith(magic):
            raise ConfigError(f"{name}: not a Linux Image but {what}")
    if len(data) < HEADER_SIZE:
        raise ConfigError(f"{name}: {len(data)} bytes are too few for a Linux Image")
    if data[56:60] != MAGIC2:
        if data[56:60] == b"ARM\x64":
            raise ConfigError(f"{name}: a Linux Image for arm64, not for RISC-V")
        raise ConfigError(f"{name}: not a RISC-V Linux Image (no magic number at offset 56)")
    offset, size, flags, version = struct.unpack_from("<QQQI", data, 8)
    if flags & FLAG_BIG_ENDIAN:
        raise ConfigError(f"{name}: a big-endian kernel; harts here are little-endian")
    if offset % 4096 or offset > MAX_TEXT_OFFSET:
        raise ConfigError(f"{name}: damaged Image header: text_offset {offset:#x}")
    if size > MAX_IMAGE_BYTES:
        raise ConfigError(f"{name}: damaged Image header: image_size {size:#x}")
    if len(data) < _file_bytes(data):
        raise ConfigError(
            f"{name}: the file is cut off: it has {len(data)} bytes of an image of {size}; get it anew"
        )
    return Image(data, offset, max(size, len(data)), (version >> 16, version & 0xFFFF))


def _file_bytes(data: bytes) -> int:
    """How long the file is by its PE header (kernels with an EFI stub); 0 when it has none."""
    at: int = struct.unpack_from("<I", data, 60)[0]
    if at == 0 or at > MAX_PE_OFFSET:
        return 0
    if at + 24 > len(data):
        return at + 24
    if data[at : at + 4] != b"PE\0\0":
        return 0
    sections: int
    optional_bytes: int
    sections, optional_bytes = struct.unpack_from("<H12xH", data, at + 6)
    table = at + 24 + optional_bytes
    if table + 40 * sections > len(data):
        return table + 40 * sections
    ends: list[int] = [0]
    for number in range(sections):
        size, start = struct.unpack_from("<II", data, table + 40 * number + 16)
        ends.append(start + size)
    return max(ends)
