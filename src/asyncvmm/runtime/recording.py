"""The journal of a host that is recorded, beside the host: begun, ended, and the snapshots it names.

A replay needs every snapshot that a guest went on from. One that was taken during the run comes about
again; one that is on disk is named by its folder; any other is saved beside the journal, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.journal import Journal
from asyncvmm.runtime.journal_file import JournalFile
from asyncvmm.runtime.snapshots import Snapshot


class Recording:
    """A journal with the snapshots beside it."""

    def __init__(self, journal: Journal, guests: Mapping[str, Guest]) -> None:
        self.journal: Final = journal
        self._guests = guests
        self._kept: dict[int, str] = {}  # by the numbers of the snapshots

    @classmethod
    async def begin(
        cls,
        path: Path | str,
        limit_bytes: int,
        conductor: Conductor,
        guests: Mapping[str, Guest],
        settings: Mapping[str, Any],
        snapshot: HostSnapshot | None,
        *,
        digests: bool,
    ) -> Recording:
        """A new journal that hears of all that enters from now on.

        The host is new, or goes on from ``snapshot``; ``guests`` are those that it has at any time.
        ConfigError when there is such a file already.
        """
        file = JournalFile(path, limit_bytes)
        settings = dict(settings)
        if snapshot is not None:
            folder = file.folder / "host"
            await trio.to_thread.run_sync(snapshot.save, folder)
            settings["snapshot"] = file.name_of(folder)
        journal = Journal(
            file,
            lambda: (conductor.now_ns, conductor.turns),
            lambda: guests,
            settings,
            digests=digests,
        )
        conductor.record(journal)
        return cls(journal, guests)

    async def name_of(self, snapshot: Snapshot) -> str | int:
        """What the journal calls a snapshot: its number if it was taken here, else a folder."""
        if snapshot.number in self.journal.taken:
            return snapshot.number
        file, folder = self.journal.file, snapshot.folder
        if folder is not None and folder.exists():
            return file.name_of(folder)
        kept = self._kept.get(snapshot.number)
        if kept is None:
            path = file.folder / str(len(self._kept) + 1)
            await trio.to_thread.run_sync(snapshot.save, path)
            kept = self._kept[snapshot.number] = file.name_of(path)
        return kept

    async def end(self, conductor: Conductor) -> None:
        """The host is about to end, at a place to which a replay can come."""
        for guest in self._guests.values():
            guest.leave_gdb()
        with trio.CancelScope(shield=True):
            await conductor.turn()
        if conductor.in_stretch:
            self.journal.lost("the host was ended in the middle of a quantum")
        self.journal.finish()
