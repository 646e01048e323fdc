"""LLVM: IR text to object code, and object code to bytes with relocations."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm  # type: ignore[import-untyped]

RELOCATION_BYTES: Final = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 14: 1}
_RELATIVE: Final = frozenset((2, 4))  # R_X86_64_PC32, PLT32

_ready = False
_preparing: Final = threading.Lock()


class LinkError(RuntimeError):
    """The object code holds something that the loader does not know."""


def target_machine(level: int, relocation: str) -> Any:
    """A target machine for this host at a level of optimisation (0..3); "static" or "pic"."""
    global _ready
    with _preparing:
        if not _ready:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            llvm.initialize_native_asmparser()
            _ready = True
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=level,
        reloc=relocation,
        codemodel="small",
    )


def compile_ir(
    text: str,
    level: int = 2,
    passes: bool = False,
    relocation: str = "static",
    thread: bool = False,
) -> bytes:
    """Object code of a module; ``thread`` makes tail calls conditional jumps where it can."""
    machine = target_machine(level, relocation)
    module = llvm.parse_assembly(text)
    module.verify()
    if passes:
        builder = llvm.create_pass_builder(
            machine, llvm.create_pipeline_tuning_options(speed_level=2)
        )
        builder.getModulePassManager().run(module, builder)
    if thread:
        lines = _thread_jumps(machine.emit_assembly(module)).splitlines()
        quoted = (line.replace("\\", "\\5C").replace('"', "\\22") for line in lines)
        module = llvm.parse_assembly("".join(f'module asm "{line}"\n' for line in quoted))
    return machine.emit_object(module)  # type: ignore[no-any-return]


def compile_region(text: str) -> bytes:
    """Object code of a module with one function ``region``: the few passes that pay for themselves."""
    machine = target_machine(2, "pic")
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    passes = llvm.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_new_gvn_pass()
    passes.add_simplify_cfg_pass()
    passes.run(module.get_function("region"), llvm.create_pass_builder(machine, options))
    return machine.emit_object(module)  # type: ignore[no-any-return]


def _thread_jumps(assembly: str) -> str:
    """Let conditional jumps to a lone jump out of the function go where that goes."""
    lines = assembly.splitlines()
    alone: dict[str, str] = {}
    for label, jump in itertools.pairwise(lines):
        found = re.match(r"(\.LBB\w+):", label)
        target = re.match(r"\tjmp\t(\w+@PLT)", jump)
        if found and target:
            alone[found[1]] = target[1]
    out: list[str] = []
    for line in lines:
        near = re.match(r"(\tj\w+\t)(\.LBB\w+)", line)
        out.append(f"{near[1]}{alone[near[2]]}" if near and near[2] in alone else line)
    kept: list[str] = []
    skip = False
    for line in out:
        if skip:
            skip = False
            continue
        label = line.partition(":")[0]
        if label in alone and kept and re.match(r"\t(jmp|ret)", kept[-1]):
            skip = True  # nothing falls into it, and now nothing jumps to it
            continue
        kept.append(line)
    return "\n".join(kept)


def compile_cached(
    text: str, folder: Path | None, relocation: str = "static", thread: bool = False
) -> bytes:
    """Object code of a module with all optimisation, from ``folder`` when it is there.

    The name is a hash of the text, of LLVM's version and of the host's processor; a file that is
    damaged, or cannot be written, only costs the time to compile.
    """
    version = ".".join(map(str, llvm.llvm_version_info))
    features = llvm.get_host_cpu_features().flatten()
    key = "\0".join((text, f"{relocation} {thread}", version, llvm.get_host_cpu_name(), features))
    if folder is None:
        return compile_ir(text, passes=True, relocation=relocation, thread=thread)
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.o"
    try:
        found = path.read_bytes()
        if hashlib.sha256(found[32:]).digest() == found[:32]:
            return found[32:]
    except OSError:
        pass
    made = compile_ir(text, passes=True, relocation=relocation, thread=thread)
    part = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        part.write_bytes(hashlib.sha256(made).digest() + made)
        part.replace(path)
    return made


@dataclass(frozen=True)
class Relocation:
    """At ``position`` put the value of ``symbol`` plus ``addend``; relative to the place or not.

    A symbol that starts with "." is a section of the object itself.
    """

    position: int
    size: int
    relative: bool
    symbol: str
    addend: int


@dataclass(frozen=True)
class Function:
    """Where a function lies in the text section."""

    start: int
    size: int


@dataclass(frozen=True)
class Object:
    """Text and read-only data, one after the other, with what to fill in."""

    image: bytes
    functions: dict[str, Function]
    sections: dict[str, int]
    relocations: list[Relocation]
    align: int = 16  # of the address where it is put: wide constants need up to 64 bytes

    def link(self, address: int, symbols: Mapping[str, int]) -> bytes:
        """The image as it has to be at ``address``, a multiple of ``align``."""
        if address % self.align:
            raise LinkError(f"{address:#x} is not a multiple of {self.align}")
        image = bytearray(self.image)
        for item in self.relocations:
            if item.symbol in self.sections:
                value = address + self.sections[item.symbol]
            elif item.symbol in self.functions:
                value = address + self.functions[item.symbol].start
            elif item.symbol in symbols:
                value = symbols[item.symbol]
            else:
                raise LinkError(f"no symbol {item.symbol}")
            value += item.addend
            if item.relative:
                value -= address + item.position
            bits = item.size * 8
            if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
                raise LinkError(f"{item.symbol} is too far away for {bits} bits")
            image[item.position : item.position + item.size] = (value & ((1 << bits) - 1)).to_bytes(
                item.size, "little"
            )
        return bytes(image)


def parse_object(data: bytes) -> Object:
    """Read an ELF object for x86-64."""
    if data[:4] != b"\x7fELF" or struct.unpack_from("<H", data, 18)[0] != 62:
        raise LinkError("not an x86-64 ELF object")
    (table,) = struct.unpack_from("<Q", data, 40)
    count, names_index = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]

    def text_at(offset: int) -> str:
        return data[offset : data.index(b"\0", offset)].decode()

    names = [text_at(headers[names_index][4] + header[0]) for header in headers]
    image = bytearray()
    placed: dict[int, int] = {}
    widest = 16
    for index, (header, name) in enumerate(zip(headers, names, strict=True)):
        if header[1] == 1 and name.startswith((".text", ".rodata", ".data.rel.ro")):
            align = max(header[8], 1)
            widest = max(widest, align)
            image += b"\xcc" * (-len(image) % align)
            placed[index] = len(image)
            image += data[header[4] : header[4] + header[5]]
    symbols: list[tuple[str, int, int, int]] = []
    functions: dict[str, Function] = {}
    for header, name in zip(headers, names, strict=True):
        if name != ".symtab":
            continue
        strings = headers[header[6]][4]
        for offset in range(header[4], header[4] + header[5], 24):
            key, info, _, section, value, size = struct.unpack_from("<IBBHQQ", data, offset)
            label = text_at(strings + key)
            if info & 15 == 3:
                label = f".{section}"
            symbols.append((label, section, value, size))
            if info & 15 == 2 and section in placed:
                functions[label] = Function(placed[section] + value, size)
    sections = {f".{index}": start for index, start in placed.items()}
    for label, section, value, _ in symbols:
        if label.startswith(".L") and section in placed:
            sections[label] = placed[section] + value
    relocations: list[Relocation] = []
    for header in headers:
        if header[1] != 4 or header[7] not in placed:
            continue
        for offset in range(header[4], header[4] + header[5], 24):
            where, info, addend = struct.unpack_from("<QQq", data, offset)
            kind = info & 0xFFFFFFFF
            if kind not in RELOCATION_BYTES:
                raise LinkError(f"relocation type {kind}")
            relocations.append(
                Relocation(
                    placed[header[7]] + where,
                    RELOCATION_BYTES[kind],
                    kind in _RELATIVE,
                    symbols[info >> 32][0],
                    addend,
                )
            )
    return Object(bytes(image), functions, sections, relocations, widest)
