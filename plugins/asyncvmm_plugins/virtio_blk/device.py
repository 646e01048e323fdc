"""The block device (virtio 1.2, 5.2)."""

from __future__ import annotations

import struct
from typing import Any, Final

from asyncvmm.base.errors import BackendError, ConfigError, GuestError
from asyncvmm.device import DeviceIo
from asyncvmm.virtio import DEVICE_NEEDS_RESET, Chain, VirtioDevice, VirtQueue
from asyncvmm_plugins.virtio_blk.config import VirtioBlkConfig
from asyncvmm_plugins.virtio_blk.requests import Request, RequestLine
from asyncvmm_plugins.virtio_blk.state import VirtioBlkState

DEVICE_ID: Final = 2
SECTOR: Final = 512

# Features (5.2.3).
F_SEG_MAX: Final = 1 << 2
F_RO: Final = 1 << 5
F_BLK_SIZE: Final = 1 << 6
F_FLUSH: Final = 1 << 9
F_TOPOLOGY: Final = 1 << 10
F_CONFIG_WCE: Final = 1 << 11
F_DISCARD: Final = 1 << 13
F_WRITE_ZEROES: Final = 1 << 14

# Requests and their status (5.2.6).
T_IN: Final = 0
T_OUT: Final = 1
T_FLUSH: Final = 4
T_GET_ID: Final = 8
T_DISCARD: Final = 11
T_WRITE_ZEROES: Final = 13
S_OK: Final = 0
S_IOERR: Final = 1
S_UNSUPP: Final = 2

ID_BYTES: Final = 20
UNMAP: Final = 1
MAX_RANGES: Final = 32
MAX_RANGE_SECTORS: Final = 1 << 22
# Writing zeros takes time where the storage has no holes: one request writes 128 MiB at most.
MAX_ZEROES_SECTORS: Final = 1 << 13
WRITEBACK_OFFSET: Final = 32
# A request is copied in pieces of this size, so that a huge one costs no memory.
PIECE_BYTES: Final = 1 << 20


