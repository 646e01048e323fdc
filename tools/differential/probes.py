"""ELFs that probe translation and protection: thousands of (PTEs, PMP, mode, access) combinations.

M-mode code writes the page-table entries of one probe, sets satp, PMP and mstatus, flushes as
little as the standard asks for, then loads, stores, swaps or fetches as M, S or U, and logs what
came of it: cause, tval, value, and the entries afterwards (A and D). The answer of a probe is the
same on every machine.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from asyncvmm.isa.asm import Program
from asyncvmm.isa.elf_writer import to_elf
from tools.differential.probe_runtime import (
    ADUE,
    BASE,
    DATA,
    FLUSHES,
    LOCKED,
    LOG,
    MAX_PROBES,
    MXR,
    NOWHERE,
    OPS,
    PAGES,
    PMP_LOCKED,
    PMP_NA4,
    PMP_NAPOT,
    PMP_TOR,
    PMP_USED,
    PROBE,
    PROBES,
    RESULT,
    SUM,
    SV39,
    SV48,
    TABLES,
    USER,
    A,
    D,
    G,
    M,
    R,
    S,
    U,
    V,
    W,
    X,
    assemble_probes,
)

_CODE: Final = struct.pack("<I", 0x00730000)
Ranges = tuple[tuple[int, int], ...]
"""PMP entries from 0 on: configuration byte and address field."""


@dataclass(frozen=True)
class Probe:
    """One access. ``entries`` are (address, value) of page-table entries, written before it."""

    entries: tuple[tuple[int, int], ...]
    satp: int
    adue: bool
    mstatus: int
    op: str
    address: int
    asid: int
    pmp: Ranges
    pmp_new: bool
    flush: str
    value: int

    def packed(self) -> bytes:
        """The record that the guest reads."""
        words = [word for pair in self.entries for word in pair]
        low = sum(config << 8 * n for n, (config, _) in enumerate(self.pmp))
        words += [
            self.satp, ADUE * self.adue, self.mstatus, 16 * OPS.index(self.op), self.address,
            self.asid, int(self.pmp_new), low, self.pmp_all << 56,
        ]  # fmt: skip
        words += [field for _, field in self.pmp]
        words += [8 * FLUSHES.index(self.flush), self.value]
        return PROBE.pack(*words, *[0] * (26 - len(words)))

    @property
    def pmp_all(self) -> int:
        """pmp15cfg: NAPOT over everything, with all rights."""
        return 0x1F

    def __str__(self) -> str:
        mode = {U: "U", S: "S", M: "M"}[self.mstatus >> 11 & 3]
        bits = [n for n, b in (("SUM", SUM), ("MXR", MXR)) if self.mstatus & b]
        entries = " ".join(f"[{a:#x}]={v:#x}" for a, v in self.entries if a < TABLES + 0x4000)
        pmp = " ".join(f"{c:#x}:{f << 2:#x}" for c, f in self.pmp if c)
        return (
            f"{self.op} {self.address:#x} as {mode} {' '.join(bits)} satp={self.satp:#x} "
            f"adue={int(self.adue)} {entries} pmp {pmp} flush {self.flush}"
        )


@dataclass(frozen=True)
class ProbeImage:
    """An ELF of probes, and where its log is."""

    elf: bytes
    probes: tuple[Probe, ...]
    signature: int
    signature_size: int

    def differences(self, ours: bytes, theirs: bytes, names: tuple[str, str]) -> list[str]:
        """One text for each probe with another result."""
        found = []
        size = RESULT.size
        for number, probe in enumerate(self.probes):
            a, b = ours[size * number :][:size], theirs[size * number :][:size]
            if a != b:
                results = f"  {names[0]}: {_result(a)}\n  {names[1]}: {_result(b)}"
                found.append(f"probe {number}: {probe}\n{results}")
        return found


def _result(data: bytes) -> str:
    cause, tval, value, mode, *entries = RESULT.unpack(data)
    what = "no trap" if cause == 0xFFFFFFFFFFFFFFFF else f"cause {cause} tval {tval:#x}"
    return f"{what} from {mode} value {value:#x} entries {' '.join(f'{e:#x}' for e in entries)}"


class ProbeBuilder:
    """Probes from one seed.

    ``adue`` fixes menvcfg.ADUE; ``fine_pmp`` allows PMP ranges smaller than a page; ``lost_tables``
    lets tables lie where there is no memory; ``with_pmp`` draws any PMP at all, ``with_crossing``
    accesses across pages; ``ops`` are the accesses to draw from.
    """

    def __init__(
        self,
        seed: int,
        *,
        adue: bool | None = None,
        fine_pmp: bool = True,
        lost_tables: bool = True,
        with_pmp: bool = True,
        ops: tuple[str, ...] = OPS,
        with_crossing: bool = True,
    ) -> None:
        self.with_crossing = self.crossing = with_crossing
        self.ops = ops
        self.fine = False
        self.random = Random(seed)
        self.adue = adue
        self.fine_pmp = fine_pmp
        self.lost_tables = lost_tables
        self.with_pmp = with_pmp

    def build(self, count: int) -> ProbeImage:
        """An image of ``count`` probes."""
        if not 0 < count <= MAX_PROBES:
            raise ValueError(f"{count} probes, not 1..{MAX_PROBES}")
        probes = []
        adue, pmp = True, self._pmp(False)
        for number in range(count):
            locked = self.with_pmp and number >= count - LOCKED
            new = number % 16 == 0 if number <= count - LOCKED else False
            if new and locked:
                self.fine, self.crossing = True, False
                pmp = self._locked_pmp()
            elif new:
                adue = bool(self.random.getrandbits(1)) if self.adue is None else self.adue
                # Bytes of a misaligned access may be protected one by one or together: there is
                # none where boundaries lie inside pages.
                fine = self.fine = self.fine_pmp and bool(self.random.getrandbits(1))
                self.crossing = self.with_crossing and not fine
                pmp = self._pmp(fine)
            probes.append(self._probe(adue, pmp, new, locked))
        records = b"".join(probe.packed() for probe in probes)
        runtime = assemble_probes(len(records), RESULT.size * count)
        data = bytearray(runtime.data).ljust(DATA - BASE + 4096 * PAGES, b"\0")
        data[PROBES - BASE : PROBES - BASE + len(records)] = records
        for page in range(PAGES):
            unlike = b"".join((page << 16 | at).to_bytes(8, "little") for at in range(255))
            data[DATA - BASE + 4096 * page :] = _CODE * 512 + unlike + _CODE * 2
        elf = to_elf(Program(bytes(data), runtime.symbols, BASE))
        return ProbeImage(elf, tuple(probes), LOG, RESULT.size * count)

    def _probe(self, adue: bool, pmp: Ranges, new: bool, locked: bool) -> Probe:
        random = self.random
        op = random.choice(self.ops)
        mode = random.choice((U, S, S, U, M))
        if locked:
            mode = random.choice((M, M, M, S))
        elif op != "fetch" and mode == M:
            mode = S
        mstatus = mode << 11 | random.choice((0, SUM)) | random.choice((0, 0, MXR))
        scheme = random.choice((SV39, SV39, SV48, SV48, 0))
        asid = random.choice((0, 1, 2, 63, 64, 65, 0xFFFF))
        target, offset = self._target(op, pmp)
        crossing = offset > 4088
        # A store across pages may leave its first bytes when it faults: so it changes nothing.
        value = random.getrandbits(64)
        if crossing:
            value = int.from_bytes((_CODE * 3)[offset & 3 :][:8], "little")
        flush = random.choice(FLUSHES)
        if new or crossing or scheme == 0:
            flush = "all"
        spare = (TABLES + 0x4000, 0)
        entries: Sequence[tuple[int, int]] = (spare,) * 4
        if scheme == 0 or mode == M:
            address = target + offset
            if random.randrange(8) == 0:
                address = random.choice((NOWHERE, 1 << 56, 1 << 63, (1 << 64) - 4096))
                address += offset & -8  # QEMU names the aligned word below
        else:
            address = BASE
            while address >> 12 == BASE >> 12:  # QEMU takes M-mode's own code page for it
                address, entries = self._tables(scheme, target, offset, op)
            entries = [*entries, *[spare] * (4 - len(entries))]
        satp = scheme << 60 | (asid << 44 | TABLES >> 12 if scheme else 0)
        return Probe(tuple(entries), satp, adue, mstatus, op, address, asid, pmp, new, flush, value)

    def _target(self, op: str, pmp: Ranges) -> tuple[int, int]:
        """A page, and an offset in it: often at a boundary of the PMP."""
        random = self.random
        if self.fine_pmp and random.randrange(3) == 0:
            config, field = random.choice(pmp)
            at = field << 2
            if config & 0x18 == PMP_NAPOT and random.randrange(2):
                at = (field & (field + 1)) << 2
            at += random.randrange(-8, 9)
            # A misaligned access is one to Spike and several bytes here: either may be.
            at &= -2 if op == "fetch" else -8
            offset = at & 4095
            code = offset < 2048 or offset == 4094
            if DATA <= at < DATA + 4096 * PAGES and offset <= 4080 and code == (op == "fetch"):
                return at & -4096, offset
        return DATA + 4096 * random.randrange(PAGES), self._offset(op)

    def _offset(self, op: str) -> int:
        random = self.random
        kind = random.randrange(8)
        if op == "fetch":
            return 4094 if kind == 0 else 4 * random.randrange(512) + 2 * (kind < 6)
        at = 2048 + 8 * random.randrange(254)
        if op in ("amoswap.w", "lr.d"):
            return at
        if kind == 0 and self.crossing:
            return 4096 - random.randrange(1, 8)
        return at + (random.randrange(8) if kind == 1 and not self.fine else 0)

    def _tables(
        self, scheme: int, target: int, offset: int, op: str
    ) -> tuple[int, list[tuple[int, int]]]:
        """A virtual address for ``target`` and the entries on the way, often something wrong."""
        random = self.random
        levels = 3 if scheme == SV39 else 4
        leaf_level = random.choice((0, 0, 0, 0, 1, 1, 2, levels - 1))
        indices = [random.choice((0, 1, 2, 255, 256, 511)) for _ in range(levels)]
        for level in range(leaf_level):
            indices[level] = target >> (12 + 9 * level) & 511
        address = sum(index << (12 + 9 * level) for level, index in enumerate(indices)) + offset
        bits = 12 + 9 * levels
        if address >> (bits - 1):
            address |= (1 << 64) - (1 << bits)
        if random.randrange(24) == 0:
            address ^= 1 << random.randrange(bits, 64)  # not canonical
        entries = []
        for level in range(levels - 1, leaf_level - 1, -1):
            table = TABLES + 4096 * (levels - 1 - level)
            place = table + 8 * indices[level]
            if level > leaf_level:
                value = (table + 4096) >> 2 | V
                kind = random.randrange(60)
                if kind < 3:
                    value |= random.choice((A, D, USER, G))
                elif kind == 3:
                    value &= ~V
                elif kind == 4:
                    value |= W
                elif kind == 5:
                    value |= 1 << random.randrange(54, 64)
                elif kind == 6 and self.lost_tables:
                    value = NOWHERE >> 2 | V
            else:
                page = target >> (12 + 9 * level) << (12 + 9 * level)
                value = page >> 2 | self._leaf(op)
                kind = random.randrange(24)
                if kind == 0 and level > 0:
                    value |= 1 << 10 + random.randrange(9 * level)  # misaligned superpage
                elif kind == 1 and level == 0 and offset & 7 == 0:
                    value = NOWHERE >> 2 | value & 1023
                elif kind == 2:
                    value |= 1 << random.randrange(54, 64)
                table = value >> 10 << 12
                lost = self.lost_tables and table >= NOWHERE
                if not lost and not BASE <= table < TABLES + 0x100000:
                    value |= R  # not a pointer into a device, or Spike's ROM, which it would read
            entries.append((place, value))
        return address, entries

    def _leaf(self, op: str) -> int:
        """Flags, half of the time those that allow the access."""
        random = self.random
        flags = random.getrandbits(10)
        if random.randrange(2):
            flags |= V | A | D | (X if op == "fetch" else R | W if op[0] in "sa" else R)
        elif random.randrange(4):
            flags |= V
        return flags

    def _locked_pmp(self) -> Ranges:
        """Entries that bind M-mode too, until the end: in the data pages only, or it could not go on."""
        random = self.random
        made: list[tuple[int, int]] = []
        for _ in range(PMP_USED):
            at = DATA + 4 * random.randrange(1024 * PAGES)
            kind = random.choice((PMP_NAPOT, PMP_NAPOT, PMP_NA4, 0))
            if kind == 0 and made:
                kind = PMP_TOR
            size = random.choice((8, 64, 1024, 4096, 8192))
            field = (at & -size) >> 2 | (size >> 3) - 1 if kind == PMP_NAPOT else at >> 2
            rights = random.choice((0, 1, 3, 4, 5, 7))
            made.append((PMP_LOCKED * random.getrandbits(1) | kind | rights, field))
        return tuple(made)

    def _pmp(self, fine: bool) -> Ranges:
        """Entries 0 to 5 over the data and table pages; entry 15 allows the rest."""
        random = self.random
        made: list[tuple[int, int]] = []
        if not self.with_pmp or random.randrange(4) == 0:
            return ((0, 0),) * PMP_USED
        for _ in range(PMP_USED):
            rights = random.choice((0, 1, 3, 4, 5, 7, 7, 7))
            kind = random.choice((0, PMP_TOR, PMP_TOR, PMP_NAPOT, PMP_NA4))
            size = random.choice((4096, 4096, 8192, 16384))
            at = DATA + 4096 * random.randrange(PAGES)
            if random.randrange(6) == 0:
                # M-mode itself reads the tables, eight bytes at a time, which a PMP boundary in
                # them would make fail: whole pages only.
                at = TABLES + 4096 * random.randrange(4)
                kind = PMP_NAPOT
            elif fine and random.randrange(2):
                at += 4 * random.randrange(1024)
                size = random.choice((8, 16, 64, 256))
            elif kind == PMP_NA4 and not fine:
                kind = PMP_NAPOT
            if kind == PMP_TOR and made and made[-1][1] >= TABLES >> 2:
                kind = 0
            field = (at & -size) >> 2 | (size >> 3) - 1 if kind == PMP_NAPOT else at >> 2
            made.append((kind | rights if kind else 0, field))
        return tuple(made)
