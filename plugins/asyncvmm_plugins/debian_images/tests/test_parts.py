"""The small readers: modules, busybox, ELF, trees, kernel images and configurations."""

from __future__ import annotations

import contextlib
import lzma
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.plugin.images import BuildError, MissingToolError
from asyncvmm_plugins.debian_images import busybox, cpio, elf, initramfs, modules, small_linux
from asyncvmm_plugins.debian_images.installer import check_kernel
from asyncvmm_plugins.debian_images.tree import Tree


def module(*needs: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def signed(data: bytes, length: int) -> bytes:
    return data + bytes(length) + bytes(8) + struct.pack(">I", length) + modules.SIGNATURE_MAGIC


@given(st.binary(max_size=100), st.integers(1, 200))
def test_an_appended_signature_is_dropped(data: bytes, length: int) -> None:
    assert modules.without_signature(signed(data, length)) == data


@given(st.binary(max_size=100))
def test_what_has_no_honest_signature_stays(data: bytes) -> None:
    lying = data + bytes(8) + struct.pack(">I", 1 << 30) + modules.SIGNATURE_MAGIC
    assert modules.without_signature(lying) == lying
    assert modules.without_signature(modules.SIGNATURE_MAGIC) == modules.SIGNATURE_MAGIC


def test_module_names_and_compression() -> None:
    assert modules.module_name("a/b/virtio-rng.ko.xz") == "virtio_rng"
    assert modules.is_module("x.ko") and not modules.is_module("x.kobold")
    assert modules.decompress("x.ko.xz", lzma.compress(b"m")) == b"m"
    with pytest.raises(BuildError, match=r"x\.ko\.xz"):
        modules.decompress("x.ko.xz", b"junk")
    with pytest.raises(BuildError, match="not handled"):
        modules.decompress("x.ko.zst", b"")


def test_modules_load_after_what_they_need_even_in_circles() -> None:
    available = {
        "net": module("failover", "base"),
        "failover": module("base"),
        "base": module(),
        "loop_a": module("loop_b"),
        "loop_b": module("loop_a"),
    }
    assert modules.in_load_order(["net", "absent", "base"], available) == [
        "base",
        "failover",
        "net",
    ]
    assert set(modules.in_load_order(["loop_a"], available)) == {"loop_a", "loop_b"}


def test_module_entries_tell_init_the_order() -> None:
    entries = initramfs.module_entries(["b"], {"a": module(), "b": module("a")})
    listing = entries[-1]
    assert listing.name == "lib/modules/asyncvmm.order"
    assert listing.data == b"/lib/modules/a.ko /lib/modules/b.ko\n"


def test_applets_are_read_from_the_binary() -> None:
    table = b"junk[\0[[\0ash\0cat\0sh\0"
    assert busybox.applets(b"\x7fELF [[\0 " + table + b"\0more") == ["[", "[[", "ash", "cat", "sh"]
    for bad in (b"", table[:-1], b"[\0[[\0zcat\0ash\0sh\0\0", b"[\0[[\0ash\0\0"):
        with pytest.raises(BuildError, match="busybox"):
            busybox.applets(bad)


def test_busybox_is_not_a_link_to_itself() -> None:
    binary = b"[\0[[\0ash\0busybox\0sh\0\0"
    box = [entry for entry in initramfs.busybox_entries(binary) if entry.name == "bin/busybox"]
    assert [entry.is_file for entry in box] == [True]


def dynamic_program() -> bytes:
    strings = b"\0libc.so.6\0libm.so.6\0"
    interpreter = b"/lib/ld.so\0"
    at = 64 + 3 * 56
    dynamic_at = at + len(strings) + len(interpreter)
    dynamic = struct.pack("<QQQQQQQQ", 1, 1, 1, 11, 5, 0x1000 + at, 0, 0)
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 243, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0
    )
    total = dynamic_at + len(dynamic)
    head += struct.pack("<IIQQQQQQ", 1, 5, 0, 0x1000, 0, total, total, 1)
    head += struct.pack("<IIQQQQQQ", 3, 4, at + len(strings), 0, 0, len(interpreter), 0, 1)
    head += struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, 0, 0, len(dynamic), 0, 1)
    return head + strings + interpreter + dynamic


