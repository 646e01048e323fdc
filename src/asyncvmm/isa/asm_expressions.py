"""Expressions of the assembler: integers, symbols, ``.``, numeric labels and C's operators."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<local>\d+[fb](?![\w.]))|(?P<number>0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)"
    r"|(?P<char>'(?:\\.|[^'\\])')|(?P<name>[A-Za-z_.$][\w.$]*)|(?P<sign><<|>>|[-+*/%&|^~()]))"
)
_LEVELS: Final = (("|",), ("^",), ("&",), ("<<", ">>"), ("+", "-"), ("*", "/", "%"))
ESCAPES: Final = {"n": 10, "t": 9, "r": 13, "0": 0, "b": 8, "f": 12, "v": 11, "e": 27}
"""The numbers of backslashed letters."""

Lookup = Callable[[str], int]
"""Gives a symbol's value, or raises KeyError with its name."""


class ExpressionError(ValueError):
    """An expression does not read; the text says why."""


def evaluate(text: str, lookup: Lookup) -> int:
    """The value of an expression; ExpressionError or the lookup's KeyError."""
    return _Parser(text, lookup).value()


class _Parser:
    """Precedence climbing over the tokens of one expression."""

    def __init__(self, text: str, lookup: Lookup) -> None:
        self.text = text
        self.lookup = lookup
        self.tokens: list[tuple[str, str]] = []
        place = 0
        while text[place:].strip():
            found = _TOKEN.match(text, place)
            if found is None or found.lastgroup is None:
                raise ExpressionError(f"{text.strip()!r} is no expression")
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            place = found.end()
        self.tokens.append(("end", ""))
        self.place = 0

    def value(self) -> int:
        result = self.binary(0)
        if self.tokens[self.place][0] != "end":
            raise ExpressionError(f"{self.text.strip()!r} is no expression")
        return result

    def binary(self, level: int) -> int:
        if level == len(_LEVELS):
            return self.unary()
        result = self.binary(level + 1)
        while self.tokens[self.place][1] in _LEVELS[level]:
            sign = self.tokens[self.place][1]
            self.place += 1
            result = _apply(sign, result, self.binary(level + 1))
        return result

    def unary(self) -> int:
        kind, text = self.tokens[self.place]
        self.place += 1
        if kind == "number":
            return int(text, 0) if not re.fullmatch(r"0\d+", text) else int(text, 8)
        if kind == "char":
            body = text[1:-1]
            return ESCAPES.get(body[1], ord(body[1])) if body[0] == "\\" else ord(body)
        if kind in ("name", "local"):
            return self.lookup(text)
        if text in ("-", "+", "~"):
            operand = self.unary()
            return {"-": -operand, "+": operand, "~": ~operand}[text]
        if text == "(":
            result = self.binary(0)
            if self.tokens[self.place][1] != ")":
                raise ExpressionError(f"{self.text.strip()!r} lacks a closing bracket")
            self.place += 1
            return result
        raise ExpressionError(f"{self.text.strip()!r} is no expression")


def _apply(sign: str, a: int, b: int) -> int:
    if sign in ("/", "%"):
        if b == 0:
            raise ExpressionError("division by zero")
        quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return quotient if sign == "/" else a - quotient * b
    if sign in ("<<", ">>"):
        if not 0 <= b <= 64:
            raise ExpressionError(f"a shift by {b}")
        return a << b if sign == "<<" else a >> b
    return {"+": a + b, "-": a - b, "*": a * b, "&": a & b, "|": a | b, "^": a ^ b}[sign]
