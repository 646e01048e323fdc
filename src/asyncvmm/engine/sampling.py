"""Where an engine spends its time: a look at each hart every so many of its steps."""

from __future__ import annotations

from time import perf_counter_ns
from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.arch.hart import EXIT_BUDGET, Hart
from asyncvmm.engine.interpreter import Engine
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.state_words import WHERE, WORDS

# Who executed most of the steps that led to a sample; of translated code, which kind was entered last.
INTERPRETED: Final = 0
TRANSLATED: Final = 1
OPTIMISED: Final = 2


class Bucket:
    """Samples of one place: how many, and the wall time (ns) of the steps that led to them."""

    def __init__(self) -> None:
        self.samples: i64 = 0
        self.wall_ns: i64 = 0


class SampledEngine(Engine):
    """Runs harts by another engine, and looks where each one is at every multiple of ``period`` steps.

    Where a hart is looked at depends on nothing but its own steps, and a slice that ends there is
    continued by the scheduler as if it had not ended, so the guest cannot tell.
    """

    def __init__(self, inner: Engine, period: i64, harts: i64) -> None:
        """``period`` is at least 1; ``harts`` is how many the guest has."""
        self.inner: Engine = inner
        self.period: i64 = period
        self.enabled: bool = False
        # By (pc, privilege, hart, tier).
        self.buckets: dict[tuple[int, int, int, int], Bucket] = {}
        self.steps: i64 = 0
        self.interpreted: i64 = 0
        self.wall_ns: i64 = 0
        # Of each hart, since it was looked at last.
        self._steps: vec[i64] = vec[i64]([0] * int(harts))
        self._interpreted: vec[i64] = vec[i64]([0] * int(harts))
        self._wall_ns: vec[i64] = vec[i64]([0] * int(harts))

    def _interpreted_so_far(self) -> i64:
        """Steps that a translating engine left to the interpreter; -1 when there is nothing else."""
        inner = self.inner
        if isinstance(inner, TranslatingEngine):
            return inner.interpreted
        return -1

    def run(self, hart: Hart, budget: i64) -> i64:
        """See Engine.run; EXIT_BUDGET comes at the next multiple of the period at the latest."""
        if not self.enabled:
            return self.inner.run(hart, budget)
        left = self.period - hart.steps % self.period
        number = hart.hart_id
        before = hart.steps
        interpreted = self._interpreted_so_far()
        began: i64 = perf_counter_ns()
        result = self.inner.run(hart, left if left < budget else budget)
        wall_ns: i64 = perf_counter_ns() - began
        steps = hart.steps - before
        slow = steps if interpreted < 0 else self._interpreted_so_far() - interpreted
        self.steps += steps
        self.interpreted += slow
        self.wall_ns += wall_ns
        self._steps[number] = self._steps[number] + steps
        self._interpreted[number] = self._interpreted[number] + slow
        self._wall_ns[number] = self._wall_ns[number] + wall_ns
        if steps == left and result == EXIT_BUDGET:
            self._sample(hart, number)
        return result

    def _tier(self, hart: Hart, number: i64) -> int:
        if self._interpreted[number] * 2 > self._steps[number]:
            return INTERPRETED
        words = hart.x
        return OPTIMISED if len(words) > WORDS and words[WHERE] < 0 else TRANSLATED

    def _sample(self, hart: Hart, number: i64) -> None:
        key = (int(hart.pc), int(hart.priv), int(number), self._tier(hart, number))
        bucket = self.buckets.get(key)
        if bucket is None:
            bucket = Bucket()
            self.buckets[key] = bucket
        bucket.samples += 1
        bucket.wall_ns += self._wall_ns[number]
        self._steps[number] = 0
        self._interpreted[number] = 0
        self._wall_ns[number] = 0
