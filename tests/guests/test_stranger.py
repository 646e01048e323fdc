"""The stranger's path: a plugin's register is read, and its interrupt taken, inside a guest."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from asyncvmm.api import find_image, image_config, open_host
from asyncvmm.cli.new_device import write_project
from asyncvmm.plugin import DeviceType, create_plugin_manager
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.testing import assemble, to_elf
from asyncvmm.testing.bare_metal import run_bare_metal
from asyncvmm_plugins.debian_images import small_linux
from asyncvmm_plugins.test_finisher import hooks as test_finisher
from tests.guests.conftest import require_recipe

# Sets the alarm to 20.005 degrees, sleeps, and says by its exit code what the trap handler saw.
ALARM = """
_start:
    la   t0, trap
    csrw mtvec, t0
    li   t0, 1
    li   t1, 0x0c000080         # PLIC: priority of source 32
    sw   t0, 0(t1)
    li   t1, 0x0c002004         # enabled for hart 0 in M-mode
    sw   t0, 0(t1)
    li   t0, 0x800
    csrw mie, t0
    csrsi mstatus, 8
    li   s0, 0x10100000
    lw   s1, 0(s0)              # temperature now
    li   t0, 20005
    sw   t0, 4(s0)              # limit
1:  wfi
    j    1b
.balign 4
trap:
    csrr s2, mcause
    li   t1, 0x0c200004
    lw   s3, 0(t1)              # claim: 32
    lw   s4, 0(s0)              # temperature: 20005
    li   t0, 1
    sw   t0, 8(s0)              # acknowledge
    sw   s3, 0(t1)              # complete
    lw   s5, 12(s0)             # count: 1
    csrr s6, mip                # nothing pending any more
    li   t0, 20000
    sub  s1, s1, t0             # 0
    sub  s4, s4, t0             # 5
    add  a0, s1, s3
    add  a0, a0, s4
    add  a0, a0, s5
    srli s6, s6, 11
    andi s6, s6, 1
    slli s6, s6, 6
    add  a0, a0, s6             # 0 + 32 + 5 + 1 + 0
    slli a0, a0, 16
    li   t0, 0x3333
    or   a0, a0, t0
    li   t1, 0x00100000
    sw   a0, 0(t1)
