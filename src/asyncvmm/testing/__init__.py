"""The public kit for plugins and tests. So far: the assembler, and what the submodules hold."""

from asyncvmm.testing.assembler import AssemblyError, Program, assemble, to_elf

__all__ = ["AssemblyError", "Program", "assemble", "to_elf"]
