"""From trio's groups of errors to the one that a command reports."""

from __future__ import annotations

from asyncvmm.base.errors import AsyncvmmError


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error behind trio's groups, the user's own Ctrl-C first."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop()
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    for kind in (KeyboardInterrupt, AsyncvmmError, BrokenPipeError):
        for error in leaves:
            if isinstance(error, kind):
                return error
    return leaves[0]
