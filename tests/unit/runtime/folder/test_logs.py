"""Logs: bounded, rotated, followed across rotations, and read whatever is in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.runtime.folder.logs import (
    ConsoleLog,
    LogEntry,
    LogError,
    VmLog,
    follow,
    log_files,
    parse_entry,
    read_entries,
    tail,
)
from asyncvmm.runtime.folder.settings import LogLimits

SMALL = LogLimits(vm_bytes=4096, console_bytes=4096, keep=2)


def test_a_line_has_both_times_and_its_fields(tmp_path: Path) -> None:
    log = VmLog(tmp_path / "vm.log", SMALL)
    log.add("start", name="web")
    log.virtual_ns = lambda: 1_500_000_000
    log.add("device", text="a\nb\xff")
    log.close()
    first, second = read_entries(tmp_path / "vm.log")
    assert (
        isinstance(first, LogEntry) and first.virtual_ns is None and first.fields == {"name": "web"}
    )
    assert isinstance(second, LogEntry) and second.fields == {"text": "a\nb\xff"}
    assert "1.500000  device  text=" in second.format()
    assert first.wall.endswith("Z")


def test_a_log_is_bounded(tmp_path: Path) -> None:
    log = VmLog(tmp_path / "vm.log", SMALL)
    for number in range(1000):
        log.add("n", number=number, text="x" * 50)
    log.close()
    files = log_files(tmp_path / "vm.log")
    assert [file.name for file in files] == ["vm.log.2", "vm.log.1", "vm.log"]
    assert all(file.stat().st_size <= 4096 for file in files)
    numbers = [
        e.fields["number"] for e in read_entries(tmp_path / "vm.log") if isinstance(e, LogEntry)
    ]
    assert numbers == list(range(numbers[0], 1000))


def test_a_console_is_kept_byte_by_byte(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "console.log", LogLimits())
    data = bytes(range(256)) * 3 + b"\r\n\n\r"
    log.write(data)
    log.write(b"more")
    log.close()
    assert (tmp_path / "console.log").read_bytes() == data + b"more"


def test_a_flood_from_the_console_is_bounded(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "console.log", SMALL)
    log.write(b"y" * 100_000)
    log.close()
    assert sum(file.stat().st_size for file in log_files(tmp_path / "console.log")) <= 3 * 4096


def test_a_guest_cannot_push_everything_else_out(tmp_path: Path) -> None:
    log = VmLog(tmp_path / "vm.log", LogLimits())
    for _ in range(5000):
        log.device_said("web/virtio-blk0", "the driver is wrong")
    log.close()
    assert len(list(read_entries(tmp_path / "vm.log"))) < 500


def test_a_full_disk_stops_nobody(tmp_path: Path) -> None:
    log = VmLog(tmp_path / "missing" / "vm.log", SMALL)
    log.add("start")
    assert log.lost == 1


async def test_followed_across_rotations(tmp_path: Path) -> None:
    path = tmp_path / "vm.log"
    log = VmLog(path, SMALL)
    log.add("before")
    heard = bytearray()
    async with trio.open_nursery() as nursery:
        began = trio.Event()

        async def listen() -> None:
            async with trio.open_nursery() as inner:
                inner.start_soon(mark)
                async for data in follow(path, poll_s=0):
                    heard.extend(data)
                    if b'"last"' in heard:
                        inner.cancel_scope.cancel()

        async def mark() -> None:
            await trio.testing.wait_all_tasks_blocked()
            began.set()

        nursery.start_soon(listen)
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        for number in range(300):
            log.add("n", number=number, text="x" * 100)
            if number % 10 == 0:
                for _ in range(20):
                    await trio.lowlevel.checkpoint()
        log.add("last")
    log.close()
    lines = [json.loads(line) for line in heard.decode().splitlines()]
    numbers = [line["number"] for line in lines if line["event"] == "n"]
    assert numbers == list(range(300)), numbers
    assert len(log_files(path)) == 3


@given(line=st.binary(max_size=120))
def test_any_line_is_an_entry_or_a_typed_error(line: bytes) -> None:
    try:
        parse_entry(line, "vm.log, line 7")
    except LogError as error:
        assert str(error).startswith("vm.log, line 7: ")


@pytest.mark.parametrize(
    "line", [b"[" * 70_000, b"[" * 60_000, b"{}", b'{"wall": "x", "event": 3}']
)
def test_damaged_lines_are_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vm.log"
    log = VmLog(path, LogLimits())
    log.add("whole")
    log.close()
    with path.open("ab") as file:
        file.write(line + b"\n")
    first, *rest = read_entries(path)
    assert isinstance(first, LogEntry)
    assert rest and all(isinstance(each, LogError) for each in rest)
    assert f"{path}, line 2" in str(rest[0])
    assert len(tail(path, 1)) == 1
