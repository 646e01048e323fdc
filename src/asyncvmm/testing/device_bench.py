"""A bench for one device: RAM, a timeline and recorders in place of a machine."""

from __future__ import annotations

from asyncvmm.device import DeviceClock, DeviceIo, Dma, InterruptLine, RandomStream
from asyncvmm.interrupts.lines import InterruptSink
from asyncvmm.memory.pages import Ram
from asyncvmm.timeline.events import Timeline


class InterruptRecorder(InterruptSink):
    """Remembers the level of each input and every change, in order."""

    def __init__(self) -> None:
        self.changes: list[tuple[int, bool]] = []

    def set_level(self, number: int, level: bool) -> None:
        """See InterruptSink."""
        self.changes.append((number, level))


class DeviceBench:
    """What a machine would hand to a device, with everything in reach of a test.

    ``bench.io`` goes to the device; ``bench.ram`` is 1 MiB at 0x8000_0000 unless told otherwise,
    ``bench.interrupts.changes`` what happened to the line, ``advance`` lets virtual time pass.
    """

    def __init__(
        self,
        path: str = "bench/device",
        ram_base: int = 0x8000_0000,
        ram_size: int = 1 << 20,
        seed: int = 0,
        epoch_ns: int = 0,
    ) -> None:
        self.ram = Ram(ram_base, ram_size)
        self.timeline = Timeline()
        self.interrupts = InterruptRecorder()
        self.io = DeviceIo(
            path,
            Dma(self.ram),
            InterruptLine(self.interrupts, 1),
            DeviceClock(self.timeline, epoch_ns),
            RandomStream(seed, path),
        )

    @property
    def irq(self) -> bool:
        """The level of the device's interrupt line."""
        return self.io.irq.level

    def advance(self, nanoseconds: int) -> None:
        """Let virtual time pass, running each event at its own instant."""
        end = self.timeline.now_ns + nanoseconds
        while self.timeline.next_time_ns() <= end:
            self.timeline.now_ns = max(self.timeline.now_ns, self.timeline.next_time_ns())
            self.timeline.run_due()
        self.timeline.now_ns = end
