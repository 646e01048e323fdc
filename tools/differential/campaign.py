"""Pieces of a campaign: each is a number from a seed, so it can be run again alone and anywhere."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.engine.interpreter import Engine
from tools.differential.engines import ENGINES
from tools.differential.image import ImageBuilder
from tools.differential.lockstep import Lockstep, Mismatch
from tools.differential.mapped import MappedLockstep
from tools.differential.oracles import Runner, available, run_engine, run_spike
from tools.differential.probe_runtime import OPS
from tools.differential.probes import ProbeBuilder
from tools.differential.signature import MODES, QEMU_WRONG, Signature
from tools.differential.trap_probes import TrapBuilder

SESSIONS: Final = 100
"""Sessions of one piece of ``reference``."""
BLOCKS: Final = 4000
BLOCK_LENGTH: Final = 20
PROBES: Final = 8000
TRAPS: Final = 16000
# What QEMU 7.2 does otherwise, or wrongly (an AMO's faults are a load's): left out for it.
QEMU_OPS: Final = tuple(op for op in OPS if op != "amoswap.w")


@dataclass(frozen=True)
class Piece:
    """What one piece compared: so many units, and the first difference or ""."""

    units: int
    difference: str = ""


def piece_seed(seed: int, number: int) -> int:
    """The seed of piece ``number`` of a campaign."""
    return seed * 1_000_003 + number


def reference_piece(engine: Engine, seed: int, number: int) -> Piece:
    """Wild sequences, ours and the reference: the units are steps."""
    return _lockstep_piece(Lockstep(piece_seed(seed, number), engine=engine))


def mapped_piece(engine: Engine, seed: int, number: int) -> Piece:
    """Wild sequences in S-mode under Sv39, ours and the reference: the units are steps."""
    return _lockstep_piece(MappedLockstep(piece_seed(seed, number), engine=engine))


def _lockstep_piece(lockstep: Lockstep) -> Piece:
    try:
        for session in range(SESSIONS):
            lockstep.session(session)
    except Mismatch as mismatch:
        return Piece(lockstep.steps, str(mismatch))
    return Piece(lockstep.steps)


def images_piece(engine: Engine, seed: int, number: int) -> Piece:
    """One image on every oracle there is: the units are instructions in its blocks.

    Odd ones leave out what QEMU 7.2 gets wrong and run there too; even ones have all instructions.
    """
    oracles = available()
    avoid = QEMU_WRONG if number & 1 or "spike" not in oracles else frozenset[str]()
    mode = tuple(MODES)[number // 2 % len(MODES)]
    image = ImageBuilder(piece_seed(seed, number), avoid, mode).build(BLOCKS, BLOCK_LENGTH)
    with tempfile.TemporaryDirectory() as place:
        at = (image.elf, image.signature, image.signature_size)
        ours = Signature(image, run_engine(engine, *at))
        for name, run in oracles.items():
            if name == "qemu" and not avoid:
                continue
            found = ours.differences(Signature(image, run(*at, Path(place))), ("ours", name))
            if found:
                return Piece(image.instructions, found)
    return Piece(image.instructions)


def probes_piece(engine: Engine, seed: int, number: int) -> Piece:
    """Probes, a set of its own for each oracle: the units are probes."""
    count = 0
    for name, run in available().items():
        builder = probe_builder(name, piece_seed(seed, number))
        image = builder.build(PROBES)
        with tempfile.TemporaryDirectory() as place:
            at = (image.elf, image.signature, image.signature_size)
            found = image.differences(
                run_engine(engine, *at), run(*at, Path(place)), ("ours", name)
            )
        count += PROBES
        if found:
            return Piece(count, "\n".join(found[:4]))
    return Piece(count)


def probe_builder(oracle: str, seed: int) -> ProbeBuilder:
    """The builder of what is the same on ``oracle`` by the standard.

    QEMU 7.2 always updates A and D, has no access fault for a table outside memory, does not ask
    the PMP before it updates an entry, and names other addresses where an access crosses pages.
    """
    if oracle == "qemu":
        return ProbeBuilder(
            seed, adue=True, fine_pmp=False, lost_tables=False, with_pmp=False, ops=QEMU_OPS,
            with_crossing=False,
        )  # fmt: skip
    return ProbeBuilder(seed)


def traps_piece(engine: Engine, seed: int, number: int) -> Piece:
    """Trap probes, on Spike.

    QEMU 7.2 differs in too much: UXL and bits of the hypervisor extension can be written, MRET leaves
    MPRV, sepc keeps bit 0, mtval is 0 after EBREAK, and SSI comes before SEI.
    """
    if "spike" not in available():
        raise ConfigError("traps are compared with spike, which is not installed")
    image = TrapBuilder(piece_seed(seed, number)).build(TRAPS)
    with tempfile.TemporaryDirectory() as place:
        at = (image.elf, image.signature, image.signature_size)
        found = image.differences(
            run_engine(engine, *at), run_spike(*at, Path(place)), ("ours", "spike")
        )
    return Piece(TRAPS, "\n".join(found[:4]))


KINDS: Final[dict[str, tuple[str, Callable[[Engine, int, int], Piece]]]] = {
    "reference": ("steps", reference_piece),
    "mapped": ("steps", mapped_piece),
    "images": ("instructions", images_piece),
    "probes": ("probes", probes_piece),
    "traps": ("trap probes", traps_piece),
}


def run_piece(kind: str, engine: str, seed: int, number: int) -> Piece:
    """A piece of one of KINDS on one of ENGINES, with an engine of its own."""
    return KINDS[kind][1](ENGINES[engine](piece_seed(seed, number)), seed, number)


def oracle_names() -> dict[str, Runner]:
    """The oracles that images and probes are compared with."""
    return available()
