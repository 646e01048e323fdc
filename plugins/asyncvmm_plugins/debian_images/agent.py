"""The run agent as a program: ``agent.s`` assembled by our own assembler."""

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
    from asyncvmm.testing.assembler import assemble  # only who builds an image needs it

    source = resources.files(__package__).joinpath("agent.s").read_text("utf-8")
    text = assemble(source, TEXT_BASE).data
    return static_program(text, TEXT_BASE, DATA_BASE, DATA_BYTES)
