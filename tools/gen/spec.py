"""``specs/riscv/*.toml`` as frozen values: what every generator reads.

``load()`` gives a ``Spec`` that has been validated: every bit of every instruction is accounted
for, no two encodings overlap unless one says it is a special case of the other, every operand is
used, every ``does`` and ``expands`` reads. A ``SpecError`` names the file and the entry.
"""

from __future__ import annotations

import ast
import string
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.gen.csrs import Cause, Csr, CsrError, load_causes, load_csrs
from tools.gen.does import FUNCTIONS, Body, DoesError, Function, parse_does
from tools.gen.encoding import REGISTERS, Encoding, EncodingError, Field, parse_bits

__all__ = ["FUNCTIONS", "Body", "Expansion", "Function", "Instruction", "Spec", "SpecError", "load"]

SPECS = Path(__file__).resolve().parent.parent.parent / "specs" / "riscv"

EXTENSIONS = (
    "i", "m", "a", "f", "d", "zicsr", "zifencei", "zba", "zbb", "zbs", "privileged", "c",
)  # fmt: skip
"""The instruction files in the order that numbers operations: append only."""

FIRST_OP = 2
"""Operation 0 is "not decoded yet" and 1 is "illegal"."""

_KEYS = {"bits", "assembly", "does", "expands", "reserved", "special_case_of", "ignores", "hot"}


class SpecError(ValueError):
    """A specification file is wrong; the text names the file and the entry."""


@dataclass(frozen=True)
class Expansion:
    """What a compressed (or special-case) encoding means: a base instruction and all its operands.

    Each operand is a number, or the name of an operand of the encoding.
    """

    name: str
    operands: tuple[tuple[str, str | int], ...]


@dataclass(frozen=True)
class Instruction:
    """One encoding. One with ``expands`` has no operation of its own (``op`` is its base's)."""

    name: str
    extension: str
    length: int
    match: int
    mask: int
    format: str
    fields: tuple[Field, ...]
    assembly: str
    does: str
    body: Body
    op: int
    float_operands: frozenset[str]
    expands: Expansion | None = None
    reserved: str | None = None
    special_case_of: str | None = None
    ignores: frozenset[str] = frozenset()
    hot: int = 0

    @property
    def operands(self) -> tuple[str, ...]:
        """The operands' names, from the highest bit down."""
        return tuple(field.name for field in self.fields)

    @property
    def field(self) -> dict[str, Field]:
        """The operand fields by name."""
        return {field.name: field for field in self.fields}

    @property
    def has_rm(self) -> bool:
        """Whether the engine must resolve a rounding mode, and trap when it is reserved."""
        return "rm" in self.operands

    @property
    def uses_float(self) -> bool:
        """Whether it is illegal while mstatus.FS is Off."""
        return self.extension in ("f", "d")

    @property
    def identifier(self) -> str:
        """The name as a Python identifier in upper case: ``FENCE_I``, ``AND``."""
        return self.name.replace(".", "_").upper()

    def operand_values(self, word: int) -> dict[str, int]:
        """Every operand's value in ``word``."""
        return {field.name: field.extract(word) for field in self.fields}

    def is_reserved(self, values: dict[str, int]) -> bool:
        """Whether these operand values make the encoding a reserved one."""
        if self.has_rm and values["rm"] in (5, 6):
            return True
        if self.reserved is None:
            return False
        name, number = self.reserved.split(" == ")
        return values[name] == int(number)

    def encode(self, values: dict[str, int]) -> int:
        """The instruction word with these operands; ValueError when one does not fit."""
        word = self.match
        for field in self.fields:
            word |= field.insert(values[field.name])
        return word


@dataclass(frozen=True)
class Spec:
    """Everything in ``specs/riscv``."""

    titles: dict[str, str]
    instructions: tuple[Instruction, ...]
    csrs: tuple[Csr, ...]
    causes: tuple[Cause, ...]

    @property
    def by_name(self) -> dict[str, Instruction]:
        """All encodings by name."""
        return {instruction.name: instruction for instruction in self.instructions}

    @property
    def operations(self) -> tuple[Instruction, ...]:
        """The instructions with an operation of their own, in the order of their ``op``."""
        return tuple(i for i in self.instructions if i.expands is None)

    def of(self, extension: str) -> tuple[Instruction, ...]:
        """The encodings of one extension, in file order."""
        return tuple(i for i in self.instructions if i.extension == extension)

    def match(self, word: int) -> Instruction | None:
        """The encoding that ``word`` (the fetched bits) is, or None when it is illegal."""
        length = 4 if word & 3 == 3 else 2
        best: Instruction | None = None
        for candidate in self.instructions:
            if candidate.length == length and word & candidate.mask == candidate.match:
                if best is None or candidate.mask.bit_count() > best.mask.bit_count():
                    best = candidate
        if best is None or best.is_reserved(best.operand_values(word)):
            return None
        return best


def load(folder: Path = SPECS) -> Spec:
    """Read and validate every instruction file of ``folder``."""
    formats = _read(folder / "formats.toml")["formats"]
    layouts = {layout: name for name, layout in formats.items()}
    titles: dict[str, str] = {}
    found: dict[str, Instruction] = {}
    op = FIRST_OP
    for extension in EXTENSIONS:
        path = folder / f"{extension}.toml"
        data = _read(path)
        if data.get("extension") != extension:
            raise SpecError(f"{path.name}: extension must be {extension!r}")
        titles[extension] = data["title"]
        for name, entry in data["instructions"].items():
            try:
                if name in found:
                    raise SpecError(f"already defined in {found[name].extension}.toml")
                found[name] = _instruction(name, extension, entry, layouts, found, op)
            except (SpecError, EncodingError, DoesError) as error:
                raise SpecError(f"{path.name}: {name}: {error}") from None
            op += found[name].expands is None
    try:
        spec = Spec(titles, tuple(found.values()), load_csrs(folder), load_causes(folder))
    except CsrError as error:
        raise SpecError(str(error)) from None
    _check_overlaps(spec)
    return spec


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SpecError(f"{path.name}: {error}") from None


