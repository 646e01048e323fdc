"""Journals whose checksums fit and whose contents are absurd, replayed against a tiny bare guest.

The input is the seed of the changes: fields of all depths replaced or gone, other kinds, instants and
turns, records doubled, moved or lost, payloads of all sizes, and the header's host.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Iterator
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import AsyncvmmError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.runtime import journal_file as kinds
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.journal_file import Record, encode, read_journal
from asyncvmm.runtime.replay import open_replay
from asyncvmm.runtime.vsock import VSOCK_PLACE
from asyncvmm.testing import assemble, to_elf
from tools.fuzz.files import scratch
from tools.fuzz.of.journal import framed

US: Final = 1000
WAIT_S: Final = 60  # wall time, in which any of these runs is over
MOST_DATA: Final = 3 << 20
# Echoes what comes to its serial port, and sleeps meanwhile.
PROGRAM: Final = """
_start:
    li   s0, 0x10000000
    li   t0, 1
    sb   t0, 1(s0)
    li   t1, 0x0c000028
    sw   t0, 0(t1)
    li   t1, 0x0c002000
    li   t0, 0x400
    sw   t0, 0(t1)
    li   t0, 0x800
    csrw mie, t0
next:
    wfi
    li   t1, 0x0c200004
    lw   t0, 0(t1)
    sw   t0, 0(t1)
    lbu  t0, 0(s0)
    sb   t0, 0(s0)
    j    next
