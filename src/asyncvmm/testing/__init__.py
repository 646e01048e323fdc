"""The public kit for plugins and tests: what a third party needs to test what it adds.

``check_device`` is the conformance kit for device types, ``DeviceConformance`` the same as separate
pytest checks, ``DeviceBench`` holds one device without a machine, ``NetworkBench`` one network backend
without a network, ``VirtioDriver`` is the other side of a virtio device, ``assemble`` makes guest programs.
"""

from asyncvmm.testing.assembler import AssemblyError, Program, assemble, to_elf
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.device_conformance import CHECKS, DeviceConformance, check_device
from asyncvmm.testing.network_bench import NetworkBench
from asyncvmm.testing.virtio_driver import DriverQueue, VirtioDriver

__all__ = [
    "CHECKS",
    "AssemblyError",
    "DeviceBench",
    "DeviceConformance",
    "DriverQueue",
    "NetworkBench",
    "Program",
    "VirtioDriver",
    "assemble",
    "check_device",
    "to_elf",
]
