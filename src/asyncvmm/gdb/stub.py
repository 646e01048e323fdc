"""The stub: packets come in, answers go out, and what takes time is asked for as requests."""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Callable
from typing import Final

import attrs

from asyncvmm.gdb.packets import (
    ACK,
    BAD,
    INTERRUPT,
    MAX_PAYLOAD,
    NACK,
    PacketReader,
    frame,
)
from asyncvmm.gdb.registers import GENERAL, NUMBERS, PC, size_bytes, target_description
from asyncvmm.gdb.resume import Resume, parse_number, parse_thread, parse_vcont
from asyncvmm.gdb.target import Point, Stop, Target

MAX_TEXT: Final = MAX_PAYLOAD // 2 - 64  # bytes that are sent as hexadecimal digits

OK: Final = b"OK"
UNKNOWN: Final = b""  # how the protocol says that it does not know a packet
MALFORMED: Final = b"E01"
REFUSED: Final = b"E02"
FAULT: Final = b"E0e"  # EFAULT


@attrs.frozen
class Interrupt:
    """Stop the target as soon as can be, and tell the stub with ``stopped``."""


@attrs.frozen
class Detach:
    """gdb goes away: no break- or watchpoint is wanted any more, and the target goes on."""


@attrs.frozen
class Kill:
    """End the target; gdb goes away."""


@attrs.frozen
class Monitor:
    """``monitor COMMAND``: to be answered with ``Stub.monitor_done``."""

    command: str


Request = Resume | Interrupt | Detach | Kill | Monitor


