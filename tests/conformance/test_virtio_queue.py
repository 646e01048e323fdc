"""Split virtqueues against virtio 1.2, clause by clause."""

from __future__ import annotations

import pytest

from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import (
    COMMON,
    INDIRECT,
    NEEDS_RESET,
    NEXT,
    WRITE,
    DriverQueue,
    VirtioDriver,
)
from asyncvmm.virtio import (
    F_EVENT_IDX,
    F_INDIRECT_DESC,
    F_VERSION_1,
    Chain,
    VirtioDevice,
    VirtioMmio,
    VirtQueue,
)


class Upper(VirtioDevice):
    """Answers with what it was sent, in capitals; with ``delay_ns`` it answers later."""

    def __init__(self, bench: DeviceBench, delay_ns: int = 0) -> None:
        super().__init__(bench.io, 42, [64, 8])
        self.delay_ns = delay_ns
        self.handled = 0

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        self.handled += 1

        def answer() -> None:
            queue.complete(chain, chain.write(chain.read(1 << 16).upper()))

        if self.delay_ns:
            self.io.clock.after(self.delay_ns, answer)
        else:
            answer()


class Setup:
    """Device, transport and driver on a bench."""

    def __init__(self, features: int | None = None, delay_ns: int = 0, size: int = 8) -> None:
        self.bench = DeviceBench()
        self.device = Upper(self.bench, delay_ns)
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.bench.ram)
        self.queue: DriverQueue = self.driver.start(features, size)[0]

    @property
    def broken(self) -> bool:
        return bool(self.driver.status & NEEDS_RESET)


def test_virtio_2_7_4_chain_of_readable_then_writable_buffers() -> None:
    setup = Setup()
    used = setup.queue.request([b"hel", b"l", b"o world"], [1, 4, 100])
    assert used.length == 11
    assert used.data[:11] == b"HELLO WORLD"


def test_virtio_2_7_5_3_2_indirect_chain() -> None:
    setup = Setup()
    used = setup.queue.request([b"abc", b"def"], [3, 3], indirect=True)
    assert (used.length, used.data) == (6, b"ABCDEF")
    assert not setup.broken


def test_virtio_2_7_5_3_2_direct_descriptors_before_an_indirect_one() -> None:
    setup, address = Setup(), 0x8008_0000
    queue = setup.queue
    setup.bench.ram.write(address, b"ab")
    queue.descriptor(0, address, 2, NEXT, 1)
    # The WRITE flag of the descriptor that refers to the table is ignored.
    queue.descriptor(1, address + 0x100, 16, INDIRECT | WRITE, 0)
    queue.descriptor(0, address + 0x200, 8, WRITE, 0, table=address + 0x100)
    queue.make_available(0)
    queue.kick()
    assert setup.bench.ram.read(address + 0x200, 3) == b"AB\0"


def test_virtio_2_7_5_3_an_indirect_table_may_be_longer_than_the_queue() -> None:
    setup = Setup(size=8)
    used = setup.queue.request([b"x"] * 40, [40], indirect=True)
    assert used.length == 40


def test_virtio_2_7_8_used_index_wraps_at_16_bits() -> None:
    setup = Setup(features=F_VERSION_1, size=8)
    for turn in range(3):
        setup.device.queues[0].next_used = 0xFFFE
        setup.queue.seen_used = 0xFFFE
        setup.bench.ram.store(setup.queue.used + 2, 2, 0xFFFE)
        for _ in range(4):
            assert setup.queue.request([b"a"], [1]).data == b"A", turn
    assert setup.device.queues[0].next_used == 2


def test_virtio_2_7_6_available_index_wraps_at_16_bits() -> None:
    setup = Setup(features=F_VERSION_1, size=8)
    setup.device.queues[0].next_available = 0xFFFE
    setup.queue.available_index = 0xFFFE
    setup.bench.ram.store(setup.queue.available + 2, 2, 0xFFFE)
    for _ in range(4):
        assert setup.queue.request([b"a"], [1]).data == b"A"
    assert setup.queue.available_index == 2


def test_virtio_2_7_7_2_no_interrupt_flag_suppresses() -> None:
    setup = Setup(features=F_VERSION_1)
    setup.queue.suppress_interrupts(True)
    setup.queue.request([b"a"], [1])
    assert not setup.bench.irq
    setup.queue.suppress_interrupts(False)
    setup.queue.request([b"a"], [1])
    assert setup.driver.take_interrupts() == 1
    assert not setup.bench.irq


def test_virtio_2_7_7_2_used_event_says_when() -> None:
    setup = Setup(features=F_VERSION_1 | F_EVENT_IDX)
    setup.queue.want_interrupt_at(2)
    for expected in (False, False, True):
        setup.queue.request([b"a"], [1])
        assert setup.bench.irq == expected
    setup.driver.take_interrupts()
    # The flag has no meaning with the event index.
    setup.queue.suppress_interrupts(True)
    setup.queue.want_interrupt_at(3)
    setup.queue.request([b"a"], [1])
    assert setup.bench.irq


