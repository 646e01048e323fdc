"""The compiled decoder gives what the specification's tables say, word by word."""

from __future__ import annotations

from random import Random

import pytest

from asyncvmm.isa.decode import decode
from asyncvmm.isa.opcodes import NAMES, OP_ILLEGAL, OPERATIONS, SINK
from asyncvmm.isa.reference import find_encoding
from tools.gen.spec import Instruction, Spec, load

PLACES = {
    "rd": 9, "rs1": 15, "uimm": 15, "rs2": 20, "rm": 28, "imm": 32, "shamt": 32, "csr": 32,
    "rs3": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def spec() -> Spec:
    return load()


def expected(spec: Spec, word: int) -> int:
    """The decoded word, from the tables and the layout in isa/opcodes.py."""
    length = 4 if word & 3 == 3 else 2
    instruction = spec.match(word)
    if instruction is None:
        raw = word & 0xFFFF if length == 2 else word
        return OP_ILLEGAL | length << 25 | (raw - (raw >> 31 << 32)) << 32
    values = instruction.operand_values(word)
    base: Instruction = instruction
    if instruction.expands is not None:
        base = spec.by_name[instruction.expands.name]
        values = {
            name: values[value] if isinstance(value, str) else value
            for name, value in instruction.expands.operands
        }
    decoded = base.op | length << 25
    for name, value in values.items():
        if name in PLACES and (name == "rm" or name not in base.ignores):
            sink = name == "rd" and base.body.writes_x and value == 0
            decoded |= (SINK if sink else value) << PLACES[name]
    return decoded


def test_names_are_numbered_as_the_operations(spec: Spec) -> None:
    assert len(NAMES) == OPERATIONS
    assert [NAMES[i.op] for i in spec.operations] == [i.name for i in spec.operations]


def test_every_compressed_word(spec: Spec) -> None:
    for word in range(1 << 16):
        if word & 3 != 3:
            assert decode(word) == expected(spec, word), f"{word:#06x}"


def test_only_sixteen_bits_of_a_compressed_word_count() -> None:
    assert decode(0xDEAD_4501) == decode(0x4501)


def test_every_instruction_with_random_operands(spec: Spec) -> None:
    random = Random(1)
    for instruction in spec.instructions:
        for _ in range(100):
            word = random.getrandbits(8 * instruction.length) & ~instruction.mask
            word |= instruction.match
            assert decode(word) == expected(spec, word), f"{instruction.name} {word:#010x}"


def test_random_words(spec: Spec) -> None:
    random = Random(2)
    for _ in range(20_000):
        word = random.getrandbits(32) | 3
        assert decode(word) == expected(spec, word), f"{word:#010x}"


def test_neighbours_of_instructions(spec: Spec) -> None:
    """One flipped bit of an instruction is another one, or illegal, but never a wrong one."""
    random = Random(3)
    for instruction in spec.instructions:
        if instruction.length == 4:
            word = instruction.match | random.getrandbits(32) & ~instruction.mask
            for bit in range(2, 32):
                flipped = word ^ 1 << bit
                assert decode(flipped) == expected(spec, flipped), f"{flipped:#010x}"


@pytest.mark.parametrize("word", [0x0000_0000, 0xFFFF_FFFF, 0x0000_205F, 0x0000_001F, 0x9002_0000])
def test_defined_illegal_words(word: int) -> None:
    """All zeros and all ones are illegal (I 1.5), and so is what is longer than 32 bits."""
    decoded = decode(word)
    raw = word & (0xFFFF if word & 3 != 3 else 0xFFFFFFFF)
    assert decoded & 0x1FF == OP_ILLEGAL
    assert decoded >> 32 & 0xFFFFFFFF == raw


def test_tables_of_the_package_find_the_same_encodings(spec: Spec) -> None:
    random = Random(4)
    for _ in range(20_000):
        word = random.getrandbits(32)
        found, wanted = find_encoding(word), spec.match(word if word & 3 == 3 else word & 0xFFFF)
        assert (found and found.name) == (wanted and wanted.name), f"{word:#010x}"
        if found is not None and wanted is not None:
            assert found.values(word) == wanted.operand_values(word)
            assert found.encode(found.values(word)) == word & ((1 << 8 * found.length) - 1)
