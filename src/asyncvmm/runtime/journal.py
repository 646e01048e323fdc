"""Writes the journal of a host: what entered and when, and now and then what the guests were then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Final

import asyncvmm
from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS
from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.plugin.manager import GROUP
from asyncvmm.runtime.fingerprints import boot_hashes, folder_digests
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.inputs import Inputs
from asyncvmm.runtime.journal_file import (
    DIGESTS,
    END,
    FORMAT,
    HEADER,
    LOST,
    SNAPSHOT,
    JournalFile,
    Record,
)
from asyncvmm.runtime.kept_disks import disk_prints

DIGEST_EVERY_NS: Final = 500 * MS  # of virtual time, at least
DIGEST_SHARE: Final = 25  # digests may take one part in so many of the wall time
SYNC_EVERY_NS: Final = 1000 * MS  # of wall time


class Journal(Inputs):
    """Notes everything that enters a host in a file that ``asyncvmm replay`` repeats the run from.

    The file is bounded: when it is full, the run goes on without, and the journal says where.
    """

    def __init__(
        self,
        file: JournalFile,
        position: Callable[[], tuple[int, int]],
        guests: Callable[[], Mapping[str, Guest]],
        settings: Mapping[str, Any],
        *,
        digests: bool = True,
    ) -> None:
        """``position`` is the instant and the turn; ``settings`` are ``open_host``'s."""
        self._wanted = digests
        self.file: Final = file
        self.recording = True
        self.why_lost = ""
        self.taken: Final[set[int]] = set()  # the numbers of snapshots that were noted
        self._position = position
        self._guests = guests
        self._closed = False
        self._dirty = False
        self._next_ns = DIGEST_EVERY_NS
        self._wall_ns = time.monotonic_ns()  # no digest before; a guest cannot see when they are
        self._synced_ns = self._wall_ns
        header = {
            "format": FORMAT,
            "asyncvmm": asyncvmm.__version__,
            "plugins": plugin_versions(),
            "host": dict(settings),
        }
        if not file.append(Record(HEADER, 0, 0, header)):
            raise ConfigError(f"{file.path}: the host's settings do not fit in a journal")
        file.flush()

    def note(self, kind: int, data: bytes = b"", **names: Any) -> None:
        """See Inputs."""
        if kind == SNAPSHOT:
            self.taken.add(names["snapshot"])
        self._append(Record(kind, *self._position(), names, data))

    def check(self, config: GuestConfig, live: list[str]) -> None:
        """See Inputs."""
        if live:
            raise ConfigError(
                f"guest {config.name}: device {live[0]} lives with the world outside, which a "
                "journal cannot repeat: run it without --record"
            )

    def fingerprint(self, machine: Machine, *, disks: bool = True) -> dict[str, Any]:
        """See Inputs."""
        found: dict[str, Any] = {
            "boot": boot_hashes(machine.files),
            "folders": folder_digests(machine),
        }
        if disks:
            found["disks"] = disk_prints(machine, self.file.disks)
        return found

    def lost(self, why: str) -> None:
        """See Inputs: the journal ends here."""
        if not self._closed:
            self.why_lost = why
            self.file.append(Record(LOST, *self._position(), {"why": why}), last=True)
            self.close()

    def look(self) -> None:
        """See Inputs: what was noted is in the system's hands before the guests live on."""
        if self._closed:
            return
        now_ns, _ = self._position()
        if now_ns >= self._next_ns and time.monotonic_ns() >= self._wall_ns:
            began_ns = time.monotonic_ns()
            self._digests()
            self._next_ns = now_ns + DIGEST_EVERY_NS
            ended_ns = time.monotonic_ns()
            self._wall_ns = ended_ns + DIGEST_SHARE * (ended_ns - began_ns)
        if self._dirty:
            self._dirty = False
            self.file.flush()
            if time.monotonic_ns() - self._synced_ns > SYNC_EVERY_NS:
                self.file.sync()
                self._synced_ns = time.monotonic_ns()

    def compare(self) -> None:
        """Note what the guests are now, between two stretches."""
        self._digests()

    def finish(self) -> None:
        """The host is about to end, between two stretches: note what the guests are at the end."""
        if not self._closed:
            self._digests()
            self.file.append(Record(END, *self._position()), last=True)
            self.close()

    def close(self) -> None:
        """No more is noted."""
        if not self._closed:
            self._closed = True
            self.file.close()

    def _digests(self) -> None:
        guests = self._guests()
        if guests and self._wanted:
            found = {name: guest.machine.digest() for name, guest in guests.items()}
            self.note(DIGESTS, guests=found)

    def _append(self, record: Record) -> None:
        if self._closed:
            return
        self._dirty = True
        try:
            fits = self.file.append(record)
        except TypeError as error:
            self.lost(f"something that is not plain data entered: {error}")
            return
        if not fits:
            self.lost(f"the journal is full: {self.file.limit_bytes} bytes")


def plugin_versions() -> dict[str, str]:
    """The distributions that plugins come from, with their versions."""
    found = {}
    for point in metadata.entry_points(group=GROUP):
        if point.dist is not None:
            found[point.dist.name] = point.dist.version
    return found
