"""The translating engine's loop: translated code where there is any, the interpreter for the rest."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter_ns
from typing import Final

from librt.vecs import vec
from mypy_extensions import i64, mypyc_attr

from asyncvmm.arch.hart import EVENT_CHECK, EXIT_BUDGET, EXIT_STOP, EXIT_WFI, Hart
from asyncvmm.arch.hart_time import HartTime
from asyncvmm.arch.status import FS
from asyncvmm.arch.trap import take_interrupt
from asyncvmm.engine.fetch import fetch_page
from asyncvmm.engine.interpreter import Engine
from asyncvmm.engine.interpreter_loop import run_within
from asyncvmm.engine.jit.state_words import (
    BUDGET,
    CLOCK,
    CONTEXT,
    END,
    FETCH_CONTEXT,
    FLOAT_READY,
    FRM,
    LAST_HOST_MODE,
    LEFT,
    MISSING,
    PC,
    REASON,
    RUNNING,
    SLOW,
    WORDS,
)
from asyncvmm.engine.jit.translator import Translator

COLD: Final = -1
COLD_STEPS: Final = 32  # how far code is interpreted that has not been wanted often
# What translated code leaves to others, or to be translated, costs some microseconds each.
PAUSE_ENTRIES: Final = 2048


@mypyc_attr(allow_interpreted_subclasses=True)
class Attacher:
    """Prepares a hart for translated code; returns its guest's translator."""

    def __init__(self) -> None:
        self.pending: i64 = 0  # 1 when better translations wait to be installed
        self.asleep: bool = False  # nobody looks where the harts are

    def statistics(self) -> dict[str, int]:
        """Blocks and regions made, and the bytes that they take."""
        raise NotImplementedError

    def wake(self) -> None:
        """A hart runs again."""
        raise NotImplementedError

    def attach(self, hart: Hart) -> Translator:
        """Called when the engine first sees a hart."""
        raise NotImplementedError

    def install(self, runs: Translator) -> None:
        """Put what waits into place, no code running; ``runs`` is that of the hart that is about to."""
        raise NotImplementedError


class TranslatingEngine(Engine):
    """See Engine; ``enter`` calls the code with the address of a hart's words."""

    def __init__(self, attacher: Attacher, enter: Callable[[int], None]) -> None:
        self.attacher: Attacher = attacher
        self.enter: Callable[[int], None] = enter
        self.entries: i64 = 0
        self.slow: i64 = 0
        self.misses: i64 = 0
        self.interpreted: i64 = 0
        self.steps: i64 = 0
        self.translation_ns: i64 = 0

    def statistics(self) -> dict[str, int]:
        """See Engine: how often code was entered, what it could not do, and what was made."""
        found: dict[str, int] = {
            "steps": self.steps,
            "translation_ns": self.translation_ns,
            "entries": self.entries,
            "slow": self.slow,
            "misses": self.misses,
            "interpreted": self.interpreted,
        }
        found.update(self.attacher.statistics())
        return found

    def _clock(self, hart: Hart) -> i64:
        """The address of what tells this hart's time, when that can be asked natively, or 0."""
        clock = hart.environment.exact_clock()
        if clock is None:
            return 0
        source = clock.running
        if isinstance(source, HartTime) and source.hart is hart:
            return id(source)
        return 0

    def run(self, hart: Hart, budget: i64) -> i64:
        """See Engine.run."""
        before = hart.steps
        result = self._run(hart, budget)
        self.steps += hart.steps - before
        return result

    def _run(self, hart: Hart, budget: i64) -> i64:
        hart.steps_end = hart.steps + budget
        listener = hart.code.listener
        if len(hart.x) < WORDS or not isinstance(listener, Translator):
            translator = self.attacher.attach(hart)
        else:
            translator = listener
        gate = translator.gate
        if self.attacher.asleep:
            self.attacher.wake()
        x = hart.x
        state = x[WORDS]
        enter = self.enter
        address: int = state
        last = self.entries + PAUSE_ENTRIES
        result: i64 = 0
        hart.event |= EVENT_CHECK
        x[CLOCK] = self._clock(hart)
        while True:
            if hart.event != 0:
                hart.event = 0
                if hart.stop:
                    return EXIT_STOP
                if hart.steps >= hart.steps_end:
                    return EXIT_BUDGET
                if hart.waiting:
                    if hart.pending_interrupts() == 0:
                        return EXIT_WFI
                    hart.waiting = False
                if take_interrupt(hart, hart.pc):
                    hart.steps += 1
                    hart.event |= EVENT_CHECK
                    continue
                x[FRM] = hart.fp.frm
                ready = (hart.mstatus & FS) == FS and hart.fp.frm <= LAST_HOST_MODE
                x[FLOAT_READY] = 1 if ready else 0
                x[CONTEXT] = hart.tlb.context
                x[FETCH_CONTEXT] = hart.tlb.fetch_context
            if self.pauses and self.entries > last:
                return EXIT_BUDGET
            if self.attacher.pending != 0:
                self.attacher.install(translator)
            if gate.late != 0 and gate.running == 0:
                gate.settle()
            # From here to the entry nothing lets go of Python's lock: nobody throws code away.
            translator.catch_up()
            x[REASON] = RUNNING
            x[END] = hart.steps_end
            x[LEFT] = hart.steps_end - hart.steps
            x[PC] = hart.pc
            self.entries += 1
            gate.running += 1
            enter(address)
            gate.running -= 1
            hart.steps = x[END] - x[LEFT]
            hart.pc = x[PC]
            reason = x[REASON]
            if reason == MISSING and hart.event == 0 and hart.steps < hart.steps_end:
                self.misses += 1
                code = fetch_page(hart, hart.pc)
                if hart.event == 0:
                    began = perf_counter_ns()
                    found = self._find(translator, hart, code)
                    self.translation_ns += perf_counter_ns() - began
                    if hart.event == 0 and found:
                        continue
                    if hart.event == 0:
                        reason = COLD
                if reason != COLD:
                    hart.event = 0
                    reason = SLOW
            before = hart.steps
            if reason == BUDGET:
                result = run_within(hart, hart.steps_end - hart.steps)
            elif reason == COLD:
                result = run_within(hart, COLD_STEPS)
            elif reason == SLOW:
                self.slow += 1
                result = run_within(hart, 1)
            self.interpreted += hart.steps - before
            if result != EXIT_BUDGET:
                return result
            hart.event |= EVENT_CHECK

    def _find(self, translator: Translator, hart: Hart, code: vec[i64]) -> bool:
        """Whether there is code now for where the hart is; a trap may be noted."""
        shared = translator.shared
        if shared is None:
            return self._make(translator, hart, code)
        shared.lock.acquire()
        try:
            return self._make(translator, hart, code)
        finally:
            shared.lock.release()

    def _make(self, translator: Translator, hart: Hart, code: vec[i64]) -> bool:
        pc = hart.pc
        if translator.is_new(code):
            self.attacher.install(translator)
        if translator.has_code(code, pc):
            return True
        if translator.is_cold(code, pc):
            return False
        translator.translate(hart, code, pc)
        return True