def _instruction(
    name: str,
    extension: str,
    entry: dict[str, Any],
    layouts: dict[str, str],
    known: dict[str, Instruction],
    op: int,
) -> Instruction:
    if unknown := set(entry) - _KEYS:
        raise SpecError(f"unknown key {sorted(unknown)[0]!r}")
    if not {"bits", "assembly"} <= set(entry) or ("does" in entry) == ("expands" in entry):
        raise SpecError("needs bits, assembly, and one of does and expands")
    encoding = parse_bits(entry["bits"])
    if (encoding.match & 3 == 3) != (encoding.length == 4) or encoding.mask & 3 != 3:
        raise SpecError("the two lowest bits must be 11 in a 32-bit word and nowhere else")
    if encoding.layout not in layouts:
        raise SpecError(f"no format in formats.toml has the layout {encoding.layout!r}")
    names = frozenset(field.name for field in encoding.fields)
    expansion = None
    if "expands" in entry:
        expansion = _expansion(entry["expands"], encoding, known)
        base = known[expansion.name]
        does, body, op = base.does, base.body, base.op
        used = {value for _, value in expansion.operands if isinstance(value, str)}
        floats = frozenset(
            value
            for operand, value in expansion.operands
            if operand in base.float_operands and isinstance(value, str)
        )
    else:
        does = entry["does"]
        body = parse_does(does, names)
        used = set(body.operands)
        floats = body.reads_f | ({"rd"} if body.writes_f else frozenset())
    ignores = frozenset(entry.get("ignores", ()))
    for extra in names - used - ignores:
        raise SpecError(f"the operand {extra} is not used")
    for extra in (used | ignores) - names:
        raise SpecError(f"there is no operand {extra}")
    _check_assembly(entry["assembly"], names)
    _check_reserved(entry.get("reserved"), names)
    return Instruction(
        name, extension, encoding.length, encoding.match, encoding.mask, layouts[encoding.layout],
        encoding.fields, entry["assembly"], does, body, op, floats, expansion,
        entry.get("reserved"), entry.get("special_case_of"), ignores, entry.get("hot", 0),
    )  # fmt: skip


def _expansion(text: str, encoding: Encoding, known: dict[str, Instruction]) -> Expansion:
    """Parse ``"addi(rd=rd, rs1=2, imm=uimm)"``; every value must fit the base's operand."""
    try:
        call = ast.parse(f"i_{text}", mode="eval").body  # "and", "or" are Python's words
    except SyntaxError as error:
        raise SpecError(f"expands: {error.msg}") from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise SpecError(f"expands must read name(operand=value, ...), not {text!r}")
    base = known.get(call.func.id.removeprefix("i_"))
    if base is None or base.expands is not None:
        raise SpecError(f"expands: no instruction before this one answers to {text!r}")
    here = {field.name: field for field in encoding.fields}
    operands: list[tuple[str, str | int]] = []
    for keyword in call.keywords:
        target = base.field.get(keyword.arg or "")
        if target is None:
            raise SpecError(f"expands: {base.name} has no operand {keyword.arg}")
        low, high = target.range
        match keyword.value:
            case ast.Constant(value=int(value)) if low <= value <= high:
                operands.append((target.name, value))
            case ast.Name(name) if name in here and _fits(here[name], target):
                operands.append((target.name, name))
            case other:
                raise SpecError(f"expands: {ast.unparse(other)} does not fit {target.name}")
    if {operand for operand, _ in operands} != set(base.operands):
        raise SpecError(f"expands must give each of {', '.join(base.operands)} once")
    return Expansion(base.name, tuple(operands))


def _fits(source: Field, target: Field) -> bool:
    (low, high), (least, most) = source.range, target.range
    return (
        least <= low and high <= most and (source.name in REGISTERS) == (target.name in REGISTERS)
    )


def _check_assembly(template: str, names: frozenset[str]) -> None:
    shown = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    if unknown := shown - names:
        raise SpecError(f"assembly shows {sorted(unknown)[0]}, which is no operand")


def _check_reserved(condition: str | None, names: frozenset[str]) -> None:
    if condition is None:
        return
    name, equals, number = condition.partition(" == ")
    if name not in names or not equals or not number.isdecimal():
        raise SpecError(f"reserved must read 'operand == number', not {condition!r}")


def _check_overlaps(spec: Spec) -> None:
    """Two encodings may share a word only if one says it is a special case of the other."""
    by_name = spec.by_name
    for instruction in spec.instructions:
        parent = by_name.get(instruction.special_case_of or instruction.name)
        if parent is None or instruction.mask & parent.mask != parent.mask:
            raise SpecError(
                f"{instruction.extension}.toml: {instruction.name}: is no special case of "
                f"{instruction.special_case_of}"
            )
    for position, a in enumerate(spec.instructions):
        for b in spec.instructions[:position]:
            if a.length == b.length and not (a.match ^ b.match) & a.mask & b.mask:
                if b.name not in _ancestors(a, by_name) and a.name not in _ancestors(b, by_name):
                    raise SpecError(
                        f"{a.extension}.toml: {a.name}: overlaps {b.name} of {b.extension}.toml"
                    )


def _ancestors(instruction: Instruction, by_name: dict[str, Instruction]) -> list[str]:
    found: list[str] = []
    while instruction.special_case_of is not None:
        instruction = by_name[instruction.special_case_of]
        found.append(instruction.name)
    return found
