"""Network backends on a host: made from options, fed from outside, recorded, kept in snapshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import trio
import trio.testing

from asyncvmm.base.errors import BackendError, ConfigError, InternalError
from asyncvmm.base.units import MS
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import (
    NetworkBackend,
    NetworkBackendType,
    NetworkTaskIo,
    PluginManager,
    VersionedState,
    create_plugin_manager,
    hookimpl,
)
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.replay import open_replay
from asyncvmm.testing import assemble, to_elf

BROADCAST = b"\xff" * 6
LATENCY = 3 * MS  # of a cable


@attrs.frozen
class NoOptions:
    """None."""


@attrs.frozen
class SinkState(VersionedState):
    """When what has come."""

    got: tuple[tuple[int, bytes], ...]


class Sink(NetworkBackend):
    """Remembers what comes, and when."""

    state_type = SinkState

    def __init__(self, config: Any, io: Any) -> None:
        super().__init__(config, io)
        self.got: list[tuple[int, bytes]] = []

    def arrive(self, frame: bytes) -> None:
        self.got.append((self.io.clock.now_ns, frame[12:]))

    def state(self) -> SinkState:
        return SinkState(tuple(self.got))

    def restore(self, state: SinkState) -> None:
        self.got = list(state.got)


class Back(Sink):
    """Answers the number 2 after 5 ms."""

    def arrive(self, frame: bytes) -> None:
        answer = BROADCAST + self.io.net.mac + b"\x88\xb5answer"
        if frame.endswith(b"\2"):
            self.io.clock.after(5 * MS, lambda: self.send(answer) and None)


class Door(NetworkBackend):
    """What the test says comes in with a header; what it is sent goes out to the test."""

    run_it: ClassVar[Callable[[Door, NetworkTaskIo], Any]]

    def arrive(self, frame: bytes) -> None:
        self.io.inbox.put(frame[12:])

    def entered(self, data: bytes) -> None:
        self.send(BROADCAST + self.io.net.mac + data)

    async def run(self, io: NetworkTaskIo) -> None:
        await type(self).run_it(self, io)


def fails(config: Any, io: Any) -> Any:
    raise ZeroDivisionError("no")


TYPES = (
    NetworkBackendType("sink", "", NoOptions, Sink),
    NetworkBackendType("back", "", NoOptions, Back),
    NetworkBackendType("door", "", NoOptions, Door, live=True),
    NetworkBackendType("shut", "", NoOptions, Door),
    NetworkBackendType("fails", "", NoOptions, fails),
    NetworkBackendType("other", "", NoOptions, lambda config, io: io),
)


def hooks(function: Callable[[], Any]) -> type:
    """A plugin with that one hook."""
    return type("Hooks", (), {function.__name__: staticmethod(hookimpl(function))})


@pytest.fixture
def plugins() -> PluginManager:
    def asyncvmm_network_backends() -> Any:
        return TYPES

    manager = create_plugin_manager()
    manager.register(hooks(asyncvmm_network_backends), "doors", "doors-1")
    return manager


def lan(**backends: str) -> dict[str, Any]:
    return {"lan": {"latency_ns": LATENCY, "backends": backends}}


def sink(host: Host) -> list[tuple[int, bytes]]:
    end = host.networks["lan"].outlets["sink"].end
    assert isinstance(end, Sink)
    return end.got


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        (
            "dor",
            ConfigError,
            "network lan: backend far: no network backend 'dor': did you mean 'door'",
        ),
        ("sink,x=1", ConfigError, "network lan: backend far: sink: no option 'x'"),
        (
            "fails",
            InternalError,
            "'fails' of plugin 'doors' of doors-1 failed .*ZeroDivisionError: no",
        ),
        (
            "other",
            InternalError,
            "of plugin 'doors' of doors-1 made NetworkIo, which is no NetworkB",
        ),
        ("shut", InternalError, "'shut' of plugin 'doors' of doors-1 has run.io., so .* live=True"),
    ],
)
async def test_what_cannot_be_made_is_named(
    plugins: PluginManager, options: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        async with open_host(plugins=plugins, networks=lan(far=options)):
            pass


async def test_what_comes_from_outside_is_recorded_and_replayed(
    plugins: PluginManager, tmp_path: Path
) -> None:
    began = 0
    heard: list[bytes] = []
    done = trio.Event()

    async def three(door: Door, io: NetworkTaskIo) -> None:
        nonlocal began
        began += 1
        for number in range(3):
            await io.give(b"\x88\xb5" + bytes([number]))
            await trio.lowlevel.checkpoint()
        heard.append(await io.receive())
        done.set()

    Door.run_it = three
    journal = tmp_path / "journal"
    networks = lan(door="door", sink="sink", back="back")
    async with open_host(plugins=plugins, networks=networks, journal=journal, paused=True) as host:
        await host.run_until(lambda: len(sink(host)) == 4)
        await done.wait()
        assert host.live and began == 1 and heard == [b"\x88\xb5answer"]
        recorded, end_ns = list(sink(host)), host.now_ns
    assert [data[2:] for _, data in recorded] == [b"\0", b"\1", b"\2", b"answer"]
    assert recorded[0][0] >= LATENCY and recorded[3][0] == recorded[2][0] + 5 * MS + LATENCY
    async with open_replay(journal, plugins=plugins) as replay:
        await replay.run()
        await replay.host.run_until(end_ns)
        assert began == 1, "the world is not asked again"
        assert sink(replay.host) == recorded


async def test_a_host_that_is_a_copy_goes_on(plugins: PluginManager, tmp_path: Path) -> None:
    def say(host: Host, number: int) -> None:
        other = host.networks["lan"].outlets["other"]
        other.enter(host.now_ns, BROADCAST + other.io.net.mac + b"\x88\xb5" + bytes([number]))

    networks = lan(sink="sink", other="sink")
    async with open_host(plugins=plugins, networks=networks, paused=True) as host:
        await host.run_until(2 * MS)
        say(host, 1)
        await host.run_until(4 * MS)  # it is on its way
        say(host, 2)
        with await host.snapshot() as snapshot:
            snapshot.save(tmp_path / "kept")
        await host.run_until(20 * MS)
        whole = list(sink(host))
    assert [(when, data[-1]) for when, data in whole] == [
        (2 * MS + LATENCY, 1),
        (4 * MS + LATENCY, 2),
    ]
    with HostSnapshot.load(tmp_path / "kept") as kept:
        async with open_host(snapshot=kept, plugins=plugins, paused=True) as host:
            await host.run_until(20 * MS)
            assert sink(host) == whole
        with pytest.raises(ConfigError, match="no network backend 'sink'"):
            async with open_host(snapshot=kept, plugins=PluginManager()):
                pass


async def test_a_task_that_fails_is_started_again(
    plugins: PluginManager, autojump_clock: trio.testing.MockClock
) -> None:
    tries = 0
    done = trio.Event()

    async def run(door: Door, io: NetworkTaskIo) -> None:
        nonlocal tries
        tries += 1
        io.log(f"try {tries}")
        if tries < 3:
            raise BackendError("the wire is cut")
        await io.give(b"\x88\xb5late")
        done.set()

    Door.run_it = run
    async with open_host(plugins=plugins, networks=lan(door="door", sink="sink")) as host:
        await host.run_until(MS)
        await done.wait()
        failures = [event for event in host.events if event.kind == "failed"]
        assert [event.guest for event in failures] == ["net/lan/door"] * 2
        assert "again in 0.1 s: BackendError: the wire is cut" in failures[0].cause
        assert list(host.networks["lan"].outlets["door"].io.messages) == ["try 1", "try 2", "try 3"]


async def test_a_guest_is_not_called_as_a_backend(plugins: PluginManager, tmp_path: Path) -> None:
    async with open_host(plugins=plugins, networks=lan(far="sink"), paused=True) as host:
        with pytest.raises(ConfigError, match="'far' is a backend of network lan"):
            await host.start(halts(tmp_path, name="far"))
        await host.start(halts(tmp_path, name="near"))


def halts(folder: Path, name: str) -> GuestConfig:
    elf = folder / "halts.elf"
    elf.write_bytes(to_elf(assemble("_start:\n1: wfi\n j 1b\n", base=0x8000_0000)))
    return GuestConfig(name=name, elf=elf, nets=("lan",), memory=4 << 20)
