"""The console device against virtio 1.2, 5.3."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import CharPort
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import COMMON, NEEDS_RESET, DriverQueue, VirtioDriver
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_console.config import VirtioConsoleConfig
from asyncvmm_plugins.virtio_console.device import F_MULTIPORT, F_SIZE, VirtioConsole
from asyncvmm_plugins.virtio_console.hooks import asyncvmm_device_types

READY, ADD, PORT_READY, CONSOLE, RESIZE, OPEN, NAME = 0, 1, 3, 4, 5, 6, 7


class Console:
    """A console with one named port, and a driver that does what Linux's does."""

    def __init__(
        self, features: int | None = None, config: VirtioConsoleConfig | None = None
    ) -> None:
        self.bench = DeviceBench()
        self.config = config or VirtioConsoleConfig(("asyncvmm.run",))
        self.device = VirtioConsole(self.config, self.bench.io)
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.bench.ram)
        self.queues = self.driver.start(features)

    @property
    def ports(self) -> list[CharPort]:
        return self.device.ports

    def receive_queue(self, number: int) -> DriverQueue:
        return self.queues[2 * number + 2 if number else 0]

    def transmit_queue(self, number: int) -> DriverQueue:
        return self.queues[2 * number + 3 if number else 1]

    def offer(self, queue: DriverQueue, count: int = 8, size: int = 64) -> None:
        for _ in range(count):
            queue.add(writable=[size])
        queue.kick()

    def tell(self, number: int, event: int, value: int = 1) -> None:
        self.queues[3].request([struct.pack("<IHH", number, event, value)])

    def hear(self) -> list[tuple[int, int, int, bytes]]:
        messages = []
        for used in self.queues[2].collect():
            data = used.data[: used.length]
            messages.append((*struct.unpack("<IHH", data[:8]), data[8:]))
        return messages

    def received(self, number: int) -> bytes:
        return b"".join(used.data[: used.length] for used in self.receive_queue(number).collect())

    def bring_up(self) -> list[tuple[int, int, int, bytes]]:
        """The handshake of 5.3.6.2; returns all that the device said."""
        self.offer(self.queues[2], 16)
        self.tell(0, READY)
        said = self.hear()
        for number in range(len(self.ports)):
            self.tell(number, PORT_READY)
        said += self.hear()
        for number in range(len(self.ports)):
            self.tell(number, OPEN)
        return said


def test_virtio_5_3_2_queues_and_5_3_4_configuration() -> None:
    console = Console()
    assert console.driver.register(8) == 3
    assert len(console.queues) == 6
    assert [console.driver.config(at, 2) for at in (0, 2)] == [80, 24]
    assert console.driver.config(4, 4) == 2


def test_virtio_5_3_6_2_handshake_in_order() -> None:
    assert Console().bring_up() == [
        (0, ADD, 1, b""),
        (1, ADD, 1, b""),
        (0, CONSOLE, 1, b""),
        (0, RESIZE, 0, struct.pack("<HH", 80, 24)),
        (0, OPEN, 1, b""),
        (1, NAME, 1, b"asyncvmm.run"),
        (1, OPEN, 1, b""),
    ]


def test_messages_wait_for_buffers() -> None:
    console = Console()
    console.tell(0, READY)
    assert console.hear() == []
    console.offer(console.queues[2])
    assert [message[:2] for message in console.hear()] == [(0, ADD), (1, ADD)]


def test_waiting_messages_are_bounded() -> None:
    console = Console()
    for turn in range(50):
        console.tell(0, READY)
        console.tell(1, PORT_READY)
        console.ports[1].set_connected(turn % 2 == 0)
    assert len(console.device.outbox) == 4
    console.offer(console.queues[2])
    assert (1, OPEN, 0, b"") in console.hear()


