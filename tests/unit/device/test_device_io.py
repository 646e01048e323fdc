"""Capabilities: bounded DMA, seeded randomness, bounded ports."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError, ConfigError, DmaError
from asyncvmm.device import CharPort, MemoryBlob, RandomStream
from asyncvmm.testing.device_bench import DeviceBench

BASE = 0x8000_0000
END = BASE + (1 << 20)


@pytest.mark.parametrize("address", [0, BASE - 1, END - 3, END, 2**63 - 1, -(2**63), -1])
def test_dma_refuses_what_is_not_ram(address: int) -> None:
    dma = DeviceBench().io.dma
    with pytest.raises(DmaError):
        dma.load(address, 4)
    with pytest.raises(DmaError):
        dma.store(address, 4, 0)
    with pytest.raises(DmaError):
        dma.read(address, 4)
    with pytest.raises(DmaError):
        dma.write(address, b"1234")


@settings(derandomize=True)
@given(
    offset=st.integers(0, 40),
    size=st.sampled_from([1, 2, 4, 8]),
    value=st.integers(-(2**63), 2**63 - 1),
)
def test_dma_load_and_store_agree_with_bytes(offset: int, size: int, value: int) -> None:
    dma = DeviceBench().io.dma
    dma.write(BASE, bytes(range(64)))
    dma.store(BASE + offset, size, value)
    low = (value & (2**64 - 1)) & (2 ** (8 * size) - 1)
    assert dma.read(BASE + offset, size) == low.to_bytes(size, "little")
    assert dma.load(BASE + offset, size) & (2**64 - 1) == low
    assert dma.read(BASE, offset) == bytes(range(offset))


def test_random_streams_depend_on_seed_and_path_and_position_only() -> None:
    whole = RandomStream(1, "a").bytes(100)
    stream = RandomStream(1, "a")
    assert b"".join(stream.bytes(n) for n in (0, 1, 31, 32, 33, 3)) == whole
    assert RandomStream(1, "a", position=40).bytes(60) == whole[40:]
    assert RandomStream(2, "a").bytes(100) != whole
    assert RandomStream(1, "b").bytes(100) != whole
    assert 0 <= stream.below(7) < 7


def test_random_stream_is_the_same_on_every_machine() -> None:
    assert RandomStream(0, "guest/rng").bytes(8).hex() == "1cc1d6db084f873e"


def test_port_is_bounded_both_ways_and_calls_back() -> None:
    port = CharPort("p", capacity=4)
    calls: list[str] = []
    port.on_room = lambda: calls.append("room")
    port.on_input_room = lambda: calls.append("input room")
    port.on_input = lambda: calls.append("input")
    port.on_output = lambda: calls.append("output")
    assert port.transmit(b"abcdef") == 4
    assert port.room == 0
    assert port.take_output(1) == b"a"
    assert port.take_output() == b"bcd"
    assert port.push(b"12345") == 4
    assert port.push(b"6") == 0
    assert port.receive(2) == b"12"
    assert port.receive(9) == b"34"
    assert port.receive(9) == b""
    assert calls == ["output", "room", "input", "input room"]


def test_port_keeps_the_order_whoever_calls_back() -> None:
    port = CharPort("p", capacity=4)
    host_gets, device_gets = bytearray(), bytearray()
    to_push = bytearray(b"0123456789abcdefghij")

    def feed() -> None:
        del to_push[: port.push(bytes(to_push))]

    def device_reads() -> None:
        while port.input_waiting:
            device_gets.extend(port.receive(3))

    port.on_output = lambda: host_gets.extend(port.take_output(3))
    port.on_input_room = feed
    assert port.transmit(b"the quick brown fox") == 19
    host_gets += port.take_output()
    assert host_gets == b"the quick brown fox"
    feed()
    assert bytes(to_push) == b"456789abcdefghij"
    port.on_input = device_reads
    device_reads()
    assert device_gets == b"0123456789abcdefghij"


def test_port_tells_of_size_and_openings_on_changes_only() -> None:
    port = CharPort("p")
    calls: list[str] = []
    port.on_resize = lambda: calls.append("size")
    port.on_connection = lambda: calls.append("connection")
    port.on_guest_open = lambda: calls.append("guest")
    port.resize(132, 50)
    port.resize(132, 50)
    port.set_connected(True)
    port.set_connected(False)
    port.set_guest_open(True)
    port.set_guest_open(True)
    assert calls == ["size", "connection", "guest"]
    with pytest.raises(ValueError, match="window"):
        port.resize(0, 50)


def test_port_snapshot() -> None:
    port, other = CharPort("p", capacity=8), CharPort("p", capacity=8)
    port.push(b"in")
    port.transmit(b"out")
    port.resize(100, 30)
    saved = port.save()
    other.load(saved)
    assert other.save() == saved
    assert (other.receive(9), other.take_output()) == (b"in", b"out")
    for change in (
        {"input": "x"},
        {"output": "00" * 9},
        {"rows": 0},
        {"columns": "9"},
        {"version": 2},
        {"input": None},
    ):
        with pytest.raises(ConfigError):
            other.load({**saved, **change})
    assert other.input_waiting == 0


def test_memory_blob_keeps_its_bounds() -> None:
    blob = MemoryBlob(bytes(1024))
    blob.pwrite(512, b"x" * 512)
    blob.write_zeroes(1000, 24)
    assert blob.pread(990, 34) == b"x" * 10 + bytes(24)
    for offset, length in ((-1, 1), (1024, 1), (0, 1025), (0, -1)):
        with pytest.raises(BackendError):
            blob.pread(offset, length)
    with pytest.raises(BackendError):
        MemoryBlob(bytes(512), read_only=True).pwrite(0, b"x")


def test_ports_and_log_lines_are_bounded() -> None:
    io = DeviceBench().io
    assert io.port("a") is io.port("a")
    with pytest.raises(ConfigError):
        for number in range(100):
            io.port(f"p{number}")
    for number in range(5000):
        io.log(f"{number} " + "x" * 10_000)
    assert len(io.messages) == 1001
    assert io.messages[999].startswith("999 ")
    assert io.messages[-1] == "further messages are dropped"
    assert max(map(len, io.messages)) < 600
    io = DeviceBench().io
    sunk: list[tuple[str, str]] = []
    io.log_sink = lambda path, message: sunk.append((path, message))
    io.log("hello")
    assert sunk == [("bench/device", "hello")]
