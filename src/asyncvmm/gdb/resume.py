"""Who is to go on, and how: ``c``, ``s``, ``vCont`` and the reverse ``bc``, ``bs``."""

from __future__ import annotations

from typing import Final

import attrs

MAX_ACTIONS: Final = 64


@attrs.frozen
class Resume:
    """Let the target go on, or go back.

    ``step`` is the hart that does one step, and then more while its pc is within ``start`` ..
    ``end`` - 1; None lets all run. The others run as their schedule has it, whatever gdb would like:
    it is part of what the guest can see.
    """

    step: int | None = None
    start: int = 0
    end: int = 0
    backward: bool = False


def parse_number(text: bytes) -> int | None:
    """A hexadecimal number of at most 64 bits; None for anything else."""
    if not 0 < len(text) <= 16 or not all(byte in b"0123456789abcdefABCDEF" for byte in text):
        return None
    return int(text, 16)


def parse_thread(text: bytes) -> int | None:
    """A thread: -1 for all, 0 for any, else a hart's number plus 1; None when it is not one."""
    return -1 if text == b"-1" else parse_number(text)


def parse_vcont(text: bytes, harts: int, current: int) -> Resume | None:
    """What follows ``vCont;``; None when it is wrong or nobody goes on.

    Of several harts that are to be stepped, ``current`` is, or else the first.
    """
    actions = text.split(b";")
    if len(actions) > MAX_ACTIONS:
        return None
    found: dict[int, Resume | None] = {}
    for action in actions:
        words = action.split(b":")
        if len(words) > 2:
            return None
        thread = parse_thread(words[1]) if len(words) == 2 else -1
        if thread is None or thread > harts or (how := _action(words[0])) is None:
            return None
        wanted = range(harts) if thread == -1 else [current if thread == 0 else thread - 1]
        for hart in wanted:
            resume = how[0]
            if resume is not None and resume.step is not None:
                resume = attrs.evolve(resume, step=hart)
            found.setdefault(hart, resume)
    going = [resume for resume in found.values() if resume is not None]
    steps = [resume for resume in going if resume.step is not None]
    for resume in steps:
        if resume.step == current:
            return resume
    if steps:
        return steps[0]
    return going[0] if going else None


def _action(word: bytes) -> tuple[Resume | None] | None:
    """In a tuple, or None when it is none; a step's hart is yet to be named."""
    if word == b"c" or (word[:1] == b"C" and parse_number(word[1:]) is not None):
        return (Resume(),)
    if word == b"s" or (word[:1] == b"S" and parse_number(word[1:]) is not None):
        return (Resume(step=0),)
    if word == b"t":
        return (None,)
    if word[:1] == b"r":
        start, comma, end = word[1:].partition(b",")
        first, last = parse_number(start), parse_number(end)
        if comma and first is not None and last is not None:
            return (Resume(step=0, start=first, end=last),)
    return None
