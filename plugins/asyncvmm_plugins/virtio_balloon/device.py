"""The memory balloon (virtio 1.2, 5.5). A hint: nothing that the host must have depends on it."""

from __future__ import annotations

import struct
from typing import Final

from asyncvmm.base.errors import GuestError
from asyncvmm.device import DeviceIo
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue
from asyncvmm_plugins.virtio_balloon.config import VirtioBalloonConfig
from asyncvmm_plugins.virtio_balloon.state import STATISTICS, VirtioBalloonState

DEVICE_ID: Final = 5
QUEUE_SIZE: Final = 128
PAGE: Final = 4096  # of the device, whatever the guest's are (5.5.6)
MAX_FRAMES: Final = 1 << 16  # of one chain
STATISTIC: Final = struct.Struct("<HQ")
MAX_STATISTICS: Final = 64

F_STATS_VQ: Final = 1 << 1
F_DEFLATE_ON_OOM: Final = 1 << 2
F_REPORTING: Final = 1 << 5

INFLATE: Final = 0
DEFLATE: Final = 1


class VirtioBalloon(VirtioDevice):
    """Takes pages that the guest puts into the balloon, or reports as free, from the guest's RAM.

    Such a page reads as zeros, and is there again as soon as the guest writes it: so deflating needs
    nothing of the device, and a guest that lies harms nobody but itself. Queue 2 is for statistics and
    queue 3 for reports; without the first, the second is queue 2 (5.5.2).
    """

    state_type = VirtioBalloonState

    def __init__(self, config: VirtioBalloonConfig, io: DeviceIo) -> None:
        features = F_DEFLATE_ON_OOM if config.oom else 0
        features |= F_STATS_VQ if config.statistics else 0
        features |= F_REPORTING if config.reporting else 0
        queues = 2 + int(config.statistics) + int(config.reporting)
        super().__init__(io, DEVICE_ID, [QUEUE_SIZE] * queues, features, bytes(16))
        self.balloon = io.balloon
        self.balloon.on_target = self._target_changed
        self.balloon.on_poll = self._poll
        self.balloon.target_bytes = config.size
        self._actual_pages = 0
        self._values: dict[int, int] = {}
        self._kept: Chain | None = None  # the driver's buffer for statistics (5.5.6.3)
        self._expected = False  # of a snapshot: ``resume`` finds it
        self._polled = False
        self._layout()

    # -- configuration (5.5.4)

    @property
    def target_pages(self) -> int:
        """``num_pages``: never more than there is RAM."""
        return int(min(self.balloon.target_bytes, self.io.dma.size_bytes)) // PAGE

    def _layout(self) -> None:
        self.config[:] = struct.pack("<IIII", self.target_pages, self._actual_pages, 0, 0)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Only ``actual`` is the driver's to write."""
        if offset >= 4 and offset + size <= 8:
            self.config[offset : offset + size] = value.to_bytes(size, "little")
            self._actual_pages = int.from_bytes(self.config[4:8], "little")
            self.balloon.actual_bytes = self._actual_pages * PAGE
            self.balloon.on_change()

    def _target_changed(self) -> None:
        self._layout()
        self.config_changed()

    def reset(self) -> None:
        """See VirtioDevice: the balloon is empty, what is wanted stays."""
        super().reset()
        self._kept = None
        self._expected = False
        self._polled = False
        self._values = {}
        self._actual_pages = 0
        self.balloon.actual_bytes = 0
        self.balloon.statistics = {}
        self._layout()

    # -- queues

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        """See VirtioDevice."""
        if queue.index == INFLATE:
            self._inflate(chain)
        elif queue.index == DEFLATE:
            chain.skip(chain.readable_bytes)  # the pages are there when they are written
        elif queue.index == 2 and self.has(F_STATS_VQ):
            self._take_statistics(queue, chain)
            return
        elif self.has(F_REPORTING):
            self._report(chain)
        queue.complete(chain, 0)

    def _inflate(self, chain: Chain) -> None:
        """5.5.6.1: frame numbers, from address 0, that the guest will not use."""
        size = chain.readable_bytes
        if size % 4 or size > 4 * MAX_FRAMES:
            raise GuestError(f"{size} bytes of frame numbers (5.5.6)")
        frames = sorted(set(struct.unpack(f"<{size // 4}I", chain.read(size))))
        dma = self.io.dma
        count = 0
        for frame in frames:
            if dma.contains(frame * PAGE, PAGE):
                count += dma.discard(frame * PAGE, PAGE)
        self._returned(count)

    def _report(self, chain: Chain) -> None:
        """5.5.6.7: buffers that are free pages. The guest may have them back at any time after."""
        count = 0
        for segment in chain.writable:
            count += self.io.dma.discard(segment.address, segment.length)
        self._returned(count)

    def _returned(self, pages: int) -> None:
        if pages:
            self.balloon.returned_bytes += pages * PAGE
            self.balloon.on_change()

    # -- statistics (5.5.6.3)

    def _take_statistics(self, queue: VirtQueue, chain: Chain) -> None:
        """Keep the buffer until the host asks again; unknown tags are passed over."""
        if chain.readable_bytes > MAX_STATISTICS * STATISTIC.size:
            raise GuestError(f"{chain.readable_bytes} bytes of statistics (5.5.6.3)")
        data = chain.read(chain.readable_bytes)
        if self._kept is not None:
            queue.complete(self._kept, 0)
        self._kept = chain
        for at in range(0, len(data) - STATISTIC.size + 1, STATISTIC.size):
            tag, value = STATISTIC.unpack_from(data, at)
            if tag < len(STATISTICS):
                self._values[tag] = value
        self._publish()
        self.balloon.on_statistics()
        if self._polled:
            self._poll()

    def _publish(self) -> None:
        self.balloon.statistics = {
            STATISTICS[tag]: self._values[tag] for tag in sorted(self._values)
        }

    def _poll(self) -> None:
        """The host wants new ones: give the buffer back, and the driver fills it again."""
        self._polled = self._kept is None and not self._expected
        if self._kept is not None:
            chain, self._kept = self._kept, None
            self.queues[2].complete(chain, 0)

    # -- snapshots

    def state(self) -> VirtioBalloonState:
        """See VirtioDevice."""
        return VirtioBalloonState(
            self.target_pages,
            self._actual_pages,
            self.balloon.returned_bytes,
            tuple(sorted(self._values.items())),
            self._kept is not None or self._expected,
            self._polled,
        )

    def restore(self, state: VirtioBalloonState) -> None:
        """See VirtioDevice."""
        self.balloon.target_bytes = state.target_pages * PAGE
        self._actual_pages = state.actual_pages
        self.balloon.actual_bytes = state.actual_pages * PAGE
        self.balloon.returned_bytes = state.returned_bytes
        self._values = dict(state.statistics)
        self._expected = state.kept
        self._polled = state.polled
        self._publish()
        self._layout()

    def resume(self) -> None:
        """See VirtioDevice: the kept buffer is here again, and says nothing new. What the driver has
        made available since then waits for its bell, as it did before.
        """
        for queue in self.queues:
            while queue.interrupted and (chain := queue.pop()):
                if self._expected and queue.index == 2:
                    self._expected = False
                    self._kept = chain
                else:
                    queue.complete(chain, 0)
