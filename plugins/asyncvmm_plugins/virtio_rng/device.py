"""The entropy device (virtio 1.2, 5.4)."""

from __future__ import annotations

from typing import Any, Final

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device import DeviceIo
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue
from asyncvmm_plugins.virtio_rng.config import VirtioRngConfig
from asyncvmm_plugins.virtio_rng.state import VirtioRngState

DEVICE_ID: Final = 4
# 5.4.6.2 lets the device return less than was asked for.
MAX_BYTES: Final = 1 << 16


class VirtioRng(VirtioDevice):
    """Fills each buffer with the next bytes of ``io.rng``."""

    def __init__(self, config: VirtioRngConfig, io: DeviceIo) -> None:
        super().__init__(io, DEVICE_ID, [64])

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        """5.4.6: at least one byte in each buffer; no readable buffers."""
        if chain.readable_bytes:
            raise GuestError("a readable buffer in virtio-rng's queue (5.4.6.1)")
        count = min(chain.writable_bytes, MAX_BYTES)
        queue.complete(chain, chain.write(self.io.rng.bytes(count)))

    def save(self) -> dict[str, object]:
        """See VirtioDevice."""
        return {**super().save(), "rng": VirtioRngState(self.io.rng.position).save()}

    def check_saved(self, saved: dict[str, object]) -> None:
        """See VirtioDevice."""
        super().check_saved(saved)
        _state(saved)

    def load(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().load(saved)
        self.io.rng.position = _state(saved).position


def _state(saved: dict[str, Any]) -> VirtioRngState:
    rng = saved.get("rng")
    if not isinstance(rng, dict):
        raise ConfigError("the saved virtio-rng has no state")
    return VirtioRngState.load(rng)
