"""Which engine runs a guest: translated code where llvmlite is installed, else the interpreter."""

from __future__ import annotations

import functools
import importlib.util
import logging
import platform
from collections.abc import Callable

from asyncvmm.base.errors import ConfigError
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.plugin.images import default_cache_root

_log = logging.getLogger("asyncvmm")


@functools.cache
def why_not_jit() -> str:
    """Why there is no translating engine here, or nothing; a warning is logged the first time."""
    reason = ""
    if platform.machine() not in ("x86_64", "AMD64"):
        reason = f"it makes code for x86-64, and this is {platform.machine()}"
    elif importlib.util.find_spec("llvmlite") is None:
        reason = "llvmlite is not installed (pip install llvmlite)"
    if reason:
        _log.warning("guests are interpreted, several times slower than translated: %s", reason)
    return reason


def find_spin() -> Callable[[int, int, int, int], int]:
    """What a thread may look for another one with; only where guests are translated."""
    from asyncvmm.engine.jit.waiting import make_spin

    return make_spin(default_cache_root() / "jit")


def choose_engine(name: str) -> Engine:
    """The engine that ``GuestConfig.engine`` names; ConfigError when it cannot be had."""
    if name == "interpreter":
        return Interpreter()
    reason = why_not_jit()
    if reason:
        if name == "jit":
            raise ConfigError(f"engine jit: {reason}")
        return Interpreter()
    from asyncvmm.engine.jit.build import make_engine

    return make_engine(default_cache_root() / "jit")
