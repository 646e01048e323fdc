"""Hostile drivers of a console: its receive, transmit and control queues."""

from __future__ import annotations

import functools
import struct

from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.queue_fuzz import INPUT_BYTES, QueueFuzzer
from asyncvmm.testing.virtio_driver import DriverQueue
from asyncvmm.virtio import VirtioDevice
from asyncvmm_plugins.virtio_console.config import VirtioConsoleConfig
from asyncvmm_plugins.virtio_console.device import (
    DEVICE_READY,
    PORT_OPEN,
    PORT_READY,
    VirtioConsole,
)

# 5.3.2: port 0, control, port 1.
RECEIVE, TRANSMIT, CONTROL_RECEIVE, CONTROL_TRANSMIT = range(4)


def _make(bench: DeviceBench) -> VirtioDevice:
    return VirtioConsole(VirtioConsoleConfig(("run",)), bench.io)


def _open_ports(queues: list[DriverQueue]) -> None:
    """5.3.5: the driver is ready, and so are both ports."""
    messages = [(0, DEVICE_READY, 1)]
    messages += [(port, event, 1) for port in range(2) for event in (PORT_READY, PORT_OPEN)]
    for message in messages:
        queues[CONTROL_TRANSMIT].request([struct.pack("<IHH", *message)])


def _input(bench: DeviceBench) -> None:
    bench.io.console.push(b"input " * 20)
    bench.io.port("run").push(b"more " * 20)


def _output(bench: DeviceBench) -> None:
    bench.io.console.take_output()
    bench.io.port("run").take_output()


@functools.cache
def _fuzzer(queue: int) -> QueueFuzzer:
    writable = queue in (RECEIVE, CONTROL_RECEIVE)
    return QueueFuzzer(
        _make, queue, writable=writable, start=_open_ports, before=_input, after=_output
    )


def fuzz_receive(data: bytes) -> None:
    """Buffers for input."""
    _fuzzer(RECEIVE).run(data)


def fuzz_transmit(data: bytes) -> None:
    """Output."""
    _fuzzer(TRANSMIT).run(data)


def fuzz_control_receive(data: bytes) -> None:
    """Buffers for messages about ports."""
    _fuzzer(CONTROL_RECEIVE).run(data)


def fuzz_control_transmit(data: bytes) -> None:
    """Messages about ports: three of four of a kind that is known."""
    tail = data[INPUT_BYTES:]
    if tail[2:] and tail[0] < 192:
        message = struct.pack("<IHH", tail[0] % 3, tail[1] % 8, tail[2] % 3)
        data = data[:INPUT_BYTES] + message + tail[8:]
    _fuzzer(CONTROL_TRANSMIT).run(data)
