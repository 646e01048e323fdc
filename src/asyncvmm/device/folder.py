"""Files as a device may show them to a guest: a tree that was captured once and does not change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from mypy_extensions import mypyc_attr

from asyncvmm.base.errors import BackendError, ConfigError

FILE: Final = "file"
FOLDER: Final = "folder"
LINK: Final = "link"
MAX_NAME: Final = 255
MAX_TARGET: Final = 4095


class FolderEntry:
    """One file, folder or symbolic link. Entry 0 is the root, and its own parent.

    ``size_bytes`` is a file's, ``target`` a link's, which nobody on the host ever follows. The
    children of a folder are the ``child_count`` entries from ``first_child``, sorted by name.
    """

    def __init__(
        self, kind: str, name: bytes, parent: int, size_bytes: int = 0, target: bytes = b""
    ) -> None:
        if kind not in (FILE, FOLDER, LINK):
            raise ConfigError(f"{name!r}: no kind of folder entry is called {kind!r}")
        self.kind: str = kind
        self.name: bytes = name
        self.parent: int = parent
        self.size_bytes: int = size_bytes
        self.target: bytes = target
        self.executable: bool = False
        self.first_child: int = 0
        self.child_count: int = 0


@mypyc_attr(allow_interpreted_subclasses=True)
class Folder:
    """The base class, and itself an empty folder.

    ``digest`` (hexadecimal) says what was captured: names, kinds, sizes, targets and contents. Two
    folders of one digest give the same bytes, or BackendError where the world outside has changed.
    """

    def __init__(self, entries: list[FolderEntry] | None = None, digest: str = "") -> None:
        self.entries: list[FolderEntry] = entries or [FolderEntry(FOLDER, b"", 0)]
        self.digest: str = digest

    def child(self, number: int, name: bytes) -> int:
        """The entry of that name in folder ``number``; -1 when there is none."""
        folder = self.entries[number]
        low, high = folder.first_child, folder.first_child + folder.child_count
        end = high
        while low < high:
            middle = (low + high) // 2
            if self.entries[middle].name < name:
                low = middle + 1
            else:
                high = middle
        return low if low < end and self.entries[low].name == name else -1

    def pread(self, number: int, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset`` of file ``number``, within its size.

        BackendError when the file does not hold any more what was captured.
        """
        raise BackendError("this folder has no files")

    def close(self) -> None:
        """Let go of what is outside; no other call comes after this one."""


class MemoryFolder(Folder):
    """A folder in host memory, for tests: ``{"a.txt": b"...", "sub/b": b"", "link": "target"}``.

    Bytes are files, a text is a symbolic link to it, None an empty folder; folders above are made.
    """

    def __init__(self, files: Mapping[str, bytes | str | None]) -> None:
        super().__init__()
        trees: dict[int, dict[bytes, bytes | str | None]] = {
            0: {path.encode(): what for path, what in files.items()}
        }
        self.contents: dict[int, bytes] = {}
        entries = self.entries
        number = 0
        while number < len(entries):
            below = trees.pop(number, {})
            folder = entries[number]
            folder.first_child = len(entries)
            names = sorted({path.split(b"/")[0] for path in below})
            for name in names:
                inner = {
                    path[len(name) + 1 :]: what
                    for path, what in below.items()
                    if path.startswith(name + b"/")
                }
                found = below.get(name)
                if inner or found is None:
                    trees[len(entries)] = inner
                    entries.append(FolderEntry(FOLDER, name, number))
                elif isinstance(found, str):
                    entries.append(FolderEntry(LINK, name, number, 0, found.encode()))
                else:
                    self.contents[len(entries)] = found
                    entries.append(FolderEntry(FILE, name, number, len(found)))
            folder.child_count = len(names)
            number += 1
        self.digest = folder_digest(
            entries, {n: hashlib.sha256(data).digest() for n, data in self.contents.items()}
        )

    def pread(self, number: int, offset: int, length: int) -> bytes:
        """See Folder."""
        return self.contents[number][offset : offset + length]


def folder_digest(entries: list[FolderEntry], contents: Mapping[int, bytes]) -> str:
    """SHA-256 (hexadecimal) over all entries; ``contents`` are hashes of the files' bytes."""
    digest = hashlib.sha256()
    for number, entry in enumerate(entries):
        line = (
            f"{entry.kind} {entry.parent} {len(entry.name)} {len(entry.target)} "
            f"{entry.size_bytes} {entry.executable} {contents.get(number, b'').hex()}\n"
        )
        digest.update(line.encode() + entry.name + entry.target)
    return digest.hexdigest()
