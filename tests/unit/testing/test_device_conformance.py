"""The conformance kit finds what it is for: a device that is broken on purpose for each check."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import pytest
import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import RO, W1C, DeviceIo, MmioDevice, Register
from asyncvmm.plugin import BackendIo, DeviceState, DeviceType
from asyncvmm.testing import CHECKS, DeviceConformance, check_device
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue

REGISTERS = [Register("VALUE", 0, 4), Register("TICKS", 4, 4, RO), Register("PENDING", 8, 4, W1C)]


@attrs.frozen
class NoOptions:
    """Options of the devices below: none."""


class Good(MmioDevice):
    """What a third party's device may be: a register that starts a timer, and an interrupt."""

    def __init__(self, config: NoOptions, io: DeviceIo) -> None:
        super().__init__(io, REGISTERS, 0x10)

    def write_value(self, value: int) -> None:
        self.io.clock.after(0, self.ring)

    def ring(self) -> None:
        self.registers["PENDING"] = 1
        self.io.irq.set(True)

    def write_pending(self, ones: int) -> None:
        self.io.irq.set(self.registers["PENDING"] != 0)

    def resume(self) -> None:
        return None


class Crashes(Good):
    def write_value(self, value: int) -> None:
        if value == 0x5A:
            raise ZeroDivisionError("cannot")


class WideAnswer(Good):
    def read(self, offset: int, size: int) -> int:
        return 0x100


class OutsideIndex(Good):
    def read(self, offset: int, size: int) -> int:
        return [0] * 0x10 and (0 if offset < 0x10 else int.from_bytes([1], "little"))


class OutsideWrite(Good):
    def write(self, offset: int, size: int, value: int) -> None:
        if offset < 0x10:
            super().write(offset, size, value)
        else:
            self.registers["VALUE"] = 1


class Stuck(Good):
    def write_pending(self, ones: int) -> None:
        return None


class Drifts(Good):
    counter = itertools.count()

    def read_ticks(self) -> int:
        return next(self.counter)


class Sticky(Good):
    resets = 0

    def reset(self) -> None:
        super().reset()
        self.resets += 1
        self.registers["VALUE"] = self.resets


class LineAfterReset(Good):
    used = False

    def write_value(self, value: int) -> None:
        self.used = True

    def reset(self) -> None:
        super().reset()
        self.io.irq.set(self.used)


class ForgetsTimer(Good):
    """A timer that takes a while, and that a restored device does not have."""

    def write_value(self, value: int) -> None:
        self.io.clock.after(500_000, self.ring)


class ForgetsShortTimer(Good):
    """The same within the microsecond from one access to the next."""

    def write_value(self, value: int) -> None:
        self.io.clock.after(900, self.ring)


class TimerOutlivesReset(Good):
    """A reset does not end it."""

    def write_value(self, value: int) -> None:
        self.io.clock.after(900, self.ring)


class ForgetsField(Good):
    count = 0

    def write_value(self, value: int) -> None:
        self.count += 1

    def reset(self) -> None:
        super().reset()
        self.count = 0

    def read_ticks(self) -> int:
        return self.count & 0xFF


class Credulous(Good):
    def save(self) -> dict[str, object]:
        return super().save()

    def load(self, saved: dict[str, object]) -> None:
        if "registers" in saved:
            super().load({**saved, "version": 1})


class KeyErrors(Good):
    def save(self) -> dict[str, object]:
        return super().save()

    def load(self, saved: dict[str, object]) -> None:
        if saved["version"] != 1:
            raise ConfigError("version")
        super().load(saved)


@attrs.frozen
class SecondState(DeviceState):
    version: ClassVar[int] = 2

    count: int

    @classmethod
    def upgrade(cls, saved: dict[str, Any], version: int) -> dict[str, Any]:
        return {"count": saved["old_count"]} if version == 1 else super().upgrade(saved, version)


class Second(Good):
    state_type = SecondState

    def state(self) -> SecondState:
        return SecondState(0)

    def restore(self, state: SecondState) -> None:
        return None


OLD = {
    "version": 1,
    "registers": {"VALUE": 0, "TICKS": 0, "PENDING": 0},
    "irq": False,
    "state": {"version": 1, "old_count": 3},
}


class Echo(VirtioDevice):
    """A virtio device that does everything right."""

    def __init__(self, config: NoOptions, io: DeviceIo) -> None:
        super().__init__(io, 42, [16])

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        queue.complete(chain, chain.write(chain.read(64)))


class RaisesAtChain(Echo):
    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        raise ValueError("an empty chain")


class RawLine(Echo):
    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        super().handle(queue, chain)
        self.io.irq.set(True)
        self.interrupt_status = 0


class OwnWalk(Echo):
    """Walks the descriptors by itself, without any of the queue's checks."""

    def notified(self, queue: VirtQueue) -> None:
        address = self.io.dma.load(queue.descriptors, 8)
        self.io.dma.write(0x8000_4000, b"x" * 4 if address else b"y" * 4)


