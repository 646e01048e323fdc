"""Page tables for test programs: the program stores the entries before it turns paging on."""

from __future__ import annotations

from tests.conformance.program import DATA, RAM, TABLES, USER_ALIAS, Program

V, R, W, X, U, G, A, D = (1 << bit for bit in range(8))
RW = V | R | W | A | D
RWX = RW | X
SATP_MODE = {"sv39": 8, "sv48": 9}
LEVELS = {"sv39": 3, "sv48": 4}
PAGE = 4096


class Tables:
    """The tables of one address space, by default with the program at its own address for S-mode
    and at the alias for U-mode, both as gigapages."""

    def __init__(
        self,
        program: Program,
        scheme: str = "sv39",
        *,
        at: int = TABLES,
        program_mapped: bool = True,
    ) -> None:
        self._program = program
        self.scheme = scheme
        self._next = at + PAGE
        self.root = at
        self._tables: dict[tuple[int, int], int] = {}
        if program_mapped:
            self.map(RAM, RAM, RWX, level=2)
            self.map(RAM - USER_ALIAS, RAM, RWX | U, level=2)

    def satp(self, asid: int = 0) -> int:
        """The register's value for these tables."""
        return SATP_MODE[self.scheme] << 60 | asid << 44 | self.root >> 12

    def enable(self, asid: int = 0) -> None:
        """Write satp (from M-mode; it counts in S and U) and flush."""
        self._program.write("satp", self.satp(asid))
        self._program.asm("sfence.vma")

    def entry(self, virtual: int, level: int = 0) -> int:
        """The address of the entry for `virtual` at this level; tables on the way are made."""
        table = self.root
        for upper in range(LEVELS[self.scheme] - 1, level, -1):
            prefix = (virtual & (1 << 9 * LEVELS[self.scheme] + 12) - 1) >> 12 + 9 * upper
            if (upper, prefix) not in self._tables:
                self._tables[upper, prefix] = self._next
                self._program.store(table + prefix % 512 * 8, self._next >> 2 | V)
                self._next += PAGE
            table = self._tables[upper, prefix]
        return table + (virtual >> 12 + 9 * level) % 512 * 8

    def map(self, virtual: int, physical: int, flags: int, *, level: int = 0) -> int:
        """Store a leaf and return the entry's address."""
        address = self.entry(virtual, level)
        self._program.store(address, physical >> 2 | flags)
        return address

    def put(self, virtual: int, entry: int, *, level: int = 0) -> int:
        """Store an entry as it is, and return its address."""
        address = self.entry(virtual, level)
        self._program.store(address, entry)
        return address


def leaf(physical: int = DATA, flags: int = RW) -> int:
    """An entry for a page at this physical address."""
    return physical >> 2 | flags
