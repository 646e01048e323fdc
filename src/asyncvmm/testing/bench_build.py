"""The benchmark guests: bare-metal ELFs of our own, built on demand and kept in a cache.

Sources are package data in ``bench_kernels/``: one kernel per C file, a harness (``main.c``,
``start.S``, ``link.ld``) and nothing else, so that any RISC-V compiler will do. Each ELF enters in
M-mode at 0x80000000, goes on in S-mode under Sv39 with 4 KiB pages if so built, prints one report
line (see :class:`asyncvmm.testing.bench.Report`) and ends through HTIF and the test finisher.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import attrs

from asyncvmm.base.errors import BackendError, ConfigError

Paging = Literal["bare", "sv39"]
PAGINGS: Final[tuple[Paging, ...]] = ("bare", "sv39")

SOURCES: Final = Path(__file__).resolve().parent / "bench_kernels"
_HARNESS: Final = ("start.S", "main.c")
_PAGING_NUMBER: Final[dict[str, int]] = {"bare": 0, "sv39": 1}
_FLAGS: Final = (
    "-mabi=lp64d",
    "-mcmodel=medany",
    "-mno-relax",
    "-O2",
    "-std=c11",
    "-ffreestanding",
    "-fno-builtin",
    "-fomit-frame-pointer",
    "-fno-unroll-loops",
    "-fno-pic",
    "-fno-stack-protector",
    "-Wall",
    "-Wextra",
    "-nostdlib",
    "-static",
)
_ZIG_FLAGS: Final = (
    "-target",
    "riscv64-freestanding-none",
    "-mcpu=generic_rv64+m+a+f+d+c",
    "-fno-sanitize=all",
)
_GCC_FLAGS: Final = ("-march=rv64gc",)
_GCC_NAMES: Final = ("riscv64-linux-gnu-gcc", "riscv64-unknown-elf-gcc", "riscv64-elf-gcc")


@attrs.frozen
class Kernel:
    """One benchmark: its C file's name, what it stands for, and its rounds at scale 1.

    The rounds make 130 to 160 million instructions each.
    """

    name: str
    what: str
    rounds: int

    def scaled(self, scale: float) -> int:
        """The number of rounds at this scale, at least one."""
        return max(1, round(self.rounds * scale))


EMPTY: Final = Kernel("empty", "nothing: start and stop", 1)
KERNELS: Final = (
    Kernel("mix", "integer mix: state machine, lists, matrix, CRC", 12500),
    Kernel("calls", "indirect calls and recursion", 3000),
    Kernel("chase", "pointer chase through 4 MiB", 420),
    Kernel("copy", "memory stream, copy", 105),
    Kernel("multiply", "memory stream, multiply", 76),
    Kernel("add", "memory stream, add", 66),
    Kernel("sort", "quicksort and binary search", 60),
    Kernel("nbody", "double precision: five bodies", 260),
)


@attrs.frozen
class Compiler:
    """A RISC-V C compiler: the command that takes GCC's options, and its version line."""

    command: tuple[str, ...]
    version: str


def kernel_named(name: str) -> Kernel:
    """The kernel of this name; ConfigError names those that exist."""
    for kernel in (*KERNELS, EMPTY):
        if kernel.name == name:
            return kernel
    raise ConfigError(f"no benchmark {name!r}; there are {', '.join(k.name for k in KERNELS)}")


def find_compiler() -> Compiler:
    """Zig's C compiler from the `bench` extra, else a RISC-V GCC; ConfigError without either."""
    if importlib.util.find_spec("ziglang") is not None:
        base = (sys.executable, "-m", "ziglang")
        version = _output((*base, "version"))
        return Compiler((*base, "cc", *_ZIG_FLAGS), f"zig {version}")
    for name in _GCC_NAMES:
        path = shutil.which(name)
        if path is not None:
            return Compiler((path, *_GCC_FLAGS), _output((path, "--version")).splitlines()[0])
    raise ConfigError(
        "the benchmarks are C and no RISC-V compiler is here: pip install 'asyncvmm[bench]' "
        f"brings one (or put one of {', '.join(_GCC_NAMES)} on PATH)"
    )


def cache_directory() -> Path:
    """Where built ELFs are kept: ``$XDG_CACHE_HOME/asyncvmm/bench``, by default below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "asyncvmm" / "bench"


def build(
    kernel: Kernel,
    paging: Paging = "bare",
    *,
    rounds: int | None = None,
    compiler: Compiler | None = None,
    cache: Path | None = None,
) -> Path:
    """The kernel's ELF, built unless sources, flags and compiler have made the same one before.

    `rounds` defaults to the kernel's own. Raises ConfigError without a compiler and BackendError,
    with what the compiler said, when it fails.
    """
    compiler = compiler or find_compiler()
    flags = (
        *_FLAGS,
        f"-DBENCH_ROUNDS={kernel.rounds if rounds is None else rounds}UL",
        f"-DBENCH_PAGING={_PAGING_NUMBER[paging]}",
        f"-Wl,-T,{SOURCES / 'link.ld'}",
    )
    key = _key(kernel, flags[:-1], compiler)
    directory = cache or cache_directory()
    made = directory / f"{kernel.name}-{paging}-{key}.elf"
    if made.exists():
        return made
    directory.mkdir(parents=True, exist_ok=True)
    part = made.with_suffix(f".part{os.getpid()}")
    sources = [str(SOURCES / name) for name in (*_HARNESS, f"{kernel.name}.c")]
    command = [*compiler.command, *flags, *sources, "-o", str(part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BackendError(f"building benchmark {kernel.name!r} failed:\n{done.stderr.strip()}")
        part.replace(made)
    finally:
        part.unlink(missing_ok=True)
    return made


def _key(kernel: Kernel, flags: Sequence[str], compiler: Compiler) -> str:
    """16 hex digits that change with anything that changes the ELF."""
    digest = hashlib.sha256()
    for word in (*flags, *compiler.command[1:], compiler.version):
        digest.update(word.encode() + b"\0")
    headers = sorted(path.name for path in SOURCES.glob("*.h"))
    for name in (*_HARNESS, *headers, "link.ld", f"{kernel.name}.c"):
        digest.update(name.encode() + b"\0" + (SOURCES / name).read_bytes())
    return digest.hexdigest()[:16]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
