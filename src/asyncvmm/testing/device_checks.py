"""Checks that every device has to pass: reset, registers, interrupts, repeatability."""

from __future__ import annotations

import contextlib
from typing import Final

from asyncvmm.base.errors import GuestError
from asyncvmm.device import RO, RW
from asyncvmm.testing.device_specimen import (
    MASK,
    Read,
    Specimen,
    Step,
    Subject,
    Write,
    blame,
    checked_value,
    signed,
)

SIZES: Final = (1, 2, 4, 8)
CONFIG_SPACE: Final = 0x100
INTERRUPT_STATUS: Final = 0x60
INTERRUPT_ACK: Final = 0x64
ACKNOWLEDGED: Final = 20  # how often a line that goes high is acknowledged
ROUNDS: Final = 3
CUT: Final = (
    7  # a device is reset after so many steps: an odd number, for every other one is a wait
)
CUTS: Final = 12
LEFT_ALONE_NS: Final = 5_000_000_000


def check_reset(subject: Subject) -> None:
    """Reset is idempotent, and no reset device interrupts, whatever was done to it before, then or
    later: its timers do not outlive the reset.
    """
    specimen = subject.make()
    for steps in ([], subject.script()):
        for step in steps:
            specimen.perform(step)
        states = []
        for _ in range(3):
            with blame("reset"):
                specimen.target.reset()
            assert not specimen.bench.irq, "a reset device interrupts"
            states.append(specimen.snapshot())
        assert len(set(states)) == 1, "two resets in a row differ"
    if subject.virtio:
        script = subject.script()
        for end in range(CUT, len(script), len(script) // CUTS):
            specimen = subject.make()
            for step in script[:end]:
                specimen.perform(step)
            _check_quiet(specimen, script[end - 1])
        return
    specimen = subject.make()
    for number, step in enumerate(subject.script()):
        specimen.perform(step)
        if number % CUT == 0:
            _check_quiet(specimen, step)


def _check_quiet(specimen: Specimen, step: Step) -> None:
    """The device is reset at this instant, and left alone."""
    with blame("reset"):
        specimen.target.reset()
    with blame(f"reset after {step!r}, then left alone"):
        specimen.bench.advance(LEFT_ALONE_NS)
    assert not specimen.bench.irq, f"reset after {step!r}, then left alone, the device interrupts"


def check_registers(subject: Subject) -> None:
    """Every register at every width and alignment is answered, or refused with GuestError."""
    specimen = subject.make()
    places = [(register.offset, register.size) for register in specimen.target.registers.declared]
    if subject.virtio:
        places += [(CONFIG_SPACE + 8 * number, 8) for number in range(16)]
    end = int(specimen.target.size_bytes)
    for start, length in places:
        for size in SIZES:
            for offset in range(max(0, start - size + 1), min(start + length, end - size + 1)):
                full = (1 << 8 * size) - 1
                for value in (None, 0, full, 0x5A5A5A5A5A5A5A5A & full, None):
                    specimen.perform(
                        Read(offset, size) if value is None else Write(offset, size, value)
                    )
        with blame("reset"):
            specimen.target.reset()


def check_out_of_range(subject: Subject) -> None:
    """Beyond the device, and across its end, reads fault or give zero and writes change nothing."""
    specimen = subject.make()
    end = int(specimen.target.size_bytes)
    for size in SIZES:
        offsets = {end - size + 1, end - 1, end, end + size, 2 * end, 1 << 32, 1 << 40, 1 << 62}
        for offset in sorted(offset for offset in offsets if offset + size > end):
            _check_outside(specimen, offset, size)


def _check_outside(specimen: Specimen, offset: int, size: int) -> None:
    before = specimen.snapshot()
    read = Read(offset, size)
    with blame(f"{read!r}, out of range"):
        try:
            value = checked_value(specimen.target.read(offset, size), read)
        except GuestError:
            value = 0
    assert value == 0 or offset < specimen.target.size_bytes, f"{read!r} gives {value:#x}"
    with (
        blame(f"writing {size} bytes at {offset:#x}, out of range"),
        contextlib.suppress(GuestError),
    ):
        specimen.target.write(offset, size, signed(MASK))
    if offset >= specimen.target.size_bytes:
        assert specimen.snapshot() == before, f"a write at {offset:#x}, out of range, has an effect"
    assert not specimen.bench.irq, f"an access at {offset:#x}, out of range, interrupts"


def check_repeatable(subject: Subject) -> None:
    """The same accesses at the same instants give the same answers, interrupts, state and RAM."""
    if subject.device_type.live:
        return
    first, second = subject.make(), subject.make()
    for step in subject.script():
        assert first.perform(step) == second.perform(step), f"{step} is answered differently"
        assert first.snapshot() == second.snapshot(), f"{step}: the same accesses, another state"
    assert first.ram_bytes() == second.ram_bytes(), "the same accesses, another RAM"
    assert first.bench.interrupts.changes == second.bench.interrupts.changes
    assert first.io.messages == second.io.messages, "the same accesses, another log"


def check_interrupts(subject: Subject) -> None:
    """The line is a level: high exactly as long as there is something to acknowledge, and a guest can
    always bring it down by what it reads and writes.
    """
    specimen = subject.make()
    acknowledge = _acknowledge_virtio if subject.virtio else _acknowledge_registers
    times = 0
    for step in subject.script():
        specimen.perform(step)
        if subject.virtio:
            status = int(specimen.target.read(INTERRUPT_STATUS, 4))
            high = specimen.bench.irq
            assert high == (status != 0), f"{step}: InterruptStatus is {status}, the line {high}"
        if specimen.bench.irq and times < ACKNOWLEDGED:
            times += 1
            acknowledge(specimen, step)
    levels = [level for _, level in specimen.bench.interrupts.changes]
    assert levels == [n % 2 == 0 for n in range(len(levels))], "the line did not alternate"


def _acknowledge_virtio(specimen: Specimen, step: Step) -> None:
    """4.2.2: writing InterruptACK clears these bits, and the line with the last."""
    for bit in (1, 2):
        specimen.perform(Write(INTERRUPT_ACK, 4, bit))
    assert not specimen.bench.irq, f"{step}: the line stays high after InterruptACK"
    with blame("InterruptACK with nothing to acknowledge"):
        specimen.target.write(INTERRUPT_ACK, 4, 3)
    assert not specimen.bench.irq, "InterruptACK with nothing to acknowledge raises the line"


def _acknowledge_registers(specimen: Specimen, step: Step) -> None:
    """Read everything, write ones where that clears or commands, zeros to what can be set."""
    for _ in range(ROUNDS):
        for register in specimen.target.registers.declared:
            specimen.perform(Read(register.offset, register.size))
            if register.access != RO:
                ones = (1 << 8 * register.size) - 1
                value = 0 if register.access == RW else ones
                specimen.perform(Write(register.offset, register.size, value))
            if not specimen.bench.irq:
                return
    raise AssertionError(f"{step}: nothing that a guest can do brings the interrupt line down")
