"""What differs between two saved states: pages, registers, devices, disks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.texts import shown
from asyncvmm.machine import SnapshotError
from asyncvmm.machine.registers import value_names
from asyncvmm.machine.snapshot import MAX_TIME_NS, words
from asyncvmm.runtime import snapshot_files
from asyncvmm.runtime.folder.small_json import read_object
from asyncvmm.storage.packs import PackError, PackIndex, read_index, read_table

MAX_LISTED: Final = 1000


@attrs.frozen
class Difference:
    """From one state to another. Runs are (first, count) of 4 KiB pages or blocks, by number; registers are
    (hart, name, before, after); devices are (path, part) that differ; ``parts`` are the other parts of
    the machine's state, ``config`` the keys of its configuration.
    """

    memory: tuple[tuple[int, int], ...]
    disks: Mapping[str, tuple[tuple[int, int], ...]] = attrs.field(hash=False)
    registers: tuple[tuple[int, str, int, int], ...]
    devices: tuple[tuple[str, str], ...]
    parts: tuple[str, ...]
    config: tuple[str, ...]
    time_ns: tuple[int, int]

    @property
    def memory_pages(self) -> int:
        """How many pages differ."""
        return sum(count for _, count in self.memory)

    @property
    def same(self) -> bool:
        """Nothing differs."""
        return not (
            self.memory
            or any(self.disks.values())
            or self.registers
            or self.devices
            or self.parts
            or self.config
        )


def compare(one: Path, other: Path) -> Difference:
    """Two states that ``Snapshot.save`` wrote; SnapshotError or PackError names what is damaged.

    Only tables and manifests are read, no page.
    """
    first, second = _manifest(one), _manifest(other)
    indexes: dict[Path, PackIndex] = {}
    memory = _runs(
        _changed(
            _hashes(one / snapshot_files.MEMORY, indexes),
            _hashes(other / snapshot_files.MEMORY, indexes),
        )
    )
    disks = {}
    count = max(len(first["disks"]), len(second["disks"]))
    for number in range(count):
        tables = [folder / f"disk{number}.table" for folder in (one, other)]
        hashes = [_hashes(table, indexes) if table.is_file() else {} for table in tables]
        disks[f"disk{number}"] = _runs(_changed(hashes[0], hashes[1]))
    left, right = first["machine"], second["machine"]
    return Difference(
        memory,
        disks,
        tuple(_registers(left, right)),
        tuple(_devices(left, right)),
        tuple(
            key
            for key in sorted({*left, *right} - {"harts", "devices"})
            if left.get(key) != right.get(key)
        ),
        tuple(
            key
            for key in sorted({*first["config"], *second["config"]})
            if first["config"].get(key) != second["config"].get(key)
        ),
        (first["time_ns"], second["time_ns"]),
    )


def _manifest(folder: Path) -> dict[str, Any]:
    """The parts that are compared, of the right kinds."""
    file = folder / snapshot_files.MANIFEST
    values = read_object(file, snapshot_files.MAX_MANIFEST_BYTES, SnapshotError)
    kinds = {"config": dict, "machine": dict, "disks": list, "time_ns": int}
    for key, kind in kinds.items():
        if not isinstance(values.get(key), kind):
            raise SnapshotError(f"{file}: has no {key}")
    if not 0 <= values["time_ns"] < MAX_TIME_NS:
        raise SnapshotError(f"{file}: time_ns is {shown(values['time_ns'])}")
    if not isinstance(values["machine"].get("harts"), list):
        raise SnapshotError(f"{file}: machine has no harts")
    for number, hart in enumerate(values["machine"]["harts"]):
        words(hart, f"{file}: hart {number}")
    if not isinstance(values["machine"].get("devices"), dict):
        raise SnapshotError(f"{file}: machine has no devices")
    if len(values["disks"]) > snapshot_files.MAX_DISKS:
        raise SnapshotError(f"{file}: has {len(values['disks'])} disks")
    manifest: dict[str, Any] = values
    return manifest


def _hashes(table: Path, indexes: dict[Path, PackIndex]) -> dict[int, bytes]:
    """The hash of every page in a table."""
    entries, names = read_table(table)
    packs = []
    for name in names:
        path = table.parent.parent / snapshot_files.PAGES / name
        if Path(name).name != name:
            raise PackError(f"{table}: {name!r} is not the name of a pack")
        if path not in indexes:
            indexes[path] = read_index(path)
        packs.append(indexes[path])
    found = {}
    for number, pack, at in entries:
        if pack >= len(packs) or at >= packs[pack].pages:
            raise PackError(f"{table}: the entry {number}, {pack}, {at} cannot be")
        found[number] = packs[pack].hash_of(at)
    return found


def _changed(one: Mapping[int, bytes], other: Mapping[int, bytes]) -> list[int]:
    return sorted(n for n in {*one, *other} if one.get(n) != other.get(n))


def _runs(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][0] + runs[-1][1]:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((number, 1))
    return tuple(runs)


def _registers(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[int, str, int, int]]:
    found = []
    for hart, (left, right) in enumerate(zip(one["harts"], other["harts"], strict=False)):
        for name, before, after in zip(value_names(len(left)), left, right, strict=False):
            if before != after:
                found.append((hart, name, before, after))
    return found[:MAX_LISTED]


def _devices(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = []
    left, right = one["devices"], other["devices"]
    for path in sorted({*left, *right}):
        mine, yours = left.get(path), right.get(path)
        if mine is None or yours is None:
            found.append((path, "is in one of them only"))
        elif isinstance(mine, dict) and isinstance(yours, dict):
            found += [
                (path, part)
                for part in sorted({*mine, *yours})
                if mine.get(part) != yours.get(part)
            ]
        elif mine != yours:
            found.append((path, "state"))
    return found
