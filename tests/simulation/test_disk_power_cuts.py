"""Power cuts and kills at every kind of instant, on recorded writes: nothing flushed is lost.

A power cut keeps every write before the last completed sync and any part of the later ones, torn at
sectors. A kill keeps a prefix of the writes.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from asyncvmm.storage import Qcow2Image, RawImage, check_image, create_image, opened, resize_image
from asyncvmm.storage.hostfile import HostFile

SECTOR = 512
SIZE = 96 * 1024
Op = tuple[str, int, bytes]


class RecordingFile(HostFile):
    """Keeps what was done to it, in order, and spends no time on real syncs."""

    ops: list[Op]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        super().write(offset, data)
        self.ops.append(("write", offset, bytes(data)))

    def truncate(self, size_bytes: int) -> None:
        super().truncate(size_bytes)
        self.ops.append(("truncate", size_bytes, b""))

    def punch(self, offset: int, length: int) -> bool:
        done = super().punch(offset, length)
        self.ops.append(("write", offset, bytes(length)))
        return done

    def sync(self) -> None:
        self.ops.append(("sync", 0, b""))


def apply(contents: bytearray, op: Op) -> None:
    kind, at, data = op
    if kind == "truncate":
        del contents[at:]
        contents.extend(bytes(at - len(contents)))
    elif kind == "write":
        contents.extend(bytes(max(0, at + len(data) - len(contents))))
        contents[at : at + len(data)] = data


def torn(op: Op, rng: random.Random) -> list[Op]:
    """The sectors of a write that came through."""
    kind, at, data = op
    if kind != "write" or rng.random() < 0.5:
        return [op] if rng.random() < 0.6 else []
    pieces = []
    while data:
        count = min(len(data), SECTOR - at % SECTOR)
        if rng.random() < 0.5:
            pieces.append((kind, at, data[:count]))
        at, data = at + count, data[count:]
    return pieces


class Recorded:
    """An image whose writes are recorded, and what each of its sectors may hold after a crash."""

    def __init__(self, path: Path, base: Path | None, seed: int, cluster: int, bits: int) -> None:
        self.rng = random.Random(seed)
        backing = None
        create_image(
            path,
            SIZE,
            backing=base,
            backing_format=base and "raw",
            cluster_bytes=cluster,
            refcount_bits=bits,
        )
        self.start = path.read_bytes()
        self.file = RecordingFile(path)
        self.file.ops = []
        if base is not None:
            backing = RawImage(base, read_only=True)
        self.image = Qcow2Image(self.file, backing)
        # Sets of what was written, and the number of the operation after which it is certain.
        self.history: list[tuple[int, list[set[bytes]]]] = []
        self.allowed = [{self.sector(i)} for i in range(SIZE // SECTOR)]
        self.note()

    def sector(self, index: int) -> bytes:
        return self.image.pread(index * SECTOR, SECTOR)

    def note(self) -> None:
        self.history.append((len(self.file.ops), [set(each) for each in self.allowed]))

    def step(self) -> None:
        rng, image = self.rng, self.image
        first = rng.randrange(SIZE // SECTOR)
        count = rng.randrange(1, min(24, SIZE // SECTOR - first) + 1)
        offset, length = first * SECTOR, count * SECTOR
        kind = rng.choice(["write", "write", "write", "zero", "discard", "flush"])
        if kind == "flush":
            image.flush()
            self.allowed = [{self.sector(i)} for i in range(SIZE // SECTOR)]
            self.note()
            return
        if kind == "write":
            data = rng.randbytes(length)
            for i in range(count):
                self.allowed[first + i].add(data[i * SECTOR : (i + 1) * SECTOR])
            self.note()
            image.pwrite(offset, data)
            return
        for i in range(count):
            self.allowed[first + i].add(bytes(SECTOR))
        self.note()
        if kind == "zero":
            image.write_zeroes(offset, length, rng.random() < 0.7)
        else:
            image.discard(offset, length)

    def allowed_at(self, op: int) -> list[set[bytes]]:
        """What may be read after a crash when ``op`` operations had been begun."""
        return [each for at, each in self.history if at <= op][-1]

    def crashed(self, op: int, kill: bool) -> bytes:
        """The file when the machine or the process died after ``op`` operations."""
        ops = self.file.ops[:op]
        last = (
            0
            if not any(o[0] == "sync" for o in ops)
            else (max(i for i, o in enumerate(ops) if o[0] == "sync"))
        )
        contents = bytearray(self.start)
        for number, each in enumerate(ops):
            for piece in [each] if kill or number < last else torn(each, self.rng):
                apply(contents, piece)
        return bytes(contents)


def verify(recorded: Recorded, op: int, kill: bool, path: Path) -> int:
    """Leaked clusters of the crashed image; everything else must be right."""
    path.write_bytes(recorded.crashed(op, kill))
    report = check_image(path)
    assert report.errors == 0, (op, report.findings)
    allowed = recorded.allowed_at(op)
    with opened(path) as image:
        for index, each in enumerate(allowed):
            assert image.pread(index * SECTOR, SECTOR) in each, (op, index)
    return report.leaks


@pytest.mark.parametrize("kill", [False, True])
@pytest.mark.parametrize(("cluster", "bits"), [(512, 16), (512, 64), (4096, 16), (65536, 1)])
def test_nothing_flushed_is_lost(tmp_path: Path, cluster: int, bits: int, kill: bool) -> None:
    for seed in range(4):
        print(f"seed {seed}")
        base: Path | None = None
        if seed % 2:
            base = tmp_path / f"base{seed}.img"
            base.write_bytes(random.Random(seed).randbytes(SIZE // 2))
        recorded = Recorded(tmp_path / f"{seed}.qcow2", base, seed, cluster, bits)
        for _ in range(60):
            recorded.step()
        total = len(recorded.file.ops)
        points = recorded.rng.sample(range(total + 1), min(total + 1, 25))
        for point in points:
            verify(recorded, point, kill, tmp_path / "crashed.qcow2")
        recorded.image.close()
        assert check_image(tmp_path / f"{seed}.qcow2").clean


@pytest.mark.parametrize("kill", [False, True])
def test_growing_survives_a_cut(tmp_path: Path, kill: bool) -> None:
    """With 512-byte clusters the L1 table and the refcount table move when the disk grows."""
    recorded = Recorded(tmp_path / "disk.qcow2", None, 5, 512, 16)
    data = recorded.rng.randbytes(SIZE)
    recorded.image.pwrite(0, data)
    recorded.image.flush()
    flushed = len(recorded.file.ops)
    resize_image(recorded.image, 16 << 20)
    recorded.image.pwrite(8 << 20, recorded.rng.randbytes(2 << 20))
    recorded.image.flush()
    crashed = tmp_path / "crashed.qcow2"
    total = len(recorded.file.ops)
    ops = recorded.file.ops
    moved = [i for i in range(flushed, total) if ops[i][0] == "write" and ops[i][1] in (0, 48)]
    interesting = [i for i in range(flushed, total) if ops[i][0] == "sync"] + moved * 4
    near = [at + step for at in interesting for step in (-1, 0, 1, 2) if at + step <= total]
    for point in near + recorded.rng.sample(range(flushed, total + 1), 20):
        crashed.write_bytes(recorded.crashed(point, kill))
        report = check_image(crashed)
        assert report.errors == 0, (point, report.findings)
        with opened(crashed) as image:
            assert image.size_bytes in (SIZE, 16 << 20)
            assert image.pread(0, SIZE) == data
            rest = image.pread(SIZE, image.size_bytes - SIZE)
        assert len(rest) in (0, (16 << 20) - SIZE)
    recorded.image.close()
