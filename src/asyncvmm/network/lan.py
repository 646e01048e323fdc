"""A network of virtual time: cards on cables, a switch, and a gateway that stands beside it.

Guests run for a stretch of virtual time without seeing each other. Then ``advance`` moves every
frame of that time, in the one order (time, card's name, number): along the sender's cable, through the
switch, along the receiver's cable, and into the receiving guest's timeline. That is always in that
guest's future, because towards the card a cable takes at least as long as the longest stretch. It does
not matter who ran first, or into how many stretches time was cut.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, Protocol

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import NetPort, Packet
from asyncvmm.network.acl import AccessList
from asyncvmm.network.capture import INBOUND, OUTBOUND, Capture
from asyncvmm.network.config import GATEWAY, NetworkConfig
from asyncvmm.network.link import LinkCounters, LinkDirection, LinkShape
from asyncvmm.network.offload import wire_frames, wire_packets
from asyncvmm.network.outlet import Outlet
from asyncvmm.network.saved import MAX_NUMBER, Saved, packed
from asyncvmm.network.switch import Switch, SwitchPort
from asyncvmm.timeline.events import FOREVER

MAX_CARDS: Final = 1024

OUTLET_CARD: Final = "@"  # before a backend's name: what its card is called in snapshots

# What happens at one instant to one card's frames, in this order.
_SENDS: Final = 0
_SWITCHES: Final = 1


class Station(Protocol):
    """Something at the switch that is no guest: the gateway. Its time is the network's."""

    def arrive(self, time_ns: int, packet: Packet) -> None:
        """A frame comes."""
        ...

    def next_ns(self) -> int:
        """When it wants to run next; FOREVER when not."""
        ...

    def run(self, time_ns: int) -> None:
        """That time has come."""
        ...

    def take_frames(self) -> list[tuple[int, Packet]]:
        """What it has sent, with the times."""
        ...

    def save(self) -> dict[str, Any]:
        """All of it as plain data."""
        ...

    def load(self, saved: Saved) -> None:
        """What ``save`` gave."""
        ...


@attrs.define(eq=False)
class Cable:
    """From a card to the switch. ``up`` is from the card, ``down`` to it."""

    name: str
    guest: str  # by the name in its configuration
    port: NetPort
    since_ns: int
    shape: LinkShape
    up: LinkDirection
    down: LinkDirection
    last_ns: int = 0  # the latest arrival at the card so far

    @property
    def counters(self) -> tuple[LinkCounters, LinkCounters]:
        """Of frames from the card, and to it."""
        return self.up.counters, self.down.counters


