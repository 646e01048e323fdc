"""``guest.balloon``: asking a guest for memory, and what it says of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import trio

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.base.units import MIB, SECOND
from asyncvmm.device.balloon import Balloon
from asyncvmm.machine import Machine, parse_size
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.journal_file import BALLOON
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.sharing import trim

TRIM_BYTES: Final = 16 << 20  # so much must have come back before the C library is asked to let go
# Linux tries again every 0.2 s, and says what it has each time.
PATIENCE_NS: Final = 2 * SECOND


class BalloonShortError(GuestError):
    """A guest has no more memory to give than ``actual_bytes``, less than it was asked for."""

    def __init__(self, guest: str, actual_bytes: int, target_bytes: int) -> None:
        super().__init__(
            f"guest {guest} has given {actual_bytes / MIB:.1f} of {target_bytes / MIB:.1f} MiB and has had "
            f"no more for {PATIENCE_NS // SECOND} s: a guest can give what its statistics call "
            "available_memory"
        )
        self.actual_bytes: Final = actual_bytes
        self.target_bytes: Final = target_bytes


class GuestBalloon:
    """The host's side of a guest's ``virtio-balloon`` device; ConfigError for guests without one.

    A balloon is a hint: what a guest may have at most is ``memory.max``, which needs nobody's help.
    """

    def __init__(self, machine: Machine, entrance: Entrance, outbox: Outbox) -> None:
        balloons = [device.io.used_balloon for device in machine.devices]
        self._balloon: Balloon | None = next((one for one in balloons if one is not None), None)
        self._name = machine.name
        self._memory_bytes = machine.config.memory
        self._timeline = machine.timeline
        self._entrance = entrance
        self._outbox = outbox
        self._changed = trio.lowlevel.ParkingLot()
        self._answered = trio.lowlevel.ParkingLot()
        self._answers = 0
        self._trimmed_bytes = 0
        self._ended = False
        if self._balloon is not None:
            self._trimmed_bytes = self._balloon.returned_bytes
            self._balloon.on_change = lambda: outbox.call(self._heard)
            self._balloon.on_statistics = lambda: outbox.call(self._told)

    @property
    def target_bytes(self) -> int:
        """What was asked for."""
        return self._device().target_bytes

    @property
    def actual_bytes(self) -> int:
        """What the guest says that the balloon holds."""
        return self._device().actual_bytes

    @property
    def returned_bytes(self) -> int:
        """How much memory has come back so far, through the balloon and reports of free pages."""
        return self._device().returned_bytes

    async def set(self, size: int | str) -> None:
        """Ask the guest for that much memory (``64 << 20``, ``"64M"``); it gives pages as it can.

        A smaller size than before lets it have them again.
        """
        self._device()
        size_bytes = parse_size(size)
        if not 0 <= size_bytes <= self._memory_bytes:
            raise ConfigError(
                f"a balloon for guest {self._name} is 0 to {self._memory_bytes} bytes, not {size_bytes}"
            )
        await self._enter(size_bytes)

    async def wait(self) -> None:
        """Return when the balloon is as large as was asked for.

        BalloonShortError when the guest has come no nearer for two seconds of its own time although it
        tried: all that it has left is what it needs itself. A guest without a driver never answers.
        """
        balloon = self._device()
        await self._entrance.turn()
        nearest: int | None = None
        while missing := abs(balloon.target_bytes // 4096 - balloon.actual_bytes // 4096):
            self._check()
            now_ns = int(self._timeline.now_ns)
            if nearest is None or missing < nearest:
                nearest, since_ns = missing, now_ns
            elif now_ns - since_ns >= PATIENCE_NS:
                raise BalloonShortError(self._name, balloon.actual_bytes, balloon.target_bytes)
            await self._changed.park()

    async def statistics(self) -> Mapping[str, int]:
        """New counters of the guest: ``free_memory``, ``available_memory``, ``major_faults`` and so on.

        Waits for the guest's driver to answer.
        """
        balloon = self._device()
        before = self._answers
        await self._enter(None)
        while self._answers == before:
            self._check()
            await self._answered.park()
        return dict(balloon.statistics)

    async def _enter(self, target: int | None) -> None:
        """A new target, or (None) a question for statistics."""
        await self._entrance.turn()
        self._check()
        names = {"guest": self._name, "target": target}
        self._entrance.enter(lambda now: self._ask(target), live=False, note=(BALLOON, names, b""))

    def _ask(self, target: int | None) -> None:
        if target is None:
            self._device().poll()
        else:
            self._device().set_target(target)

    def again(self, names: Mapping[str, Any]) -> None:
        """What a journal says was asked."""
        target = names["target"]
        if target is not None and (type(target) is not int or target < 0):
            raise ValueError(f"a balloon's target is {target!r}")
        self._entrance.enter_again(lambda now: self._ask(target))

    def _device(self) -> Balloon:
        if self._balloon is None:
            raise ConfigError(
                f"guest {self._name} has no balloon: give it the device virtio-balloon"
            )
        return self._balloon

    def _check(self) -> None:
        if self._ended:
            raise trio.BrokenResourceError(f"guest {self._name} has ended")

    def _heard(self) -> None:
        """Pages came back, or the guest says how many there are."""
        assert self._balloon is not None
        if self._balloon.returned_bytes - self._trimmed_bytes >= TRIM_BYTES:
            self._trimmed_bytes = self._balloon.returned_bytes
            trim()
        if self._changed:
            self._entrance.later(self._changed.unpark_all)

    def _told(self) -> None:
        self._answers += 1
        if self._answered:
            self._entrance.later(self._answered.unpark_all)

    def guest_ended(self) -> None:
        """Whoever waits hears of it."""
        self._ended = True
        self._changed.unpark_all()
        self._answered.unpark_all()
