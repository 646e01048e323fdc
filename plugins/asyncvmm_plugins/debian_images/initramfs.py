"""The small initramfs of our guests: busybox, the run agent, modules and ``init.sh``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Final

from asyncvmm_plugins.debian_images import busybox, cpio
from asyncvmm_plugins.debian_images.agent import agent_program
from asyncvmm_plugins.debian_images.elf import needed_libraries
from asyncvmm_plugins.debian_images.modules import in_load_order
from asyncvmm_plugins.debian_images.tree import Tree

AGENT_PATH: Final = "sbin/asyncvmm-agent"
NETWORK_PATH: Final = "sbin/asyncvmm-network"
LIBRARY_DIRECTORY: Final = "lib"

FSTAB: Final = """\
proc /proc proc defaults 0 0
sysfs /sys sysfs defaults 0 0
devpts /dev/pts devpts gid=5,mode=620 0 0
tmpfs /run tmpfs mode=755 0 0
"""
PROFILE: Final = """\
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
"""


def base_entries() -> list[cpio.Entry]:
    """What does not depend on where the rest comes from: directories, settings, init and the agent."""
    directories = ("proc", "sys", "dev", "tmp", "run", "root", "mnt", "etc", "bin", "sbin", "usr")
    return [
        *(cpio.directory(name) for name in directories),
        cpio.symlink("usr/bin", "../bin"),
        cpio.symlink("usr/sbin", "../sbin"),
        cpio.char_device("dev/console", 5, 1),
        cpio.char_device("dev/null", 1, 3, 0o666),
        cpio.file("init", init_script(), 0o755),
        cpio.file(AGENT_PATH, agent_program(), 0o755),
        cpio.file(NETWORK_PATH, network_script(), 0o755),
        cpio.file("etc/fstab", FSTAB.encode()),
        cpio.file("etc/profile", PROFILE.encode()),
        cpio.file("etc/passwd", b"root::0:0:root:/root:/bin/sh\n"),
        cpio.file("etc/group", b"root:x:0:\ntty:x:5:\n"),
        cpio.symlink("etc/inittab", "/run/inittab"),
        cpio.symlink("etc/mtab", "/proc/mounts"),
    ]


def busybox_entries(binary: bytes) -> list[cpio.Entry]:
    """The busybox program and a link for each of its applets."""
    links = [
        cpio.symlink(f"bin/{name}", "busybox")
        for name in busybox.applets(binary)
        if name != "busybox" and "/" not in name
    ]
    return [
        cpio.file("bin/busybox", binary, 0o755),
        *links,
        cpio.symlink("sbin/init", "../bin/busybox"),
    ]


def program_entries(tree: Tree, programs: Mapping[str, bytes]) -> list[cpio.Entry]:
    """Programs (path in the initramfs to contents) with the loader and libraries that they need."""
    entries = {path: cpio.file(path, binary, 0o755) for path, binary in programs.items()}
    todo = list(programs.values())
    while todo:
        interpreter, libraries = needed_libraries(todo.pop())
        wanted = {f"{LIBRARY_DIRECTORY}/{name}": name for name in libraries}
        if interpreter:
            wanted[interpreter.lstrip("/")] = interpreter.rsplit("/", 1)[-1]
        for path, name in wanted.items():
            if path not in entries:
                library = tree.find_library(name)
                entries[path] = cpio.file(path, library, 0o755)
                todo.append(library)
    return list(entries.values())


def module_entries(wanted: Sequence[str], available: Mapping[str, bytes]) -> list[cpio.Entry]:
    """The modules ``wanted`` as far as they are ``available`` (name to plain module), with those they
    need, and the file that tells init in which order to load them."""
    order = in_load_order(wanted, available)
    paths = {name: f"lib/modules/{name}.ko" for name in order}
    listing = " ".join(f"/{paths[name]}" for name in order) + "\n"
    files = [cpio.file(paths[name], available[name]) for name in order]
    return [*files, cpio.file("lib/modules/asyncvmm.order", listing.encode())]


def init_script() -> bytes:
    """The text of ``init.sh``."""
    return resources.files(__package__).joinpath("init.sh").read_bytes()


def network_script() -> bytes:
    """The text of ``network.sh``: what udhcpc does with a lease."""
    return resources.files(__package__).joinpath("network.sh").read_bytes()


def pack(entries: Sequence[cpio.Entry]) -> bytes:
    """The initramfs: an uncompressed archive, because the guest pays 21 instructions a byte to gunzip."""
    return cpio.write(cpio.with_parents(entries))
