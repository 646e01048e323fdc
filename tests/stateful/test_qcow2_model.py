"""A qcow2 image and a throw-away overlay against a bytearray, through flushes, kills and reopening."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from asyncvmm.device import Blob
from asyncvmm.storage import (
    OverlayBlob,
    Qcow2Image,
    check_image,
    commit_image,
    create_image,
    open_image,
    rebase_image,
    resize_image,
)

MOST = 40 * 4096


class Lent(Blob):
    """A disk that is only lent: closing this does not close it."""

    def __init__(self, disk: Blob) -> None:
        super().__init__(disk.size_bytes, True)
        self.disk = disk

    def pread(self, offset: int, length: int) -> bytes:
        return self.disk.pread(offset, length)


class DiskMachine(RuleBasedStateMachine):
    """``model`` is what the disk shows, ``flushed`` what it showed at the last flush."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="asyncvmm-test-"))
        self.path = self.directory / "disk.qcow2"

    @initialize(
        sectors=st.integers(1, MOST // 512),
        cluster=st.sampled_from([512, 1024, 4096, 65536]),
        bits=st.sampled_from([1, 8, 16, 64]),
        base=st.sampled_from([None, "raw", "qcow2"]),
        base_sectors=st.integers(1, MOST // 512),
    )
    def create(
        self, sectors: int, cluster: int, bits: int, base: str | None, base_sectors: int
    ) -> None:
        self.model = bytearray(sectors * 512)
        below = None
        if base is not None:
            below = f"base.{base}"
            create_image(self.directory / below, base_sectors * 512, format=base)
            disk = open_image(self.directory / below, base)
            disk.pwrite(0, (bytes(range(1, 256)) * (MOST // 255 + 1))[: base_sectors * 512])
            data = disk.pread(0, min(disk.size_bytes, len(self.model)))
            self.model[: len(data)] = data
            disk.close()
        create_image(
            self.path, len(self.model), backing=below, cluster_bytes=cluster, refcount_bits=bits
        )
        self.disk = self.open()
        self.flushed = bytes(self.model)

    def open(self) -> Qcow2Image:
        disk = open_image(self.path)
        assert isinstance(disk, Qcow2Image)
        return disk

    def part(self, at: float, length: int) -> tuple[int, int]:
        offset = min(len(self.model) - 1, int(at * len(self.model)))
        return offset, min(length, len(self.model) - offset)

    places = st.floats(0, 1, exclude_max=True)
    lengths = st.one_of(st.sampled_from([1, 512, 4096, 65536]), st.integers(1, 70000))

    @rule(at=places, length=lengths, byte=st.integers(1, 255))
    def write(self, at: float, length: int, byte: int) -> None:
        offset, length = self.part(at, length)
        self.disk.pwrite(offset, bytes([byte]) * length)
        self.model[offset : offset + length] = bytes([byte]) * length

    @rule(at=places, length=lengths, unmap=st.booleans())
    def zero(self, at: float, length: int, unmap: bool) -> None:
        offset, length = self.part(at, length)
        self.disk.write_zeroes(offset, length, unmap)
        self.model[offset : offset + length] = bytes(length)

    @rule(at=places, length=lengths)
    def discard(self, at: float, length: int) -> None:
        offset, length = self.part(at, length)
        self.disk.discard(offset, length)
        after = self.disk.pread(offset, length)
        before = self.model[offset : offset + length]
        assert all(new in (0, old) for old, new in zip(before, after, strict=True))
        self.model[offset : offset + length] = after

    @rule()
    def flush(self) -> None:
        self.disk.flush()
        self.flushed = bytes(self.model)

    @rule()
    def close_and_open(self) -> None:
        self.disk.close()
        report = check_image(self.path)
        assert report.clean, report.findings
        self.disk = self.open()
        self.flushed = bytes(self.model)

    @rule()
    def kill_and_open(self) -> None:
        """Clusters that were overwritten in place may be old or new; tables are those of the flush."""
        self.disk.abandon()
        report = check_image(self.path)
        assert not report.errors, report.findings
        self.disk = self.open()
        after = self.disk.pread(0, len(self.flushed)) if self.disk.size_bytes else b""
        for old, new, now in zip(self.flushed, self.model, after, strict=False):
            assert now in (old, new) or now == 0
        self.model[:] = self.disk.pread(0, self.disk.size_bytes)
        self.flushed = bytes(self.model)

    @rule(sectors=st.integers(1, 2 * MOST // 512))
    def resize(self, sectors: int) -> None:
        size = sectors * 512
        resize_image(self.disk, size, shrink=True)
        self.model = self.model[:size] + bytearray(max(0, size - len(self.model)))
        self.flushed = bytes(self.model)

    @rule(commit=st.booleans())
    def commit_or_rebase(self, commit: bool) -> None:
        self.disk.close()
        header = self.disk.header
        if header.backing_file is not None:
            if commit:
                commit_image(self.path)
            else:
                rebase_image(self.path, None)
        self.disk = self.open()
        self.flushed = bytes(self.model)

    @rule(at=places, length=lengths, byte=st.integers(1, 255))
    def overlay(self, at: float, length: int, byte: int) -> None:
        """What is written over it is not written to it, and a fork goes its own way."""
        self.disk.flush()
        self.flushed = bytes(self.model)
        over = OverlayBlob(Lent(self.disk))
        offset, length = self.part(at, length)
        shown = bytearray(self.model)
        over.pwrite(offset, bytes([byte]) * length)
        shown[offset : offset + length] = bytes([byte]) * length
        fork = over.fork()
        over.write_zeroes(offset // 2, length)
        assert fork.pread(0, len(shown)) == shown
        shown[offset // 2 : offset // 2 + length] = bytes(length)
        assert over.pread(0, len(shown)) == shown
        fork.pwrite(0, b"\x01")
        assert over.pread(0, 1) == shown[:1]
        over.close()
        fork.close()

    @invariant()
    def shows_the_model(self) -> None:
        if hasattr(self, "disk"):
            assert self.disk.pread(0, self.disk.size_bytes) == self.model

    def teardown(self) -> None:
        if hasattr(self, "disk"):
            self.disk.close()
        shutil.rmtree(self.directory)


TestDiskMachine = DiskMachine.TestCase
TestDiskMachine.settings = settings(max_examples=60, stateful_step_count=25)
