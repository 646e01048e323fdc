"""qcow2 against qemu-img, in both directions: check, contents, map, commit, rebase, resize."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncvmm.api import disks
from asyncvmm.storage import check_image, create_image, image_info, map_image, opened

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed"),
]

Make = Callable[..., None]


def qemu_img(*words: str | Path | int, status: int = 0) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done.stdout


def ours(path: Path, size: int, base: Path | None, form: str, cluster: int, bits: int) -> None:
    create_image(
        path,
        size,
        backing=base,
        backing_format=None if base is None else form,
        cluster_bytes=cluster,
        refcount_bits=bits,
    )


def theirs(path: Path, size: int, base: Path | None, form: str, cluster: int, bits: int) -> None:
    backing = [] if base is None else ["-b", str(base), "-F", form]
    options = f"cluster_size={cluster},refcount_bits={bits}"
    qemu_img("create", "-q", "-f", "qcow2", "-o", options, *backing, path, size)


def scribble(path: Path, form: str, rng: random.Random, model: bytearray, steps: int) -> None:
    """Random requests with our own code; ``model`` is what the disk shows."""
    size = len(model)
    with opened(path, form) as image:
        for _ in range(steps):
            offset = rng.randrange(size)
            length = min(size - offset, rng.choice([512, 4096, rng.randrange(1, 200000)]))
            end = offset + length
            kind = rng.randrange(8)
            if kind < 4:
                data = rng.randbytes(length)
                image.pwrite(offset, data)
                model[offset:end] = data
            elif kind == 4:
                image.write_zeroes(offset, length, rng.random() < 0.5)
                model[offset:end] = bytes(length)
            elif kind == 5 and form == "qcow2":
                image.discard(offset, length)
                after = image.pread(offset, length)
                assert all(b in (0, a) for a, b in zip(model[offset:end], after, strict=True))
                model[offset:end] = after
            elif kind == 6:
                image.flush()
            else:
                assert image.pread(offset, length) == model[offset:end]


def scribble_with_qemu(path: Path, rng: random.Random, model: bytearray) -> None:
    """Random writes by qemu-io, where that is installed."""
    commands: list[str] = []
    for _ in range(30):
        offset = rng.randrange(len(model) // 512) * 512
        length = min(len(model) - offset, rng.randrange(1, 64) * 512)
        byte = rng.randrange(1, 256)
        if rng.random() < 0.7:
            commands += ["-c", f"write -q -P {byte} {offset} {length}"]
            model[offset : offset + length] = bytes([byte]) * length
        else:
            commands += ["-c", f"write -q -z -u {offset} {length}"]
            model[offset : offset + length] = bytes(length)
    done = subprocess.run(["qemu-io", "-f", "qcow2", *commands, str(path)], capture_output=True)
    assert done.returncode == 0 and not done.stdout, done


def assert_same(path: Path, model: bytearray, tmp_path: Path) -> None:
    """Both programs find the image clean, read the same and say that the same is where."""
    qemu_img("check", "-q", path)
    report = check_image(path)
    assert report.clean, report.findings
    said = json.loads(qemu_img("check", "--output=json", path))
    assert said["total-clusters"] == report.total_clusters
    assert said.get("allocated-clusters", 0) == report.allocated_clusters
    raw = tmp_path / "contents.raw"
    qemu_img("convert", "-O", "raw", path, raw)
    assert raw.read_bytes() == model
    with opened(path, read_only=True) as image:
        assert image.pread(0, image.size_bytes) == model
        keys = ("start", "length", "depth", "present", "zero", "data")
        mine = [
            {**{key: getattr(entry, key) for key in keys}, "offset": entry.offset}
            for entry in map_image(image)
        ]
    other = json.loads(qemu_img("map", "--output=json", path))
    assert mine == [{**{key: e[key] for key in keys}, "offset": e.get("offset")} for e in other]


@pytest.mark.parametrize("make", [ours, theirs])
@pytest.mark.parametrize("base_format", [None, "raw", "qcow2"])
@pytest.mark.parametrize("seed", range(4))
def test_generated_images(tmp_path: Path, make: Make, base_format: str | None, seed: int) -> None:
    rng = random.Random(f"{make.__name__} {base_format} {seed}")
    cluster = rng.choice([512, 4096, 65536, 65536, 2 << 20])
    bits = rng.choice([1, 2, 4, 8, 16, 32, 64])
    size = rng.randrange(1, 6000 if cluster < 65536 else 40000) * 512
    model = bytearray(size)
    base = None
    if base_format is not None:
        below = bytearray(rng.randrange(1, 6000) * 512)
        base = tmp_path / f"base.{base_format}"
        qemu_img("create", "-q", "-f", base_format, base, len(below))
        scribble(base, base_format, rng, below, 15)
        model[: len(below)] = below[:size]
    path = tmp_path / "disk.qcow2"
    make(path, size, base, base_format or "raw", cluster, bits)
    for _ in range(3):
        scribble(path, "qcow2", rng, model, rng.randrange(60))
        if shutil.which("qemu-io"):
            scribble_with_qemu(path, rng, model)
    assert_same(path, model, tmp_path)


def overlay(tmp_path: Path, seed: int, base_format: str) -> tuple[Path, Path, bytearray]:
    rng = random.Random(seed)
    base, top = tmp_path / f"base.{base_format}", tmp_path / "top.qcow2"
    below = bytearray(300 * 4096)
    create_image(base, len(below), format=base_format)
    scribble(base, base_format, rng, below, 20)
    model = below + bytearray(100 * 4096)
    create_image(top, len(model), backing=base.name, cluster_bytes=4096)
    scribble(top, "qcow2", rng, model, 40)
    return base, top, model


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_commit_gives_what_qemu_commits(tmp_path: Path, base_format: str) -> None:
    base, top, model = overlay(tmp_path, 1, base_format)
    other = tmp_path / "other"
    other.mkdir()
    for each in (base, top):
        shutil.copy(each, other)
    disks.commit_image(top)
    qemu_img("commit", "-q", "-f", "qcow2", other / top.name)
    qemu_img("compare", "-q", "-f", base_format, "-F", base_format, base, other / base.name)
    qemu_img("compare", "-q", top, base)
    assert_same(top, model, tmp_path)
    with opened(top, read_only=True) as image:
        assert all(entry.depth or not entry.present for entry in map_image(image))


@pytest.mark.parametrize("target", ["new.raw", "new.qcow2", None])
def test_rebase_keeps_what_is_shown(tmp_path: Path, target: str | None) -> None:
    _, top, model = overlay(tmp_path, 2, "qcow2")
    if target is not None:
        other = bytearray(250 * 4096)
        create_image(tmp_path / target, len(other))
        scribble(tmp_path / target, target.rsplit(".")[-1], random.Random(3), other, 10)
    disks.rebase_image(top, target)
    assert image_info(top).backing_file == target
    assert_same(top, model, tmp_path)


def test_resize_with_a_longer_backing_file(tmp_path: Path) -> None:
    base, top = tmp_path / "base.img", tmp_path / "top.qcow2"
    base.write_bytes(random.Random(1).randbytes(64 * 4096))
    create_image(top, 10 * 4096 + 512, backing=base, cluster_bytes=4096)
    model = bytearray(base.read_bytes()[: 10 * 4096 + 512])
    with opened(top) as image:
        disks.resize_image(image, 4 << 20)
    model += bytes((4 << 20) - len(model))
    assert_same(top, model, tmp_path)
    with opened(top) as image:
        with pytest.raises(disks.ImageError, match="is lost with --shrink"):
            disks.resize_image(image, 4096)
        disks.resize_image(image, 1 << 20)
        disks.resize_image(image, 512, shrink=True)
        disks.resize_image(image, 8192)
    assert_same(top, model[:512] + bytearray(8192 - 512), tmp_path)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_convert_is_sparse_and_the_same(tmp_path: Path, form: str) -> None:
    _, top, _ = overlay(tmp_path, 4, "raw")
    target = tmp_path / f"target.{form}"
    disks.convert_image(top, target)
    qemu_img("compare", "-q", "-f", "qcow2", "-F", form, top, target)
    assert disks.compare_images(top, target).equal
    assert image_info(target).allocated_bytes <= image_info(top).size_bytes
    if form == "qcow2":
        qemu_img("check", "-q", target)


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
def test_compressed_clusters(tmp_path: Path, kind: str) -> None:
    if kind == "zstd":
        pytest.importorskip("zstandard")
    rng = random.Random(1)
    plain = tmp_path / "plain.img"
    plain.write_bytes(b"".join(rng.randbytes(256) * 32 for _ in range(400)))
    path = tmp_path / "packed.qcow2"
    qemu_img("convert", "-c", "-O", "qcow2", "-o", f"compression_type={kind}", plain, path)
    model = bytearray(plain.read_bytes())
    assert check_image(path).compressed_clusters > 10
    scribble(path, "qcow2", rng, model, 25)
    assert_same_compressed(path, model)


def assert_same_compressed(path: Path, model: bytearray) -> None:
    qemu_img("check", "-q", path)
    assert check_image(path).clean
    with opened(path, read_only=True) as image:
        assert image.pread(0, image.size_bytes) == model


def test_internal_snapshots_stay_as_they_are(tmp_path: Path) -> None:
    path, raw = tmp_path / "disk.qcow2", tmp_path / "before.raw"
    rng, model = random.Random(7), bytearray(2 << 20)
    theirs(path, len(model), None, "", 4096, 16)
    scribble(path, "qcow2", rng, model, 30)
    before = bytes(model)
    qemu_img("snapshot", "-c", "one", path)
    scribble(path, "qcow2", rng, model, 60)
    assert [each.name for each in image_info(path).snapshots] == ["one"]
    assert_same(path, model, tmp_path)
    qemu_img("convert", "-O", "raw", "-l", "snapshot.name=one", path, raw)
    assert raw.read_bytes() == before
    qemu_img("snapshot", "-a", "one", path)
    assert_same(path, bytearray(before), tmp_path)


def test_an_image_with_lazy_refcounts_that_was_not_closed(tmp_path: Path) -> None:
    path, model = tmp_path / "disk.qcow2", bytearray(1 << 20)
    create_image(path, len(model), lazy_refcounts=True)
    scribble(path, "qcow2", random.Random(1), model, 20)
    lose_refcounts(path)
    qemu_img("check", "-q", path, status=2)
    assert check_image(path).errors
    with opened(path, read_only=True) as image:
        assert image.pread(0, len(model)) == model
    with opened(path):
        pass
    assert_same(path, model, tmp_path)


def lose_refcounts(path: Path) -> None:
    """As if a program had been killed that put off writing refcounts: only the dirty bit tells."""
    data = bytearray(path.read_bytes())
    data[79] |= 1
    table = int.from_bytes(data[48:56], "big")
    block = int.from_bytes(data[table : table + 8], "big")
    data[block + 8 : block + 65536] = bytes(65536 - 8)
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(6))
def test_repair_leaves_nothing_for_qemu_to_find(tmp_path: Path, seed: int) -> None:
    rng, path = random.Random(seed), tmp_path / "disk.qcow2"
    model = bytearray(1 << 20)
    create_image(path, len(model), cluster_bytes=4096)
    scribble(path, "qcow2", rng, model, 40)
    data = bytearray(path.read_bytes())
    for table in (40, 48):  # L1 and refcounts: tables and what they point at
        at = int.from_bytes(data[table : table + 8], "big")
        below = int.from_bytes(data[at : at + 8], "big") & 0x00FFFFFFFFFFFE00
        for _ in range(3):
            data[below + rng.randrange(4096)] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    check_image(path, repair="all")
    assert check_image(path).clean
    qemu_img("check", "-q", path)
