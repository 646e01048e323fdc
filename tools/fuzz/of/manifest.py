"""Manifests of snapshots on disk, of a small guest and of a host with two: good ones, changed."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from asyncvmm.cli.snapshot import difference_lines
from asyncvmm.machine import GuestConfig, Machine, MachineState
from asyncvmm.machine.snapshot import restore
from asyncvmm.plugin import DeviceType, create_plugin_manager
from asyncvmm.runtime import snapshot_files
from asyncvmm.runtime.folder.diff import compare
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.saved import SavedGuest
from asyncvmm.runtime.snapshot_files import Zeros
from asyncvmm.testing import assemble, to_elf
from tools.fuzz.files import read_or_refused, scratch
from tools.fuzz.json_values import changed_json

PROGRAM: Final = "_start: addi s1, s1, 1\n j _start\n"
_LITERALS: Final = (
    '"disk0.raw"', '"spin.elf"', '"zeros"', '"file"', "4096", "1048576", "281474976710656", "33554432",
    '"lan"', '"a"', '"b"', '["lan"]', '["a", "a"]', '"interpreter"', '"1000000000000G"', '{"a": 1}',
    '"/dev/zero"', '"disk0.raw,readonly"', '"x,format=qcow2"', "[[0, 1, 2, 3]]", '"00"', '"zz"',
)  # fmt: skip

_NUMBERS: Final = (
    *_LITERALS, "2147483648", "4294967295", "4294967296", "65535", "65536", "16", "256", "1024",
    "2147483656", "-2147483648", "1099511627776", "true", "[1, 2, 3]", '"00000000"', '"ff"',
)  # fmt: skip


@functools.cache
def _folder() -> Path:
    """Snapshots of guests of two pages, in memory where the system has a file system there."""
    folder = scratch() / "manifests"
    folder.mkdir()
    elf = folder / "spin.elf"
    elf.write_bytes(to_elf(assemble(PROGRAM, 0x80000000)))
    disk = folder / "disk0.raw"
    disk.write_bytes(bytes(8192))
    config = {"elf": elf, "memory": 1 << 20, "engine": "interpreter"}

    async def main() -> None:
        async with open_host(paused=True) as host:
            first = await host.start(GuestConfig.from_mapping(config))
            await host.start(
                GuestConfig.from_mapping(
                    {**config, "name": "b", "nets": ("lan",), "disks": (f"{disk},snapshot",)}
                )
            )
            await host.run_until(1_000_000)
            with await first.snapshot() as snapshot:
                snapshot_files.save(snapshot.saved, folder / "good")
                snapshot_files.save(snapshot.saved, folder / "kept")
            with await host.snapshot() as whole:
                whole.save(folder / "host")

    trio.run(main)
    return folder


def fuzz_one(data: bytes) -> None:
    """A guest's, as text: a snapshot or a typed error, with nothing left open."""
    _load(_changed(_text("good/manifest.json"), data))


def fuzz_values(data: bytes) -> None:
    """A guest's, value by value; what differs from a good one can be said, too."""
    values = (_values("good/manifest.json"), _values("host/guest1/manifest.json"))
    _load(changed_json(data, values, _LITERALS, damage=0.05))
    folder = _folder()
    found = read_or_refused(lambda: compare(folder / "kept", folder / "good"), folder)
    if found is not None:
        "\n".join(difference_lines(found)).encode()


def fuzz_host(data: bytes) -> None:
    """A host's, value by value, and sometimes one of its guests'."""
    folder = _folder() / "host"
    name = "host.json" if data[:1] < b"\xd0" else "guest1/manifest.json"
    file = folder / name
    file.write_bytes(changed_json(data, (_values(f"host/{name}"),), _LITERALS, damage=0.05))
    try:
        found = read_or_refused(lambda: HostSnapshot.load(folder), folder, _folder() / "pages")
        if found is not None:
            assert found.time_ns >= 0 and len(found.guests) == len(set(found.guests))
            found.close()
    finally:
        file.write_bytes(_text(f"host/{name}"))


def fuzz_start(data: bytes) -> None:
    """A state that is well-formed, whatever its numbers are: a machine takes it, or says what is wrong.

    What the machine then does is between it and its memory: nothing but typed errors comes of that either.
    """
    values = changed_json(
        data, (_values("host/guest1/manifest.json")["machine"],), _NUMBERS, damage=0
    )
    try:
        parsed = json.loads(values)
    except (ValueError, RecursionError):
        return
    saved, types = _loaded()
    state = MachineState(parsed, saved.state.pages)
    machine = Machine(
        saved.config,
        saved.files,
        types,
        open_blob=lambda spec: Zeros(8192),
        powered=False,
        store=saved.state.pages.shared_pages,
    )
    try:
        restored = read_or_refused(lambda: restore(machine, state) or True, "guest", "virtio", "b/")
        if restored:
            read_or_refused(lambda: machine.run(max_steps=200), "b", "guest")
    finally:
        for device in machine.devices:
            device.close()


@functools.cache
def _loaded() -> tuple[SavedGuest, Mapping[str, DeviceType]]:
    found = HostSnapshot.load(_folder() / "host")
    return found.saved.guests[1], create_plugin_manager().device_types


def _load(data: bytes) -> None:
    folder = _folder() / "good"
    _text("good/manifest.json")
    (folder / snapshot_files.MANIFEST).write_bytes(data)
    saved = read_or_refused(lambda: snapshot_files.load(folder), folder, _folder() / "pages")
    if saved is not None:
        saved.close()


@functools.cache
def _text(name: str) -> bytes:
    """The good file, read before it is changed for the first time."""
    return (_folder() / name).read_bytes()


@functools.cache
def _values(name: str) -> Any:
    return json.loads(_text(name))


def _changed(good: bytes, data: bytes) -> bytes:
    """Words at places that ``data`` tells, replaced by others."""
    raw = bytearray(good)
    words = (
        b"-1",
        b"0",
        b"1e400",
        b'"x"',
        b"[]",
        b"{}",
        b"null",
        b"true",
        b"9" * 30,
        b"\xff",
        b"NaN",
    )
    for at in range(0, min(len(data) - 3, 20), 4):
        place = int.from_bytes(data[at : at + 3], "little") % max(len(raw), 1)
        word = words[data[at + 3] % len(words)]
        if data[at + 3] < 128:  # a whole value
            begin = raw.find(b": ", place)
            if begin >= 0:
                ends = [e for e in (raw.find(b",", begin), raw.find(b"\n", begin)) if e > 0]
                raw[begin + 2 : min(ends, default=len(raw))] = word
        else:
            raw[place : place + data[at + 3] % 8] = word if data[at + 3] & 16 else b""
    return bytes(raw)
