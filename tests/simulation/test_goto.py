"""``Guest.keep_history``, ``at`` and ``goto``: any instant of a guest's past is what it was, to the bit."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.machine.engines import why_not_jit
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.ports import GuestEndedError
from asyncvmm.runtime.replay import open_replay
from asyncvmm.testing import assemble, to_elf
from tests.simulation.hostile import BASE, COMPUTATION, MS, PING_PONG
from tests.simulation.test_workers import CHATTY
from tests.unit.runtime.test_realtime import TELL_TIME, HandClock

ENGINES = ("interpreter", *(() if why_not_jit() else ("auto",)))
# Two harts that mix the clock into what they compute, in memory that both write.
PAIR = """
_start:
    csrr s1, mhartid
    li   s5, 0x80100000
1:  csrr t0, time
    xor  s2, s2, t0
    slli t1, s2, 3
    xor  s2, s2, t1
    andi t2, s2, 0x7f8
    add  t2, t2, s5
    amoadd.d s3, s2, (t2)
    xor  s2, s2, s3
    addi s4, s4, 1
    j    1b
"""
PROGRAMS = {"computation": (COMPUTATION, 1), "ping-pong": (PING_PONG, 2), "pair": (PAIR, 2)}
# Instants in ns at which the host stands still, most of them off its grid, or with several harts on it.
INSTANTS = st.lists(st.integers(1, 3 * MS), min_size=2, max_size=4, unique=True).map(sorted)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("programs")
    sources = {**{name: source for name, (source, _) in PROGRAMS.items()}, "chatty": CHATTY}
    for name, source in sources.items():
        (made / f"{name}.elf").write_bytes(to_elf(assemble(source, BASE)))
    return made


@asynccontextmanager
async def started(
    folder: Path, name: str, *, mips: int = 1000, history: Any = None, **options: Any
) -> AsyncIterator[tuple[Host, Guest]]:
    harts = PROGRAMS[name][1] if name in PROGRAMS else 1
    config = GuestConfig(elf=folder / f"{name}.elf", memory="4M", harts=harts, **options)
    async with open_host(mips=mips, paused=True) as host:
        guest = await host.start(config)
        guest.keep_history(**({"spacing": 200_000} if history is None else history))
        yield host, guest


async def digest_at(host: Host, guest: Guest, **instant: int) -> str:
    """Of a guest started from ``guest.at``, before it runs."""
    with await guest.at(**instant) as snapshot:
        fork = await host.start(snapshot, name="looked-at")
        try:
            return fork.machine.digest()
        finally:
            await fork.aclose()


async def stopped_at(host: Host, guest: Guest, instants: list[int]) -> dict[int, str]:
    """The digests at the instants at which the host stood still, the first from each of these on."""
    noted = {}
    for instant in instants:
        await host.run_until(instant)
        assert instant <= host.now_ns < instant + host.quantum_ns
        noted[host.now_ns] = guest.machine.digest()
    return noted


def steps_of(guest: Guest) -> int:
    return sum(int(hart.steps) for hart in guest.machine.harts)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=8, deadline=None)
@given(instants=INSTANTS, data=st.data())
def test_the_past_is_what_it_was(
    folder: Path, name: str, engine: str, instants: list[int], data: st.DataObject
) -> None:
    """at(t) has the digest noted at t; after goto(t) the guest comes to the digest of its first end."""

    async def run() -> None:
        async with started(folder, name, engine=engine) as (host, guest):
            noted = await stopped_at(host, guest, instants)
            for instant in reversed(noted):
                assert await digest_at(host, guest, time_ns=instant) == noted[instant]
            *_, last = noted
            back = data.draw(st.sampled_from(list(noted)))
            assert guest.machine.digest() == noted[last]
            await guest.goto(back)
            assert guest.machine.digest() == noted[back]
            await guest.goto(last)
            assert guest.machine.digest() == noted[last]
            await guest.goto(back)
            for instant in noted:
                if instant > back:
                    await host.run_until(guest.since_ns + instant)
                    assert guest.machine.digest() == noted[instant]

    trio.run(run)


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=10, deadline=None)
@given(instant=st.integers(1, 3 * MS - 1))
def test_back_to_where_nobody_had_looked(folder: Path, name: str, instant: int) -> None:
    """The instant lies in the middle of a stretch, even of a quantum of the harts'."""

    async def run() -> None:
        async with started(folder, name) as (host, guest):
            await host.run_until(3 * MS)
            end, steps = guest.machine.digest(), steps_of(guest)
            await guest.goto(instant)
            assert steps_of(guest) < steps
            await host.run_until(guest.since_ns + 3 * MS)
            assert guest.machine.digest() == end
            # What was dropped is known again, as it is the same.
            with await guest.at(instant) as there:
                assert there.time_ns <= instant
            await guest.goto(instant)
            await host.run_until(guest.since_ns + 3 * MS)
            assert guest.machine.digest() == end

    trio.run(run)


