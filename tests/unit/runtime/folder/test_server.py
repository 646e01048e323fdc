"""A machine that runs for itself: its socket, consoles, commands that broke, and its end."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.api import AsyncvmmError, ConfigError, VmFolder
from asyncvmm.runtime.folder.client import NotRunningError, ask, ask_over, connect
from asyncvmm.runtime.folder.lock import FolderBusyError
from asyncvmm.runtime.folder.protocol import ControlError, Kind, Link, pack_window, unpack_window
from asyncvmm.runtime.folder.server import BEHIND_BYTES, ControlServer, Viewer


@asynccontextmanager
async def served(folder: VmFolder, **changes: object) -> AsyncIterator[ControlServer]:
    async with folder.run(**changes) as machine, trio.open_nursery() as nursery:
        server = ControlServer(machine)
        await nursery.start(server.listen)
        yield server
        await server.told()
        nursery.cancel_scope.cancel()


class Watcher:
    """Somebody at the console."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.seen = b""
        self.ended: dict[str, object] | None = None

    async def expect(self, text: bytes) -> None:
        while text not in self.seen:
            frame = await self.link.receive()
            assert frame is not None, self.seen
            kind, payload = frame
            if kind == Kind.ENDED:
                self.ended = json.loads(payload)
                return
            self.seen += payload
        self.seen = self.seen.partition(text)[2]


async def attach(folder: VmFolder, history: int = 0) -> Watcher:
    link = await connect(folder.paths)
    await ask_over(link, {"do": "console", "history": history})
    return Watcher(link)


async def test_the_socket_is_the_users_alone_and_goes(demo: VmFolder) -> None:
    async with served(demo):
        mode = demo.paths.socket.stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600
        state = await ask(demo.paths, {"do": "status"})
        assert state["state"] == "running" and state["harts"] == 1
        assert state["memory_bytes"] <= state["memory_size_bytes"] == 128 << 20
    assert not demo.paths.socket.exists()
    with pytest.raises(NotRunningError, match="asyncvmm start"):
        await ask(demo.paths, {"do": "status"})


async def test_a_dead_socket_is_no_machine(demo: VmFolder) -> None:
    demo.paths.socket.write_bytes(b"")
    with pytest.raises(NotRunningError):
        await ask(demo.paths, {"do": "status"})
    async with served(demo):
        assert (await ask(demo.paths, {"do": "status"}))["viewers"] == 0


async def test_a_machine_at_a_terminal_has_no_socket(demo: VmFolder) -> None:
    async with demo.run():
        with pytest.raises(FolderBusyError, match="it ends by itself"):
            await ask(demo.paths, {"do": "status"})


async def test_several_look_and_type(demo: VmFolder) -> None:
    async with AsyncExitStack() as closing, served(demo) as server:
        await server.machine.guest.console.expect("demo> ")
        first, second = await attach(demo, history=4000), await attach(demo)
        closing.push_async_exit(first.link)
        closing.push_async_exit(second.link)
        await first.expect(b"demo> ")  # what was said before
        await second.link.send(Kind.WINDOW, pack_window(90, 20))
        await second.link.send(Kind.KEYS, b"echo both\r")
        await first.expect(b"\nboth\r\n")
        await second.expect(b"\nboth\r\n")
        assert (await ask(demo.paths, {"do": "status"}))["viewers"] == 2
        await first.link.__aexit__()  # goes away in the middle
        await second.link.send(Kind.KEYS, b"poweroff 5\r")
        await second.expect(b"never said")
        assert second.ended == {"reason": "poweroff", "code": 5, "detail": "by demo/test-finisher0"}


