"""Putting a guest's software into its RAM and its harts at the entry."""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs

from asyncvmm.arch.hart import MACHINE, STOPPED, Hart
from asyncvmm.arch.mmu import flush_all
from asyncvmm.arch.pmp import write_address, write_config
from asyncvmm.arch.status import ADUE, SUPERVISOR_INTERRUPTS
from asyncvmm.base.bits import to_signed
from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MIB, PAGE_SIZE
from asyncvmm.fdt import Node, Tree, cells64, flatten, parse
from asyncvmm.firmware.elf import Elf, is_elf, parse_elf
from asyncvmm.firmware.image import is_image, parse_image, unpack
from asyncvmm.firmware.sbi import Sbi
from asyncvmm.machine.files import BootFile, BootFiles
from asyncvmm.memory.pages import Ram

PAYLOAD_OFFSET = 2 * MIB  # where firmware expects what it starts
TREE_ALIGN = 2 * MIB
INITRD_ALIGN = 2 * MIB
TREE_SPARE = 16 * 1024  # for what firmware adds to the tree
TREE_BELOW = 3 << 30  # 32-bit-minded firmware wants the tree in the first 3 GiB of RAM
FW_DYNAMIC_MAGIC = 0x4942534F
FW_DYNAMIC_VERSION = 2
FW_NEXT_SUPERVISOR = 1

# What OpenSBI delegates or redirects to S-mode: every exception but ECALLs from S and M.
DELEGATED_EXCEPTIONS = 0xB1FF
ALL_COUNTERS = 7
PMP_NAPOT_RWX = 0x1F
PMP_EVERYTHING = (1 << 54) - 1


@attrs.frozen
class Span:
    """Bytes ``start`` to ``end`` (exclusive) of RAM that hold ``what``."""

    start: int
    end: int
    what: str


class Loader:
    """Fills RAM and refuses what does not fit or would overlap."""

    def __init__(self, ram: Ram) -> None:
        self.ram = ram
        self.spans: list[Span] = []

    @property
    def end(self) -> int:
        """The address after RAM."""
        return int(self.ram.base + self.ram.size)

    def put(self, address: int, data: bytes, size_bytes: int, what: str) -> Span:
        """Load ``data`` at ``address`` and keep ``size_bytes`` (>= its length) for it."""
        base = int(self.ram.base)
        if address < base or address + size_bytes > self.end:
            raise ConfigError(
                f"{what}: needs {size_bytes} bytes at {address:#x}, but RAM is {base:#x} to "
                f"{self.end:#x}: give the guest more memory"
            )
        span = Span(address, address + size_bytes, what)
        for other in self.spans:
            if span.start < other.end and other.start < span.end:
                raise ConfigError(
                    f"{what} at {span.start:#x}-{span.end:#x} overlaps {other.what} at "
                    f"{other.start:#x}-{other.end:#x}: give the guest more memory"
                )
        self.ram.write(address, data)
        self.spans.append(span)
        return span

    def put_elf(self, elf: Elf, what: str) -> None:
        """Load every segment of a program."""
        base = int(self.ram.base)
        for segment in elf.segments:
            address, size = segment.address, segment.size_bytes
            if address < base or address + size > self.end:
                raise ConfigError(
                    f"{what}: a segment at {address:#x} ({size} bytes) is outside RAM, which is "
                    f"{base:#x} to {self.end:#x}"
                )
            self.put(address, segment.data, size, what)


@attrs.frozen
class Boot:
    """What was loaded. ``start`` puts the harts at their entries, once or after each reset."""

    start: Callable[[list[Hart]], None]
    tree: Tree
    tree_address: int
    symbols: dict[str, int]


def load(
    files: BootFiles,
    ram: Ram,
    sbi: Sbi | None,
    make_tree: Callable[[tuple[int, int] | None], Tree],
    append: str,
    flash: int | None = None,
) -> Boot:
    """Load everything; ``sbi`` is given when the host is the firmware, ``flash`` when there is memory
    with a program besides RAM: it is what is started without a kernel.

    ``make_tree`` gets the initrd's place. A device tree file replaces the tree that it makes, with
    ``append`` and the initrd written to its ``chosen`` node.
    """
    loader = Loader(ram)
    entry, payload, symbols = _programs(files, loader, sbi is not None, flash)
    initrd = None
    if files.initrd is not None:
        above = max(span.end for span in loader.spans)
        # Linux reserves its own image up to the next 2 MiB boundary.
        start = (above + INITRD_ALIGN - 1) // INITRD_ALIGN * INITRD_ALIGN
        data = files.initrd.data
        span = loader.put(start, data, len(data), files.initrd.name)
        initrd = (span.start, span.end)
    if files.dtb is None:
        tree = make_tree(initrd)
    else:
        tree = parse(files.dtb.data, files.dtb.name)
        _choose(tree, append, initrd)
    at_tree = _put_tree(tree, loader)
    if sbi is not None:
        return Boot(lambda harts: _start_supervisor(sbi, harts, entry, at_tree), tree, at_tree, {})
    dynamic = 0
    if files.firmware is not None:
        dynamic = at_tree - PAGE_SIZE
        block = struct.pack(
            "<6Q", FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, payload, FW_NEXT_SUPERVISOR, 0, 0
        )
        loader.put(dynamic, block, PAGE_SIZE, "the firmware's parameters")
    return Boot(
        lambda harts: _start_machine(harts, entry, at_tree, dynamic), tree, at_tree, symbols
    )


