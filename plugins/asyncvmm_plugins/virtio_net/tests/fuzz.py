"""Hostile drivers of a card: one input each for the receive, the transmit and the control queue."""

from __future__ import annotations

import functools

from asyncvmm.device import Packet
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.queue_fuzz import INPUT_BYTES, QueueFuzzer
from asyncvmm.virtio import VirtioDevice
from asyncvmm_plugins.virtio_net.config import VirtioNetConfig
from asyncvmm_plugins.virtio_net.device import RECEIVE, TRANSMIT, VirtioNet

CONTROL = 2
FRAMES = (
    Packet(bytes(60)),
    Packet(bytes(range(250)) * 6, 34, 16),
    Packet(bytes(range(200)) * 20, 34, 16, 1, 1460),
)


def _make(bench: DeviceBench) -> VirtioDevice:
    return VirtioNet(VirtioNetConfig(queue_size=16), bench.io)


def _arrive(bench: DeviceBench) -> None:
    now = bench.timeline.now_ns
    for number, packet in enumerate(FRAMES):
        bench.io.net.arrive(now + number, packet)


def _sent(bench: DeviceBench) -> None:
    for sent in bench.io.net.take_sent():
        assert 14 <= len(sent.packet.data) <= 65568
        assert sent.packet.checksum_start < len(sent.packet.data)


@functools.cache
def _fuzzer(queue: int) -> QueueFuzzer:
    if queue == RECEIVE:
        return QueueFuzzer(_make, queue, writable=True, before=_arrive, after=_sent)
    writable = False if queue == TRANSMIT else None
    return QueueFuzzer(_make, queue, writable=writable, after=_sent)


def fuzz_receive(data: bytes) -> None:
    """Buffers for frames that arrive."""
    _fuzzer(RECEIVE).run(data)


def fuzz_transmit(data: bytes) -> None:
    """Frames, and what is to be done to them."""
    _fuzzer(TRANSMIT).run(data)


def fuzz_control(data: bytes) -> None:
    """Commands: three of four have a class and a number that are known."""
    tail = data[INPUT_BYTES:]
    if tail[1:] and tail[0] < 192:
        data = data[:INPUT_BYTES] + bytes((tail[0] % 6, tail[1] % 6)) + tail[2:]
    _fuzzer(CONTROL).run(data)
