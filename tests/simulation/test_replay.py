"""A journal repeats its run to the bit: seeded hosts, realtime ones, other engines and thread counts.

Every failure prints its seed; ``python -m tests.simulation.seeded SEED`` runs the same host.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.journal_file import (
    ANSWER,
    FORMAT,
    LOST,
    RESERVE_BYTES,
    JournalError,
    JournalFile,
    Record,
    read_journal,
)
from asyncvmm.runtime.replay import Replay, open_replay
from asyncvmm.testing import assemble, to_elf
from asyncvmm_plugins.demo_image.image import build_program
from tests.simulation.hostile import COMPUTATION, PING_PONG, Programs
from tests.simulation.seeded import Run
from tests.unit.runtime.test_realtime import TELL_TIME, HandClock

MS = 1_000_000
SEEDS = range(12)
WAYS = (("interpreter", 1), ("jit", 2))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.elf"
    path.write_bytes(build_program())
    return path


async def replayed(journal: Path, engine: str, workers: int) -> tuple[Replay, dict[str, str]]:
    """The replay, and what every guest was at its end."""
    async with open_replay(journal, engine=engine, workers=workers) as replay:
        await replay.run()
        return replay, {name: guest.machine.digest() for name, guest in replay.guests.items()}


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_seeded_host_is_repeated(
    seed: int, programs: Programs, demo: Path, tmp_path: Path
) -> None:
    run = Run(seed, WAYS[seed % 2][0], programs, demo, linux=False)
    run.journal = tmp_path / "journal"
    lived = await run.live()
    engine, workers = WAYS[(seed + 1) % 2]
    async with open_replay(run.journal, engine=engine, workers=workers) as replay:
        await replay.run()
        digests = {name: guest.machine.digest() for name, guest in replay.guests.items()}
        exits = {name: str(guest.exit) for name, guest in replay.guests.items()}
        usage = {name: str(guest.usage()) for name, guest in replay.guests.items()}
    assert replay.recorded.complete
    assert replay.compared
    assert replay.differing == []
    assert digests == lived["digests"]
    assert exits == lived["exits"]
    assert usage == lived["usage"]


@pytest.mark.parametrize("seed", range(6))
async def test_a_realtime_session_is_repeated(
    seed: int, programs: Programs, tmp_path: Path
) -> None:
    """What is typed enters at the wall's instants, which the replay knows from the journal only."""
    rng = random.Random(seed)
    tell = tmp_path / "tell.elf"
    tell.write_bytes(to_elf(assemble(TELL_TIME, 0x80000000)))
    wall = HandClock()
    journal = tmp_path / "journal"
    async with open_host(wall=wall, cpus=1, mips=20, journal=journal) as host:
        guests = [await host.start(GuestConfig(name="tell", elf=tell, clock="realtime"))]
        for number in range(seed % 3):
            elf = programs.elf(PING_PONG, "ping-pong")
            config = GuestConfig(name=f"busy{number}", elf=elf, memory="8M", harts=2)
            guests.append(await host.start(config))
        for _ in range(12):
            await wall.move(rng.choice((1, 3_333, MS, 7 * MS, 99 * MS + 17)))
            await guests[0].console.send_all(bytes(rng.randrange(256) for _ in range(3)))
            guests[0].console.resize(rng.randrange(1, 200), 25)
        await wall.move(5 * MS)
        lived = {guest.name: guest.machine.digest() for guest in guests}
        said = guests[0].console.unread
        end_ns = host.now_ns
    assert end_ns > 12 * MS // 4
    for engine, workers in WAYS:
        replay, digests = await replayed(journal, engine, workers)
        assert replay.differing == []
        assert replay.host.now_ns == end_ns
        assert digests == lived
        assert replay.guests["tell"].console.unread == said


