"""What a snapshot keeps of a time server besides its card."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import deep_iterable, ge, instance_of, max_len

from asyncvmm.plugin import VersionedState

MOST_WAITING = 256


@attrs.frozen
class Answer(VersionedState):
    """A frame that leaves at ``due_ns``."""

    due_ns: int = attrs.field(validator=ge(0))
    frame: bytes


@attrs.frozen
class TimeServerState(VersionedState):
    """Answers that have not left, in their order, and how many clients' questions there were."""

    version: ClassVar[int] = 1

    waiting: tuple[Answer, ...] = attrs.field(
        validator=[max_len(MOST_WAITING), deep_iterable(instance_of(Answer))]
    )
    asked: int = attrs.field(validator=ge(0))
