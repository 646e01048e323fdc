"""A recorded host whose guests go back, or that goes on from a snapshot: it is repeated to the bit.

Every failure names its seed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.journal_file import (
    FORMAT,
    GOTO,
    JournalError,
    JournalFile,
    Record,
    read_journal,
)
from asyncvmm.runtime.replay import open_replay
from tests.simulation.test_goto import ENGINES, INSTANTS, MS, PROGRAMS, folder, steps_of
from tests.unit.runtime.test_realtime import HandClock

__all__ = ["INSTANTS", "folder"]  # a fixture

NAMES = (*PROGRAMS, "chatty")


def config(folder: Path, name: str, **options: Any) -> GuestConfig:
    harts = PROGRAMS[name][1] if name in PROGRAMS else 1
    return GuestConfig(name=name, elf=folder / f"{name}.elf", memory="4M", harts=harts, **options)


async def check_replays(journal: Path, lived: dict[str, str], noted: dict[int, list[str]]) -> None:
    """The end by every engine, and what was noted of the first guest, in any order."""
    for engine in ENGINES:
        async with open_replay(journal, engine=engine, workers=1) as replay:
            await replay.run()
            assert replay.compared and replay.differing == []
            found = {name: guest.machine.digest() for name, guest in replay.guests.items()}
            assert found == lived
    instants = list(noted)
    random.Random(len(instants)).shuffle(instants)
    async with open_replay(journal, engine="interpreter") as replay:
        for instant in instants:
            await replay.goto(instant)
            first = next(iter(lived))
            assert replay.guests[first].machine.digest() in noted[instant], instant


@pytest.mark.parametrize("seed", range(8))
async def test_going_back_is_an_input(seed: int, folder: Path, tmp_path: Path) -> None:
    """Back and forth by time and by steps, on and off the grid, with inputs, knobs and a neighbour."""
    rng = random.Random(seed)
    journal = tmp_path / "journal"
    noted: dict[int, list[str]] = {}
    async with open_host(mips=200, cpus=rng.choice((1, 8)), paused=True, journal=journal) as host:
        guest = await host.start(config(folder, NAMES[seed % len(NAMES)]))
        other = await host.start(config(folder, NAMES[(seed + 2) % len(NAMES)]))
        await host.run_until(rng.randrange(MS))
        guest.keep_history(spacing=rng.choice((5_000, 50_000)), snapshots=rng.choice((4, 32)))
        began = guest.now_ns, steps_of(guest)
        for _ in range(9):
            await host.run_until(host.now_ns + rng.randrange(1, 2 * MS))
            noted.setdefault(host.now_ns, []).append(guest.machine.digest())
            what = rng.randrange(6)
            if what == 0:
                await guest.console.send_all(bytes(rng.randrange(256) for _ in range(3)))
            elif what == 1:
                other.policy.update(cpu_weight=rng.randrange(1, 1000))
            elif what == 2 and steps_of(guest) > began[1]:
                await guest.goto(steps=rng.randint(began[1], steps_of(guest)))
            elif guest.now_ns > began[0]:
                await guest.goto(rng.randint(began[0], guest.machine.scheduler.now_ns()))
            noted[host.now_ns].append(guest.machine.digest())
        await guest.goto(began[0] + 1)
        noted[host.now_ns].append(guest.machine.digest())
        await host.run_until(host.now_ns + MS)
        lived = {one.name: one.machine.digest() for one in (guest, other)}
    kinds = [record.kind for record in read_journal(journal).records]
    assert kinds.count(GOTO) > 1
    await check_replays(journal, lived, noted)


@pytest.mark.parametrize("seed", range(4))
async def test_in_real_time(seed: int, folder: Path, tmp_path: Path) -> None:
    rng = random.Random(seed)
    wall, journal = HandClock(), tmp_path / "journal"
    async with open_host(mips=20, wall=wall, journal=journal) as host:
        guest = await host.start(config(folder, NAMES[seed], clock="realtime"))
        guest.keep_history(spacing=20_000)
        for _ in range(6):
            await wall.move(rng.choice((1, 3_333, MS, 3 * MS + 17)))
            await guest.console.send_all(b"k")
            await wall.move(MS)
            await guest.goto(rng.randint(0, guest.machine.scheduler.now_ns()))
        await wall.move(5 * MS)
        lived = {guest.name: guest.machine.digest()}
    await check_replays(journal, lived, {})


async def test_live_from_a_replay_keeps_no_past(folder: Path, tmp_path: Path) -> None:
    """Up to its last going back a replay keeps the past of a guest, and gdb may have it when it is live."""
    journal = tmp_path / "journal"
    async with open_host(mips=200, paused=True, journal=journal) as host:
        guest = await host.start(config(folder, "chatty"))
        guest.keep_history()
        await host.run_until(2 * MS)
        await guest.goto(MS)
        await host.run_until(4 * MS)
    async with open_replay(journal) as replay:
        await replay.run(MS)
        assert replay.guests["chatty"].keeps_history
        replay.live()
        assert await replay.guests["chatty"].gdb() > 0
    async with open_replay(journal) as replay:
        await replay.run()
        assert not replay.guests["chatty"].keeps_history
        assert replay.differing == []


@pytest.mark.parametrize(
    ("spacing", "snapshots"), [(0, 4), (5, 10**9), (-1, 2), (5, 1), ("x", 3), (None, 3)]
)
async def test_a_hostile_history_is_refused(
    folder: Path, tmp_path: Path, spacing: Any, snapshots: Any
) -> None:
    journal = tmp_path / "journal"
    async with open_host(mips=200, paused=True, journal=journal) as host:
        await host.start(config(folder, "chatty"))
    recorded = read_journal(journal)
    names = {"guest": "chatty", "spacing": spacing, "snapshots": snapshots}
    file = JournalFile(tmp_path / "hostile")
    for record in (
        Record(0, 0, 0, recorded.header),
        recorded.records[0],
        Record(25, 0, 0, names),
        Record(GOTO, MS, 0, {"guest": "chatty", "time_ns": 5, "steps": None}),
    ):
        assert file.append(record)
    file.close()
    with pytest.raises(JournalError, match="hostile: record 2 at 0 ns"):
        async with open_replay(tmp_path / "hostile") as replay:
            await replay.run()


async def snapshot_of(folder: Path) -> HostSnapshot:
    async with open_host(mips=200, paused=True, seed=3) as host:
        for name in ("chatty", "pair"):
            await host.start(config(folder, name, devices=("virtio-rng",)))
        await host.run_until(MS + 77_777)
        return await host.snapshot()


@pytest.mark.parametrize(
    "renewed",
    [{}, {"reseed": True}, {"reseed": 7}, {"clock": 10**18}, {"reseed": 9, "clock": "host"}],
)
async def test_a_host_that_goes_on_as_another_one(
    folder: Path, tmp_path: Path, renewed: dict[str, Any]
) -> None:
    """Its identity and date are in the journal's header: also what "host" was then."""
    journal = tmp_path / "journal"

    async def live(**options: Any) -> tuple[dict[str, str], dict[str, int], bool]:
        async with open_host(snapshot=snapshot, paused=True, **options) as host:
            seeds = {name: guest.config.seed for name, guest in host.guests.items()}
            await host.run_until(2 * MS)
            await host.guests["chatty"].console.send_all(b"x")
            await host.run_until(5 * MS)
            digests = {name: guest.machine.digest() for name, guest in host.guests.items()}
            return digests, seeds, host.live

    with await snapshot_of(folder) as snapshot:
        plain, same, _ = await live()
        lived, seeds, marked = await live(journal=journal, **renewed)
        assert marked == (renewed.get("clock") == "host")
        assert (seeds == same) == ("reseed" not in renewed)
        assert (lived == plain) == ("clock" not in renewed)
    header = read_journal(journal).header["host"]
    assert header["clock"] == "freeze" or type(header["clock"]) is int
    for engine in ENGINES:
        async with open_replay(journal, engine=engine) as replay:
            await replay.run(3 * MS)
            await replay.goto(2 * MS)
            await replay.run()
            assert replay.compared and replay.differing == []
            found = {name: guest.machine.digest() for name, guest in replay.guests.items()}
            assert found == lived
            assert {name: one.config.seed for name, one in replay.guests.items()} == seeds


@pytest.mark.parametrize(
    "host",
    [
        *(
            {"journal": "x"},
            {"snapshot": 3},
            {"reseed": 3},
            {"clock": 5},
            {"wall": 1},
            {"cpus": True},
        ),
        *(
            {"snapshot": "gone"},
            {"cpus": 10**9},
            {"memory": "lots"},
            {"networks": {"lan": {"x": 1}}},
        ),
        *({"policy": "\ud800"}, {"quantum_us": 10**30}, {"mips": 0}, {"seed": 10**40, "cpus": 0}),
    ],
)
async def test_a_hostile_header(tmp_path: Path, host: dict[str, Any]) -> None:
    """The error names the file, and nothing but the settings of a host is taken from it."""
    path = tmp_path / "hostile"
    file = JournalFile(path)
    assert file.append(Record(0, 0, 0, {"format": FORMAT, "host": host}))
    file.close()
    with pytest.raises(ConfigError, match=r"hostile: the header|gone.*cannot be read"):
        async with open_replay(path):
            pass
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hostile"]
