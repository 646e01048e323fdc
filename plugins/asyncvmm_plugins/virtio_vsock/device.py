"""The socket device (virtio 1.2, 5.10): streams with credit, between the guest and ``io.sockets``."""

from __future__ import annotations

from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import DeviceIo, Socket
from asyncvmm.device.sockets import CONNECTING, OPEN, SOCKET_BYTES
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue
from asyncvmm_plugins.virtio_vsock.config import VirtioVsockConfig
from asyncvmm_plugins.virtio_vsock.connection import Connection
from asyncvmm_plugins.virtio_vsock.packets import (
    CREDIT_REQUEST,
    CREDIT_UPDATE,
    HEADER,
    HOST_CID,
    REQUEST,
    RESPONSE,
    RST,
    RW,
    SHUTDOWN,
    STREAM,
    Packet,
)
from asyncvmm_plugins.virtio_vsock.state import (
    MAX_CONNECTIONS,
    MAX_RESETS,
    VirtioVsockState,
)

DEVICE_ID: Final = 19
RECEIVE: Final = 0
TRANSMIT: Final = 1
QUEUE_SIZE: Final = 128
FIRST_PORT: Final = 1 << 30
CLOSING_NS: Final = 2_000_000_000  # for the guest's answer to a SHUTDOWN, then it is reset

Key = tuple[int, int]  # the guest's port, the host's


