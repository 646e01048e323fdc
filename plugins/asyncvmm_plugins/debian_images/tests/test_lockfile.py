"""The lock file of package pins."""

from __future__ import annotations

import re

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm_plugins.debian_images import lockfile
from asyncvmm_plugins.debian_images.lockfile import Pin

PIN = Pin("linux-source-6.12", "trixie", "amd64", "6.12.117-1", 153474904, "ab" * 32)


def test_what_is_dumped_is_parsed() -> None:
    lock = lockfile.parse(lockfile.dump([PIN]))
    assert lock.find("linux-source-6.12", "trixie") == PIN
    assert lock.find("linux-source-6.12", "sid") is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("format = 1", "format = 2", "format 1"),
        ("format = 1", "format = ", "lock"),
        ("format = 1", 'format = 1\nurl = "x"', "format 1"),
        ('package = "linux-source-6.12"', 'package = "../x"', "package = "),
        ('sha256 = "ab', 'sha256 = "AB', "sha256"),
        ("size_bytes = 153474904", "size_bytes = -1", "size_bytes"),
        ("size_bytes = 153474904", "size_bytes = true", "size_bytes"),
        ('suite = "trixie"', 'suit = "trixie"', "must have"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, said: str) -> None:
    text = lockfile.dump([PIN])
    assert old in text
    with pytest.raises(ConfigError, match=re.escape(said)):
        lockfile.parse(text.replace(old, new))


def test_the_shipped_lock_file_is_valid_and_names_no_address() -> None:
    lock = lockfile.load()
    assert lock.find("debian-installer-13-netboot-riscv64", "trixie") is not None
    assert "://" not in lockfile.dump(list(lock.pins.values()))
