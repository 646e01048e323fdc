"""One stream connection (virtio 1.2, 5.10.6): its credit, and what it has to send next.

Counters are 32 bits and wrap, as in the packets. What the guest says of its own credit is believed
only as far as it is possible: it cannot have read what it was not sent.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.device import Socket
from asyncvmm.device.sockets import CLOSED, OPEN, SOCKET_BYTES
from asyncvmm_plugins.virtio_vsock.packets import (
    CREDIT_REQUEST,
    CREDIT_UPDATE,
    MASK,
    NO_RECEIVE,
    NO_SEND,
    RST,
    RW,
    SHUTDOWN,
    Packet,
)
from asyncvmm_plugins.virtio_vsock.state import ConnectionState

LOW_ROOM: Final = 64 << 10  # the guest hears of new room when it knows of less than this
MAX_PAYLOAD: Final = 64 << 10


class Connection:
    """``socket`` between the guest's port and the host's. The device asks ``next`` what to send."""

    def __init__(self, guest_port: int, host_port: int, socket: Socket) -> None:
        self.guest_port: Final = guest_port
        self.host_port: Final = host_port
        self.socket: Final = socket
        self.sent = 0
        self.received = 0
        self.consumed = 0
        self.told = 0  # of ``consumed``, what the guest was told
        self.peer_room = 0
        self.peer_consumed = 0
        self.opening = 0  # REQUEST or RESPONSE, to be sent
        self.requested = False  # REQUEST was sent: the guest knows of it
        self.update = False  # CREDIT_UPDATE is to be sent
        self.asked = False  # CREDIT_REQUEST was sent and nothing came since
        self.said = 0  # flags of SHUTDOWN that were sent
        self.reset = False  # RST is to be sent, and then it is over

    # -- what the guest sends

    def heard(self, packet: Packet) -> bool:
        """Take the credit of any packet; False when it cannot be true."""
        step = (packet.forwarded - self.peer_consumed) & MASK
        if step > (self.sent - self.peer_consumed) & MASK:
            return False
        self.peer_consumed = packet.forwarded
        self.peer_room = packet.buffer_bytes
        self.asked = False
        return True

    def accept(self, data: bytes) -> bool:
        """Bytes of the guest; False when it sent more than it had credit for, or after its end."""
        socket = self.socket
        unread = (self.received - self.told) & MASK
        if socket.guest_finished or len(data) > SOCKET_BYTES - unread:
            return False
        self.received = (self.received + len(data)) & MASK
        if not socket.gone:
            socket.inbox += data
        self.host_read()
        return True

    def shut(self, flags: int) -> bool:
        """SHUTDOWN; True when that was all and the connection is over."""
        socket = self.socket
        if flags & NO_SEND:
            socket.guest_finished = True
        if flags & NO_RECEIVE:
            socket.guest_deaf = True
            socket.outbox.clear()
        return socket.guest_finished and socket.guest_deaf

    # -- what the host does

    def host_read(self) -> None:
        """Count what the program has taken; tell the guest in time."""
        self.consumed = (self.received - len(self.socket.inbox)) & MASK
        known = SOCKET_BYTES - ((self.received - self.told) & MASK)
        if known < LOW_ROOM and self.consumed != self.told:
            self.update = True

    @property
    def _credit(self) -> int:
        return self.peer_room - ((self.sent - self.peer_consumed) & MASK)

    @property
    def _shutting(self) -> int:
        """The flags of SHUTDOWN that the host's end stands for now."""
        socket = self.socket
        if not socket.finished or socket.outbox:
            return 0
        return NO_SEND | NO_RECEIVE if socket.gone else NO_SEND

    @property
    def wants(self) -> bool:
        """Whether there is something to send."""
        if self.opening or self.reset:
            return True
        socket = self.socket
        if socket.state != OPEN:
            return False
        if socket.outbox and (self._credit > 0 or not self.asked):
            return True
        return self.update or self._shutting & ~self.said != 0

    def next(self, room: int) -> tuple[int, int, bytes]:
        """Operation, flags and payload (at most ``room`` bytes) of the next packet."""
        if self.reset:
            return RST, 0, b""
        if self.opening:
            operation, self.opening = self.opening, 0
            self.requested = True
            return operation, 0, b""
        socket = self.socket
        count = min(len(socket.outbox), self._credit, room, MAX_PAYLOAD)
        if count > 0:
            data = bytes(socket.outbox[:count])
            del socket.outbox[:count]
            self.sent = (self.sent + count) & MASK
            return RW, 0, data
        if self.update:
            return CREDIT_UPDATE, 0, b""
        if socket.outbox:
            self.asked = True
            return CREDIT_REQUEST, 0, b""
        self.said = self._shutting
        return SHUTDOWN, self.said, b""

    def credit(self) -> tuple[int, int]:
        """buf_alloc and fwd_cnt for a packet that is sent now."""
        self.told = self.consumed
        self.update = False
        return SOCKET_BYTES, self.told

    def state(self) -> ConnectionState:
        """What a snapshot keeps."""
        return ConnectionState(
            self.guest_port,
            self.host_port,
            self.requested,
            self.socket.state == OPEN,
            self.sent,
            self.received,
            self.consumed,
            self.told,
            self.peer_room,
            self.peer_consumed,
            self.said,
        )

    @classmethod
    def lost(cls, state: ConnectionState) -> Connection:
        """One of a snapshot: its end on the host is not there any more."""
        made = cls(state.guest_port, state.host_port, Socket(state.guest_port, False))
        made.socket.state = OPEN if state.is_open else CLOSED
        made.requested = state.requested
        made.sent, made.received = state.sent, state.received
        made.consumed, made.told = state.consumed, state.told
        made.peer_room, made.peer_consumed = state.peer_room, state.peer_consumed
        made.said = state.said
        return made
