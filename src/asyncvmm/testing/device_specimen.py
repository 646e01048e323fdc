"""A device on a bench, and what a guest does to it: the material of the conformance checks."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Final, cast

import attrs

from asyncvmm.base.errors import GuestError
from asyncvmm.device import DeviceIo, MemoryBlob, MemoryFolder, MmioDevice
from asyncvmm.machine.attachable import check_device, check_snapshot, node_properties
from asyncvmm.plugin import DeviceType
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import DriverQueue, VirtioDriver
from asyncvmm.virtio import VirtioMmio

ACCESSES: Final = 400
CHAINS: Final = 60
DISK_BYTES: Final = 64 * 512
RAM_BYTES: Final = 1 << 18
FILES: Final[dict[str, bytes | str | None]] = {
    "empty": b"",
    "some.txt": b"some text\n" * 1000,
    "folder/inner/file": bytes(range(256)),
    "folder/link": "../some.txt",
}
MASK: Final = (1 << 64) - 1


@attrs.frozen
class Read:
    """The guest reads ``size`` bytes at ``offset``."""

    offset: int
    size: int


@attrs.frozen
class Write:
    """The guest writes."""

    offset: int
    size: int
    value: int


@attrs.frozen
class Store:
    """The guest writes to its RAM."""

    address: int
    data: bytes = attrs.field(repr=lambda data: f"{len(data)} bytes")


@attrs.frozen
class Wait:
    """Virtual time passes."""

    ns: int


Step = Read | Write | Store | Wait


class Specimen:
    """One device of ``device_type`` on a bench of its own, disk, folder and ports included.

    Its RAM is empty, or holds noise (one for each ``fill`` other than 0), so that what is not the
    device's business can be told from what is.
    """

    def __init__(self, device_type: DeviceType, config: Any, fill: int = 0) -> None:
        self.bench = DeviceBench(ram_size=RAM_BYTES)
        ram = self.bench.ram
        noise = random.Random(fill).randbytes(RAM_BYTES) if fill else bytes(RAM_BYTES)
        if fill:
            ram.write(ram.base, noise)
        io = self.bench.io
        self.io: DeviceIo = io
        spec = device_type.blob(config)
        self.blob = MemoryBlob(bytes(DISK_BYTES), spec is not None and spec.read_only)
        if spec is not None:
            io.blob = self.blob
        if device_type.folder(config) is not None:
            io.folder = MemoryFolder(FILES)
        for name in device_type.ports(config):
            io.port(name)
        with blame("creating the device"):
            self.device: Any = device_type.factory(config, io)
        check_device(device_type, self.device, io.path)
        self.target: MmioDevice = (
            VirtioMmio(io, self.device) if device_type.kind == "virtio" else self.device
        )
        assert not self.bench.interrupts.changes, "creating a device moves no interrupt line"
        assert self.ram_bytes() == noise, "creating a device changes no RAM"
        with blame("reset"):
            self.target.reset()
        check_snapshot(self.target, io.path)
        node_properties(device_type, config, self.device, io.path)

    def ram_bytes(self) -> bytes:
        """All of the guest's RAM."""
        return self.bench.ram.read(self.bench.ram.base, RAM_BYTES)

    def snapshot(self) -> str:
        """``save()`` as JSON text."""
        with blame("save"):
            return json.dumps(self.target.save(), sort_keys=True)

    def perform(self, step: Step) -> object:
        """Do one step, which takes a nanosecond unless it is a wait; what the guest sees of it."""
        seen: object = None
        with blame(f"{step!r}"):
            try:
                if isinstance(step, Read):
                    seen = checked_value(self.target.read(step.offset, step.size), step)
                elif isinstance(step, Write):
                    self.target.write(step.offset, step.size, signed(step.value))
                elif isinstance(step, Store):
                    self.bench.ram.write(step.address, step.data)
            except GuestError:
                seen = "fault"
            self.bench.advance(step.ns if isinstance(step, Wait) else 1)
        return seen, self.bench.irq

    def become(self, other: Specimen) -> None:
        """Go on from where ``other`` is, as a restored machine does: same instant, RAM, disk, stream
        of randomness; then ``load`` and ``resume``.
        """
        self.bench.timeline.now_ns = other.bench.timeline.now_ns
        self.bench.ram.write(self.bench.ram.base, other.ram_bytes())
        self.blob.contents[:] = other.blob.contents
        self.io.rng.position = other.io.rng.position
        saved = json.loads(other.snapshot())
        assert isinstance(saved.get("version"), int), "saved state has no version"
        with blame("load"):
            self.target.load(saved)
        with blame("resume"):
            self.target.resume()

    def driver(self) -> tuple[VirtioDriver, list[DriverQueue]]:
        """The other side of a virtio device, with all of its queues running."""
        driver = VirtioDriver(cast(VirtioMmio, self.target), self.bench.ram)
        with blame("starting the driver"):
            return driver, driver.start()


class blame:
    """Whatever is raised in this context, except by an assertion, is the device's bug."""

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, AssertionError):
            text = f"{self._doing}: the device raised {type(error).__name__}: {error}"
            raise AssertionError(text) from error


def signed(value: int) -> int:
    """A 64-bit number as the bus carries it."""
    value &= MASK
    return value - (1 << 64) if value >> 63 else value


