"""Virtio 1.2 (OASIS): split virtqueues, the device base class, and the MMIO transport.

Reading order: ``chain.py`` (the buffers of one request), ``queue.py`` (the rings, and every check
of what a driver wrote there), ``device.py`` (what a device author subclasses), ``mmio.py`` (the
register block). A device author needs ``VirtioDevice`` and ``Chain`` only::

    class Upper(VirtioDevice):
        def __init__(self, config, io):
            super().__init__(io, device_id=42, queue_sizes=[128])

        def handle(self, queue, chain):
            written = chain.write(chain.read(1024).upper())
            queue.complete(chain, written)      # now, or later from the timeline

A driver that breaks the rules finds DEVICE_NEEDS_RESET in the status (2.1.2); the host hears
nothing but a line in the log. Clause numbers in this package are those of virtio 1.2.
"""

from asyncvmm.virtio.chain import Chain, Segment
from asyncvmm.virtio.device import (
    DEVICE_NEEDS_RESET,
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    F_VERSION_1,
    BrokenDevice,
    NoDevice,
    VirtioDevice,
)
from asyncvmm.virtio.mmio import VirtioMmio
from asyncvmm.virtio.queue import QueueError, VirtQueue

__all__ = [
    "DEVICE_NEEDS_RESET",
    "F_EVENT_IDX",
    "F_INDIRECT_DESC",
    "F_VERSION_1",
    "BrokenDevice",
    "Chain",
    "NoDevice",
    "QueueError",
    "Segment",
    "VirtQueue",
    "VirtioDevice",
    "VirtioMmio",
]
