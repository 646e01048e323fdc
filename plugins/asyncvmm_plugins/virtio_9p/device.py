"""The 9P transport, device 9 (virtio 1.2, 5): one message a chain, over ``io.folder``."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device import DeviceIo
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue
from asyncvmm_plugins.virtio_9p import messages
from asyncvmm_plugins.virtio_9p.config import Virtio9pConfig
from asyncvmm_plugins.virtio_9p.session import Session
from asyncvmm_plugins.virtio_9p.state import Virtio9pState
from asyncvmm_plugins.virtio_9p.tree import Tree

DEVICE_ID: Final = 9
QUEUE_SIZE: Final = 128
F_MOUNT_TAG: Final = 1

# A share is no faster than this in virtual time, so that a guest cannot make its host work without end at
# one instant: bytes are read, hashed and copied, and each request costs as much as some of them.
WORK_BYTES_PER_NS: Final = 1
WORK_BURST_NS: Final = 4_000_000
REQUEST_WORK_BYTES: Final = 16 << 10


class Virtio9p(VirtioDevice):
    """``io.folder`` as a file system. Requests are answered in order, at once or as soon as the earlier
    ones have had their time.
    """

    state_type = Virtio9pState

    def __init__(self, config: Virtio9pConfig, io: DeviceIo) -> None:
        tag = config.tag.encode()
        super().__init__(
            io, DEVICE_ID, [QUEUE_SIZE], F_MOUNT_TAG, len(tag).to_bytes(2, "little") + tag
        )
        self.folder = io.folder
        self.tree = Tree(io.folder, config.overlay if config.cow else None, io.clock.epoch_ns)
        self.session = Session(self.tree, config.msize, self._now_ns)
        self.busy_until_ns = 0
        self._waiting: deque[tuple[VirtQueue, Chain]] = deque()
        self._event = io.clock.after(0, self._go_on)
        self._event.cancel()
        for name in getattr(io.folder, "left_out", [])[:10]:
            io.log(f"{name}: neither file nor folder nor link of this file system: not shown")

    def _now_ns(self) -> int:
        return self.io.clock.epoch_ns + self.io.clock.now_ns

    def reset(self) -> None:
        """See VirtioDevice; no file is open, but what was written stays, as on a disk."""
        super().reset()
        self._event.cancel()
        self._waiting.clear()
        self.busy_until_ns = 0
        self.session.clear()

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        """See VirtioDevice."""
        if chain.writable_bytes < messages.ERROR_BYTES:
            raise GuestError("a 9P request without room for an answer")
        self._waiting.append((queue, chain))
        if len(self._waiting) == 1:
            self._go_on()

    def _go_on(self) -> None:
        """Answer what waits, as far as time allows."""
        while self._waiting:
            queue, chain = self._waiting[0]
            if queue.live and chain.generation == queue.generation:
                ahead = self.busy_until_ns - WORK_BURST_NS - self.io.clock.now_ns
                if ahead > 0:
                    if not self._event.pending:
                        self._event = self.io.clock.after(ahead, self._go_on)
                    return
                self._serve(queue, chain)
            self._waiting.popleft()

    def _serve(self, queue: VirtQueue, chain: Chain) -> None:
        head = chain.read(messages.HEADER.size)
        size, kind, tag = (
            messages.HEADER.unpack(head) if len(head) == messages.HEADER.size else (0, 0, 0)
        )
        limit = self.session.msize or self.session.max_msize
        if messages.HEADER.size <= size <= min(limit, chain.readable_bytes):
            body = chain.read(size - messages.HEADER.size)
            room = min(limit, chain.writable_bytes) - messages.HEADER.size
            answer, data = self.session.answer(kind, body, room)
        else:
            body = b""
            answer, data = messages.RLERROR, messages.error(22)
        work = REQUEST_WORK_BYTES + len(body) + len(data)
        now_ns = self.io.clock.now_ns
        self.busy_until_ns = max(self.busy_until_ns, now_ns) + work // WORK_BYTES_PER_NS
        chain.write(messages.message(answer, tag, data))
        queue.complete(chain)

    # Snapshots.

    def state(self) -> Virtio9pState:
        """See VirtioDevice."""
        return Virtio9pState(
            self.folder.digest,
            self.session.msize,
            self.busy_until_ns,
            self.tree.next_number,
            self.session.states(),
            self.tree.states(),
        )

    def check_saved(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().check_saved(saved)
        state = Virtio9pState.load(saved["state"])
        if state.folder != self.folder.digest:
            raise ConfigError(
                f"{self.io.path}: the shared folder is not what it was when the guest was saved"
            )
        wrong = self.tree.problem(state.nodes, state.next_number)
        known = {node.number for node in state.nodes}
        if not wrong and any(
            fid.number not in known and fid.number >= len(self.folder.entries) for fid in state.fids
        ):
            wrong = "an open file is not there"
        if wrong:
            raise ConfigError(f"{self.io.path}: the saved overlay is damaged: {wrong}")

    def restore(self, state: Virtio9pState) -> None:
        """See VirtioDevice."""
        self.session.clear()
        self.tree.restore(state.nodes, state.next_number)
        self.session.restore(state.msize, state.fids)
        self.busy_until_ns = state.busy_until_ns

    def resume(self) -> None:
        """See VirtioDevice. What the driver has made available since then waits for its bell."""
        (queue,) = self.queues
        while queue.interrupted and (chain := queue.pop()):
            self._waiting.append((queue, chain))
        self._go_on()
