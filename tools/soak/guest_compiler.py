"""Runs in a guest: compiles random expressions to RISC-V code, and runs, overwrites and unmaps it.

``python3 guest_compiler.py SEED TURNS``. Every function is compared with what Python makes of the same
expression; the checksum of longer runs of it is printed. Only the standard library is there.
"""

from __future__ import annotations

import ctypes
import mmap
import random
import sys
import zlib

Tree = str | int | tuple[str, "Tree", "Tree"]

MASK = (1 << 64) - 1
CODE_BYTES = 8192
TEMPORARIES = (5, 6, 7, 28, 29, 30, 31, 13, 14, 15, 16, 17)
ADDI, BNEZ, RET = 0x13, 0x1063, 0x8067
OPERATORS = {
    "+": 0x33, "-": 0x40000033, "^": 0x4033, "|": 0x6033, "&": 0x7033, "*": 0x2000033,
}  # fmt: skip


def make_tree(choice: random.Random, depth: int) -> Tree:
    """An expression of a, b and small numbers."""
    if depth == 0 or choice.random() < 0.1:
        return choice.choice(("a", "b", choice.randrange(-2048, 2048)))
    operator = choice.choice("+-^|&*")
    return operator, make_tree(choice, depth - 1), make_tree(choice, depth - 1)


def source(tree: Tree) -> str:
    """The expression in Python."""
    if isinstance(tree, tuple):
        return f"({source(tree[1])}{tree[0]}{source(tree[2])})"
    return str(tree)


def lower(tree: Tree, depth: int, out: list[int]) -> int:
    """Add the expression's instructions; the register that has its value."""
    if tree == "a" or tree == "b":
        return 10 if tree == "a" else 11
    target = TEMPORARIES[depth]
    if isinstance(tree, tuple):
        x = lower(tree[1], depth, out)
        y = lower(tree[2], depth + 1, out)
        out.append(OPERATORS[tree[0]] | y << 20 | x << 15 | target << 7)
    else:
        out.append((int(tree) & 0xFFF) << 20 | target << 7 | ADDI)
    return target


def compile_tree(tree: Tree) -> bytes:
    """A function of a, b and n that does ``a = expression`` n times and returns a."""
    out: list[int] = []
    result = lower(tree, 0, out)
    out.append(result << 15 | 10 << 7 | ADDI)
    out.append(0xFFF << 20 | 12 << 15 | 12 << 7 | ADDI)
    back = -4 * len(out)
    high = (back >> 12 & 1) << 31 | (back >> 5 & 63) << 25
    out.append(high | 12 << 15 | (back >> 1 & 15) << 8 | (back >> 11 & 1) << 7 | BNEZ)
    out.append(RET)
    return b"".join(word.to_bytes(4, "little") for word in out)


def interpret(tree: Tree, a: int, b: int, n: int) -> int:
    """The same by Python, which compiles it, too."""
    text = f"def f(a, b, n):\n while n:\n  a = {source(tree)} & {MASK}\n  n -= 1\n return a\n"
    scope: dict[str, int] = {}
    exec(compile(f"{text}\nresult = f({a}, {b}, {n})\n", "made", "exec"), scope)
    return scope["result"]


def main() -> int:
    """The exit status is 1 when a function is wrong."""
    choice = random.Random(int(sys.argv[1]))
    flush = ctypes.CDLL(None).__riscv_flush_icache
    flush.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_ulong]
    word = ctypes.c_uint64
    function = ctypes.CFUNCTYPE(word, word, word, word)
    pages: list[mmap.mmap] = []
    total = 0
    for _ in range(int(sys.argv[2])):
        if len(pages) < 4 or choice.random() < 0.2:
            if len(pages) == 4:
                pages.pop(choice.randrange(4)).close()
            pages.append(mmap.mmap(-1, CODE_BYTES, prot=7))
        page = choice.choice(pages)
        tree = make_tree(choice, choice.randrange(2, 7))
        code = compile_tree(tree)
        at = 4 * choice.randrange((CODE_BYTES - len(code)) // 4)
        page[at : at + len(code)] = code
        view = ctypes.c_char.from_buffer(page)
        start = ctypes.addressof(view) + at
        del view  # the page could not be unmapped
        flush(start, start + len(code), 0)
        a, b = choice.getrandbits(64), choice.getrandbits(64)
        made = function(start)
        if made(a, b, 20) != interpret(tree, a, b, 20):
            print("wrong:", source(tree), a, b)
            return 1
        total = zlib.crc32(b"%d" % made(a, b, choice.choice((50, 2000, 60000))), total)
    print("compiled", total)
    return 0


if __name__ == "__main__":
    sys.exit(main())
