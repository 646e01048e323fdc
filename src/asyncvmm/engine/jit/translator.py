"""From decoded words to machine code, one basic block at a time, by copying stencils.

A block starts by taking its length from what is left of the slice, so the count is exact without
counting instructions. Blocks of one page jump to each other directly; everything else goes through the
page's entry table. Code depends on the page's bytes only: addresses are made from the page's base, and
everything of a guest is reached through its hart's words.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import append, vec
from mypy_extensions import i32, i64, u8

from asyncvmm.arch.code import PPN_SLOT, WHOLE_SLOT, CodeListener
from asyncvmm.arch.hart import EVENT_TRAP, Hart
from asyncvmm.engine.fetch import decode_slot, second_half
from asyncvmm.engine.jit.pages import SLOTS, CodeMemory, Page, SharedPages
from asyncvmm.engine.jit.regions import page_key
from asyncvmm.engine.jit.state_words import WORDS

# Stencils that are no operation's.
BLOCK: Final = 512
SLOW: Final = 513
LEAVE: Final = 515
CROSS: Final = 516
MODE: Final = 517
COLDS: Final = 520
TAILS: Final = 600  # plus the operation: its end, given the host address
STENCILS: Final = 900

# What a hole is filled with: the order of stencil_ir.HOLES, then places.
RD: Final = 0
RS1: Final = 1
RS2: Final = 2
RS3: Final = 3
IMM: Final = 4
NPC: Final = 5
TARGET: Final = 6
FIX: Final = 7
COUNT: Final = 8
OFF: Final = 9
UIMM: Final = 10
COUNTER: Final = 11
DONE: Final = 12
RM: Final = 13
NEXT: Final = 16
TAKEN: Final = 17
AGAIN: Final = 18
COLD: Final = 19
BACK: Final = 20
REFUSE: Final = 21
FIXED: Final = 32  # from here on an index of ``addresses``

MAX_BLOCK: Final = 64
THRESHOLD: Final = 1  # how often code is interpreted (up to 255) before it is translated
BLOCK_BYTES: Final = 65536  # more than any block takes
BATCH_BYTES: Final = 16384  # of blocks translated ahead, before they are put into memory
KNOWN: Final = 255  # how often a slot counts as wanted that earlier runs wanted
NEWS: Final = SLOTS  # added to a slot that was not known: entry_store.NEWS
PAGE_LIMIT: Final = 8192  # pages with an entry table (11 KiB each) before all are forgotten
CHANGES: Final = 4  # how often a page leaves a shared one before it is its guest's own for good
_PLACES: Final = 40  # links that one block may leave open


class Stencils:
    """Bytes and holes of every stencil."""

    def __init__(
        self, code: bytes, rows: list[tuple[int, int, int, int, int]], holes: list[int]
    ) -> None:
        """``rows``: (stencil, start, size, first hole, number of holes); ``holes``: five numbers each.

        A hole is (position, bytes, 1 when relative, symbol, addend).
        """
        self.code: vec[u8] = vec[u8]()
        for byte in code:
            self.code = append(self.code, u8(byte))
        self.start: vec[i64] = vec[i64]([-1] * STENCILS)
        self.size: vec[i64] = vec[i64]([0] * STENCILS)
        self.first: vec[i64] = vec[i64]([0] * STENCILS)
        self.count: vec[i64] = vec[i64]([0] * STENCILS)
        self.cold: vec[i64] = vec[i64]([0] * STENCILS)
        self.holes: vec[i64] = vec[i64]()
        for value in holes:
            self.holes = append(self.holes, i64(value))
        for stencil, start, size, first, count in rows:
            self.start[stencil] = start
            self.size[stencil] = size
            self.first[stencil] = first
            self.count[stencil] = count
        # Operations that end a block: 1 jumps always, 2 branches.
        self.ends: vec[i64] = vec[i64]([0] * STENCILS)
        # Rounding: 1 in the mode of frm only (a static mode has to be the same), 2 towards zero only.
        self.rounds: vec[i64] = vec[i64]([0] * STENCILS)


class Translator(CodeListener):
    """Code of one guest: its pages, and what is shared of them."""

    def __init__(
        self,
        stencils: Stencils,
        addresses: list[int],
        memory: CodeMemory,
        missing: i64,
        first_ppn: i64,
        pages: i64,
        shared: SharedPages | None,
    ) -> None:
        """``missing`` is the offset of the routine for slots without code.

        With ``shared`` pages, ``memory`` is theirs; the guest gets a segment of it when it needs one.
        No vec is taken from interpreted code, here or below: mypyc's wrappers never let go of one.
        """
        self.stencils: Stencils = stencils
        self.addresses: vec[i64] = vec[i64](addresses)
        self.memory: CodeMemory = memory  # of the page that is translated
        self.gate: CodeMemory = memory  # counts who runs
        self.own: CodeMemory | None = memory if shared is None else None
        self.generation: i64 = memory.generation  # of ``own``
        self.shared: SharedPages | None = shared
        self.shared_generation: i64 = memory.generation
        self.spent: i64 = 0  # bytes added to shared memory in this generation of it
        self.changes: dict[int, int] = {}  # how often a page left a shared one
        self.own_pages: i64 = 0
        self.missing: i64 = missing
        self.first_ppn: i64 = first_ppn
        self.tables: vec[i64] = vec[i64]([0] * int(pages))
        self.pages: dict[int, Page] = {}
        self.by_table: dict[int, Page] = {}
        self.buffer: vec[u8] = vec[u8]([0] * int(BLOCK_BYTES + BATCH_BYTES))
        self.words: vec[i64] = vec[i64]([0] * (MAX_BLOCK + 2))
        self.offsets: vec[i64] = vec[i64]([0] * (MAX_BLOCK + 2))
        self.values: vec[i64] = vec[i64]([0] * 32)
        self.cold_at: vec[i64] = vec[i64]([0] * (MAX_BLOCK + 2))
        self.again_at: vec[i64] = vec[i64]([0] * (MAX_BLOCK + 2))
        self.back_at: vec[i64] = vec[i64]([0] * (MAX_BLOCK + 2))
        self.refused: i64 = 0
        self.refused_by: vec[i64] = vec[i64]([0] * (4 * MAX_BLOCK))
        self.refused_at: vec[i64] = vec[i64]([0] * (4 * MAX_BLOCK))
        # Where in the buffer a block begins, and how far it is filled.
        self.begin: i64 = 0
        self.length: i64 = 0
        self.place_count: i64 = 0
        self.place_slots: vec[i64] = vec[i64](
            [0] * _PLACES
        )  # target, in bytes from the page's start
        self.place_at: vec[i64] = vec[i64]([0] * _PLACES)
        # Blocks in the buffer, which nobody is told of yet.
        self.ready: i64 = 0
        self.ready_slots: vec[i64] = vec[i64]([0] * SLOTS)
        # Known slots that the blocks in hand lead to.
        self.following: i64 = 0
        self.follow_slots: vec[i64] = vec[i64]([0] * SLOTS)
        self.threshold: i64 = THRESHOLD
        self.page_limit: i64 = PAGE_LIMIT
        self.harts: list[Hart] = []
        self.newcomers: list[Page] = []  # nobody has looked yet whether there are regions for them
        # Statistics.
        self.blocks: i64 = 0
        self.instructions: i64 = 0
        self.resets: i64 = 0
        self.changed: i64 = 0  # pages that were written to
        self.evicted: i64 = 0  # pages whose code made room
        self.reused: i64 = 0  # pages whose code another guest had made

    def add_hart(self, hart: Hart) -> None:
        """A hart that runs this translator's code: its registers move to where that code has its state.

        Its fetch entries lead to the entry tables.
        """
        words = vec[i64]([0] * (WORDS + 1))
        i: i64 = 0
        while i < 33:
            words[i] = hart.x[i]
            i += 1
        hart.x = words
        hart.tlb.native = words
        self.harts.append(hart)

    def decode(self, page: Page, slot: i64) -> None:
        """Decode the instruction of a slot, if it is not yet."""
        if page.code[slot] == 0:
            decode_slot(self.harts[0], page.code, slot << 1)

    def code_changed(self, ppn: i64) -> None:
        """See CodeListener: none of the page's code is entered again."""
        key: int = ppn
        if key not in self.pages:
            return
        page = self.pages[key]
        self.changed += 1
        if page.key:
            del self.pages[key]
            self.tables[ppn - self.first_ppn] = 0
            self.changes[key] = self.changes.get(key, 0) + 1
            for hart in self.harts:
                hart.tlb.clear_native_fetches()
            return
        page.version += 1
        page.tried = set()
        page.hot = set()
        page.placed = 0
        page.learnt = []
        i: i64 = 0
        missing: i32 = i32(self.missing)
        while i < SLOTS:
            page.table[i] = missing
            if page.seen[i] == KNOWN:
                page.seen[i] = 0
            i += 1
        page.link_slots = vec[i64]()
        page.link_places = vec[i64]()

    def code_dropped(self, ppn: i64) -> None:
        """See CodeListener: what comes next has nothing to do with what was there."""
        self.code_changed(ppn)
        self.changes.pop(int(ppn), None)

    def page_of(self, code: vec[i64]) -> Page | None:
        """The translation of a code page, new when there is none; None without memory for its code."""
        ppn = code[PPN_SLOT]
        key: int = ppn
        if key in self.pages:
            page = self.pages[key]
            if page.key:
                page.code[PPN_SLOT] = ppn  # its words are decoded from there
            else:
                page.code = code
            return page
        shared = self.shared
        if shared is not None and self._may_share(shared, key):
            ram = self.harts[0].ram
            page = shared.find(page_key(bytes(memoryview(ram.pages[ppn - ram.first_ppn]))))
            page.code[PPN_SLOT] = ppn
            code[WHOLE_SLOT] = 1
            if page.looked == page.version:
                self.reused += 1
        else:
            memory = self._own_memory()
            if memory is None:
                return None
            page = Page(code, self.missing, memory, "")
            self.by_table[int(page.table_address)] = page
            self.own_pages += 1
        self.pages[key] = page
        self.tables[ppn - self.first_ppn] = page.table_address
        return page

    def _may_share(self, shared: SharedPages, key: int) -> bool:
        return self.changes.get(key, 0) < CHANGES and self.spent < shared.quota_bytes

    def _own_memory(self) -> CodeMemory | None:
        if self.own is None:
            self.own = self.gate.segment()
            if self.own is not None:
                self.generation = self.own.generation
        return self.own

    def page_at(self, table_address: i64) -> Page | None:
        """The page whose entry table is at a host address."""
        key: int = table_address
        found = self.by_table.get(key)
        if found is None and self.shared is not None:
            found = self.shared.by_table.get(key)
        return found

    def catch_up(self) -> None:
        """Forget all code whose memory was given to other code.

        The entry tables go too, so no hart may keep the way to one.
        """
        own = self.own
        if own is not None and self.generation != own.generation:
            self.generation = own.generation
            for page in self.by_table.values():
                page.version += 1  # optimised code that is still being made finds nothing to go to
            self.by_table = {}
            self.own_pages = 0
            self._forget(False)
        if self.shared is not None and self.shared_generation != self.gate.generation:
            self.shared_generation = self.gate.generation
            self.spent = 0
            self._forget(True)

    def _forget(self, shared: bool) -> None:
        """Have no pages of this kind any more."""
        self.resets += 1
        kept: dict[int, Page] = {}
        for key, page in self.pages.items():
            if (page.key != "") == shared:
                self.evicted += 1
                self.tables[i64(key) - self.first_ppn] = 0
            else:
                kept[key] = page
        self.pages = kept
        self.newcomers = []
        for hart in self.harts:
            hart.tlb.clear_native_fetches()

    def make_room(self) -> bool:
        """Throw code away when the next block may not fit, or there are too many pages.

        False when that must wait: others run it.
        """
        own = self.own
        if own is not None and (
            own.used + BLOCK_BYTES + BATCH_BYTES > own.size or self.own_pages >= self.page_limit
        ):
            own.reset()
        shared = self.shared
        room = shared is None or shared.make_room(BLOCK_BYTES + BATCH_BYTES)
        self.catch_up()
        return room

    def is_new(self, code: vec[i64]) -> bool:
        """Whether this is the first time that code of these bytes is wanted; then it is a newcomer."""
        if not self.make_room():
            return False
        page = self.page_of(code)
        if page is None or page.looked == page.version:
            return False
        page.looked = page.version
        self.newcomers.append(page)
        return True

    def has_code(self, code: vec[i64], pc: i64) -> bool:
        """Whether the page has code for ``pc``."""
        key: int = code[PPN_SLOT]
        return key in self.pages and self.pages[key].table[(pc & 4095) >> 1] != self.missing

    def expect(self, page: Page, slots: list[int]) -> None:
        """Translate code at these slots of a page as soon as anything leads there."""
        for slot in slots:
            page.seen[slot] = KNOWN

    def is_cold(self, code: vec[i64], pc: i64) -> bool:
        """Whether code at ``pc`` of this page has not been wanted ``threshold`` times before."""
        if not self.make_room():
            return True
        page = self.page_of(code)
        if page is None:
            return True
        slot = (pc & 4095) >> 1
        count: i64 = i64(page.seen[slot])
        if count >= self.threshold:
            return False
        page.seen[slot] = u8(count + 1)
        return True

    def translate(self, hart: Hart, code: vec[i64], pc: i64) -> None:
        """Translate the block at ``pc`` of a code page, and the known ones that it leads to.

        The guest sees nothing of the latter: no other page is looked at for them.
        """
        page = self.page_of(code)
        if page is None:
            return
        version = page.version
        self.following = 0
        self._translate(hart, page, pc, False)
        while self.following > 0:
            self.following -= 1
            slot = self.follow_slots[self.following]
            if page.table[slot] != self.missing:
                continue
            if self.begin >= BATCH_BYTES:
                self._flush(page)
                if not self.make_room() or page.version != version:
                    return  # there was none: the page is another one now, or none at all
            self._translate(hart, page, slot << 1, True)
        self._flush(page)

    def _translate(self, hart: Hart, page: Page, pc: i64, ahead: bool) -> None:
        self.memory = page.memory
        code = page.code
        stencils = self.stencils
        base = pc & -4096
        first = (pc & 4095) >> 1
        slot = first
        count: i64 = 0  # instructions of the block
        slow = False  # what follows them is the interpreter's
        ended: i64 = 0
        half: i64 = -1  # of an instruction that reaches into the next page
        ram_page = hart.ram.pages[code[PPN_SLOT] - hart.ram.first_ppn]
        while count < MAX_BLOCK and slot < SLOTS:
            if count > 0 and page.table[slot] != self.missing:
                break
            w = code[slot]
            if w == 0:
                offset = slot << 1
                bits = ram_page[offset >> 3] >> ((offset & 7) << 3)
                reaches = slot == SLOTS - 1 and (bits & 3) == 3
                if reaches and (ahead or count > 0):
                    break  # the next page is not to be looked at before it is the next to be executed
                found = decode_slot(hart, code, base + offset)
                if (hart.event & EVENT_TRAP) != 0:
                    hart.event = 0
                    slow = True
                    break
                w = found[slot]
                if reaches:
                    half = second_half(hart, base + offset)
            op = w & 511
            if stencils.start[op] < 0 or (stencils.rounds[op] == 2 and ((w >> 28) & 7) != 1):
                slow = True
                break
            self.words[count] = w
            self.offsets[count] = slot << 1
            count += 1
            slot += (w >> 26) & 3
            ended = stencils.ends[op]
            if ended != 0:
                break
        if ahead and count == 0:
            return
        self._emit(page, count, slot, slow, ended, half)
        if slow:
            # The interpreter's instruction has two bytes or four.
            self._follow(page, slot + 1)
            self._follow(page, slot + 2)
        elif ended == 1 and ((self.words[count - 1] >> 9) & 63) != 32:
            self._follow(page, slot)  # a call comes back
        self._place(page, first)
        page.learnt.append(int(first if page.seen[first] == KNOWN else first + NEWS))
        self.blocks += 1
        self.instructions += count

    def _emit(self, page: Page, count: i64, slot: i64, slow: bool, ended: i64, half: i64) -> None:
        stencils = self.stencils
        values = self.values
        self.length = self.begin
        self.place_count = 0
        self.refused = 0
        if count > 0:
            values[COUNT] = count
            values[OFF] = self.offsets[0]
            self._copy(BLOCK, 0)
        k: i64 = 0
        while k < count:
            w = self.words[k]
            op = w & 511
            self._fill_values(w, self.offsets[k], count - k)
            if half >= 0 and k == count - 1:
                target = values[TARGET]
                values[TARGET] = half
                self._copy(CROSS, k)
                values[TARGET] = target
            if stencils.rounds[op] == 1 and ((w >> 28) & 7) != 7:
                values[RM] = (w >> 28) & 7
                self._copy(MODE, k)
            self.again_at[k] = self.length
            self._copy(op, k)
            self.back_at[k] = self.length
            k += 1
        if slow:
            values[FIX] = slot << 1
            self._copy(SLOW, 0)
        elif ended != 1:
            if slot >= SLOTS:
                values[TARGET] = slot << 1
                self._copy(LEAVE, 0)
            else:
                self._jump(slot << 1)
        k = 0
        while k < count:
            w = self.words[k]
            cold = stencils.cold[w & 511]
            if cold != 0:
                self._fill_values(w, self.offsets[k], count - k)
                self._resolve_cold(self.cold_at[k])
                values[AGAIN] = self.again_at[k]
                self._copy(cold, k)
                tail = TAILS + (w & 511)
                if stencils.start[tail] >= 0:
                    values[BACK] = self.back_at[k]
                    self._copy(tail, k)
            k += 1

        i: i64 = 0
        while i < self.refused:
            # Several places of one instruction share what they jump to.
            k = self.refused_by[i]
            values[FIX] = self.offsets[k] | ((count - k) << 16)
            while i < self.refused and self.refused_by[i] == k:
                self._resolve_cold(self.refused_at[i])
                i += 1
            self._copy(SLOW, k)

    def _fill_values(self, w: i64, offset: i64, refund: i64) -> None:
        values = self.values
        values[RD] = ((w >> 9) & 63) << 3
        values[RS1] = ((w >> 15) & 31) << 3
        values[RS2] = ((w >> 20) & 31) << 3
        values[RS3] = (w >> 32) << 3
        values[IMM] = w >> 32
        npc = offset + ((w >> 25) & 7)
        values[NPC] = npc
        # fetch lets the offsets of jumps count from the next instruction; AUIPC's does not.
        values[TARGET] = (npc if self.stencils.ends[w & 511] != 0 else offset) + (w >> 32)
        values[FIX] = offset | (refund << 16)
        values[UIMM] = (w >> 15) & 31
        values[DONE] = npc | ((refund - 1) << 16)

    def _jump(self, target: i64) -> None:
        """A direct jump whose distance is filled in later."""
        self.buffer[self.length] = 0xE9
        self._note(target, self.length + 1)
        self.length += 5

    def _note(self, target: i64, position: i64) -> None:
        self.place_slots[self.place_count] = target
        self.place_at[self.place_count] = position
        self.place_count += 1

    def _resolve_cold(self, position: i64) -> None:
        self._put(position, 4, self.length - position - 4)

    def _put(self, position: i64, size: i64, value: i64) -> None:
        buffer = self.buffer
        while size > 0:
            buffer[position] = u8(value & 255)
            value >>= 8
            position += 1
            size -= 1

    def _copy(self, stencil: i64, k: i64) -> None:
        """Append a stencil with its holes filled; a jump to what follows at its end is left out."""
        stencils = self.stencils
        buffer = self.buffer
        source = stencils.code
        start = stencils.start[stencil]
        size = stencils.size[stencil]
        at = self.length
        i: i64 = 0
        while i < size:
            buffer[at + i] = source[start + i]
            i += 1
        holes = stencils.holes
        h = stencils.first[stencil] * 5
        end = h + stencils.count[stencil] * 5
        here = self.memory.address + self.memory.used
        while h < end:
            position = at + holes[h]
            width = holes[h + 1]
            symbol = holes[h + 3]
            addend = holes[h + 4]
            if symbol < 16:
                self._put(position, width, self.values[symbol] + addend)
            elif symbol == NEXT:
                self._put(position, width, at + size + addend - position)
            elif symbol == TAKEN:
                self._note(self.values[TARGET], position)
            elif symbol == COLD:
                self.cold_at[k] = position
            elif symbol == REFUSE:
                self.refused_by[self.refused] = k
                self.refused_at[self.refused] = position
                self.refused += 1
            elif symbol == AGAIN or symbol == BACK:
                self._put(position, width, self.values[symbol] + addend - position)
            elif holes[h + 2] != 0:
                target = self.addresses[symbol - FIXED]
                self._put(position, width, target + addend - (here + position))
            else:
                self._put(position, width, self.addresses[symbol - FIXED] + addend)
            h += 5
        self.length = at + size

    def _place(self, page: Page, first: i64) -> None:
        """Give open jumps a way to go and let others find the block, which ``_flush`` will put there."""
        used = self.memory.used
        place = used + self.begin
        page.table[first] = i32(place)
        self.ready_slots[self.ready] = first
        self.ready += 1
        k: i64 = 0
        while k < self.place_count:
            target = self.place_slots[k]
            position = self.place_at[k]
            if target < 0 or target >= 4096:
                self._put(position, 4, self.length - position - 4)
                self.values[TARGET] = target
                self._copy(LEAVE, 0)
            else:
                slot = target >> 1
                if page.table[slot] != self.missing:
                    self._put(position, 4, i64(page.table[slot]) - (used + position + 4))
                else:
                    self._put(position, 4, self.length - position - 4)
                    page.link_slots = append(page.link_slots, slot)
                    page.link_places = append(page.link_places, used + position)
                    self._follow(page, slot)
                    self.values[TARGET] = target
                    self._copy(LEAVE, 0)
            k += 1
        self.begin = (self.length + 15) & -16
        self._link(page, first, place)

    def _follow(self, page: Page, slot: i64) -> None:
        """Translate this slot's block too, if it is known that one begins there."""
        if slot < SLOTS and page.seen[slot] == KNOWN and self.following < SLOTS:
            self.follow_slots[self.following] = slot
            self.following += 1

    def _flush(self, page: Page) -> None:
        """Put what the buffer holds into memory, then let it be found."""
        memory = page.memory
        memory.put(memory.used, self.buffer, self.begin)
        memory.used += self.begin
        if page.key:
            self.spent += self.begin
        self.begin = 0
        i: i64 = 0
        while i < self.ready:
            slot = self.ready_slots[i]
            page.entries[slot] = page.table[slot]
            i += 1
        self.ready = 0

    def _link(self, page: Page, slot: i64, place: i64) -> None:
        """Let jumps that waited for ``slot`` go to it."""
        slots = page.link_slots
        places = page.link_places
        count: i64 = len(slots)
        kept: i64 = 0
        i: i64 = 0
        while i < count:
            if slots[i] == slot:
                distance = place - (places[i] + 4)
                if places[i] >= self.memory.used:
                    self._put(places[i] - self.memory.used, 4, distance)
                else:
                    self.memory.patch(places[i], distance)
            else:
                slots[kept] = slots[i]
                places[kept] = places[i]
                kept += 1
            i += 1
        if kept < count:
            left_slots: vec[i64] = vec[i64]([0] * int(kept))
            left_places: vec[i64] = vec[i64]([0] * int(kept))
            i = 0
            while i < kept:
                left_slots[i] = slots[i]
                left_places[i] = places[i]
                i += 1
            page.link_slots = left_slots
            page.link_places = left_places