def test_virtio_2_7_7_2_a_batch_that_passes_used_event_interrupts_once() -> None:
    setup = Setup(features=F_VERSION_1 | F_EVENT_IDX)
    setup.queue.want_interrupt_at(1)
    for _ in range(4):
        setup.queue.add([b"a"], [1])
    setup.queue.kick()
    assert setup.bench.interrupts.changes == [(1, True)]
    assert len(setup.queue.collect()) == 4


def test_virtio_2_7_10_device_asks_for_the_next_notification() -> None:
    setup = Setup(features=F_VERSION_1 | F_EVENT_IDX)
    for _ in range(20):
        setup.queue.add([b"a"], [1])
        assert setup.queue.kick_wanted()
        setup.queue.kick()
        setup.queue.collect()


def test_virtio_3_1_1_nothing_is_taken_before_driver_ok() -> None:
    setup = Setup()
    assert setup.driver.negotiate()
    queue = setup.driver.setup_queue(0, 8)
    queue.add([b"early"], [5])
    queue.kick()
    assert setup.device.handled == 0
    setup.driver.set_register(0x70, setup.driver.status | 4)
    (used,) = queue.collect()
    assert used.data == b"EARLY"


def test_virtio_2_7_14_completion_may_come_later_and_in_any_order() -> None:
    setup = Setup(delay_ns=1000)
    first = setup.queue.add([b"first"], [5])
    setup.queue.kick()
    setup.bench.advance(500)
    second = setup.queue.add([b"second"], [6])
    setup.queue.kick()
    assert setup.queue.collect() == []
    setup.bench.advance(1000)
    assert [used.head for used in setup.queue.collect()] == [first, second]
    assert setup.bench.irq


def test_virtio_2_4_completion_after_a_reset_is_void() -> None:
    setup = Setup(delay_ns=1000)
    setup.queue.add([b"lost"], [4])
    setup.queue.kick()
    queue = setup.driver.start(size=8)[0]
    setup.bench.advance(5000)
    assert queue.collect() == []
    assert not setup.bench.irq
    assert not setup.broken


def test_completing_twice_gives_back_once() -> None:
    setup = Setup()
    chains: list[tuple[VirtQueue, Chain]] = []
    setup.queue.add([b"a"], [1])
    queue = setup.device.queues[0]
    chain = queue.pop()
    assert chain is not None
    chains.append((queue, chain))
    queue.complete(chain, 0)
    queue.complete(chain, 0)
    assert len(setup.queue.collect()) == 1


def test_unpop_makes_the_chain_the_next_one_again() -> None:
    setup = Setup()
    setup.queue.add([b"a"], [1])
    queue = setup.device.queues[0]
    for _ in range(3):
        chain = queue.pop()
        assert chain is not None
        queue.unpop(chain)
        queue.complete(chain, 1)  # void
    setup.queue.kick()
    assert [used.data for used in setup.queue.collect()] == [b"A"]


BAD = {
    "descriptor_index": [(9, 0x8008_0000, 4, 0, 0)],
    "next_index": [(0, 0x8008_0000, 4, NEXT, 8)],
    "loop_2_7_5_2": [(0, 0x8008_0000, 4, NEXT, 1), (1, 0x8008_0000, 4, NEXT, 0)],
    "self_loop_2_7_5_2": [(0, 0x8008_0000, 4, NEXT, 0)],
    "longer_than_ram_2_7_5_2": [
        (number, 0x8000_0000, 1 << 19, WRITE | NEXT, number + 1) for number in range(5)
    ],
    "zero_length": [(0, 0x8008_0000, 0, 0, 0)],
    "outside_ram": [(0, 0x1000, 4, 0, 0)],
    "across_the_end_of_ram": [(0, 0x800F_FFFE, 4, 0, 0)],
    "wrapping_length": [(0, 0x8008_0000, 0xFFFF_FFFF, 0, 0)],
    "wrapping_address": [(0, 0xFFFF_FFFF_FFFF_FFFE, 4, 0, 0)],
    "readable_after_writable_2_7_4_2": [
        (0, 0x8008_0000, 4, WRITE | NEXT, 1),
        (1, 0x8008_0000, 4, 0, 0),
    ],
    "indirect_with_next_2_7_5_3_1": [(0, 0x8008_0000, 16, INDIRECT | NEXT, 1)],
    "indirect_of_no_entries": [(0, 0x8008_0000, 0, INDIRECT, 0)],
    "indirect_of_half_an_entry": [(0, 0x8008_0000, 24, INDIRECT, 0)],
    "indirect_too_long": [(0, 0x8008_0000, 16 * 1025, INDIRECT, 0)],
    "indirect_outside_ram": [(0, 0x1000, 16, INDIRECT, 0)],
    "indirect_in_indirect_2_7_5_3_1": [(0, 0x8009_0000, 16, INDIRECT, 0)],
    "indirect_next_out_of_table": [(0, 0x8009_0010, 32, INDIRECT, 0)],
}


