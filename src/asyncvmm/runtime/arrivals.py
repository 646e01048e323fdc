"""What came to the cards of a guest whose past is kept: frames are its inputs from outside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from asyncvmm.device import NetPort, Packet
from asyncvmm.machine import Machine

MAX_BYTES: Final = 64 << 20  # of frames that are remembered
FRAME_COST: Final = 200  # of a frame, besides its bytes

Heard = Callable[[int, int, Packet], None]


def cards(machine: Machine) -> list[NetPort]:
    """The sockets of a machine's network cards."""
    return [d.io.net for d in machine.devices if d.type.net(d.config) is not None]


def listen(machine: Machine, heard: Heard) -> None:
    """From now on ``heard(card, time_ns, packet)`` is told what ``NetPort.arrive`` is."""

    def at_card(number: int) -> Callable[[int, Packet], None]:
        return lambda time_ns, packet: heard(number, time_ns, packet)

    for number, port in enumerate(cards(machine)):
        port.on_arrive = at_card(number)


def leave(machine: Machine) -> None:
    """Undo ``listen``."""
    for port in cards(machine):
        port.on_arrive = None


@attrs.frozen
class Arrival:
    """A frame that was put on its way to a card before the run number ``run``, to be there at
    ``time_ns``. It was ``at_ns`` of the guest's time then by its host's clock, ``own_ns`` by its own,
    which lags while the guest sleeps.
    """

    run: int
    at_ns: int
    own_ns: int
    card: int
    time_ns: int
    packet: Packet


class Arrivals:
    """All of them in order, numbered, but for those that were forgotten at the front."""

    def __init__(self) -> None:
        self.count = 0  # the number of the next
        self.size_bytes = 0
        self._kept: deque[Arrival] = deque()

    def add(self, arrival: Arrival) -> None:
        """One more."""
        self.count += 1
        self.size_bytes += len(arrival.packet) + FRAME_COST
        self._kept.append(arrival)

    def get(self, number: int) -> Arrival | None:
        """The one of that number, if it has come."""
        index = number - (self.count - len(self._kept))
        return self._kept[index] if 0 <= index < len(self._kept) else None

    def forget_before(self, number: int) -> None:
        """Nobody asks for these any more."""
        while self._kept and self.count - len(self._kept) < number:
            self._cost_less(self._kept.popleft())

    def forget_from(self, number: int) -> None:
        """These never were."""
        while self._kept and self.count > number:
            self._cost_less(self._kept.pop())
            self.count -= 1

    def _cost_less(self, arrival: Arrival) -> None:
        self.size_bytes -= len(arrival.packet) + FRAME_COST
