"""The image ``demo``: assembly source of this package, made into an ELF by our own assembler."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

from asyncvmm.plugin.images import BootFiles, ImageCache, ImageType, Progress

SOURCES: Final = ("monitor.s", "console.s", "block.s", "commands.s")
"""In this order they are one source text, whose first instruction is the entry."""

BASE: Final = 0x8000_0000
PROGRAM: Final = "demo.elf"


def read_source() -> str:
    """The monitor's whole source text."""
    folder = resources.files(__package__)
    return "".join(folder.joinpath(name).read_text("utf-8") for name in SOURCES)


def recipe() -> str:
    """What a finished image was made from: it changes with the source."""
    return f"demo 1 {hashlib.sha256(read_source().encode()).hexdigest()}"


def build_program() -> bytes:
    """The monitor as an ELF for M-mode at the start of RAM."""
    from asyncvmm.testing import assemble, to_elf  # only who builds the image needs them

    return to_elf(assemble(read_source(), BASE))


class DemoImage(ImageType):
    """``demo``: a monitor with a prompt on the serial console; it needs nothing from anywhere."""

    name = "demo"
    summary = "A small monitor of our own, made on the spot (no download)"
    size_bytes_estimate = 32 << 10

    def pull(self, cache: ImageCache, progress: Progress) -> None:
        """Assembles the monitor into the cache."""
        with (
            cache.lock(self.name),
            progress.task("assembling the demo monitor", None),
            cache.build(self.name, recipe=recipe(), sources=list(SOURCES)) as directory,
        ):
            (directory / PROGRAM).write_bytes(build_program())

    def is_present(self, cache: ImageCache) -> bool:
        """Whether the cache has the monitor of this very source."""
        manifest = cache.manifest(self.name)
        return manifest is not None and manifest.recipe == recipe()

    def boot_files(self, cache: ImageCache) -> BootFiles:
        """The ELF; its console is for people, or for ``console.expect``."""
        directory = self.require_present(cache)
        return BootFiles(elf=directory / PROGRAM, memory="128M", prompt="demo> ")
