"""Flash in a machine: harts load and run what is in it, engines agree, snapshots keep it."""

from __future__ import annotations

from typing import Any

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Blob, MemoryBlob
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.machine import BootFile, BootFiles, GuestConfig, Machine, snapshot
from asyncvmm.plugin import BlobSpec
from tests.unit.machine.guest_machines import device_types

FLASH = 0x2000_0000
END = """
    li   t0, 0x100000
    slli a0, a0, 16
    li   t1, 0x3333
    or   t1, t1, a0
    sw   t1, 0(t0)
1:  j    1b
"""

# In flash: a function that adds up an array beside it, aligned and not.
SUM = """
sum:
    auipc t0, 0
    li   a0, 0
    li   t1, 64
1:  lbu  t2, 256(t0)
    add  a0, a0, t2
    lhu  t3, 257(t0)
    add  a0, a0, t3
    addi t0, t0, 1
    addi t1, t1, -1
    bnez t1, 1b
    li   t1, 7
    remu a0, a0, t1
    ret
"""


def machine(source: str, contents: bytes, engine: str = "auto", **options: Any) -> Machine:
    """A machine with ``source`` in RAM and ``contents`` in its one flash."""
    elf = to_elf(assemble(source, 0x80000000))
    config = GuestConfig(
        elf="program.elf", memory="8M", flash=("flash.fd",), engine=engine, **options
    )
    blob = MemoryBlob(contents)

    def open_blob(spec: BlobSpec) -> Blob:
        return blob

    files = BootFiles(elf=BootFile("program.elf", elf))
    return Machine(config, files, device_types(), open_blob=open_blob)


def finish(target: Machine, most: int = 50_000_000) -> int:
    """Run to the end; the exit code."""
    target.run(max_steps=most)
    assert target.ending is not None, hex(target.harts[0].pc)
    return target.ending.code


def image(code: str = SUM, table: bytes = bytes(range(200))) -> bytes:
    return assemble(code, FLASH).data.ljust(256, b"\xff") + table + b"\xff" * 4096


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_code_in_flash_runs_and_reads_what_is_beside_it(engine: str) -> None:
    calls = "_start: li s0, 3000\n li s1, 0\nagain: li t0, 0x20000000\n jalr t0\n add s1, s1, a0\n"
    calls += "addi s0, s0, -1\n bnez s0, again\n li t0, 251\n remu a0, s1, t0\n"
    target = machine(calls + END, image(), engine)
    table = bytes(range(200))
    once = sum(table[at] + table[at + 1] + 256 * table[at + 2] for at in range(64)) % 7
    assert finish(target) == 3000 * once % 251
    assert target.stats().device_accesses < 10


def test_engines_agree_on_code_in_flash() -> None:
    source = "_start: li s0, 500\n1: li t0, 0x20000000\n jalr t0\n addi s0, s0, -1\n bnez s0, 1b\n"
    digests = set()
    for engine in ("interpreter", "auto"):
        target = machine(source + END, image(), engine)
        finish(target)
        digests.add(target.digest())
    assert len(digests) == 1


REPROGRAM = """
_start:
    li   s0, 0x20000000
    li   s2, 40
1:  jalr s0                     # 5
    addi s2, s2, -1
    bnez s2, 1b
    mv   s1, a0
    li   t0, 0x00400040         # program: the immediate of "li a0, 5" becomes 1
    sw   t0, 0(s0)
    li   t0, 0xff1fffff
    sw   t0, 0(s0)
    lw   s3, 0(s0)              # the status: 0x00800080
    li   t0, 0x00ff00ff
    sw   t0, 0(s0)
    fence.i
    li   s2, 40
1:  jalr s0                     # 1
    addi s2, s2, -1
    bnez s2, 1b
    li   t0, 0x00800080
    sub  s3, s3, t0
    slli s1, s1, 4
    add  a0, a0, s1
    add  a0, a0, s3
"""


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_programmed_code_is_what_runs_next(engine: str) -> None:
    code = ".word 0x00500513\n ret\n"
    assert finish(machine(REPROGRAM + END, image(code), engine)) == 0x51


