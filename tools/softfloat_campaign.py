"""Compare softfloat with the F and D instructions of QEMU's user emulator, by the million.

``python -m tools.softfloat_campaign --count 5000000 --seed 1`` builds a small static RISC-V
program, runs it under ``qemu-riscv64-static`` (or ``qemu-riscv64``) on generated operands, and
compares each result and fflags with the compiled softfloat, with ``--reference`` with the exact
reference too. It needs a cross-compiler: ``riscv64-linux-gnu-gcc`` or the ``ziglang`` package.
Vectors depend on the seed alone. The exit code is 1 when anything differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.base.bits import to_signed, to_unsigned
from asyncvmm.isa import reference_float, softfloat

REQUEST, RESPONSE = struct.Struct("<4Q"), struct.Struct("<2Q")
FORMATS = {"f32": reference_float.F32, "f64": reference_float.F64}

PROGRAM = """\
#include <stdint.h>
#include <unistd.h>
struct request { uint64_t op, a, b, c; };
struct response { uint64_t result, flags; };
static struct request in[4096];
static struct response out[4096];
static int move(ssize_t (*call)(), int fd, char *at, size_t size) {
    while (size) {
        ssize_t n = call(fd, at, size);
        if (n <= 0) return 0;
        at += n, size -= n;
    }
    return 1;
}
int main(void) {
    uint32_t count;
    while (move((ssize_t (*)())read, 0, (char *)&count, sizeof count)) {
        if (!move((ssize_t (*)())read, 0, (char *)in, count * sizeof *in)) return 1;
        for (uint32_t i = 0; i < count; i++) {
            uint64_t a = in[i].a, b = in[i].b, c = in[i].c, rm = in[i].op >> 8, r = 0, f = 0;
            switch (in[i].op & 255) {
%s
            default: return 2;
            }
            out[i].result = r, out[i].flags = f;
        }
        if (!move((ssize_t (*)())write, 1, (char *)out, count * sizeof *out)) return 3;
    }
    return 0;
}
"""
CASE = """\
            case {number}:
                asm volatile("{load}fsrm zero, %5\\n fsflags zero\\n {instruction}\\n"
                             "{store} %0, {place}\\n frflags %1"
                             : "=r"(r), "=r"(f) : "r"(a), "r"(b), "r"(c), "r"(rm)
                             : "t0", "ft0", "ft1", "ft2");
                {narrow}
                break;
"""


def instructions() -> dict[str, str]:
    """Each operation's instruction, on ft0, ft1, ft2 and t0, with the dynamic rounding mode."""
    table = {"f32_to_f64": "fcvt.d.s ft0, ft0", "f64_to_f32": "fcvt.s.d ft0, ft0, dyn"}
    for prefix, letter in (("f32", "s"), ("f64", "d")):
        for name in ("add", "sub", "mul", "div"):
            table[f"{prefix}_{name}"] = f"f{name}.{letter} ft0, ft0, ft1, dyn"
        for name in ("min", "max"):
            table[f"{prefix}_{name}"] = f"f{name}.{letter} ft0, ft0, ft1"
        for name in ("eq", "lt", "le"):
            table[f"{prefix}_{name}"] = f"f{name}.{letter} t0, ft0, ft1"
        table[f"{prefix}_sqrt"] = f"fsqrt.{letter} ft0, ft0, dyn"
        table[f"{prefix}_fma"] = f"fmadd.{letter} ft0, ft0, ft1, ft2, dyn"
        table[f"{prefix}_class"] = f"fclass.{letter} t0, ft0"
        for kind, code in (("i32", "w"), ("u32", "wu"), ("i64", "l"), ("u64", "lu")):
            table[f"{prefix}_to_{kind}"] = f"fcvt.{code}.{letter} t0, ft0, dyn"
            # Words convert to binary64 exactly; assemblers take no rounding mode there.
            mode = "" if letter == "d" and kind.endswith("32") else ", dyn"
            table[f"{kind}_to_{prefix}"] = f"fcvt.{letter}.{code} ft0, t0{mode}"
    return table


