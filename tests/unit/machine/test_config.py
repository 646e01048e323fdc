"""Guest configs: what is accepted, and how a mistake is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig, parse_size
from asyncvmm.machine.config import DiskOptions, share_options, split_disk


@pytest.mark.parametrize(
    ("text", "size"),
    [("128M", 128 << 20), ("1g", 1 << 30), ("1GiB", 1 << 30), ("0x200000", 1 << 21), (4096, 4096)],
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "12Q", "1.5G", "lots"])
def test_a_bad_size_shows_good_ones(text: str) -> None:
    with pytest.raises(ConfigError, match="128M or 1G"):
        parse_size(text)


def test_defaults_and_conversions() -> None:
    config = GuestConfig.from_mapping({"memory": "64M", "kernel": "Image", "disks": "a.img"})
    assert (config.memory, config.kernel, config.disks) == (64 << 20, Path("Image"), ("a.img",))
    assert GuestConfig.from_options({"harts": "2", "append": "quiet"}).harts == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memroy": "1G"}, "no option 'memroy': did you mean 'memory'"),
        ({"memory": "10"}, "memory must be"),
        ({"memory": 2**20 + 1}, "multiple of 4096"),
        ({"harts": 0}, "harts must be 1 to 64, not 0"),
        ({"harts": 65}, "harts must be"),
        ({"clock": "virtal"}, "did you mean 'virtual'"),
        ({"mmu": "sv57"}, "mmu: no 'sv57'"),
        ({"mips": 0}, "mips must be"),
        ({"quantum": 1}, "quantum must be"),
        ({"seed": -1}, "seed must be"),
        ({"name": "a/b"}, "guest: "),
        ({"elf": "a", "kernel": "b"}, "elf is a whole program"),
        ({"initrd": "a"}, "initrd needs a kernel"),
        ({"append": "a\0b"}, "NUL"),
    ],
)
def test_a_mistake_is_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GuestConfig.from_mapping(values)


def test_disks() -> None:
    assert split_disk("a,b.img") == DiskOptions(Path("a,b.img"))
    assert split_disk("a.img,readonly") == DiskOptions(Path("a.img"), readonly=True)
    disk = split_disk("a,b.img,format=qcow2,snapshot")
    assert disk == DiskOptions(Path("a,b.img"), snapshot=True, format="qcow2")
    assert split_disk("a.img").keeps_writes
    assert not disk.keeps_writes
    with pytest.raises(ConfigError, match="qcow2"):
        split_disk("a.img,format=vmdk")
    with pytest.raises(ConfigError, match="needs a path"):
        split_disk("")


@pytest.mark.parametrize(
    ("text", "path", "tag", "cow"),
    [
        ("src", "src", "share", False),
        ("/a/b:code", "/a/b", "code", False),
        ("/a/b:cow", "/a/b", "share", True),
        ("/a/b:code:cow", "/a/b", "code", True),
        ("/a/b:code:ro", "/a/b", "code", False),
        ("/a:b/c", "/a:b/c", "share", False),
        ("/a,b", "/a,b", "share", False),
    ],
)
def test_shares(text: str, path: str, tag: str, cow: bool) -> None:
    (found,) = share_options((text,))
    assert found == {"path": path, "tag": tag, **({"cow": None} if cow else {})}


def test_shares_that_cannot_be() -> None:
    for shares in (("",), (":cow",), ("a", "b"), ("a:x", "b:x:cow")):
        with pytest.raises(ConfigError):
            share_options(shares)


def test_what_is_no_text_is_no_size() -> None:
    with pytest.raises(ConfigError, match="None is not a size"):
        GuestConfig.from_mapping({"memory": None})
