"""The same Hypothesis examples every time (``asyncvmm.testing.hypothesis_profile``)."""

from asyncvmm.testing.hypothesis_profile import load

load()
