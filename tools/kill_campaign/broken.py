"""Stores that lose something, so that it is seen that each check of a campaign can fail.

``python -m tools.kill_campaign WORK --broken NAME`` uses one in the processes that are killed. What they do
wrong takes them long enough for a kill to come in the middle.

A kill does not lose what the kernel has: a flush that is acknowledged before it reaches the disk can only be
seen by the order of the calls, which ``tests/unit/storage/test_durability.py`` looks at.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.runtime import snapshot_files
from asyncvmm.runtime.folder import restore, settings_edit, snapshots
from asyncvmm.runtime.journal_file import JournalFile
from asyncvmm.storage import copying, nvram
from asyncvmm.storage.nvram_flash import NvramFlash
from asyncvmm.storage.pagestore import PageStore
from asyncvmm.storage.qcow2 import Qcow2Image

LONG_S: Final = 0.02


@attrs.frozen
class Broken:
    """``work`` is whose checks must find it; ``install`` breaks this process."""

    work: str
    install: Callable[[], None]


def _in_place(path: Path, data: bytes | Iterable[bytes]) -> None:
    """No second file that takes the name once it is whole."""
    with path.open("wb", buffering=0) as file:
        time.sleep(LONG_S)
        for piece in [data] if isinstance(data, bytes) else data:
            file.write(piece)


def _edits_in_place() -> None:
    settings_edit.write_durably = _in_place


def _edits_acknowledged_early() -> None:
    good = settings_edit.write_durably

    def later(path: Path, data: bytes | Iterable[bytes]) -> None:
        def work() -> None:
            time.sleep(LONG_S)
            good(path, data)

        before = threading.Thread(target=work, daemon=True)
        before.start()

    settings_edit.write_durably = later


def _manifest_before_pages() -> None:
    good = snapshot_files.write_guest

    @contextlib.contextmanager
    def new_folder(target: Path) -> Iterator[tuple[Path, PageStore]]:
        target.mkdir()
        yield target, PageStore(target.parent / snapshot_files.PAGES)

    def write_guest(snapshot: Any, folder: Path, store: PageStore) -> None:
        (folder / snapshot_files.MANIFEST).write_text("{}")
        time.sleep(LONG_S)
        good(snapshot, folder, store)

    snapshot_files.new_folder = new_folder
    snapshot_files.write_guest = write_guest


def _pages_of_others_go() -> None:
    def sweep(store: PageStore, tables: Iterable[Path]) -> int:
        for pack in sorted(store.folder.glob("*.pack"))[:1]:
            pack.unlink()
        return 1

    PageStore.sweep = sweep  # type: ignore[method-assign]


def _snapshots_acknowledged_early() -> None:
    good = snapshots.FolderSnapshots.save

    def save(self: Any, snapshot: Any, *rest: Any) -> int:
        if rest[0] == "first":
            return good(self, snapshot, *rest)
        return 0

    snapshots.FolderSnapshots.save = save  # type: ignore[method-assign]
    snapshots.FolderSnapshots.delete = lambda self, name: None  # type: ignore[method-assign]


def _flushes_stay_in_memory() -> None:
    Qcow2Image.flush = lambda image: None  # type: ignore[method-assign]


def _tables_before_refcounts() -> None:
    def write_tables(image: Any, refcounts: Any) -> None:
        image.tables.write()
        time.sleep(LONG_S)
        refcounts.write()
        refcounts.point()
        refcounts.settle()

    Qcow2Image._write_tables = write_tables  # type: ignore[method-assign]


def _overlay_emptied_first() -> None:
    good = copying._commit

    def commit(top: Any, base: Any, progress: Any) -> None:
        extents = [(e.start, e.length) for e in top.extents(0, top.size_bytes)]
        data = [(start, top.pread(start, length)) for start, length in extents]
        for start, length in extents:
            top.forget(start, length)
        top.flush()
        time.sleep(LONG_S * 5)
        for start, piece in data:
            base.pwrite(start, piece)
        good(top, base, progress)

    copying._commit = commit


def _two_writers_at_once() -> None:
    good, save, one = nvram.Nvram.load, nvram.Nvram.save, threading.Lock()

    def load(path: Path) -> nvram.Nvram:
        found = good(path)
        time.sleep(LONG_S)
        return found

    def save_alone(value: nvram.Nvram, path: Path) -> None:
        with one:
            save(value, path)

    nvram.Nvram.save = save_alone  # type: ignore[method-assign]
    nvram._updating = contextlib.nullcontext()  # type: ignore[misc, assignment]
    nvram.Nvram.load = load  # type: ignore[method-assign, assignment]


def _flash_stays_in_memory() -> None:
    NvramFlash.flush = lambda flash: None  # type: ignore[method-assign]


def _inputs_stay_in_memory() -> None:
    JournalFile.flush = lambda journal: None  # type: ignore[method-assign]


def _no_intent() -> None:
    def replace_at_once(paths: Any, intent: restore.Intent) -> None:
        for target in intent.targets:
            if restore.part_of(target).exists():
                restore.part_of(target).replace(target)
                time.sleep(LONG_S)

    snapshots.write_intent = replace_at_once


BROKEN: Final = {
    "edits-in-place": Broken("config", _edits_in_place),
    "edits-acknowledged-early": Broken("config", _edits_acknowledged_early),
    "manifest-before-pages": Broken("snapshots", _manifest_before_pages),
    "pages-of-others-go": Broken("snapshots", _pages_of_others_go),
    "snapshots-acknowledged-early": Broken("snapshots", _snapshots_acknowledged_early),
    "flushes-stay-in-memory": Broken("disks", _flushes_stay_in_memory),
    "tables-before-refcounts": Broken("disks", _tables_before_refcounts),
    "overlay-emptied-first": Broken("disks", _overlay_emptied_first),
    "two-writers-at-once": Broken("nvram", _two_writers_at_once),
    "flash-stays-in-memory": Broken("flash", _flash_stays_in_memory),
    "inputs-stay-in-memory": Broken("journal", _inputs_stay_in_memory),
    "no-intent": Broken("restore", _no_intent),
}