INSTRUCTIONS = instructions()
NAMES = sorted(INSTRUCTIONS)


def program() -> str:
    """The C text of the program that executes the instructions."""
    cases = []
    for number, name in enumerate(NAMES):
        instruction = INSTRUCTIONS[name]
        source, target = name[:3], name[-3:] if "_to_" in name else name[:3]
        if source in FORMATS:
            move = "fmv.w.x" if source == "f32" else "fmv.d.x"
            load = "".join(f"{move} ft{n}, %{n + 2}\\n " for n in range(3))
        else:
            load = "mv t0, %2\\n "
        to_float = instruction.split()[1] == "ft0,"
        narrow = to_float and target == "f32"
        store = ("fmv.x.w" if target == "f32" else "fmv.x.d") if to_float else "mv"
        cases.append(
            CASE.format(
                number=number,
                load=load,
                instruction=instruction,
                store=store,
                place="ft0" if to_float else "t0",
                narrow="r &= 0xFFFFFFFF;" if narrow else "",
            )
        )
    return PROGRAM.replace("%s", "".join(cases))


def build(folder: Path) -> Path:
    """Compile the program with whichever cross-compiler is there."""
    source, made = folder / "oracle.c", folder / "oracle"
    source.write_text(program())
    if (compiler := shutil.which("riscv64-linux-gnu-gcc")) is not None:
        command = [compiler, "-static"]
    elif importlib.util.find_spec("ziglang") is not None:
        command = [sys.executable, "-m", "ziglang", "cc", "-target", "riscv64-linux-musl"]
    else:
        sys.exit("no cross-compiler: install gcc-riscv64-linux-gnu, or the Python package ziglang")
    subprocess.run([*command, "-std=gnu99", "-O1", "-w", "-o", made, source], check=True)
    return made


