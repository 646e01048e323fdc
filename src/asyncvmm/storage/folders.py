"""A folder of the host as a device sees it: captured when it is opened, checked whenever it is read.

Opening walks the tree once, through directory descriptors and without following a link, and keeps
names, sizes and a hash of every 256 KiB of each file. Contents stay where they are: a piece is read when
it is wanted and given out only if it is what was captured. So whatever becomes of the folder meanwhile,
or who races with links and renames there, no byte reaches a guest that was not in it at the start; what
has changed is a BackendError. Links are shown and never followed; devices, pipes, sockets and other
file systems that are mounted in the folder are left out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import OrderedDict
from pathlib import Path
from typing import Final

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import FILE, FOLDER, LINK, Folder, FolderEntry
from asyncvmm.device.folder import folder_digest

PIECE_BYTES: Final = 256 << 10
HASH_BYTES: Final = 16
MAX_ENTRIES: Final = 200_000
MAX_DEPTH: Final = 64
OPEN_FILES: Final = 16
KEPT_PIECES: Final = 16
KNOWN_FILES: Final = 200_000

_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

# Hashes of files that were read already, by what changes when a file does. A stale one shows when the
# file is read: it is checked then.
_Signature = tuple[int, int, int, int, int]
_known: OrderedDict[_Signature, bytes] = OrderedDict()


class HostFolder(Folder):
    """The folder at ``path``, up to ``limit_bytes`` of contents; ConfigError says what is in the way."""

    def __init__(self, path: Path | str, limit_bytes: int) -> None:
        super().__init__()
        self.path: Final = Path(path)
        self.left_out: Final[list[str]] = []
        self._limit = limit_bytes
        self._total = 0
        self._hashes: dict[int, bytes] = {}
        self._files: OrderedDict[int, int] = OrderedDict()
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"folder {path}: {error.strerror}") from error
        try:
            self._capture()
        except BaseException:
            self.close()
            raise
        self.digest = folder_digest(
            self.entries, {n: hashlib.sha256(each).digest() for n, each in self._hashes.items()}
        )

    # -- capturing

    def _capture(self) -> None:
        """Breadth first, so that a folder's children have consecutive numbers."""
        device = os.fstat(self._root).st_dev
        depths = [0]
        number = 0
        while number < len(self.entries):
            if self.entries[number].kind == FOLDER:
                if depths[number] >= MAX_DEPTH:
                    raise ConfigError(f"{self._name(number)}: more than {MAX_DEPTH} folders deep")
                self._capture_folder(number, device)
                depths += [depths[number] + 1] * (len(self.entries) - len(depths))
            number += 1

    def _capture_folder(self, number: int, device: int) -> None:
        try:
            fd = self._open(number, _FOLDER_FLAGS)
        except OSError as error:
            raise ConfigError(f"{self._name(number)}: {error.strerror}") from error
        try:
            first = len(self.entries)
            for name in sorted(os.fsencode(name) for name in os.listdir(fd)):
                try:
                    self._capture_entry(fd, number, name, device)
                except OSError as error:
                    where = os.fsdecode(os.path.join(os.fsencode(self._name(number)), name))
                    raise ConfigError(f"{where}: {error.strerror}") from error
            if len(self.entries) > MAX_ENTRIES:
                raise ConfigError(f"folder {self.path}: more than {MAX_ENTRIES} files")
            self.entries[number].first_child = first
            self.entries[number].child_count = len(self.entries) - first
        finally:
            os.close(fd)

    def _capture_entry(self, fd: int, parent: int, name: bytes, device: int) -> None:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            target = os.fsencode(os.readlink(name, dir_fd=fd))
            self.entries.append(FolderEntry(LINK, name, parent, 0, target))
        elif stat.S_ISDIR(mode) and status.st_dev == device:
            self.entries.append(FolderEntry(FOLDER, name, parent))
        elif stat.S_ISREG(mode) and status.st_dev == device:
            self._capture_file(fd, parent, name)
        else:
            self.left_out.append(os.fsdecode(name))

    def _capture_file(self, folder: int, parent: int, name: bytes) -> None:
        fd = os.open(name, _FILE_FLAGS, dir_fd=folder)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EAGAIN, "it was exchanged while it was looked at")
            self._total += status.st_size
            if self._total > self._limit:
                raise ConfigError(
                    f"folder {self.path}: more than {self._limit} bytes; limit=... allows more"
                )
            entry = FolderEntry(FILE, name, parent, status.st_size)
            entry.executable = status.st_mode & 0o100 != 0
            self._hashes[len(self.entries)] = _hashes(fd, status)
            self.entries.append(entry)
        finally:
            os.close(fd)

    # -- reading

    def pread(self, number: int, offset: int, length: int) -> bytes:
        """See Folder."""
        parts = []
        end = min(offset + length, self.entries[number].size_bytes)
        while offset < end:
            index, at = divmod(offset, PIECE_BYTES)
            part = self._piece(number, index)[at : at + end - offset]
            parts.append(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _piece(self, number: int, index: int) -> bytes:
        key = (number, index)
        if key in self._pieces:
            self._pieces.move_to_end(key)
            return self._pieces[key]
        size = min(PIECE_BYTES, self.entries[number].size_bytes - index * PIECE_BYTES)
        try:
            data = os.pread(self._file(number), size, index * PIECE_BYTES)
        except OSError as error:
            raise BackendError(f"{self._name(number)}: {error.strerror}") from error
        wanted = self._hashes[number][index * HASH_BYTES : (index + 1) * HASH_BYTES]
        if len(data) != size or _hash(data) != wanted:
            raise BackendError(f"{self._name(number)}: it has changed since the guest was started")
        self._pieces[key] = data
        if len(self._pieces) > KEPT_PIECES:
            self._pieces.popitem(last=False)
        return data

    def _file(self, number: int) -> int:
        fd = self._files.get(number)
        if fd is None:
            fd = self._open(number, _FILE_FLAGS)
            self._files[number] = fd
            if len(self._files) > OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(number)
        return fd

    def _open(self, number: int, flags: int) -> int:
        """From the root downwards, one name at a time: what is a link now is an OSError."""
        if number == 0:
            return os.open(".", flags, dir_fd=self._root)
        here = self._root
        try:
            names = self._path(number)
            for name in names[:-1]:
                below = os.open(name, _FOLDER_FLAGS, dir_fd=here)
                if here != self._root:
                    os.close(here)
                here = below
            return os.open(names[-1], flags, dir_fd=here)
        finally:
            if here != self._root:
                os.close(here)

    def _path(self, number: int) -> list[bytes]:
        names: list[bytes] = []
        while number:
            entry = self.entries[number]
            names.append(entry.name)
            number = entry.parent
        return names[::-1]

    def _name(self, number: int) -> str:
        return str(self.path / os.fsdecode(b"/".join(self._path(number))))

    def close(self) -> None:
        """See Folder."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=HASH_BYTES).digest()


def _hashes(fd: int, status: os.stat_result) -> bytes:
    """The hashes of all pieces of a file, one after the other."""
    signature = (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )  # fmt: skip
    found = _known.get(signature)
    if found is not None:
        return found
    parts = []
    for offset in range(0, status.st_size, PIECE_BYTES):
        size = min(PIECE_BYTES, status.st_size - offset)
        data = os.pread(fd, size, offset)
        if len(data) != size:
            raise OSError(errno.EAGAIN, "it became shorter while it was read")
        parts.append(_hash(data))
    hashes = b"".join(parts)
    _known[signature] = hashes
    if len(_known) > KNOWN_FILES:
        _known.popitem(last=False)
    return hashes
