"""A network card's socket: what a device sends and receives frames through, and the host's side of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device.guard import DeviceGuard
from asyncvmm.device.rate import IoRate
from asyncvmm.timeline.events import Event

OUTBOX_PACKETS: Final = 8192  # of one stretch of virtual time (1 ms at most)
INBOX_PACKETS: Final = 4096  # arrived or on their way
INBOX_BYTES: Final = 16 << 20
RATE_QUEUE_NS: Final = 200_000_000  # what would wait longer for ``rate`` is dropped
MIN_FRAME: Final = 14
MAX_PACKET: Final = 65550 + 18  # the largest segmentation offload with its headers, and a VLAN tag

# What is left to do to a packet (the values of virtio 1.2, 5.1.6).
GSO_NONE: Final = 0
GSO_TCP4: Final = 1
GSO_TCP6: Final = 4


def _nothing() -> None:
    return None


class Packet:
    """An Ethernet frame without its FCS, and what its sender left undone.

    ``checksum_start`` (-1 for none) is where the bytes begin that the checksum at
    ``checksum_start + checksum_offset`` is still to be taken over. With ``gso`` other than GSO_NONE it is
    a large TCP segment to be cut into pieces of ``gso_size`` payload bytes. Never changed once made.
    """

    def __init__(
        self,
        data: bytes,
        checksum_start: int = -1,
        checksum_offset: int = 0,
        gso: int = GSO_NONE,
        gso_size: int = 0,
    ) -> None:
        self.data: bytes = data
        self.checksum_start: int = checksum_start
        self.checksum_offset: int = checksum_offset
        self.gso: int = gso
        self.gso_size: int = gso_size

    def __len__(self) -> int:
        return len(self.data)


def _packed(packet: Packet) -> list[object]:
    return [
        packet.data.hex(),
        packet.checksum_start,
        packet.checksum_offset,
        packet.gso,
        packet.gso_size,
    ]


class Sent:
    """A packet that a card sent at ``time_ns`` of its guest's time."""

    def __init__(self, time_ns: int, packet: Packet) -> None:
        self.time_ns: int = time_ns
        self.packet: Packet = packet


class _Arrival:
    def __init__(self, time_ns: int, sequence: int, packet: Packet) -> None:
        self.time_ns: int = time_ns
        self.sequence: int = sequence
        self.packet: Packet = packet
        self.allowed: bool = False  # ``rate`` was asked

    def __lt__(self, other: _Arrival) -> bool:
        if self.time_ns != other.time_ns:
            return self.time_ns < other.time_ns
        return self.sequence < other.sequence


