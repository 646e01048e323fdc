"""The assembler for plugins and tests: GNU-like source to bytes at a fixed address."""

from asyncvmm.isa.asm import AssemblyError, Program, assemble

__all__ = ["AssemblyError", "Program", "assemble"]
