"""``specs/riscv/csrs.toml`` and ``causes.toml`` as frozen values."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALL_BITS = (1 << 64) - 1
KINDS = ("storage", "alias", "computed", "constant")
TVALS = ("address", "instruction", "pc", "zero")
_KEYS = {
    "number", "kind", "alias_of", "fields", "write", "reset", "legal", "range", "step",
    "implemented", "clause",
}  # fmt: skip


class CsrError(ValueError):
    """An entry of csrs.toml or causes.toml is wrong; the text names it."""


@dataclass(frozen=True)
class CsrField:
    """A field: its lowest bit, its width, and the values a write may leave (None: any)."""

    name: str
    low: int
    width: int
    legal: tuple[int, ...] | None

    @property
    def mask(self) -> int:
        """The field's bits in the register."""
        return ((1 << self.width) - 1) << self.low


@dataclass(frozen=True)
class Csr:
    """One register. ``reset`` and ``write`` are 64-bit patterns; ``view`` the bits of its fields.

    ``family`` is the name of a numbered register without its number (and its own name otherwise).
    """

    name: str
    family: str
    number: int
    kind: str
    alias_of: str | None
    fields: tuple[CsrField, ...]
    view: int
    write: int
    reset: int
    clause: str

    @property
    def privilege(self) -> int:
        """The lowest mode that may access it: 0 U, 1 S, 3 M (Volume II, 2.1)."""
        return self.number >> 8 & 3

    @property
    def read_only(self) -> bool:
        """Whether a write is an illegal instruction (Volume II, 2.1)."""
        return self.number >> 10 == 3


@dataclass(frozen=True)
class Cause:
    """An exception or interrupt and its code; ``tval`` is "" for interrupts."""

    name: str
    code: int
    interrupt: bool
    tval: str


def load_csrs(folder: Path) -> tuple[Csr, ...]:
    """Every register of csrs.toml, in file order, numbered ones spelled out."""
    data = tomllib.loads((folder / "csrs.toml").read_text())["csrs"]
    found: list[Csr] = []
    for name, entry in data.items():
        try:
            found += _registers(name, entry)
        except (KeyError, CsrError) as error:
            raise CsrError(f"csrs.toml: {name}: {error}") from None
    names = {csr.name for csr in found}
    numbers: dict[int, str] = {}
    for csr in found:
        if csr.alias_of is not None and csr.alias_of not in names:
            raise CsrError(f"csrs.toml: {csr.name}: there is no {csr.alias_of}")
        if csr.number in numbers:
            raise CsrError(f"csrs.toml: {csr.name}: has the number of {numbers[csr.number]}")
        numbers[csr.number] = csr.name
    return tuple(found)


def load_causes(folder: Path) -> tuple[Cause, ...]:
    """Exceptions, then interrupts, by code."""
    data = tomllib.loads((folder / "causes.toml").read_text())
    found = [Cause(n, e["code"], False, e["tval"]) for n, e in data["exceptions"].items()]
    found += [Cause(n, e["code"], True, "") for n, e in data["interrupts"].items()]
    if len({(cause.interrupt, cause.code) for cause in found}) != len(found):
        raise CsrError("causes.toml: two causes have the same code")
    for cause in found:
        if not 0 <= cause.code < 64 or (not cause.interrupt and cause.tval not in TVALS):
            raise CsrError(f"causes.toml: {cause.name}: its code or tval is none")
    return tuple(sorted(found, key=lambda cause: (cause.interrupt, cause.code)))


def _registers(name: str, entry: dict[str, Any]) -> list[Csr]:
    if unknown := set(entry) - _KEYS:
        raise CsrError(f"unknown key {sorted(unknown)[0]!r}")
    kind = entry["kind"]
    if kind not in KINDS or (kind == "alias") != ("alias_of" in entry):
        raise CsrError(f"kind is {kind!r}")
    fields = _fields(entry.get("fields", {}), entry.get("legal", {}))
    by_name = {field.name: field for field in fields}
    view = sum(field.mask for field in fields) if fields else ALL_BITS
    write = entry.get("write", "none")
    if write not in ("all", "none"):
        write = sum(by_name[field].mask for field in write)
    else:
        write = view if write == "all" else 0
    reset = 0
    for field, value in entry.get("reset", {}).items():
        if value >> by_name[field].width:
            raise CsrError(f"{field} cannot be {value}")
        reset |= value << by_name[field].low
    if kind in ("constant", "computed") and write:
        raise CsrError(f"a {kind} register has nothing to write")
    first, last = entry.get("range", (0, 0))
    real_first, real_last = entry.get("implemented", (first, last))
    made = []
    for n in range(first, last + 1, entry.get("step", 1)):
        real = real_first <= n <= real_last
        csr = Csr(
            name.replace("{n}", str(n)), name.replace("{n}", ""), entry["number"] + n - first,
            kind if real else "constant", entry.get("alias_of"), fields, view,
            write if real else 0, reset, entry["clause"],
        )  # fmt: skip
        if not 0 <= csr.number < 4096 or (csr.read_only and csr.write):
            raise CsrError(f"the number {csr.number:#x} does not allow this")
        made.append(csr)
    return made


def _fields(spans: dict[str, str], legal: dict[str, list[int]]) -> tuple[CsrField, ...]:
    fields = []
    taken = 0
    for name, span in spans.items():
        high, _, low = span.partition(":")
        width = int(high) - int(low or high) + 1
        values = tuple(legal[name]) if name in legal else None
        field = CsrField(name, int(low or high), width, values)
        if width < 1 or taken & field.mask or int(high) > 63:
            raise CsrError(f"the bits of {name} are not its own")
        if values is not None and any(value >> width for value in values):
            raise CsrError(f"a legal value of {name} does not fit")
        taken |= field.mask
        fields.append(field)
    if unknown := set(legal) - set(spans):
        raise CsrError(f"legal names {sorted(unknown)[0]}, which is no field")
    return tuple(fields)