class NetPort:
    """``send`` appends to this card's own outbox and touches nothing else, so guests may run side by
    side; the host empties it between two stretches. What arrives comes at its own instant of the
    guest's timeline: ``on_packets`` is called, ``receive`` gives it. Both sides are bounded: what does
    not fit is dropped and counted, as a wire would. ``rate`` is the host's limit on both directions
    ("write" is sending), which may be replaced before the device is created.
    """

    def __init__(self, name: str, mac: bytes, now: Callable[[], int]) -> None:
        self.name: str = name
        self.mac: bytes = mac
        self.network: str = ""
        self.guard: DeviceGuard = DeviceGuard()
        self.rate: IoRate = IoRate()
        # The device's listeners.
        self.on_packets: Callable[[], None] = _nothing
        self.on_link: Callable[[], None] = _nothing
        self.link_up: bool = True
        # Counters, never visible to the guest.
        self.sent: int = 0
        self.received: int = 0
        self.dropped_sending: int = 0
        self.dropped_arriving: int = 0
        self.schedule: Callable[[int, Callable[[], None]], Event] | None = None
        self.on_arrive: Callable[[int, Packet], None] | None = None  # hears what ``arrive`` is told
        self._now: Callable[[], int] = now
        self._outbox: list[Sent] = []
        self._inbox: list[Packet] = []
        self._next: int = 0  # the first of the inbox that was not received
        self._inbox_bytes: int = 0
        self._arriving: list[_Arrival] = []
        self._sequence: int = 0
        self._event: Event | None = None

    # The device's side.

    def send(self, packet: Packet) -> bool:
        """Put a packet on the wire now; False when it was dropped."""
        size = len(packet.data)
        if (
            not self.link_up
            or size < MIN_FRAME
            or size > MAX_PACKET
            or len(self._outbox) >= OUTBOX_PACKETS
        ):
            self.dropped_sending += 1
            return False
        now = self._now()
        if self.rate.ready_at(now, size, True) - now > RATE_QUEUE_NS:
            self.dropped_sending += 1
            return False
        self.sent += 1
        self._outbox.append(Sent(self.rate.take(now, size, True), packet))
        return True

    @property
    def waiting(self) -> int:
        """How many packets ``receive`` can give now."""
        return len(self._inbox) - self._next

    def peek(self) -> Packet | None:
        """What ``receive`` would give."""
        if self._next >= len(self._inbox):
            return None
        return self._inbox[self._next]

    def receive(self) -> Packet | None:
        """The next packet that has arrived."""
        if self._next >= len(self._inbox):
            return None
        packet = self._inbox[self._next]
        self._next += 1
        if self._next == len(self._inbox):
            self._inbox = []
            self._next = 0
        elif self._next >= 256:
            del self._inbox[: self._next]
            self._next = 0
        self._inbox_bytes -= len(packet.data)
        self.received += 1
        return packet

    def clear(self) -> None:
        """Throw away what has arrived: the device was reset."""
        for packet in self._inbox[self._next :]:
            self._inbox_bytes -= len(packet.data)
        self._inbox = []
        self._next = 0

    # The host's side; only between two stretches.

    @property
    def has_sent(self) -> bool:
        """Whether ``take_sent`` would give any."""
        return len(self._outbox) > 0

    def take_sent(self) -> list[Sent]:
        """Everything sent since the last call, in order."""
        sent = self._outbox
        self._outbox = []
        return sent

    def arrive(self, time_ns: int, packet: Packet) -> bool:
        """Let ``packet`` arrive at ``time_ns`` of the guest's time (now at the earliest)."""
        heard = self.on_arrive
        if heard is not None:
            heard(time_ns, packet)
        size = len(packet.data)
        count = len(self._arriving) + len(self._inbox) - self._next
        if count >= INBOX_PACKETS or self._inbox_bytes + size > INBOX_BYTES:
            self.dropped_arriving += 1
            return False
        self._inbox_bytes += size
        self._sequence += 1
        heapq.heappush(self._arriving, _Arrival(time_ns, self._sequence, packet))
        if self._arriving[0].sequence == self._sequence:
            self._arm()
        return True

    def set_link(self, up: bool) -> None:
        """The cable is plugged in or pulled out."""
        if up != self.link_up:
            self.link_up = up
            self.guard.run(self.on_link)

    # Snapshots.

    def save(self) -> dict[str, object]:
        """What has arrived and what is on its way to the card, as plain data."""
        inbox = [_packed(packet) for packet in self._inbox[self._next :]]
        arriving: list[object] = []
        for arrival in sorted(self._arriving):
            arriving.append([arrival.time_ns, arrival.allowed, _packed(arrival.packet)])
        return {"version": 1, "link_up": self.link_up, "inbox": inbox, "arriving": arriving}

    def load(self, saved: dict[str, object]) -> None:
        """Take back what ``save`` gave, at the same instant; ConfigError, with nothing changed."""
        inbox, arriving = saved.get("inbox"), saved.get("arriving")
        link_up = saved.get("link_up")
        known = saved.get("version") == 1 and type(link_up) is bool
        if not known or not isinstance(inbox, list) or not isinstance(arriving, list):
            raise ConfigError(f"card {self.name}: saved state of an unknown version")
        if len(inbox) + len(arriving) > INBOX_PACKETS:
            raise ConfigError(f"card {self.name}: more saved packets than fit")
        packets = [self._unpacked(item) for item in inbox]
        coming: list[_Arrival] = []
        for item in arriving:
            if not isinstance(item, list) or len(item) != 3:
                raise ConfigError(f"card {self.name}: a saved arrival is {item!r}")
            time_ns, allowed = item[0], item[1]
            if type(time_ns) is not int or not 0 <= time_ns < 1 << 63 or type(allowed) is not bool:
                raise ConfigError(f"card {self.name}: a saved arrival is {item!r}")
            arrival = _Arrival(time_ns, len(coming) + 1, self._unpacked(item[2]))
            arrival.allowed = allowed
            coming.append(arrival)
        size = 0
        for packet in packets:
            size += len(packet.data)
        for arrival in coming:
            size += len(arrival.packet.data)
        if size > INBOX_BYTES:
            raise ConfigError(f"card {self.name}: more saved packets than fit")
        heapq.heapify(coming)
        self._inbox, self._next, self._inbox_bytes = packets, 0, size
        self._arriving, self._sequence = coming, len(coming)
        self.link_up = link_up is True
        self._arm()

    def _unpacked(self, item: object) -> Packet:
        """A saved packet."""
        if isinstance(item, list) and len(item) == 5 and isinstance(item[0], str):
            numbers = [number for number in item[1:] if type(number) is int]
            good = len(numbers) == 4 and min(numbers) >= -1 and max(numbers) <= 0xFFFF
            try:
                data = bytes.fromhex(item[0])
            except ValueError:
                data = b""
            if good and MIN_FRAME <= len(data) <= MAX_PACKET:
                return Packet(data, numbers[0], numbers[1], numbers[2], numbers[3])
        raise ConfigError(f"card {self.name}: a saved packet is wrong")

    def _arm(self) -> None:
        event = self._event
        if event is not None:
            event.cancel()
            self._event = None
        schedule = self.schedule
        if self._arriving and schedule is not None:
            delay = self._arriving[0].time_ns - self._now()
            self._event = schedule(delay if delay > 0 else 0, self._due)

    def _due(self) -> None:
        """Packets have arrived: hand over all of this instant at once."""
        self._event = None
        now = self._now()
        while self._arriving and self._arriving[0].time_ns <= now:
            arrival = heapq.heappop(self._arriving)
            if arrival.allowed or self._allow(arrival, now):
                self._inbox.append(arrival.packet)
        self._arm()
        if self._next < len(self._inbox):
            self.on_packets()

    def _allow(self, arrival: _Arrival, now: int) -> bool:
        """Whether ``rate`` lets a packet in now; otherwise it comes later, or never."""
        size = len(arrival.packet.data)
        if self.rate.ready_at(now, size, False) - now > RATE_QUEUE_NS:
            self._inbox_bytes -= size
            self.dropped_arriving += 1
            return False
        arrival.time_ns = self.rate.take(now, size, False)
        arrival.allowed = True
        if arrival.time_ns <= now:
            return True
        heapq.heappush(self._arriving, arrival)
        return False