def _programs(
    files: BootFiles, loader: Loader, linux_only: bool, flash: int | None
) -> tuple[int, int, dict[str, int]]:
    """Load firmware, kernel or program: (entry, where the firmware's payload is, symbols)."""
    base = int(loader.ram.base)
    payload = base + PAYLOAD_OFFSET if flash is None else flash
    if files.elf is not None:
        elf = parse_elf(files.elf.data, files.elf.name)
        loader.put_elf(elf, files.elf.name)
        return elf.entry, payload, elf.symbols
    if linux_only:
        if files.kernel is None:
            if flash is None:
                raise ConfigError("nothing to boot: give a kernel, a firmware, an elf or a flash")
            return flash, payload, {}
        return _put_image(files.kernel, loader), payload, {}
    firmware = files.firmware
    assert firmware is not None
    entry = base
    if is_elf(firmware.data):
        elf = parse_elf(firmware.data, firmware.name)
        loader.put_elf(elf, firmware.name)
        entry = elf.entry
    else:
        loader.put(base, firmware.data, len(firmware.data), firmware.name)
    if files.kernel is not None:
        payload = _put_payload(files.kernel, loader)
    # Firmware has a tohost for other machines too (OpenSBI's); here it is told of a UART.
    return entry, payload, {}


def _put_image(kernel: BootFile, loader: Loader) -> int:
    image = parse_image(kernel.data, kernel.name)
    address = int(loader.ram.base) + image.text_offset
    loader.put(address, image.data, image.memory_bytes, kernel.name)
    return address


def _put_payload(kernel: BootFile, loader: Loader) -> int:
    """What firmware starts: a Linux Image, an ELF, or a raw binary such as U-Boot's."""
    data = unpack(kernel.data, kernel.name)
    if is_image(data):
        return _put_image(kernel, loader)
    if is_elf(data):
        elf = parse_elf(data, kernel.name)
        loader.put_elf(elf, kernel.name)
        return elf.entry
    address = int(loader.ram.base) + PAYLOAD_OFFSET
    loader.put(address, data, len(data), kernel.name)
    return address


def _put_tree(tree: Tree, loader: Loader) -> int:
    """As high as the rules of old firmware and kernels allow, on a 2 MiB boundary when it fits."""
    blob = flatten(tree, TREE_SPARE)
    top = min(loader.end, int(loader.ram.base) + TREE_BELOW)
    align = TREE_ALIGN if loader.ram.size >= 8 * MIB else PAGE_SIZE
    address = (top - len(blob)) // align * align
    loader.put(address, blob, len(blob), "the device tree")
    return address


def _choose(tree: Tree, append: str, initrd: tuple[int, int] | None) -> None:
    chosen = tree.find("/chosen") or tree.root.add(Node("chosen"))
    if append:
        chosen.set("bootargs", append)
    if initrd is not None:
        chosen.set("linux,initrd-start", cells64(initrd[0]))
        chosen.set("linux,initrd-end", cells64(initrd[1]))


def _start_machine(harts: list[Hart], entry: int, tree: int, dynamic: int) -> None:
    """All harts enter M-mode code: a0 hart number, a1 device tree, a2 the fw_dynamic block."""
    for hart in harts:
        hart.priv = MACHINE
        hart.pc = to_signed(entry)
        hart.x[10] = hart.hart_id
        hart.x[11] = tree
        hart.x[12] = dynamic
        flush_all(hart)


def _start_supervisor(sbi: Sbi, harts: list[Hart], entry: int, tree: int) -> None:
    """Hart 0 enters the kernel in S-mode as SBI firmware leaves it; the others are stopped."""
    for hart in harts:
        hart.medeleg = DELEGATED_EXCEPTIONS
        hart.mideleg = SUPERVISOR_INTERRUPTS
        hart.mie = 0
        hart.menvcfg = ADUE
        hart.mcounteren = ALL_COUNTERS
        hart.scounteren = ALL_COUNTERS
        write_address(hart, 0, PMP_EVERYTHING)
        write_config(hart, 0, PMP_NAPOT_RWX)
        hart.state = STOPPED
    sbi.start(harts[0], entry, tree)
