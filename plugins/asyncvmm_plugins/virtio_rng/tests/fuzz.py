"""Hostile drivers of the entropy device."""

from __future__ import annotations

import functools

from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.queue_fuzz import QueueFuzzer
from asyncvmm.virtio import VirtioDevice
from asyncvmm_plugins.virtio_rng.config import VirtioRngConfig
from asyncvmm_plugins.virtio_rng.device import VirtioRng


def _make(bench: DeviceBench) -> VirtioDevice:
    return VirtioRng(VirtioRngConfig(), bench.io)


@functools.cache
def _fuzzer() -> QueueFuzzer:
    return QueueFuzzer(_make, 0, writable=True)


def fuzz_one(data: bytes) -> None:
    """Buffers to be filled."""
    _fuzzer().run(data)
