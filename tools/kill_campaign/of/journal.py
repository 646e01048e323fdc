"""The journal of a run: every input that was answered is in it, and it repeats the run up to there."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from asyncvmm.api import VmFolder
from asyncvmm.cli import main
from asyncvmm.runtime.folder.running import RunningMachine, locked
from asyncvmm.runtime.journal_file import INPUT, START, JournalError, beside, read_journal
from tools.kill_campaign.work import Place, Work, say

DIGEST_PART: Final = 0.1  # of the inputs have a digest of the guest noted after them
RESTORE_PART: Final = 0.5  # of the runs go on from a saved state


class JournalWork(Work):
    """Records a run in which a number is typed again and again, and the guest answers it."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.answered: list[int] = []
        self.asked: list[int] = []
        self.unread = False

    @property
    def path(self) -> Path:
        """The journal of the process that was last."""
        return journal_of(self.folder)

    def before(self) -> None:
        """See Work."""
        self.asked, self.answered, self.unread = [], [], True
        if self.place.rng.random() < RESTORE_PART and self.folder.head.resume is None:
            names = [info.name for info in self.folder.snapshots]
            with locked(self.folder.paths):
                pass  # what a crash left is put right first
            nvram = self.folder.nvram
            self.folder.restore(self.place.rng.choice(names))
            nvram.save(self.folder.paths.nvram)  # its part of a restore is not this work's

    @staticmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """See Work."""
        trio.run(_type, folder, rng, number)

    def heard(self, words: Sequence[str]) -> None:
        """See Work."""
        word, number = words[0], int(words[1])
        self.number = max(self.number, number)
        (self.asked if word == "asked" else self.answered).append(number)

    def check(self) -> None:
        """See Work."""
        if not self.unread:
            return
        self.unread = False
        if not self.path.exists():
            assert not self.asked
        else:
            self._check_file()
        self.path.unlink(missing_ok=True)
        for what in ("snapshots", "disks"):
            shutil.rmtree(beside(self.path, what), ignore_errors=True)

    def _check_file(self) -> None:
        try:
            recorded = read_journal(self.path)
        except JournalError as error:
            assert not self.asked, error  # there was nothing to record yet
            assert str(self.path) in str(error) and "header" in str(error), error
            return
        assert not recorded.complete
        typed = [record.data for record in recorded.records if record.kind == INPUT]
        number = self.number + 1  # which may have been typed and not said
        wanted = [b"echo %d.\r" % each for each in (*self.asked, number)]
        assert len(self.answered) <= len(typed), (self.answered, typed)
        assert typed == wanted[: len(typed)], (self.asked, typed)
        if any(record.kind == START for record in recorded.records):
            self._replay()

    def _replay(self) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["replay", "--json", str(self.path)])
        assert status == 0, (out.getvalue(), err.getvalue())
        assert "the journal was cut off at " in err.getvalue(), err.getvalue()
        assert json.loads(out.getvalue())["equal"] is True, out.getvalue()


def journal_of(folder: VmFolder) -> Path:
    """Where a run of this machine is recorded."""
    return folder.path.with_name("run.journal")


async def _type(folder: VmFolder, rng: random.Random, number: int) -> None:
    cold = folder.head.resume is None
    async with folder.run(cold=cold, journal=journal_of(folder)) as machine:
        while True:
            number += 1
            say("asked", number)
            await machine.guest.console.send_all(b"echo %d.\r" % number)
            await _answer(machine, number)
            say("answered", number)
            if rng.random() < DIGEST_PART:
                assert machine.host.journal is not None
                machine.host.journal.compare()


async def _answer(machine: RunningMachine, number: int) -> None:
    said = b""
    while b"\n%d.\r" % number not in said:
        said += await machine.guest.console.receive_some()
