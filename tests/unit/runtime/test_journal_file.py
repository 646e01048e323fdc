"""The file of a journal: what was written is read; what was cut off is left out; the rest is an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.runtime.journal_file import (
    CUT,
    END,
    FORMAT,
    HEADER,
    INPUT,
    MAGIC,
    RESERVE_BYTES,
    START,
    JournalError,
    JournalFile,
    Record,
    read_journal,
)

HEAD = Record(HEADER, 0, 0, {"format": FORMAT, "host": {}})
SOME = [
    Record(START, 0, 0, {"guest": "a", "config": {"append": "x" * 70_000}}),
    Record(INPUT, 5, 0, {"guest": "a", "port": ""}, b"keys\r"),
    Record(INPUT, 5, 1, {"guest": "a", "port": ""}, bytes(range(256))),
    Record(CUT, 1 << 40, 0, {}),
    Record(END, 1 << 40, 0, {}),
]


def written(path: Path, records: list[Record]) -> bytes:
    file = JournalFile(path)
    for record in [HEAD, *records]:
        assert file.append(record)
    file.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journals")


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    return written(folder / "whole", SOME)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written(tmp_path / "j", SOME)
    found = read_journal(tmp_path / "j")
    assert list(found.records) == SOME
    assert found.header == HEAD.names
    assert found.complete
    assert found.cut_bytes == 0


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"precious")
    with pytest.raises(ConfigError, match="there is a file already"):
        JournalFile(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == b"precious"


def test_every_cut_leaves_the_whole_records(folder: Path, whole: bytes) -> None:
    header = written(folder / "header", [])
    path = folder / "cut"
    for length in [*range(len(MAGIC), 400), *range(len(whole) - 700, len(whole))]:
        path.write_bytes(whole[:length])
        if length < len(header):
            with pytest.raises(JournalError, match="has no header"):
                read_journal(path)
            continue
        found = read_journal(path)
        assert list(found.records) == SOME[: len(found.records)]
        assert not found.complete
        assert whole[: length - found.cut_bytes] == path.read_bytes()[: length - found.cut_bytes]


def test_zeros_where_a_crash_came_before_the_data(folder: Path, whole: bytes) -> None:
    path = folder / "zeros"
    path.write_bytes(whole + bytes(4096))
    found = read_journal(path)
    assert list(found.records) == SOME
    assert found.cut_bytes == 4096


@given(st.data())
def test_a_changed_byte_is_never_read(folder: Path, whole: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(whole)
    changed[at] ^= 1 << bit
    path = folder / "changed"
    path.write_bytes(changed)
    try:
        found = read_journal(path)
    except JournalError as error:
        assert str(path) in str(error)
    else:  # in the last record: as if a crash had left it half written
        assert list(found.records) == SOME[:-1]
        assert not found.complete


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_a_journal_or_an_error(folder: Path, tail: bytes, begins_well: bool) -> None:
    path = folder / "any"
    start = written(folder / f"start-{len(list(folder.iterdir()))}", []) if begins_well else b""
    path.write_bytes((start or MAGIC) + tail)
    try:
        found = read_journal(path)
    except JournalError as error:
        assert str(path) in str(error)
    else:
        assert begins_well
        assert found.cut_bytes == len(tail)


@pytest.mark.parametrize(
    ("records", "what"),
    [
        ([SOME[1], HEAD], "the header is not the first"),
        ([SOME[3], SOME[1]], "goes back in time"),
        ([SOME[4], SOME[3]], "something follows the end"),
    ],
)
def test_records_out_of_order(tmp_path: Path, records: list[Record], what: str) -> None:
    written(tmp_path / "j", records)
    with pytest.raises(JournalError, match=f"byte [0-9]+: {what}"):
        read_journal(tmp_path / "j")


def test_another_format(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "j")
    file.append(Record(HEADER, 0, 0, {"format": 99}))
    file.close()
    with pytest.raises(JournalError, match="of format 99"):
        read_journal(tmp_path / "j")


def test_the_limit_leaves_room_for_the_last_record(tmp_path: Path) -> None:
    file = JournalFile(tmp_path / "j", limit_bytes=RESERVE_BYTES + 1000)
    assert file.append(HEAD)
    count = 0
    while file.append(Record(INPUT, 0, 0, {"guest": "a"}, bytes(100))):
        count += 1
    assert 0 < count < 10
    assert file.append(SOME[-1], last=True)
    file.close()
    assert (tmp_path / "j").stat().st_size == file.size_bytes <= file.limit_bytes
    assert len(read_journal(tmp_path / "j").records) == count + 1


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "j").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(JournalError, match="more than"):
        read_journal(tmp_path / "j")
