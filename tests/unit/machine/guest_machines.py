"""Machines for tests: a program in assembly, the first-party devices, no files."""

from __future__ import annotations

from typing import Any

from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.machine import BootFile, BootFiles, GuestConfig, Machine
from asyncvmm.plugin import DeviceType, PluginManager
from asyncvmm_plugins.cfi_flash import hooks as cfi_flash
from asyncvmm_plugins.goldfish_rtc import hooks as goldfish_rtc
from asyncvmm_plugins.ns16550 import hooks as ns16550
from asyncvmm_plugins.test_finisher import hooks as test_finisher
from asyncvmm_plugins.virtio_rng import hooks as virtio_rng


def device_types() -> dict[str, DeviceType]:
    """The devices of the tests' machines."""
    manager = PluginManager()
    for plugin in (cfi_flash, goldfish_rtc, ns16550, test_finisher, virtio_rng):
        manager.register(plugin, plugin.__name__)
    assert manager.problems == []
    return manager.device_types


def program_machine(source: str, **options: Any) -> Machine:
    """A machine that runs ``source`` in M-mode from 0x80000000."""
    elf = to_elf(assemble(source, 0x80000000))
    config = GuestConfig(elf="program.elf", **{"memory": "8M", **options})
    return Machine(config, BootFiles(elf=BootFile("program.elf", elf)), device_types())


def image_bytes(code: bytes = b"", text_offset: int = 0x200000) -> bytes:
    """A Linux Image whose first instruction jumps over the header to ``code``."""
    jump = (0x0400006F).to_bytes(4, "little")
    fields = [text_offset, 0x2000, 0]
    header = jump + bytes(4) + b"".join(value.to_bytes(8, "little") for value in fields)
    header += (2).to_bytes(4, "little") + bytes(12) + b"RISCV\0\0\0RSC\x05" + bytes(4)
    assert len(header) == 64
    return header + code


def kernel_machine(source: str, **options: Any) -> Machine:
    """A machine whose "kernel" is ``source``, entered in S-mode under the built-in SBI."""
    code = assemble(source, 0x80200040).data
    config = GuestConfig(kernel="Image", **{"memory": "8M", **options})
    files = BootFiles(kernel=BootFile("Image", image_bytes(code)))
    return Machine(config, files, device_types())