@pytest.mark.parametrize("seed", range(6))
async def test_answers_within_a_quantum_are_repeated(
    seed: int, programs: Programs, tmp_path: Path
) -> None:
    """In real time a stretch ends where everybody sleeps and something was said, and what comes back
    enters there: with guests that sleep, that wake up by themselves and that never sleep.
    """
    rng = random.Random(seed)
    tell = tmp_path / "tell.elf"
    tell.write_bytes(to_elf(assemble(TELL_TIME, 0x80000000)))
    wall = HandClock()
    journal = tmp_path / "journal"
    async with open_host(wall=wall, cpus=6, mips=20, journal=journal) as host:
        guests = [
            await host.start(GuestConfig(name=name, elf=tell, clock="realtime", harts=harts))
            for name, harts in (("one", 1), ("two", 2))
        ]
        if seed % 3:
            source = (COMPUTATION, PING_PONG)[seed % 3 - 1]
            elf = programs.elf(source, f"neighbour{seed}")
            guests.append(
                await host.start(GuestConfig(name="busy", elf=elf, memory="8M", harts=seed % 3))
            )
        for _ in range(40):
            await wall.move(rng.choice((0, 1, 33_333, MS // 2, 3 * MS + 17)))
            await rng.choice(guests[:2]).console.send_all(bytes(rng.randrange(1, 4)))
        await wall.move(5 * MS)
        lived = {guest.name: guest.machine.digest() for guest in guests}
        usage = {guest.name: str(guest.usage()) for guest in guests}
        said = [guest.console.unread for guest in guests]
        quantum_ns = host.quantum_ns
    recorded = read_journal(journal)
    answers = [record for record in recorded.records if record.kind == ANSWER]
    assert all(one.time_ns < one.names["until_ns"] for one in answers)
    assert any(one.time_ns % quantum_ns for one in answers) or len(guests) > 2
    for engine, workers in WAYS:
        replay, digests = await replayed(journal, engine, workers)
        assert replay.differing == []
        assert digests == lived
        assert {name: str(guest.usage()) for name, guest in replay.guests.items()} == usage
        assert [replay.guests[guest.name].console.unread for guest in guests] == said


@pytest.mark.parametrize("seed", (1, 4, 6, 9))
async def test_going_back_and_forth(
    seed: int, programs: Programs, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any instant the guests are what they are when the replay is run there from its beginning."""
    monkeypatch.setattr("asyncvmm.runtime.replay.MARK_EVERY_NS", 2 * MS)
    monkeypatch.setattr("asyncvmm.runtime.replay.MAX_MARKS", 4)
    rng = random.Random(seed)
    run = Run(seed, "interpreter", programs, demo, linux=False)
    run.journal = tmp_path / "journal"
    lived = await run.live()
    instants = [rng.randrange(16 * MS) for _ in range(8)]

    def living(replay: Replay) -> dict[str, str]:
        return {name: one.machine.digest() for name, one in replay.host.guests.items()}

    fresh: dict[int, dict[str, str]] = {}
    for instant in instants:
        async with open_replay(run.journal, engine="interpreter") as replay:
            await replay.run(instant)
            fresh[instant] = living(replay)
    async with open_replay(run.journal, engine="interpreter") as replay:
        for instant in instants:
            await replay.goto(instant)
            assert replay.host.now_ns == instant
            assert living(replay) == fresh[instant], instant
        assert 0 < len(replay.marks) <= 5
        await replay.goto(replay.end_ns)
        assert replay.differing == []
        assert living(replay).items() <= lived["digests"].items()


async def journal_of(demo: Path, path: Path, words: str = "uptime\r") -> Path:
    async with open_host(journal=path) as host:
        guest = await host.start(GuestConfig(elf=demo))
        await guest.console.expect("demo> ")
        await guest.console.send_all(words.encode())
        await guest.console.expect("demo> ")
        fork = (await guest.fork())[0]
        await fork.console.send_all(b"memtest 3\r")
        await fork.console.expect("demo> ")
    return path


async def test_another_input_is_found_out(demo: Path, tmp_path: Path) -> None:
    """The digests are compared, not just counted: with another key the guest is another one."""
    recorded = read_journal(await journal_of(demo, tmp_path / "one"))
    file = JournalFile(tmp_path / "other")
    file.append(Record(0, 0, 0, recorded.header))
    for record in recorded.records:
        changed = Record(
            record.kind,
            record.time_ns,
            record.turn,
            record.names,
            record.data.replace(b"uptime", b"uptima"),
        )
        assert file.append(changed)
    file.close()
    replay, _ = await replayed(tmp_path / "other", "interpreter", 1)
    assert {one.guest for one in replay.differing} == {"guest", "guest.1"}


async def test_a_cut_off_journal_is_repeated_as_far_as_it_goes(demo: Path, tmp_path: Path) -> None:
    whole = (await journal_of(demo, tmp_path / "whole")).read_bytes()
    cut = tmp_path / "cut"
    cut.write_bytes(whole[:-100])
    replay, digests = await replayed(cut, "interpreter", 1)
    assert not replay.recorded.complete
    assert set(digests) == {"guest", "guest.1"}


async def test_until_stands_still_and_live_goes_on(demo: Path, tmp_path: Path) -> None:
    journal = await journal_of(demo, tmp_path / "journal")
    async with open_replay(journal) as replay:
        await replay.run(500_000)
        assert replay.host.now_ns == 500_000
        replay.live()
        replay.host.resume()
        guest = replay.guests["guest"]
        await guest.console.send_all(b"echo other\r")
        assert b"other" in await guest.console.expect("other\r\n")


async def test_other_files_are_refused(demo: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.elf"
    program.write_bytes(demo.read_bytes())
    journal = await journal_of(program, tmp_path / "journal")
    program.write_bytes(demo.read_bytes() + b"\0")
    with pytest.raises(JournalError, match=r"program\.elf: has changed since the run was recorded"):
        await replayed(journal, "interpreter", 1)


async def test_a_disk_that_is_only_read_is_compared(demo: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    async with open_host(journal=tmp_path / "journal") as host:
        await host.start(GuestConfig(elf=demo, disks=(f"{disk},snapshot",)))
    disk.write_bytes(b"\1" + bytes((1 << 20) - 1))
    with pytest.raises(JournalError, match=r"disk\.img: has changed"):
        await replayed(tmp_path / "journal", "interpreter", 1)


async def test_a_full_journal_says_where_it_ends(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with open_host(journal=path, journal_bytes=RESERVE_BYTES + 2500) as host:
        guest = await host.start(GuestConfig(elf=demo))
        for _ in range(30):
            await guest.console.expect("demo> ")
            await guest.console.send_all(b"echo 0123456789012345678901234567890123456789\r")
        await guest.console.expect("demo> ")
        assert guest.exit is None  # the run goes on
    last = read_journal(path).records[-1]
    assert last.kind == LOST
    assert "is full" in last.names["why"]
    replay, _ = await replayed(path, "interpreter", 1)
    assert replay.host.now_ns == last.time_ns


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 3, "names": {"guest": "nobody", "port": ""}},
        {"kind": 3, "names": {"guest": "guest", "port": "nowhere"}},
        {"kind": 10, "names": {"gateway": "lan", "key": ["00", 1, "00", 2]}},
        {"kind": 15, "names": {"gateway": "lan", "request": 7, "works": True}},
        {"kind": 9, "names": {"gateway": [], "address": 3}},
        {"kind": 1, "names": {"guest": "x", "config": {"elf": 3}}},
        {"kind": 6, "names": {"guest": "guest", "knobs": {"cpu_weight": "heavy"}}},
        {"kind": 9, "names": {"gateway": "lan", "address": "0a00020a", "port": 10**9}},
        {"kind": 9, "names": {"gateway": "lan", "address": "0a", "port": 80}},
        {"kind": 23, "names": {"guest": "guest", "device": "no such"}},
        {
            "kind": 1,
            "names": {"guest": "x", "config": {}, "most": "many", "apart": False, "disks": []},
        },
    ],
)
async def test_records_that_cannot_be_done_again(
    demo: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """A hostile journal: the error names the file and the record."""
    recorded = read_journal(await journal_of(demo, tmp_path / "good"))
    path = tmp_path / "hostile"
    file = JournalFile(path)
    file.append(Record(0, 0, 0, recorded.header))
    file.append(recorded.records[0])
    file.append(Record(changes["kind"], 1000, 0, changes["names"], b"x"))
    file.close()
    with (
        trio.fail_after(60),
        pytest.raises(JournalError, match=r"hostile: record 2 at 1000 ns \([A-Z]+\): "),
    ):
        await replayed(path, "interpreter", 1)


@pytest.mark.parametrize("settings", [None, 3, {"cpus": -1}, {"what": 1}, {"networks": {"lan": 3}}])
async def test_headers_of_no_host(tmp_path: Path, settings: Any) -> None:
    file = JournalFile(tmp_path / "j")
    file.append(Record(0, 0, 0, {"format": FORMAT, "host": settings}))
    file.close()
    with pytest.raises(ConfigError):
        await replayed(tmp_path / "j", "interpreter", 1)
