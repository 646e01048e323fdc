"""The host's memory: who has how much resident, what is promised, and who goes when it runs out.

Counting is in pages that are really there. A page that guests of one trust group share (of an image,
of a fork) counts once for the host, and for each of these guests as if it were its own: what a guest is
charged, and so whether it is stopped or asked for pages, depends on nothing that a neighbour does.
What sharing saves is the host's gain: more guests fit.

A guest's *entitlement* is what it can count on when everyone uses all it may: ``memory.low`` plus a
part of the rest of the host in proportion to how much more it may use. Entitlements never exceed the
capacity together, so when the host is full someone is above its own, and that guest is stopped: never
one that stayed within.
"""

from __future__ import annotations

from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.hypervisor import ledger as events
from asyncvmm.hypervisor.admission import AdmissionError
from asyncvmm.hypervisor.book_state import GuestMemoryState, HostMemoryState, MemoryKnobsState
from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.knobs import MemoryKnobs
from asyncvmm.hypervisor.ledger import Ledger

OVER_MAX: Final = "memory.max"  # the guest is above its own limit
HOST_FULL: Final = "host memory"  # the host is full and the guest furthest above its entitlement


class MemoryLimitError(GuestError):
    """A guest was stopped for its memory. ``limit`` is ``OVER_MAX`` or ``HOST_FULL``."""

    def __init__(self, guest: str, limit: str, resident_bytes: int, allowed_bytes: int) -> None:
        self.guest = guest
        self.limit = limit
        self.resident_bytes = resident_bytes
        self.allowed_bytes = allowed_bytes
        what = "its memory.max is" if limit == OVER_MAX else "the host is full and it may keep"
        super().__init__(
            f"guest {guest!r} was stopped for its memory: {resident_bytes} bytes are resident, "
            f"{what} {allowed_bytes}"
        )


@attrs.frozen
class MemoryUsage:
    """Bytes of one guest: resident pages of its own and those that it shares, together ``charged``;
    ``saved`` is what it would cost more if it did not share: its shared pages less its part, in
    proportion, of what its trust group keeps of them.
    """

    private_bytes: int
    shared_bytes: int
    saved_bytes: int
    charged_bytes: int
    entitled_bytes: int
    over_high_bytes: int


