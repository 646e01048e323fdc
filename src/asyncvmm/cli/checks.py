"""What several commands check of their options."""

from __future__ import annotations

import argparse

from asyncvmm.base.errors import ConfigError


def check_timeout(options: argparse.Namespace) -> None:
    """ConfigError for a ``--timeout`` that is there and not positive."""
    if options.timeout is not None and not options.timeout > 0:
        raise ConfigError(f"--timeout must be positive, not {options.timeout}")
