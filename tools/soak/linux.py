"""Linux guests: one that loads and unloads modules, one that compiles; both are typed a script.

``debian-full`` has modules in its initramfs. No image has a compiler of C: what compiles in
``debian-root`` is its Python, to bytecode, and ``guest_compiler``, to RISC-V code that it runs in pages of
its own; beside them sqlite3, awk and the shell.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Final

from asyncvmm.api import find_image, image_config
from asyncvmm.engine.interpreter import Engine
from asyncvmm.machine import BootFileReader, Machine, read_boot_files
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.blobs import open_file_blob
from tools.soak.work import FAULT, MARK, MakeMachine, Work

GRID_STEPS: Final = 5_000_000
MOST_STEPS: Final = 8_000_000_000
_LOOKS: Final = MOST_STEPS // GRID_STEPS

MODULES_IMAGE: Final = "debian-full"
COMPILER_IMAGE: Final = "debian-root"

# Only a mark that is put together by the guest is one: the terminal echoes what is typed.
_FAULT_SCRIPT: Final = f"bad() {{ printf '{FAULT[:5]}%s\\n' {FAULT[5:]}; }}"
_END_SCRIPT: Final = f"printf '\\n{MARK[:5]}%s\\n' {MARK[5:]}"

_OVERLAY: Final = (
    "mkdir -p /t && mount -t tmpfs t /t && mkdir /t/a /t/b /t/c /t/m && echo $n > /t/a/x"
    " && mount -t overlay -o lowerdir=/t/a,upperdir=/t/b,workdir=/t/c o /t/m"
    " && echo 1 >> /t/m/x && md5sum /t/m/x /t/a/x && umount /t/m && umount /t"
)

FAMILIES: Final[tuple[tuple[tuple[str, ...], str], ...]] = (
    (("squashfs",), "grep squashfs /proc/filesystems"),
    (("overlay",), _OVERLAY),
    (("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"), "true"),
    (("netfs", "9pnet", "9pnet_virtio", "9p"), "grep 9p /proc/filesystems"),
    (("virtio_rng",), "dd if=/dev/hwrng bs=64 count=2 2>/dev/null | md5sum"),
    (("virtio_balloon",), "true"),
    (("crc16", "mbcache", "jbd2", "ext4"), "grep ext4 /proc/filesystems"),
)
"""Modules in the order in which they are loaded, and what is done while they are there."""

_DATABASE: Final = (
    "sqlite3 :memory: 'create table t(a,b); with recursive n(i) as (select {start} union all"
    " select (i*48271)%2147483647 from n limit {rows}) insert into t select i,hex(i) from n;"
    " create index x on t(b); select count(*),sum(a),max(b) from t;'"
)
_AWK: Final = (
    "awk 'BEGIN {{ x = {start}; for (i = 0; i < {rows}; i++) x = (x * 75 + 74) % 65537; print x }}'"
)
_SHELL: Final = (
    "i=0; x={start}; while [ $i -lt {rows} ]; do x=$(((x*31+i)%9973)); i=$((i+1)); done; echo $x"
)


class LinuxWorks:
    """Makes works of Linux images; the files of an image are read once."""

    def __init__(self) -> None:
        self._types = create_plugin_manager().device_types
        self._reader = BootFileReader()

    def modules(self, seed: int, turns: int, harts: int = 1) -> Work:
        """All modules of ``FAMILIES`` are unloaded; then some are loaded, used and unloaded in each turn."""
        random = Random(seed)
        lines = ["cd /lib/modules"]
        for modules, _ in FAMILIES:
            lines += [f"rmmod {name} || bad" for name in reversed(modules)]
        for turn in range(turns):
            lines.append(f"n={turn}")
            wanted = random.sample(FAMILIES, random.randrange(2, 5))
            for modules, use in wanted:
                lines += [f"insmod ./{name}.ko || bad" for name in modules]
                lines.append(f"{use} || bad")
            random.shuffle(wanted)
            for modules, _ in wanted:
                lines += [f"rmmod {name} || bad" for name in reversed(modules)]
        lines += ["cat /proc/modules", "dmesg | tail -5"]
        make = self._make(MODULES_IMAGE, seed, harts)
        return Work("modules", make, GRID_STEPS, _LOOKS, _session(lines, "sh"), 40)

    def compiler(self, seed: int, turns: int, rows: int, harts: int = 1) -> Work:
        """``turns`` functions are compiled and run; other interpreters do as much as ``rows`` says."""
        random = Random(seed)
        text = Path(__file__).with_name("guest_compiler.py").read_text(encoding="ascii")
        start = random.randrange(1, 1 << 16)
        programs = [
            f"python3 /tmp/c.py {seed} {turns} || bad",
            _DATABASE.format(start=start, rows=rows) + " || bad",
            _AWK.format(start=start, rows=rows * 10),
            _SHELL.format(start=start, rows=rows),
        ]
        random.shuffle(programs)
        if harts > 1:
            programs = [f"( {program}; ) &" for program in programs] + ["wait"]
        lines = ["cat > /tmp/c.py << 'EOP'", text, "EOP", *programs]
        make = self._make(COMPILER_IMAGE, seed, harts)
        return Work("compiler", make, GRID_STEPS, _LOOKS, _session(lines, "bash"), 20)

    def _make(self, image: str, seed: int, harts: int) -> MakeMachine:
        config = image_config(find_image(image), seed=seed, harts=harts)
        files = read_boot_files(config, self._reader)

        def make(engine: Engine) -> Machine:
            return Machine(config, files, self._types, engine=engine, open_blob=open_file_blob)

        return make


def _session(lines: list[str], shell: str) -> bytes:
    """What is typed: the script goes to a file first."""
    script = "\n".join([_FAULT_SCRIPT, *lines])
    return f"cat > /tmp/s << 'EOS'\n{script}\nEOS\n{shell} /tmp/s; {_END_SCRIPT}\n".encode()


def missing_images() -> list[str]:
    """Which of the images have not been pulled."""
    cache = ImageCache()
    names = (MODULES_IMAGE, COMPILER_IMAGE)
    return [name for name in names if not find_image(name).is_present(cache)]
