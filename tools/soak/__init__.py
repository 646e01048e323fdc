"""Soak: guests that load modules, compile and change their own code, on both engines, for hours."""