class _GuestMemory:
    def __init__(self, name: str, order: int, ram_pages: int, knobs: MemoryKnobs) -> None:
        self.name = name
        self.order = order
        self.ram_pages = ram_pages
        self.knobs = knobs
        self.private = 0
        self.shared = 0
        self.group = ""
        self.above_high = False

    @property
    def low(self) -> int:
        return self.knobs.low // PAGE_SIZE

    @property
    def limit(self) -> int:
        pages = self.ram_pages
        return pages if self.knobs.max is None else min(pages, self.knobs.max // PAGE_SIZE)


class HostMemory:
    """``capacity_bytes`` for all guests. Without ``overcommit`` the sum of ``memory.max`` must fit;
    with it only the sum of ``memory.low`` must.
    """

    def __init__(self, capacity_bytes: int, ledger: Ledger, *, overcommit: bool = False) -> None:
        if capacity_bytes < PAGE_SIZE:
            raise ConfigError(f"the host's memory must be a page or more, not {capacity_bytes}")
        self.capacity_pages = capacity_bytes // PAGE_SIZE
        self.overcommit = overcommit
        self.ledger = ledger
        self._guests: dict[str, _GuestMemory] = {}
        self._shared: dict[str, int] = {}
        self._next_order = 0
        self._private = 0  # of all guests
        self._changed: set[str] = set()  # whose charge may be another than at the last ``enforce``

    # -- guests

    def add(
        self, name: str, ram_bytes: int, knobs: MemoryKnobs, now_ns: int, group: str = ""
    ) -> None:
        """Admit a guest with ``ram_bytes`` of RAM to trust group ``group`` (empty: none)."""
        if name in self._guests:
            raise ConfigError(f"a guest named {name!r} is on this host already")
        guest = _GuestMemory(name, self._next_order, ram_bytes // PAGE_SIZE, knobs)
        self._check(guest, now_ns)
        self._next_order += 1
        guest.group = group
        self._guests[name] = guest
        self._changed.update(self._guests)

    def remove(self, name: str) -> None:
        """A guest and its pages are gone; a trust group's with its last member."""
        guest = self._guests.pop(name, None)
        if guest is None:
            return
        self._private -= guest.private
        if not self._members(guest.group):
            self._shared.pop(guest.group, None)
        self._changed.discard(name)
        self._changed.update(self._guests)

    def update(self, name: str, knobs: MemoryKnobs, now_ns: int) -> None:
        """Change a guest's knobs; AdmissionError leaves them as they were."""
        guest = self._guest(name)
        old = guest.knobs
        guest.knobs = knobs
        try:
            self._check(guest, now_ns)
        except ConfigError:
            guest.knobs = old
            raise
        self._changed.add(name)

    # -- counting

    def set_private(self, name: str, pages: int) -> None:
        """How many resident pages only this guest has (``Ram.resident`` less those it shares)."""
        guest = self._guest(name)
        if pages != guest.private:
            self._private += pages - guest.private
            guest.private = pages
            self._changed.add(name)

    def set_shared(self, name: str, pages: int) -> None:
        """How many resident pages this guest has that are its trust group's (``Ram.shared``)."""
        guest = self._guest(name)
        if pages != guest.shared:
            guest.shared = pages
            self._changed.add(name)

    def set_group(self, group: str, pages: int) -> None:
        """How many pages a trust group keeps, each counted once (``SharedPages.count``)."""
        if not group or not self._members(group):
            raise ConfigError(f"no guest is in the trust group {group!r}")
        self._shared[group] = pages

    @property
    def resident_pages(self) -> int:
        """What is really used of the host."""
        return self._private + sum(self._shared.values())

    @property
    def promised_pages(self) -> int:
        """What admission has given away: the sum of memory.max, or of memory.low with overcommit."""
        return sum(self._claim(guest) for guest in self._guests.values())

    def charged_pages(self, name: str) -> int:
        """A guest's own pages and those that it shares."""
        guest = self._guest(name)
        return guest.private + guest.shared

    def entitled_pages(self, name: str) -> int:
        """See above. The sum over all guests is at most the capacity."""
        guest = self._guest(name)
        more = sum(max(g.limit - g.low, 0) for g in self._guests.values())
        rest = self.capacity_pages - sum(min(g.low, g.limit) for g in self._guests.values())
        own = min(guest.low, guest.limit)
        if more <= rest:
            return guest.limit
        return own + max(guest.limit - guest.low, 0) * max(rest, 0) // more

    def usage(self, name: str) -> MemoryUsage:
        """The counters of one guest."""
        guest = self._guest(name)
        charged = self.charged_pages(name)
        high = guest.knobs.high
        over = 0 if high is None else max(charged * PAGE_SIZE - high, 0)
        return MemoryUsage(
            private_bytes=guest.private * PAGE_SIZE,
            shared_bytes=guest.shared * PAGE_SIZE,
            saved_bytes=(guest.shared - self._part(guest)) * PAGE_SIZE,
            charged_bytes=charged * PAGE_SIZE,
            entitled_bytes=self.entitled_pages(name) * PAGE_SIZE,
            over_high_bytes=over,
        )

    # -- decisions

    def enforce(self, now_ns: int) -> list[MemoryLimitError]:
        """Which guests must be stopped now, and why: first those above their own limit, then, one
        by one until the rest fits, the one furthest above its entitlement (the youngest of equals).

        The caller stops them and calls ``remove``. Guests above ``memory.high`` are recorded: a
        balloon may ask them for ``usage().over_high_bytes``.
        """
        stopped: list[MemoryLimitError] = []
        gone: set[str] = set()
        if self._changed:
            for name in [name for name in self._guests if name in self._changed]:
                guest = self._guests[name]
                charged = self.charged_pages(name)
                self._watch_high(guest, charged, now_ns)
                if charged > guest.limit:
                    gone.add(name)
                    stopped.append(self._stop(name, OVER_MAX, charged, guest.limit, now_ns))
            self._changed = gone.copy()
        if self._resident_without(gone) <= self.capacity_pages:
            return stopped
        charges = {name: self.charged_pages(name) for name in self._guests}
        entitled = {name: self.entitled_pages(name) for name in self._guests}
        while self._resident_without(gone) > self.capacity_pages:
            rest = [guest for name, guest in self._guests.items() if name not in gone]
            over = [guest for guest in rest if charges[guest.name] > entitled[guest.name]]
            if not over:
                break
            worst = max(over, key=lambda g: (charges[g.name] - entitled[g.name], g.order))
            gone.add(worst.name)
            name = worst.name
            stopped.append(self._stop(name, HOST_FULL, charges[name], entitled[name], now_ns))
        return stopped

    # -- snapshots

    def state(self) -> HostMemoryState:
        """The books, as a value."""
        guests = tuple(
            GuestMemoryState(
                guest.name, guest.order, guest.ram_pages, MemoryKnobsState.of(guest.knobs),
                guest.private, guest.shared, guest.group, guest.above_high,
            )
            for guest in self._guests.values()
        )  # fmt: skip
        groups = tuple(self._shared.items())
        return HostMemoryState(
            self.capacity_pages, self.overcommit, self._next_order, guests, groups
        )

    def restore(self, state: HostMemoryState) -> None:
        """Go on where ``state`` was taken, on a host of the same capacity.

        ConfigError, with nothing changed, when anything about it is wrong.
        """
        state.check()
        here = (self.capacity_pages, self.overcommit)
        require((state.capacity_pages, state.overcommit) == here, "it is of a host of another size")
        guests: dict[str, _GuestMemory] = {}
        for saved in state.guests:
            guest = _GuestMemory(saved.name, saved.order, saved.ram_pages, saved.knobs.knobs())
            guest.private, guest.shared = saved.private, saved.shared
            guest.group, guest.above_high = saved.group, saved.above_high
            require(guest.low <= guest.limit, f"{guest.name}: memory.low is above memory.max")
            guests[guest.name] = guest
        claimed = sum(self._claim(guest) for guest in guests.values())
        require(claimed <= self.capacity_pages, "more memory is promised than there is")
        self._guests = guests
        self._shared = dict(state.groups)
        self._next_order = state.next_order
        self._private = sum(guest.private for guest in guests.values())
        self._changed = set(guests)

    # -- inside

    def _stop(
        self, name: str, limit: str, pages: int, allowed: int, now_ns: int
    ) -> MemoryLimitError:
        error = MemoryLimitError(name, limit, pages * PAGE_SIZE, allowed * PAGE_SIZE)
        self.ledger.record(now_ns, events.STOPPED, name, str(error))
        return error

    def _watch_high(self, guest: _GuestMemory, charged: int, now_ns: int) -> None:
        high = guest.knobs.high
        above = high is not None and charged * PAGE_SIZE > high
        if above and not guest.above_high:
            cause = f"memory.high: {charged * PAGE_SIZE} bytes are resident, {high} allowed"
            self.ledger.record(now_ns, events.PRESSURE, guest.name, cause)
        guest.above_high = above

    def _members(self, group: str) -> list[_GuestMemory]:
        return [g for g in self._guests.values() if group and g.group == group]

    def _part(self, guest: _GuestMemory) -> int:
        """How many of the pages that its group keeps are there for this guest, rounded up."""
        references = sum(member.shared for member in self._members(guest.group))
        kept = min(self._shared.get(guest.group, 0), references)
        return -(-kept * guest.shared // references) if references else 0

    def _resident_without(self, gone: set[str]) -> int:
        """At most so many pages are resident when ``gone`` are: a group keeps what the rest uses."""
        if not gone:
            return self.resident_pages
        rest = [guest for guest in self._guests.values() if guest.name not in gone]
        used = dict.fromkeys(self._shared, 0)
        for guest in rest:
            if guest.group in used:
                used[guest.group] += guest.shared
        kept = sum(min(pages, used[group]) for group, pages in self._shared.items())
        return sum(guest.private for guest in rest) + kept

    def _claim(self, guest: _GuestMemory) -> int:
        return min(guest.low, guest.limit) if self.overcommit else guest.limit

    def _check(self, guest: _GuestMemory, now_ns: int) -> None:
        error = self._refusal(guest)
        if error is not None:
            self.ledger.record(now_ns, events.REFUSED, guest.name, str(error))
            raise error

    def _refusal(self, guest: _GuestMemory) -> ConfigError | None:
        if guest.low > guest.limit:
            return ConfigError(
                f"guest {guest.name!r}: memory.low {guest.low * PAGE_SIZE} is more than it may "
                f"use, {guest.limit * PAGE_SIZE} bytes"
            )
        others = sum(self._claim(g) for g in self._guests.values() if g is not guest)
        available = self.capacity_pages - others
        wanted = self._claim(guest)
        if wanted <= available:
            return None
        remedy = (
            "lower memory.low"
            if self.overcommit
            else "give it less, or open the host with overcommit"
        )
        return AdmissionError(
            guest.name, "memory", wanted * PAGE_SIZE, available * PAGE_SIZE, "bytes", remedy
        )

    def _guest(self, name: str) -> _GuestMemory:
        guest = self._guests.get(name)
        if guest is None:
            raise ConfigError(f"no guest {name!r} on this host")
        return guest
