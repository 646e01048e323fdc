"""Linux guests: one that loads and unloads modules, one that compiles; both are typed a script.

``debian-full`` has modules in its initramfs. No image has a compiler of C: what compiles in ``debian-root``
is its Python, to bytecode, and a small compiler written in Python, to RISC-V code that it runs in pages
of its own (mmap, FENCE.I by the kernel, written over, unmapped and mapped again); beside them sqlite3,
awk and the shell.
"""

from __future__ import annotations

from random import Random
from typing import Final

from asyncvmm.api import find_image, image_config
from asyncvmm.engine.interpreter import Engine
from asyncvmm.machine import BootFileReader, Machine, read_boot_files
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.plugin.images import default_cache_root
from asyncvmm.runtime.blobs import open_file_blob
from tools.soak.work import MARK, MakeMachine, Work

GRID_STEPS: Final = 5_000_000
MOST_STEPS: Final = 6_000_000_000

FAMILIES: Final = (
    (("squashfs",), ""),
    (
        ("overlay",),
        "mkdir -p /t && mount -t tmpfs t /t && mkdir /t/a /t/b /t/c /t/m && echo $n > /t/a/x &&"
        " mount -t overlay -o lowerdir=/t/a,upperdir=/t/b,workdir=/t/c o /t/m && echo 1 >> /t/m/x &&"
        " md5sum /t/m/x /t/a/x && umount /t/m && umount /t",
    ),
    (("vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport"), ""),
    (("netfs", "9pnet", "9pnet_virtio", "9p"), ""),
    (("virtio_rng",), "dd if=/dev/hwrng bs=64 count=2 2>/dev/null | md5sum"),
    (("virtio_balloon",), ""),
    (("crc16", "mbcache", "jbd2", "ext4"), "grep ext4 /proc/filesystems"),
)
"""Modules in the order in which they are loaded, and what is done while they are there."""

BAD: Final = "bad() { printf 'SOAK-%s\\n' BAD; }"

COMPILER: Final = """
import ctypes, mmap, random, zlib
R = random.Random({seed})
flush = ctypes.CDLL(None).__riscv_flush_icache
flush.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
OPS = dict([('+', 0x33), ('-', 0x40000033), ('^', 0x4033), ('|', 0x6033), ('&', 0x7033), ('*', 0x2000033)])
TEMPS = [5, 6, 7, 28, 29, 30, 31, 13, 14, 15, 16, 17]
M = (1 << 64) - 1
def tree(depth):
    if depth == 0 or R.random() < 0.1:
        return R.choice(['a', 'b', R.randrange(-2048, 2048)])
    return (R.choice('+-^|&*'), tree(depth - 1), tree(depth - 1))
def source(t):
    return str(t) if not isinstance(t, tuple) else '(%s%s%s)' % (source(t[1]), t[0], source(t[2]))
def lower(t, k, out):
    if t == 'a' or t == 'b':
        return 10 if t == 'a' else 11
    d = TEMPS[k]
    if isinstance(t, int):
        out.append((t & 4095) << 20 | d << 7 | 0x13)
        return d
    x = lower(t[1], k, out)
    y = lower(t[2], k + 1, out)
    out.append(OPS[t[0]] | y << 20 | x << 15 | d << 7)
    return d
def code(t):
    out = []
    r = lower(t, 0, out)
    out.append(r << 15 | 10 << 7 | 0x13)
    out.append(0xfff60613)
    n = -4 * len(out) & 0x1fff
    out.append((n >> 12) << 31 | (n >> 5 & 63) << 25 | 12 << 15 | 1 << 12 | (n >> 1 & 15) << 8 | (n >> 11 & 1) << 7 | 0x63)
    out.append(0x8067)
    return b''.join(w.to_bytes(4, 'little') for w in out)
call = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
total = 0
pages = []
for turn in range({turns}):
    if len(pages) < 4 or R.random() < 0.2:
        if len(pages) >= 4:
            pages.pop(R.randrange(4)).close()
        pages.append(mmap.mmap(-1, 8192, prot=7))
    page = R.choice(pages)
    t = tree(R.randrange(2, 7))
    words = code(t)
    at = 4 * R.randrange((8192 - len(words)) // 4)
    page[at:at + len(words)] = words
    view = ctypes.c_char.from_buffer(page)
    start = ctypes.addressof(view) + at
    del view
    flush(start, start + len(words), 0)
    scope = dict()
    exec(compile('def f(a, b, n):\\n while n:\\n  a = %s & %d\\n  n -= 1\\n return a\\n' % (source(t), M), 'made', 'exec'), scope)
    a, b = R.getrandbits(64), R.getrandbits(64)
    if call(start)(a, b, 20) != scope['f'](a, b, 20):
        print('SOAK-' + 'BAD', source(t), a, b)
    total = zlib.crc32(b'%d' % call(start)(a, b, R.choice([50, 2000, 60000])), total)
print('compiled', total)
"""

