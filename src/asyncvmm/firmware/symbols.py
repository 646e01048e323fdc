"""From addresses to the names of functions: ELF symbol tables, System.map and /proc/kallsyms."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.firmware.elf import is_elf, parse_symbols

REACH_BYTES: Final = 1 << 20  # how far code goes on after a symbol whose size nobody says
ADDRESSES: Final = 1 << 64
STT_FUNC: Final = 2
_CODE_KINDS: Final = {
    0: 0,
    STT_FUNC: 1,
    10: 1,
}  # NOTYPE, FUNC, GNU_IFUNC: the better at one address
_MAP_CODE: Final = frozenset("tTwW")


@attrs.frozen
class Symbol:
    """A function from ``address`` on. ``size_bytes`` is 0 where it is not known."""

    address: int
    name: str
    size_bytes: int = 0


class SymbolTable:
    """Finds the function that an address is in."""

    def __init__(self, symbols: Iterable[Symbol] = ()) -> None:
        """Of several symbols at one address the last one counts."""
        at = {symbol.address: symbol for symbol in symbols}
        self._symbols: Final = [at[address] for address in sorted(at)]
        self._addresses: Final = [symbol.address for symbol in self._symbols]

    def __len__(self) -> int:
        return len(self._symbols)

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self._symbols)

    def find(self, address: int) -> Symbol | None:
        """The nearest symbol below ``address`` (unsigned), unless it ends before that."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        symbol = self._symbols[index]
        reach = symbol.size_bytes or REACH_BYTES
        return symbol if address - symbol.address < reach else None


def elf_symbols(blob: bytes, name: str, offset: int = 0) -> list[Symbol]:
    """The functions and code labels of an ELF file, moved by ``offset`` bytes."""
    found = []
    for symbol in parse_symbols(blob, name):
        rank = _CODE_KINDS.get(symbol.kind)
        # "$x" and the like say where code begins; ".L" labels are inside functions.
        if rank is not None and not symbol.name.startswith(("$", ".L")):
            found.append((rank, symbol))
    found.sort(key=lambda item: item[0])
    return [
        Symbol((symbol.value + offset) % ADDRESSES, symbol.name, symbol.size_bytes)
        for _, symbol in found
    ]


def map_symbols(text: str, name: str, offset: int = 0) -> list[Symbol]:
    """The functions of a System.map or of /proc/kallsyms (``address type name [module]`` a line).

    ConfigError names the first line that is something else. A kernel that hides its addresses
    shows zeros, which give no symbols.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        try:
            address, kind, symbol = int(words[0], 16), words[1], words[2]
        except (ValueError, IndexError):
            raise ConfigError(
                f"{name}: line {number} is not a symbol (address, type, name): {line[:80]!r}"
            ) from None
        if kind in _MAP_CODE and address and not symbol.startswith(("$", ".L")):
            module = f" {words[3]}" if len(words) > 3 else ""
            found.append(Symbol((address + offset) % ADDRESSES, symbol + module))
    return found


def read_symbols(path: Path, offset: int = 0) -> list[Symbol]:
    """The functions of an ELF file or a System.map; ConfigError names the file."""
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if is_elf(blob):
        return elf_symbols(blob, str(path), offset)
    try:
        text = blob.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is neither an ELF file nor a System.map") from None
    return map_symbols(text, str(path), offset)
