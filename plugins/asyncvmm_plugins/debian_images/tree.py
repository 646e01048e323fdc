"""A file system read from an archive: looking names up through symbolic links."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Final

from asyncvmm.plugin.images import BuildError
from asyncvmm_plugins.debian_images import cpio

MAX_LINKS: Final = 40


class Tree:
    """The entries of a cpio archive by name."""

    def __init__(self, entries: Iterable[cpio.Entry]) -> None:
        self.entries = {entry.name: entry for entry in entries}

    def find(self, path: str) -> cpio.Entry | None:
        """The entry that ``path`` leads to, through links in any part of it; ``None`` if there is none."""
        parts = _parts(path)
        done: list[str] = []
        links = 0
        while parts:
            part = parts.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            name = "/".join([*done, part])
            entry = self.entries.get(name)
            if entry is None:
                return None
            if not entry.is_symlink:
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                return None
            target = entry.data.decode("utf-8", "surrogateescape")
            if target.startswith("/"):
                done = []
            parts = _parts(target) + parts
        return self.entries.get("/".join(done))

    def read(self, *paths: str) -> bytes:
        """The contents of the first of ``paths`` that leads to a regular file. Raises `BuildError`."""
        for path in paths:
            entry = self.find(path)
            if entry is not None and entry.is_file:
                return entry.data
        raise BuildError(f"the archive holds no {' or '.join(paths)}: it is laid out in a new way")

    def find_library(self, name: str) -> bytes:
        """The shared library of that file name, from where a loader looks for it."""
        directories = ("lib", "usr/lib", "lib/riscv64-linux-gnu", "usr/lib/riscv64-linux-gnu")
        return self.read(*(posixpath.join(directory, name) for directory in directories))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
