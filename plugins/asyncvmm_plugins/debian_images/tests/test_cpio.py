"""The newc format: Linux Documentation/driver-api/early-userspace/buffer-format.rst."""

from __future__ import annotations

import contextlib
import shutil
import stat
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm_plugins.debian_images import cpio

names = st.lists(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=4,
).map("/".join)
entries = st.one_of(
    st.builds(cpio.file, names, st.binary(max_size=300), st.integers(0, 0o7777)),
    st.builds(cpio.directory, names, st.integers(0, 0o7777)),
    st.builds(cpio.symlink, names, names),
    st.builds(cpio.char_device, names, st.integers(0, 4095), st.integers(0, 255)),
)


def essence(entry: cpio.Entry) -> tuple[str, int, bytes, int, int]:
    return (entry.name, entry.mode, entry.data, entry.rdev_major, entry.rdev_minor)


@given(
    st.lists(entries, max_size=10).filter(lambda found: all(e.name != cpio.TRAILER for e in found))
)
def test_what_is_written_is_read_back(found: list[cpio.Entry]) -> None:
    archive = cpio.write(found)
    assert len(archive) % 512 == 0
    assert [essence(e) for e in cpio.read(archive)] == [essence(e) for e in found]


@given(st.lists(entries, min_size=1, max_size=4), st.data())
def test_a_cut_archive_is_refused(found: list[cpio.Entry], data: st.DataObject) -> None:
    archive = cpio.write(found).rstrip(b"\0")
    cut = data.draw(st.integers(0, len(archive) - len(cpio.TRAILER) - 1))
    with pytest.raises(cpio.CpioError):
        list(cpio.read(archive[:cut]))


@given(st.binary(max_size=500))
def test_any_bytes_are_read_or_refused(archive: bytes) -> None:
    with contextlib.suppress(cpio.CpioError):
        list(cpio.read(archive))


@given(st.lists(entries, min_size=1, max_size=3), st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_gives_entries_or_a_typed_error(
    found: list[cpio.Entry], at: int, value: int
) -> None:
    archive = bytearray(cpio.write(found))
    archive[at % len(archive)] = value
    with contextlib.suppress(cpio.CpioError):
        list(cpio.read(bytes(archive)))


def header(**changed: bytes) -> bytes:
    archive = cpio.write([cpio.file("name", b"data")])
    places = {"size": 6 + 6 * 8, "name_bytes": 6 + 11 * 8, "mode": 6 + 8}
    for field, digits in changed.items():
        at = places[field]
        archive = archive[:at] + digits + archive[at + 8 :]
    return archive


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", "magic"),
        (b"070707" + bytes(200), "magic"),
        (header(size=b"FFFFFFFF"), "past the end"),
        (header(name_bytes=b"00000000"), "name of 0"),
        (header(name_bytes=b"FFFFFFFF"), "name of 4294967295"),
        (header(name_bytes=b"00000004"), "not terminated"),
        (header(size=b"0000000G"), "hexadecimal"),
        (header(size=b"+0000004"), "hexadecimal"),
        (cpio.write([])[:50], "cut off"),
    ],
)
def test_hostile_headers_are_named(archive: bytes, reason: str) -> None:
    with pytest.raises(cpio.CpioError, match=reason):
        list(cpio.read(archive))


@pytest.mark.parametrize("name", ["../etc/passwd", "a/../../b", ".."])
def test_names_that_climb_are_refused(name: str) -> None:
    raw = cpio.write([cpio.file("x" * len(name), b"")]).replace(b"x" * len(name), name.encode())
    with pytest.raises(cpio.CpioError, match="climbs"):
        list(cpio.read(raw))


def test_hard_links_share_their_data() -> None:
    first = cpio.Entry("a", stat.S_IFREG | 0o644, b"shared", nlink=2, ino=9)
    raw = bytearray(cpio.write([first, cpio.Entry("b", stat.S_IFREG | 0o644)]))
    for at in (0, raw.index(b"070701", 1)):
        raw[at + 6 : at + 14] = b"00000009"
        raw[at + 6 + 4 * 8 : at + 6 + 5 * 8] = b"00000002"
    assert [entry.data for entry in cpio.read(bytes(raw))] == [b"shared", b"shared"]


def test_parents_come_first_and_later_entries_win() -> None:
    found = cpio.with_parents(
        [cpio.file("a/b/c", b"old"), cpio.file("a/b/c", b"new"), cpio.directory("a", 0o700)]
    )
    assert [(e.name, e.mode & 0o777) for e in found] == [
        ("a", 0o700),
        ("a/b", 0o755),
        ("a/b/c", 0o644),
    ]
    assert found[-1].data == b"new"


@pytest.mark.oracle
@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_gnu_cpio_lists_the_same() -> None:
    found = cpio.with_parents([cpio.file("etc/a", b"hello"), cpio.symlink("bin", "usr/bin")])
    done = subprocess.run(["cpio", "-t", "--quiet"], input=cpio.write(found), capture_output=True)
    assert done.stdout.decode().split() == [entry.name for entry in found]
