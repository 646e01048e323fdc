"""What an engine has done for a guest; never visible to the guest."""

from __future__ import annotations

import attrs

from asyncvmm.arch.code import CodeCache
from asyncvmm.engine.interpreter import Engine, Interpreter


@attrs.frozen
class EngineStats:
    """Counters of one guest's engine since it was made; all but ``name`` 0 where it has no such thing.

    Steps are instructions and traps. ``interpreted`` of them were left to the interpreter.
    ``blocks`` were translated in ``translation_ns`` of the guest's own time, and pages that stayed hot
    were optimised as ``regions`` in ``optimising_ns`` of a background thread's; ``cache_hits`` regions came
    from the disk cache, ``cache_misses`` were not there. ``changed`` counts pages whose translation
    became void because they were written to, ``evictions`` pages whose translation made room for
    other code; ``reused`` pages had been translated by another guest; ``code_bytes`` is what
    translations take now, those that guests share included, ``code_bytes_most`` the most ever.
    ``decoded_evictions`` counts pages whose decoded instructions made room for others.
    """

    name: str
    steps: int = 0
    interpreted: int = 0
    blocks: int = 0
    translation_ns: int = 0
    regions: int = 0
    optimising_ns: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    changed: int = 0
    evictions: int = 0
    code_bytes: int = 0
    code_bytes_most: int = 0
    reused: int = 0
    decoded_evictions: int = 0

    @classmethod
    def of(cls, engine: Engine, code: CodeCache) -> EngineStats:
        """The counters of ``engine``, and of the guest's decoded ``code``, now."""
        counted = engine.statistics()
        known = {field.name for field in attrs.fields(cls)} - {"name"}
        name = "interpreter" if isinstance(engine, Interpreter) else "jit"
        counted["decoded_evictions"] = int(code.evictions)
        found = cls(name, **{key: value for key, value in counted.items() if key in known})
        return found if name == "jit" else attrs.evolve(found, interpreted=found.steps)
