"""Compile the hot floors with mypyc: ``python -m tools.compile`` builds them in place.

The list of modules is ``[tool.asyncvmm] compiled`` in pyproject.toml. All are one mypyc group, so that
calls between them stay early-bound; each module is a C file of its own, and C files are compiled side
by side and only when they or a header changed.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import re
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NO_COMPILER = """\
asyncvmm compiles its hot floors and needs a C compiler and Python's headers, but {what}.
On Debian or Ubuntu: apt-get install gcc libc6-dev python3-dev
On Fedora:           dnf install gcc python3-devel
On macOS:            xcode-select --install
Then run the same command again. CC names another compiler."""


class CompilerMissingError(RuntimeError):
    """There is no working C compiler or no Python.h; the text says what to install."""


def check_compiler() -> None:
    """Raise CompilerMissingError unless a C compiler and Python.h are there."""
    cc = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(cc) is None and shutil.which("gcc") is not None:
        os.environ["CC"] = cc = "gcc"
    if shutil.which(cc) is None:
        raise CompilerMissingError(NO_COMPILER.format(what=f"the compiler {cc!r} is not on PATH"))
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        raise CompilerMissingError(NO_COMPILER.format(what=f"{header} does not exist"))


def compiled_modules() -> list[Path]:
    """The modules that the pyproject's globs name, in a fixed order."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    source = ROOT / "src"
    found: set[Path] = set()
    for pattern in pyproject["tool"]["asyncvmm"]["compiled"]:
        found.update(source.glob(pattern))
    return sorted(path for path in found if not path.name.startswith("_"))


def compile_modules(jobs: int | None = None, verbose: bool = False) -> list[Path]:
    """Build all compiled modules in place below src/ and return the extension files' paths."""
    check_compiler()
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.command.build_ext import build_ext

    tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    work = ROOT / "build" / f"mypyc-{tag}"
    work.mkdir(parents=True, exist_ok=True)
    here = Path.cwd()
    os.chdir(ROOT / "src")
    try:
        modules = [str(path.relative_to(ROOT / "src")) for path in compiled_modules()]
        extensions = mypycify(
            [
                "--config-file=",
                "--ignore-missing-imports",
                "--cache-dir",
                str(work / "mypy"),
                *modules,
            ],
            opt_level="3",
            debug_level="0",
            multi_file=True,
            target_dir=str(work / "c"),
            group_name="asyncvmm",
        )
        for source in sorted((work / "c").glob("__native*.c")):
            _widen_shifted_literals(source)
        distribution = Distribution({"name": "asyncvmm", "ext_modules": extensions})
        distribution.get_option_dict("build_ext")  # make sure the command's options exist
        command = build_ext(distribution)
        command.inplace = True
        command.force = True  # objects are skipped by content below
        command.build_lib = str(work / "lib")
        command.build_temp = str(work / "objects")
        command.ensure_finalized()
        with _parallel(command, jobs or os.cpu_count() or 1, work / "c"):
            command.run()
        made = [Path(path).relative_to(work / "lib") for path in command.get_outputs()]
        return [ROOT / "src" / path for path in made]
    finally:
        os.chdir(here)


def _widen_shifted_literals(source: Path) -> None:
    """Give literals on the left of a shift their 64 bits.

    mypyc 2.4 writes ``one << n`` with ``one: i64 = 1`` as ``1 << n``, which C computes in 32 bits.
    """
    text = source.read_text()
    fixed = re.sub(r"(= -?\d+)( << cpy_)", r"\1LL\2", text)
    if fixed != text:
        source.write_text(fixed)


class _parallel:
    """Within this context the command's C compiler builds stale objects only, several at a time."""

    def __init__(self, command: Any, jobs: int, generated: Path) -> None:
        self._command, self._jobs, self._generated = command, jobs, generated

    def __enter__(self) -> None:
        from setuptools._distutils import ccompiler

        self._owner = ccompiler.CCompiler
        self._original = ccompiler.CCompiler.compile
        jobs, generated = self._jobs, self._generated

        def compile_side_by_side(
            compiler: Any,
            sources: list[str],
            output_dir: str | None = None,
            macros: Any = None,
            include_dirs: Any = None,
            debug: bool = False,
            extra_preargs: Any = None,
            extra_postargs: Any = None,
            depends: Any = None,
        ) -> list[str]:
            macros, objects, extra, pp_opts, build = compiler._setup_compile(
                output_dir, macros, include_dirs, sources, depends, extra_postargs
            )
            cc_args = compiler._get_cc_args(pp_opts, debug, extra_preargs)
            headers = hashlib.sha256()
            for header in sorted(generated.rglob("*.h")):
                headers.update(header.read_bytes())
            headers.update(repr((compiler.compiler_so, cc_args, extra, pp_opts)).encode())

            def one(obj: str) -> None:
                src, ext = build[obj]
                made, stamp = Path(obj), Path(obj).with_suffix(".sha256")
                digest = hashlib.sha256(headers.digest() + Path(src).read_bytes()).hexdigest()
                if made.exists() and stamp.exists() and stamp.read_text() == digest:
                    return
                part = made.with_suffix(".part.o")
                compiler._compile(str(part), src, ext, cc_args, extra, pp_opts)
                part.replace(made)
                stamp.write_text(digest)

            # The largest files first, so that the last one to finish is a short one.
            order = sorted(objects, key=lambda obj: -Path(build[obj][0]).stat().st_size)
            with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
                list(pool.map(one, order))
            return list(objects)

        ccompiler.CCompiler.compile = compile_side_by_side

    def __exit__(self, *exc: object) -> None:
        self._owner.compile = self._original


def main() -> int:
    """Build in place; print what was built or why not."""
    try:
        built = compile_modules(verbose="-v" in sys.argv)
    except CompilerMissingError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(built)} extension modules are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