class Stub:
    """One connection of gdb to a target that stands still when the connection begins.

    ``receive`` takes what came and returns requests; ``take_output`` is what is to be sent. While a
    request to resume or a monitor command is under way, only an interrupt is listened to. Whatever
    comes, nothing is raised, and nothing is kept but one packet in each direction.
    """

    def __init__(self, target: Target, stop: Stop | None = None) -> None:
        self.target: Final = target
        self.stop = stop if stop is not None else Stop()
        self._reader = PacketReader()
        self._output = bytearray()
        self._last = b""
        self._acks = True
        self._busy = False  # a Resume or a Monitor is not answered yet
        self._over = False
        self._general = self.stop.hart  # of g, m and so on
        self._control = -1  # of c and s; -1 is who stopped
        self._knows: frozenset[bytes] = frozenset()
        self._description = target_description()
        self._requests: list[Request] = []
        self._commands: Final[dict[bytes, Callable[[bytes], bytes | None]]] = {
            b"?": lambda _: self._stop_reply(),
            b"g": self._read_general,
            b"G": self._write_general,
            b"p": self._read_register,
            b"P": self._write_register,
            b"m": self._read_memory,
            b"x": self._read_binary,
            b"M": self._write_memory,
            b"X": self._write_binary,
            b"c": self._continue,
            b"s": self._continue,
            b"C": self._continue,
            b"S": self._continue,
            b"b": self._backward,
            b"Z": self._insert,
            b"z": self._remove,
            b"H": self._set_thread,
            b"T": self._thread_alive,
            b"v": self._verbose,
            b"q": self._query,
            b"Q": self._set,
            b"D": self._detach,
            b"k": self._kill,
        }

    # -- what the connection does

    def receive(self, data: bytes) -> list[Request]:
        """What ``data`` asks for beyond an answer."""
        self._requests = []
        for event in self._reader.feed(data):
            if self._over:
                break
            if event == INTERRUPT:
                self._requests.append(Interrupt())
            elif event == NACK:
                if self._acks:
                    self._output += self._last
            elif event == BAD:
                if self._acks:
                    self._output += b"-"
            elif event != ACK and isinstance(event, bytes):
                self._packet(event)
        return self._requests

    def take_output(self) -> bytes:
        """What is to be sent now."""
        data = bytes(self._output)
        self._output.clear()
        return data

    def stopped(self, stop: Stop) -> None:
        """The target stands still again."""
        self.stop = stop
        self._general, self._control = stop.hart, -1
        if self._busy:
            self._busy = False
            self._send(self._stop_reply())

    def ended(self, code: int | None) -> None:
        """The target is no more: with an exit code, or killed (None)."""
        if self._busy and not self._over:
            self._send(b"X09" if code is None else b"W%02x" % (code & 0xFF))
        self._over = True

    def say(self, text: str) -> None:
        """A line for gdb's console while it waits for the target to stop."""
        if self._busy:
            self._send(b"O" + hexlify(text.encode()[:MAX_TEXT]))

    def monitor_done(self, text: str) -> None:
        """What a monitor command has to say."""
        if self._busy:
            self._busy = False
            self._send(hexlify(text.encode()[:MAX_TEXT]) or OK)

    # -- packets

    def _packet(self, payload: bytes) -> None:
        if self._acks:
            self._output += b"+"
        if self._busy:
            return
        command = self._commands.get(payload[:1])
        answer = UNKNOWN if command is None else command(payload)
        if answer is not None:
            self._send(answer)
        if payload == b"QStartNoAckMode":
            self._acks = False

    def _send(self, payload: bytes) -> None:
        self._last = frame(payload[:MAX_PAYLOAD])
        self._output += self._last

    def _request(self, request: Request) -> None:
        """It is answered later."""
        self._busy = True
        self._requests.append(request)

    def _stop_reply(self) -> bytes:
        stop = self.stop
        reply = b"T%02xthread:%x;" % (stop.signal & 0xFF, stop.hart + 1)
        if stop.reason in ("swbreak", "hwbreak"):
            if stop.reason.encode() in self._knows:
                reply += b"%s:;" % stop.reason.encode()
        elif stop.reason == "replaylog":
            reply += b"replaylog:begin;"
        elif stop.reason:
            reply += b"%s:%x;" % (stop.reason.encode(), stop.address)
        return reply

    # -- registers

    def _read_general(self, _: bytes) -> bytes:
        read = self.target.read_register
        values = [read(self._general, number).to_bytes(8, "little") for number in GENERAL]
        return hexlify(b"".join(values))

    def _write_general(self, payload: bytes) -> bytes:
        data = _unhex(payload[1:])
        if data is None or len(data) % 8 or not data:
            return MALFORMED
        for number in GENERAL:
            value = data[8 * number : 8 * number + 8]
            if value:
                self.target.write_register(self._general, number, int.from_bytes(value, "little"))
        return OK

    def _read_register(self, payload: bytes) -> bytes:
        number = parse_number(payload[1:])
        if number not in NUMBERS or number is None:
            return MALFORMED
        value = self.target.read_register(self._general, number)
        return hexlify(value.to_bytes(8, "little")[: size_bytes(number)])

    def _write_register(self, payload: bytes) -> bytes:
        name, _, digits = payload[1:].partition(b"=")
        number, data = parse_number(name), _unhex(digits)
        if number not in NUMBERS or number is None or data is None:
            return MALFORMED
        if len(data) != size_bytes(number):
            return MALFORMED
        value = int.from_bytes(data, "little")
        return OK if self.target.write_register(self._general, number, value) else REFUSED

    # -- memory

    def _read_memory(self, payload: bytes) -> bytes:
        wanted = _address_and_length(payload[1:])
        if wanted is None:
            return MALFORMED
        address, length = wanted
        data = self.target.read_memory(self._general, address, min(length, MAX_PAYLOAD // 2))
        return hexlify(data) if data or not length else FAULT

    def _read_binary(self, payload: bytes) -> bytes:
        wanted = _address_and_length(payload[1:])
        if wanted is None:
            return MALFORMED
        address, length = wanted
        data = self.target.read_memory(self._general, address, min(length, MAX_PAYLOAD // 2))
        return b"b" + data if data or not length else FAULT

    def _write_memory(self, payload: bytes) -> bytes:
        head, _, digits = payload[1:].partition(b":")
        return self._write(head, _unhex(digits))

    def _write_binary(self, payload: bytes) -> bytes:
        head, _, data = payload[1:].partition(b":")
        return self._write(head, data)

    def _write(self, head: bytes, data: bytes | None) -> bytes:
        wanted = _address_and_length(head)
        if wanted is None or data is None or len(data) != wanted[1]:
            return MALFORMED
        written = not data or self.target.write_memory(self._general, wanted[0], data)
        return OK if written else FAULT

    # -- going on

    def _continue(self, payload: bytes) -> bytes | None:
        """``c [address]``, ``s [address]``, ``C signal[;address]``, ``S signal[;address]``."""
        rest = payload[1:]
        if payload[:1] in (b"C", b"S"):
            signal, _, rest = rest.partition(b";")
            if parse_number(signal) is None:
                return MALFORMED
        hart = self._controlled
        if rest:
            address = parse_number(rest)
            if address is None:
                return MALFORMED
            if not self.target.write_register(hart, PC, address):
                return REFUSED
        self._request(Resume(step=hart) if payload[:1] in (b"s", b"S") else Resume())
        return None

    @property
    def _controlled(self) -> int:
        return self._control if self._control >= 0 else self.stop.hart

    def _backward(self, payload: bytes) -> bytes | None:
        if payload not in (b"bc", b"bs"):
            return UNKNOWN
        self._request(Resume(self._controlled if payload == b"bs" else None, backward=True))
        return None

    def _verbose(self, payload: bytes) -> bytes | None:
        if payload == b"vCont?":
            return b"vCont;c;C;s;S;t;r"
        if payload.startswith(b"vCont;"):
            resume = parse_vcont(payload[6:], self.target.hart_count, self._controlled)
            if resume is None:
                return MALFORMED
            self._request(resume)
            return None
        if payload.startswith(b"vKill"):
            self._over = True
            self._requests.append(Kill())
            return OK
        return UNKNOWN

    def _detach(self, _: bytes) -> bytes:
        self._over = True
        self._requests.append(Detach())
        return OK

    def _kill(self, _: bytes) -> None:
        self._over = True
        self._requests.append(Kill())

    # -- break- and watchpoints

    def _point(self, payload: bytes) -> tuple[Point, int, int] | None:
        kind, _, rest = payload[1:].partition(b",")
        wanted = _address_and_length(rest.partition(b";")[0])
        if kind not in (b"0", b"1", b"2", b"3", b"4") or wanted is None:
            return None
        point = Point(int(kind))
        if point >= Point.WRITE and not 1 <= wanted[1] <= 1 << 32:
            return None
        return point, wanted[0], wanted[1]

    def _insert(self, payload: bytes) -> bytes:
        point = self._point(payload)
        if point is None:
            return MALFORMED
        return OK if self.target.insert(*point) else REFUSED

    def _remove(self, payload: bytes) -> bytes:
        point = self._point(payload)
        if point is None:
            return MALFORMED
        self.target.remove(*point)
        return OK

    # -- threads, which are harts

    def _set_thread(self, payload: bytes) -> bytes:
        thread = parse_thread(payload[2:])
        if thread is None or thread > self.target.hart_count or payload[1:2] not in (b"g", b"c"):
            return MALFORMED
        if payload[1:2] == b"c":
            self._control = thread - 1 if thread > 0 else -1
        else:
            self._general = thread - 1 if thread > 0 else self.stop.hart
        return OK

    def _thread_alive(self, payload: bytes) -> bytes:
        thread = parse_number(payload[1:])
        return OK if thread and thread <= self.target.hart_count else MALFORMED

    # -- queries

    def _query(self, payload: bytes) -> bytes | None:
        name, _, rest = payload.partition(b":")
        if name == b"qSupported":
            self._knows = frozenset(
                feature[:-1] for feature in rest.split(b";") if feature.endswith(b"+")
            )
            return (
                b"PacketSize=%x;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;ReverseStep+;"
                b"ReverseContinue+;qXfer:features:read+;qXfer:threads:read+;binary-upload+"
            ) % MAX_PAYLOAD
        if name == b"qXfer":
            return self._transfer(rest)
        if payload.startswith(b"qRcmd,"):
            command = _unhex(payload[6:])
            if command is None:
                return MALFORMED
            self._request(Monitor(command.decode(errors="replace")))
            return None
        if payload.startswith(b"qThreadExtraInfo,"):
            thread = parse_number(payload[17:])
            if not thread or thread > self.target.hart_count:
                return MALFORMED
            return hexlify(self.target.describe(thread - 1).encode())
        harts = range(1, self.target.hart_count + 1)
        simple = {
            b"qC": b"QC%x" % (self._general + 1),
            b"qfThreadInfo": b"m" + b",".join(b"%x" % number for number in harts),
            b"qsThreadInfo": b"l",
            b"qAttached": b"1",
            b"qSymbol": OK,
        }
        return simple.get(name, UNKNOWN)

    def _transfer(self, rest: bytes) -> bytes:
        """``qXfer:OBJECT:read:ANNEX:OFFSET,LENGTH``."""
        words = rest.split(b":")
        wanted = _address_and_length(words[3]) if len(words) == 4 else None
        if wanted is None or words[1] != b"read":
            return MALFORMED
        if words[0] == b"features" and words[2] == b"target.xml":
            document = self._description
        elif words[0] == b"threads":
            document = self._threads()
        else:
            return b"E00"
        offset, length = wanted
        part = document[offset : offset + min(length, MAX_PAYLOAD - 1)]
        return (b"m" if offset + len(part) < len(document) else b"l") + part

    def _threads(self) -> bytes:
        lines = ["<?xml version='1.0'?>", "<threads>"]
        for hart in range(self.target.hart_count):
            text = self.target.describe(hart)
            lines.append(
                f'<thread id="{hart + 1:x}" core="{hart}" name="hart{hart}">{text}</thread>'
            )
        return "\n".join([*lines, "</threads>"]).encode()

    def _set(self, payload: bytes) -> bytes:
        return OK if payload == b"QStartNoAckMode" else UNKNOWN


def _unhex(digits: bytes) -> bytes | None:
    if not all(byte in b"0123456789abcdefABCDEF" for byte in digits) or len(digits) % 2:
        return None
    return bytes.fromhex(digits.decode())


def _address_and_length(text: bytes) -> tuple[int, int] | None:
    first, comma, second = text.partition(b",")
    address, length = parse_number(first), parse_number(second)
    if not comma or address is None or length is None:
        return None
    return address, length
