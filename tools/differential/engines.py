"""The engines of a campaign: what runs the code that is compared."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Final

from asyncvmm.arch.hart import Hart
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.engine.jit.build import Native, make_engine
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages, compile_request
from asyncvmm.engine.jit.translator import Translator

IMPROVED_ONCE_IN: Final = 8  # runs
LONGEST_RUN: Final = 100_003  # steps, so that long programs are improved on their way, too


class Improving(Engine):
    """Both tiers of translated code: before some runs, seeded, all pages of the hart are optimised.

    That is what the background thread does for hot pages, here and now instead.
    """

    def __init__(self, seed: int) -> None:
        self.choice = Random(seed)
        self.hot = HotPages()
        self.native = Native(hot=self.hot, watch=False, threshold=0)
        self.engine = TranslatingEngine(self.native, self.native.enter)

    def run(self, hart: Hart, budget: int) -> int:
        """See Engine."""
        end = hart.steps + budget
        while True:
            translator = hart.code.listener
            if isinstance(translator, Translator) and self.choice.randrange(IMPROVED_ONCE_IN) == 0:
                optimise(self.native, translator)
            part = min(end - hart.steps, LONGEST_RUN)
            before = hart.steps
            reason = self.engine.run(hart, part)
            if hart.steps - before < part or hart.steps == end:
                return reason


def optimise(native: Native, translator: Translator) -> None:
    """Do for all pages of a guest, here and now, what the background thread does for hot ones."""
    hot = native.hot
    assert hot is not None
    for page in translator.pages.values():
        request = hot.request(translator, page)
        made = request and compile_request(request, native.parts.rounds)
        if made:
            hot.made.append(made)
            native.pending = 1


ENGINES: Final[dict[str, Callable[[int], Engine]]] = {
    "interpreter": lambda seed: Interpreter(),
    "jit": lambda seed: make_engine(hot=False, threshold=0),
    "regions": Improving,
}
"""By name, from a seed: the interpreter, the first tier from the first execution on, and both tiers."""
