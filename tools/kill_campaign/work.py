"""What the works have in common: a side that is killed, and a side that knows what must hold."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

import attrs

from asyncvmm.api import VmFolder, open_folder


def say(*words: object) -> None:
    """One line to the one who kills: it counts from here on, whatever happens next."""
    os.write(1, b"%s\n" % " ".join(map(str, words)).encode())


@attrs.frozen
class Place:
    """Where a campaign works: the ``folder`` of a machine, and room for more beside it."""

    folder: VmFolder
    rng: random.Random

    def beside(self, name: str) -> VmFolder:
        """Another machine's folder, of the same plugins."""
        return open_folder(self.folder.path.with_name(name), plugins=self.folder.plugins)


class Work(ABC):
    """One way to use the folder. ``number`` is the last one that was used; numbers only rise.

    ``do`` is called in the process that is killed; everything else in the one that kills.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.number = 0

    @property
    def folder(self) -> VmFolder:
        """The machine's."""
        return self.place.folder

    def prepare(self) -> None:  # noqa: B027
        """Make what the work needs, once, before any is killed."""

    def before(self) -> None:  # noqa: B027
        """The next process is about to begin."""

    @staticmethod
    @abstractmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """Use the folder for ever, and say what is done."""

    @abstractmethod
    def heard(self, words: Sequence[str]) -> None:
        """One line of what the process said before it was killed."""

    @abstractmethod
    def check(self) -> None:
        """AssertionError when something is lost. Called after every kill, whoever was killed."""
