"""One target, one seed: inputs by number, so that every input can be had again without those before."""

from __future__ import annotations

import gc
import random
import resource
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from tools.fuzz.targets import Target

MAX_BYTES: Final = 256
INPUT_SECONDS: Final = 2.0  # of CPU time
GROWTH_BYTES: Final = 64 << 20
WARM: Final = 2000  # inputs before memory is looked at
_TOLD: Final = 500
_EDGES: Final = (0, 1, 0x7F, 0x80, 0xFF)


@attrs.frozen
class Finding:
    """What went wrong, with which input."""

    target: str
    seed: int
    number: int
    data: bytes
    text: str

    def __str__(self) -> str:
        return (
            f"{self.target}: seed {self.seed}, input {self.number} "
            f"(again: python -m tools.fuzz {self.target} --seed {self.seed} --only {self.number})\n"
            f"  {self.data.hex()}\n{self.text}"
        )


@attrs.frozen
class Outcome:
    """``slowest_us`` and ``grown_bytes`` are of one input, and of all after the first ones."""

    target: str
    inputs: int
    seconds: float
    slowest_us: int
    grown_bytes: int
    finding: Finding | None = None


def input_of(target: Target, seed: int, number: int) -> bytes:
    """Input ``number`` of a campaign: noise, or a good input with some changes."""
    rng = random.Random(f"{seed}/{target.name}/{number}")
    if not target.seeds or rng.random() < 0.1:
        return rng.randbytes(rng.choice((58, 66, 74, 90, rng.randrange(MAX_BYTES))))
    return mutated(rng, rng.choice(target.seeds), target.seeds)


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Bytes changed, a piece cut out, doubled or taken from another, a number replaced."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        if not raw:
            break
        at = rng.randrange(len(raw))
        size = rng.choice((1, 2, 4, 8))
        how = rng.randrange(6)
        if how <= 1:
            raw[at] = rng.choice((*_EDGES, rng.randrange(256)))
        elif how == 2:
            raw[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
        elif how == 3:
            del raw[at : at + rng.choice((size, len(raw)))]
        elif how == 4:
            raw[at:at] = raw[at : at + 16]
        else:
            other = rng.choice(others)
            raw[at:] = other[at:]
    return bytes(raw)


def check(target: Target, seed: int, number: int) -> tuple[Finding | None, int]:
    """One input: what it finds, and its CPU time in ns."""
    data = input_of(target, seed, number)
    begun = time.thread_time_ns()
    text = ""
    try:
        target.function(data)
    except Exception:
        text = traceback.format_exc(limit=-6)
    spent = time.thread_time_ns() - begun
    if not text and spent > INPUT_SECONDS * 1e9:
        text = f"it took {spent / 1e9:.1f} s"
    return (Finding(target.name, seed, number, data, text) if text else None), spent


def campaign(
    target: Target, seed: int, numbers: range, told: Callable[[int], object] = lambda done: None
) -> Outcome:
    """All inputs of ``numbers``, up to the first finding; ``told`` hears how many are done."""
    begun = time.thread_time()
    slowest = done = 0
    base = 0
    finding = None
    for number in numbers:
        finding, spent = check(target, seed, number)
        if done:  # the first one also imports and builds
            slowest = max(slowest, spent)
        done += 1
        if finding is not None:
            break
        if done == WARM:
            base = _memory()
        if done % _TOLD == 0:
            told(_TOLD)
    told(done % _TOLD)
    grown = _memory() - base if base else 0
    if finding is None and grown > GROWTH_BYTES:
        finding = Finding(target.name, seed, done - 1, b"", f"memory grew by {grown >> 20} MiB")
    seconds = time.thread_time() - begun
    return Outcome(target.name, done, seconds, slowest // 1000, grown, finding)


def parts(count: int, jobs: int) -> Iterator[range]:
    """Numbers 0 to ``count`` in as many pieces as there are jobs."""
    for job in range(jobs):
        yield range(count * job // jobs, count * (job + 1) // jobs)


def _memory() -> int:
    """The most memory that this process had, in bytes."""
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
