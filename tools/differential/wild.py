"""Wild sequences: random code at a page boundary, pointers to everywhere, nothing kept apart.

Branches lead into the middle of instructions, stores hit the code that runs, and every fault is
taken to a handler that is itself random code. What makes them comparable is the number of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from asyncvmm.isa.table_csrs import CSR_NUMBERS
from tools.differential.words import C_EBREAK, EBREAK, ECALL, Mixer, random_float, random_word

RAM_BASE: Final = 0x80000000
RAM_SIZE: Final = 0x5000
RAM_END: Final = RAM_BASE + RAM_SIZE
CODE_BYTES: Final = 160
POINTERS: Final = (2, 8, 9, 10, 13, 26, 27)
MACHINE_CSRS: Final = (0x340, 0x341, 0x342, 0x343)


@dataclass(frozen=True)
class Sequence:
    """Code for ``start``, registers as unsigned 64-bit patterns, and how many steps to take."""

    start: int
    code: bytes
    x: tuple[int, ...]
    f: tuple[int, ...]
    fcsr: int
    float_state: int
    """mstatus.FS: 0 is Off."""
    handler: int
    pc: int
    steps: int


class WildSequences:
    """An endless supply, the same for the same seed.

    With ``system`` there are trap returns, WFI, SFENCE.VMA and accesses to any CSR too, which the
    reference does not model.
    """

    def __init__(self, seed: int, system: bool = False) -> None:
        self.random = Random(seed)
        self.mixer = Mixer(self.random, POINTERS)
        self.system = system
        self.csrs = MACHINE_CSRS

    def memory(self) -> bytes:
        """What RAM holds at first: some of it zero pages, some random, some words."""
        random = self.random
        made = b""
        for _ in range(RAM_SIZE // 4096):
            kind = random.randrange(3)
            if kind == 0:
                made += bytes(4096)
            elif kind == 1:
                made += random.randbytes(4096)
            else:
                made += b"".join(random_float(random).to_bytes(8, "little") for _ in range(512))
        return made

    def sequence(self, steps: int) -> Sequence:
        """The next one; it is to run for ``steps``."""
        random = self.random
        boundary = RAM_BASE + 4096 * random.randrange(1, RAM_SIZE // 4096)
        start = boundary - 2 * random.randrange(CODE_BYTES // 2)
        if random.randrange(20) == 0:
            start = RAM_END - CODE_BYTES  # running off the end of memory
        code = self._code()
        x = [0] + [self._value(start) for _ in range(31)]
        for register in POINTERS:
            x[register] = self._pointer(start)
        f = tuple(random_float(random) for _ in range(32))
        float_state = 0 if random.randrange(30) == 0 else random.randrange(1, 4)
        frm = random.randrange(8) if random.randrange(8) == 0 else random.randrange(5)
        handler = start + 4 + random.randrange(CODE_BYTES - 8) & -4
        pc = start + 2 * random.randrange(4)
        fcsr = frm << 5 | (random.getrandbits(5) if random.getrandbits(1) else 0)
        return Sequence(start, code, tuple(x), f, fcsr, float_state, handler, pc, steps)

    def _code(self) -> bytes:
        random = self.random
        parts = []
        length = 0
        while length < CODE_BYTES:
            kind = random.randrange(64)
            if kind == 0:
                word, size = random.choice(((EBREAK, 4), (C_EBREAK, 2), (ECALL, 4)))
            elif self.system and kind < 8:
                word, size = self._system(), 4
            elif kind < 3:
                size = random.choice((2, 4))
                word = random.getrandbits(8 * size)
            else:
                word, encoding = self.mixer.word(64)
                size = encoding.length
                if encoding.role == "csr" and random.randrange(3) == 0:
                    word = word & 0xFFFFF | random.choice(self.csrs) << 20
            parts.append(word.to_bytes(size, "little"))
            length += size
        return b"".join(parts)[:CODE_BYTES]

    def _system(self) -> int:
        random = self.random
        if random.randrange(3) == 0:
            return random.choice((0x30200073, 0x10200073, 0x10500073, 0x12000073))
        csr = random.choice(tuple(CSR_NUMBERS.values()))
        how = random.choice((1, 2, 3, 5, 6, 7))
        return (
            csr << 20 | random.getrandbits(5) << 15 | how << 12 | random.getrandbits(5) << 7 | 0x73
        )

    def _value(self, start: int) -> int:
        if self.random.randrange(4) == 0:
            return self._pointer(start)
        return random_word(self.random)

    def _pointer(self, start: int) -> int:
        random = self.random
        kind = random.randrange(16)
        if kind < 6:
            return RAM_BASE + 8 * random.randrange(RAM_SIZE // 8)
        if kind < 8:
            return RAM_BASE + random.randrange(RAM_SIZE)
        if kind < 12:  # near a page boundary
            page = RAM_BASE + 4096 * random.randrange(1, RAM_SIZE // 4096)
            return page + random.randrange(-40, 40)
        if kind < 14:  # in the code
            return start + random.randrange(CODE_BYTES)
        if kind == 14:
            return random.choice((RAM_BASE, RAM_END)) + random.randrange(-16, 16)
        return random_word(random)
