"""Hypothesis strategies of valid instructions and of whole programs (needs the test extra)."""

from __future__ import annotations

from hypothesis import assume
from hypothesis import strategies as st

from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference import find_encoding
from asyncvmm.isa.tables import ENCODINGS
from asyncvmm.testing.generated import ALL_EXTENSIONS, GeneratedProgram, build_program

__all__ = ["GeneratedProgram", "instructions", "programs"]


@st.composite
def _operands(draw: st.DrawFn, encoding: Encoding) -> int:
    """A word of this encoding with any legal operands."""
    word = encoding.match
    for operand in encoding.operands:
        if operand.name == "rm":
            word |= operand.insert(draw(st.sampled_from((0, 1, 2, 3, 4, 7))))
            continue
        steps = draw(st.integers(0, (operand.high - operand.low) // operand.step))
        word |= operand.insert(operand.low + operand.step * steps)
    # Reserved operands, and what is a special case that is (c.mv from x0), are drawn again.
    assume(find_encoding(word) is not None)
    return word


def instructions(
    extensions: frozenset[str] = ALL_EXTENSIONS, roles: frozenset[str] | None = None
) -> st.SearchStrategy[int]:
    """Words (16 or 32 bits) of legal instructions of these extensions and roles."""
    chosen = [
        encoding
        for encoding in ENCODINGS
        if encoding.extension in extensions and (roles is None or encoding.role in roles)
    ]
    return st.sampled_from(chosen).flatmap(_operands)


def programs(
    *, max_size: int = 40, extensions: frozenset[str] = ALL_EXTENSIONS
) -> st.SearchStrategy[GeneratedProgram]:
    """Programs of up to ``max_size`` pieces; they shrink by leaving pieces out."""
    number = st.integers(0, (1 << 32) - 1)
    return st.builds(
        lambda pieces, state: build_program(pieces, state, extensions=extensions),
        st.lists(number, min_size=1, max_size=max_size),
        number,
    )
