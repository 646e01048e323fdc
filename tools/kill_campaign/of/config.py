"""vm.toml: it has the last edit that was acknowledged, or the one under way."""

from __future__ import annotations

import random
from collections.abc import Sequence

from asyncvmm.api import VmFolder, open_folder
from tools.kill_campaign.work import Place, Work, say


class ConfigWork(Work):
    """Sets the seed to one number after the other."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.may_be = {0}

    @staticmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """See Work."""
        while True:
            number += 1
            say("begin", number)
            folder.set("seed", str(number))
            say("done", number)

    def heard(self, words: Sequence[str]) -> None:
        """See Work."""
        word, number = words[0], int(words[1])
        self.number = max(self.number, number)
        if word == "begin":
            self.may_be.add(number)
        else:
            self.may_be = {number}

    def check(self) -> None:
        """See Work."""
        folder = open_folder(self.folder.path, plugins=self.folder.plugins)
        found = folder.settings.guest.seed
        assert found in self.may_be, (found, self.may_be)
        self.may_be = {found}
        assert folder.holder is None
