"""A snapshot that an earlier version saved goes on today; damaged ones say where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import SnapshotError
from asyncvmm.runtime.guest import GuestExit
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.snapshots import Snapshot
from tools.snapshot_fixture import STOP_NS, write

FIXTURE = Path(__file__).parents[2] / "fixtures" / "snapshot-format1.json"
LETTERS = b"abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The snapshot of format 1."""
    write(json.loads(FIXTURE.read_text()), tmp_path)
    return tmp_path / "snapshots" / "half"


async def finish(snapshot: Snapshot) -> tuple[GuestExit, bytes]:
    """Run the guest to its end: how, and all that it said."""
    async with open_host(workers=1) as host:
        guest = await host.start(snapshot)
        ended = await guest.wait()
        said = b""
        while piece := await guest.console.receive_some():
            said += piece
        return ended, said


async def test_format_1_goes_on(saved: Path, tmp_path: Path) -> None:
    assert json.loads((saved / "manifest.json").read_text())["format"] == 1
    with Snapshot.load(saved) as snapshot:
        assert snapshot.time_ns == STOP_NS
        snapshot.save(tmp_path / "snapshots" / "again")
        for _ in range(2):
            ended, said = await finish(snapshot)
            assert (ended.reason, ended.code, said) == ("poweroff", 7, LETTERS)
    today = json.loads((tmp_path / "snapshots" / "again" / "manifest.json").read_text())
    assert today["format"] == 2
    assert today["boot"]["elf"]["identity"]
    with Snapshot.load(tmp_path / "snapshots" / "again") as snapshot:
        assert (await finish(snapshot))[1] == LETTERS


def test_a_boot_file_that_changed_is_named(saved: Path, tmp_path: Path) -> None:
    program = tmp_path / "letters.elf"
    program.write_bytes(program.read_bytes() + b"\0")
    with pytest.raises(SnapshotError, match=r"manifest\.json: the kernel or another boot file"):
        Snapshot.load(saved)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 0}, "unknown format"),
        ({"format": 3}, "unknown format"),
        ({"format": True}, "unknown format"),
        ({"boot": None}, "format 1"),
        ({"more": 1}, "parts differ: more"),
    ],
)
def test_formats_that_are_none_are_named(saved: Path, change: dict[str, object], text: str) -> None:
    file = saved / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(SnapshotError, match=text):
        Snapshot.load(saved)


def test_damaged_files_are_named_or_harm_their_guest_only(tmp_path: Path) -> None:
    """Bytes of any file changed, cut or added: a typed error that names a file, or a guest."""
    files = json.loads(FIXTURE.read_text())
    write(files, tmp_path)
    names = [name for name in files if not name.endswith(".elf")]
    good = {name: (tmp_path / name).read_bytes() for name in names}
    refused = 0

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        nonlocal refused
        name = data.draw(st.sampled_from(names))
        contents = good[name]
        at = data.draw(st.integers(0, len(contents) - 1))
        length = data.draw(st.integers(0, 4))
        piece = data.draw(st.binary(max_size=4))
        end = len(contents) if data.draw(st.integers(0, 9)) == 0 else at + length
        (tmp_path / name).write_bytes(contents[:at] + piece + contents[end:])
        try:
            with Snapshot.load(tmp_path / "snapshots" / "half") as snapshot:
                trio.run(run_a_while, snapshot)
        except ConfigError as error:
            refused += 1
            assert str(tmp_path) in str(error) or "letters" in str(error), error
        finally:
            (tmp_path / name).write_bytes(contents)

    damage()
    assert refused > 50


async def run_a_while(snapshot: Snapshot) -> None:
    """Some milliseconds of the guest's time, whatever it is by now."""
    async with open_host(mips=snapshot.config.mips, paused=True, workers=1) as host:
        await host.start(snapshot)
        await host.run_until(2_000_000)
