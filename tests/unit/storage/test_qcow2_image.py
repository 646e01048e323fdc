"""qcow2 images: backing files, formats, locks, failures of the host, and what is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.plugin import BlobSpec
from asyncvmm.runtime.blobs import open_file_blob
from asyncvmm.storage import (
    ImageError,
    OverlayBlob,
    Qcow2Image,
    check_image,
    commit_image,
    convert_image,
    create_image,
    image_info,
    open_image,
    opened,
    rebase_image,
)
from asyncvmm.storage.chain import MAX_CHAIN
from asyncvmm.storage.hostfile import HostFile

MIB = 1 << 20


def qcow2(path: Path, size: int = MIB, **options: object) -> Path:
    create_image(path, size, **options)  # type: ignore[arg-type]
    return path


def test_an_empty_image_is_small_and_reads_as_zeros(tmp_path: Path) -> None:
    path = qcow2(tmp_path / "a.qcow2", 1 << 40)
    assert image_info(path).allocated_bytes < MIB
    with opened(path) as image:
        assert image.size_bytes == 1 << 40
        assert image.pread((1 << 40) - 4096, 4096) == bytes(4096)
        image.pwrite((1 << 40) - 5, b"hello")
        assert image.pread((1 << 40) - 6, 6) == b"\0hello"
    report = check_image(path)
    assert (report.clean, report.allocated_clusters) == (True, 1)


def test_a_chain_shows_what_is_written_last(tmp_path: Path) -> None:
    (tmp_path / "base.img").write_bytes(b"b" * 4096)
    qcow2(tmp_path / "middle.qcow2", 8192, backing="base.img")
    qcow2(tmp_path / "top.qcow2", MIB, backing="middle.qcow2")
    with opened(tmp_path / "middle.qcow2") as image:
        image.pwrite(1000, b"m" * 1000)
    with opened(tmp_path / "top.qcow2") as image:
        image.pwrite(1500, b"t")
        assert image.pread(999, 3) == b"bmm"
        assert image.pread(1499, 3) == b"mtm"
        assert image.pread(4095, 2) == b"b\0"
        image.discard(0, MIB)
        assert image.pread(0, 8192) == bytes(8192)  # and not what is below
    assert (tmp_path / "base.img").read_bytes() == b"b" * 4096


def test_a_backing_file_is_shared_and_not_writable(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base.qcow2")
    tops = [qcow2(tmp_path / f"{n}.qcow2", backing=base) for n in range(2)]
    first, second = open_image(tops[0]), open_image(tops[1])
    with pytest.raises(ConfigError, match="another guest"):
        open_image(base)
    with pytest.raises(ConfigError, match="another guest"):
        open_image(tops[0], read_only=True)
    with pytest.raises(ConfigError, match="another guest"):
        check_image(tops[0])
    assert isinstance(first, Qcow2Image) and first.backing is not None
    with pytest.raises(BackendError, match="reading only"):
        first.backing.pwrite(0, b"x")
    first.close()
    second.close()


def test_loops_and_long_chains(tmp_path: Path) -> None:
    one, two = qcow2(tmp_path / "1.qcow2"), tmp_path / "2.qcow2"
    qcow2(two, backing="1.qcow2")
    rebase_image(one, "2.qcow2", unsafe=True)
    for read_only in (False, True):
        with pytest.raises(ImageError, match="its own backing file"):
            open_image(two, read_only=read_only)
    rebase_image(one, "1.qcow2", unsafe=True)
    with pytest.raises(ImageError, match="its own backing file"):
        open_image(one)
    rebase_image(one, None, unsafe=True)
    with pytest.raises(ImageError, match="its own backing file"):
        rebase_image(one, "2.qcow2")
    last = one
    for number in range(MAX_CHAIN + 1):
        path = tmp_path / f"long{number}.qcow2"
        qcow2(path, MIB)
        rebase_image(path, last.name, unsafe=True)
        last = path
    with pytest.raises(ImageError, match="more than 64 backing files"):
        open_image(last)


def test_the_format_is_never_guessed_from_contents(tmp_path: Path) -> None:
    secret = tmp_path / "secret.img"
    secret.write_bytes(b"secret! " * 64)
    evil = qcow2(tmp_path / "evil.qcow2", 512, backing=secret)
    disk = tmp_path / "disk.img"
    disk.write_bytes(evil.read_bytes().ljust(MIB, b"\0")[:MIB])  # as a guest could
    with pytest.raises(ImageError, match=r"disk\.img: begins like a qcow2 image.*format=raw"):
        open_image(disk)
    with opened(disk, "raw") as image:
        assert image.pread(0, 4) == b"QFI\xfb"
    with opened(disk, "qcow2") as image:
        assert image.pread(0, 6) == b"secret"
    with pytest.raises(ImageError, match=r"no magic"):
        open_image(secret, "qcow2")
    (tmp_path / "plain.qcow2").write_bytes(bytes(MIB))
    with pytest.raises(ImageError, match=r"plain\.qcow2: is not a qcow2 image"):
        open_image(tmp_path / "plain.qcow2")


def test_a_backing_file_whose_format_is_not_said(tmp_path: Path) -> None:
    base = qcow2(tmp_path / "base.img", format="qcow2")
    top = qcow2(tmp_path / "top.qcow2", backing="base.img", backing_format="qcow2")
    data = top.read_bytes()
    at = data.index(struct.pack(">I", 0xE2792ACA))
    top.write_bytes(data[:at] + struct.pack(">I", 0x11111111) + data[at + 4 :])
    with pytest.raises(ImageError, match=r"does not say what format.*base\.img"):
        open_image(top)
    rebase_image(top, "base.img", backing_format="qcow2", unsafe=True)
    with opened(top) as image:
        assert isinstance(image, Qcow2Image) and image.backing is not None
    assert base.exists()


@pytest.mark.parametrize("name", ["nbd:localhost", "json:{}", "http://x/y", "file:base.img"])
def test_backing_files_are_files(tmp_path: Path, name: str) -> None:
    path = qcow2(tmp_path / "a.qcow2")
    rebase_image(path, name, backing_format="raw", unsafe=True)
    with pytest.raises(ImageError, match="only files are supported"):
        open_image(path)


def test_backing_files_are_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = qcow2(tmp_path / "a.qcow2")
    for name in ("pipe", "/dev/zero", ".", "nowhere.img"):
        rebase_image(path, name, backing_format="raw", unsafe=True)
        with pytest.raises(ImageError, match="not a file|No such file"):  # noqa: RUF043
            open_image(path)


def test_versions_and_marks_of_others(tmp_path: Path) -> None:
    path = qcow2(tmp_path / "a.qcow2")
    with path.open("r+b") as file:
        file.seek(72)
        file.write(struct.pack(">Q", 2))
    assert image_info(path).incompatible == ["corrupt bit"]
    with pytest.raises(ImageError, match="corrupt bit is set"):
        open_image(path)
    open_image(path, read_only=True).close()
    assert check_image(path, repair="all").clean
    with path.open("r+b") as file:
        file.seek(88)
        file.write(struct.pack(">Q", 1 << 7))
    with opened(path) as image:
        image.pwrite(0, b"x")
    assert image_info(path).autoclear == []


def test_a_failed_sync_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = open_image(qcow2(tmp_path / "a.qcow2"))
    image.pwrite(0, b"x" * 512)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(BackendError, match=r"a\.qcow2: flush: Input/output error"):
        image.flush()
    monkeypatch.undo()
    for action in (image.flush, image.close):
        with pytest.raises(BackendError, match="unusable since an earlier flush"):
            action()
    assert check_image(tmp_path / "a.qcow2").errors == 0


def test_a_full_host_fails_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = open_image(qcow2(tmp_path / "a.qcow2"))
    real = HostFile.write

    def full(self: HostFile, offset: int, data: bytes) -> None:
        raise BackendError(f"disk image {self.path}: write: No space left on device")

    monkeypatch.setattr(HostFile, "write", full)
    with pytest.raises(BackendError, match="No space"):
        image.pwrite(0, b"x" * 512)
    monkeypatch.setattr(HostFile, "write", real)
    image.pwrite(4096, b"y" * 512)
    assert image.pread(0, 512) == bytes(512)
    image.close()
    assert check_image(tmp_path / "a.qcow2").clean


def test_a_new_image_replaces_nothing_by_itself(tmp_path: Path) -> None:
    path = qcow2(tmp_path / "a.qcow2")
    with pytest.raises(ImageError, match="exists already"):
        create_image(path, MIB)
    held = open_image(path)
    with pytest.raises(ImageError, match="another guest"):
        create_image(path, MIB, force=True)
    held.close()
    create_image(path, 2 * MIB, force=True)
    assert image_info(path).size_bytes == 2 * MIB
    for size in (0, 511, -512):
        with pytest.raises(ImageError, match="sectors"):
            create_image(tmp_path / "b.qcow2", size)
    with pytest.raises(ImageError, match="cluster size"):
        create_image(tmp_path / "b.qcow2", MIB, cluster_bytes=1000)
    with pytest.raises(ImageError, match="No such file"):
        create_image(tmp_path / "b.qcow2", backing="nowhere.img")
    assert [each.name for each in tmp_path.iterdir()] == ["a.qcow2"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.img"
    path.write_bytes(b"x" * (8 * MIB))

    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_image(path, tmp_path / "b.qcow2", progress=interrupt)
    assert [each.name for each in tmp_path.iterdir()] == ["a.img"]


def test_an_interrupted_commit_can_be_done_again(tmp_path: Path) -> None:
    base = tmp_path / "base.img"
    base.write_bytes(bytes(8 * MIB))
    top = qcow2(tmp_path / "top.qcow2", 8 * MIB, backing="base.img")
    with opened(top) as image:
        image.pwrite(0, b"t" * (8 * MIB))

    def interrupt(done: int, total: int) -> None:
        if done > 2 * MIB:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit_image(top, progress=interrupt)
    with opened(top, read_only=True) as image:
        assert image.pread(0, 8 * MIB) == b"t" * (8 * MIB)
    commit_image(top)
    assert base.read_bytes() == b"t" * (8 * MIB)
    assert check_image(top).allocated_clusters == 0
    assert top.stat().st_blocks * 512 < MIB  # its storage went back to the host


def test_disks_of_guests(tmp_path: Path) -> None:
    path = qcow2(tmp_path / "a.qcow2")
    before = path.read_bytes()
    first, second = (open_file_blob(BlobSpec(path, snapshot=True)) for _ in range(2))
    assert isinstance(first, OverlayBlob)
    first.pwrite(5, b"x")
    assert (first.pread(5, 1), second.pread(5, 1)) == (b"x", b"\0")
    with pytest.raises(ConfigError, match="another guest"):
        open_file_blob(BlobSpec(path))
    first.close()
    second.close()
    assert path.read_bytes() == before
    kept = open_file_blob(BlobSpec(path))
    kept.pwrite(5, b"x")
    kept.close()
    read = open_file_blob(BlobSpec(path, read_only=True))
    assert (read.pread(5, 1), read.read_only) == (b"x", True)
    read.close()
