"""The board: addresses and interrupt numbers, those of QEMU's ``virt`` machine."""

from __future__ import annotations

import attrs

from asyncvmm.base.errors import ConfigError

TEST_BASE = 0x0010_0000
RTC_BASE = 0x0010_1000
CLINT_BASE = 0x0200_0000
PLIC_BASE = 0x0C00_0000
UART_BASE = 0x1000_0000
UART_IRQ = 10
RTC_IRQ = 11
VIRTIO_BASE = 0x1000_1000
VIRTIO_STRIDE = 0x1000
VIRTIO_SLOTS = 8
VIRTIO_FIRST_IRQ = 1
EXTRA_BASE = 0x1010_0000
EXTRA_END = 0x2000_0000
EXTRA_FIRST_IRQ = 32
LAST_IRQ = 127
FLASH_BASE = 0x2000_0000
FLASH_STRIDE = 0x0200_0000
RAM_BASE = 0x8000_0000

# Devices with places of their own, in this order: type -> (address, interrupt; 0 for none).
FIXED: dict[str, tuple[tuple[int, int], ...]] = {
    "test-finisher": ((TEST_BASE, 0),),
    "goldfish-rtc": ((RTC_BASE, RTC_IRQ),),
    "ns16550": ((UART_BASE, UART_IRQ),),
    "cfi-flash": ((FLASH_BASE, 0), (FLASH_BASE + FLASH_STRIDE, 0)),
}
# What every guest has without asking, as far as the plugins are there.
STANDARD = ("ns16550", "goldfish-rtc", "test-finisher")


@attrs.frozen
class Place:
    """Where a device is: ``base`` address and PLIC source ``irq`` (0 for none)."""

    base: int
    irq: int


class Board:
    """Hands out places; ConfigError when there is none left."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._virtio = 0
        self._extra_base = EXTRA_BASE
        self._extra_irq = EXTRA_FIRST_IRQ

    def place(self, name: str, kind: str, size_bytes: int) -> Place:
        """The place of the next device of type ``name``; ``kind`` is "mmio" or "virtio"."""
        if kind == "virtio":
            return self._virtio_place(name)
        for base, irq in FIXED.get(name, ()):
            if base not in self._taken:
                self._taken.add(base)
                return Place(base, irq)
        base = self._extra_base
        size = (size_bytes + 0xFFF) & ~0xFFF
        if base + size > EXTRA_END or self._extra_irq > LAST_IRQ:
            raise ConfigError(f"no room on the board for another {name}")
        self._extra_base += size
        self._extra_irq += 1
        return Place(base, self._extra_irq - 1)

    def _virtio_place(self, name: str) -> Place:
        slot = self._virtio
        if slot >= VIRTIO_SLOTS:
            raise ConfigError(f"no virtio slot left for {name}: there are {VIRTIO_SLOTS}")
        self._virtio += 1
        return Place(VIRTIO_BASE + slot * VIRTIO_STRIDE, VIRTIO_FIRST_IRQ + slot)
