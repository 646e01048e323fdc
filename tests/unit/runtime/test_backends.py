"""The task of a live device: its requests, its inputs, its failures and its end."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from asyncvmm.base.errors import BackendError, ConfigError, InternalError
from asyncvmm.device import RO, DeviceIo, MmioDevice, Register
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import BackendIo, DeviceType, PluginManager, hookimpl
from asyncvmm.runtime.backends import Restarts, supervise
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.journal_file import GIVEN, LOST, TAKEN, read_journal
from asyncvmm.runtime.replay import open_replay
from asyncvmm.testing import assemble, to_elf
from asyncvmm_plugins.test_finisher import hooks as test_finisher

# Asks the live device for 7, sleeps until its interrupt, and powers off with the answer as its code.
ASKS = """
_start:
    li   t0, 1
    li   t1, 0x0c000080         # PLIC: source 32, for hart 0 in M-mode
    sw   t0, 0(t1)
    li   t1, 0x0c002004
    sw   t0, 0(t1)
    li   t0, 0x800
    csrw mie, t0
    li   s0, 0x10100000
    li   t0, 7
    sw   t0, 0(s0)
1:  wfi
    lw   t0, 4(s0)
    beqz t0, 1b
    slli t0, t0, 16
    li   t1, 0x3333
    or   t0, t0, t1
    li   t1, 0x00100000
    sw   t0, 0(t1)
2:  j    2b
"""


@attrs.frozen
class NoOptions:
    """None."""


class Asks(MmioDevice):
    """What is written to ``ask`` goes outside; the answer interrupts."""

    ended: list[str] = []
    run_it: Callable[[Asks, BackendIo], Any]

    def __init__(self, config: NoOptions, io: DeviceIo) -> None:
        super().__init__(io, [Register("ask", 0, 4), Register("answer", 4, 4, RO)])

    def write_ask(self, value: int) -> None:
        self.io.inbox.put(value)

    def answer(self, value: int) -> None:
        self.registers["answer"] = value
        self.io.irq.set(True)

    async def run(self, io: BackendIo) -> None:
        try:
            await type(self).run_it(self, io)
        finally:
            self.ended.append(io.path)


async def doubles(device: Asks, io: BackendIo) -> None:
    while True:
        number = await io.receive()
        await trio.sleep(0.01)
        io.log(f"asked for {number}")
        await io.enter(functools.partial(device.answer, 2 * number))


def plugins(run: Callable[[Asks, BackendIo], Any], base: type[Asks] = Asks) -> PluginManager:
    device = type("AsksNow", (base,), {"run_it": staticmethod(run), "ended": []})

    class Hooks:
        @hookimpl
        def asyncvmm_device_types(self) -> list[DeviceType]:
            return [DeviceType("asks", "a device that asks", NoOptions, device, "mmio", live=True)]

    manager = PluginManager()
    manager.register(Hooks(), "hooks")
    manager.register(test_finisher, "test-finisher")
    assert manager.problems == []
    return manager


def config(directory: Path, **options: Any) -> GuestConfig:
    elf = directory / "asks.elf"
    elf.write_bytes(to_elf(assemble(ASKS, 0x80000000)))
    return GuestConfig(name="a", elf=elf, memory="8M", devices=("asks",), **options)


def device_of(host: Host) -> Any:
    return next(d.device for d in host.guests["a"].machine.devices if d.type.name == "asks")


class Given(Asks):
    """Hears of the world by ``give`` alone."""

    def entered(self, data: bytes) -> None:
        if data == b"wrong":
            raise ValueError("no answer")
        self.answer(int(data))


def given_plugins(run: Callable[[Asks, BackendIo], Any]) -> PluginManager:
    return plugins(run, Given)


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
async def test_what_a_live_device_is_given_is_in_the_journal(tmp_path: Path, engine: str) -> None:
    """The replay has it at the same instants, and no task; what ``entered`` raises is the task's."""
    journal = tmp_path / "journal"
    tried: list[str] = []

    async def run(device: Asks, io: BackendIo) -> None:
        number = await io.receive()
        try:
            await io.give(b"wrong")
        except ValueError as error:
            tried.append(str(error))
        await trio.sleep(0.01)
        await io.give(b"%d" % (3 * number))

    manager = given_plugins(run)
    async with open_host(plugins=manager, journal=journal) as host:
        guest = await host.start(config(tmp_path, clock="realtime"))
        ended = await guest.wait()
        digest = guest.machine.digest()
    assert ended.code == 21 and tried == ["no answer"]
    recorded = [record.kind for record in read_journal(journal).records]
    assert recorded.count(GIVEN) == 2 and recorded.count(TAKEN) == 1 and LOST not in recorded

    async def never(device: Asks, io: BackendIo) -> None:
        raise AssertionError("a replay starts no tasks")

    async with open_replay(journal, plugins=given_plugins(never), engine=engine) as replay:
        await replay.run()
        assert replay.compared and not replay.differing
        assert replay.guests["a"].machine.digest() == digest
        assert replay.guests["a"].exit is not None and replay.guests["a"].exit.code == 21


