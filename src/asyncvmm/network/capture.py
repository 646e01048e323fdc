"""Captures in the pcapng format, with virtual time in nanoseconds. The same run gives the same bytes."""

from __future__ import annotations

import heapq
import struct
from contextlib import suppress
from typing import BinaryIO, Final

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Packet
from asyncvmm.network.offload import wire_packets

SECTION: Final = 0x0A0D0D0A
INTERFACE: Final = 1
ENHANCED_PACKET: Final = 6
ETHERNET: Final = 1
OPTION_NAME: Final = 2
OPTION_RESOLUTION: Final = 9
OPTION_FLAGS: Final = 2
INBOUND: Final = 1
OUTBOUND: Final = 2


class PcapngWriter:
    """Writes blocks to ``out`` as they come; interfaces are numbered from 0."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._interfaces = 0
        self._block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))

    def interface(self, name: str) -> int:
        """A new interface, with nanoseconds; its number."""
        options = _option(OPTION_NAME, name.encode()) + _option(OPTION_RESOLUTION, b"\x09")
        body = struct.pack("<HHI", ETHERNET, 0, 0) + options + _option(0, b"")
        self._block(INTERFACE, body)
        self._interfaces += 1
        return self._interfaces - 1

    def frame(self, interface: int, time_ns: int, data: bytes, direction: int) -> None:
        """One frame, as the card on that interface saw it."""
        head = struct.pack(
            "<IIIII", interface, time_ns >> 32, time_ns & 0xFFFFFFFF, len(data), len(data)
        )
        options = _option(OPTION_FLAGS, struct.pack("<I", direction)) + _option(0, b"")
        self._block(ENHANCED_PACKET, head + _padded(data) + options)

    def _block(self, kind: int, body: bytes) -> None:
        length = len(body) + 12
        self._out.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


class Capture:
    """Frames in the order of their times: those from the future wait for it.

    Of one ``card``: every frame that leaves or reaches it. Of the whole network (``card`` None): every
    frame once, as it leaves its sender, whatever becomes of it. Large segments and open checksums are
    written as the wire would have had them.
    """

    def __init__(self, out: BinaryIO, card: str | None = None) -> None:
        self.card: Final = card
        self._out = out
        self._waiting: list[tuple[int, int, str, bytes, int]] = []
        self._ended = False
        try:
            self._writer = PcapngWriter(out)
        except OSError as error:
            raise self._cannot(error) from error
        self._interfaces: dict[str, int] = {}
        self._sequence = 0
        self.frames = 0

    def note(self, time_ns: int, card: str, packet: Packet, direction: int) -> None:
        """A frame leaves (OUTBOUND) or reaches (INBOUND) a card at ``time_ns``."""
        if self._ended or (card != self.card if self.card is not None else direction != OUTBOUND):
            return
        for frame in wire_packets(packet):
            self._sequence += 1
            entry = (time_ns, self._sequence, card, frame.data, direction)
            heapq.heappush(self._waiting, entry)

    def flush(self, before_ns: int) -> None:
        """Write what happened before this time: nothing earlier will be noted any more.

        BackendError when it cannot be written.
        """
        try:
            self._write(before_ns)
        except OSError as error:
            raise self._cannot(error) from error

    def _write(self, before_ns: int) -> None:
        while self._waiting and self._waiting[0][0] < before_ns:
            time_ns, _, card, data, direction = heapq.heappop(self._waiting)
            if card not in self._interfaces:
                self._interfaces[card] = self._writer.interface(card)
            self._writer.frame(self._interfaces[card], time_ns, data, direction)
            self.frames += 1

    def close(self, now_ns: int) -> None:
        """The end, at ``now_ns``: what would have happened later did not."""
        if self._ended:
            return
        try:
            self._write(now_ns)
            self._out.close()
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> BackendError:
        """It ends here."""
        name = getattr(self._out, "name", "")
        self._ended = True
        self._waiting.clear()
        with suppress(OSError):
            self._out.close()
        return BackendError(f"capture {name}: cannot be written: {error.strerror or error}")
