"""Steal time for guests: the SBI STA extension (SBI 2.0, chapter 16)."""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.base.errors import ConfigError
from asyncvmm.firmware.sbi_abi import ERR_INVALID_ADDRESS, ERR_INVALID_PARAM, SUCCESS
from asyncvmm.memory.pages import Ram

SHMEM_SIZE: Final = 64
DISABLED: Final = -1
_SEQUENCE: Final = 0
_STEAL: Final = 8


class StealTime:
    """Each hart's shared memory of 64 bytes: u32 sequence, u32 flags, u64 steal (ns), u8 preempted."""

    def __init__(self, ram: Ram, harts: i64) -> None:
        self.ram: Ram = ram
        self.addresses: vec[i64] = vec[i64]([-1] * int(harts))
        self.written: vec[i64] = vec[i64]([0] * int(harts))
        self.enabled: bool = False

    def set_shmem(self, number: i64, low: i64, high: i64, flags: i64) -> i64:
        """Function 0: where hart ``number`` wants it; all ones in both halves turns it off."""
        if flags != 0:
            return ERR_INVALID_PARAM
        if low == DISABLED and high == DISABLED:
            self.addresses[number] = DISABLED
            return SUCCESS
        if (low & (SHMEM_SIZE - 1)) != 0:
            return ERR_INVALID_PARAM
        if high != 0 or not self.ram.contains(low, SHMEM_SIZE):
            return ERR_INVALID_ADDRESS
        self.ram.write(low, bytes(SHMEM_SIZE))
        self.addresses[number] = low
        self.written[number] = 0
        self.enabled = True
        return SUCCESS

    def put(self, number: i64, steal_ns: i64) -> None:
        """Let hart ``number`` see that it was runnable without a CPU for ``steal_ns`` in all."""
        address = self.addresses[number]
        if address == DISABLED or self.written[number] == steal_ns:
            return
        self.written[number] = steal_ns
        # The guest does not run meanwhile, so the sequence need not be odd in between.
        self.ram.store(address + _SEQUENCE, 4, self.ram.load(address + _SEQUENCE, 4) + 2)
        self.ram.store(address + _STEAL, 8, steal_ns)

    def reset(self) -> None:
        """No hart has any shared memory."""
        i: i64 = 0
        while i < len(self.addresses):
            self.addresses[i] = DISABLED
            i += 1
        self.enabled = False

    def state(self) -> list[int]:
        """All that a digest or a snapshot needs."""
        return [int(a) for a in self.addresses] + [int(w) for w in self.written]

    def restore(self, values: list[int]) -> None:
        """Become what ``state`` told; ConfigError when an address is not in RAM."""
        harts = len(self.addresses)
        i = 0
        while i < harts:
            address: i64 = values[i]
            aligned = (address & (SHMEM_SIZE - 1)) == 0
            if address != DISABLED and not (aligned and self.ram.contains(address, SHMEM_SIZE)):
                raise ConfigError(f"saved SBI: steal time of hart {i} at {values[i]}")
            i += 1
        self.enabled = False
        i = 0
        while i < harts:
            self.addresses[i] = values[i]
            self.written[i] = values[harts + i]
            if self.addresses[i] != DISABLED:
                self.enabled = True
            i += 1
