"""The numbers of the flattened format (Devicetree Specification 0.4, 5.2 to 5.6)."""

from __future__ import annotations

MAGIC = 0xD00DFEED
VERSION = 17
LAST_COMPATIBLE = 16
HEADER = ">10I"
HEADER_SIZE = 40

BEGIN_NODE = 1
END_NODE = 2
PROP = 3
NOP = 4
END = 9
