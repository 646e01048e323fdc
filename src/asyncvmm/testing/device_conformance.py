"""The conformance kit for devices: what every device, first-party or not, has to get right."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device import Blob, DeviceIo, MemoryBlob, MmioDevice
from asyncvmm.plugin import DeviceType
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.virtio import VirtioDevice, VirtioMmio

ACCESSES = 2000
DISK_BYTES = 64 * 512

Access = tuple[int, int, int | None]  # offset, size, value to write or None to read


class Specimen:
    """One device of ``device_type`` on a bench of its own, disk and ports included."""

    def __init__(self, device_type: DeviceType, config: Any) -> None:
        self.bench = DeviceBench()
        io = self.bench.io
        self.io: DeviceIo = io
        spec = device_type.blob(config)
        self.blob: Blob = MemoryBlob(bytes(DISK_BYTES), spec is not None and spec.read_only)
        if spec is not None:
            io.blob = self.blob
        for name in device_type.ports(config):
            io.port(name)
        self.device = device_type.factory(config, io)
        if device_type.kind == "virtio":
            assert isinstance(self.device, VirtioDevice), "a virtio device is a VirtioDevice"
            self.target: MmioDevice = VirtioMmio(io, self.device)
        else:
            assert isinstance(self.device, MmioDevice), "an mmio device is an MmioDevice"
            self.target = self.device
        assert not self.bench.interrupts.changes, "creating a device moves no interrupt line"
        self.target.reset()

    def snapshot(self) -> str:
        """``save()`` as JSON text."""
        return json.dumps(self.target.save(), sort_keys=True)

    def perform(self, access: Access) -> object:
        """Do one access and let a microsecond pass; what the guest sees of it."""
        offset, size, value = access
        try:
            if value is None:
                seen: object = int(self.target.read(offset, size))
            else:
                self.target.write(offset, size, value)
                seen = None
        except GuestError:
            seen = "fault"
        self.bench.advance(1000)
        return seen, self.bench.irq


def check_device(device_type: DeviceType, options: Mapping[str, str | None] | None = None) -> None:
    """Run every check on devices made with ``options``; AssertionError says what is wrong.

    - Creating touches nothing outside; ``reset`` may be repeated and always gives the same device.
    - Any naturally aligned access is answered or refused with GuestError, nothing else.
    - The same accesses give the same answers, interrupts and state (unless the type is ``live``).
    - ``save`` gives JSON-ready data with a version; ``load`` after ``reset`` gives the same device;
      spoilt data is refused with ConfigError and changes nothing (if the type can ``snapshot``).
    """
    config = device_type.parse(dict(options or {}))

    def make() -> Specimen:
        return Specimen(device_type, config)

    _check_reset(make, device_type)
    accesses = list(_accesses(int(make().target.size_bytes)))
    first, second = make(), make()
    for access in accesses:
        seen = first.perform(access)
        if not device_type.live:
            assert seen == second.perform(access), f"{access} is answered differently the 2nd time"
    if device_type.snapshot:
        if not device_type.live:
            assert first.snapshot() == second.snapshot(), "the same accesses, another state"
        _check_snapshots(make, accesses)


def _accesses(size_bytes: int) -> list[Access]:
    """All offsets in each width where the device is small, and a fixed random sample."""
    rng = random.Random(1)
    interesting = [*range(0, min(size_bytes, 0x120), 4), size_bytes - 8]
    accesses: list[Access] = [(offset, 4, None) for offset in interesting]
    for _ in range(ACCESSES):
        size = rng.choice((1, 2, 4, 8))
        limit = size_bytes if rng.random() < 0.2 else min(size_bytes, 0x120)
        offset = rng.randrange(0, limit) & -size
        values = (None, None, 0, 1, rng.getrandbits(8 * size - 1), -1, rng.getrandbits(4))
        accesses.append((offset, size, rng.choice(values)))
    return accesses


def _check_reset(make: Callable[[], Specimen], device_type: DeviceType) -> None:
    specimen = make()
    assert not specimen.bench.irq, "a reset device interrupts"
    fresh = specimen.snapshot() if device_type.snapshot else ""
    for _ in range(2):
        specimen.target.reset()
        assert not specimen.bench.irq, "a reset device interrupts"
        if device_type.snapshot:
            assert specimen.snapshot() == fresh, "two resets in a row differ"


def _check_snapshots(make: Callable[[], Specimen], accesses: list[Access]) -> None:
    original = make()
    for number, access in enumerate(accesses):
        original.perform(access)
        if number % 100 == 0:
            copy = make()
            # The copy's machine is the original's: same instant, same memory, same disk, same
            # ports.
            copy.bench.timeline.now_ns = original.bench.timeline.now_ns
            copy.bench.ram.write(
                copy.bench.ram.base,
                original.bench.ram.read(original.bench.ram.base, original.bench.ram.size),
            )
            saved = json.loads(original.snapshot())
            assert isinstance(saved.get("version"), int), "saved state has no version"
            copy.target.load(saved)
            copy.target.resume()
            assert copy.snapshot() == original.snapshot(), "load does not give what was saved"
            assert copy.bench.irq == original.bench.irq, "load forgets the interrupt line"
    saved = json.loads(original.snapshot())
    for spoilt in _spoilt(saved):
        before = original.snapshot()
        try:
            original.target.load(spoilt)
        except ConfigError:
            assert original.snapshot() == before, "a refused load changed the device"
        else:
            raise AssertionError(f"spoilt state was accepted: {spoilt!r}")


def _spoilt(saved: dict[str, Any]) -> list[dict[str, Any]]:
    """States that no device can accept: wrong versions, and one with a field missing."""
    spoilt = [{**saved, "version": 10**6}, {**saved, "version": None}, {}]
    spoilt.extend({k: v for k, v in saved.items() if k != key} for key in saved)
    return spoilt
