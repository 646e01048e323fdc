"""Hostile disk images: typed errors that name the file, nothing unbounded, never another exception."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.storage import (
    ImageError,
    check_image,
    create_image,
    image_info,
    map_image,
    open_image,
    opened,
    rebase_image,
    resize_image,
)
from asyncvmm.storage.layout import COMPRESSED, COPIED, FEATURE_NAMES

SIZE = 48 * 4096
SNAPSHOTS_AT = 60

# Header fields: offset and struct code.
FIELDS = {
    "version": (4, ">I"),
    "backing_file_offset": (8, ">Q"),
    "backing_file_size": (16, ">I"),
    "cluster_bits": (20, ">I"),
    "size": (24, ">Q"),
    "crypt_method": (32, ">I"),
    "l1_size": (36, ">I"),
    "l1_table_offset": (40, ">Q"),
    "refcount_table_offset": (48, ">Q"),
    "refcount_table_clusters": (56, ">I"),
    "nb_snapshots": (60, ">I"),
    "snapshots_offset": (64, ">Q"),
    "incompatible_features": (72, ">Q"),
    "autoclear_features": (88, ">Q"),
    "refcount_order": (96, ">I"),
    "header_length": (100, ">I"),
    "compression_type": (104, ">B"),
    "first_extension": (112, ">I"),
    "first_extension_bytes": (116, ">I"),
}


def seed_image(directory: Path, cluster: int) -> bytes:
    """A good image with data, zeros, a backing file and a compressed-looking neighbour."""
    base = directory / "base.img"
    if not base.exists():
        base.write_bytes(bytes(range(256)) * (SIZE // 512))
    path = directory / f"seed{cluster}.qcow2"
    create_image(path, SIZE, backing="base.img", cluster_bytes=cluster, force=True)
    with opened(path) as image:
        for at in range(0, SIZE, 7 * 4096):
            image.pwrite(at, b"\x5a" * 5000)
        image.write_zeroes(12 * 4096, 3 * 4096)
    return path.read_bytes()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, bytes]]:
    directory = tmp_path_factory.mktemp("hostile")
    return directory, {cluster: seed_image(directory, cluster) for cluster in (512, 4096, 65536)}


def use(path: Path, image: bytes) -> Iterator[Callable[[], object]]:
    """Everything that is done with images, each on its own."""

    def read() -> None:
        with opened(path, read_only=True) as disk:
            for at in (0, 4096, disk.size_bytes // 2 // 512 * 512, disk.size_bytes - 512):
                if 0 <= at <= disk.size_bytes - 512:
                    disk.pread(at, min(20000, disk.size_bytes - at))

    def walk() -> None:
        with opened(path, read_only=True) as disk:
            for number, _ in enumerate(map_image(disk)):
                if number > 20000:
                    break

    def write() -> None:
        with opened(path) as disk:
            size = disk.size_bytes
            for at in (0, 5000, size // 2, size - 700):
                if at >= 0:
                    disk.pwrite(at, b"w" * min(700, max(0, size - at)))
            disk.write_zeroes(0, min(size, 9000))
            disk.discard(0, min(size, 50000))
            disk.flush()

    def resize() -> None:
        with opened(path) as disk:
            if disk.size_bytes < 1 << 30:
                resize_image(disk, disk.size_bytes + (1 << 20))

    for action in (
        read,
        walk,
        lambda: image_info(path),
        lambda: check_image(path),
        write,
        resize,
        lambda: rebase_image(path, "base.img", unsafe=True),
        lambda: check_image(path, repair="all"),
    ):
        path.write_bytes(image)
        yield action


def survive(path: Path, image: bytes) -> None:
    """Each use works or fails with an error of the right kind that names a file."""
    for action in use(path, image):
        try:
            action()
        except (ConfigError, BackendError) as error:
            assert str(path.parent) in str(error), error
        assert path.stat().st_size <= len(image) + (64 << 20)


CASES = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@CASES
@given(
    cluster=st.sampled_from([512, 4096]),
    flips=st.lists(st.tuples(st.integers(0, 20000), st.integers(1, 255)), min_size=1, max_size=8),
)
def test_flipped_bytes(
    seeds: tuple[Path, dict[int, bytes]], cluster: int, flips: list[tuple[int, int]]
) -> None:
    directory, images = seeds
    image = bytearray(images[cluster])
    for at, mask in flips:
        image[at % min(len(image), 8 * cluster)] ^= mask
    survive(directory / "case.qcow2", bytes(image))


big = st.one_of(
    st.sampled_from([0, 1, 2, 3, 8, 9, 21, 22, 63, 104, 112, 511, 512, 4096, 1 << 20, 1 << 31]),
    st.sampled_from([1 << 32, 1 << 40, 1 << 56, 1 << 62, 1 << 63, (1 << 64) - 512, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 64).map(lambda n: n * 512),
)


@CASES
@given(
    cluster=st.sampled_from([512, 4096, 65536]),
    lies=st.dictionaries(st.sampled_from(sorted(FIELDS)), big, min_size=1, max_size=3),
)
def test_lies_in_the_header(
    seeds: tuple[Path, dict[int, bytes]], cluster: int, lies: dict[str, int]
) -> None:
    directory, images = seeds
    image = bytearray(images[cluster])
    for name, value in lies.items():
        at, code = FIELDS[name]
        bits = 8 * struct.calcsize(code)
        struct.pack_into(code, image, at, value & ((1 << bits) - 1))
    survive(directory / "case.qcow2", bytes(image))


words = st.one_of(
    big,
    st.integers(0, 200).map(lambda n: n * 512),
    st.integers(0, 200).map(lambda n: n * 512 | COPIED),
    st.integers(0, (1 << 62) - 1).map(lambda n: n | COMPRESSED),
    st.integers(0, 50000).map(lambda n: n | COMPRESSED),
)


@CASES
@given(
    cluster=st.sampled_from([512, 4096]),
    lies=st.lists(
        st.tuples(st.sampled_from(["l1", "l2", "table", "block"]), st.integers(0, 511), words),
        min_size=1,
        max_size=6,
    ),
)
def test_lies_in_the_tables(
    seeds: tuple[Path, dict[int, bytes]], cluster: int, lies: list[tuple[str, int, int]]
) -> None:
    directory, images = seeds
    image = bytearray(images[cluster])
    (l1, table) = struct.unpack_from(">QQ", image, 40)
    (l2,) = struct.unpack_from(">Q", image, l1)
    (block,) = struct.unpack_from(">Q", image, table)
    entries = int.from_bytes(image[36:40], "big")
    places = {"l1": l1, "l2": l2 & 0x00FFFFFFFFFFFE00, "table": table, "block": block}
    for where, index, word in lies:
        count = entries if where == "l1" else cluster // 8
        struct.pack_into(">Q", image, places[where] + index % count * 8, word)
    survive(directory / "case.qcow2", bytes(image))


@pytest.mark.parametrize("length", [0, 3, 4, 30, 71, 72, 103, 104, 111, 112, 511, 512, 4096, 9000])
def test_truncated(seeds: tuple[Path, dict[int, bytes]], length: int) -> None:
    directory, images = seeds
    survive(directory / "case.qcow2", images[4096][:length])
    with pytest.raises(ImageError, match=r"case\.qcow2"):
        (directory / "case.qcow2").write_bytes(images[4096][:length])
        open_image(directory / "case.qcow2")


@pytest.mark.parametrize("bit", [2, 4, 5, 40, 63])
def test_unknown_features_are_refused_by_name(
    seeds: tuple[Path, dict[int, bytes]], bit: int
) -> None:
    directory, images = seeds
    image = bytearray(images[4096])
    struct.pack_into(">Q", image, 72, 1 << bit)
    path = directory / "case.qcow2"
    path.write_bytes(image)
    with pytest.raises(ImageError, match=FEATURE_NAMES.get((0, bit), f"bit {bit}")):
        open_image(path, read_only=True)


def test_a_feature_that_the_image_itself_names(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    create_image(path, 1 << 20)
    image = bytearray(path.read_bytes())
    struct.pack_into(">Q", image, 72, 1 << 9)
    image[image.index(b"dirty bit") - 2 :][:2] = b"\0\x09"
    at = image.index(b"dirty bit")
    image[at - 1] = 9
    image[at : at + 9] = b"time warp"
    path.write_bytes(image)
    with pytest.raises(ImageError, match="time warp"):
        open_image(path, read_only=True)


def test_tables_in_a_huge_sparse_file_take_memory_by_their_own_size(tmp_path: Path) -> None:
    """A 256 KiB L1 table whose entries all name one L2 table, in a file of 8 TiB of holes."""
    path = tmp_path / "huge.qcow2"
    create_image(path, 1 << 20, cluster_bytes=512)
    entries = (1 << 18) // 8
    with path.open("r+b") as file:
        file.seek(24)
        file.write(struct.pack(">Q", entries * 64 * 512))
        file.seek(36)
        file.write(struct.pack(">IQ", entries, 1 << 20))
        file.seek(1 << 20)
        file.write(struct.pack(">Q", 1 << 19) * entries)
        file.truncate(1 << 43)
    frugal(path)


def frugal(path: Path) -> None:
    """Opening, checking and repairing take little memory, however they end, and no disk space."""
    tracemalloc.start()
    try:
        for action in (
            lambda: open_image(path).close(),
            lambda: check_image(path),
            lambda: check_image(path, repair="all"),
        ):
            try:
                action()
            except (ConfigError, BackendError) as error:
                assert path.name in str(error)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20
    assert path.stat().st_blocks * 512 < 80 << 20


def test_entries_all_over_a_huge_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "far.qcow2"
    create_image(path, 512 << 20, cluster_bytes=65536)
    with opened(path) as image:
        image.pwrite(0, b"x")
    data = path.read_bytes()
    (l1,) = struct.unpack_from(">Q", data, 40)
    l2 = int.from_bytes(data[l1 : l1 + 8], "big") & ~COPIED
    with path.open("r+b") as file:
        file.seek(l2)
        file.write(b"".join(struct.pack(">Q", n << 30 | COPIED) for n in range(1, 8192)))
        file.truncate(1 << 43)
    frugal(path)


def test_snapshots_that_claim_everything(tmp_path: Path) -> None:
    path = tmp_path / "many.qcow2"
    create_image(path, 1 << 20, cluster_bytes=512)
    entry = struct.Struct(">QIHHIIQII")
    with path.open("r+b") as file:
        file.seek(60)
        file.write(struct.pack(">IQ", 65536, 1 << 20))
        file.seek(1 << 20)
        for number in range(65536):
            file.write(entry.pack((1 + number) << 25, 1 << 22, 0, 0, 0, 0, 0, 0, 0))
        file.truncate(1 << 42)
    with pytest.raises(ImageError, match="snapshots are too large"):
        open_image(path)
    frugal(path)


def test_a_guest_cannot_reach_metadata_through_its_disk(tmp_path: Path) -> None:
    """An L2 entry that names a table: a write there could make the image name any file."""
    path = tmp_path / "disk.qcow2"
    create_image(path, 1 << 20, cluster_bytes=4096)
    with opened(path) as image:
        image.pwrite(0, b"x" * 4096)
    for metadata in ("l1", "table", "block", "l2"):
        data = bytearray(path.read_bytes())
        l1, table = struct.unpack_from(">QQ", data, 40)
        (l2,) = struct.unpack_from(">Q", data, l1)
        (block,) = struct.unpack_from(">Q", data, table)
        l2 &= ~COPIED
        where = {"l1": l1, "table": table, "block": block, "l2": l2}[metadata]
        struct.pack_into(">Q", data, l2, where | COPIED)
        case = tmp_path / "case.qcow2"
        case.write_bytes(data)
        disk = open_image(case)
        with pytest.raises(BackendError, match="holds metadata"):
            disk.pwrite(0, b"evil" * 128)
        disk.close()
        assert case.read_bytes() == bytes(data)
    # Offset 0 with the flag "not shared" is the header's place in images with external data only.
    struct.pack_into(">Q", data, l2, COPIED)
    case.write_bytes(data)
    with opened(case) as image:
        image.pwrite(0, b"evil" * 128)
        image.flush()
        assert case.read_bytes()[:512] == bytes(data[:512])