@pytest.mark.parametrize("name", PROGRAMS)
@settings(max_examples=8, deadline=None)
@given(part=st.integers(0, 1000))
def test_by_steps(folder: Path, name: str, part: int) -> None:
    async def run() -> None:
        async with started(folder, name) as (host, guest):
            await host.run_until(2 * MS)
            end, steps = guest.machine.digest(), steps_of(guest)
            await guest.goto(steps=steps * part // 1000)
            assert steps_of(guest) == steps * part // 1000
            await host.run_until(guest.since_ns + 2 * MS)
            assert (guest.machine.digest(), steps_of(guest)) == (end, steps)

    trio.run(run)


async def test_a_throttled_guest_repeats_its_gaps(folder: Path) -> None:
    """Where it has no CPU time passes without it."""
    policy = {"cpu.max": "300 1000"}
    async with started(folder, "pair", policy=policy) as (host, guest):
        instants = [250_000, 500_000, 1_777_777, 4 * MS, 4_600_000]
        noted = await stopped_at(host, guest, instants)
        for instant, digest in noted.items():
            assert await digest_at(host, guest, time_ns=instant) == digest


async def test_inputs_and_another_future(folder: Path) -> None:
    async with started(folder, "chatty", mips=200) as (host, guest):
        noted = {}
        for number in range(1, 9):
            await host.run_until(number * MS)
            noted[number] = guest.machine.digest()
            await guest.console.send_all(b"%d" % number)
        await host.run_until(10 * MS)
        end = guest.machine.digest()
        for number, digest in noted.items():  # before what was typed then
            assert await digest_at(host, guest, time_ns=number * MS) == digest
        assert await digest_at(host, guest, time_ns=10 * MS) == end
        await guest.goto(4 * MS)
        assert guest.machine.digest() == noted[4]
        for number in range(4, 9):
            await host.run_until(guest.since_ns + number * MS)
            assert guest.machine.digest() == noted[number]
            await guest.console.send_all(b"%d" % number)
        await host.run_until(guest.since_ns + 10 * MS)
        assert guest.machine.digest() == end
        await guest.goto(4 * MS)
        await guest.console.send_all(b"x")
        await host.run_until(guest.since_ns + 5 * MS)
        other = guest.machine.digest()
        assert other != noted[5]
        with pytest.raises(ConfigError, match="in the future"):
            await guest.at(6 * MS)
        assert await digest_at(host, guest, time_ns=5 * MS) == other


async def test_what_the_console_said(folder: Path) -> None:
    async with started(folder, "computation") as (host, guest):
        await host.run_until(1 * MS)
        before = guest.console.unread
        await host.run_until(2 * MS)
        after = guest.console.unread
        assert len(before) < len(after)
        await guest.goto(1 * MS)
        assert guest.console.unread == before
        heard = bytearray()
        guest.console.taps.append(heard.extend)
        await host.run_until(guest.since_ns + 2 * MS)
        assert guest.console.unread == before + heard == after


async def test_it_is_bounded(folder: Path) -> None:
    history = {"spacing": 20_000, "snapshots": 6}
    async with started(folder, "chatty", mips=200, history=history) as (host, guest):
        noted = {}
        for number in range(1, 12):
            await host.run_until(number * MS)
            noted[number] = guest.machine.digest()
        kept = guest._past.history
        assert kept is not None
        assert len(kept.checkpoints) <= 6
        assert kept.spacing > 20_000
        for number, digest in noted.items():  # thinned, but nothing is lost
            assert await digest_at(host, guest, time_ns=number * MS) == digest
        for number in range(12, 40):
            await guest.console.send_all(b"k")
            await host.run_until(number * MS)
            noted[number] = guest.machine.digest()
        assert len(kept.checkpoints) <= 13
        with pytest.raises(ConfigError, match="call keep_history earlier, or with more"):
            await guest.goto(2 * MS)
        assert guest.machine.digest() == noted[39]
        assert await digest_at(host, guest, time_ns=38 * MS) == noted[38]


async def test_a_history_that_begins_anew(folder: Path) -> None:
    async with started(folder, "computation") as (host, guest):
        await host.run_until(1 * MS)
        guest.keep_history(spacing=200_000)
        noted = await stopped_at(host, guest, [2 * MS, 3 * MS])
        for instant, digest in noted.items():
            assert await digest_at(host, guest, time_ns=instant) == digest
        with pytest.raises(ConfigError, match="what is kept begins at"):
            await guest.at(MS // 2)


async def test_a_reset_is_an_input(folder: Path, tmp_path: Path) -> None:
    source = """
    _start: li t0, 3000
    1:  addi t0, t0, -1
        bnez t0, 1b
        li   t0, 0x00100000
        li   t1, 0x7777
        sw   t1, 0(t0)
    2:  j    2b
    """
    (tmp_path / "again.elf").write_bytes(to_elf(assemble(source, BASE)))
    async with started(tmp_path, "again") as (host, guest):
        noted = {}
        for instant in (3_000, 5_000, 9_000, 40_000, 123_456, MS, 3 * MS + 1):
            await host.run_until(instant)
            noted[instant] = guest.machine.digest()
        for instant, digest in noted.items():
            assert await digest_at(host, guest, time_ns=instant) == digest, instant


async def test_neighbours_go_on(folder: Path) -> None:
    """A guest that goes back is nothing to another one; usage and books stay in order."""
    async with started(folder, "computation") as (host, guest):
        config = GuestConfig(name="other", elf=folder / "pair.elf", memory="4M", harts=2)
        other = await host.start(config)
        await host.run_until(4 * MS)
        expected = other.machine.digest()
    async with started(folder, "computation", trust_group="us") as (host, guest):
        other = await host.start(config)
        await host.run_until(2 * MS)
        guest.policy.update(cpu_weight=300)
        await guest.goto(1_234_567)
        assert guest.policy.knobs["cpu.weight"] == 300
        await host.run_until(4 * MS)
        assert other.machine.digest() == expected
        assert list(host.guests) == ["guest", "other"]
        await guest.aclose()
        with pytest.raises(ConfigError, match="has ended"):
            await guest.goto(0)


@pytest.mark.parametrize("seed", range(12))
async def test_in_real_time_at_goto_and_replay_agree(
    seed: int, folder: Path, tmp_path: Path
) -> None:
    """A recorded guest under a wall clock that jumps, with stretches that end where an answer was given,
    in the middle of the harts' quanta: where the host stood still, ``at``, ``Replay.goto`` and a replay from
    the beginning have the digest that was noted then, before or after what entered there.
    """
    rng = random.Random(seed)
    (tmp_path / "tell.elf").write_bytes(to_elf(assemble(TELL_TIME, BASE)))
    harts, mips = 1 + seed % 4 // 2, rng.choice((20, 300, 1000))
    wall, journal = HandClock(), tmp_path / "journal"
    before: dict[int, str] = {}
    after: dict[int, str] = {}
    async with open_host(cpus=rng.choice((2, 8)), mips=mips, wall=wall, journal=journal) as host:
        values = {"elf": tmp_path / "tell.elf", "memory": "4M", "clock": "realtime"}
        guest = await host.start(GuestConfig(name="tell", harts=harts, **values))
        guest.keep_history(spacing=20_000)
        if seed % 2:
            pair = GuestConfig(name="other", elf=folder / "pair.elf", memory="4M", harts=2)
            await host.start(pair)

        async def note() -> int:
            with host.held():
                await host._conductor.turn()
                after[host.now_ns] = guest.machine.digest()
                return host.now_ns

        for _ in range(12):
            await wall.move(rng.choice((1, 3_333, MS, 7 * MS, 3 * MS + 17)))
            instant = await note()
            before.setdefault(instant, after[instant])
            if rng.random() < 0.7:
                await guest.console.send_all(bytes(rng.randrange(1, 4)))
                await note()
        for instant, digest in before.items():
            assert await digest_at(host, guest, time_ns=instant) == digest, instant
    instants = list(before)
    assert len(instants) > 3
    for instant in rng.sample(instants, 4):
        async with open_replay(journal, engine="interpreter") as replay:
            await replay.run(instant)
            digest = replay.guests["tell"].machine.digest()
            assert digest in (before[instant], after[instant]), instant
    rng.shuffle(instants)
    async with open_replay(journal, engine="interpreter") as replay:
        for instant in instants:
            await replay.goto(instant)
            digest = replay.guests["tell"].machine.digest()
            assert digest in (before[instant], after[instant]), instant


@pytest.mark.parametrize("instant", (1, 333_333, 1_234_567, 2 * MS))
async def test_at_is_where_a_replay_stands_still(
    folder: Path, tmp_path: Path, instant: int
) -> None:
    """Of one hart any instant is the same by both, to the open quantum."""
    config = GuestConfig(elf=folder / "chatty.elf", memory="4M")
    async with open_host(mips=200, paused=True, journal=tmp_path / "journal") as host:
        guest = await host.start(config)
        guest.keep_history()
        await guest.console.send_all(b"x")
        await host.run_until(3 * MS)
        digest = await digest_at(host, guest, time_ns=instant)
    async with open_replay(tmp_path / "journal") as replay:
        await replay.run(instant)
        assert replay.guests["guest"].machine.digest() == digest


async def test_typed_before_anybody_listens(tmp_path: Path) -> None:
    """Keys wait in the port until a driver turns the FIFOs on, in the past too."""
    source = """
    _start: li s0, 0x10000000
        li   t0, 20000
    1:  addi t0, t0, -1
        bnez t0, 1b
        li   t0, 1
        sb   t0, 2(s0)          # FCR: FIFOs on
    2:  lbu  t0, 5(s0)
        andi t0, t0, 1
        beqz t0, 2b
        lbu  t0, 0(s0)
        sb   t0, 0(s0)
        j    2b
    """
    (tmp_path / "late.elf").write_bytes(to_elf(assemble(source, BASE)))
    async with started(tmp_path, "late", history={"spacing": 5_000}) as (host, guest):
        await guest.console.send_all(b"early keys")
        noted = {}
        for instant in (20_000, 30_000, 60_000, 200_000):
            await host.run_until(instant)
            noted[instant] = guest.machine.digest()
        assert guest.console.unread or await guest.console.receive_some() == b"early keys"
        for instant, digest in noted.items():
            assert await digest_at(host, guest, time_ns=instant) == digest, instant


async def test_what_cannot_be_repeated(folder: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    async with open_host(paused=True) as host:

        async def start(name: str, **options: Any) -> Guest:
            config = GuestConfig(name=name, elf=folder / "computation.elf", memory="4M", **options)
            return await host.start(config)

        limit = {"net.max": "rbps=1000"}
        guest = await start("card", devices=("virtio-net",), policy=limit)
        with pytest.raises(ConfigError, match=r"net\.max holds up"):
            guest.keep_history()
        guest = await start("held", policy={"io.max": "riops=100"}, disks=(f"{disk},readonly",))
        with pytest.raises(ConfigError, match=r"io\.max holds up"):
            guest.keep_history()
        await guest.aclose()
        guest = await start("place", disks=(str(disk),))
        with pytest.raises(ConfigError, match="call keep_history before"):
            await guest.at(0)
        guest.keep_history()
        await host.run_until(MS)
        (await guest.at(0)).close()
        with pytest.raises(ConfigError, match=r"disk\.raw is written in place.*,snapshot"):
            await guest.goto(0)
        with pytest.raises(ConfigError, match=r"guest\.at"):
            await guest.gdb()
        for wrong in ({}, {"time_ns": 1, "steps": 1}):
            with pytest.raises(ConfigError, match="an instant is"):
                await guest.at(**wrong)
        with pytest.raises(ConfigError, match="begins at 0 ns"):
            await guest.at(-1)
        with pytest.raises(ConfigError, match="2 to 10000 snapshots"):
            guest.keep_history(snapshots=1)
        guest = await start("debugged")
        await guest.gdb()
        with pytest.raises(ConfigError, match="monitor goto"):
            guest.keep_history()


async def test_a_reader_goes_on_after_it(folder: Path) -> None:
    """Whoever waits for the console gets what it says from there on."""
    async with started(folder, "chatty", mips=200) as (host, guest):
        await host.run_until(3 * MS)
        found = bytearray()

        async def read() -> None:
            try:
                found.extend(await guest.console.expect("no such word"))
            except GuestEndedError as error:
                found.extend(str(error).encode())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await host.run_until(4 * MS)
            await guest.goto(2 * MS)
            await host.run_until(guest.since_ns + 6 * MS)
            await guest.aclose()
        assert b"the guest ended before" in found
