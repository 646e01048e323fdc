"""The folder's lock: one user, named to others, gone with its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asyncvmm.runtime.folder.lock import (
    FolderBusyError,
    FolderLock,
    LockFileError,
    holder_of,
    read_holder,
    this_process,
)

HOLD = """
import sys, time
from pathlib import Path
from asyncvmm.runtime.folder.lock import FolderLock, this_process
lock = FolderLock(Path(sys.argv[1]), this_process(["asyncvmm", "start", "web.vm"], serves=True))
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_one_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FolderLock(path, this_process(["asyncvmm", "run", "a b.vm"])):
        with pytest.raises(FolderBusyError) as caught:
            FolderLock(path)
        assert f"pid {os.getpid()}" in str(caught.value) and "'a b.vm'" in str(caught.value)
        assert caught.value.holder.pid == os.getpid()
    assert holder_of(path) is None
    FolderLock(path).release()


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    holder = holder_of(path)
    assert holder is not None and holder.pid == process.pid and holder.serves
    assert "asyncvmm start web.vm" in holder.describe()
    with pytest.raises(FolderBusyError, match="asyncvmm stop"):
        FolderLock(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read_holder(path).pid == process.pid  # what it says stays, and does not count
    assert holder_of(path) is None
    with FolderLock(path):
        assert read_holder(path).pid == os.getpid()


def test_a_damaged_lock_file_still_locks(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with FolderLock(path):
        path.write_bytes(b"\0\xff")
        with pytest.raises(FolderBusyError, match="a process that its lock file does not name"):
            FolderLock(path)


@given(data=st.binary(max_size=300))
@example(data=b"[" * 100_000)
@example(data=b'{"pid": 1, "host": "", "command": "", "since_s": NaN, "serves": true}')
def test_any_lock_file_is_read_or_refused(
    data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed-lock"
    path.write_bytes(data)
    with pytest.raises(LockFileError, match="fuzzed-lock"):
        read_holder(path)
