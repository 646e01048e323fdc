"""A host for the run agent that knows nothing but specs/run-protocol.md: blocking, for tests."""

from __future__ import annotations

import os
import queue
import select
import struct
import threading
from collections.abc import Sequence

from attrs import define, field

HEADER = struct.Struct("<cBHI")
MAX_PAYLOAD = 65536


@define
class Result:
    """How a command ended: ("X", how, value) or ("F", errno), and its output."""

    end: tuple[object, ...]
    stdout: bytes
    stderr: bytes
    frames: list[bytes] = field(factory=list)


class AgentClient:
    """Speaks to an agent over a file descriptor. Writes go through a thread, so that they never keep
    the reader from reading."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._received = b""
        self._id = 0
        self._to_send: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._write, daemon=True).start()

    def send(self, kind: bytes, number: int = 0, payload: bytes = b"") -> None:
        """One frame."""
        self._to_send.put(HEADER.pack(kind, 0, number, len(payload)) + payload)

    def send_raw(self, data: bytes) -> None:
        """Bytes that need be no frame."""
        self._to_send.put(data)

    def receive(self, timeout_seconds: float = 60) -> tuple[bytes, int, bytes]:
        """The next frame. EOFError at the end, TimeoutError when none comes."""
        while True:
            if len(self._received) >= HEADER.size:
                kind, zero, number, length = HEADER.unpack_from(self._received)
                assert zero == 0 and length <= MAX_PAYLOAD
                end = HEADER.size + length
                if len(self._received) >= end:
                    payload = self._received[HEADER.size : end]
                    self._received = self._received[end:]
                    return kind, number, payload
            if not select.select([self._descriptor], [], [], timeout_seconds)[0]:
                raise TimeoutError(f"no frame; so far {self._received[:80]!r}")
            try:
                data = os.read(self._descriptor, 1 << 16)
            except OSError as error:
                raise EOFError from error
            if not data:
                raise EOFError
            self._received += data

    def start(
        self, argv: Sequence[str], env: Sequence[str] = ("PATH=/usr/bin:/bin",), cwd: str = ""
    ) -> int:
        """Sends RUN; the command's id."""
        self._id += 1
        strings = b"".join(os.fsencode(text) + b"\0" for text in (cwd, *argv, *env))
        self.send(b"R", self._id, struct.pack("<II", len(argv), len(env)) + strings)
        return self._id

    def run(
        self,
        argv: Sequence[str],
        env: Sequence[str] = ("PATH=/usr/bin:/bin",),
        cwd: str = "",
        stdin: bytes = b"",
    ) -> Result:
        """Runs a command to its end, as rule 3 of the protocol has it."""
        number = self.start(argv, env, cwd)
        pieces = [stdin[i : i + MAX_PAYLOAD] for i in range(0, len(stdin), MAX_PAYLOAD)] + [b""]
        self.send(b"I", number, pieces.pop(0))
        return self.finish(number, pieces)

    def finish(self, number: int, pieces: list[bytes] | None = None) -> Result:
        """Collects a command's frames until it has ended, sending ``pieces`` as they are asked for."""
        out, err, kinds = b"", b"", []
        while True:
            kind, its, payload = self.receive()
            assert its == number, (kind, its)
            kinds.append(kind)
            if kind == b"O":
                assert payload
                out += payload
            elif kind == b"E":
                assert payload
                err += payload
            elif kind == b"A" and pieces:
                self.send(b"I", number, pieces.pop(0))
            elif kind == b"X":
                return Result(("X", *struct.unpack("<II", payload)), out, err, kinds)
            elif kind == b"F":
                return Result(("F", *struct.unpack("<I", payload)), out, err, kinds)

    def _write(self) -> None:
        while True:
            data = self._to_send.get()
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except OSError:
                    return