class VirtioBlk(VirtioDevice):
    """``io.blob`` as a disk. Requests are done in the order in which they come, at once or when
    ``io.rate`` allows it; a flush therefore covers every write before it (5.2.6.2).
    """

    def __init__(self, config: VirtioBlkConfig, io: DeviceIo) -> None:
        blob = io.blob
        self.blob = blob
        self.serial = config.serial
        self.read_only = config.readonly or blob.read_only
        self.capacity_sectors = blob.size_bytes // config.block_size * (config.block_size // SECTOR)
        features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE
        features |= F_RO if self.read_only else F_DISCARD | F_WRITE_ZEROES
        super().__init__(io, DEVICE_ID, [config.queue_size], features, self._layout(config))
        self._line = RequestLine(io, self._serve)

    def _layout(self, config: VirtioBlkConfig) -> bytes:
        """5.2.4."""
        physical_exponent = (4096 // config.block_size).bit_length() - 1
        head = struct.pack(
            "<QIIHBBI", self.capacity_sectors, 0, config.queue_size - 2, 0, 0, 0, config.block_size
        )
        topology = struct.pack("<BBHI", physical_exponent, 0, 1, 0)
        cache = struct.pack("<BBH", 1, 0, 1)
        discard = struct.pack("<III", MAX_RANGE_SECTORS, MAX_RANGES, config.block_size // SECTOR)
        zeroes = struct.pack("<IIB3x", MAX_ZEROES_SECTORS, MAX_RANGES, 1)
        return head + topology + cache + discard + zeroes

    def reset(self) -> None:
        """See VirtioDevice; the cache is in writeback mode again (5.2.5.2)."""
        super().reset()
        self._line.clear()
        self.config[WRITEBACK_OFFSET] = 1

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Only ``writeback`` can be written (5.2.5.1)."""
        if offset == WRITEBACK_OFFSET and size == 1 and self.has(F_CONFIG_WCE):
            self.config[WRITEBACK_OFFSET] = value & 1
            if not value & 1:
                self._flush()

    @property
    def writeback(self) -> bool:
        """Whether a write may be volatile until the next flush (5.2.6.2)."""
        return self.has(F_FLUSH) and self.config[WRITEBACK_OFFSET] == 1

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        """One request (5.2.6): header, data, and a status byte at the very end."""
        header = chain.read(16)
        if len(header) < 16 or chain.writable_bytes < 1:
            raise GuestError("a request without room for header and status (5.2.6.1)")
        kind, _, sector = struct.unpack("<IIQ", header)
        payload = b""
        size: int | None = None
        if kind == T_IN:
            size = chain.writable_bytes - 1
        elif kind == T_OUT:
            size = chain.unread_bytes
        elif kind in (T_DISCARD, T_WRITE_ZEROES):
            payload = chain.read(16 * MAX_RANGES + 1)
            size = self._range_bytes(kind, payload)
        self._line.submit(Request(queue, chain, kind, sector, payload), size, kind != T_IN)

    def _range_bytes(self, kind: int, payload: bytes) -> int:
        """What a request with ranges costs: the zeros it writes, if it is a good one."""
        if kind == T_DISCARD or self._bad_ranges(kind, payload) != S_OK:
            return 0
        return sum(sectors * SECTOR for _, sectors, _ in struct.iter_unpack("<QII", payload))

    def _serve(self, request: Request) -> None:
        """Do a request whose time has come."""
        chain = request.chain
        try:
            status = self._perform(request)
        except BackendError as error:
            self.io.log(f"request {request.kind} at sector {request.sector} failed: {error}")
            status = S_IOERR
        data_bytes = chain.writable_bytes - 1
        # The status byte counts as written only if everything before it was (2.7.8.2).
        written = chain.written + 1 if chain.written == data_bytes else chain.written
        chain.write_last(bytes([status]))
        request.queue.complete(chain, written)

    def _perform(self, request: Request) -> int:
        kind, chain = request.kind, request.chain
        if kind == T_IN:
            return self._read(request.sector, chain)
        if kind == T_OUT:
            return self._write(request.sector, chain)
        if kind == T_FLUSH:
            return self._flush()
        if kind == T_GET_ID:
            return self._identify(chain)
        if kind in (T_DISCARD, T_WRITE_ZEROES):
            return self._ranges(kind, request.payload)
        return S_UNSUPP

    def _inside(self, sector: int, sectors: int) -> bool:
        return sector + sectors <= self.capacity_sectors

    def _read(self, sector: int, chain: Chain) -> int:
        length = chain.writable_bytes - 1
        if length % SECTOR or not self._inside(sector, length // SECTOR):
            return S_IOERR
        offset, end = sector * SECTOR, sector * SECTOR + length
        while offset < end:
            offset += chain.write(self.blob.pread(offset, min(PIECE_BYTES, end - offset)))
        return S_OK

    def _write(self, sector: int, chain: Chain) -> int:
        length = chain.unread_bytes
        if self.read_only or length % SECTOR or not self._inside(sector, length // SECTOR):
            return S_IOERR
        offset = sector * SECTOR
        while piece := chain.read(PIECE_BYTES):
            self.blob.pwrite(offset, piece)
            offset += len(piece)
        return S_OK if self.writeback else self._flush()

    def _flush(self) -> int:
        if not self.read_only:
            self.blob.flush()
        return S_OK

    def _identify(self, chain: Chain) -> int:
        if chain.writable_bytes - 1 < ID_BYTES:
            return S_IOERR
        chain.write(self.serial.encode("ascii").ljust(ID_BYTES, b"\0"))
        return S_OK

    def _bad_ranges(self, kind: int, payload: bytes) -> int:
        """The status of a discard or write zeroes whose ranges are wrong; S_OK of a good one."""
        if not self.has(F_DISCARD if kind == T_DISCARD else F_WRITE_ZEROES):
            return S_UNSUPP
        length = len(payload)
        if length == 0 or length % 16 or length > 16 * MAX_RANGES:
            return S_IOERR
        limit = MAX_RANGE_SECTORS if kind == T_DISCARD else MAX_ZEROES_SECTORS
        for sector, sectors, flags in struct.iter_unpack("<QII", payload):
            # 5.2.6.2: reserved flags, and unmap for a discard, are not supported.
            if flags & ~UNMAP or (kind == T_DISCARD and flags):
                return S_UNSUPP
            if sectors > limit or not self._inside(sector, sectors):
                return S_IOERR
        return S_OK

    def _ranges(self, kind: int, payload: bytes) -> int:
        """Discard and write zeroes: all ranges are checked before the first is touched."""
        bad = self._bad_ranges(kind, payload)
        if bad != S_OK:
            return bad
        for sector, sectors, flags in struct.iter_unpack("<QII", payload):
            if kind == T_DISCARD:
                self.blob.discard(sector * SECTOR, sectors * SECTOR)
            else:
                self.blob.write_zeroes(sector * SECTOR, sectors * SECTOR, bool(flags & UNMAP))
        return S_OK if self.writeback else self._flush()

    def state(self) -> VirtioBlkState:
        """What a reset device lacks besides the transport's part."""
        line = self._line
        return VirtioBlkState(
            self.config[WRITEBACK_OFFSET] == 1, self.capacity_sectors, line.due_times, line.work_ns
        )

    def save(self) -> dict[str, object]:
        """See VirtioDevice."""
        return {**super().save(), "blk": self.state().save()}

    def check_saved(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().check_saved(saved)
        blk = saved.get("blk")
        if not isinstance(blk, dict):
            raise ConfigError(f"{self.io.path}: the saved disk has no state")
        state = VirtioBlkState.load(blk)
        if state.capacity_sectors != self.capacity_sectors:
            raise ConfigError(
                f"{self.io.path}: the saved disk has {state.capacity_sectors} sectors, "
                f"this one has {self.capacity_sectors}"
            )
        # A driver that broke the rules leaves a chain in flight that nothing will come of.
        broken = saved["status"] & DEVICE_NEEDS_RESET and not state.waiting
        if len(state.waiting) != len(saved["queues"][0]["in_flight"]) and not broken:
            raise ConfigError(f"{self.io.path}: the saved disk has other requests in flight")

    def load(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().load(saved)
        state = VirtioBlkState.load(saved["blk"])
        self.config[WRITEBACK_OFFSET] = int(state.writeback)
        self._line.expect(state.waiting, state.work_ns)
