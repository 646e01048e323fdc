"""vm.toml: text that is damaged, and whole files of right and wrong keys and values."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from typing import Final

from asyncvmm.plugin import DeviceType, create_plugin_manager
from asyncvmm.runtime.folder.settings import KEYS, load_settings
from asyncvmm.runtime.folder.settings_edit import set_value
from tools.fuzz.files import read_or_refused, scratch

_GOOD: Final = b"""\
# a machine
memory = "64M"
kernel = "image/kernel"
disks = ["disks/root.qcow2", "disks/more.raw,readonly"]
flash = ["nvram.bin,format=nvram"]
net = ["lan,mac=52:54:00:00:00:01"]
shares = ["share,tag=work"]
devices = ["virtio-rng"]
publish = ["8080:80"]
allow = ["10.0.0.0/8:80"]
seed = 7
policy = {"cpu.weight" = 200, "memory.max" = "64M"}

[logs]
vm_bytes = "1M"
keep = 2
"""
_PLAIN: Final = b'elf = "image/demo.elf"\nharts = 2\nclock = "virtual"\nappend = """a\nb"""\n'
SEEDS: Final = (_GOOD, _PLAIN)
_VALUES: Final = (
    "0", "-1", "1", "64", "9" * 40, "9" * 5000,
    "0x" + "f" * 300, "0x" + "f" * 5000, "1e400", "nan", "inf", "1.5", "true", "[]", "{}",
    "1979-05-27", "07:32:00",
    '""', '"x"', '"64M"', '"99999999999999999999G"', '"\\u0000"', '"a\\u0000b,readonly"',
    '["\\u0000"]', '["a,format=nvram"]', '["a,b=c"]', "[1]", '["lan"]', '[["a"]]', '["8080:80"]', '["\\n"]',
    '"/"', '["../../.."]',
    '["="]', '[","]', '["virtio-rng,x=y"]', '{"cpu.weight" = 1}', '{"cpu.max" = "1 2"}',
    "{x = {}}", '{"io.max" = "rbps=9999999999999999999999"}', '"\\uFFFF"', "'''\n'''", "-9223372036854775809",
    '["10.0.0.0/99"]', '"\\U0001F600"', '["é"]',
)  # fmt: skip
_KEYS: Final = (
    *KEYS,
    "logs.keep",
    "logs.vm_bytes",
    "policy.x",
    "memory.x",
    "memroy",
    '""',
    '"a b"',
)


@functools.cache
def _types() -> Mapping[str, DeviceType]:
    return create_plugin_manager().device_types


def fuzz_text(data: bytes) -> None:
    """The bytes of a file, changed."""
    _load(data)


def fuzz_keys(data: bytes) -> None:
    """Right and wrong keys with right and wrong values; sometimes very many or very deep."""
    rng = random.Random(data)
    lines = ['elf = "x"'] if rng.random() < 0.8 else []
    for _ in range(rng.randrange(5)):
        key, value = rng.choice(_KEYS), rng.choice(_VALUES)
        lines.append(f"{key} = {value}")
    if rng.random() < 0.01:
        depth = rng.choice((50, 300, 900))
        lines.append(_deep(rng, depth))
    _load("\n".join(lines).encode())


def fuzz_large(data: bytes) -> None:
    """One thing again and again, up to the longest file that is read."""
    rng = random.Random(data)
    if rng.random() > 0.01:  # each costs many ms
        return
    _load(('elf = "x"\n' + _deep(rng, rng.choice((1000, 5000, 20_000)))).encode()[:65_536])


def fuzz_edit(data: bytes) -> None:
    """``config set`` with any key and words."""
    rng = random.Random(data)
    path = scratch() / "vm.toml"
    path.write_bytes(_PLAIN)
    key = rng.choice(_KEYS).replace('"', "") if rng.random() < 0.9 else data.hex()
    words = [rng.choice(_VALUES) for _ in range(rng.choice((1, 1, 1, 2)))]
    read_or_refused(lambda: set_value(path, key, words, _types()), path, key, key.split(".")[0])
    assert load_settings(path, _types()) is not None  # what was written is right


def _deep(rng: random.Random, depth: int) -> str:
    key = rng.choice(_KEYS[:12])
    return rng.choice(
        (
            f"{key} = {'[' * depth}",
            f"{key} = {'[' * depth}{']' * depth}",
            f"{key} = {'{a=' * depth}1{'}' * depth}",
            f"{key}{'.a' * depth} = 1",
            f"{key} = {{{'a.' * depth}a = 1}}",
            f"[{key}{'.a' * depth}]",
            "\n".join(f"[[{key}{n}]]" for n in range(depth)),
            "\n".join(f"[{key}.t{n}]\na = 1" for n in range(depth)),
            f"{key} = [{'1,' * depth}]",
            f'{key} = ["{"x" * depth}"]',
            "\n" * depth + f"{key} = 1",
            f"{key} = 1" + "\n# x" * depth,
        )
    )


def _load(text: bytes) -> None:
    path = scratch() / "vm.toml"
    path.write_bytes(text)
    settings = read_or_refused(lambda: load_settings(path, _types()), path)
    if settings is not None:
        guest = settings.guest
        for name in (guest.kernel, guest.initrd, guest.firmware, guest.elf, guest.dtb):
            assert name is None or "\0" not in str(name), "a path that no file can have"
        assert "\0" not in "".join((*guest.disks, *guest.flash, *guest.shares))