def test_output_of_both_ports_reaches_its_port() -> None:
    console = Console()
    console.bring_up()
    console.transmit_queue(0).request([b"hello ", b"console"])
    console.transmit_queue(1).request([b"run output"], indirect=True)
    assert console.ports[0].take_output() == b"hello console"
    assert console.ports[1].take_output() == b"run output"


def test_output_waits_while_the_port_is_full_and_arrives_whole() -> None:
    console = Console()
    console.bring_up()
    console.ports[1].capacity = 5
    queue = console.transmit_queue(1)
    for piece in (b"0123456789ab", b"cdef"):
        queue.add([piece])
    queue.kick()
    assert queue.collect() == []
    got = b""
    while data := console.ports[1].take_output(3):
        got += data
    assert got == b"0123456789abcdef"
    assert [used.length for used in queue.collect()] == [0, 0]


def test_input_waits_for_buffers_and_fills_them() -> None:
    console = Console()
    console.bring_up()
    console.ports[0].push(b"x" * 100)
    assert console.received(0) == b""
    console.offer(console.receive_queue(0), 1)
    assert console.received(0) == b"x" * 64
    console.offer(console.receive_queue(0), 2)
    assert console.received(0) == b"x" * 36
    console.ports[0].push(b"key")
    assert console.received(0) == b"key"


def test_input_waits_until_the_guest_opens_the_port() -> None:
    console = Console()
    console.offer(console.queues[2], 16)
    console.offer(console.receive_queue(1))
    console.ports[1].push(b"early")
    console.tell(0, READY)
    console.tell(1, PORT_READY)
    assert not console.ports[1].guest_open
    assert console.received(1) == b""
    console.tell(1, OPEN, 1)
    assert console.ports[1].guest_open
    assert console.received(1) == b"early"
    console.tell(1, OPEN, 0)
    console.ports[1].push(b"late")
    assert console.received(1) == b""


def test_megabytes_arrive_in_order() -> None:
    console = Console()
    console.bring_up()
    sent = bytes(index * 7 % 251 for index in range(300_000))
    left, got = sent, bytearray()
    console.ports[1].capacity = 1000
    while len(got) < len(sent):
        left = left[console.ports[1].push(left) :]
        console.offer(console.receive_queue(1), 8, 333)
        got += console.received(1)
        console.driver._free = int(console.bench.ram.base) + (1 << 19)
    assert got == sent


def test_host_opens_and_closes_and_resizes() -> None:
    console = Console()
    console.bring_up()
    console.ports[1].set_connected(False)
    console.ports[0].resize(132, 50)
    assert console.hear() == [
        (1, OPEN, 0, b""),
        (0, RESIZE, 0, struct.pack("<HH", 132, 50)),
    ]
    assert [console.driver.config(at, 2) for at in (0, 2)] == [132, 50]
    assert console.driver.take_interrupts() & 2


def test_resize_with_rows_first_for_older_linux() -> None:
    console = Console(config=VirtioConsoleConfig(resize="rows-first"))
    assert (0, RESIZE, 0, struct.pack("<HH", 24, 80)) in console.bring_up()


def test_virtio_5_3_5_without_multiport_port_0_is_open() -> None:
    console = Console(features=COMMON | F_SIZE)
    assert not console.device.has(F_MULTIPORT)
    console.offer(console.receive_queue(0))
    console.ports[0].push(b"in")
    assert console.received(0) == b"in"
    console.transmit_queue(0).request([b"out"])
    assert console.ports[0].take_output() == b"out"
    console.ports[0].resize(100, 30)
    assert console.driver.take_interrupts() & 2
    assert console.driver.config(0, 4) == 30 << 16 | 100


def test_virtio_5_3_4_emergency_write_before_the_driver_is_ready() -> None:
    console = Console()
    console.target.reset()
    console.target.write(0x108, 4, ord("!"))
    assert console.ports[0].take_output() == b"!"


