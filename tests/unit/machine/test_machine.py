"""Whole machines with small programs: boot modes, interrupts, power, reset, digests."""

from __future__ import annotations

import inspect
import shutil
import subprocess

import pytest

from asyncvmm.arch.hart import Hart
from asyncvmm.base.errors import ConfigError
from asyncvmm.fdt import flatten, parse
from asyncvmm.machine import (
    RAN_IDLE,
    RAN_STOP,
    BootFile,
    BootFiles,
    Ending,
    GuestConfig,
    Machine,
    read_boot_files,
)
from asyncvmm.machine.registers import OTHER, SCALARS, VECTORS
from tests.unit.machine.guest_machines import (
    device_types,
    image_bytes,
    kernel_machine,
    program_machine,
)

HTIF = """
    .data
    .align 6
    .globl tohost
tohost: .dword 0
    .align 6
fromhost: .dword 0
"""
EXIT_7 = "la t0, tohost\n li t1, 15\n sd t1, 0(t0)\n1: j 1b\n" + HTIF


def test_bare_elf_enters_machine_mode_with_hart_and_tree() -> None:
    machine = program_machine("_start: j _start")
    hart = machine.harts[0]
    assert (hart.priv, hart.pc, hart.x[10]) == (3, 0x80000000, 0)
    blob = machine.ram.read(hart.x[11], 4)
    assert blob == b"\xd0\x0d\xfe\xed"


def test_htif_exit_code_stops_at_once() -> None:
    machine = program_machine(EXIT_7)
    assert machine.run(max_steps=1000) == RAN_STOP
    assert machine.ending == Ending("poweroff", 7, "htif")
    assert machine.stats().instructions < 10


def test_htif_console_and_write_system_call() -> None:
    machine = program_machine(
        """
    la t0, tohost
    li t1, 0x0101000000000041
    sd t1, 0(t0)
    la t2, block
    la t3, text
    sd t3, 16(t2)
    sd t2, 0(t0)
    la t4, fromhost
2:  ld t5, 0(t4)
    beqz t5, 2b
    sd zero, 0(t4)
    ld t6, 0(t2)
    slli t6, t6, 1
    ori t6, t6, 1
    sd t6, 0(t0)
1:  j 1b
    .data
    .align 6
block: .dword 64, 1, 0, 5, 0, 0, 0, 0
text: .ascii "hello"
"""
        + HTIF
    )
    assert machine.run(max_steps=10_000) == RAN_STOP
    assert machine.console.take_output() == b"Ahello"
    assert machine.ending == Ending("poweroff", 5, "htif")


def test_htif_getchar_waits_for_input() -> None:
    machine = program_machine(
        """
    la t0, tohost
    li t1, 0x0100000000000000
    sd t1, 0(t0)
    la t4, fromhost
2:  ld t5, 0(t4)
    beqz t5, 2b
    andi t5, t5, 0xff
    slli t5, t5, 1
    ori t5, t5, 1
    sd t5, 0(t0)
1:  j 1b
"""
        + HTIF
    )
    machine.run(max_steps=1000)
    assert machine.ending is None
    machine.console.push(b"x")
    machine.run(max_steps=1000)
    assert machine.ending == Ending("poweroff", ord("x"), "htif")


def test_machine_timer_interrupt_wakes_at_its_exact_time() -> None:
    machine = program_machine(
        """
    la t0, handler
    csrw mtvec, t0
    li t0, 0x2004000
    li t1, 50
    sd t1, 0(t0)
    li t1, 0x80
    csrw mie, t1
    csrsi mstatus, 8
1:  wfi
    j 1b
    .align 2
handler:
    csrr s1, time
    csrr s0, mcause
    li t0, 0x100000
    li t1, 0x5555
    sw t1, 0(t0)
2:  j 2b
"""
    )
    assert machine.run() == RAN_STOP
    assert machine.ending == Ending("poweroff", 0, "guest/test-finisher0")
    hart = machine.harts[0]
    assert (hart.x[8] & 0xFF, hart.x[9]) == (7, 50)
    assert 5000 <= machine.stats().virtual_ns < 5020


def test_wfi_without_anything_to_wait_for_is_idle() -> None:
    machine = program_machine("1: wfi\n j 1b")
    assert machine.run() == RAN_IDLE
    assert machine.stats().instructions == 1


def test_serial_interrupt_wakes_the_hart_through_the_plic() -> None:
    machine = program_machine(
        """
    li t0, 0xc000000
    li t1, 1
    sw t1, 40(t0)
    li t0, 0xc002000
    li t1, 1024
    sw t1, 0(t0)
    li t0, 0x10000000
    li t1, 1
    sb t1, 1(t0)
    li t1, 0x800
    csrw mie, t1
    wfi
    li t2, 0xc200004
    lw s0, 0(t2)
    lb s1, 0(t0)
    sb s1, 0(t0)
    sw s0, 0(t2)
    csrr s2, mip
    wfi
"""
    )
    assert machine.run() == RAN_IDLE
    machine.console.push(b"k")
    assert machine.run() == RAN_IDLE
    hart = machine.harts[0]
    assert (hart.x[8], hart.x[9], hart.x[18]) == (10, ord("k"), 0)
    assert machine.console.take_output() == b"k"


