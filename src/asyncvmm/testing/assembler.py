"""The assembler for plugins and tests: GNU-like source to bytes at a fixed address, or to an ELF."""

from asyncvmm.isa.asm import AssemblyError, Program, assemble
from asyncvmm.isa.elf_writer import to_elf

__all__ = ["AssemblyError", "Program", "assemble", "to_elf"]