class VirtioVsock(VirtioDevice):
    """Connections by their two ports. Those that have something to send take turns.

    What a guest sends to nobody is answered with RST, up to a bound: then its packets wait until it has
    taken the answers (5.10.6.4.1).
    """

    state_type = VirtioVsockState

    def __init__(self, config: VirtioVsockConfig, io: DeviceIo) -> None:
        super().__init__(io, DEVICE_ID, [QUEUE_SIZE] * 3, 0, config.cid.to_bytes(8, "little"))
        self.cid = config.cid
        self.hub = io.sockets
        self.hub.on_connect = self._connect
        self.connections: dict[Key, Connection] = {}
        self.next_port = FIRST_PORT
        self.dropped = 0  # packets that make no sense
        self._ready: dict[Key, None] = {}
        self._resets: list[tuple[int, int, int, int]] = []
        self._lost: list[Key] = []  # of a snapshot, to be reset when the guest goes on
        self._busy = False

    def reset(self) -> None:
        """See VirtioDevice: connections end, except those that the driver has not heard of."""
        super().reset()
        kept: dict[Key, Connection] = {}
        for key, connection in list(self.connections.items()):
            if connection.socket.state == CONNECTING and not connection.requested:
                kept[key] = connection
            else:
                connection.socket.ended("the guest's driver was reset")
        self.connections = kept
        self._ready = dict.fromkeys(kept)
        self._resets.clear()
        self._lost.clear()

    def activated(self) -> None:
        """See VirtioDevice."""
        self._flush()

    def notified(self, queue: VirtQueue) -> None:
        """See VirtioDevice."""
        if queue.index == TRANSMIT:
            self._transmit()
        if queue.index in (RECEIVE, TRANSMIT):
            self._flush()

    # -- from the guest

    def _transmit(self) -> None:
        queue = self.queues[TRANSMIT]
        left = queue.pending()
        queue.hold_signals()
        while left > 0 and len(self._resets) < MAX_RESETS and (chain := queue.pop()):
            self._take(chain)
            queue.complete(chain, 0)
            left -= 1
        queue.release_signals()

    def _take(self, chain: Chain) -> None:
        """One packet (5.10.6): whatever is wrong with it is the guest's loss."""
        head = chain.read(HEADER.size)
        if len(head) < HEADER.size:
            self.dropped += 1
            return
        packet = Packet.parse(head)
        if packet.source_cid != self.cid or packet.length > chain.unread_bytes:
            self.dropped += 1
            return
        key = (packet.source_port, packet.target_port)
        if packet.kind != STREAM or packet.target_cid != HOST_CID:
            self._refuse(packet)
            return
        connection = self.connections.get(key)
        if connection is None:
            if packet.operation == REQUEST:
                self._asked(packet, key)
            else:
                self._refuse(packet)
            return
        if packet.operation == RST:
            self._over(key, self._why_reset(connection.socket))
            return
        if not connection.heard(packet):
            self._cut(key, "the guest says that it has read what it was not sent")
            return
        self._serve(key, connection, packet, chain)
        if key in self.connections:
            self._mark(key)

    def _refuse(self, packet: Packet) -> None:
        """RST for a packet of no connection; never for an RST."""
        if packet.operation != RST:
            self._resets.append(
                (packet.target_cid, packet.kind, packet.target_port, packet.source_port)
            )

    def _why_reset(self, socket: Socket) -> str:
        if socket.state == CONNECTING:
            return "the guest refused the connection"
        # An RST is how a shutdown of both ways is answered.
        return "" if socket.gone or (socket.guest_finished and socket.finished) else "it was reset"

    def _asked(self, packet: Packet, key: Key) -> None:
        """REQUEST of the guest (5.10.6.5)."""
        accept = self.hub.listeners.get(packet.target_port)
        if accept is None or len(self.connections) >= MAX_CONNECTIONS:
            self._refuse(packet)
            return
        socket = Socket(packet.target_port, True)
        socket.guard = self.io.guard
        connection = Connection(*key, socket)
        connection.heard(packet)
        connection.opening = RESPONSE
        connection.requested = True
        socket.state = OPEN
        self._add(key, connection)
        if not accept(socket):
            self._over(key, "")
            self._refuse(packet)
            return
        self._mark(key)

    def _serve(self, key: Key, connection: Connection, packet: Packet, chain: Chain) -> None:
        socket, operation = connection.socket, packet.operation
        if socket.state == CONNECTING:
            if operation == RESPONSE and connection.requested:
                socket.state = OPEN
                socket.changed()
            else:
                self._cut(key, "the guest answered a connection with something else")
        elif operation == RW:
            size = packet.length
            if size > SOCKET_BYTES or not connection.accept(chain.read(size)):
                self._cut(key, "the guest sent more than there was room for")
            else:
                socket.changed()
        elif operation == SHUTDOWN:
            if connection.shut(packet.flags):
                self._cut(key, "")
            else:
                socket.changed()
        elif operation == CREDIT_REQUEST:
            connection.update = True
        elif operation != CREDIT_UPDATE:
            self._cut(key, "the guest sent an unknown operation")
        if operation == CREDIT_UPDATE:
            socket.changed()

    def _over(self, key: Key, failure: str) -> None:
        """The connection is no more."""
        connection = self.connections.pop(key)
        self._ready.pop(key, None)
        connection.socket.ended(failure)

    def _cut(self, key: Key, failure: str) -> None:
        """It is no more, and the guest is told so."""
        connection = self.connections[key]
        connection.reset = True
        connection.opening = 0
        connection.socket.ended(failure)
        self._ready[key] = None

    # -- from the host

    def _add(self, key: Key, connection: Connection) -> None:
        self.connections[key] = connection
        connection.socket.on_host = lambda: self._host_did(key, connection)

    def _connect(self, socket: Socket) -> None:
        """A program on the host wants a port of the guest's."""
        if len(self.connections) >= MAX_CONNECTIONS:
            socket.ended(f"there are {MAX_CONNECTIONS} connections already")
            return
        while (key := (socket.target_port, self.next_port)) in self.connections:
            self._step_port()
        self._step_port()
        connection = Connection(*key, socket)
        connection.opening = REQUEST
        self._add(key, connection)
        self._mark(key)
        self._flush()

    def _step_port(self) -> None:
        self.next_port = self.next_port + 1 if self.next_port < (1 << 32) - 2 else FIRST_PORT

    def _host_did(self, key: Key, connection: Connection) -> None:
        """The program has sent, read, finished or closed."""
        if self.connections.get(key) is not connection or connection.reset:
            return
        socket = connection.socket
        if socket.cut or (socket.gone and socket.state == CONNECTING):
            if connection.requested:
                self._cut(key, "it was cut on the host")
            else:
                self._over(key, "it was cut on the host")
        else:
            connection.host_read()
            if socket.gone:
                self.io.clock.after(CLOSING_NS, lambda: self._late(key, connection))
            self._mark(key)
        self._flush()

    def _late(self, key: Key, connection: Connection) -> None:
        """The guest has not answered a SHUTDOWN."""
        if self.connections.get(key) is connection and not connection.reset:
            self._cut(key, "")
            self._flush()

    def _mark(self, key: Key) -> None:
        if self.connections[key].wants:
            self._ready[key] = None

    # -- to the guest

    def _flush(self) -> None:
        """Send what there is, as far as the driver has buffers."""
        if self._busy:
            return  # a program did something from inside: the loop below sees it
        self._busy = True
        queue = self.queues[RECEIVE]
        queue.hold_signals()
        while self._resets or self._ready:
            while (self._resets or self._ready) and (chain := queue.pop()):
                if chain.writable_bytes < HEADER.size:
                    self.fail(f"a receive buffer of {chain.writable_bytes} bytes (5.10.6.1)")
                    break
                self._send(chain)
                queue.complete(chain)
            stuck = len(self._resets) >= MAX_RESETS or not self.queues[TRANSMIT].pending()
            if stuck or not self.active:
                break
            before = len(self._resets), len(self._ready)
            self._transmit()
            if before == (len(self._resets), len(self._ready)):
                break
        queue.release_signals()
        self._busy = False

    def _send(self, chain: Chain) -> None:
        if self._resets:
            cid, kind, source, target = self._resets.pop(0)
            chain.write(Packet(cid, self.cid, source, target, 0, kind, RST).pack())
            return
        key = next(iter(self._ready))
        del self._ready[key]
        connection = self.connections[key]
        operation, flags, data = connection.next(int(chain.writable_bytes) - HEADER.size)
        room, consumed = connection.credit()
        packet = Packet(
            HOST_CID,
            self.cid,
            connection.host_port,
            connection.guest_port,
            len(data),
            STREAM,
            operation,
            flags,
            room,
            consumed,
        )
        chain.write(packet.pack() + data)
        if operation == RST:
            del self.connections[key]
            return
        if operation == RW:
            connection.socket.changed()
        if key in self.connections:
            self._mark(key)

    # -- snapshots

    def state(self) -> VirtioVsockState:
        """See VirtioDevice."""
        return VirtioVsockState(
            self.next_port,
            tuple(connection.state() for connection in self.connections.values()),
            tuple(self._resets),
        )

    def check_saved(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().check_saved(saved)
        state = VirtioVsockState.load(saved["state"])
        keys = {(each.guest_port, each.host_port) for each in state.connections}
        if len(keys) != len(state.connections):
            raise ConfigError(f"{self.io.path}: a saved connection is there twice")

    def restore(self, state: VirtioVsockState) -> None:
        """See VirtioDevice. Nobody on the host has the ends of these connections any more."""
        for connection in self.connections.values():
            connection.socket.ended("the guest went on from a snapshot")
        self.next_port = state.next_port
        self.connections = {
            (each.guest_port, each.host_port): Connection.lost(each) for each in state.connections
        }
        self._ready = {}
        self._resets = [tuple(each) for each in state.resets]
        self._lost = list(self.connections)

    def resume(self) -> None:
        """See VirtioDevice: the guest hears that its connections are cut."""
        lost, self._lost = self._lost, []
        for key in lost:
            connection = self.connections.get(key)
            if connection is not None and connection.requested:
                self._cut(key, "")
            elif connection is not None:
                self._over(key, "")
        super().resume()
        if lost:  # otherwise what waits goes on waiting for the driver's bell
            self._flush()
