"""A folder of packs that several saved states share: each page is kept once, whoever saved it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.storage.packs import (
    FRAME_PAGES,
    PackError,
    PackIndex,
    page_hash,
    read_frame,
    read_index,
    read_table,
    write_pack,
    write_table,
)

READERS: Final = 2
AHEAD: Final = 4  # frames of a MiB each that are read before they are wanted
ZERO_PAGE: Final = bytes(PAGE_SIZE)


class PageStore:
    """``folder`` holds the packs. One process writes at a time; readers need no lock."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        self.pages_written = 0
        self._indexes: dict[str, PackIndex] = {}
        self._known: dict[bytes, tuple[str, int]] | None = None

    def save(self, table: Path, pages: Iterable[tuple[int, bytes]], *, zeros: bool = False) -> int:
        """Write what is new of ``pages`` (number, 4096 bytes) to a pack, and ``table``; the entries.

        Pages of zeros are left out unless ``zeros``. BackendError when a file cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._all_known()
        fresh: dict[bytes, int] = {}
        new: list[bytes] = []
        wanted: list[tuple[int, bytes]] = []
        for number, page in pages:
            if page == ZERO_PAGE and not zeros:
                continue
            digest = page_hash(page)
            if digest not in known and digest not in fresh:
                fresh[digest] = len(new)
                new.append(page)
            wanted.append((number, digest))
        if new:
            index = write_pack(self.folder, new)
            self._indexes[index.path.name] = index
            known.update({digest: (index.path.name, at) for digest, at in fresh.items()})
            self.pages_written += len(new)
        names = sorted({known[digest][0] for _, digest in wanted})
        places = {name: number for number, name in enumerate(names)}
        entries = []
        for number, digest in wanted:
            name, at = known[digest]
            entries.append((number, places[name], at))
        write_table(table, entries, names)
        return len(entries)

    def load(self, table: Path, most: int) -> Iterator[tuple[int, bytes, int]]:
        """(number, frame, place of its page in the frame) of every page of a table, frame by frame.

        PackError names what is damaged, and a number that is not below ``most``.
        """
        entries, names = read_table(table)
        packs = [self._index(name, table) for name in names]
        by_frame: dict[tuple[int, int], list[tuple[int, int]]] = {}
        seen: set[int] = set()
        for number, pack, at in entries:
            if number >= most or number in seen or pack >= len(packs) or at >= packs[pack].pages:
                raise PackError(f"{table}: the entry {number}, {pack}, {at} cannot be")
            seen.add(number)
            by_frame.setdefault((pack, at // FRAME_PAGES), []).append((number, at % FRAME_PAGES))
        with ThreadPoolExecutor(READERS) as pool:  # decompressing needs no lock of Python's
            coming: deque[tuple[Future[bytes], list[tuple[int, int]]]] = deque()
            for (pack, frame), wanted in by_frame.items():
                coming.append((pool.submit(read_frame, packs[pack], frame), wanted))
                if len(coming) > AHEAD:
                    yield from _places(*coming.popleft())
            while coming:
                yield from _places(*coming.popleft())

    def sweep(self, tables: Iterable[Path]) -> int:
        """Delete packs that none of ``tables``, which are all that there are, refers to; how many."""
        used: set[str] = set()
        for table in tables:
            used.update(read_table(table)[1])
        count = 0
        for path in self.folder.glob("*.pack"):
            if path.name not in used:
                path.unlink(missing_ok=True)
                count += 1
        self._indexes.clear()
        self._known = None
        return count

    def _index(self, name: str, table: Path) -> PackIndex:
        if name not in self._indexes:
            if Path(name).name != name or "\0" in name or not name.endswith(".pack"):
                raise PackError(f"{table}: {name!r} is not the name of a pack")
            self._indexes[name] = read_index(self.folder / name)
        return self._indexes[name]

    def _all_known(self) -> dict[bytes, tuple[str, int]]:
        """Where every page is that some pack has; packs that cannot be read are left alone."""
        if self._known is None:
            self._known = {}
            for path in sorted(self.folder.glob("*.pack")):
                try:
                    index = self._index(path.name, path)
                except PackError:
                    continue
                for at in range(index.pages):
                    self._known.setdefault(index.hash_of(at), (path.name, at))
        return self._known


def _places(
    frame: Future[bytes], wanted: list[tuple[int, int]]
) -> Iterator[tuple[int, bytes, int]]:
    data = frame.result()
    for number, place in wanted:
        yield number, data, place * PAGE_SIZE
