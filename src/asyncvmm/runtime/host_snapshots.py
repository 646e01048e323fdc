"""A whole host as a value: all guests, what is between them, and the books, at one instant.

On disk it is a folder as a guest's is: ``host.json`` (settings, books, networks with their frames),
``guest0``, ``guest1`` and so on as ``snapshot_files`` has them, and the packs of pages beside the
folder, which it shares with every other snapshot there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import shortened
from asyncvmm.machine import SnapshotError
from asyncvmm.network import NetworkConfig
from asyncvmm.runtime.host_saved import HostBooks, SavedHost
from asyncvmm.runtime.snapshot_files import (
    HOST_MANIFEST,
    MANIFEST,
    PAGES,
    new_folder,
    read_guest,
    read_manifest,
    write_guest,
)
from asyncvmm.storage.packs import PackError, write_durably
from asyncvmm.storage.pagestore import PageStore

FORMAT: Final = 1
KEYS: Final = frozenset(("format", "time_ns", "books", "configs", "networks"))
MAX_GUESTS: Final = 10_000


class HostSnapshot:
    """A host at one instant: what ``Host.snapshot`` took, and ``open_host(snapshot=...)`` goes on from.

    Pages and disks are shared with the guests until either side writes them. Close it (or use it as a
    context manager) when it is not wanted any more; hosts that were opened from it stay as they are.
    """

    def __init__(self, saved: SavedHost) -> None:
        self.saved: Final = saved
        self.closed = False

    @classmethod
    def load(cls, path: Path | str) -> HostSnapshot:
        """The snapshot in a folder; SnapshotError (a ConfigError) names the file and what is wrong."""
        return cls(_load(Path(path)))

    def save(self, path: Path | str) -> int:
        """Write it to the new folder ``path``; returns how many pages were not beside it already.

        ConfigError when the folder exists, BackendError when something cannot be written.
        """
        self.check_open()
        with new_folder(Path(path)) as (part, store):
            for number, guest in enumerate(self.saved.guests):
                folder = part / f"guest{number}"
                folder.mkdir()
                write_guest(guest, folder, store)
            manifest = {
                "format": FORMAT,
                "time_ns": self.time_ns,
                "books": self.saved.books.save(),
                "configs": {key: one.to_mapping() for key, one in self.saved.configs.items()},
                "networks": self.saved.networks,
            }
            write_durably(part / HOST_MANIFEST, json.dumps(manifest, indent=1).encode())
        return store.pages_written

    @property
    def time_ns(self) -> int:
        """The host's virtual time when it was taken, in ns."""
        return self.saved.books.conductor.now_ns

    @property
    def guests(self) -> tuple[str, ...]:
        """The names of its guests, in the order in which they came."""
        return tuple(guest.name for guest in self.saved.books.guests)

    @property
    def resident_bytes(self) -> int:
        """How much memory the guests had."""
        return sum(int(guest.state.pages.resident) * 4096 for guest in self.saved.guests)

    def __enter__(self) -> HostSnapshot:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what it keeps; once is enough."""
        if not self.closed:
            self.closed = True
            self.saved.close()

    def check_open(self) -> None:
        """ConfigError when it was closed."""
        if self.closed:
            raise ConfigError("this snapshot was closed")


def _load(folder: Path) -> SavedHost:
    file = folder / HOST_MANIFEST
    if not file.exists() and (folder / MANIFEST).exists():
        raise SnapshotError(f"{folder}: is a snapshot of one guest: load it with Snapshot.load")
    manifest = read_manifest(file, KEYS, FORMAT, {})
    guests = []
    try:
        books = HostBooks.load(manifest["books"])
        configs = _configs(file, manifest["configs"])
        networks = _mapping(file, manifest["networks"])
        check_books(books)
        store = PageStore(folder.parent / PAGES)
        for number in range(len(books.guests)):
            guests.append(read_guest(folder / f"guest{number}", store))
        return SavedHost(books, configs, networks, tuple(guests))
    except BaseException as error:
        for guest in guests:
            guest.close()
        if isinstance(error, ConfigError) and not isinstance(error, (SnapshotError, PackError)):
            raise SnapshotError(f"{file}: {shortened(str(error))}") from error
        raise


def _configs(file: Path, values: object) -> dict[str, NetworkConfig]:
    try:
        return {
            key: NetworkConfig.from_mapping(_mapping(file, one))
            for key, one in _mapping(file, values).items()
        }
    except (TypeError, ValueError, AttributeError) as error:  # what users write is less odd
        raise SnapshotError(f"{file}: configs: {shortened(str(error))}") from error


def check_books(books: HostBooks) -> None:
    """ConfigError when the books are not of one and the same set of guests."""
    names = [guest.name for guest in books.guests]
    if len(names) > MAX_GUESTS or len(set(names)) != len(names):
        raise ConfigError("the saved guests are too many, or two have one name")
    for what, found in (
        ("conductor", [place.guest for place in books.conductor.places]),
        ("CPU books", [guest.name for guest in books.cpus.guests]),
        ("memory books", [guest.name for guest in books.memory.guests]),
    ):
        if sorted(found) != sorted(names):
            raise ConfigError(f"the saved {what} have other guests than the host")


def _mapping(file: Path, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SnapshotError(f"{file}: a mapping was expected")
    return value