def test_a_programs_loader_and_libraries() -> None:
    assert elf.needed_libraries(dynamic_program()) == ("/lib/ld.so", ["libc.so.6", "libm.so.6"])
    assert elf.needed_libraries(elf.static_program(b"code", 0x10000, 0x20000, 64)) == ("", [])


@given(st.integers(0, 1 << 30))
def test_a_damaged_program_is_read_or_refused(seed: int) -> None:
    binary = bytearray(dynamic_program())
    source = random.Random(seed)
    for _ in range(4):
        binary[source.randrange(len(binary))] = source.randrange(256)
    with contextlib.suppress(BuildError):
        elf.needed_libraries(bytes(binary[: source.randrange(len(binary))]))


def test_programs_are_packed_with_their_libraries_through_links() -> None:
    library = elf.static_program(b"", 0x1000, 0x2000, 8)
    tree = Tree(
        [
            cpio.symlink("lib", "usr/lib"),
            cpio.file("usr/lib/ld-1.so", library),
            cpio.symlink("usr/lib/ld.so", "ld-1.so"),
            cpio.symlink("usr/lib/libc.so.6", "/usr/lib/deep/libc-2.so"),
            cpio.file("usr/lib/deep/libc-2.so", library),
            cpio.symlink("usr/lib/riscv64-linux-gnu/libm.so.6", "../deep/../deep/libc-2.so"),
            cpio.directory("usr/lib/riscv64-linux-gnu"),
            cpio.directory("usr/lib/deep"),
            cpio.directory("usr"),
            cpio.directory("usr/lib"),
        ]
    )
    entries = initramfs.program_entries(tree, {"bin/x": dynamic_program()})
    assert sorted(e.name for e in entries) == [
        "bin/x",
        "lib/ld.so",
        "lib/libc.so.6",
        "lib/libm.so.6",
    ]


def test_links_in_a_circle_lead_nowhere() -> None:
    tree = Tree([cpio.symlink("a", "b"), cpio.symlink("b", "/a"), cpio.symlink("c", "../..")])
    assert tree.find("a") is None and tree.find("c") is None and tree.find("nope") is None
    with pytest.raises(BuildError, match="no a or nope"):
        tree.read("a", "nope")


def test_only_a_plain_kernel_image_is_taken() -> None:
    good = bytes(0x38) + b"RSC\x05" + bytes(8)
    assert check_kernel(good, "x") == good
    for bad in (b"", b"MZ" + bytes(100), b"\x1f\x8b" + bytes(100)):
        with pytest.raises(BuildError, match="kernel of x"):
            check_kernel(bad, "x")


def test_a_lost_option_is_named() -> None:
    small_linux.check_config("CONFIG_A=y\nCONFIG_B=n\n", "CONFIG_A=y\n# CONFIG_B is not set\n")
    with pytest.raises(BuildError, match=r"CONFIG_A=y \(is n\), CONFIG_N=8 \(is 2\)"):
        small_linux.check_config("CONFIG_A=y\nCONFIG_N=8\n", "CONFIG_N=2\n")


def test_the_shipped_configuration_has_what_the_board_needs() -> None:
    options = small_linux.parse_config(small_linux.config_fragment())
    for name in ("SMP", "VIRTIO_MMIO", "VIRTIO_BLK", "EXT4_FS", "RISCV_ISA_FALLBACK", "OVERLAY_FS"):
        assert options[f"CONFIG_{name}"] == "y"


def test_missing_tools_come_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingToolError, match=r"apt-get install .*bison .*gcc-riscv64-linux-gnu"):
        small_linux.require_tools()
