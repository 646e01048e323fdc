"""``fuzz_one``: a hostile driver of a balloon from ``data``: never an exception, and only whole pages go."""

from __future__ import annotations

import json
import struct

from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import VirtioDriver
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_balloon.config import VirtioBalloonConfig
from asyncvmm_plugins.virtio_balloon.device import VirtioBalloon

BASE = 0x80000
PAGES = 64
FRAMES = (0, 1, BASE - 1, BASE, BASE + 1, BASE + PAGES - 1, BASE + PAGES, 0x7FFFF, 0xFFFFFFFF)


def fuzz_one(data: bytes) -> None:
    """AssertionError when the device breaks one of its promises; anything else is a bug, too."""
    bench = DeviceBench(ram_size=PAGES * 4096)
    config = VirtioBalloonConfig(statistics=bool(len(data) & 1), reporting=bool(len(data) & 2))
    device = VirtioBalloon(config, bench.io)
    target = VirtioMmio(bench.io, device)
    target.reset()
    driver = VirtioDriver(target, bench.ram)
    queues = driver.start(size=16)
    driver.allocate(0, 4096)
    for at in range(0, len(data) - 5, 6):
        act, one, two, three, four, five = data[at : at + 6]
        queue = queues[one % len(queues)]
        resident = int(bench.ram.resident)
        if driver._free > bench.ram.base + 48 * 4096:
            driver._free = int(bench.ram.base) + 8 * 4096
        if act < 120 and len(queue.free) > 3:
            frames = [FRAMES[(two + n) % len(FRAMES)] for n in range(three % 20)]
            frames = [frame + four % 70 if five & 1 else frame for frame in frames]
            raw = b"".join(struct.pack("<I", frame & 0xFFFFFFFF) for frame in frames)
            queue.add([raw[: -(five % 4) or None] or b"x"])
            queue.kick()
        elif act < 160 and len(queue.free) > 3:
            head = queue.free[0]
            address = bench.ram.base + 20 * 4096 + (two << 8) + three
            queue.descriptor(head, address, (four << 8) + five + 1, 2, 0)
            queue.make_available(head)
            queue.kick()
        elif act < 190 and len(queue.free) > 3:
            value = (five << (three % 60)) & ((1 << 64) - 1)
            queue.add([struct.pack("<HQ", two % 12, value) * (four % 5 + 1)], [1])
            queue.kick()
        elif act < 205:
            bench.io.balloon.poll()
        elif act < 215:
            bench.io.balloon.set_target(two << 12)
            assert driver.config(0, 4) <= PAGES
        elif act < 225:
            target.write(0x100 + two % 16, 1 << (three % 3), four)
        elif act < 235:
            driver.set_register(0x70, 0)
            driver._free = int(bench.ram.base) + 8 * 4096
            queues = driver.start(size=16)
        elif act < 245:
            saved = json.loads(json.dumps(target.save()))
            target.reset()
            target.load(saved)
            assert json.loads(json.dumps(target.save())) == saved
            target.resume()
        else:
            try:
                queue.collect()
            except KeyError:  # the driver's own hostile chains
                driver.set_register(0x70, 0)
                queues = driver.start(size=16)
        ram = bench.ram
        assert 0 <= int(ram.resident) <= PAGES
        assert int(ram.resident) == sum(1 for kind in range(PAGES) if ram.kind[kind])
        assert bench.io.balloon.returned_bytes % 4096 == 0
        assert resident >= 0