async def test_a_live_device_that_does_anything_is_not_recorded(tmp_path: Path) -> None:
    async with open_host(plugins=plugins(doubles), journal=tmp_path / "journal") as host:
        with pytest.raises(ConfigError, match=r"a/asks.*io\.give.*without --record"):
            await host.start(config(tmp_path))
    async with open_host(plugins=given_plugins(doubles), journal=tmp_path / "other") as host:
        assert (await (await host.start(config(tmp_path))).wait()).code == 14
    assert read_journal(tmp_path / "other").records[-1].kind == LOST


async def test_a_request_goes_out_and_its_answer_interrupts(tmp_path: Path) -> None:
    async with open_host(plugins=plugins(doubles), cpus=1, mips=20) as host:
        assert not host.live
        guest = await host.start(config(tmp_path))
        assert host.live
        device = device_of(host)
        ended = await guest.wait()
        assert (ended.reason, ended.code) == ("poweroff", 14)
        assert "a/asks0: asked for 7" in guest.log.lines
        await trio.testing.wait_all_tasks_blocked()
        assert device.ended == ["a/asks0"]


async def test_the_task_ends_with_the_host(tmp_path: Path) -> None:
    async def never(device: Asks, io: BackendIo) -> None:
        await trio.sleep_forever()

    async with open_host(plugins=plugins(never), cpus=1, mips=20) as host:
        await host.start(config(tmp_path))
        device = device_of(host)
        await trio.testing.wait_all_tasks_blocked()
    assert device.ended == ["a/asks0"]


@pytest.mark.parametrize("mode", ["device", "guest"])
async def test_a_backend_with_a_bug_fails_its_device_or_guest(
    tmp_path: Path, mode: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def bug(device: Asks, io: BackendIo) -> None:
        raise ZeroDivisionError("a bug")

    async with open_host(plugins=plugins(bug), cpus=1, mips=20) as host:
        guest = await host.start(config(tmp_path, policy={"device.failure": mode}))
        if mode == "guest":
            ended = await guest.wait()
            assert ended.reason == "crash"
            assert "a/asks0" in ended.detail
        else:
            await trio.sleep(100)
            assert guest.exit is None
            causes = [event.cause for event in host.events if event.kind == "failed"]
            assert len(causes) == 5
            assert "again in 0.1 s: ZeroDivisionError: a bug" in causes[0]
            assert "failed 5 times in a row" in causes[4]


class World:
    """Stands in for LiveIo: the supervisor only hands it on."""


async def supervised(errors: list[Exception], restarts: Restarts) -> tuple[list[float], list[str]]:
    """When each run began, and what was reported."""
    begun: list[float] = []
    reports: list[str] = []
    start = trio.current_time()

    async def run(io: BackendIo) -> None:
        begun.append(trio.current_time() - start)
        await trio.lowlevel.checkpoint()
        if errors:
            raise errors.pop(0)

    world: Any = World()
    await supervise(run, world, reports.append, restarts)
    return begun, reports


async def test_pauses_double_up_to_the_longest(autojump_clock: trio.testing.MockClock) -> None:
    errors: list[Exception] = [BackendError("gone"), OSError("gone"), *[BackendError("x")] * 3]
    begun, reports = await supervised(errors, Restarts(first_s=1, longest_s=4))
    assert begun == pytest.approx([0, 1, 3, 7, 11, 15])
    assert reports[0] == "run(io) failed, again in 1 s: BackendError: gone"


async def test_bugs_are_not_tried_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(InternalError, match="3 times in a row"):
        await supervised([ValueError("x") for _ in range(9)], Restarts(max_bugs=3))
