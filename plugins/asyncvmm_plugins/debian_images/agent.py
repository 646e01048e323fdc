"""Our own programs in the images, assembled by our own assembler: the run agent, and ``devmem``."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Final

from asyncvmm_plugins.debian_images.elf import static_program

TEXT_BASE: Final = 0x10000
DATA_BASE: Final = 0x400000
DATA_BYTES: Final = 0x48000


@functools.cache
def agent_program() -> bytes:
    """A static RISC-V Linux program; see specs/run-protocol.md."""
    return _program("agent.s")


@functools.cache
def devmem_program() -> bytes:
    """``devmem ADDRESS [WIDTH [VALUE]]``, a static RISC-V Linux program."""
    return _program("devmem.s")


def _program(name: str) -> bytes:
    from asyncvmm.testing.assembler import assemble  # only who builds an image needs it

    source = resources.files(__package__).joinpath(name).read_text("utf-8")
    text = assemble(source, TEXT_BASE).data
    return static_program(text, TEXT_BASE, DATA_BASE, DATA_BYTES)