SHUTDOWN = "li a7, 0x53525354\n li a6, 0\n li a0, 0\n li a1, 0\n ecall\n"


def test_kernel_enters_supervisor_mode_under_sbi_with_the_tree_in_a1() -> None:
    machine = kernel_machine("csrr s0, sstatus\n ld s1, 0(a1)\n rdtime s2\n" + SHUTDOWN)
    hart = machine.harts[0]
    assert (hart.priv, hart.pc, hart.x[10]) == (1, 0x80200000, 0)
    assert machine.run() == RAN_STOP
    assert machine.ending == Ending("poweroff", 0, "sbi")
    assert hart.x[9] & 0xFFFFFFFF == 0xEDFE0DD0


def test_supervisor_timer_through_sbi() -> None:
    machine = kernel_machine(
        """
    li a7, 0x54494D45
    li a6, 0
    li a0, 77
    ecall
    li t0, 0x20
    csrw sie, t0
    wfi
    rdtime s1
"""
        + SHUTDOWN
    )
    assert machine.run() == RAN_STOP
    assert machine.harts[0].x[9] == 77


def test_the_clint_belongs_to_machine_mode() -> None:
    machine = kernel_machine(
        "la t0, 2f\n csrw stvec, t0\n li t0, 0x2000000\n lw t1, 0(t0)\n.align 2\n2: csrr s0, scause\n"
        + SHUTDOWN
    )
    machine.run()
    assert machine.harts[0].x[8] == 5
    assert machine.tree.find("/soc/clint@2000000") is None
    assert program_machine("j .").tree.find("/soc/clint@2000000") is not None


SMP = """
    li a7, 0x48534D
    li a6, 0
    li a0, 1
    la a1, second
    li a2, 99
    ecall
    mv s0, a0
1:  la t0, flag
    ld t1, 0(t0)
    beqz t1, 1b
    li a7, 0x735049
    li a6, 0
    li a0, 2
    li a1, 0
    ecall
2:  wfi
    j 2b
second:
    la t0, flag
    sd a1, 0(t0)
    li t1, 2
    csrw sie, t1
    wfi
    rdtime s1
"""


def test_second_hart_starts_and_is_woken_by_an_ipi() -> None:
    machine = kernel_machine(SMP + SHUTDOWN + "\n.data\n.align 3\nflag: .dword 0", harts=2)
    assert machine.run(max_steps=200_000) == RAN_STOP
    first, second = machine.harts
    assert (first.x[8], second.x[10], second.x[11]) == (0, 0, 0)
    assert second.x[6] == 2


def test_reboot_through_the_test_finisher_and_reset() -> None:
    machine = program_machine(
        """
    la t0, word
    ld s0, 0(t0)
    li t1, 5
    sd t1, 0(t0)
    li t0, 0x100000
    li t1, 0x7777
    sw t1, 0(t0)
1:  j 1b
    .data
    .align 3
word: .dword 1
"""
    )
    for _ in range(3):
        assert machine.run(max_steps=1000) == RAN_STOP
        assert machine.ending == Ending("reboot", 0, "guest/test-finisher0")
        assert machine.harts[0].x[8] == 1
        machine.reset()
        assert machine.ending is None
        assert (machine.harts[0].x[8], machine.harts[0].pc) == (0, 0x80000000)


def test_a_reset_machine_does_what_a_new_one_does() -> None:
    source = SMP + SHUTDOWN + "\n.data\n.align 3\nflag: .dword 0"
    machine = kernel_machine(source, harts=2)
    machine.run(max_steps=200_000)
    first = machine.stats().instructions
    machine.reset()
    machine.run(max_steps=200_000)
    assert machine.ending == Ending("poweroff", 0, "sbi")
    assert machine.stats().instructions > first


def test_digest_does_not_depend_on_how_the_run_is_split() -> None:
    source = SMP.replace("2:  wfi", "2:  addi s5, s5, 1") + "1: addi s6, s6, 3\n rdtime s7\n j 1b\n"
    source += "\n.data\n.align 3\nflag: .dword 0"
    whole, split, other = (kernel_machine(source, harts=2, seed=seed) for seed in (1, 1, 2))
    assert whole.digest() == split.digest() != other.digest()
    whole.run(max_steps=60_000)
    for steps in (1, 9_999, 13, 20_000, 29_987):
        split.run(max_steps=steps)
    assert whole.digest() == split.digest()
    split.run(max_steps=1)
    assert whole.digest() != split.digest()


