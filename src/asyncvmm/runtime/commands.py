"""Running commands in a guest through its agent: the host's side of specs/run-protocol.md."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import attrs
import trio

from asyncvmm.base.errors import GuestError
from asyncvmm.runtime import run_protocol as protocol
from asyncvmm.runtime.ports import GuestEndedError, PortStream
from asyncvmm.runtime.run_protocol import Frame, FrameReader, RunChannelError

RUN_PORT: Final = "asyncvmm.run"
# What a guest's configuration has for the agent of its image.
RUN_DEVICES: Final = (f"virtio-console,ports={RUN_PORT}", "virtio-rng")
RUN_APPEND: Final = "asyncvmm.run=1"

Sink = Callable[[bytes], None]
KILL_SIGNAL = 9


def is_run_port(name: str) -> bool:
    """Whether a machine's port of that name is the agent's."""
    return name.endswith(f":{RUN_PORT}")


class CommandFailedError(RunChannelError):
    """A command ended with another status than 0 and ``check`` was asked for; ``result`` has all."""

    def __init__(self, result: CompletedCommand) -> None:
        text = result.stderr.decode(errors="replace").strip()[-500:]
        super().__init__(f"{result.arguments[0]!r} ended with status {result.status}: {text}")
        self.result = result


@attrs.frozen
class CompletedCommand:
    """What a command in a guest did. ``status`` is the shell's: 0-255, 126/127, 128 + signal."""

    arguments: tuple[str | bytes, ...]
    status: int
    stdout: bytes
    stderr: bytes


class _Feeding:
    """The state of a command's standard input: one INPUT frame is under way at a time."""

    def __init__(self) -> None:
        self.acknowledged = trio.Event()


