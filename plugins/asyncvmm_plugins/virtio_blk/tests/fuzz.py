"""Hostile drivers of a disk."""

from __future__ import annotations

import functools
from pathlib import Path

from asyncvmm.device import MemoryBlob
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.queue_fuzz import INPUT_BYTES, QueueFuzzer
from asyncvmm.virtio import VirtioDevice
from asyncvmm_plugins.virtio_blk.config import VirtioBlkConfig
from asyncvmm_plugins.virtio_blk.device import VirtioBlk

SECTORS = 32


def _make(bench: DeviceBench) -> VirtioDevice:
    bench.io.blob = MemoryBlob(bytes(range(256)) * 2 * SECTORS)
    return VirtioBlk(VirtioBlkConfig(Path("d"), queue_size=16), bench.io)


@functools.cache
def _fuzzer() -> QueueFuzzer:
    return QueueFuzzer(_make, 0)


def fuzz_one(data: bytes) -> None:
    """A ring of requests: three of four have a header that makes sense."""
    tail = data[INPUT_BYTES:]
    if tail[2:] and tail[0] < 192:
        header = (tail[1] % 16).to_bytes(8, "little") + (tail[2] % (SECTORS + 2)).to_bytes(
            8, "little"
        )
        data = data[:INPUT_BYTES] + header + tail[16:]
    _fuzzer().run(data)
