"""The public kit for plugins and tests: what a third party needs to test what it adds.

``check_device`` is the conformance kit for device types, ``DeviceBench`` holds one device without a
machine, ``VirtioDriver`` is the other side of a virtio device, ``assemble`` makes guest programs.
"""

from asyncvmm.testing.assembler import AssemblyError, Program, assemble, to_elf
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.device_conformance import check_device
from asyncvmm.testing.virtio_driver import DriverQueue, VirtioDriver

__all__ = [
    "AssemblyError",
    "DeviceBench",
    "DriverQueue",
    "Program",
    "VirtioDriver",
    "assemble",
    "check_device",
    "to_elf",
]