def test_every_attribute_of_a_hart_is_state_or_known_not_to_be() -> None:
    present = {
        name for name, member in vars(Hart).items() if inspect.isgetsetdescriptor(member)
    } - {"__dict__"}
    assert present == {*SCALARS, *VECTORS, *OTHER}


@pytest.mark.oracle
@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed")
@pytest.mark.parametrize("mode", ["program", "kernel"])
@pytest.mark.parametrize("harts", [1, 3])
def test_dtc_reads_the_generated_tree_without_warnings(mode: str, harts: int) -> None:
    make = program_machine if mode == "program" else kernel_machine
    machine = make("j .", harts=harts, append="quiet", devices=("virtio-rng", "virtio-rng"))
    blob = flatten(machine.tree)
    read = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts"], input=blob, capture_output=True, check=True
    )
    assert read.stderr == b""
    assert parse(blob) == machine.tree


def test_the_tree_names_devices_where_the_board_has_them() -> None:
    machine = kernel_machine("j .", devices=("virtio-rng",), append="a=b")
    tree = machine.tree
    soc = tree.find("/soc")
    assert soc is not None
    assert [node.name for node in soc.children] == [
        "interrupt-controller@c000000",
        "serial@10000000",
        "rtc@101000",
        "test@100000",
        "virtio_mmio@10001000",
    ]
    chosen = tree.find("/chosen")
    assert chosen is not None
    assert chosen.text("stdout-path") == "/soc/serial@10000000"
    assert chosen.text("bootargs") == "a=b"


def test_initrd_is_in_ram_and_in_the_tree() -> None:
    config = GuestConfig(kernel="Image", initrd="rd", memory="8M")
    data = bytes(range(256)) * 40
    files = BootFiles(kernel=BootFile("Image", image_bytes()), initrd=BootFile("rd", data))
    machine = Machine(config, files, device_types())
    chosen = machine.tree.find("/chosen")
    assert chosen is not None
    start, end = chosen.number("linux,initrd-start"), chosen.number("linux,initrd-end")
    assert start == 0x80400000 and end == start + len(data)
    assert machine.ram.read(start, len(data)) == data


def test_firmware_gets_the_fw_dynamic_block_and_its_payload() -> None:
    config = GuestConfig(firmware="fw", kernel="payload", memory="8M", harts=2)
    files = BootFiles(
        firmware=BootFile("fw", b"\x6f\0\0\0" * 4), kernel=BootFile("payload", b"\x13\0\0\0")
    )
    machine = Machine(config, files, device_types())
    for number, hart in enumerate(machine.harts):
        assert (hart.pc, hart.priv, hart.x[10]) == (0x80000000, 3, number)
    block = machine.ram.read(machine.harts[0].x[12], 48)
    words = [int.from_bytes(block[i : i + 8], "little") for i in range(0, 48, 8)]
    assert words == [0x4942534F, 2, 0x80200000, 1, 0, 0]
    assert machine.ram.read(0x80200000, 4) == b"\x13\0\0\0"


def test_a_tree_file_replaces_ours_but_keeps_what_the_user_said() -> None:
    blob = flatten(kernel_machine("j .").tree)
    config = GuestConfig(kernel="Image", dtb="b.dtb", append="hello", memory="8M")
    files = BootFiles(kernel=BootFile("Image", image_bytes()), dtb=BootFile("b.dtb", blob))
    chosen = Machine(config, files, device_types()).tree.find("/chosen")
    assert chosen is not None and chosen.text("bootargs") == "hello"


@pytest.mark.parametrize(
    ("files", "memory", "message"),
    [
        (BootFiles(), "8M", "nothing to boot"),
        (BootFiles(kernel=BootFile("Image", image_bytes())), "1M", "Image: needs .* more memory"),
        (
            BootFiles(
                kernel=BootFile("Image", image_bytes()), initrd=BootFile("rd", bytes(6 << 20))
            ),
            "8M",
            "more memory",
        ),
        (BootFiles(kernel=BootFile("x", b"#!/bin/sh")), "8M", "x: .* too few for a Linux Image"),
    ],
)
def test_what_cannot_boot_is_said(files: BootFiles, memory: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Machine(GuestConfig(memory=memory), files, device_types())


def test_unknown_devices_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="did you mean 'virtio-rng'"):
        kernel_machine("j .", devices=("virtio-rgn",))
    with pytest.raises(ConfigError, match="no virtio slot left"):
        kernel_machine("j .", devices=("virtio-rng",) * 9)


def test_boot_files_that_cannot_be_read_are_named(tmp_path: object) -> None:
    for name in ("/nonexistent/Image", str(tmp_path)):
        with pytest.raises(ConfigError, match=name):
            read_boot_files(GuestConfig(kernel=name))
