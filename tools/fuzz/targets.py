"""What can be fuzzed, by one rule: a module's public functions ``fuzz_NAME(data: bytes) -> None``.

``fuzz_one`` of ``plugins/asyncvmm_plugins/PLUGIN/tests/fuzz.py`` is the target ``PLUGIN``, ``fuzz_NAME`` is
``PLUGIN.NAME``; modules of ``tools/fuzz/of`` likewise. A module may have ``SEEDS``: good inputs, from which
most of its inputs are made by changing them (or a mapping from NAME to those).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

import asyncvmm_plugins
from asyncvmm.base.errors import ConfigError
from asyncvmm.plugin.options import nearest
from tools.fuzz import of

PREFIX: Final = "fuzz_"


@attrs.frozen
class Target:
    """One function that takes an input: any exception that comes out of it is a finding."""

    name: str
    function: Callable[[bytes], None]
    seeds: Sequence[bytes] = ()


def module_names() -> dict[str, str]:
    """The modules with targets, by the first part of their targets' names."""
    found = {}
    for folder in asyncvmm_plugins.__path__:
        for path in sorted(Path(folder).glob("*/tests/fuzz.py")):
            name = path.parts[-3]
            found[name] = f"{asyncvmm_plugins.__name__}.{name}.tests.fuzz"
    for module in pkgutil.iter_modules(of.__path__):
        found[module.name] = f"{of.__name__}.{module.name}"
    return found


def find_targets(names: Sequence[str] = ()) -> list[Target]:
    """Those of the given names, or of modules so named; all when none is given.

    ConfigError names a target that is not there.
    """
    every: dict[str, Target] = {}
    for name, path in module_names().items():
        module = importlib.import_module(path)
        for key, value in vars(module).items():
            if key.startswith(PREFIX) and callable(value):
                full = name if key == "fuzz_one" else f"{name}.{key.removeprefix(PREFIX)}"
                seeds = getattr(module, "SEEDS", ())
                if isinstance(seeds, Mapping):
                    seeds = seeds.get(key.removeprefix(PREFIX), ())
                every[full] = Target(full, value, tuple(seeds))
    if not names:
        return list(every.values())
    chosen: dict[str, Target] = {}
    for wanted in names:
        fits = {k: t for k, t in every.items() if k == wanted or k.startswith(f"{wanted}.")}
        if not fits:
            raise ConfigError(f"no target {wanted!r}: {nearest(wanted, every)}")
        chosen |= fits
    return list(chosen.values())
