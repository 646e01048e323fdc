"""What a plugin says about a kind of network backend, and the base class of one.

A backend is what is at the other end of a cable, where else a guest's card would be: a machine outside,
a tunnel to another network, a peer that exists in a test only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final, Protocol

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Packet
from asyncvmm.network.outlet import NetworkIo
from asyncvmm.plugin.devices import check_api_version
from asyncvmm.plugin.options import check_config_class, parse_options
from asyncvmm.plugin.state import VersionedState


class NetworkTaskIo(Protocol):
    """What the ``run(io)`` of a live backend is handed: a door to the world outside, and one back in.

    It begins when the first guest is plugged in, or time begins to pass, and is cancelled when the host
    ends. An exception out of it is recorded and it is started again, after a growing pause.
    """

    @property
    def path(self) -> str:
        """The backend's, for messages."""
        ...

    async def receive(self) -> Any:
        """The oldest request in ``io.inbox``; waits for one."""
        ...

    async def give(self, data: bytes) -> None:
        """Let the backend's ``entered(data)`` be called between two stretches of virtual time.

        This is the only way in. It is in the host's journal, so that a replay has it again.
        """
        ...

    def log(self, message: str) -> None:
        """Leave a line in the backend's ``io.messages``."""
        ...


NetworkTask = Callable[[NetworkTaskIo], Awaitable[None]]


class NetworkBackend:
    """The base class. Subclasses have ``arrive``, and what else they need.

    One with state of its own names a ``VersionedState`` in ``state_type`` and has ``state()`` and
    ``restore(state)``; one with timers sets them again in ``resume``. A backend that lives with the
    world outside has ``async def run(self, io: NetworkTaskIo)`` and a type with ``live=True``.
    """

    state_type: ClassVar[type[VersionedState] | None] = None

    def __init__(self, config: Any, io: NetworkIo) -> None:
        self.config: Final = config
        self.io: Final = io
        io.net.on_packets = self._take

    def arrive(self, frame: bytes) -> None:
        """An Ethernet frame without its FCS has come along the cable, at ``io.clock.now_ns``."""
        raise NotImplementedError

    def entered(self, data: bytes) -> None:
        """``run(io)`` has given ``data``: a frame to be sent, unless a subclass knows better."""
        self.send(data)

    def send(self, frame: bytes) -> bool:
        """Put a frame on the cable now; False when it was dropped (too short, too long, too many)."""
        return self.io.net.send(Packet(frame))

    def state(self) -> VersionedState:
        """Its state now."""
        raise NotImplementedError

    def restore(self, state: Any) -> None:
        """Be what ``state`` says."""
        raise NotImplementedError

    def resume(self) -> None:
        """A snapshot was loaded."""

    def save(self) -> Any:
        """See ``asyncvmm.network.outlet.NetworkEnd``."""
        return None if self.state_type is None else self.state().save()

    def load(self, saved: Any) -> None:
        """See ``asyncvmm.network.outlet.NetworkEnd``."""
        if self.state_type is not None:
            self.restore(self.state_type.load(saved))
        elif saved is not None:
            raise ConfigError(f"{self.io.path}: has no state, and some was saved")

    def _take(self) -> None:
        while (packet := self.io.net.receive()) is not None:
            self.arrive(packet.data)


@attrs.frozen
class NetworkBackendType:
    """One kind of network backend: ``factory(config, io)`` makes a ``NetworkBackend``.

    ``config`` is an attrs class whose fields are the options. ``live`` marks one that uses wall time or
    the world outside, and so may have ``run(io)``; it marks the run. ``api_version`` as for devices.
    """

    name: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z0-9][a-z0-9-]*"))
    summary: str
    config: type[Any]
    factory: Callable[[Any, NetworkIo], Any]
    live: bool = False
    api_version: int = 1

    def __attrs_post_init__(self) -> None:
        check_api_version("network backend", self.name, self.api_version)
        check_config_class(self.name, self.config)

    def parse(self, options: Mapping[str, str | None]) -> Any:
        """A config from option strings (None for a bare flag); ConfigError names what is wrong."""
        return parse_options(self.name, self.config, options)
