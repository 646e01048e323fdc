"""JSON texts that somebody changed who knows what is in them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any, Final

# As text, because some of them no writer would write.
LITERALS: Final = (
    "null", "true", "false", "0", "-1", "1", "2", "-0.0", "1.5", "1e400", "-1e400", "NaN", "Infinity",
    "9223372036854775807", "9223372036854775808", "18446744073709551616", "-9223372036854775809",
    "9" * 400, "9" * 5000, "1e308", "[]", "{}", "[[]]", "[0]", "[null, null]", '{"": 0}', '""', '"x"',
    '"\\u0000"', '"a\\u0000b"', '"\\ud800"', '"\\udcff"', '"\\u001b[2J"', '"\\u202e"', '"\\n"', '"a/b"',
    '".."', '"../x"', '"../../.."', '"/"', '"/etc/passwd"', '"_stopped"', '"é"', f'"{"x" * 5000}"',
    f'"{"../" * 100}"', "[" * 400 + "]" * 400, "[" * 100_000, '{"a":' * 400 + "1" + "}" * 400,
)  # fmt: skip
_MARK: Final = "\ue000%d\ue000"


def changed_json(
    data: bytes, goods: Sequence[Any], literals: Sequence[str] = (), *, damage: float = 0.2
) -> bytes:
    """One of ``goods`` with some of its values replaced, moved, left out or given twice.

    ``literals`` are further texts of values, which this file's format has a meaning for; ``damage`` is the
    part of the texts in which single bytes are changed besides.
    """
    rng = random.Random(data)
    value = copy.deepcopy(rng.choice(goods))
    used: list[str] = []
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        value = _change(rng, value, used, (*literals, *literals, *LITERALS))
    text = json.dumps(value, indent=rng.choice((None, 1)))
    for number, literal in enumerate(used):
        most = -1 if len(literal) < 1000 else 2  # of what may have been copied a thousand times
        text = text.replace(json.dumps(_MARK % number), literal, most)
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    if rng.random() < damage and raw:
        for _ in range(rng.choice((1, 1, 2, 4))):
            if not raw:
                break
            at = rng.randrange(len(raw))
            if rng.random() < 0.2:
                del raw[at:]
                break
            raw[at : at + rng.randrange(2)] = rng.choice(
                (
                    b"",
                    b"\0",
                    b"\xff",
                    b'"',
                    b"\\",
                    b"{",
                    b"]",
                    b",",
                    b"9",
                    b"\xed\xa0\x80",
                    raw[at:],
                )
            )
    return bytes(raw)


def _change(rng: random.Random, value: Any, used: list[str], literals: Sequence[str]) -> Any:
    """``value`` with one change somewhere in it."""
    places = list(_places(value, ()))
    where = rng.choice(places)
    if not where:  # the whole text
        return _other(rng, used, literals) if rng.random() < 0.1 else value
    *path, last = where
    inside = value
    for step in path:
        inside = inside[step]
    how = rng.randrange(8)
    if how == 0:
        del inside[last]
    elif how == 1 and isinstance(inside, list):
        inside.insert(last, copy.deepcopy(inside[last]))
    elif how == 1:
        inside[rng.choice(("x", "", "format", "name", str(last) + "x"))] = inside[last]
    elif how == 2:
        other = value
        for step in rng.choice(places):
            other = other[step]
        inside[last] = copy.deepcopy(other)
    elif how == 3 and isinstance(inside[last], list) and len(places) < 2000:
        inside[last] = inside[last] * rng.choice((0, 2, 3, 1000 if len(inside[last]) < 5 else 4))
    else:
        inside[last] = _other(rng, used, literals)
    return value


def _other(rng: random.Random, used: list[str], literals: Sequence[str]) -> str:
    used.append(rng.choice(literals))
    return _MARK % (len(used) - 1)


def _places(value: Any, here: tuple[Any, ...]) -> Any:
    yield here
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _places(each, (*here, key))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _places(each, (*here, number))
