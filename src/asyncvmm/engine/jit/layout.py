"""Where the attributes of compiled classes lie in memory, found by looking.

Translated code reads and writes a Hart's attributes in place. mypyc keeps ``i64`` and ``bool``
attributes as plain fields of the object; which offset each has is its affair, so it is found out: give
the attribute a value that nothing else has and look where that appears. What is not found exactly
once is a LayoutError, and then there is no translating engine.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from librt.vecs import vec
from mypy_extensions import i32, i64

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.hart import Hart
from asyncvmm.arch.hart_time import HartTime
from asyncvmm.bus.address_map import Bus
from asyncvmm.memory.pages import Ram
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import Timeline

_PAGES = 7
_PROBE_WORDS = 1237


class LayoutError(RuntimeError):
    """The objects are not laid out as expected: not compiled, or by another compiler."""


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_byte * 128),
    ]


def address_of(words: Any) -> int:
    """The host address of the first item of a vec; it stays as long as the vec's length does."""
    view = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(words), ctypes.byref(view), 0)
    address = view.buf or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return address


class Layout:
    """Offsets by ``Class.attribute``."""

    def __init__(self) -> None:
        ram = Ram(0x80000000, _PAGES * 4096)
        hart = Hart(0, ram, Bus(), CodeCache())
        timeline = Timeline()
        clock = Clock(timeline)
        self._objects: dict[str, Any] = {
            "Hart": hart,
            "Ram": ram,
            "Tlb": hart.tlb,
            "FloatStatus": hart.fp,
            "Clock": clock,
            "HartTime": HartTime(hart, clock),
            "Timeline": timeline,
        }
        self._found: dict[str, int] = {}
        self._next = 0x5EED0000C0FFEE01

    def fill(self, text: str) -> str:
        """The text with every ``<Class.attribute>`` replaced by its offset."""
        return re.sub(r"<(\w+\.\w+)>", lambda match: str(self.offset(match[1])), text)

    def offset(self, name: str) -> int:
        """The offset of one attribute; of a vec, that of its length, before its address."""
        if name not in self._found:
            kind, _, attribute = name.partition(".")
            self._found[name] = self._look(self._objects[kind], attribute)
        return self._found[name]

    def _look(self, owner: Any, attribute: str) -> int:
        value = getattr(owner, attribute)
        if isinstance(value, bool):
            return self._look_bool(owner, attribute)
        if isinstance(value, int):
            self._next += 0x0101010101
            setattr(owner, attribute, self._next)
            offset = _where(owner, [self._next])
            setattr(owner, attribute, value)
        elif type(value).__name__.startswith("vec"):
            if len(value) and type(value[0]) is not int:
                return _nested(owner, value)
            # Several attributes may hold one empty vec.
            zeros = [0] * _PROBE_WORDS
            narrow = memoryview(value).itemsize == 4
            other: Any = vec[i32](zeros) if narrow else vec[i64](zeros)
            setattr(owner, attribute, other)
            offset = _where(owner, [_PROBE_WORDS, address_of(other)])
            setattr(owner, attribute, value)
        else:
            offset = _where(owner, [id(value)])
        return offset

    def _look_bool(self, owner: Any, attribute: str) -> int:
        before = getattr(owner, attribute)
        setattr(owner, attribute, False)
        clear = _memory(owner)
        setattr(owner, attribute, True)
        found = [i for i, (a, b) in enumerate(zip(clear, _memory(owner), strict=True)) if a != b]
        setattr(owner, attribute, before)
        if len(found) != 1:
            raise LayoutError(f"{attribute}: {len(found)} places")
        return found[0]


def _memory(owner: Any) -> bytes:
    return ctypes.string_at(id(owner), type(owner).__basicsize__)


def _words(owner: Any) -> list[int]:
    raw = _memory(owner)
    return [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw) - 7, 8)]


def _where(owner: Any, wanted: list[int]) -> int:
    words = _words(owner)
    length = len(wanted)
    found = [i for i in range(len(words)) if words[i : i + length] == wanted]
    if len(found) != 1:
        raise LayoutError(f"{type(owner).__name__}: {len(found)} places for an attribute")
    return found[0] * 8


def _nested(owner: Any, value: Any) -> int:
    """A vec of vecs: items of (length, address), 16 bytes each."""
    words = _words(owner)
    first = [len(value[0]), address_of(value[0])]
    for i in range(len(words) - 1):
        if words[i] != len(value) or words[i + 1] < 1 << 16 or words[i + 1] & 7:
            continue
        item = (ctypes.c_uint64 * 2).from_address(words[i + 1])
        if list(item) == first:
            return i * 8
    raise LayoutError(f"{type(owner).__name__}: no vec of vecs found")
