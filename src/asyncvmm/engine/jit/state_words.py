"""Words behind a hart's registers that translated code uses, all reached from one pointer.

``Hart.x`` of a hart under this engine is longer than 33 words: the state of translated code, then its
TLB. Numbers here are indices of 64-bit words.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.arch.tlb import NATIVE_DATA, NATIVE_END, NATIVE_FETCH

LEFT: Final = 34  # steps until the slice ends; a block takes its whole length when it is entered
BASE: Final = 35  # virtual address of the page that is executed
PC: Final = 36
CONTEXT: Final = 37  # Tlb.context
FETCH_CONTEXT: Final = 38
HART: Final = 39  # address of the Hart object
F: Final = 40  # address of the floating-point registers
END: Final = 41  # Hart.steps at which LEFT is 0
REASON: Final = 42
TABLES: Final = 43  # address of one word per RAM page: its translation's entry table, or 0
ARENA: Final = 44  # address of the code
RESULT: Final = 45
CLOCK: Final = 46  # address of the HartTime, or 0
FRM: Final = 47  # FloatStatus.frm
FLOAT_READY: Final = 48  # 1 when FS is Dirty and FRM is a mode that the host has
WHERE: Final = 49  # offset in the page of the block that was entered last, or -1 in optimised code

FETCH_TLB: Final = NATIVE_FETCH
TLB: Final = NATIVE_DATA
WORDS: Final = NATIVE_END

# Why translated code came back.
BUDGET: Final = 0  # the next block is longer than what is left
SLOW: Final = 1  # the instruction at PC is one for the interpreter
MISSING: Final = 2  # there is no translation at PC
EVENT: Final = 3  # Hart.event wants to be looked at
RUNNING: Final = 4  # it has not come back yet

EVENT_BAIL: Final = 4  # bit of Hart.event while translated code runs: let the interpreter do it

LAST_HOST_MODE: Final = 3  # rounding modes RNE, RTZ, RDN, RUP; RMM is the interpreter's
