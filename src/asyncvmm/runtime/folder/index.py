"""The machines that a user started, so that ``asyncvmm ps`` finds them: a small file for each."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.runtime.folder.layout import is_folder
from asyncvmm.storage.bounded import read_bounded
from asyncvmm.storage.packs import write_durably

MAX_PATH_BYTES: Final = 8192
MAX_ENTRIES: Final = 10_000


class EntryError(ConfigError):
    """An entry of the index is damaged; the text names the file."""


def index_folder() -> Path:
    """``$ASYNCVMM_STATE``, else ``$XDG_STATE_HOME/asyncvmm``, else ``~/.local/state/asyncvmm``."""
    own = os.environ.get("ASYNCVMM_STATE")
    if own:
        return Path(own).absolute() / "vms"
    base = os.environ.get("XDG_STATE_HOME")
    root = Path(base).absolute() if base else Path.home() / ".local" / "state"
    return root / "asyncvmm" / "vms"


def _entry(root: Path) -> Path:
    return index_folder() / hashlib.sha256(os.fsencode(root)).hexdigest()[:32]


def remember(root: Path) -> None:
    """The machine at ``root``, an absolute path, is known from now on."""
    folder = index_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"{folder}: {error.strerror}: set ASYNCVMM_STATE to a folder that you can write to"
        ) from error
    write_durably(_entry(root), os.fsencode(root) + b"\n")


def forget(root: Path) -> None:
    """It is gone."""
    _entry(root).unlink(missing_ok=True)


def known() -> list[Path]:
    """All that are there still, by name; entries of those that are not are removed."""
    folder = index_folder()
    if not folder.is_dir():
        return []
    found = []
    for entry in sorted(folder.iterdir())[:MAX_ENTRIES]:
        try:
            root = read_entry(entry)
        except EntryError:
            root = None
        if root is not None and is_folder(root):
            found.append(root)
        else:
            entry.unlink(missing_ok=True)
    return sorted(found)


def read_entry(path: Path) -> Path:
    """The folder that an entry names; EntryError when it names none."""
    try:
        data = read_bounded(path, MAX_PATH_BYTES, EntryError)
    except OSError as error:
        raise EntryError(f"{path}: cannot be read: {error.strerror}") from error
    text = data.removesuffix(b"\n")
    if not text.startswith(b"/") or b"\0" in text or b"\n" in text:
        raise EntryError(f"{path}: does not name a folder")
    return Path(os.fsdecode(text))
