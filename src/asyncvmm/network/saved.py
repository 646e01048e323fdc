"""Saved parts of a network, read back with care: every value is checked before anything is made of it.

``Saved`` wraps a mapping from a file that anybody may have written. Each value is taken once, by its
kind; ``done`` finds what nobody took. The errors are ConfigErrors that say where in the file it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Packet
from asyncvmm.device.net import MAX_PACKET, MIN_FRAME

MAX_NUMBER: Final = (1 << 63) - 1
MAX_ITEMS: Final = 1 << 20
MAX_TEXT: Final = 4096


class Saved:
    """``where`` is what the mapping is about, for people."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: a mapping was expected")
        self.where: Final = where
        self._rest = {str(key): item for key, item in value.items()}

    def wrong(self, key: str, text: str) -> ConfigError:
        """The error about one value."""
        return ConfigError(f"{self.where}: saved {key} {text}")

    def take(self, key: str) -> Any:
        """A value of any kind, unchecked."""
        if key not in self._rest:
            raise self.wrong(key, "is missing")
        return self._rest.pop(key)

    def number(self, key: str, low: int = 0, high: int = MAX_NUMBER) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self.take(key)
        if type(value) is not int or not low <= value <= high:
            raise self.wrong(key, f"is {str(value)[:40]}, not {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.take(key)
        if type(value) is not bool:
            raise self.wrong(key, "is neither true nor false")
        return value

    def text(self, key: str, longest: int = MAX_TEXT) -> str:
        """A short text."""
        value = self.take(key)
        if type(value) is not str or len(value) > longest:
            raise self.wrong(key, "is not a short text")
        return value

    def data(self, key: str, longest: int, shortest: int = 0) -> bytes:
        """Bytes from hexadecimal text."""
        return self._bytes(key, self.take(key), shortest, longest)

    def items(self, key: str, most: int = MAX_ITEMS) -> list[Any]:
        """A list, its items unchecked."""
        value = self.take(key)
        if not isinstance(value, list) or len(value) > most:
            raise self.wrong(key, f"is not a list of at most {most}")
        return value

    def rows(self, key: str, kinds: str, most: int = MAX_ITEMS) -> list[tuple[Any, ...]]:
        """A list of rows; ``kinds`` has a letter for each column: n(umber), t(ext), b(ytes), f(lag),
        a(ny). Bytes come as bytes.
        """
        return [self._row(key, kinds, row) for row in self.items(key, most)]

    def part(self, key: str) -> Saved:
        """A mapping within."""
        return Saved(self.take(key), f"{self.where}: {key}")

    def packet(self, key: str, item: object) -> Packet:
        """A packet that ``packed`` made."""
        row = self._row(key, "bnnnn", item, low=-1)
        if not MIN_FRAME <= len(row[0]) <= MAX_PACKET or max(row[1:]) > 0xFFFF:
            raise self.wrong(key, "holds a packet that cannot be")
        return Packet(*row)

    def done(self) -> None:
        """ConfigError when there is something that nobody asked for."""
        if self._rest:
            raise ConfigError(f"{self.where}: saved {', '.join(sorted(self._rest))} is not known")

    def _row(self, key: str, kinds: str, row: object, low: int = 0) -> tuple[Any, ...]:
        if not isinstance(row, list) or len(row) != len(kinds):
            raise self.wrong(key, f"has a row that is not {len(kinds)} values")
        values: list[Any] = []
        for kind, value in zip(kinds, row, strict=True):
            good = {
                "n": type(value) is int and low <= value <= MAX_NUMBER,
                "t": type(value) is str and len(value) <= MAX_TEXT,
                "b": type(value) is str,
                "f": type(value) is bool,
                "a": True,
            }[kind]
            if not good:
                raise self.wrong(key, f"has {str(value)[:40]} where it cannot be")
            values.append(self._bytes(key, value, 0, MAX_PACKET) if kind == "b" else value)
        return tuple(values)

    def _bytes(self, key: str, value: object, shortest: int, longest: int) -> bytes:
        try:
            if type(value) is not str or not 2 * shortest <= len(value) <= 2 * longest:
                raise ValueError
            return bytes.fromhex(value)
        except ValueError:
            raise self.wrong(key, f"is not {shortest} to {longest} bytes in hexadecimal") from None


def packed(packet: Packet) -> list[object]:
    """A packet as plain data."""
    return [
        packet.data.hex(),
        packet.checksum_start,
        packet.checksum_offset,
        packet.gso,
        packet.gso_size,
    ]