"""
DEVICES: Final = ("virtio-console,ports=data", "virtio-balloon", "virtio-vsock", "virtio-rng")
KEY: Final = ["0a000201", 32768, "0a00020a", 80]  # of the first connection
NUMBERS: Final = (0, 1, -1, 2, 127, 65535, 65536, 1 << 31, 1 << 62, 1 << 63, 1 << 64, -(1 << 70))
VALUES: Final = (
    *NUMBERS,
    *(
        None,
        True,
        1.5,
        "",
        "x",
        "g",
        "nobody",
        "lan",
        "ff",
        "0a00020a",
        "../../x",
        "a\0b",
        "\ud800",
    ),
    *([], [1], ["0a000202"], {}, {"x": 1}, {"g": "00"}, "x" * 5000, [[]] * 50, 10**40),
)
counts: Final = {
    "inputs": 0,
    "replayed": 0,
    "refused": 0,
}  # how many came to a replay, and to an error


@functools.cache
def _plugins() -> PluginManager:
    return create_plugin_manager()


@functools.cache
def _good() -> tuple[dict[str, Any], tuple[Record, ...]]:
    """A header and records of every kind; those of guests are from a run."""
    elf = scratch() / "echo.elf"
    elf.write_bytes(to_elf(assemble(PROGRAM, 0x80000000)))
    path = scratch() / "good.journal"
    config = GuestConfig(
        name="g", elf=elf, memory=1 << 20, devices=DEVICES, nets=("lan",), engine="interpreter"
    )

    async def record() -> None:
        async with open_host(
            cpus=2, mips=20, paused=True, journal=path, plugins=_plugins()
        ) as host:
            guest = await host.start(config)
            guest.keep_history(spacing=50, snapshots=4)
            await guest.console.send_all(b"key")
            await host.run_until(100 * US)
            with await guest.snapshot() as snapshot:
                await host.start(snapshot, name="h", reseed=5, clock=10**18)
            await guest.goto(50 * US)
            await host.run_until(300 * US)

    trio.run(record)
    found = read_journal(path)
    start, *rest = found.records
    return dict(found.header), (start, *_entering(), *rest)


def _entering() -> Iterator[Record]:
    """What programs and the world do to a guest called g, in good order, all before its first step."""
    port, gate, sock = (
        {"guest": "g", "port": ""},
        {"gateway": "lan"},
        {"gateway": f"{VSOCK_PLACE}g"},
    )
    key = {**gate, "key": KEY}
    for kind, names, data in (
        (kinds.INPUT, port, b"keys"),
        (kinds.INPUT, {"guest": "g", "port": "g/virtio-console0:data"}, b"keys"),
        (kinds.TAKE, {**port, "count": 3}, b""),
        (kinds.RESIZE, {**port, "columns": 100, "rows": 30}, b""),
        (kinds.POLICY, {"guest": "g", "knobs": {"cpu_weight": 50, "memory_max": 1 << 20}}, b""),
        (kinds.SHAPE, {"network": "lan", "guest": "g", "changes": {"loss": 0.5, "up": True}}, b""),
        (kinds.SNAPSHOT, {"guest": "g", "snapshot": 77}, b""),
        (kinds.CONNECT, {**gate, "address": "0a00020a", "port": 80}, b""),
        (kinds.SEND, key, b"bytes"),
        (kinds.RECEIVE, {**key, "limit": 100}, b""),
        (kinds.FINISH, key, b""),
        (kinds.HANG_UP, key, b""),
        (kinds.ABORT, key, b""),
        (kinds.DATAGRAM, {**gate, "flow": ["0a00020a", 9, "5db8d822", 53]}, b"answer"),
        (kinds.VSOCK, {"guest": "g", "do": "listen", "port": 5, "backlog": 4}, b""),
        (kinds.VSOCK, {"guest": "g", "do": "connect", "port": 6}, b""),
        (kinds.SEND, {**sock, "key": [0]}, b"bytes"),
        (kinds.VSOCK, {"guest": "g", "do": "unlisten", "port": 5}, b""),
        (kinds.BALLOON, {"guest": "g", "target": 4096}, b""),
        (kinds.CUT, {}, b""),
    ):
        yield Record(kind, 0, 0, names, data)


# Each of which fails where nothing led to it.
STRANGE: Final = tuple(
    Record(kind, 0, 0, names, data)
    for kind, names, data in (
        (kinds.OPENED, {"gateway": "lan", "request": 1, "works": True}, b""),
        (kinds.RESOLVED, {"gateway": "lan", "request": 2, "found": ["5db8d822"]}, b""),
        (kinds.OUTLET, {"place": "lan", "backend": "tap", "x": 1}, b"frame"),
        (kinds.GIVEN, {"guest": "g", "device": "g/virtio-rng0"}, b"news"),
        (kinds.TAKEN, {"guest": "g", "device": "g/virtio-rng0"}, b""),
        (kinds.ANSWER, {"until_ns": 70 * US}, b""),
        (kinds.GONE, {"guest": "g", "reason": "poweroff", "code": 0, "digest": "00"}, b""),
    )
)


def fuzz_one(data: bytes) -> None:
    """A replay comes to its end, or a typed error names the file and the place in it."""
    rng = random.Random(data)
    header, good = _good()
    header, records = copy.deepcopy(header), list(good)
    for _ in range(rng.choice((0, 0, 0, 1, 5))):  # what needs another record fails alone
        del records[rng.randrange(1, len(records))]
    if rng.random() < 0.1:
        records.insert(rng.randrange(len(records) + 1), rng.choice(STRANGE))
    if rng.random() < 0.3:  # alone, so that nothing before it fails
        records = [good[0], rng.choice((*good[1:], *STRANGE)), good[-1]]
    for _ in range(rng.choice((1, 1, 2, 4))):
        _change(rng, records)
    if rng.random() < 0.9:
        records.sort(key=lambda record: record.time_ns)
        records[:-1] = [record for record in records[:-1] if record.kind != kinds.END]
    if rng.random() < 0.05:
        header["host"] = _spoilt(rng, header["host"])
    _replay([Record(kinds.HEADER, 0, 0, header), *records])


def _change(rng: random.Random, records: list[Record]) -> None:
    if not records:
        return
    at = rng.randrange(len(records))
    record = records[at]
    how = rng.randrange(12)
    if how < 6:
        record = attrs.evolve(record, names=_spoilt(rng, copy.deepcopy(record.names)))
    elif how == 6:
        record = attrs.evolve(record, kind=rng.choice((*range(40), 255)))
    elif how == 7:
        time_ns = rng.choice((0, 1, 49_999, 50_000, record.time_ns + 1, 1 << 40, 1 << 61, 1 << 63))
        record = attrs.evolve(record, time_ns=time_ns, turn=rng.choice((0, 1, 65535)))
    elif how == 8:
        size = rng.choice((0, 1, 17, 1500, 66_000, MOST_DATA if rng.random() < 0.02 else 5))
        record = attrs.evolve(record, data=rng.randbytes(1) * size)
    elif how == 9:
        records.insert(rng.randrange(len(records) + 1), record)
    elif how == 10:
        del records[at]
        return
    else:
        other = rng.choice(records)
        record = attrs.evolve(record, names=other.names)
    records[at] = record


def _spoilt(rng: random.Random, value: Any) -> Any:
    """A value with something in it, at any depth, replaced, gone or new."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if key == "memory":  # as large as a guest may be, which takes as much of this process
            return value
        how = rng.random()
        if how < 0.1:
            del value[key]
        elif how < 0.15:
            value[rng.choice(("x", "", "until_ns", key + "x"))] = rng.choice(VALUES)
        else:
            value[key] = _spoilt(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.7:
        number = rng.randrange(len(value))
        value[number] = _spoilt(rng, value[number])
        return value
    return copy.deepcopy(rng.choice(VALUES))


def _replay(records: list[Record]) -> None:
    path = scratch() / "fuzzed.journal"
    bodies = [_encoded(record) for record in records]
    path.write_bytes(framed([body for body in bodies if body is not None]))
    counts["inputs"] += 1

    async def main() -> None:
        opening = open_replay(path, engine="interpreter", workers=1, plugins=_plugins())
        with trio.fail_after(WAIT_S):
            async with opening as replay:
                counts["replayed"] += 1
                await replay.run()

    try:
        trio.run(main)
    except AsyncvmmError as error:
        counts["refused"] += 1
        text = str(error)
        assert str(path) in text, f"does not name the file: {text}"
        assert any(word in text for word in ("record ", "byte ", "header")), text
        assert len(text) < 8192, f"{len(text)} characters"
        text.encode()  # it can be printed


def _encoded(record: Record) -> bytes | None:
    try:
        return encode(record)
    except (ValueError, OverflowError):  # what cannot be written
        return None
