"""The 16550A, register by register; the section numbers are the PC16550D data sheet's."""

from __future__ import annotations

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm_plugins.ns16550.config import Ns16550Config
from asyncvmm_plugins.ns16550.device import Ns16550
from asyncvmm_plugins.ns16550.state import Ns16550State

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7


class Uart:
    """A UART on a bench, with byte accesses."""

    def __init__(self, config: Ns16550Config | None = None) -> None:
        self.bench = DeviceBench()
        self.port = self.bench.io.console
        self.device = Ns16550(config or Ns16550Config(), self.bench.io)
        self.device.reset()

    def __getitem__(self, register: int) -> int:
        return int(self.device.read(register, 1))

    def __setitem__(self, register: int, value: int) -> None:
        self.device.write(register, 1, value)


@pytest.fixture
def uart() -> Uart:
    return Uart()


def test_table_3_master_reset(uart: Uart) -> None:
    assert [uart[number] for number in range(1, 8)] == [0, 0x01, 0, 0, 0x60, 0xB0, 0]
    assert not uart.bench.irq


def test_output_reaches_the_port_at_once(uart: Uart) -> None:
    for byte in b"hello":
        uart[DATA] = byte
        assert uart[LSR] == 0x60
    assert uart.port.take_output() == b"hello"


def test_8_3_divisor_latch_hides_data_and_ier(uart: Uart) -> None:
    uart[IER] = 0x05
    uart[LCR] = 0x83
    uart[DATA], uart[IER] = 0x34, 0x12
    assert (uart[DATA], uart[IER]) == (0x34, 0x12)
    uart[LCR] = 0x03
    assert uart[IER] == 0x05
    assert uart.device.divisor == 0x1234
    assert uart.port.take_output() == b""


def test_detection_as_16550a(uart: Uart) -> None:
    uart[SCR] = 0xA5
    assert uart[SCR] == 0xA5
    uart[IER] = 0xFF
    assert uart[IER] == 0x0F
    uart[IER] = 0
    assert uart[IIR] == 0x01
    uart[FCR] = 0x01
    assert uart[IIR] == 0xC1
    uart[FCR] = 0
    assert uart[IIR] == 0x01


def test_thre_interrupt_when_enabled_while_empty_and_again(uart: Uart) -> None:
    # Linux's 8250 driver takes a UART that does not do this for a broken one.
    for _ in range(2):
        uart[IER] = 0x02
        assert uart.bench.irq
        assert uart[IIR] == 0x02
        assert not uart.bench.irq
        assert uart[IIR] == 0x01
        uart[IER] = 0x00


def test_thre_interrupt_after_each_byte(uart: Uart) -> None:
    uart[IER] = 0x02
    assert uart[IIR] == 0x02
    uart[DATA] = 0x41
    assert uart.bench.irq
    assert uart[IIR] == 0x02


def test_thr_write_takes_the_interrupt_back_while_the_port_is_full(uart: Uart) -> None:
    uart.port.capacity = 2
    uart[IER] = 0x02
    uart[FCR] = 0x01
    for byte in b"abc":
        uart[DATA] = byte
    assert uart[LSR] & 0x60 == 0
    assert not uart.bench.irq
    assert uart.port.take_output() == b"ab"
    assert uart.bench.irq
    assert uart[LSR] & 0x60 == 0x60
    assert uart.port.take_output() == b"c"


def test_full_transmit_fifo_drops_what_does_not_fit(uart: Uart) -> None:
    uart.port.capacity = 1
    uart[FCR] = 0x01
    for byte in range(20):
        uart[DATA] = byte
    uart.port.capacity = 100
    assert uart.port.take_output(1) == b"\0"
    assert uart.port.take_output() == bytes(range(1, 17))


def test_input_without_fifo(uart: Uart) -> None:
    uart[IER] = 0x01
    uart.port.push(b"xy")
    assert uart.bench.irq
    assert uart[IIR] == 0x04
    assert uart[LSR] == 0x61
    assert uart[DATA] == ord("x")
    assert uart[DATA] == ord("y")
    assert uart[LSR] == 0x60
    assert not uart.bench.irq
    assert uart[DATA] == 0


def test_input_never_overruns(uart: Uart) -> None:
    uart[FCR] = 0x01
    uart.port.push(bytes(range(100)))
    seen = []
    while uart[LSR] & 1:
        seen.append(uart[DATA])
    assert seen == list(range(100))
    assert uart[LSR] & 2 == 0