DATABASE: Final = (
    "sqlite3 :memory: 'create table t(a,b); with recursive n(i) as (select {seed} union all select"
    " (i*48271)%2147483647 from n limit {rows}) insert into t select i,hex(i) from n; create index x on"
    " t(b); select count(*),sum(a),max(b) from t;'"
)


class LinuxWorks:
    """Makes works of Linux images; what is read of an image is read once."""

    def __init__(self) -> None:
        self._types = create_plugin_manager().device_types
        self._reader = BootFileReader()

    def modules(self, seed: int, turns: int) -> Work:
        """Load, use and unload modules."""
        random = Random(seed)
        lines = [BAD, "cd /lib/modules"]
        for modules, _ in FAMILIES:
            lines += [f"rmmod {name} || bad" for name in reversed(modules)]
        for turn in range(turns):
            lines.append(f"n={turn}")
            wanted = random.sample(FAMILIES, random.randrange(2, 5))
            for modules, use in wanted:
                lines += [f"insmod ./{name}.ko || bad" for name in modules]
                if use:
                    lines.append(f"{use} || bad")
            random.shuffle(wanted)
            for modules, _ in wanted:
                lines += [f"rmmod {name} || bad" for name in reversed(modules)]
        lines += ["cat /proc/modules", "dmesg | tail -5"]
        # The image's own devices: the random generator and, for the module's sake, a balloon.
        session = _session("\n".join(lines), "sh")
        return Work("modules", self._make("debian-full", seed), GRID_STEPS, _LOOKS, session, 40)

    def compiler(self, seed: int, turns: int, rows: int) -> Work:
        """Compile, run what was compiled, and other work for interpreters."""
        random = Random(seed)
        text = COMPILER.replace("{seed}", str(seed)).replace("{turns}", str(turns))
        database = DATABASE.format(seed=random.randrange(1, 1 << 30), rows=rows)
        awk = (
            f"awk 'BEGIN {{ x = {seed % 65536}; for (i = 0; i < {rows * 10}; i++) x = (x * 75 + 74) %"
            " 65537; print x }'"
        )
        shell = f"i=0; x={seed % 9973}; while [ $i -lt {rows} ]; do x=$(((x*31+i)%9973)); i=$((i+1)); done"
        lines = [BAD, "cat > /tmp/c.py <<'EOP'", text, "EOP"]
        rest = [
            "python3 /tmp/c.py || bad",
            f"{database} || bad",
            awk,
            f"{shell}; echo $x",
        ]
        random.shuffle(rest)
        session = _session("\n".join(lines + rest), "bash")
        return Work("compiler", self._make("debian-root", seed), GRID_STEPS, _LOOKS, session, 20)

    def _make(self, image: str, seed: int) -> MakeMachine:
        config = image_config(find_image(image), seed=seed)
        files = read_boot_files(config, self._reader)

        def make(engine: Engine) -> Machine:
            return Machine(config, files, self._types, engine=engine, open_blob=open_file_blob)

        return make


_LOOKS: Final = MOST_STEPS // GRID_STEPS


def _session(script: str, shell: str) -> bytes:
    """What is typed: the script goes to a file first, so that the terminal's echo ends early."""
    half = MARK[: len(MARK) // 2]
    return (
        f"stty -echo; cat > /tmp/s <<'EOS'\n{script}\nEOS\n"
        f"stty echo; {shell} /tmp/s; printf '\\n{half}''{MARK[len(half) :]}\\n'\n"
    ).encode()


def missing_images() -> list[str]:
    """Which of the images have not been pulled."""
    root = default_cache_root()
    return [name for name in ("debian-full", "debian-root") if not (root / name).is_dir()]
