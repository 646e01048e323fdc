"""The assembler's error."""

from __future__ import annotations

from asyncvmm.base.errors import ConfigError


class AssemblyError(ConfigError):
    """The source does not assemble: ``line`` (from 1) says where, the text why."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(f"line {line}: {why}")
        self.line = line
        self.why = why
