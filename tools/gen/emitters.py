"""The list of emitters. Each is a function from the specification to files."""

from __future__ import annotations

from collections.abc import Callable

from tools.gen import constants, decoder, interpreter, lowering, native, opcodes, reference, tables
from tools.gen.emit import Files
from tools.gen.spec import Spec, load

EMITTERS: tuple[Callable[[Spec], Files], ...] = (
    constants.emit,
    opcodes.emit,
    decoder.emit,
    tables.emit,
    reference.emit,
    interpreter.emit,
    lowering.emit,
    native.emit,
)


def generate(spec: Spec | None = None) -> Files:
    """Every generated file."""
    spec = spec or load()
    files: Files = {}
    for emitter in EMITTERS:
        for name, text in emitter(spec).items():
            if name in files:
                raise ValueError(f"two emitters write {name}")
            files[name] = text.rstrip("\n") + "\n"
    return files