class Vectors:
    """Operands with exponents, fractions and distances near every edge; a seed fixes them all."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def number(self, fmt: reference_float.Format) -> int:
        """One pattern."""
        pick, bits = self.random.random, fmt.fraction_bits
        top = (1 << fmt.exponent_bits) - 1
        bias, choice = top // 2, pick()
        if choice < 0.05:
            return self.special(fmt)
        if choice < 0.2:
            exponent = (0, 1, 2, top - 2, top - 1, top)[int(pick() * 6)]
        elif choice < 0.6:
            exponent = bias - 70 + int(pick() * 140)
        else:
            exponent = int(pick() * (top + 1))
        return int(pick() * 2) * fmt.sign_bit | exponent << bits | self.fraction(bits)

    def special(self, fmt: reference_float.Format) -> int:
        """A zero, an infinity or a NaN."""
        pick = self.random.random
        positive = (0, fmt.infinity, fmt.infinity | 1, fmt.nan)[int(pick() * 4)]
        return fmt.signed(int(pick() * 2), positive)

    def fraction(self, bits: int) -> int:
        """Fraction bits: any, a run of ones from either end, one bit, or next to an end."""
        pick, mask = self.random.random, (1 << bits) - 1
        choice = pick()
        if choice < 0.5:
            return self.random.getrandbits(bits)
        run = (1 << int(pick() * (bits + 1))) - 1
        if choice < 0.65:
            return run
        if choice < 0.8:
            return run ^ mask
        if choice < 0.9:
            return 1 << int(pick() * bits)
        return int(pick() * 5) - 2 & mask

    def near_power(self, fmt: reference_float.Format, exponent: int) -> int:
        """A few units in the last place from a power of two with that exponent field."""
        sign = int(self.random.random() * 2)
        pattern = (exponent << fmt.fraction_bits) + int(self.random.random() * 9) - 4
        return fmt.signed(sign, min(max(pattern, 0), fmt.infinity - 1))

    def at(self, fmt: reference_float.Format, exponent: int) -> int:
        """A pattern with that exponent field, clamped."""
        top = (1 << fmt.exponent_bits) - 1
        field = min(max(exponent, 0), top) << fmt.fraction_bits
        return self.number(fmt) & ~(top << fmt.fraction_bits) | field

    def pair(self, fmt: reference_float.Format) -> tuple[int, int]:
        """Two patterns, half of them related so that sums cancel or results meet an edge."""
        pick, bits = self.random.random, fmt.fraction_bits
        top = (1 << fmt.exponent_bits) - 1
        if pick() < 0.03:
            return self.special(fmt), self.special(fmt)
        a, choice = self.number(fmt), pick()
        exponent = a >> bits & top
        if choice < 0.1:
            sign = int(pick() * 2) * fmt.sign_bit
            return a, (a + int(pick() * 7) - 3 ^ sign) % (2 * fmt.sign_bit)
        if choice < 0.3:
            return a, self.at(fmt, exponent - bits - 4 + int(pick() * 2 * (bits + 4)))
        if choice < 0.4:
            total = (top // 2, top // 2 + top)[int(pick() * 2)]
            return a, self.at(fmt, total - exponent - bits + int(pick() * (bits + 4)))
        if choice < 0.45:  # next to the smallest normal number
            exponent = int(pick() * (top // 2)) + 1
            near = (top // 2 + 1 - exponent, top // 2 - 1 + exponent)[int(pick() * 2)]
            return self.near_power(fmt, exponent), self.near_power(fmt, near)
        if choice < 0.55:
            gap = (-(top // 2), top // 2)[int(pick() * 2)]
            return a, self.at(fmt, exponent - gap - bits + int(pick() * (bits + 4)))
        return a, self.number(fmt)

    def integer(self) -> int:
        """A register: any width, next to a power of two, or negated."""
        pick = self.random.random
        value = self.random.getrandbits(int(pick() * 64) + 1)
        if pick() < 0.4:
            width = int(pick() * 65) if pick() < 0.5 else (31, 32, 63, 64)[int(pick() * 4)]
            value = (1 << width) + int(pick() * 7) - 3
        if pick() < 0.3:
            value >>= (shift := int(pick() * 40))
            value <<= shift
        return (-value if pick() < 0.3 else value) & 0xFFFFFFFFFFFFFFFF

    def operands(self, name: str) -> tuple[int, ...]:
        """As many operands as the function of that name takes before its rounding mode."""
        fmt = FORMATS.get(name[:3])
        if fmt is None:
            return (self.integer(),)
        pick = self.random.random
        if "_to_" in name and pick() < 0.4:
            mode = int(pick() * 5)
            near, _ = reference_float.FUNCTIONS[f"i64_to_{name[:3]}"](self.integer(), mode)
            return ((near + int(pick() * 3) - 1) % (2 * fmt.sign_bit),)
        if name.endswith("_sqrt") and pick() < 0.3:  # a square or its neighbour
            root = self.random.getrandbits((fmt.fraction_bits + 2) // 2)
            near, _ = reference_float.FUNCTIONS[f"i64_to_{name[:3]}"](root * root, 0)
            return (max(near + int(pick() * 5) - 2, 0),)
        if name.endswith(("_sqrt", "_class")) or "_to_" in name:
            return (self.number(fmt),)
        a, b = self.pair(fmt)
        if not name.endswith("_fma"):
            return a, b
        bits, top = fmt.fraction_bits, (1 << fmt.exponent_bits) - 1
        exponent = (a >> bits & top) + (b >> bits & top) - top // 2
        if pick() < 0.3:
            product = reference_float.mul(fmt, a, b, int(pick() * 5))[0] + int(pick() * 5) - 2
            return a, b, (product ^ int(pick() * 2) * fmt.sign_bit) % (2 * fmt.sign_bit)
        if pick() < 0.7:
            reach = 2 * bits + 8
            return a, b, self.at(fmt, exponent - reach + int(pick() * 2 * reach))
        return a, b, self.number(fmt)


def has_mode(name: str) -> bool:
    """Whether the function takes a rounding mode."""
    return name != "f32_to_f64" and not name.endswith(
        ("_min", "_max", "_eq", "_lt", "_le", "_class")
    )


def describe(name: str, operands: tuple[int, ...], rm: int) -> str:
    """One vector, readable."""
    mode = f" {('rne', 'rtz', 'rdn', 'rup', 'rmm')[rm]}" if has_mode(name) else ""
    return f"{name}({', '.join(f'{value:#x}' for value in operands)}){mode}"


def run_chunk(
    oracle: subprocess.Popen[bytes], vectors: list[tuple[str, tuple[int, ...], int]]
) -> list[tuple[int, int]]:
    """What QEMU says to at most 4096 vectors."""
    assert oracle.stdin is not None and oracle.stdout is not None
    request = bytearray(struct.pack("<I", len(vectors)))
    for name, operands, rm in vectors:
        padded = (*operands, 0, 0)
        request += REQUEST.pack(NUMBER[name] | rm << 8, *padded[:3])
    oracle.stdin.write(request)
    oracle.stdin.flush()
    size = RESPONSE.size * len(vectors)
    answer = oracle.stdout.read(size)
    if len(answer) != size:
        raise RuntimeError(f"the oracle stopped with status {oracle.wait()}")
    return [(result, flags) for result, flags in RESPONSE.iter_unpack(answer)]


NUMBER = {name: number for number, name in enumerate(NAMES)}


def campaign(count: int, seed: int, oracle: subprocess.Popen[bytes], check: bool) -> Counter[str]:
    """Compare ``count`` vectors, print the first mismatches of each kind, return their counts."""
    source, status, wrong = Vectors(seed), FloatStatus(), Counter[str]()
    pick = source.random.random
    functions: dict[str, Callable[..., int]] = {name: getattr(softfloat, name) for name in NAMES}
    for start in range(0, count, 4096):
        vectors = []
        for index in range(start, min(start + 4096, count)):
            name = NAMES[index % len(NAMES)]
            vectors.append((name, source.operands(name), int(pick() * 5)))
        answers = run_chunk(oracle, vectors)
        for (name, operands, rm), answer in zip(vectors, answers, strict=True):
            arguments = (*operands, rm) if has_mode(name) else operands
            signed = [to_signed(value) for value in arguments]
            status.flags = 0
            if name.endswith("_class"):
                result = functions[name](*signed)
            else:
                result = functions[name](status, *signed)
            compared = {"softfloat": (to_unsigned(result), status.flags)}
            if check:
                compared["reference"] = reference_float.FUNCTIONS[name](*arguments)
            for who, mine in compared.items():
                if mine != answer:
                    wrong[f"{who} {name}"] += 1
                    if wrong[f"{who} {name}"] <= 3:
                        print(
                            f"{describe(name, operands, rm)}: {who} {mine[0]:#x} flags {mine[1]}, "
                            f"qemu {answer[0]:#x} flags {answer[1]}"
                        )
    return wrong


def main() -> int:
    """Parse the command line, run, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000, help="vectors in all")
    parser.add_argument("--seed", type=int, default=1, help="fixes every vector")
    parser.add_argument("--reference", action="store_true", help="check the reference as well")
    options = parser.parse_args()
    qemu = shutil.which("qemu-riscv64-static") or shutil.which("qemu-riscv64")
    if qemu is None:
        sys.exit("no qemu-riscv64-static: install qemu-user-static")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [qemu, str(build(Path(folder)))]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as oracle:
            wrong = campaign(options.count, options.seed, oracle, options.reference)
    who = "softfloat and reference" if options.reference else "softfloat"
    print(
        f"{who} against {Path(qemu).name}: {options.count} vectors of {len(NAMES)} operations, "
        f"seed {options.seed}, {sum(wrong.values())} mismatches, "
        f"{time.perf_counter() - began:.0f} s"
    )
    for name, number in sorted(wrong.items()):
        print(f"  {name}: {number}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
