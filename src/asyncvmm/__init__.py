"""Virtual machines as Python values."""

__version__ = "0.1.0"