async def test_ways_to_stop(demo: VmFolder) -> None:
    async with served(demo):
        with pytest.raises(ConfigError, match=r"has no agent.*--save"):
            await ask(demo.paths, {"do": "stop"})
        with pytest.raises(ConfigError, match="no way to stop"):
            await ask(demo.paths, {"do": "stop", "mode": "politely"})
        assert (await ask(demo.paths, {"do": "stop", "mode": "save"}))["reason"] == "closed"
    assert demo.head.resume == "_stopped"
    async with served(demo) as server:
        assert server.machine.resumed == "_stopped"
        await ask(demo.paths, {"do": "stop", "mode": "force"})
    assert demo.head.resume is None


async def test_snapshots_while_it_runs(demo: VmFolder) -> None:
    async with served(demo) as server:
        await server.machine.guest.console.expect("demo> ")
        assert (await ask(demo.paths, {"do": "snapshot", "name": "one"}))["new_pages"] > 0
        assert (await ask(demo.paths, {"do": "snapshot", "name": "two"}))["new_pages"] == 0
        with pytest.raises(ConfigError, match="already"):
            await ask(demo.paths, {"do": "snapshot", "name": "one"})
        with pytest.raises(ConfigError, match="a name is"):
            await ask(demo.paths, {"do": "snapshot", "name": "../one"})
        with pytest.raises(ConfigError, match="did you mean 'one'"):
            await ask(demo.paths, {"do": "delete-snapshot", "name": "onee"})
        await ask(demo.paths, {"do": "delete-snapshot", "name": "one"})
    (two,) = demo.snapshots
    assert two.name == "two" and two.parent is None
    demo.restore("two")
    async with demo.run() as machine:
        assert machine.resumed == "two"


async def test_commands_need_an_agent(demo: VmFolder) -> None:
    async with served(demo):
        async with await connect(demo.paths) as link:
            await ask_over(link, {"do": "run", "arguments": ["true"]})
            frame = await link.receive()
        assert frame is not None and frame[0] == Kind.ENDED and b"no run agent" in frame[1]
        with pytest.raises(ConfigError, match="list of words"):
            await ask(demo.paths, {"do": "run", "arguments": "true"})


REQUESTS = st.binary(max_size=60) | st.fixed_dictionaries(
    {"do": st.sampled_from(["status", "stop", "console", "run", "snapshot", "delete-snapshot"])},
    optional={
        "mode": st.sampled_from(["x", "power-off"]) | st.none(),
        "timeout_s": st.floats() | st.text(max_size=3),
        "history": st.integers() | st.text(max_size=3),
        "arguments": st.lists(st.text(max_size=3) | st.integers(), max_size=3),
        "name": st.text(max_size=3) | st.integers(),
    },
).map(lambda value: json.dumps(value).encode())


async def test_any_request_leaves_the_machine_running(demo: VmFolder) -> None:
    requests: list[tuple[bytes, bytes]] = []

    @given(request=REQUESTS, frames=st.binary(max_size=40))
    def collect(request: bytes, frames: bytes) -> None:
        requests.append((request, frames))

    collect()
    async with served(demo) as server:
        for request, frames in requests[:60]:
            link = await connect(demo.paths)
            async with link:
                await link._stream.send_all(request.replace(b"\n", b" ") + b"\n" + frames)
                await link._stream.send_eof()
                with trio.move_on_after(10) as scope:
                    with suppress(ControlError):
                        await link.receive_line()
                assert not scope.cancelled_caught, request
        assert server.machine.guest.exit is None
        await ask(demo.paths, {"do": "status"})


async def test_a_viewer_that_does_not_read_misses_some() -> None:
    viewer = Viewer(b"")
    viewer.hear(b"a" * BEHIND_BYTES)
    viewer.hear(b"bc")
    said = await viewer.next()
    assert b"[asyncvmm: 2 bytes were not shown]" in said and said.endswith(b"abc")
    assert not viewer.behind


def test_a_window_has_two_numbers() -> None:
    assert unpack_window(pack_window(100_000, 5)) == (65535, 5)
    with pytest.raises(AsyncvmmError):
        unpack_window(b"abc")
