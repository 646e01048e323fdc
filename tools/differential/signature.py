"""What an image of random blocks leaves in memory, where, and how two machines' results are compared."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from asyncvmm.arch.cause_numbers import (
    CAUSE_BREAKPOINT,
    CAUSE_LOAD_ACCESS_FAULT,
    CAUSE_STORE_ACCESS_FAULT,
)
from asyncvmm.isa.disasm import disassemble

BASE: Final = 0x80000000
BLOCKS: Final = 0x80001000
TABLE: Final = 0x80200000
SCRATCH: Final = 0x80600000
SCRATCH_SIZE: Final = 0x2000
RECORDS: Final = SCRATCH + SCRATCH_SIZE
QEMU_WRONG: Final = frozenset(("ctzw",))
"""What QEMU 7.2 computes wrongly (ctzw of 0 is 63 there): to be avoided in images for it."""
RECORD_SIZE: Final = 512
TRAP_SIZE: Final = 24
NOWHERE: Final = 0xC0000000
"""Nothing is here on any of the machines, which have less memory than 1 GiB."""
MEMORY_MIB: Final = 32
MAX_BLOCKS: Final = 6000
PAGE_TABLES: Final = 0x80500000
MODES: Final = {
    "m": (3, 0),
    "s": (1, 0),
    "s39": (1, 8),
    "u39": (0, 8),
    "s48": (1, 9),
    "u48": (0, 9),
}
"""Where blocks can run: the privilege mode, and the mode of satp."""
FINISHER: Final = 0x100000


@dataclass(frozen=True)
class Image:
    """An ELF with ``blocks`` random blocks, where each begins, and what it leaves behind."""

    elf: bytes
    starts: tuple[int, ...]
    code: bytes
    instructions: int
    signature: int
    signature_size: int

    def block_listing(self, number: int) -> str:
        """The disassembly of one block."""
        ends = (*self.starts[1:], BLOCKS + len(self.code))
        lines = []
        at = self.starts[number]
        while at < ends[number]:
            word = int.from_bytes(self.code[at - BLOCKS : at - BLOCKS + 4], "little")
            lines.append(f"{at:#x}: {disassemble(word, at)}")
            at += 4 if word & 3 == 3 else 2
        return "\n".join(lines)


class Signature:
    """What a machine left: scratch memory, a record per block, and the traps in their order."""

    def __init__(self, image: Image, data: bytes) -> None:
        if len(data) != image.signature_size:
            raise ValueError(f"a signature of {len(data)} bytes, not {image.signature_size}")
        self.image = image
        blocks = len(image.starts)
        self.scratch = data[:SCRATCH_SIZE]
        self.records = [data[SCRATCH_SIZE + RECORD_SIZE * n :][:RECORD_SIZE] for n in range(blocks)]
        traps = data[SCRATCH_SIZE + RECORD_SIZE * (blocks + 1) :]
        self.traps: list[tuple[int, int, int]] = []
        for cause, pc, value in struct.iter_unpack("<QQQ", traps[: len(traps) // 24 * 24]):
            if pc == 0:
                break
            # QEMU 7.2 leaves mtval 0 at an ebreak, where Spike and we say pc, and names the aligned
            # word below a misaligned access that faults. The standard allows all of it.
            if cause == CAUSE_BREAKPOINT:
                value = 0
            elif cause in (CAUSE_LOAD_ACCESS_FAULT, CAUSE_STORE_ACCESS_FAULT):
                value &= ~7
            self.traps.append((cause, pc, value))

    def differences(self, other: Signature, names: tuple[str, str]) -> str:
        """The first block in which the two differ, or the first trap; "" when they are the same."""
        for number, (ours, theirs) in enumerate(zip(self.records, other.records, strict=True)):
            if ours != theirs:
                lines = [f"block {number}:"]
                for slot, (a, b) in enumerate(
                    zip(struct.unpack("<64Q", ours), struct.unpack("<64Q", theirs), strict=True)
                ):
                    if a != b:
                        name = f"x{slot}" if slot < 32 else f"f{slot - 32}"
                        name = "fcsr" if slot == 0 else name
                        lines.append(f"{name}: {names[0]} {a:#x}, {names[1]} {b:#x}")
                return "\n".join([*lines, *self._trap_lines(other, names), self._where(number)])
        if self.traps != other.traps:
            return "\n".join(self._trap_lines(other, names))
        if self.scratch != other.scratch:
            at = next(i for i, v in enumerate(self.scratch) if v != other.scratch[i])
            return f"scratch memory at {SCRATCH + at:#x} and possibly more"
        return ""

    def _where(self, number: int) -> str:
        return self.image.block_listing(number)

    def _trap_lines(self, other: Signature, names: tuple[str, str]) -> list[str]:
        for number in range(max(len(self.traps), len(other.traps))):
            ours = self.traps[number] if number < len(self.traps) else None
            theirs = other.traps[number] if number < len(other.traps) else None
            if ours != theirs:
                return [
                    f"trap {number} (cause, pc, value): {names[0]} {_trap_text(ours)}, "
                    f"{names[1]} {_trap_text(theirs)}",
                    self._instruction((ours or theirs or (0, 0, 0))[1]),
                ]
        return []

    def _instruction(self, pc: int) -> str:
        at = pc - BLOCKS
        word = int.from_bytes(self.image.code[at : at + 4], "little")
        return f"at {pc:#x}: {word:#x} {disassemble(word, pc)}"


def _trap_text(trap: tuple[int, int, int] | None) -> str:
    return "none" if trap is None else "({:#x}, {:#x}, {:#x})".format(*trap)
