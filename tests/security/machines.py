"""Machines for hostile programs: a board with every device, and a well-behaved neighbour."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from asyncvmm.device import Blob, MemoryBlob
from asyncvmm.machine import RAN_IDLE, RAN_STEPS, RAN_STOP, RAN_TIME, GuestConfig, Machine
from asyncvmm.machine.files import BootFile, BootFiles
from asyncvmm.plugin import BlobSpec, DeviceType, create_plugin_manager
from asyncvmm.testing import assemble, to_elf

BASE = 0x80000000
MEMORY = 4 << 20
DISK_BYTES = 64 << 10
RESET_STEPS = (
    500  # a reset counts as so many steps, or a guest that reboots all the time takes long
)
DEVICES = (
    "virtio-blk,path=unused",
    "virtio-console,ports=one+two",
    "virtio-rng",
    "virtio-net",
)

# Sorts its memory, takes timer interrupts, prints: what an honest guest does.
NEIGHBOUR = """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   s0, 0x10000000
    li   s1, 0x80100000
    li   s2, 12345
    li   t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
    li   s5, 0x0200bff8
    li   s6, 0x02004000
    sd   zero, 0(s6)
fill:
    li   s3, 512
    mv   t0, s1
1:  li   t1, 6364136223846793005
    mul  s2, s2, t1
    addi s2, s2, 1442
    srli t1, s2, 20
    sd   t1, 0(t0)
    addi t0, t0, 8
    addi s3, s3, -1
    bnez s3, 1b
    andi t1, s2, 15
    addi t1, t1, 'A'
    sb   t1, 0(s0)
    j    fill
.balign 4
tick:
    csrw mscratch, t0
    ld   t0, 0(s5)
    addi t0, t0, 5
    sd   t0, 0(s6)
    addi s4, s4, 1
    csrr t0, mscratch
    mret
"""


@functools.cache
def device_types() -> Mapping[str, DeviceType]:
    """The plugins' device types."""
    return create_plugin_manager().device_types


def memory_disk(_spec: BlobSpec) -> Blob:
    """A small disk that is not a file."""
    return MemoryBlob(bytes(range(256)) * (DISK_BYTES // 256))


def machine(elf: bytes, name: str = "hostile", harts: int = 1) -> Machine:
    """A machine-mode guest with every device; the program is an ELF."""
    config = GuestConfig(
        name=name, memory=MEMORY, harts=harts, devices=DEVICES, quantum=1000, elf=name
    )
    files = BootFiles(elf=BootFile(name, elf))
    return Machine(config, files, device_types(), open_blob=memory_disk)


def from_source(source: str, name: str = "hostile", harts: int = 1) -> Machine:
    """A machine-mode guest from assembly source, which starts at ``_start`` or at its beginning."""
    return machine(to_elf(assemble(source, BASE)), name, harts)


def kernel(image: bytes) -> Machine:
    """A supervisor-mode guest under the built-in SBI."""
    config = GuestConfig(name="hostile", memory=MEMORY, devices=DEVICES)
    files = BootFiles(kernel=BootFile("hostile", image))
    return Machine(config, files, device_types(), open_blob=memory_disk)


def run(guest: Machine, steps: int) -> None:
    """Run ``steps`` steps, through any reboot, or until the guest is off or idle for good.

    Whatever the program does, ``Machine.run`` must come back within its budget and raise nothing.
    """
    left = steps
    while left > 0:
        before = total_steps(guest)
        why = guest.run(max_steps=left)
        done = total_steps(guest) - before
        assert 0 <= done <= left
        left -= done
        if why == RAN_STOP:
            assert guest.ending is not None
            if guest.ending.kind == "poweroff":
                return
            guest.reset()
            left -= RESET_STEPS
        elif why == RAN_IDLE:
            return
        else:
            assert why == RAN_STEPS or (why == RAN_TIME and done > 0)


def total_steps(guest: Machine) -> int:
    """Instructions and traps of all harts since power-on."""
    counted = guest.stats()
    return counted.instructions + counted.traps


def contain(guest: Machine, steps: int = 20_000, slice_steps: int = 5_000) -> None:
    """Run a hostile guest and its neighbour in turns; the neighbour must not notice."""
    beside = from_source(NEIGHBOUR, "neighbour")
    for _ in range(0, steps, slice_steps):
        run(guest, slice_steps)
        run(beside, slice_steps)
    assert beside.digest() == undisturbed(steps)
    guest.digest()


@functools.cache
def undisturbed(steps: int) -> str:
    """The neighbour's digest after ``steps`` steps alone."""
    alone = from_source(NEIGHBOUR, "neighbour")
    run(alone, steps)
    assert alone.stats().interrupts > 2
    return alone.digest()
