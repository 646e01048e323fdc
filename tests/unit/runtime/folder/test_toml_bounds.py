"""vm.toml that costs more than its length, or that has what no file can be called, is refused at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.runtime.folder.settings import VmTomlError, load_settings, shown

BOOT = 'elf = "x"\n'


def refused(tmp_path: Path, text: str) -> str:
    path = tmp_path / "vm.toml"
    path.write_text(text)
    with pytest.raises(VmTomlError) as caught:
        load_settings(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"memory{'.a' * 32_000} = 1", "line 2: a key of more than 32 parts"),
        (f"policy = {{{chr(34) + 'a b' + chr(34)}{' . a' * 9000} = 1}}", "line 2: a key of more"),
        (f"[memory{'.a' * 40}]", "line 2: a key of more than 32 parts"),
        (f"memory = {'{a=' * 40}1{'}' * 40}", "line 2: memory: is nested more than 16 deep"),
        (f"logs = {{keep = 0x{'f' * 5000}}}", "line 2: logs: a number of more than 64 bits"),
        ('kernel = "a\\u0000b"', "line 2: kernel: there is a NUL in 'a\\x00b'"),
        ('disks = ["a\\u0000b,readonly"]', "line 2: disks: there is a NUL"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, what: str) -> None:
    assert what in refused(tmp_path, BOOT + text)


def test_messages_are_short(tmp_path: Path) -> None:
    assert len(refused(tmp_path, f'{BOOT}machine_id = "{"9" * 50_000}"')) < 1000
    assert len(refused(tmp_path, f"{BOOT}{'k' * 50_000} = 1")) < 2000
    assert shown({"a": [1, 2, 3]}) == "{'a': [1, 2, 3]}"
    assert len(shown("x" * 100)) <= 63


def test_what_is_right_stays_right(tmp_path: Path) -> None:
    path = tmp_path / "vm.toml"
    names = ", ".join(f'"10.0.{n}.0/24:80"' for n in range(100))
    path.write_text(f"{BOOT}# a.b.c. and so on. {'x. ' * 20}\nallow = [{names}]\n")
    assert len(load_settings(path).allow) == 100
