"""The command line: ``asyncvmm run debian -- uname -a``."""

from asyncvmm.cli.main import main

__all__ = ["main"]