@pytest.mark.parametrize("name", BAD)
def test_virtio_2_1_2_a_broken_chain_needs_a_reset(name: str) -> None:
    setup = Setup()
    queue = setup.queue
    queue.descriptor(0, 0x8008_0000, 16, INDIRECT, 0, table=0x8009_0000)
    queue.descriptor(0, 0x8008_0000, 4, NEXT, 2, table=0x8009_0010)
    for number, address, length, flags, next_ in BAD[name]:
        if number < queue.size:
            queue.descriptor(number, address, length, flags, next_)
    queue.make_available(BAD[name][0][0])
    queue.kick()
    assert setup.broken
    assert setup.device.handled == 0
    assert setup.driver.take_interrupts() == 2
    assert "needs a reset" in setup.bench.io.messages[-1]
    # Broken it stays, quietly, until the driver resets it.
    queue.kick()
    assert not setup.bench.irq
    again = setup.driver.start(size=8)[0]
    assert not setup.broken
    assert again.request([b"ok"], [2]).data == b"OK"


def test_indirect_without_the_feature_needs_a_reset() -> None:
    setup = Setup(features=F_VERSION_1)
    setup.queue.add([b"a"], [1], indirect=True)
    setup.queue.kick()
    assert setup.broken


def test_available_index_too_far_ahead_needs_a_reset() -> None:
    setup = Setup()
    setup.bench.ram.store(setup.queue.available + 2, 2, 9)
    setup.queue.kick()
    assert setup.broken


def test_virtio_2_7_13_a_head_made_available_twice_needs_a_reset() -> None:
    setup = Setup(delay_ns=10)
    head = setup.queue.add([b"a"], [1])
    setup.queue.make_available(head)
    setup.queue.kick()
    assert setup.broken


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x38, 0),
        (0x38, 3),
        (0x38, 128),
        (0x80, 8),
        (0x90, 1),
        (0xA0, 2),
        (0x84, 1),
        (0x94, 0xFFFFFFFF),
    ],
)
def test_virtio_2_7_bad_rings_need_a_reset(offset: int, value: int) -> None:
    setup = Setup()
    assert setup.driver.negotiate()
    driver = setup.driver
    driver.set_register(0x30, 0)
    for register, good in (
        (0x38, 8),
        (0x80, 0x8008_0000),
        (0x90, 0x8008_1000),
        (0xA0, 0x8008_2000),
    ):
        driver.set_register(register, good)
    driver.set_register(offset, value)
    driver.set_register(0x44, 1)
    assert setup.broken
    assert driver.register(0x44) == 0
    # 2.1.2: no configuration interrupt before DRIVER_OK.
    assert not setup.bench.irq


def test_rings_that_overlap_each_other_do_not_hang() -> None:
    setup = Setup()
    driver = setup.driver
    assert driver.negotiate(F_VERSION_1)
    driver.set_register(0x30, 0)
    # The used index is the available index: each completion makes another chain available.
    for register, value in (
        (0x38, 8),
        (0x80, 0x8008_0000),
        (0x90, 0x8008_1000),
        (0xA0, 0x8008_1000),
    ):
        driver.set_register(register, value)
    driver.set_register(0x44, 1)
    driver.set_register(0x70, driver.status | 4)
    setup.bench.ram.store(0x8008_1002, 2, 3)
    driver.set_register(0x50, 0)
    assert setup.device.handled <= 8


def test_snapshot_pops_chains_in_flight_again() -> None:
    setup = Setup(features=COMMON, delay_ns=1000)
    for word in (b"one", b"two"):
        setup.queue.add([word], [3])
    setup.queue.kick()
    saved = setup.target.save()
    setup.target.reset()
    setup.bench.advance(5000)
    assert setup.queue.collect() == []
    setup.target.load(saved)
    assert setup.target.save() == saved
    setup.target.resume()
    setup.bench.advance(5000)
    assert [used.data for used in setup.queue.collect()] == [b"ONE", b"TWO"]
    setup.queue.add([b"three"], [5])
    setup.queue.kick()
    setup.bench.advance(5000)
    assert [used.data for used in setup.queue.collect()] == [b"THREE"]
    assert not setup.broken


def test_indirect_and_event_index_are_used_only_when_negotiated() -> None:
    setup = Setup(features=F_VERSION_1)
    queue = setup.device.queues[0]
    assert (queue.event_index, queue.indirect) == (False, False)
    setup = Setup(features=F_VERSION_1 | F_INDIRECT_DESC)
    queue = setup.device.queues[0]
    assert (queue.event_index, queue.indirect) == (False, True)