class CommandChannel:
    """One guest's run channel: a command at a time, in the order of the calls."""

    def __init__(self, stream: PortStream) -> None:
        self._stream = stream
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._turn = trio.Lock()
        self._ready = False
        self._next_id = 1
        self._running = 0
        self._abandoned = 0  # the id of a command whose caller was cancelled and that has not ended

    def state(self) -> tuple[bool, int, int, bytes]:
        """Whether the agent is there, the next command's id, that of one that runs (or 0), and what
        was heard and not served yet.
        """
        heard = b"".join([protocol.encode(f.kind, f.command, f.payload) for f in self._frames])
        return (
            self._ready,
            self._next_id,
            self._running or self._abandoned,
            heard + self._reader.rest,
        )

    def restore(self, ready: bool, next_id: int, command: int) -> None:
        """Go on where ``state`` was told; the command that ran there is killed before the next one."""
        self._ready, self._next_id, self._abandoned = ready, next_id, command

    async def wait_ready(self) -> None:
        """Return when the guest's agent has said HELLO: the guest is up."""
        async with self._turn:
            await self._settle()

    async def run(
        self,
        arguments: Sequence[str | bytes],
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str = "",
    ) -> CompletedCommand:
        """Run one command. Output goes to the sinks as it comes, or is collected in the result."""
        collected_out, collected_err = bytearray(), bytearray()
        out: Sink = stdout or collected_out.extend
        err: Sink = stderr or collected_err.extend
        variables = {**protocol.DEFAULT_ENVIRONMENT, **(environment or {})}
        async with self._turn:
            await self._settle()
            number = self._next_id
            self._next_id = number % 0xFFFF + 1
            program = _bytes(arguments[0]) if arguments else b""
            frame = protocol.encode_run(number, arguments, variables, directory)
            self._running = number
            try:
                status = await self._converse(number, program, frame, stdin, out, err)
            except GuestError:
                raise  # there is no command any more
            except BaseException:
                self._abandoned = number
                raise
            finally:
                self._running = 0
        return CompletedCommand(
            tuple(arguments), status, bytes(collected_out), bytes(collected_err)
        )

    async def power_off(self) -> None:
        """Ask the agent to sync and power the guest off; returns once that is sent."""
        async with self._turn:
            await self._settle()
            await self._stream.send_all(protocol.encode(protocol.POWEROFF, 0, bytes(4)))

    async def _settle(self) -> None:
        """The agent is there, and an abandoned command is killed and over."""
        if self._abandoned:
            kill = protocol.encode(
                protocol.KILL, self._abandoned, KILL_SIGNAL.to_bytes(4, "little")
            )
            await self._stream.send_all(kill)
        while not self._ready or self._abandoned:
            frame = await self._receive()
            ended = frame.kind in (protocol.EXIT, protocol.FAILED)
            if ended and frame.command == self._abandoned:
                self._abandoned = 0

    async def _converse(
        self,
        number: int,
        program: bytes,
        run: bytes,
        stdin: bytes | AsyncIterable[bytes],
        out: Sink,
        err: Sink,
    ) -> int:
        feeding = _Feeding()
        failure: Exception | None = None
        status = -1
        async with trio.open_nursery() as nursery:

            async def feed() -> None:
                nonlocal failure
                try:
                    async with aclosing(_pieces(stdin)) as pieces:
                        async for piece in pieces:
                            feeding.acknowledged = trio.Event()
                            frame = protocol.encode(protocol.INPUT, number, piece)
                            await self._stream.send_all(frame)
                            await feeding.acknowledged.wait()
                except trio.BrokenResourceError:
                    pass  # the guest has ended: the listening side says so
                except Exception as error:  # the caller's own
                    failure = failure or error
                    nursery.cancel_scope.cancel()

            # Errors leave as themselves, not in the nursery's group: callers can catch them by type.
            try:
                await self._stream.send_all(run)
                nursery.start_soon(feed)
                status = await self._listen(number, program, feeding, out, err)
            except trio.BrokenResourceError:
                failure = GuestEndedError("the guest ended before the command did")
            except Exception as error:
                failure = failure or error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return status

    async def _listen(
        self, number: int, program: bytes, feeding: _Feeding, out: Sink, err: Sink
    ) -> int:
        """Hand out a command's output until it ends; its status."""
        while True:
            frame = await self._receive()
            if frame.kind == protocol.HELLO:
                raise RunChannelError("the guest rebooted while the command ran")
            if frame.command != number:
                continue
            if frame.kind == protocol.OUTPUT:
                out(frame.payload)
            elif frame.kind == protocol.ERROR:
                err(frame.payload)
            elif frame.kind == protocol.ACK:
                feeding.acknowledged.set()
            elif frame.kind == protocol.FAILED:
                err(_why(program, frame))
                return protocol.exit_status(frame)
            elif frame.kind == protocol.EXIT:
                return protocol.exit_status(frame)

    async def _receive(self) -> Frame:
        while not self._frames:
            data = await self._stream.receive_some()
            if not data:
                raise GuestEndedError("the guest ended before the command did")
            self._frames = self._reader.feed(data)
        frame = self._frames.pop(0)
        if frame.kind == protocol.HELLO:
            if frame.word(0) != protocol.VERSION:
                raise RunChannelError(
                    f"the image's agent speaks version {frame.word(0)} of the run protocol, "
                    f"this asyncvmm {protocol.VERSION}: build the image again"
                )
            self._ready = True
            self._abandoned = 0
        return frame


def _bytes(word: str | bytes) -> bytes:
    return word.encode(errors="surrogateescape") if isinstance(word, str) else word


def _why(program: bytes, frame: Frame) -> bytes:
    """What a shell would print for a command that could not be started."""
    reasons = {2: "not found", 7: "too many arguments", 13: "permission denied", 16: "busy"}
    number = frame.word()
    reason = reasons.get(number, f"error {number}")
    return b"asyncvmm: " + program + f": {reason}\n".encode()


async def _pieces(stdin: bytes | AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """Standard input in frames' sizes, with the empty piece that closes it at the end."""
    if isinstance(stdin, bytes):
        for start in range(0, len(stdin), protocol.MAX_PAYLOAD):
            yield stdin[start : start + protocol.MAX_PAYLOAD]
    else:
        async for chunk in stdin:
            for start in range(0, len(chunk), protocol.MAX_PAYLOAD):
                yield chunk[start : start + protocol.MAX_PAYLOAD]
    yield b""
