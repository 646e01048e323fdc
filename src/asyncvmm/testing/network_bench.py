"""A bench for one network backend: what comes along its cable, what it sends, and virtual time."""

from __future__ import annotations

import json
from collections.abc import Mapping

from asyncvmm.device import Packet
from asyncvmm.network.outlet import NetworkIo, Outlet
from asyncvmm.network.saved import Saved
from asyncvmm.plugin import NetworkBackendType


class NetworkBench:
    """A backend of ``kind`` with ``options``, without a network.

    ``arrive`` brings it a frame, ``advance`` lets virtual time pass, ``sent`` is what it has sent:
    (virtual ns, frame). In a network an exception would end the backend; here it is raised as an
    AssertionError. ``end`` is the backend, ``mac`` its card's address.
    """

    def __init__(
        self,
        kind: NetworkBackendType,
        options: Mapping[str, str | None] | None = None,
        seed: int = 0,
    ) -> None:
        self.kind = kind
        self.options = dict(options or {})
        self.seed = seed
        self.io = NetworkIo(f"bench/{kind.name}", seed, self._failed)
        self.end = kind.factory(kind.parse(self.options), self.io)
        self.outlet = Outlet(kind.name, self.io, self.end)
        self.sent: list[tuple[int, bytes]] = []

    @property
    def mac(self) -> bytes:
        """The address of the backend's card."""
        return self.io.net.mac

    @property
    def now_ns(self) -> int:
        """Virtual time."""
        return self.io.clock.now_ns

    def arrive(self, frame: bytes) -> list[bytes]:
        """A frame comes now; what the backend sends at once."""
        self.outlet.arrive(self.now_ns, Packet(frame))
        return self.advance(0)

    def advance(self, nanoseconds: int) -> list[bytes]:
        """Let virtual time pass, each event at its own instant; what the backend sends meanwhile."""
        until_ns, before = self.now_ns + nanoseconds, len(self.sent)
        while (due_ns := self.outlet.next_ns()) <= until_ns:
            self.outlet.run(max(due_ns, self.now_ns))
            self._collect()
        self.outlet.run(until_ns)
        self._collect()
        return [frame for _, frame in self.sent[before:]]

    def copy(self) -> NetworkBench:
        """Another backend, made from what this one saves: it goes on as this one does."""
        self._collect()
        saved = json.loads(json.dumps(self.outlet.save()))
        other = NetworkBench(self.kind, self.options, self.seed)
        other.outlet.load(Saved(saved, self.io.path))
        return other

    def _collect(self) -> None:
        self.sent += [(sent.time_ns, sent.packet.data) for sent in self.io.net.take_sent()]

    def _failed(self, text: str) -> None:
        raise AssertionError(f"{self.io.path}: {text}")
