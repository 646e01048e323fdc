"""The network card against virtio 1.2, 5.1."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Packet
from asyncvmm.device.net import GSO_NONE, GSO_TCP4
from asyncvmm.network.inet import ACK, TcpSegment, UdpDatagram, build_tcp, build_udp
from asyncvmm.network.offload import completed, wire_packets
from asyncvmm.testing import check_device
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import (
    COMMON,
    NEEDS_RESET,
    DriverQueue,
    Used,
    VirtioDriver,
)
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_net import device as net
from asyncvmm_plugins.virtio_net.config import VirtioNetConfig
from asyncvmm_plugins.virtio_net.device import HEADER, VirtioNet
from asyncvmm_plugins.virtio_net.hooks import asyncvmm_device_types

MAC = b"\x02\0\0\0\0\x11"
OTHER = b"\x02\0\0\0\0\x22"
MACS = (OTHER, MAC)
HOSTS = (bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
ALL = None


class Setup:
    def __init__(self, features: int | None = ALL, **options: object) -> None:
        self.bench = DeviceBench(path="guest/net", ram_size=1 << 22)
        self.port = self.bench.io.net
        self.port.mac = MAC
        self.device = VirtioNet(VirtioNetConfig(**options), self.bench.io)  # type: ignore[arg-type]
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.bench.ram)
        self.queues = self.driver.start(features)
        self.rx, self.tx = self.queues[:2]

    def send(self, data: bytes, header: bytes = HEADER.pack(0, 0, 0, 0, 0, 0, 0)) -> Packet | None:
        """Transmit one packet; what went on the wire."""
        (used,) = self.use(self.tx, [header, data])
        assert used.length == 0
        sent = self.port.take_sent()
        assert len(sent) <= 1
        return sent[0].packet if sent else None

    def use(
        self, queue: DriverQueue, readable: Sequence[bytes] = (), writable: Sequence[int] = ()
    ) -> list[Used]:
        queue.add(readable, writable)
        queue.kick()
        return queue.collect()

    def arrive(self, packet: Packet) -> None:
        self.port.arrive(self.bench.timeline.now_ns, packet)
        self.bench.advance(1)

    def control(self, kind: int, command: int, data: bytes) -> int:
        (used,) = self.use(self.queues[2], [bytes((kind, command)), data], [1])
        return int(used.data[0])


def frame(target: bytes = MAC, size: int = 60) -> bytes:
    return target + OTHER + b"\x08\0" + bytes(number & 0xFF for number in range(size - 14))


def tcp(size: int, mss: int = 1460) -> Packet:
    data = bytes(number * 3 & 0xFF for number in range(size))
    return build_tcp(MACS, HOSTS, TcpSegment(80, 99, 5, 6, ACK, 1000, data), mss)


def test_conformance() -> None:
    (device_type,) = asyncvmm_device_types()
    check_device(device_type)
    check_device(device_type, {"offload": "no", "control": "no", "mac": "02:00:00:00:00:07"})


def test_virtio_5_1_4_configuration() -> None:
    driver = Setup(mtu=9000).driver
    assert driver.register(8) == 1
    assert bytes(driver.config(offset, 1) for offset in range(6)) == MAC
    assert (driver.config(6, 2), driver.config(8, 2), driver.config(10, 2)) == (1, 1, 9000)


def test_virtio_5_1_6_2_frames_leave_as_they_are() -> None:
    setup = Setup()
    packet = setup.send(frame())
    assert packet is not None
    assert (packet.data, packet.checksum_start, packet.gso) == (frame(), -1, GSO_NONE)


def test_virtio_5_1_6_2_checksums_and_segments_are_left_to_us() -> None:
    setup = Setup()
    large = tcp(10_000)
    header = HEADER.pack(1, GSO_TCP4, 54, 1460, 34, 16, 0)
    packet = setup.send(large.data, header)
    assert packet is not None
    assert [each.data for each in wire_packets(packet)] == [e.data for e in wire_packets(large)]


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (b"short", HEADER.pack(0, 0, 0, 0, 0, 0, 0)),
        (frame(size=1600), HEADER.pack(0, 0, 0, 0, 0, 0, 0)),  # beyond the MTU
        (frame(), HEADER.pack(1, 0, 0, 0, 50, 16, 0)),  # a checksum outside
        (frame(), HEADER.pack(0, GSO_TCP4, 54, 1460, 34, 16, 0)),  # no checksum, 5.1.6.2.1
        (frame(), HEADER.pack(1, GSO_TCP4, 54, 0, 34, 16, 0)),
        (frame(), HEADER.pack(1, 3, 54, 1000, 34, 6, 0)),  # UFO was not offered
        (frame(), HEADER.pack(1, 77, 54, 1000, 34, 6, 0)),
    ],
)
def test_what_makes_no_sense_is_dropped(data: bytes, header: bytes) -> None:
    setup = Setup()
    assert setup.send(data, header) is None
    assert setup.device.dropped == 1
    assert not setup.driver.status & NEEDS_RESET


def test_offloads_must_have_been_negotiated() -> None:
    setup = Setup(COMMON)
    assert setup.send(frame(), HEADER.pack(1, 0, 0, 0, 34, 6, 0)) is None


def test_virtio_5_1_6_4_a_buffer_for_each_packet() -> None:
    setup = Setup(COMMON)
    setup.rx.add(writable=[1526])
    setup.rx.add(writable=[12, 1514])
    setup.arrive(Packet(frame()))
    setup.arrive(Packet(frame(size=1514)))
    first, second = setup.rx.collect()
    assert first.length == 12 + 60
    assert first.data[:72] == HEADER.pack(0, 0, 0, 0, 0, 0, 1) + frame()
    assert second.data[12:] == frame(size=1514)


def test_virtio_5_1_6_4_merged_buffers() -> None:
    setup = Setup()
    for _ in range(10):
        setup.rx.add(writable=[256])
    setup.arrive(Packet(frame(size=1000)))
    used = setup.rx.collect()
    assert [each.length for each in used] == [256, 256, 256, 1012 - 768]
    whole = b"".join(each.data[: each.length] for each in used)
    assert whole == HEADER.pack(0, 0, 0, 0, 0, 0, 4) + frame(size=1000)


def test_a_packet_waits_for_buffers() -> None:
    setup = Setup()
    setup.rx.add(writable=[256])
    setup.arrive(Packet(frame(size=1000)))
    setup.arrive(Packet(frame(size=100)))
    assert setup.rx.collect() == []
    for _ in range(4):
        setup.rx.add(writable=[256])
    setup.rx.kick()
    assert [each.length for each in setup.rx.collect()] == [256, 256, 256, 244, 112]


def test_virtio_5_1_6_4_1_open_checksums_and_large_segments_for_those_who_want_them() -> None:
    setup = Setup()
    for _ in range(3):
        setup.rx.add(writable=[65562])
    datagram = build_udp(MACS, HOSTS, UdpDatagram(1, 2, b"x"))
    setup.arrive(datagram)
    setup.arrive(tcp(20_000))
    first, second = setup.rx.collect()
    assert HEADER.unpack(first.data[:12])[0::4] == (1, 34)
    flags, gso, header, size, start, offset, _ = HEADER.unpack(second.data[:12])
    assert (flags, gso, header, size, start, offset) == (1, GSO_TCP4, 54, 1460, 34, 16)
    assert second.length == 12 + 54 + 20_000


def test_virtio_5_1_6_4_1_finished_for_those_who_do_not() -> None:
    setup = Setup(COMMON | net.F_MRG_RXBUF)
    for _ in range(20):
        setup.rx.add(writable=[1526])
    setup.arrive(build_udp(MACS, HOSTS, UdpDatagram(1, 2, b"x")))
    setup.arrive(tcp(20_000))
    used = [each.data[: each.length] for each in setup.rx.collect()]
    assert used[0][12:] == completed(build_udp(MACS, HOSTS, UdpDatagram(1, 2, b"x"))).data
    assert [data[12:] for data in used[1:]] == [p.data for p in wire_packets(tcp(20_000))]
    assert all(data[:12] == HEADER.pack(0, 0, 0, 0, 0, 0, 1) for data in used)


def test_virtio_5_1_6_5_1_receive_modes() -> None:
    setup = Setup()

    def takes(target: bytes) -> bool:
        setup.rx.add(writable=[1526])
        setup.rx.kick()
        setup.arrive(Packet(frame(target)))
        taken = setup.rx.collect()
        return bool(taken)

    group, everybody = b"\x01\0\x5e\0\0\1", b"\xff" * 6
    assert [takes(target) for target in (MAC, OTHER, group, everybody)] == [True] * 4
    assert setup.control(net.CLASS_RX, 0, b"\0") == 0
    assert [takes(target) for target in (MAC, OTHER, group, everybody)] == [
        True,
        False,
        False,
        True,
    ]
    table = struct.pack("<I", 1) + OTHER + struct.pack("<I", 1) + group
    assert setup.control(net.CLASS_MAC, net.MAC_TABLE_SET, table) == 0
    assert [takes(target) for target in (MAC, OTHER, group)] == [True] * 3
    assert setup.control(net.CLASS_RX, 3, b"\1") == 0  # no multicast
    assert setup.control(net.CLASS_RX, 5, b"\1") == 0  # no broadcast
    assert [takes(target) for target in (group, everybody)] == [False, False]
    many = struct.pack("<I", 100) + bytes(600) + struct.pack("<I", 0)
    assert setup.control(net.CLASS_MAC, net.MAC_TABLE_SET, many) == 0
    assert takes(b"\x02\0\0\0\0\x99")  # the table overflowed: better too much


def test_virtio_5_1_6_5_2_the_driver_sets_the_address() -> None:
    setup = Setup()
    assert setup.control(net.CLASS_MAC, net.MAC_ADDR_SET, OTHER) == 0
    assert bytes(setup.driver.config(offset, 1) for offset in range(6)) == OTHER
    assert setup.control(net.CLASS_MAC, net.MAC_ADDR_SET, b"\1" + OTHER[1:]) == 1


def test_virtio_5_1_6_5_6_offloads_go_off_and_on() -> None:
    setup = Setup()
    wanted = net.F_GUEST_CSUM.to_bytes(8, "little")
    assert setup.control(net.CLASS_GUEST_OFFLOADS, 0, wanted) == 0
    for _ in range(20):
        setup.rx.add(writable=[1526])
    setup.arrive(tcp(5_000))
    assert len(setup.rx.collect()) == 4
    assert setup.control(net.CLASS_GUEST_OFFLOADS, 0, (1 << 60).to_bytes(8, "little")) == 1


@pytest.mark.parametrize(
    ("kind", "command", "data"),
    [
        (9, 0, b""),
        (0, 6, b"\1"),
        (0, 0, b"\1\1"),
        (1, 0, b"\xff\xff\xff\xff"),
        (1, 0, b"\0"),
        (4, 0, b"\1\0"),
    ],
)
def test_unknown_and_malformed_commands_are_errors(kind: int, command: int, data: bytes) -> None:
    setup = Setup()
    assert setup.control(kind, command, data or b"") == 1 if data else True
    assert not setup.driver.status & NEEDS_RESET


def test_virtio_5_1_6_3_readable_receive_buffers_break_the_rules() -> None:
    setup = Setup()
    setup.rx.add([b"x"], [100])
    setup.arrive(Packet(frame()))
    setup.rx.kick()
    assert setup.driver.status & NEEDS_RESET


def test_the_cable_is_pulled() -> None:
    setup = Setup()
    setup.port.set_link(False)
    assert setup.driver.take_interrupts() & 2
    assert setup.driver.config(6, 2) == 0
    assert setup.send(frame()) is None


def test_a_reset_forgets_what_had_arrived() -> None:
    setup = Setup()
    setup.arrive(Packet(frame()))
    assert setup.port.waiting == 1
    setup.target.reset()
    assert setup.port.waiting == 0


def test_snapshot_keeps_modes_and_offloads() -> None:
    setup = Setup()
    setup.control(net.CLASS_RX, 0, b"\0")
    setup.control(net.CLASS_MAC, net.MAC_ADDR_SET, OTHER)
    setup.control(net.CLASS_GUEST_OFFLOADS, 0, net.F_GUEST_CSUM.to_bytes(8, "little"))
    other = Setup()
    saved = setup.target.save()
    other.bench.ram.write(other.bench.ram.base, setup.bench.ram.read(setup.bench.ram.base, 1 << 20))
    other.target.reset()
    other.target.load(saved)
    assert other.device.state() == setup.device.state()
    assert bytes(other.driver.config(offset, 1) for offset in range(6)) == OTHER
    device = saved["device"]
    assert isinstance(device, dict)
    for wrong in ({}, {**device["net"], "mac": "02"}, {**device["net"], "offloads": 4}):
        with pytest.raises(ConfigError):
            other.target.load({**saved, "device": {**device, "net": wrong}})


@settings(max_examples=150)
@given(
    packets=st.lists(
        st.tuples(st.binary(min_size=12, max_size=12), st.binary(min_size=0, max_size=200)),
        max_size=8,
    ),
    commands=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    sizes=st.lists(st.integers(1, 300), max_size=20),
)
def test_whatever_a_driver_says_nothing_is_raised(
    packets: list[tuple[bytes, bytes]], commands: list[bytes], sizes: list[int]
) -> None:
    setup = Setup()
    for size in sizes:
        setup.rx.add(writable=[size])
    for header, data in packets:
        setup.tx.add([header, data] if data else [header])
        setup.tx.kick()
        for sent in setup.port.take_sent():
            for piece in wire_packets(sent.packet):
                setup.arrive(piece)
            setup.arrive(sent.packet)
    for command in commands:
        setup.queues[2].add([command], [1])
        setup.queues[2].kick()
    used = setup.rx.collect()
    assert all(each.length <= 300 for each in used)