class Network:
    """``quantum_ns`` is the longest stretch during which guests do not see each other."""

    def __init__(self, name: str, config: NetworkConfig, seed: int, quantum_ns: int) -> None:
        self.name: Final = name
        self.config: Final = config
        self.switch: Final = Switch()
        self.cables: Final[dict[str, Cable]] = {}
        self.now_ns = 0
        self.captures: list[Capture] = []
        self._seed = seed
        self._quantum_ns = quantum_ns
        self._events: list[tuple[int, int, str, int, Packet]] = []
        self._sequence = 0
        self._station: Station | None = None
        self.outlets: Final[dict[str, Outlet]] = {}
        self._check(config.shape)
        for cable in config.cables.values():
            self._check(cable.shape)

    # -- cards come and go, between two stretches

    def plug(self, guest: str, port: NetPort, since_ns: int) -> Cable:
        """Connect a card of a guest whose own time began at ``since_ns``."""
        self.check_room(1)
        name = guest
        count = 1
        while name in self.cables or name == GATEWAY:
            name = f"{guest}.{count}"
            count += 1
        return self._plug(name, guest, port, since_ns)

    def _plug(self, name: str, guest: str, port: NetPort, since_ns: int) -> Cable:
        config = self.config.cable(guest)
        path = f"net/{self.name}/{name}"
        cable = Cable(
            name,
            guest,
            port,
            since_ns,
            config.shape,
            LinkDirection(self._upwards(config.shape), self._seed, f"{path}/up"),
            LinkDirection(self._downwards(config.shape), self._seed, f"{path}/down"),
        )
        self.cables[name] = cable
        self.switch.add(SwitchPort(name, config.vlan, config.trunk, AccessList(config.rules)))
        return cable

    def check_room(self, cards: int) -> None:
        """ConfigError when so many more cards are too many."""
        if len(self.cables) + cards > MAX_CARDS:
            raise ConfigError(f"network {self.name}: more than {MAX_CARDS} cards")

    def unplug(self, cable: Cable) -> None:
        """The card's guest has ended; its frames that the switch has not seen are gone."""
        if self.cables.get(cable.name) is cable:
            del self.cables[cable.name]
            self.switch.remove(cable.name)

    def attach(self, station: Station) -> None:
        """Put the gateway at the switch, without a cable."""
        self._station = station
        self.switch.add(SwitchPort(GATEWAY))

    def add_outlet(self, outlet: Outlet) -> None:
        """Put a backend at the end of a cable of its own, before there are any guests."""
        self.outlets[outlet.name] = outlet
        self._plug(outlet.name, outlet.name, outlet.io.net, 0)

    def shape(self, name: str, **changes: Any) -> LinkShape:
        """Change a cable from now on (see LinkShape); ConfigError leaves it as it was."""
        shape = self.check_shape(name, **changes)
        cable = self.cables[name]
        cable.shape = shape
        cable.up.reshape(self._upwards(shape))
        cable.down.reshape(self._downwards(shape))
        return shape

    def check_shape(self, name: str, **changes: Any) -> LinkShape:
        """What ``shape`` would make of a cable, or its ConfigError."""
        if name not in self.cables:
            known = ", ".join(self.cables) or "none"
            raise ConfigError(f"network {self.name} has no cable {name!r}: there are {known}")
        shape = self.cables[name].shape.change(**changes)
        self._check(shape)
        return shape

    def capture(self, out: BinaryIO, card: str | None = None) -> Capture:
        """Write frames from now on to ``out`` until the host ends: see Capture for which."""
        if card is not None and card not in self.switch.ports:
            raise ConfigError(f"network {self.name} has no card {card!r} to capture")
        capture = Capture(out, card)
        self.captures.append(capture)
        return capture

    def close(self) -> None:
        """End all captures."""
        for capture in self.captures:
            capture.close(self.now_ns)
        self.captures = []

    # -- time

    def next_ns(self) -> int:
        """The earliest time at which there is something to move: guests should stop there."""
        first = self._events[0][0] if self._events else FOREVER
        first = min(first, self._first_station()[0])
        return first if first == FOREVER else first + 1

    def advance(self, now_ns: int) -> None:
        """All guests have lived to ``now_ns``: move what was sent before."""
        self._collect()
        while True:
            first = self._events[0][0] if self._events else FOREVER
            due_ns, station = self._first_station()
            if station is not None and due_ns < min(first, now_ns):
                station.run(due_ns)
                self._collect_stations()
                continue
            if first >= now_ns:
                break
            time_ns, kind, name, _, packet = heapq.heappop(self._events)
            if kind == _SENDS:
                self._leaves(time_ns, name, packet)
            else:
                self._reaches_switch(time_ns, name, packet)
        self.now_ns = now_ns
        for capture in self.captures:
            capture.flush(now_ns)

    def entered(self, now_ns: int) -> None:
        """The gateway was given something from outside at ``now_ns``, between two stretches: what it
        says to that goes on its way at once.

        All guests are at ``now_ns`` exactly, so these frames need not take a quantum to arrive in
        somebody's future: they take one less than others, but overtake none.
        """
        self._collect_outlets()
        if self._station is None:
            return
        for time_ns, packet in self._station.take_frames():
            for capture in self.captures:
                capture.note(time_ns, GATEWAY, packet, OUTBOUND)
            for target, frame in self.switch.forward(time_ns, GATEWAY, packet):
                cable = self.cables[target]
                for piece, arrives_ns in _passes(cable.down, time_ns, frame):
                    early_ns = max(arrives_ns - self._quantum_ns, cable.last_ns, now_ns)
                    self._arrives(early_ns, cable, piece)

    def _collect(self) -> None:
        for cable in self.cables.values():
            for sent in cable.port.take_sent():
                self._at(sent.time_ns + cable.since_ns, _SENDS, cable.name, sent.packet)
        self._collect_station()

    def _first_station(self) -> tuple[int, Station | Outlet | None]:
        """Which of the gateway and the backends wants to run first, and when; in their order."""
        first_ns, first = FOREVER, None
        if self._station is not None:
            first_ns, first = self._station.next_ns(), self._station
        return self._first_outlet(first_ns, first) if self.outlets else (first_ns, first)

    def _first_outlet(
        self, first_ns: int, first: Station | None
    ) -> tuple[int, Station | Outlet | None]:
        found: Station | Outlet | None = first
        for outlet in self.outlets.values():
            if outlet.next_ns() < first_ns:
                first_ns, found = outlet.next_ns(), outlet
        return first_ns, found

    def _collect_stations(self) -> None:
        self._collect_outlets()
        self._collect_station()

    def _collect_outlets(self) -> None:
        for name, outlet in self.outlets.items():
            for sent in outlet.io.net.take_sent():
                self._at(sent.time_ns, _SENDS, name, sent.packet)

    def _collect_station(self) -> None:
        if self._station is not None:
            for time_ns, packet in self._station.take_frames():
                for capture in self.captures:
                    capture.note(time_ns, GATEWAY, packet, OUTBOUND)
                self._at(time_ns, _SWITCHES, GATEWAY, packet)

    def _at(self, time_ns: int, kind: int, name: str, packet: Packet) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (time_ns, kind, name, self._sequence, packet))

    def _leaves(self, time_ns: int, name: str, packet: Packet) -> None:
        """A card sends."""
        cable = self.cables.get(name)
        if cable is None:
            return
        for capture in self.captures:
            capture.note(time_ns, name, packet, OUTBOUND)
        for frame, arrives_ns in _passes(cable.up, time_ns, packet):
            self._at(arrives_ns, _SWITCHES, name, frame)

    def _reaches_switch(self, time_ns: int, name: str, packet: Packet) -> None:
        for target, frame in self.switch.forward(time_ns, name, packet):
            if target == GATEWAY:
                if self._station is not None:
                    for capture in self.captures:
                        capture.note(time_ns, GATEWAY, frame, INBOUND)
                    self._station.arrive(time_ns, frame)
                    self._collect_station()
                continue
            cable = self.cables[target]
            for piece, arrives_ns in _passes(cable.down, time_ns, frame):
                self._arrives(arrives_ns, cable, piece)

    def _arrives(self, time_ns: int, cable: Cable, packet: Packet) -> None:
        cable.last_ns = max(cable.last_ns, time_ns)
        for capture in self.captures:
            capture.note(time_ns, cable.name, packet, INBOUND)
        outlet = self.outlets.get(cable.name)
        if outlet is not None:  # which knows nothing of what guests leave undone
            for frame in wire_packets(packet):
                outlet.arrive(time_ns, frame)
            return
        cable.port.arrive(time_ns - cable.since_ns, packet)

    # -- snapshots, between two stretches

    def save(self, cards: Mapping[str, str]) -> dict[str, Any]:
        """Cables, frames in flight, what the switch has learnt, and the gateway, as plain data.

        ``cards`` says what the card on each cable is called.
        """
        self._collect()
        own = {name: f"{OUTLET_CARD}{name}" for name in self.outlets}
        cards = {**cards, **own}
        outlets = {name: outlet.save() for name, outlet in self.outlets.items()}
        return {
            **({"outlets": outlets} if outlets else {}),
            "now_ns": self.now_ns,
            "cables": [
                {
                    "name": cable.name,
                    "guest": cable.guest,
                    "card": cards[cable.name],
                    "since_ns": cable.since_ns,
                    "last_ns": cable.last_ns,
                    "shape": cable.shape.save(),
                    "up": cable.up.save(),
                    "down": cable.down.save(),
                }
                for cable in self.cables.values()
            ],
            "switch": self.switch.save(),
            "events": [
                [time_ns, kind, name, packed(packet)]
                for time_ns, kind, name, _, packet in sorted(self._events, key=lambda e: e[:4])
            ],
            "station": None if self._station is None else self._station.save(),
        }

    def load(self, saved: Saved, ports: Mapping[str, NetPort]) -> dict[str, Cable]:
        """Make a new network what ``save`` told of, with the cards ``ports``; the cables by their
        cards.
        """
        own = {f"{OUTLET_CARD}{name}": outlet for name, outlet in self.outlets.items()}
        ports = {**ports, **{card: outlet.io.net for card, outlet in own.items()}}
        for name in self.outlets:
            self.unplug(self.cables[name])
        plugged: dict[str, Cable] = {}
        self.now_ns = saved.number("now_ns")
        for item in saved.items("cables", MAX_CARDS):
            one = Saved(item, f"{saved.where}: cable")
            name, card = one.text("name"), one.text("card")
            mine = card not in own or own[card].name == name
            if card not in ports or card in plugged or name in self.switch.ports or not mine:
                raise one.wrong("name", f"is {name!r}, at the card {card!r}, which cannot be")
            since_ns = one.number("since_ns", -MAX_NUMBER)
            cable = self._plug(name, one.text("guest"), ports[card], since_ns)
            cable.last_ns = one.number("last_ns")
            cable.shape = LinkShape.from_saved(one, "shape")
            self._check(cable.shape)
            cable.up.reshape(self._upwards(cable.shape))
            cable.down.reshape(self._downwards(cable.shape))
            cable.up.load(one.part("up"))
            cable.down.load(one.part("down"))
            one.done()
            plugged[card] = cable
        self.switch.load(saved.part("switch"))
        for time_ns, kind, name, item in saved.rows("events", "nnta"):
            if kind not in (_SENDS, _SWITCHES):
                raise saved.wrong("events", f"has one of kind {kind}")
            self._at(time_ns, kind, name, saved.packet("events", item))
        station = saved.take("station")
        if (station is None) != (self._station is None):
            raise saved.wrong("station", "is of a network with another kind of gateway")
        if self._station is not None:
            self._station.load(Saved(station, f"{saved.where}: gateway"))
        if own:
            if not own.keys() <= plugged.keys():
                raise saved.wrong("cables", "lacks that of a backend")
            states = saved.part("outlets")
            for name, outlet in self.outlets.items():
                outlet.load(states.part(name))
            states.done()
        saved.done()
        return {card: cable for card, cable in plugged.items() if card not in own}

    def _upwards(self, shape: LinkShape) -> LinkShape:
        """From the card: half of the latency, or what is left of it."""
        half, left = shape.latency_ns // 2, shape.latency_ns - self._quantum_ns
        return attrs.evolve(shape, latency_ns=min(half, left))

    def _downwards(self, shape: LinkShape) -> LinkShape:
        """To the card: never less than a quantum, so that frames come from outside a stretch."""
        up_ns = self._upwards(shape).latency_ns
        return attrs.evolve(shape, latency_ns=shape.latency_ns - up_ns)

    def _check(self, shape: LinkShape) -> None:
        if shape.latency_ns < self._quantum_ns:
            raise ConfigError(
                f"network {self.name}: a cable takes at least one quantum of the host "
                f"({self._quantum_ns} ns), not {shape.latency_ns} ns"
            )


def _passes(link: LinkDirection, time_ns: int, packet: Packet) -> list[tuple[Packet, int]]:
    """What arrives at the other end of a link, and when. Frames are cut where each counts."""
    if not link.single:
        times = link.pass_frame(time_ns, len(packet.data), wire_frames(packet))
        return [(packet, arrives_ns) for arrives_ns in times]
    return [
        (frame, arrives_ns)
        for frame in wire_packets(packet)
        for arrives_ns in link.pass_frame(time_ns, len(frame.data))
    ]
