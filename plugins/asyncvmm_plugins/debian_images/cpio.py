"""The "newc" cpio archive, the format of a Linux initramfs: a bounded reader and a writer.

Format: Linux ``Documentation/driver-api/early-userspace/buffer-format.rst``. Every entry is a header
of the magic ``070701`` and thirteen 8-digit hexadecimal fields, the name with its NUL padded to 4
bytes, and the data padded to 4 bytes; the entry named ``TRAILER!!!`` ends the archive.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import field, frozen

from asyncvmm.base.errors import ConfigError

MAGICS: Final = (b"070701", b"070702")
TRAILER: Final = "TRAILER!!!"
HEADER_BYTES: Final = 110
MAX_NAME_BYTES: Final = 4096
MAX_ENTRIES: Final = 1_000_000


class CpioError(ConfigError):
    """An archive that is not well-formed newc cpio, or an entry that cannot be written as one."""


@frozen
class Entry:
    """One file of an archive. ``name`` has no leading slash; ``data`` is a link's target too."""

    name: str
    mode: int
    data: bytes = field(default=b"", repr=False)
    rdev_major: int = 0
    rdev_minor: int = 0
    nlink: int = 1
    ino: int = 0

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether this is a symbolic link."""
        return stat.S_ISLNK(self.mode)


def file(name: str, data: bytes, permissions: int = 0o644) -> Entry:
    """A regular file with ``data``."""
    return Entry(name, stat.S_IFREG | permissions, data)


def directory(name: str, permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(name, stat.S_IFDIR | permissions)


def symlink(name: str, target: str) -> Entry:
    """A symbolic link to ``target``."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def char_device(name: str, major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(name, stat.S_IFCHR | permissions, rdev_major=major, rdev_minor=minor)


def read(archive: bytes) -> Iterator[Entry]:
    """The entries of ``archive`` up to its trailer, in order.

    Hard links come as the kernel makes them: the entry that carries the data has it, the others of the
    same inode are given that data too when it came earlier. Raises `CpioError` for anything malformed:
    a bad magic or digit, a length past the end, a name with no NUL, no trailer.
    """
    view = memoryview(archive)
    linked: dict[int, bytes] = {}
    at = 0
    for _ in range(MAX_ENTRIES):
        magic = bytes(view[at : at + 6])
        if magic not in MAGICS:
            raise CpioError(f"cpio entry at byte {at}: bad magic {magic!r}")
        fields = _fields(bytes(view[at + 6 : at + HEADER_BYTES]), at)
        ino, mode, nlink, size, name_bytes = fields[0], fields[1], fields[4], fields[6], fields[11]
        if not 1 <= name_bytes <= MAX_NAME_BYTES:
            raise CpioError(f"cpio entry at byte {at}: name of {name_bytes} bytes")
        name_end = at + HEADER_BYTES + name_bytes
        data_at = _pad(name_end)
        data_end = data_at + size
        if data_end > len(view):
            raise CpioError(f"cpio entry at byte {at} runs past the end of the archive")
        raw_name = bytes(view[at + HEADER_BYTES : name_end])
        if raw_name[-1] != 0 or 0 in raw_name[:-1]:
            raise CpioError(f"cpio entry at byte {at}: name is not terminated")
        name = raw_name[:-1].decode("utf-8", "surrogateescape")
        if name == TRAILER:
            return
        data = bytes(view[data_at:data_end])
        if nlink > 1 and stat.S_ISREG(mode):
            data = data if data else linked.setdefault(ino, data)
            linked[ino] = data
        yield Entry(_clean(name), mode, data, fields[9], fields[10], nlink, ino)
        at = _pad(data_end)
        if at >= len(view):
            raise CpioError("cpio archive has no trailer")
    raise CpioError(f"cpio archive has more than {MAX_ENTRIES} entries")


def write(entries: Iterable[Entry]) -> bytes:
    """An archive of ``entries`` in the order given, each an inode of its own with mtime 0.

    The result depends on nothing but the entries, so equal trees give equal archives. Raises
    `CpioError` for a name that the format cannot hold.
    """
    out = bytearray()
    for number, entry in enumerate(entries, start=1):
        _append(out, entry, number)
    _append(out, Entry(TRAILER, 0), 0)
    out += bytes(-len(out) % 512)
    return bytes(out)


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """``entries`` (a later one of a name replaces an earlier one) with every missing parent directory.

    Sorted by name, which puts a directory before what is in it.
    """
    by_name = {entry.name: entry for entry in entries}
    for name in list(by_name):
        parts = name.split("/")[:-1]
        for count in range(1, len(parts) + 1):
            parent = "/".join(parts[:count])
            by_name.setdefault(parent, directory(parent))
    return [by_name[name] for name in sorted(by_name)]


def _append(out: bytearray, entry: Entry, ino: int) -> None:
    name = entry.name.encode("utf-8", "surrogateescape") + b"\0"
    if len(name) > MAX_NAME_BYTES or b"\0" in name[:-1] or len(name) == 1:
        raise CpioError(f"{entry.name!r} is no name for a cpio entry")
    size = len(entry.data)
    if size >= 1 << 32:
        raise CpioError(f"{entry.name}: {size} bytes do not fit in a newc entry (4 GiB)")
    nlink = 2 if entry.is_dir else 1
    numbers = (ino, entry.mode, 0, 0, nlink, 0, size, 0, 0)
    devices = (entry.rdev_major, entry.rdev_minor, len(name), 0)
    out += MAGICS[0] + b"".join(b"%08X" % number for number in numbers + devices)
    out += name
    out += bytes(-len(out) % 4)
    out += entry.data
    out += bytes(-len(out) % 4)


def _fields(digits: bytes, at: int) -> list[int]:
    if len(digits) != HEADER_BYTES - 6:
        raise CpioError(f"cpio entry at byte {at} is cut off in its header")
    if not all(chr(digit) in "0123456789abcdefABCDEF" for digit in digits):
        raise CpioError(f"cpio entry at byte {at}: a header field is not hexadecimal")
    return [int(digits[i : i + 8], 16) for i in range(0, len(digits), 8)]


def _pad(offset: int) -> int:
    return offset + (-offset % 4)


def _clean(name: str) -> str:
    while name.startswith("./"):
        name = name[2:]
    name = name.lstrip("/")
    if ".." in name.split("/"):
        raise CpioError(f"cpio entry {name!r} climbs out of the archive")
    return name
