"""The reference executor against QEMU's user emulator, on generated programs in our own ELFs."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path
from random import Random

import pytest

from asyncvmm.arch.cause_numbers import CAUSE_BREAKPOINT
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.isa.reference import ReferenceHart, ReferenceRam, ReferenceTrap
from asyncvmm.isa.tables import BY_NAME
from asyncvmm.testing.generated import (
    ALL_EXTENSIONS,
    COUNTER,
    SCRATCH_SIZE,
    GeneratedProgram,
    build_program,
)

pytestmark = pytest.mark.oracle
QEMU = "qemu-riscv64-static"
BASE = 0x100000
SCRATCH = 0x110000
CODE = 0x1000
"""Where the program stands after BASE: the prologue is before it, tables and epilogue follow."""

USER = ALL_EXTENSIONS - {"zicsr", "privileged"}


def harness(program: GeneratedProgram) -> bytes:
    """An ELF that loads the registers, runs the program and writes the registers and memory."""
    jump = BY_NAME["jal"].encode({"rd": 0, "imm": 4})
    code = program.code[:-4] + jump.to_bytes(4, "little")
    lines = ["_start: la t0, floats", f"li t1, {program.fcsr}", "fscsr t1"]
    lines += [f"fld f{n}, {8 * n}(t0)" for n in range(32)]
    lines += ["la x31, integers", *(f"ld x{n}, {8 * n}(x31)" for n in range(1, 32))]
    lines += ["j program", f".org {CODE}", "program:"]
    lines += [f".byte {byte}" for byte in code]
    lines += ["la x31, integers", *(f"sd x{n}, {8 * n}(x31)" for n in range(31))]
    lines += ["la t0, floats", *(f"fsd f{n}, {8 * n}(t0)" for n in range(32))]
    lines += ["frcsr t1", "sd t1, 256(t0)"]
    for name, size in (("integers", 520), (None, SCRATCH_SIZE)):
        lines += [f"la a1, {name}" if name else f"li a1, {SCRATCH}"]
        lines += ["li a0, 1", f"li a2, {size}", "li a7, 64", "ecall"]
    lines += ["li a0, 0", "li a7, 93", "ecall", ".align 3", "integers:"]
    lines += [f".dword {value}" for value in program.x]
    lines += ["floats:", *(f".dword {value}" for value in program.f), ".dword 0"]
    lines += [f".org {SCRATCH - BASE}", *(f".byte {byte}" for byte in program.data)]
    return to_elf(assemble("\n".join(lines), BASE))


def on_qemu(qemu: str, program: GeneratedProgram, path: Path) -> tuple[tuple[int, ...], bytes]:
    """x0..x30, a word, f0..f31 and fcsr, and the memory, at the end."""
    path.write_bytes(harness(program))
    path.chmod(0o755)
    command = [qemu, "-cpu", "rv64,zba=true,zbb=true,zbs=true", str(path)]
    output = subprocess.run(command, check=True, capture_output=True).stdout
    return struct.unpack("<65Q", output[:520]), output[520:]


def on_reference(program: GeneratedProgram) -> tuple[tuple[int, ...], bytes]:
    """The same from the reference executor."""
    ram = ReferenceRam(BASE, SCRATCH + SCRATCH_SIZE - BASE)
    start = program.base - BASE
    ram.data[start : start + len(program.code)] = program.code
    ram.data[SCRATCH - BASE :] = program.data
    hart = ReferenceHart(ram, program.base)
    hart.x[:], hart.f[:], hart.fcsr = program.x, program.f, program.fcsr
    with pytest.raises(ReferenceTrap) as caught:
        while True:
            hart.step()
    assert caught.value.cause == CAUSE_BREAKPOINT
    return (*hart.x[:31], program.x[31], *hart.f, hart.fcsr), bytes(ram.data[SCRATCH - BASE :])


def drawn(random: Random, state: int) -> GeneratedProgram:
    """A long program without ctzw, which counts 64 bits in QEMU before 8.0."""
    pieces: list[int] = []
    while len(pieces) < 150:
        number = random.getrandbits(32)
        small = build_program([number], state, base=BASE + CODE, scratch=SCRATCH, extensions=USER)
        if "ctzw" not in small.listing:
            pieces.append(number)
    return build_program(pieces, state, base=BASE + CODE, scratch=SCRATCH, extensions=USER)


@pytest.mark.parametrize("seed", range(60))
def test_states_are_equal_at_the_end(tmp_path: Path, seed: int) -> None:
    qemu = shutil.which(QEMU)
    if qemu is None:
        pytest.skip(f"{QEMU} is not installed")
    program = drawn(Random(seed), seed)
    theirs, their_memory = on_qemu(qemu, program, tmp_path / "program")
    ours, our_memory = on_reference(program)
    names = [f"x{n}" for n in range(32)] + [f"f{n}" for n in range(32)] + ["fcsr"]
    differing = [
        f"{name}: reference {a:#x}, QEMU {b:#x}"
        for name, a, b in zip(names, ours, theirs, strict=True)
        if a != b and name != f"x{COUNTER}"
    ]
    assert not differing, f"seed {seed}: {differing}\n{program!r}"
    assert our_memory == their_memory, f"seed {seed}: memory differs\n{program!r}"
