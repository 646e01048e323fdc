"""The device tree of a guest, from its board, config and devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from asyncvmm.fdt import Node, Tree, cells, cells64
from asyncvmm.machine.board import CLINT_BASE, PLIC_BASE, RAM_BASE
from asyncvmm.platform import aclint, plic
from asyncvmm.plugin import FdtValue
from asyncvmm.timeline.clock import TIMEBASE_HZ

ISA_BASE = "rv64i"
ISA_EXTENSIONS = (
    *("i", "m", "a", "f", "d", "c"),
    *("zicntr", "zicsr", "zifencei", "zihpm", "zba", "zbb", "zbs"),
)
ISA = "rv64imafdc_zicntr_zicsr_zifencei_zihpm_zba_zbb_zbs"


@attrs.frozen
class DeviceNode:
    """What the tree says about one attached device."""

    name: str
    base: int
    size_bytes: int
    irq: int
    compatible: tuple[str, ...]
    properties: Mapping[str, FdtValue]


@attrs.frozen
class TreeInput:
    """What the tree is made from; ``initrd`` is (start, end) or None."""

    harts: int
    memory_bytes: int
    mmu: str
    append: str
    initrd: tuple[int, int] | None
    rng_seed: bytes
    machine_id: str | None
    uuid: str | None
    devices: Sequence[DeviceNode]
    machine_mode: bool  # whether the guest's own firmware runs in M-mode, and so sees the CLINT


def build_tree(what: TreeInput) -> Tree:
    """The whole tree; Linux, OpenSBI and U-Boot accept it, and ``dtc`` has no complaints."""
    tree = Tree(Node("", model="asyncvmm,virt", compatible="riscv-virtio"))
    tree.root.set("#address-cells", 2).set("#size-cells", 2)
    if what.uuid is not None:
        tree.root.set("vm,uuid", what.uuid)  # where systemd looks for it, as on pSeries
    _chosen(tree.root, what)
    memory = tree.root.add(Node(f"memory@{RAM_BASE:x}", device_type="memory"))
    memory.set("reg", cells64(RAM_BASE, what.memory_bytes))
    controllers = _harts(tree, what)
    soc = tree.root.add(Node("soc", compatible="simple-bus", ranges=None))
    soc.set("#address-cells", 2).set("#size-cells", 2)
    if what.machine_mode:
        _clint(soc, controllers)
    interrupts = _plic(tree, soc, controllers)
    for device in what.devices:
        _device(tree, soc, device, interrupts)
    return tree


def _chosen(root: Node, what: TreeInput) -> None:
    chosen = root.add(Node("chosen"))
    chosen.set("rng-seed", what.rng_seed)
    if what.append:
        chosen.set("bootargs", what.append)
    if what.machine_id is not None:
        chosen.set("asyncvmm,machine-id", what.machine_id)
    for device in what.devices:
        if device.name == "serial":
            chosen.set("stdout-path", f"/soc/serial@{device.base:x}")
            break
    if what.initrd is not None:
        chosen.set("linux,initrd-start", cells64(what.initrd[0]))
        chosen.set("linux,initrd-end", cells64(what.initrd[1]))


def _harts(tree: Tree, what: TreeInput) -> list[int]:
    """The ``cpus`` node; returns the phandles of the harts' interrupt controllers."""
    cpus = tree.root.add(Node("cpus", timebase_frequency=TIMEBASE_HZ))
    cpus.set("#address-cells", 1).set("#size-cells", 0)
    controllers = []
    for number in range(what.harts):
        cpu = cpus.add(Node(f"cpu@{number:x}", device_type="cpu", reg=number, status="okay"))
        cpu.set("compatible", "riscv").set("mmu-type", f"riscv,{what.mmu}")
        cpu.set("riscv,isa", ISA).set("riscv,isa-base", ISA_BASE)
        cpu.set("riscv,isa-extensions", list(ISA_EXTENSIONS))
        tree.phandle(cpu)
        local = cpu.add(Node("interrupt-controller", compatible="riscv,cpu-intc"))
        local.set("#interrupt-cells", 1).set("#address-cells", 0).set("interrupt-controller", None)
        controllers.append(tree.phandle(local))
    return controllers


def _clint(soc: Node, controllers: list[int]) -> None:
    node = soc.add(Node(f"clint@{CLINT_BASE:x}", compatible=["sifive,clint0", "riscv,clint0"]))
    node.set("reg", cells64(CLINT_BASE, aclint.SIZE))
    lines = [cell for phandle in controllers for cell in (phandle, aclint.MSI, phandle, aclint.MTI)]
    node.set("interrupts-extended", cells(*lines))


def _plic(tree: Tree, soc: Node, controllers: list[int]) -> int:
    node = soc.add(Node(f"interrupt-controller@{PLIC_BASE:x}"))
    node.set("compatible", ["sifive,plic-1.0.0", "riscv,plic0"])
    node.set("reg", cells64(PLIC_BASE, plic.SIZE)).set("riscv,ndev", plic.MAX_SOURCES)
    node.set("#interrupt-cells", 1).set("#address-cells", 0).set("interrupt-controller", None)
    lines = [cell for phandle in controllers for cell in (phandle, plic.MEI, phandle, plic.SEI)]
    node.set("interrupts-extended", cells(*lines))
    return tree.phandle(node)


def _device(tree: Tree, soc: Node, device: DeviceNode, interrupts: int) -> None:
    node = soc.add(Node(f"{device.name}@{device.base:x}"))
    node.set("compatible", list(device.compatible))
    node.set("reg", cells64(device.base, device.size_bytes))
    if device.irq:
        node.set("interrupt-parent", interrupts).set("interrupts", device.irq)
    for name, value in device.properties.items():
        if value is not False:
            node.set(name, value)
    if "syscon" in device.compatible:
        _syscon_power(tree, node)


def _syscon_power(tree: Tree, test: Node) -> None:
    """Poweroff and reboot through the test finisher's register."""
    regmap = tree.phandle(test)
    for name, value in (("poweroff", 0x5555), ("reboot", 0x7777)):
        node = tree.root.add(Node(name, compatible=f"syscon-{name}", regmap=regmap))
        node.set("offset", 0).set("value", value)
