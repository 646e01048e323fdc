"""Interrupt lines: a level that one device drives and one controller or hart listens to."""

from __future__ import annotations

from mypy_extensions import i64, mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class InterruptSink:
    """Whatever listens to lines: the PLIC, a hart's interrupt-pending bits, a test's recorder."""

    def set_level(self, number: i64, level: bool) -> None:
        """Input ``number`` changed to ``level``; called on changes only."""
        raise NotImplementedError


class InterruptLine:
    """One wire into input ``number`` of a sink. Setting the level it already has does nothing."""

    def __init__(self, sink: InterruptSink, number: i64) -> None:
        self.sink: InterruptSink = sink
        self.number: i64 = number
        self.level: bool = False

    def set(self, level: bool) -> None:
        """Drive the wire high (True) or low."""
        if level != self.level:
            self.level = level
            self.sink.set_level(self.number, level)
