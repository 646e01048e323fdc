"""Declared registers, and the one place where narrow and wide accesses to them are sorted out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

from asyncvmm.base.errors import ConfigError, GuestError, InternalError

# Access of a register.
RW: Final = "rw"
RO: Final = "ro"
WO: Final = "wo"
W1C: Final = "w1c"

# What an access to bytes that belong to no register does: a fault, or reads zero and is ignored.
UNKNOWN_FAULTS: Final = "faults"
UNKNOWN_IS_ZERO: Final = "zero"


class Register:
    """``size`` bytes (1, 2, 4 or 8) at ``offset`` (a multiple of ``size``) from the device's start.

    ``access``: ``RW``; ``RO`` (writes are ignored); ``WO`` (reads give zero); ``W1C`` (writing a
    one clears that bit). ``reset`` is the value after reset, ``mask`` has a one for each writable
    bit.
    """

    def __init__(
        self,
        name: str,
        offset: int,
        size: int,
        access: str = RW,
        reset: int = 0,
        mask: int | None = None,
    ) -> None:
        full = (1 << (8 * size)) - 1
        if size not in (1, 2, 4, 8) or offset < 0 or offset % size != 0:
            raise InternalError(f"register {name}: offset {offset:#x}, size {size} is not aligned")
        if access not in (RW, RO, WO, W1C):
            raise InternalError(f"register {name}: no such access: {access!r}")
        if reset < 0 or reset > full:
            raise InternalError(f"register {name}: reset value {reset:#x} is too wide")
        self.name: str = name
        self.offset: int = offset
        self.size: int = size
        self.access: str = access
        self.reset: int = reset
        self.mask: int = full if mask is None else mask & full


class RegisterSlot:
    """One register of one device: its stored value and the device's handlers for it."""

    def __init__(self, register: Register, owner: object) -> None:
        self.register: Register = register
        self.start: int = register.offset
        self.end: int = register.offset + register.size
        self.value: int = register.reset
        name = register.name.lower()
        self.on_read: Callable[[], int] | None = cast(
            "Callable[[], int] | None", getattr(owner, "read_" + name, None)
        )
        self.on_write: Callable[[int], None] | None = cast(
            "Callable[[int], None] | None", getattr(owner, "write_" + name, None)
        )

    def read(self) -> int:
        """The whole register as the guest sees it, side effects included."""
        if self.register.access == WO:
            return 0
        handler = self.on_read
        if handler is not None:
            return handler()
        return self.value

    def write(self, bits: int, lanes: int) -> None:
        """The guest writes ``bits`` to the bit positions set in ``lanes``."""
        register = self.register
        access = register.access
        if access == RO:
            return
        handler = self.on_write
        if access == W1C:
            ones = bits & lanes & register.mask
            self.value &= ~ones
            if handler is not None:
                handler(ones)
            return
        kept = self.value if access == RW else 0
        change = lanes & register.mask
        self.value = (
            (self.value & ~register.mask) | (kept & register.mask & ~change) | (bits & change)
        )
        if handler is not None:
            handler(self.value)


class RegisterBank:
    """The registers of one device. ``bank["NAME"]`` is a stored value, without side effects.

    For a register NAME the owner may have methods ``read_name() -> int``, which gives the value
    that the guest sees, and ``write_name(value)``, called after the new value was stored (for
    ``W1C``: with the ones that were written). A narrow write leaves the other bytes of an ``RW``
    register as they were; of a ``WO`` or ``W1C`` register they are written as zeros. A wide access
    goes through the registers that it covers, the lowest first, each exactly once.
    """

    def __init__(
        self,
        owner: object,
        registers: Sequence[Register],
        size_bytes: int,
        unknown: str = UNKNOWN_FAULTS,
    ) -> None:
        if unknown not in (UNKNOWN_FAULTS, UNKNOWN_IS_ZERO):
            raise InternalError(f"no such policy for unknown offsets: {unknown!r}")
        self.size_bytes: int = size_bytes
        self.unknown: str = unknown
        self.declared: list[Register] = list(registers)
        self._by_name: dict[str, RegisterSlot] = {}
        # Every byte that belongs to a register.
        self._by_offset: dict[int, RegisterSlot] = {}
        for register in registers:
            if register.name in self._by_name:
                raise InternalError(f"two registers are named {register.name}")
            slot = RegisterSlot(register, owner)
            if slot.end > size_bytes:
                raise InternalError(f"register {register.name} lies outside its device")
            for offset in range(slot.start, slot.end):
                other = self._by_offset.get(offset)
                if other is not None:
                    raise InternalError(f"registers {register.name}, {other.register.name} overlap")
                self._by_offset[offset] = slot
            self._by_name[register.name] = slot

    def __getitem__(self, name: str) -> int:
        return self._by_name[name].value

    def __setitem__(self, name: str, value: int) -> None:
        slot = self._by_name[name]
        slot.value = value & ((1 << (8 * slot.register.size)) - 1)

    def reset(self) -> None:
        """Give every register its reset value; no handler is called."""
        for slot in self._by_name.values():
            slot.value = slot.register.reset

    def read(self, offset: int, size: int) -> int:
        """``size`` bytes at ``offset`` as an unsigned number; GuestError where the policy
        refuses.
        """
        slot = self._by_offset.get(offset)
        if slot is not None and slot.start == offset and slot.end == offset + size:
            return slot.read()
        end = offset + size
        position = offset
        result = 0
        while position < end:
            slot = self._by_offset.get(position)
            if slot is None:
                if self.unknown == UNKNOWN_FAULTS:
                    raise GuestError(f"no register at offset {position:#x}")
                position += 1
                continue
            stop = slot.end if slot.end < end else end
            part = slot.read() >> (8 * (position - slot.start))
            part &= (1 << (8 * (stop - position))) - 1
            result |= part << (8 * (position - offset))
            position = stop
        return result

    def write(self, offset: int, size: int, value: int) -> None:
        """Write ``size`` bytes of ``value`` at ``offset``; GuestError where the policy refuses."""
        value &= (1 << (8 * size)) - 1
        end = offset + size
        position = offset
        while position < end:
            slot = self._by_offset.get(position)
            if slot is None:
                if self.unknown == UNKNOWN_FAULTS:
                    raise GuestError(f"no register at offset {position:#x}")
                position += 1
                continue
            stop = slot.end if slot.end < end else end
            lanes = (1 << (8 * (stop - position))) - 1
            shift = 8 * (position - slot.start)
            slot.write(((value >> (8 * (position - offset))) & lanes) << shift, lanes << shift)
            position = stop

    def save(self) -> dict[str, int]:
        """The stored values by name: plain data."""
        return {name: slot.value for name, slot in self._by_name.items()}

    def load(self, saved: object) -> None:
        """Take back what ``save`` gave; ConfigError, with nothing changed, when it does not fit."""
        if not isinstance(saved, dict) or set(saved) != set(self._by_name):
            raise ConfigError("saved registers are not those of this device")
        for name, value in saved.items():
            size = self._by_name[name].register.size
            if type(value) is not int or value < 0 or value >> (8 * size) != 0:
                raise ConfigError(f"saved register {name} has a value that does not fit: {value!r}")
        for name, value in saved.items():
            self._by_name[name].value = value