def test_short_control_messages_and_buffers_need_a_reset() -> None:
    console = Console()
    console.queues[3].add([b"short"])
    console.queues[3].kick()
    assert console.driver.status & NEEDS_RESET
    console = Console()
    console.offer(console.queues[2], 1, 7)
    console.tell(0, READY)
    assert console.driver.status & NEEDS_RESET
    console = Console()
    console.bring_up()
    console.receive_queue(0).add([b"not writable"])
    console.ports[0].push(b"x")
    assert console.driver.status & NEEDS_RESET
    assert console.ports[0].input_waiting == 1


def test_messages_for_ports_that_do_not_exist_are_ignored() -> None:
    console = Console()
    console.tell(7, PORT_READY)
    console.tell(0xFFFFFFFF, OPEN)
    console.tell(0, 99)
    assert not console.driver.status & NEEDS_RESET
    assert "port 7" in console.bench.io.messages[0]


def test_reset_closes_the_ports_and_keeps_their_bytes() -> None:
    console = Console()
    console.bring_up()
    console.ports[0].push(b"kept")
    for _ in range(2):
        console.target.reset()
    assert not any(port.guest_open for port in console.ports)
    assert console.ports[0].input_waiting == 4
    console.ports[0].push(b"!")
    console.queues = console.driver.start()
    console.bring_up()
    console.offer(console.receive_queue(0))
    assert console.received(0) == b"kept!"


def test_snapshot_goes_on_in_the_middle_of_a_buffer() -> None:
    console = Console()
    console.tell(0, READY)
    console.tell(1, OPEN)
    console.ports[1].capacity = 4
    console.transmit_queue(1).add([b"abcdefgh"])
    console.transmit_queue(1).kick()
    saved: Any = console.target.save()
    assert saved["device"]["console"] == {
        "version": 2,
        "guest_open": [False, True],
        "sent": [0, 4],
        "outbox": [[0, ADD, 1], [1, ADD, 1]],
        "blocked": [False, True],
    }
    console.target.reset()
    console.target.load(saved)
    assert console.target.save() == saved
    assert console.ports[1].guest_open
    assert console.ports[1].take_output() == b"abcd"
    console.target.resume()
    assert console.ports[1].take_output() == b"efgh"
    assert len(console.transmit_queue(1).collect()) == 1


def test_a_restored_console_waits_for_the_bell_as_the_original_does() -> None:
    console = Console()
    console.tell(0, READY)
    console.tell(1, OPEN)
    console.ports[1].push(b"input")
    console.transmit_queue(1).add([b"output"])
    console.receive_queue(1).add([], [16])
    saved: Any = console.target.save()
    console.target.load(saved)
    console.target.resume()
    assert console.target.save() == saved and console.ports[1].take_output() == b""
    console.transmit_queue(1).kick()
    console.receive_queue(1).kick()
    assert console.ports[1].take_output() == b"output"
    assert console.received(1) == b"input"


@pytest.mark.parametrize(
    "change",
    [
        {"sent": [0]},
        {"sent": [0, -1]},
        {"guest_open": [0, 1]},
        {"outbox": [[5, 1, 1]]},
        {"outbox": [[0, 1]]},
        {"outbox": ["no"]},
        {"outbox": [[0, 1, 1 << 16]]},
        {"version": 0},
    ],
)
def test_bad_saved_state_is_refused(change: dict[str, Any]) -> None:
    console = Console()
    saved: Any = console.target.save()
    bad = {**saved["device"], "console": {**saved["device"]["console"], **change}}
    with pytest.raises(ConfigError):
        console.target.load({**saved, "device": bad})
    assert console.target.save() == saved


def test_options_name_the_ports() -> None:
    (kind,) = asyncvmm_device_types()
    config = kind.parse({"ports": "asyncvmm.run+log"})
    assert kind.ports(config) == ("asyncvmm.run", "log")
    for bad in ("a+a", "a/b", "+", "x" * 65, "+".join(map(str, range(40)))):
        with pytest.raises(ConfigError, match="ports"):
            kind.parse({"ports": bad})
