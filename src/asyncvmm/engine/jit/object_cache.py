"""Object code kept in files, so that it is compiled once for a host and not once for a process.

A name is a hash of everything that the contents depend on. Files are written aside and renamed, begin
with a hash of what follows, and a damaged, missing or unwritable one only costs the time to compile.
The folder may be shared by processes; the oldest files go when it has grown too large.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import threading
from pathlib import Path
from typing import Final

from asyncvmm import __version__

MAX_BYTES: Final = 256 << 20
_KEEP: Final = 0.75  # of MAX_BYTES, after clearing up
_DIGEST_BYTES: Final = 32
_SOURCES: Final = ("engine/jit/*.py", "isa/decode*.py", "isa/opcodes.py")


@functools.cache
def host_key() -> bytes:
    """What makes code of one host useless on another: processor and compiler."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        wanted = ("vendor_id", "cpu family", "model", "stepping", "flags")
        processor = "\n".join(line for line in first if line.startswith(wanted))
    return f"{processor}\0{importlib.metadata.version('llvmlite')}".encode()


@functools.cache
def translator_key() -> bytes:
    """The version of the translator and the decoder: a hash of their sources, and the release."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256(__version__.encode())
    for pattern in _SOURCES:
        for path in sorted(root.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.digest()


class ObjectCache:
    """A folder of files by name. Any thread may call; there may be other processes."""

    def __init__(self, folder: Path | None, max_bytes: int = MAX_BYTES) -> None:
        """Without a folder nothing is kept."""
        self.folder = folder
        self.max_bytes = max_bytes
        self._lock = threading.Lock()  # of _bytes
        self._bytes: int | None = None  # of all files, as far as this process knows

    def read(self, name: str) -> bytes | None:
        """The contents, or None when there is no such file in good order."""
        if self.folder is None:
            return None
        try:
            found = (self.folder / name).read_bytes()
        except OSError:
            return None
        contents = found[_DIGEST_BYTES:]
        if hashlib.sha256(contents).digest() != found[:_DIGEST_BYTES]:
            return None
        return contents

    def write(self, name: str, contents: bytes) -> None:
        """Keep ``contents`` if that is possible, and the folder within its size."""
        if self.folder is None or len(contents) > self.max_bytes // 4:
            return
        part = self.folder / f"{name}.{os.getpid()}.{threading.get_ident()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            before = self._size(name)
            part.write_bytes(hashlib.sha256(contents).digest() + contents)
            part.replace(self.folder / name)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            return
        with self._lock:
            if self._bytes is None:
                if before:
                    return  # to list a folder takes long, and a file has bounds of its own
                self._bytes = sum(size for _, size, _ in self._list())
            else:
                self._bytes += len(contents) + _DIGEST_BYTES - before
            too_large = self._bytes > self.max_bytes
        if too_large:
            self._clear_up()

    def _size(self, name: str) -> int:
        assert self.folder is not None
        with contextlib.suppress(OSError):
            return (self.folder / name).stat().st_size
        return 0

    def _list(self) -> list[tuple[str, int, float]]:
        """Name, bytes and time of every file."""
        found: list[tuple[str, int, float]] = []
        if self.folder is None:
            return found
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_file():
                        about = entry.stat()
                        found.append((entry.name, about.st_size, about.st_mtime))
        return found

    def _clear_up(self) -> None:
        """Delete the oldest files, whoever wrote them."""
        assert self.folder is not None
        files = sorted(self._list(), key=lambda file: file[2])
        total = sum(size for _, size, _ in files)
        for name, size, _ in files:
            if total <= self.max_bytes * _KEEP:
                break
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
            total -= size
        with self._lock:
            self._bytes = total


def compile_cached(
    text: str, folder: Path | None, relocation: str = "static", thread: bool = False
) -> bytes:
    """Object code of a module with all optimisation, from ``folder`` when it is there."""
    key = b"\0".join((text.encode(), f"{relocation} {thread}".encode(), host_key()))
    cache = ObjectCache(folder)
    name = f"{hashlib.sha256(key).hexdigest()[:32]}.o"
    made = cache.read(name)
    if made is None:
        from asyncvmm.engine.jit.llvm import compile_ir

        made = compile_ir(text, passes=True, relocation=relocation, thread=thread)
        cache.write(name, made)
    return made