class WalksForEver(Echo):
    def notified(self, queue: VirtQueue) -> None:
        number = 0
        for _ in range(1000):
            entry = queue.descriptors + 16 * number
            if not self.io.dma.load(entry + 12, 2) & 1:
                return
            number = self.io.dma.load(entry + 14, 2)
        raise RecursionError("a chain without end")


class WritesPast(Echo):
    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        for segment in chain.writable:
            self.io.dma.write(segment.address, b"z" * (segment.length + 1))
        queue.complete(chain, 0)


class ReadsPast(Echo):
    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        queue.complete(chain, chain.write(self.io.dma.read(0x8003_0000, 4)))


class Runs(Good):
    """A live device that does everything right: takes requests, and changes itself inside enter."""

    def write_value(self, value: int) -> None:
        self.io.inbox.put(value)

    async def run(self, io: BackendIo) -> None:
        while True:
            await io.receive()
            await trio.sleep(1)
            await io.enter(self.ring)


class Swallows(Runs):
    async def run(self, io: BackendIo) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            return


class GoesOn(Runs):
    async def run(self, io: BackendIo) -> None:
        while True:
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep(1)


class TurnsToError(Runs):
    async def run(self, io: BackendIo) -> None:
        try:
            await trio.sleep(1)
        except trio.Cancelled:
            raise RuntimeError("interrupted") from None


class OnlyOnce(Runs):
    started = False

    async def run(self, io: BackendIo) -> None:
        if self.started:
            raise RuntimeError("started twice")
        self.started = True
        await trio.sleep(1)


def kind(device: Callable[..., Any]) -> DeviceType:
    virtio = isinstance(device, type) and issubclass(device, VirtioDevice)
    live = isinstance(device, type) and issubclass(device, Runs)
    return DeviceType(
        "sample", "a sample", NoOptions, device, "virtio" if virtio else "mmio", live=live
    )


class TestGood(DeviceConformance):
    """As a third party uses it."""

    device_type = kind(Good)


class TestEcho(DeviceConformance):
    device_type = kind(Echo)


class TestRuns(DeviceConformance):
    device_type = kind(Runs)


class TestSecond(DeviceConformance):
    device_type = kind(Second)
    previous = (OLD,)


BROKEN = [
    ("reset", Sticky, "two resets in a row differ|save"),
    ("reset", LineAfterReset, "a reset device interrupts"),
    ("reset", TimerOutlivesReset, "reset after .*, then left alone, the device interrupts"),
    ("registers", Crashes, "ZeroDivisionError: cannot"),
    ("registers", WideAnswer, "gives 0x100, which is wider"),
    ("out_of_range", OutsideIndex, "gives 0x1"),
    ("out_of_range", OutsideWrite, "out of range, has an effect"),
    ("interrupts", Stuck, "nothing that a guest can do brings the interrupt line down"),
    ("interrupts", RawLine, "InterruptStatus is 0, the line True"),
    ("repeatable", Drifts, "answered differently"),
    ("snapshots", ForgetsTimer, "restored after .*Wait.* gives .*False.*, not .*True"),
    ("snapshots", ForgetsShortTimer, "restored after .*Wait.* gives .*False.*, not .*True"),
    ("snapshots", ForgetsField, "restored after .*Read"),
    ("spoilt_states", Credulous, "spoilt state was accepted"),
    ("spoilt_states", KeyErrors, "raises KeyError, not ConfigError"),
    ("previous_states", Second, "the version of state is 2: give the check a state of version 1"),
    ("hostile_chains", OwnWalk, "the device wrote to 0x80004000"),
    ("hostile_chains", WalksForEver, "its own next: the device raised RecursionError"),
    ("dma", WritesPast, "not its to write"),
    ("dma", ReadsPast, "depends on RAM that the device was not given"),
    ("dma", RaisesAtChain, "raised ValueError: an empty chain"),
    ("cancellation", Swallows, "swallows the cancellation at await 1"),
    ("cancellation", GoesOn, "cancelled at await .*, goes on"),
    ("cancellation", TurnsToError, "cancelled at await 1: the device raised RuntimeError"),
    ("cancellation", OnlyOnce, "raised RuntimeError: started twice"),
]


@pytest.mark.parametrize(("check", "device", "message"), BROKEN)
def test_the_kit_finds(check: str, device: Callable[..., Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_device(kind(device), checks=(check,))


def test_there_is_a_broken_device_for_each_check() -> None:
    assert {check for check, _, _ in BROKEN} == set(CHECKS)


def test_a_state_of_a_version_that_is_not_known_any_more() -> None:
    lost = {**OLD, "state": {"version": 1, "count_of_old": 3}}
    with pytest.raises(AssertionError, match="loading the state of an older version"):
        check_device(kind(Second), previous=(lost,), checks=("previous_states",))
