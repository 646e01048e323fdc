"""Targets of the floors: see ``tools.fuzz.targets`` for the rule."""
