"""kill -9 at random instants while a process writes, flushes and commits: nothing flushed is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asyncvmm.storage import check_image, commit_image, create_image, opened

SIZE = 4 << 20
BLOCK = 4096
KILLS = 12

WRITER = """
import os, random, sys
from asyncvmm.storage import commit_image, opened
path, seed, first = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
number = first
while True:
    with opened(path) as image:
        for _ in range(8):
            written = []
            for _ in range(rng.randrange(1, 12)):
                number += 1
                block = rng.randrange(image.size_bytes // 4096)
                image.pwrite(block * 4096, number.to_bytes(8, "little") * 512)
                written.append((block, number))
            os.write(1, b"".join(b"w %d %d\\n" % each for each in written))
            image.flush()
            os.write(1, b"flushed\\n")
    if rng.random() < 0.5:
        commit_image(path)
        os.write(1, b"committed\\n")
"""


def run_and_kill(path: Path, seed: int, first: int, lines: int) -> list[str]:
    """What the writer says until it has said so many lines; the kill comes a moment later."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seed), str(first)], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    said = b""
    while said.count(b"\n") < lines:
        data = os.read(writer.stdout.fileno(), 65536)
        assert data, "the writer ended by itself"
        said += data
    writer.send_signal(signal.SIGKILL)
    said += writer.stdout.read()
    writer.stdout.close()
    writer.wait()
    return said.decode().splitlines()


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_a_killed_writer_loses_nothing_that_was_flushed(tmp_path: Path, base_format: str) -> None:
    base, top = tmp_path / f"base.{base_format}", tmp_path / "top.qcow2"
    create_image(base, SIZE, format=base_format)
    create_image(top, SIZE, backing=base.name, cluster_bytes=16384)
    rng = random.Random(11)
    # Per block: the number that is certain, and those of later writes that may have come through.
    certain = [0] * (SIZE // BLOCK)
    newer: list[set[int]] = [set() for _ in certain]
    number = 0
    for kill in range(KILLS):
        print(f"kill {kill}")
        for line in run_and_kill(top, kill, number, rng.randrange(1, 400)):
            word, *rest = line.split()
            if word == "w":
                block, number = int(rest[0]), int(rest[1])
                newer[block].add(number)
            elif word == "flushed":
                for block, numbers in enumerate(newer):
                    if numbers:
                        certain[block] = max(numbers)
                        numbers.clear()
        for image in (base, top):
            report = check_image(image)
            assert report.errors == 0, report.findings
            if shutil.which("qemu-img") and image.suffix == ".qcow2":
                done = subprocess.run(["qemu-img", "check", "-q", str(image)])
                assert done.returncode in (0, 3)  # 3: leaks only
        number += 100  # what was written and not said before the kill
        with opened(top, read_only=True) as image:
            for block, wanted in enumerate(certain):
                data = image.pread(block * BLOCK, BLOCK)
                found = {int.from_bytes(data[at : at + 8], "little") for at in range(0, BLOCK, 8)}
                unsaid = {each for each in found if number - 100 < each <= number}
                assert found <= {wanted} | newer[block] | unsaid, (block, found, wanted)
                if found != {wanted}:
                    certain[block] = max(found)
                newer[block].clear()
    commit_image(top)
    check_image(top, repair="all")
    assert check_image(top).clean