@pytest.mark.parametrize(("fcr", "trigger"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_8_6_receive_trigger_levels(fcr: int, trigger: int) -> None:
    uart = Uart()
    uart[FCR] = fcr
    uart[IER] = 0x01
    for count in range(1, trigger + 1):
        uart.port.push(b"z")
        assert uart.bench.irq == (count == trigger)
    assert uart[IIR] == 0xC4


def test_8_4_character_timeout(uart: Uart) -> None:
    uart[LCR] = 0x83
    uart[DATA] = 2  # 115200 baud from 3.6864 MHz
    uart[LCR] = 0x03
    uart[FCR] = 0xC1
    uart[IER] = 0x01
    uart.port.push(b"q")
    four_characters_ns = 4 * 10 * 1_000_000_000 // 115_200
    uart.bench.advance(four_characters_ns - 100)
    assert not uart.bench.irq
    uart.bench.advance(200)
    assert uart.bench.irq
    assert uart[IIR] == 0xCC
    assert uart[DATA] == ord("q")
    assert not uart.bench.irq


def test_table_4_priorities(uart: Uart) -> None:
    uart[IER] = 0x0F
    uart[MCR] = 0x10 | 0x0F
    uart[MCR] = 0x10
    uart[DATA] = 1
    uart[DATA] = 2  # no FIFO: overruns
    assert uart[IIR] == 0x06
    assert uart[LSR] & 0x02
    assert uart[IIR] == 0x04
    assert uart[DATA] == 1
    assert uart[IIR] == 0x02
    assert uart[IIR] == 0x00
    assert uart[MSR] & 0x0F
    assert uart[IIR] == 0x01
    assert not uart.bench.irq


def test_8_7_loopback(uart: Uart) -> None:
    uart[MCR] = 0x1A
    assert uart[MSR] & 0xF0 == 0x90
    uart[DATA] = 0x5A
    assert uart[DATA] == 0x5A
    assert uart.port.take_output() == b""
    uart.port.push(b"later")
    assert uart[LSR] & 1 == 0
    uart[MCR] = 0x00
    assert uart[DATA] == ord("l")
    assert uart[MSR] & 0xF0 == 0xB0


def test_8_6_toggling_the_fifos_empties_them(uart: Uart) -> None:
    uart[FCR] = 0x01
    uart.port.push(b"abc")
    uart[FCR] = 0x03
    assert uart[LSR] & 1 == 0
    uart.port.push(b"def")
    uart[FCR] = 0x00
    assert uart[LSR] & 1 == 0


def test_register_shift_spreads_the_registers() -> None:
    uart = Uart(Ns16550Config(register_shift=2))
    uart.device.write(7 << 2, 4, 0x77)
    assert uart.device.read(7 << 2, 4) == 0x77
    assert uart.device.read(5 << 2, 1) == 0x60


def test_beyond_the_registers_reads_zero(uart: Uart) -> None:
    assert uart.device.read(0x80, 4) == 0
    uart.device.write(0x80, 8, -1)


def test_reset_is_idempotent_and_keeps_what_waits_in_the_port(uart: Uart) -> None:
    uart.port.push(b"abc")  # one byte is in the holding register, two wait
    uart[IER] = 0x0F
    for _ in range(2):
        uart.device.reset()
        assert (uart.device.ier, uart.bench.irq) == (0, False)
    assert [uart[DATA], uart[DATA], uart[DATA]] == [ord("b"), ord("c"), 0]


def test_snapshot_goes_on_where_it_was(uart: Uart) -> None:
    uart[LCR] = 0x03
    uart[FCR] = 0xC1
    uart[IER] = 0x01
    uart.port.push(b"q")
    uart.bench.advance(1000)
    saved = uart.device.save()
    other = Uart()
    other.device.load(saved)
    assert other.device.save() == saved
    assert not other.bench.irq
    other.bench.advance(10**9)
    assert other.bench.irq
    assert other[DATA] == ord("q")


def test_a_snapshot_asks_for_no_input_before_a_driver_does(uart: Uart) -> None:
    """What was typed before the port was set up stays in it: turning the FIFOs on loses none of it."""
    uart.port.push(b"early")
    other = Uart()
    other.port.push(b"early")
    other.device.load(uart.device.save())
    other.device.resume()
    for each in (uart, other):
        assert each.device.save()["receive_fifo"] == ""
        each[FCR] = 0xC1
        assert bytes(each[DATA] for _ in range(5)) == b"early"


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"ier": 0x10},
        {"ier": "1"},
        {"ier": True},
        {"receive_fifo": "00" * 17},
        {"receive_fifo": "00" * 2},
        {"receive_fifo": "zz"},
        {"unknown": 1},
        {"timeout_left_ns": -2},
    ],
)
def test_bad_saved_state_is_refused_and_changes_nothing(
    uart: Uart, change: dict[str, object]
) -> None:
    before = uart.device.save()
    with pytest.raises(ConfigError):
        uart.device.load({**before, **change})
    assert uart.device.save() == before


def test_state_is_an_attrs_value(uart: Uart) -> None:
    state = uart.device.state()
    assert Ns16550State.load(state.save()) == state