FAULTS = """
_start:
    la   t0, trap
    csrw mtvec, t0
    li   s0, 0x20000000
    li   s2, 0
{step}
    li   a0, 99
    j    end
.balign 4
trap:
    csrr a0, mcause
    slli a0, a0, 4
    csrr t0, mtval
    srli t0, t0, 28
    or   a0, a0, t0
end:
"""


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
@pytest.mark.parametrize(
    ("step", "cause"),
    [
        ("li t0, 0x700070\n sw t0, 0(s0)\n jalr s0", 1),  # fetch while it shows its status
        ("jr s0", 1),  # code in flash that sends its own flash into status
        ("amoadd.w t0, t0, (s0)", 7),
        ("lr.w t0, (s0)", 5),
        ("li t0, 0x22000000\n lw t0, 0(t0)", 5),  # no second flash
        ("li t0, 0x21fffffe\n lw t0, 0(t0)", 5),  # across its end
        ("li t0, 0x700070\n sw t0, 0(s0)\n lw t0, 1(s0)", 4),  # misaligned, as of a device
    ],
)
def test_what_flash_is_not_for_faults(step: str, cause: int, engine: str) -> None:
    suicide = "lui t0, 0x700\n addi t0, t0, 0x70\n sw t0, 0(s0)\n" + "nop\n" * 8
    target = machine(FAULTS.format(step=step) + END, image(suicide), engine)
    assert finish(target) == cause << 4 | 2


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_snapshot_in_flash_goes_on_to_the_same_end(engine: str) -> None:
    source = "_start: li s0, 500\n1: li t0, 0x20000000\n jalr t0\n addi s0, s0, -1\n bnez s0, 1b\n"
    target = machine(source + END, image(), engine)
    target.run(max_steps=50_001)
    state = snapshot.save(target)
    other = machine(source + END, image(), engine, seed=0)
    restored = Machine(
        other.config,
        other.files,
        device_types(),
        open_blob=lambda spec: MemoryBlob(image()),
        powered=False,
        store=target.ram.shared_pages,
    )
    snapshot.restore(restored, state)
    assert finish(restored) == finish(target)
    assert restored.digest() == target.digest()


def test_a_reset_leaves_flash_as_it_is_and_runs_again() -> None:
    target = machine(REPROGRAM + END, image(".word 0x00500513\n ret\n"))
    assert finish(target) == 0x51
    target.reset()
    assert finish(target) == 0x11


def test_flash_alone_is_started_by_the_built_in_firmware() -> None:
    config = GuestConfig(memory="8M", flash=("flash.fd",))
    data = assemble("li a0, 3\n" + END.replace("1:", "here:").replace("1b", "here"), FLASH).data
    target = Machine(config, BootFiles(), device_types(), open_blob=lambda spec: MemoryBlob(data))
    assert finish(target) == 3
    assert target.tree.find("/soc/flash@20000000") is not None


def test_a_third_flash_has_no_place() -> None:
    config = GuestConfig(memory="8M", flash=("a", "b", "c"))
    with pytest.raises(ConfigError, match="must begin where the one before ended"):
        Machine(config, BootFiles(), device_types(), open_blob=lambda spec: MemoryBlob(bytes(4096)))


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_forks_that_reprogram_their_flash_run_their_own_code(engine: str) -> None:
    """What is decoded of RAM is shared by forks; of flash it is not, since nothing freezes it."""
    code = image(".word 0x00500513\n ret\n")
    target = machine(REPROGRAM + END, code, engine)
    target.run(max_steps=60)  # some calls of what is there at first
    state = snapshot.save(target)
    copies = []
    for _ in range(2):
        copy = Machine(
            target.config,
            target.files,
            device_types(),
            open_blob=lambda spec: MemoryBlob(code),
            powered=False,
            store=target.ram.shared_pages,
        )
        snapshot.restore(copy, state)
        copies.append(copy)
    assert [finish(one) for one in (copies[0], target, copies[1])] == [0x51] * 3
