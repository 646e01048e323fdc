"""The instruction set, generated from ``specs/riscv`` by ``python -m tools.gen``.

In reading order:

- ``encoding``, ``table_*``, ``tables``: every encoding as data.
- ``opcodes``, ``decode*``: fetched bits to decoded words, compiled; what the engines run.
- ``arith``, ``softfloat*``: arithmetic that takes more than an expression, compiled.
- ``reference*``: a plain-Python hart on unsigned integers, which exists only to be compared with.
- ``disasm``, ``asm*``, ``registers``, ``elf_writer``: text to bits and back, and executable files.
"""
