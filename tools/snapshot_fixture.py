"""Writes the fixture of a saved snapshot: a tiny guest of our own in the middle of its program, as text.

    python -m tools.snapshot_fixture tests/fixtures/snapshot-format1.json

Run once for each format, by the version that writes it, and kept: ``tests/guests/test_old_snapshots.py``
restores it with every later version. Binary files are in it as hexadecimal text.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import trio

from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.host import open_host
from asyncvmm.testing import assemble, to_elf

MS: Final = 1_000_000
HERE: Final = "@HERE@"
RAM: Final = 0x8000_0000
# Says a letter each millisecond, by the timer's interrupt, from a count that is kept in memory: after
# "z" it ends with code 7.
PROGRAM: Final = """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   s2, 0x10000000
    li   s6, 0x0200bff8
    li   s7, 0x02004000
    la   s8, count
    ld   t2, 0(s6)
    sd   t2, 0(s7)
    li   t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
1:  wfi
    j    1b
.balign 4
tick:
    ld   t1, 0(s8)
    addi t3, t1, 97
    sb   t3, 0(s2)
    addi t1, t1, 1
    sd   t1, 0(s8)
    ld   t2, 0(s7)
    li   t4, 10000
    add  t2, t2, t4
    sd   t2, 0(s7)
    li   t4, 26
    beq  t1, t4, done
    mret
done:
    li   t0, 0x100000
    li   t1, 0x73333
    sw   t1, 0(t0)
    j    done
.balign 8
count:
    .dword 0
"""
STOP_NS: Final = 10 * MS + 500_000


async def _make(folder: Path) -> None:
    program = folder / "letters.elf"
    program.write_bytes(to_elf(assemble(PROGRAM, RAM)))
    config = GuestConfig(elf=program, name="letters", memory=1 << 20, harts=2, engine="interpreter")
    async with open_host(paused=True) as host:
        guest = await host.start(config)
        await host.run_until(STOP_NS)
        with await guest.snapshot() as snapshot:
            snapshot.save(folder / "snapshots" / "half")


def read(folder: Path) -> dict[str, Any]:
    """The files of a folder as text: JSON as it is, the rest in hexadecimal."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            name = str(path.relative_to(folder))
            if path.suffix == ".json":
                found[name] = json.loads(data.decode().replace(str(folder), HERE))
            else:
                found[name] = data.hex()
    return found


def write(files: dict[str, Any], folder: Path) -> None:
    """What ``read`` gave, as files again."""
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, str):
            path.write_bytes(bytes.fromhex(value))
        else:
            path.write_text(json.dumps(value).replace(HERE, str(folder)))


def main() -> None:
    """See above."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trio.run(_make, folder)
        Path(sys.argv[1]).write_text(json.dumps(read(folder), indent=0) + "\n")


if __name__ == "__main__":
    main()