def checked_value(value: object, step: Read) -> int:
    """What a read gave; AssertionError when it is no number of the read's width."""
    assert type(value) is int, f"{step!r} gives {value!r}"
    fits = 0 <= value < 1 << (8 * step.size) if step.size < 8 else -(1 << 63) <= value < 1 << 63
    assert fits, f"{step!r} gives {value:#x}, which is wider"
    return value


@attrs.frozen
class Subject:
    """A device type with a config: what is checked. ``previous`` are states of older versions."""

    device_type: DeviceType
    config: Any
    previous: tuple[Mapping[str, Any], ...] = ()

    def make(self, fill: int = 0) -> Specimen:
        """A fresh one, just reset."""
        return Specimen(self.device_type, self.config, fill)

    @property
    def virtio(self) -> bool:
        """Whether it sits behind the virtio transport."""
        return self.device_type.kind == "virtio"

    def script(self, seed: int = 1) -> list[Step]:
        """What a guest may do: for virtio a driver that keeps to the rules, then accesses at random.

        There is a microsecond from each to the next: what the device does meanwhile has boundaries, too.
        """
        rng = random.Random(seed)
        steps: list[Step] = []
        if self.virtio:
            steps += self._requests(rng)
        specimen = self.make()
        steps += _accesses(rng, specimen.target)
        return [one for step in steps for one in _with_time(step)]

    def _requests(self, rng: random.Random) -> list[Step]:
        """A driver's accesses and stores while it makes requests, noted down."""
        specimen = self.make()
        steps: list[Step] = []
        target, ram = specimen.target, specimen.bench.ram
        driver = VirtioDriver(
            cast(VirtioMmio, _NotedTarget(target, steps)), cast(Any, _NotedRam(ram, steps))
        )
        with blame("starting the driver"):
            queues = driver.start()
        for _ in range(CHAINS):
            if driver.status & 0x40:
                break
            queue = rng.choice(queues)
            readable, writable = random_chain(rng)
            if len(queue.free) < 8:
                continue
            with blame(f"a chain of {len(readable)} readable and {writable} writable buffers"):
                queue.add(readable, writable, rng.random() < 0.2)
                queue.kick()
            wait = Wait(rng.choice((1000, 50_000, 3_000_000)))
            steps.append(wait)
            specimen.bench.advance(wait.ns)
            queue.collect()
            if rng.random() < 0.5:
                driver.take_interrupts()
        return steps


def _with_time(step: Step) -> tuple[Step, ...]:
    return (step,) if isinstance(step, Wait) else (step, Wait(999))


def random_chain(rng: random.Random) -> tuple[list[bytes], list[int]]:
    """Readable contents and writable lengths of a chain, at least one buffer in all."""
    contents = [rng.choice((rng.randbytes(16), bytes(rng.choice((1, 16, 512))), rng.randbytes(40)))]
    readable = contents * rng.randrange(0, 3)
    writable = [rng.choice((1, 8, 64, 512)) for _ in range(rng.randrange(0 if readable else 1, 3))]
    return readable, writable


class _NotedTarget:
    def __init__(self, target: MmioDevice, steps: list[Step]) -> None:
        self._target, self._steps = target, steps

    def read(self, offset: int, size: int) -> int:
        self._steps.append(Read(offset, size))
        return int(self._target.read(offset, size))

    def write(self, offset: int, size: int, value: int) -> None:
        self._steps.append(Write(offset, size, value))
        self._target.write(offset, size, signed(value))


class _NotedRam:
    def __init__(self, ram: Any, steps: list[Step]) -> None:
        self._ram, self._steps = ram, steps

    @property
    def base(self) -> int:
        return int(self._ram.base)

    def contains(self, address: int, length: int) -> bool:
        return bool(self._ram.contains(address, length))

    def read(self, address: int, length: int) -> bytes:
        return bytes(self._ram.read(address, length))

    def load(self, address: int, size: int) -> int:
        return int(self._ram.load(address, size))

    def write(self, address: int, data: bytes) -> None:
        self._steps.append(Store(address, data))
        self._ram.write(address, data)

    def store(self, address: int, size: int, value: int) -> None:
        self.write(address, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))


def _accesses(rng: random.Random, target: MmioDevice) -> list[Step]:
    """Aligned accesses at random, mostly to registers, with time between them."""
    size_bytes = int(target.size_bytes)
    starts = [register.offset for register in target.registers.declared] or [0]
    end = max(starts) + 8
    steps: list[Step] = []
    for _ in range(ACCESSES):
        size = rng.choice((1, 2, 4, 4, 4, 8))
        place = rng.random()
        if place < 0.6:
            offset = rng.choice(starts) & -size
        else:
            limit = size_bytes if place > 0.9 else min(size_bytes, end)
            offset = rng.randrange(0, limit) & -size
        kind = rng.randrange(8)
        if kind < 3:
            steps.append(Read(offset, size))
        elif kind < 7:
            value = rng.choice((0, 1, 2, rng.getrandbits(8 * size), MASK, rng.getrandbits(4)))
            steps.append(Write(offset, size, value & ((1 << 8 * size) - 1)))
        else:
            steps.append(Wait(rng.choice((1, 1000, 100_000, 10_000_000, 2_000_000_000))))
    return steps
