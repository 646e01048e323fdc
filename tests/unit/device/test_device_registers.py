"""Declared registers: access kinds, narrow and wide accesses, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError, GuestError, InternalError
from asyncvmm.device import (
    RO,
    UNKNOWN_FAULTS,
    UNKNOWN_IS_ZERO,
    W1C,
    WO,
    MmioDevice,
    Register,
    RegisterBank,
)
from asyncvmm.testing.device_bench import DeviceBench


class Sample(MmioDevice):
    """Thirty lines of a third party's device."""

    def __init__(self, bench: DeviceBench, unknown: str = UNKNOWN_FAULTS) -> None:
        registers = [
            Register("CONTROL", 0x00, 4, reset=0x1234_5678),
            Register("ID", 0x04, 4, RO, reset=0xFEED_F00D),
            Register("COMMAND", 0x08, 4, WO),
            Register("PENDING", 0x0C, 4, W1C),
            Register("WIDE", 0x10, 8, mask=0x00FF_FFFF_FFFF_FFFF),
            Register("COUNT", 0x18, 2, RO),
        ]
        super().__init__(bench.io, registers, 0x20, unknown)
        self.commands: list[int] = []
        self.cleared: list[int] = []
        self.reads = 0

    def read_count(self) -> int:
        self.reads += 1
        return 0xABCD

    def write_command(self, value: int) -> None:
        self.commands.append(value)

    def write_pending(self, ones: int) -> None:
        self.cleared.append(ones)


@pytest.fixture
def sample() -> Sample:
    device = Sample(DeviceBench())
    device.reset()
    return device


def test_reset_values_and_whole_accesses(sample: Sample) -> None:
    assert sample.read(0, 4) == 0x1234_5678
    sample.write(0, 4, -1)
    assert sample.read(0, 4) == 0xFFFF_FFFF
    sample.reset()
    sample.reset()
    assert sample.read(0, 4) == 0x1234_5678


def test_narrow_access_touches_its_bytes_only(sample: Sample) -> None:
    assert [sample.read(offset, 1) for offset in range(4)] == [0x78, 0x56, 0x34, 0x12]
    sample.write(2, 2, 0xBEEF)
    assert sample.read(0, 4) == 0xBEEF_5678


def test_wide_access_goes_through_each_register_once(sample: Sample) -> None:
    assert sample.read(0, 8) == 0xFEED_F00D_1234_5678 - 2**64
    sample.write(0, 8, 0x0000_0001_0000_0002)
    assert sample.read(0, 4) == 2
    assert sample.registers["ID"] == 0xFEED_F00D


def test_handlers_are_called_once_an_access(sample: Sample) -> None:
    assert sample.read(0x19, 1) == 0xAB
    assert sample.reads == 1
    sample.write(0x09, 1, 0x55)
    assert sample.commands == [0x5500]
    assert sample.read(8, 4) == 0


def test_writing_ones_clears(sample: Sample) -> None:
    sample.registers["PENDING"] = 0xFF
    sample.write(0x0C, 4, 0x0F)
    assert sample.read(0x0C, 4) == 0xF0
    assert sample.cleared == [0x0F]


def test_mask_keeps_bits(sample: Sample) -> None:
    sample.write(0x10, 8, -1)
    assert sample.read(0x10, 8) == 0x00FF_FFFF_FFFF_FFFF


def test_unknown_offsets_fault_or_read_zero() -> None:
    strict, lenient = Sample(DeviceBench()), Sample(DeviceBench(), UNKNOWN_IS_ZERO)
    with pytest.raises(GuestError, match="0x1a"):
        strict.read(0x18, 8)
    with pytest.raises(GuestError):
        strict.write(0x1C, 4, 0)
    assert lenient.read(0x18, 8) == 0xABCD
    lenient.write(0x18, 8, -1)


def test_state_is_checked_before_anything_changes(sample: Sample) -> None:
    sample.write(0, 4, 77)
    saved = sample.save()
    for bad in (
        {**saved, "version": 9},
        {**saved, "registers": {}},
        {**saved, "registers": {**saved["registers"], "ID": 1 << 32}},  # type: ignore[dict-item]
        {**saved, "irq": 1},
    ):
        with pytest.raises(ConfigError):
            sample.load(bad)
    assert sample.save() == saved
    sample.reset()
    sample.load(saved)
    assert sample.read(0, 4) == 77


@pytest.mark.parametrize(
    "registers",
    [
        [Register("A", 0, 4), Register("B", 2, 2)],
        [Register("A", 0, 4), Register("A", 4, 4)],
        [Register("A", 0x20, 4)],
    ],
)
def test_bad_declarations_are_the_plugins_bug(registers: list[Register]) -> None:
    with pytest.raises(InternalError):
        RegisterBank(object(), registers, 0x20)


@settings(derandomize=True)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 31), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1))
    ),
    read=st.tuples(st.integers(0, 31), st.sampled_from([1, 2, 4, 8])),
)
def test_plain_registers_are_memory(
    writes: list[tuple[int, int, int]], read: tuple[int, int]
) -> None:
    registers = [Register("a", 0, 8), Register("b", 8, 4), Register("c", 12, 2)]
    registers += [Register(f"d{n}", 14 + n, 1) for n in range(2)] + [Register("e", 16, 8)]
    bank = RegisterBank(object(), [*registers, Register("f", 24, 8)], 32)
    memory = bytearray(32)
    for offset, size, value in writes:
        offset &= -size
        bank.write(offset, size, value)
        memory[offset : offset + size] = (value & (2 ** (8 * size) - 1)).to_bytes(size, "little")
    offset, size = read[0] & -read[1], read[1]
    assert bank.read(offset, size) == int.from_bytes(memory[offset : offset + size], "little")
