"""Device trees (Devicetree Specification 0.4, chapter 5): nodes, writer, reader, printer."""

from asyncvmm.fdt.node import Node, Tree, cells, cells64, split_cells
from asyncvmm.fdt.printer import to_source
from asyncvmm.fdt.reader import parse
from asyncvmm.fdt.writer import flatten

__all__ = ["Node", "Tree", "cells", "cells64", "flatten", "parse", "split_cells", "to_source"]
