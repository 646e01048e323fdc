"""HTIF with hand-made commands, hostile ones included."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.arch.code import CodeCache
from asyncvmm.base.bits import to_signed
from asyncvmm.base.errors import ConfigError
from asyncvmm.device import CharPort
from asyncvmm.firmware.htif import Htif, HtifCoherence, HtifExit
from asyncvmm.memory.pages import Ram

BASE = 0x80000000
TOHOST, FROMHOST, BLOCK = BASE + 0x1000, BASE + 0x1040, BASE + 0x3000


class Exits(HtifExit):
    """Keeps the exit codes."""

    def __init__(self) -> None:
        self.codes: list[int] = []

    def htif_exit(self, code: int) -> None:
        self.codes.append(int(code))


class Bench:
    """RAM watched for HTIF; a store to ``tohost`` is a command."""

    def __init__(self, fromhost: int = FROMHOST) -> None:
        self.ram = Ram(BASE, 1 << 16)
        self.console, self.exits = CharPort("console"), Exits()
        self.htif = Htif(self.ram, TOHOST, fromhost, self.console, self.exits)
        self.coherence = HtifCoherence(self.ram, CodeCache(), self.htif)

    def command(self, value: int) -> None:
        self.ram.store64(TOHOST, to_signed(value))

    def answer(self) -> int:
        value = self.ram.load64(FROMHOST)
        self.ram.store64(FROMHOST, 0)
        return value

    def call(self, *words: int) -> int:
        for i, word in enumerate(words):
            self.ram.store64(BLOCK + 8 * i, to_signed(word))
        self.command(BLOCK)
        return self.ram.load64(BLOCK)


@pytest.mark.parametrize(("value", "code"), [(1, 0), (3, 1), (0xFF, 127)])
def test_odd_payloads_exit(value: int, code: int) -> None:
    bench = Bench()
    bench.command(value)
    assert bench.exits.codes == [code]
    assert bench.ram.load64(TOHOST) == 0


def test_other_stores_to_the_page_are_no_commands() -> None:
    bench = Bench()
    bench.ram.store64(TOHOST + 8, 1)
    bench.ram.store64(TOHOST, 0)
    assert bench.exits.codes == []


def test_write_goes_to_the_console_and_is_answered() -> None:
    bench = Bench()
    bench.ram.write(BASE + 0x2000, b"hello")
    assert bench.call(64, 1, BASE + 0x2000, 5) == 5
    assert bench.answer() == 1
    assert bench.console.take_output() == b"hello"
    assert bench.call(64, 7, BASE + 0x2000, 5) == -9
    assert bench.call(64, 1, 0, 5) == -14
    assert bench.call(64, 1, BASE, -1) == -14
    assert bench.call(1234) == -38
    assert bench.exits.codes == []


def test_exit_system_call() -> None:
    bench = Bench()
    bench.call(93, 42)
    assert bench.exits.codes == [42]


def test_putchar_and_getchar() -> None:
    bench = Bench()
    bench.command(0x0101 << 48 | ord("A"))
    assert bench.console.take_output() == b"A"
    bench.command(0x0100 << 48)
    assert bench.ram.load64(FROMHOST) == 0
    bench.console.push(b"z")
    bench.htif.input_arrived()
    assert bench.answer() == 0x0100 << 48 | 0x100 | ord("z")


def test_an_answer_waits_until_fromhost_is_clear() -> None:
    bench = Bench()
    bench.console.push(b"z")
    bench.ram.store64(FROMHOST, 5)
    bench.command(0x0100 << 48)
    assert bench.ram.load64(FROMHOST) == 5
    bench.ram.store64(FROMHOST, 0)
    assert bench.answer() & 0xFF == ord("z")


def test_words_on_different_pages_are_both_watched() -> None:
    bench = Bench(fromhost=BASE + 0x5000)
    assert bench.htif.watches(TOHOST >> 12)
    assert bench.htif.watches((BASE + 0x5000) >> 12)
    assert not bench.htif.watches(BASE >> 12)


@pytest.mark.parametrize(("tohost", "fromhost"), [(0, 0), (TOHOST + 4, 0), (TOHOST, 8), (-8, 0)])
def test_words_outside_ram_are_config_errors(tohost: int, fromhost: int) -> None:
    with pytest.raises(ConfigError, match="is not an aligned doubleword of RAM"):
        Htif(Ram(BASE, 1 << 16), tohost, fromhost, CharPort("console"), Exits())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    commands=st.lists(
        st.one_of(
            st.integers(0, 2**64 - 1),
            st.integers(BASE - 64, BASE + (1 << 16)),
            st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 255)).map(
                lambda parts: parts[0] << 56 | parts[1] << 48 | parts[2]
            ),
        ),
        max_size=40,
    ),
    block=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=8, max_size=8),
)
def test_wild_commands_are_contained(commands: list[int], block: list[int]) -> None:
    bench = Bench()
    for i, word in enumerate(block):
        bench.ram.store64(BLOCK + 8 * i, word)
    for value in commands:
        bench.command(value)
        # A block at tohost itself is the guest's own mistake: the answer goes there.
        assert bench.ram.load64(TOHOST) == 0 or value == 0 or abs(value - TOHOST) < 64