2:  j    2b
"""


def types() -> dict[str, DeviceType]:
    thermometer: DeviceType = import_module("asyncvmm_example_thermometer.hooks").THERMOMETER
    (finisher,) = test_finisher.asyncvmm_device_types()
    return {kind.name: kind for kind in (thermometer, finisher)}


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
def test_a_bare_metal_program_takes_the_thermometers_alarm(tmp_path: Path, engine: str) -> None:
    elf = tmp_path / "alarm.elf"
    elf.write_bytes(to_elf(assemble(ALARM, 0x80000000)))
    devices = ("example-thermometer",)
    result = run_bare_metal(elf, types=types(), devices=devices, engine=engine)
    assert result.code == 38


PEEK = """
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
  unsigned long at = strtoul(argv[1], 0, 0);
  int fd = open("/dev/mem", O_RDWR | O_SYNC);
  volatile unsigned *p = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at & ~4095UL);
  if (fd < 0 || p == MAP_FAILED) { perror("/dev/mem"); return 1; }
  if (argc > 2) p[(at & 4095) / 4] = strtoul(argv[2], 0, 0);
  printf("%u\\n", p[(at & 4095) / 4]);
  return 0;
}
"""
READ = """
mkdir -p /tmp; cat >/tmp/p; chmod +x /tmp/p
tr '\\0' '\\n' < /proc/device-tree/soc/thermometer@10100000/compatible
/tmp/p 0x10100000; /tmp/p 0x1010000c; /tmp/p 0x10100004 1; /tmp/p 0x1010000c; /tmp/p 0x10100008
"""


@pytest.mark.guest
async def test_a_program_in_debian_reads_the_thermometer(tmp_path: Path) -> None:
    compiler = shutil.which("riscv64-linux-gnu-gcc")
    if compiler is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    source, program = tmp_path / "peek.c", tmp_path / "peek"
    source.write_text(PEEK)
    subprocess.run([compiler, "-static", "-Os", "-s", "-o", program, source], check=True)
    image, cache = find_image("debian"), ImageCache()
    if not image.is_present(cache):
        image.pull(cache, SilentProgress())
    plugins = create_plugin_manager()
    if "example-thermometer" not in plugins.device_types:  # unless it is installed
        plugins.register(import_module("asyncvmm_example_thermometer.hooks"), "example-thermometer")
    config = image_config(image, cache, commands=True, devices=("example-thermometer,start=25",))
    async with open_host(plugins=plugins) as host:
        guest = await host.start(config)
        done = await guest.run(["sh", "-c", READ], stdin=program.read_bytes(), check=True)
        compatible, temperature, before, _, count, alarm = done.stdout.decode().split()
        now = guest.now_ns
    assert compatible == "asyncvmm,example-thermometer"
    assert 25_000 < int(temperature) <= 25_000 + now // 1_000_000
    assert (before, count, alarm) == ("0", "1", "1")


PAGE = Path(__file__).resolve().parents[2] / "specs" / "devices.md"


def block(name: str) -> str:
    """A block of the tutorial."""
    found = re.search(rf"^```\w+ {name}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert found is not None, name
    return found[1]


@pytest.mark.guest
async def test_the_tutorial_from_nothing_to_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_recipe("linux", small_linux.RECIPE)
    project = tmp_path / "thermometer"
    write_project("thermometer", project)
    for line in block("project").splitlines()[2:]:
        subprocess.run(line, shell=True, cwd=project, check=True)
    hooks = project / "src" / "thermometer" / "hooks.py"
    hooks.write_text(block("thermometer"))
    (project / "tests" / "test_thermometer.py").write_text(
        block("thermometer-import") + block("thermometer-test")
    )
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(tests, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    monkeypatch.syspath_prepend(str(project / "src"))
    plugins = create_plugin_manager()
    plugins.register(import_module("thermometer.hooks"), "thermometer")
    words = block("start").split()
    device = words[words.index("--device") + 1]
    append = words[words.index("--append") + 1]
    config = image_config(
        find_image("linux"), ImageCache(), commands=True, devices=(device,), append=append
    )
    said: dict[str, str] = {}
    async with open_host(plugins=plugins) as host:
        guest = await host.start(config)
        for line in block("guest").splitlines():
            command = line.split("  #")[0].strip()
            done_there = await guest.run(["sh", "-c", command], check=True)
            said.setdefault(command, done_there.stdout.decode().strip())
            if command == "devmem 0x1010000c" and command in said:
                said["alarm at last"] = done_there.stdout.decode().strip()
        interrupts = await guest.run(["cat", "/proc/interrupts"], check=True)
        widths = "for w in 8 16 32 64; do devmem 0x10100004 $w || devmem 0x10100000 $w; done"
        script = f"devmem 0x10100004 16 0x3456; devmem 0x10100006 8 18; {widths} 2>/dev/null"
        narrow = await guest.run(["sh", "-c", script], check=True)
        now_ms = guest.now_ns // 1_000_000
    assert said["cat /sys/class/uio/uio0/name"] == "thermometer@10100000"
    assert 30_000 < int(said["devmem 0x10100000"], 16) < 30_000 + now_ms
    assert said["cat /sys/class/uio/uio0/event"] == "1"
    assert said["devmem 0x1010000c"] == "0x00000001"
    assert said["alarm at last"] == "0x00000000"
    *three, double = narrow.stdout.decode().split()
    assert three == ["0x56", "0x3456", "0x00123456"]
    assert len(double) == 18 and double[:10] == "0x00123456"
    # A second one may be counted: the driver turns a level off that is still high when it returns.
    (taken,) = [line for line in interrupts.stdout.decode().splitlines() if "thermometer" in line]
    assert re.search(r":\s+[12]\s+.* 32 ", taken), taken
