"""The address map: which target answers at a guest-physical address that is not RAM."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64, mypyc_attr

from asyncvmm.base.errors import ConfigError, GuestError, InternalError

MAX_FAILURES: Final = 100  # kept of a device that fails again and again


@mypyc_attr(allow_interpreted_subclasses=True)
class MmioTarget:
    """Answers reads and writes at offsets from its own start; it never learns its address.

    ``read`` and ``write`` get naturally aligned accesses of 1, 2, 4 or 8 bytes that lie wholly inside
    the target. A target refuses an access by raising GuestError: the guest then takes an access fault.
    Any other exception is a bug of the target and is kept in ``Bus.failures``.
    """

    def read(self, offset: i64, size: i64) -> i64:
        """The ``size`` bytes at ``offset``, zero-extended."""
        raise GuestError("this target cannot be read")

    def write(self, offset: i64, size: i64, value: i64) -> None:
        """Store the low ``size`` bytes of ``value`` at ``offset``."""
        raise GuestError("this target cannot be written")


class Region:
    """``size`` bytes at ``base`` that belong to ``target``; ``name`` appears in messages."""

    def __init__(self, base: i64, size: i64, target: MmioTarget, name: str) -> None:
        self.base: i64 = base
        self.size: i64 = size
        self.target: MmioTarget = target
        self.name: str = name
        self.reads: i64 = 0
        self.writes: i64 = 0


@mypyc_attr(allow_interpreted_subclasses=True)
class FailureListener:
    """Told at once when a target shows a bug."""

    def failed(self, name: str, error: Exception) -> None:
        """``name`` raised ``error``. The access that led there has not come back yet."""


class Bus:
    """Finds the target of an access. ``fault`` says whether the last access found none or was refused.

    ``busy`` names the target whose code runs now and ``calls`` counts how often any did, for a thread
    that watches for targets that block.
    """

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self.fault: bool = False
        self.busy: str = ""
        self.calls: i64 = 0
        self.failures: list[tuple[str, Exception]] = []
        self.listener: FailureListener = FailureListener()
        self._last: Region = Region(0, 0, MmioTarget(), "nothing")

    def attach(self, base: i64, size: i64, target: MmioTarget, name: str) -> Region:
        """Put ``target`` at ``base``; ConfigError when the range is bad or taken."""
        if base < 0 or size <= 0 or base + size < base:
            raise ConfigError(f"{name}: bad address range {int(base):#x} + {int(size):#x}")
        for other in self.regions:
            if base < other.base + other.size and other.base < base + size:
                raise ConfigError(
                    f"{name} at {int(base):#x} overlaps {other.name} at {int(other.base):#x}"
                )
        region = Region(base, size, target, name)
        self.regions.append(region)
        self.regions.sort(key=_base_of)
        return region

    def find(self, address: i64, size: i64) -> Region | None:
        """The region that holds all ``size`` bytes at ``address``, or None."""
        last = self._last
        if address >= last.base and address - last.base < last.size:
            return last if last.size - (address - last.base) >= size else None
        for region in self.regions:
            if address >= region.base and address - region.base < region.size:
                self._last = region
                return region if region.size - (address - region.base) >= size else None
        return None

    def read(self, address: i64, size: i64) -> i64:
        """Read from the target at ``address``; 0 with ``fault`` set when there is none or it refuses."""
        self.fault = False
        region = self.find(address, size)
        if region is None:
            self.fault = True
            return 0
        region.reads += 1
        value: i64 = 0
        self.calls += 1
        self.busy = region.name
        try:
            value = region.target.read(address - region.base, size)
        except GuestError:
            self.fault = True
        except Exception as error:
            self.fail(region.name, error)
            self.fault = True
        self.busy = ""
        return value

    def write(self, address: i64, size: i64, value: i64) -> None:
        """Write to the target at ``address``; ``fault`` is set when there is none or it refuses."""
        self.fault = False
        region = self.find(address, size)
        if region is None:
            self.fault = True
            return
        region.writes += 1
        self.calls += 1
        self.busy = region.name
        try:
            region.target.write(address - region.base, size, value)
        except GuestError:
            self.fault = True
        except Exception as error:
            self.fail(region.name, error)
            self.fault = True
        self.busy = ""

    def fail(self, name: str, error: Exception) -> None:
        """A target showed a bug."""
        if len(self.failures) < MAX_FAILURES:
            self.failures.append((name, error))
        self.listener.failed(name, error)

    def raise_failure(self) -> None:
        """Raise the first bug that a target showed, as InternalError; nothing when there was none."""
        if self.failures:
            name, error = self.failures[0]
            raise InternalError(f"device {name} failed: {error!r}") from error


def _base_of(region: Region) -> i64:
    return region.base
