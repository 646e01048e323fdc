"""Taking files out of Debian package files without installing them."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from asyncvmm.plugin.images import BuildError


def read_members(deb: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The regular files of ``deb`` whose names (without ``./``) are ``wanted``, with their contents.

    Symbolic and hard links are left out. Raises `BuildError` if the package cannot be read.
    """
    found: dict[str, bytes] = {}
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = clean_name(member.name)
                    if member.isreg() and wanted(name):
                        handle = archive.extractfile(member)
                        found[name] = handle.read() if handle is not None else b""
        except (tarfile.TarError, OSError) as error:
            process.kill()
            raise BuildError(f"{deb}: not a readable package: {error}") from error
        errors = process.stderr.read().decode("utf-8", "replace").strip()
    if process.returncode != 0:
        raise BuildError(f"{deb}: dpkg-deb failed: {errors}")
    return found


def unpack(deb: Path, root: Path) -> None:
    """Unpacks the files of ``deb`` below ``root``, as the current user. Raises `BuildError`."""
    done = subprocess.run(
        ["dpkg-deb", "--extract", str(deb), str(root)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{deb.name}: dpkg-deb failed: {done.stderr.strip()}")


def clean_name(name: str) -> str:
    """A member's name without the ``./`` that dpkg puts before it."""
    return name[2:] if name.startswith("./") else name
