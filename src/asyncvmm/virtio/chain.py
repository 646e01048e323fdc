"""The buffers of one request: first what the device reads, then what it writes (2.7.4)."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.device.io import Dma


class Segment:
    """``length`` (> 0) bytes of guest RAM at ``address``."""

    def __init__(self, address: i64, length: i64) -> None:
        self.address: i64 = address
        self.length: i64 = length


class Chain:
    """A descriptor chain as two byte streams. All of it was found to be RAM when it was popped."""

    def __init__(self, dma: Dma, head: i64, generation: i64) -> None:
        self.head: i64 = head
        self.generation: i64 = generation
        self.completed: bool = False
        self.readable: list[Segment] = []
        self.writable: list[Segment] = []
        self.readable_bytes: i64 = 0
        self.writable_bytes: i64 = 0
        # How far the two streams have come.
        self.consumed: i64 = 0
        self.written: i64 = 0
        self._dma: Dma = dma
        self._read_segment: i64 = 0
        self._read_offset: i64 = 0
        self._write_segment: i64 = 0
        self._write_offset: i64 = 0

    def add(self, address: i64, length: i64, writable: bool) -> None:
        """Append a segment; the queue calls this."""
        if writable:
            self.writable.append(Segment(address, length))
            self.writable_bytes += length
        else:
            self.readable.append(Segment(address, length))
            self.readable_bytes += length

    def read(self, count: i64) -> bytes:
        """The next ``count`` bytes of the readable part; fewer at its end."""
        parts: list[bytes] = []
        while count > 0 and self._read_segment < len(self.readable):
            segment = self.readable[self._read_segment]
            step = segment.length - self._read_offset
            if step > count:
                step = count
            parts.append(self._dma.read(segment.address + self._read_offset, step))
            self._advance_read(segment, step)
            count -= step
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def skip(self, count: i64) -> None:
        """Pass over the next ``count`` readable bytes."""
        while count > 0 and self._read_segment < len(self.readable):
            segment = self.readable[self._read_segment]
            step = segment.length - self._read_offset
            if step > count:
                step = count
            self._advance_read(segment, step)
            count -= step

    def _advance_read(self, segment: Segment, step: i64) -> None:
        self.consumed += step
        self._read_offset += step
        if self._read_offset == segment.length:
            self._read_segment += 1
            self._read_offset = 0

    def write(self, data: bytes) -> int:
        """Append ``data`` to the writable part; returns how many bytes fitted."""
        length: i64 = len(data)
        done: i64 = 0
        while done < length and self._write_segment < len(self.writable):
            segment = self.writable[self._write_segment]
            step = segment.length - self._write_offset
            if step > length - done:
                step = length - done
            address = segment.address + self._write_offset
            if step == length:
                self._dma.write(address, data)
            else:
                self._dma.write(address, data[int(done) : int(done + step)])
            self._write_offset += step
            if self._write_offset == segment.length:
                self._write_segment += 1
                self._write_offset = 0
            done += step
        self.written += done
        return done

    def write_last(self, data: bytes) -> None:
        """Write ``data`` to the very end of the writable part, wherever ``write`` has come to."""
        skip = self.writable_bytes - len(data)
        done: i64 = 0
        for segment in self.writable:
            if skip >= segment.length:
                skip -= segment.length
                continue
            step = segment.length - skip
            self._dma.write(segment.address + skip, data[int(done) : int(done + step)])
            done += step
            skip = 0

    @property
    def unread_bytes(self) -> int:
        """What is left of the readable part."""
        return self.readable_bytes - self.consumed

    @property
    def unwritten_bytes(self) -> int:
        """What is left of the writable part."""
        return self.writable_bytes - self.written
