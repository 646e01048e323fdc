"""Debian's OpenSBI and U-Boot, when their packages are installed, up to U-Boot's prompt."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.machine import RAN_STOP, GuestConfig, Machine, read_boot_files
from tests.unit.machine.guest_machines import device_types

OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")
UBOOT = Path("/usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin")

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(
        not (OPENSBI.exists() and UBOOT.exists()),
        reason="the Debian packages opensbi and u-boot-qemu are not installed",
    ),
]


def expect(machine: Machine, text: bytes, max_steps: int) -> bytes:
    """Run until the console shows ``text``; what it showed."""
    output = b""
    while text not in output:
        assert max_steps > 0, output[-500:].decode(errors="replace")
        if machine.run(max_steps=1_000_000) == RAN_STOP:
            break
        max_steps -= 1_000_000
        output += machine.console.take_output()
    return output + machine.console.take_output()


@pytest.mark.parametrize("firmware", ["fw_dynamic.bin", "fw_jump.elf"])
@pytest.mark.parametrize("harts", [1, 3])
def test_u_boot_under_opensbi_takes_commands_and_powers_off(firmware: str, harts: int) -> None:
    config = GuestConfig(firmware=OPENSBI / firmware, kernel=UBOOT, harts=harts)
    machine = Machine(config, read_boot_files(config), device_types())
    shown = expect(machine, b"Hit any key", 150_000_000)
    assert f"Platform HART Count       : {harts}".encode() in shown
    assert b"Platform Timer Device     : aclint-mtimer @ 10000000Hz" in shown
    machine.console.push(b"\n")
    expect(machine, b"=> ", 100_000_000)
    machine.console.push(b"echo 6 times 7 is $? ; sbi\n")
    shown = expect(machine, b"RFENCE", 100_000_000)
    assert b"6 times 7 is 0" in shown
    machine.console.push(b"poweroff\n")
    expect(machine, b"\0never", 500_000_000)
    assert machine.ending is not None and machine.ending.kind == "poweroff"
