"""LLVM: IR text to object code. Loading llvmlite takes a tenth of a second: only who compiles does."""

from __future__ import annotations

import itertools
import re
import threading
from typing import Any, Final

import llvmlite.binding as llvm  # type: ignore[import-untyped]

_ready = False
_preparing: Final = threading.Lock()


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
