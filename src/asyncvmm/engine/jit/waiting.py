"""Waiting for another thread for a moment, outside Python's lock and without going to sleep."""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Final

from asyncvmm.engine.jit.object_cache import compile_cached
from asyncvmm.engine.jit.objects import parse_object

_SPIN: Final = """
declare void @llvm.x86.sse2.pause()
define i64 @spin(ptr %place, i64 %seen, i64 %limit, i64 %linger) {
entry:
  br label %look
look:
  %n = phi i64 [0, %entry], [%next, %again]
  %now = load atomic i64, ptr %place acquire, align 8
  %changed = icmp ne i64 %now, %seen
  br i1 %changed, label %yes, label %more
more:
  %next = add i64 %n, 1
  %over = icmp sge i64 %next, %limit
  br i1 %over, label %no, label %again
again:
  call void @llvm.x86.sse2.pause()
  br label %look
yes:
  %left = phi i64 [%linger, %look], [%fewer, %rest]
  %enough = icmp sle i64 %left, 0
  br i1 %enough, label %done, label %rest
rest:
  call void @llvm.x86.sse2.pause()
  %fewer = sub i64 %left, 1
  br label %yes
done:
  ret i64 1
no:
  ret i64 0
}
"""


@functools.cache
def make_spin(cache: Path | None) -> Callable[[int, int, int, int], int]:
    """``spin(address, seen, limit, linger)``: 1 when the word there is not ``seen``, 0 after ``limit`` looks.

    A look costs 15 to 50 ns; so does each turn of ``linger`` before it returns 1. ``cache`` is a
    folder for object code.
    """
    part = parse_object(compile_cached(_SPIN, cache))
    code = mmap.mmap(-1, len(part.image), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    view = (ctypes.c_char * len(part.image)).from_buffer(code)
    address = ctypes.addressof(view)
    code[: len(part.image)] = part.link(address, {})
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_long, ctypes.c_void_p, ctypes.c_long, ctypes.c_long, ctypes.c_long
    )
    function = prototype(address + part.functions["spin"].start)

    def spin(place: int, seen: int, limit: int, linger: int) -> int:
        return int(function(place, seen, limit, linger))

    spin.__dict__["code"] = view  # the memory lives as long as the function
    return spin
