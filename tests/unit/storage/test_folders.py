"""A folder of the host, captured: order, digest, and that nothing else is ever read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import FILE, FOLDER, LINK
from asyncvmm.storage import folders
from asyncvmm.storage.folders import PIECE_BYTES, HostFolder

LIMIT = 1 << 30


def make(root: Path) -> Path:
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "b").write_bytes(b"bee")
    (root / "a").write_bytes(os.urandom(16) * (PIECE_BYTES // 16) + b"rest")
    (root / "sub" / "run").write_text("#!/bin/sh\n")
    (root / "sub" / "run").chmod(0o700)
    (root / "link").symlink_to("/etc/passwd")
    return root


def number(folder: HostFolder, *names: bytes) -> int:
    found = 0
    for name in names:
        found = folder.child(found, name)
        assert found > 0
    return found


def test_entries_are_sorted_and_complete(tmp_path: Path) -> None:
    folder = HostFolder(make(tmp_path), LIMIT)
    names = [(entry.name, entry.kind) for entry in folder.entries]
    assert names == [
        (b"", FOLDER), (b"a", FILE), (b"b", FILE), (b"link", LINK), (b"sub", FOLDER),
        (b"deep", FOLDER), (b"run", FILE),
    ]  # fmt: skip
    assert folder.entries[number(folder, b"sub", b"run")].executable
    assert folder.entries[number(folder, b"link")].target == b"/etc/passwd"
    assert folder.child(0, b"c") == -1 and folder.child(0, b"zz") == -1
    data = (tmp_path / "a").read_bytes()
    assert folder.pread(1, PIECE_BYTES - 3, 7) == data[-7:]
    assert folder.pread(1, 0, 1 << 30) == data
    folder.close()


def test_equal_folders_have_equal_digests(tmp_path: Path) -> None:
    one = make(tmp_path / "one")
    other = make(tmp_path / "two")
    (other / "a").write_bytes((one / "a").read_bytes())
    os.utime(other / "b", (1, 1))
    first, second = HostFolder(one, LIMIT), HostFolder(other, LIMIT)
    assert first.digest == second.digest
    (other / "b").write_bytes(b"bEe")
    third = HostFolder(other, LIMIT)
    assert third.digest != first.digest
    for folder in (first, second, third):
        folder.close()


def test_what_has_changed_cannot_be_read(tmp_path: Path) -> None:
    folder = HostFolder(make(tmp_path), LIMIT)
    (tmp_path / "b").write_bytes(b"BEE")
    with pytest.raises(BackendError, match="changed since"):
        folder.pread(2, 0, 3)
    (tmp_path / "sub" / "run").unlink()
    with pytest.raises(BackendError, match="No such file"):
        folder.pread(number(folder, b"sub", b"run"), 0, 3)
    folder.close()


def test_links_put_there_later_lead_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "run").write_text("#!/bin/sh\n")
    (secret / "b").write_bytes(b"bee")
    folder = HostFolder(make(tmp_path / "share"), LIMIT)
    # Even where the contents would be the same.
    (tmp_path / "share" / "b").unlink()
    (tmp_path / "share" / "b").symlink_to(secret / "b")
    with pytest.raises(BackendError, match="symbolic links"):
        folder.pread(2, 0, 3)
    (tmp_path / "share" / "sub").rename(tmp_path / "share" / "old")
    (tmp_path / "share" / "sub").symlink_to(secret)
    with pytest.raises(BackendError):
        folder.pread(number(folder, b"sub", b"run"), 0, 3)
    folder.close()


def test_a_pipe_in_the_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    (tmp_path / "pipe").parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    folder = HostFolder(tmp_path, LIMIT)
    assert folder.left_out == ["pipe"]
    (tmp_path / "file").unlink()
    os.mkfifo(tmp_path / "file")
    with pytest.raises(BackendError):
        folder.pread(1, 0, 1)
    folder.close()


def test_what_cannot_be_shared_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"none.*No such file"):
        HostFolder(tmp_path / "none", LIMIT)
    make(tmp_path / "share")
    with pytest.raises(ConfigError, match="more than 100 bytes"):
        HostFolder(tmp_path / "share", 100)
    monkeypatch.setattr(folders, "MAX_ENTRIES", 3)
    with pytest.raises(ConfigError, match="more than 3 files"):
        HostFolder(tmp_path / "share", LIMIT)
    monkeypatch.undo()
    monkeypatch.setattr(folders, "MAX_DEPTH", 1)
    with pytest.raises(ConfigError, match="folders deep"):
        HostFolder(tmp_path / "share", LIMIT)


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    make(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    folder = HostFolder(tmp_path, LIMIT)
    folder.pread(1, 0, 10)
    folder.close()
    with pytest.raises(ConfigError):
        HostFolder(tmp_path, 10)
    assert len(os.listdir("/proc/self/fd")) == before
