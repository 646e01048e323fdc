"""The network card (virtio 1.2, 5.1)."""

from __future__ import annotations

import struct
from typing import Any, Final

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device import DeviceIo, Packet
from asyncvmm.device.net import GSO_NONE, GSO_TCP4, GSO_TCP6, MAX_PACKET, MIN_FRAME
from asyncvmm.network.offload import MIN_GSO_SIZE, completed, wire_packets
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue
from asyncvmm_plugins.virtio_net.config import VirtioNetConfig
from asyncvmm_plugins.virtio_net.filter import MODES, ReceiveFilter
from asyncvmm_plugins.virtio_net.state import VirtioNetState

DEVICE_ID: Final = 1
RECEIVE: Final = 0
TRANSMIT: Final = 1
CONTROL_SIZE: Final = 64

# Features (5.1.3).
F_CSUM: Final = 1 << 0
F_GUEST_CSUM: Final = 1 << 1
F_CTRL_GUEST_OFFLOADS: Final = 1 << 2
F_MTU: Final = 1 << 3
F_MAC: Final = 1 << 5
F_GUEST_TSO4: Final = 1 << 7
F_GUEST_TSO6: Final = 1 << 8
F_HOST_TSO4: Final = 1 << 11
F_HOST_TSO6: Final = 1 << 12
F_MRG_RXBUF: Final = 1 << 15
F_STATUS: Final = 1 << 16
F_CTRL_VQ: Final = 1 << 17
F_CTRL_RX: Final = 1 << 18
F_CTRL_RX_EXTRA: Final = 1 << 20
F_GUEST_ANNOUNCE: Final = 1 << 21
F_CTRL_MAC_ADDR: Final = 1 << 23
OFFLOADS: Final = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6
GUEST_OFFLOADS: Final = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6
CONTROLS: Final = F_CTRL_VQ | F_CTRL_RX | F_CTRL_RX_EXTRA | F_CTRL_MAC_ADDR | F_GUEST_ANNOUNCE

# Status (5.1.4).
S_LINK_UP: Final = 1
S_ANNOUNCE: Final = 2

# The header of every packet (5.1.6).
HEADER: Final = struct.Struct("<BBHHHHH")
NEEDS_CSUM: Final = 1
DATA_VALID: Final = 2
GSO_ECN: Final = 0x80

# Control commands (5.1.6.5).
CLASS_RX: Final = 0
CLASS_MAC: Final = 1
MAC_TABLE_SET: Final = 0
MAC_ADDR_SET: Final = 1
CLASS_ANNOUNCE: Final = 3
CLASS_GUEST_OFFLOADS: Final = 5
CONTROL_OK: Final = 0
CONTROL_ERROR: Final = 1
MAX_COMMAND: Final = 4096


class VirtioNet(VirtioDevice):
    """``io.net`` behind a receive, a transmit and a control queue.

    What is sent leaves at once, with the checksums and large segments that the driver left to us; what
    arrives waits in ``io.net`` for the driver's buffers, and is finished here if the driver cannot.
    """

    def __init__(self, config: VirtioNetConfig, io: DeviceIo) -> None:
        features = F_MAC | F_MTU | F_STATUS | F_MRG_RXBUF
        queues = [config.queue_size, config.queue_size]
        if config.offload:
            features |= OFFLOADS | GUEST_OFFLOADS
        if config.control:
            features |= CONTROLS | (F_CTRL_GUEST_OFFLOADS if config.offload else 0)
            queues.append(CONTROL_SIZE)
        super().__init__(io, DEVICE_ID, queues, features, bytes(12))
        self.net = io.net
        self.mtu = config.mtu
        self.filter = ReceiveFilter()
        self.mac = self.net.mac
        self.offloads = 0  # of GUEST_OFFLOADS, those that the driver has on
        self.announce = False
        self.dropped = 0  # packets of the driver that make no sense
        self.net.on_packets = self._deliver
        self.net.on_link = self._link_changed
        self._layout()

    def _layout(self) -> None:
        """5.1.4."""
        status = (S_LINK_UP if self.net.link_up else 0) | (S_ANNOUNCE if self.announce else 0)
        self.config[:] = self.mac + struct.pack("<HHH", status, 1, self.mtu)

    def reset(self) -> None:
        """See VirtioDevice; what has arrived is gone."""
        super().reset()
        self.mac = self.net.mac
        self.filter.reset()
        self.offloads = 0
        self.announce = False
        self.net.clear()
        self._layout()

    def activated(self) -> None:
        """5.1.6.5.6.1: negotiated offloads are on."""
        self.offloads = self.negotiated & GUEST_OFFLOADS

    def notified(self, queue: VirtQueue) -> None:
        """See VirtioDevice."""
        if queue.index == RECEIVE:
            self._deliver()
        else:
            super().notified(queue)

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        """See VirtioDevice."""
        if queue.index == TRANSMIT:
            self._transmit(chain)
            queue.complete(chain, 0)
        else:
            self._control(queue, chain)

    # Sending (5.1.6.2).

    def _transmit(self, chain: Chain) -> None:
        size = chain.readable_bytes - HEADER.size
        if size < MIN_FRAME or size > MAX_PACKET:
            self.dropped += 1
            return
        flags, gso, _, gso_size, start, offset, _ = HEADER.unpack(chain.read(HEADER.size))
        packet = self._packet(chain.read(size), flags, gso & ~GSO_ECN, gso_size, start, offset)
        if packet is None:
            self.dropped += 1
        else:
            self.net.send(packet)

    def _packet(
        self, data: bytes, flags: int, gso: int, gso_size: int, start: int, offset: int
    ) -> Packet | None:
        """What the driver means; None when it asks for what was not agreed or cannot be."""
        if not flags & NEEDS_CSUM:
            start, offset = -1, 0
        elif not self.has(F_CSUM) or start + offset + 2 > len(data):
            return None
        if gso == GSO_NONE:
            if len(data) > self.mtu + 18:
                return None
            return Packet(data, start, offset)
        feature = {GSO_TCP4: F_HOST_TSO4, GSO_TCP6: F_HOST_TSO6}.get(gso, 0)
        if not feature or not self.has(feature) or start < 0 or gso_size < MIN_GSO_SIZE:
            return None
        if len(data) <= self.mtu + 14 and gso_size >= len(data):
            return Packet(data, start, offset)
        return Packet(data, start, offset, gso, gso_size)

    # Receiving (5.1.6.3, 5.1.6.4).

    def _deliver(self) -> None:
        """As many of the packets that have arrived as the driver has buffers for."""
        queue, net = self.queues[RECEIVE], self.net
        if not queue.live:
            if not self.active:
                net.clear()
            return
        queue.hold_signals()
        while (packet := net.peek()) is not None:
            if self.filter.passes(packet.data[:6], self.mac):
                if not self._write_all(queue, self._as_wanted(packet)):
                    break
            net.receive()
        queue.release_signals()

    def _write_all(self, queue: VirtQueue, pieces: list[Packet]) -> bool:
        """False when the driver has no buffer for it now. Of a packet that had to be cut here, what
        finds no buffer is lost.
        """
        for number, piece in enumerate(pieces):
            if not self._write(queue, piece):
                if number == 0:
                    return False
                self.dropped += len(pieces) - number
                break
        return True

    def _as_wanted(self, packet: Packet) -> list[Packet]:
        """The packet as the driver can take it."""
        if packet.gso != GSO_NONE:
            wanted = F_GUEST_TSO4 if packet.gso == GSO_TCP4 else F_GUEST_TSO6
            if self.offloads & wanted and self.offloads & F_GUEST_CSUM:
                return [packet]
            return wire_packets(packet)
        if packet.checksum_start >= 0 and not self.offloads & F_GUEST_CSUM:
            return [completed(packet)]
        return [packet]

    def _write(self, queue: VirtQueue, packet: Packet) -> bool:
        """Into one chain, or several if the driver merges them; False when there are too few."""
        total = HEADER.size + len(packet.data)
        merge = self.has(F_MRG_RXBUF)
        chains: list[Chain] = []
        room = 0
        while room < total:
            chain = queue.pop()
            if chain is None:
                for taken in reversed(chains):
                    queue.unpop(taken)
                return False
            if chain.readable_bytes or not chain.writable_bytes:
                self.fail("a receive buffer that is not for the device to write (5.1.6.3)")
                return False
            chains.append(chain)
            room += chain.writable_bytes
            if not merge and room < total:
                queue.complete(chain, 0)
                self.io.log(f"a receive buffer of {room} bytes is too small (5.1.6.3.1)")
                return True
        data = _header(packet, len(chains)) + packet.data
        at = 0
        for chain in chains:
            at += chain.write(data[at:])
            queue.complete(chain)
        return True

    def _link_changed(self) -> None:
        self._layout()
        self.config_changed()

    # Control (5.1.6.5).

    def _control(self, queue: VirtQueue, chain: Chain) -> None:
        if chain.writable_bytes < 1 or chain.readable_bytes < 2:
            raise GuestError("a control command without room for class, command or ack (5.1.6.5)")
        command = chain.read(MAX_COMMAND)
        done = chain.unread_bytes == 0 and self._command(command[0], command[1], command[2:])
        chain.write(bytes([CONTROL_OK if done else CONTROL_ERROR]))
        queue.complete(chain)

    def _command(self, kind: int, command: int, data: bytes) -> bool:
        if kind == CLASS_RX and command < MODES and len(data) == 1:
            self.filter.set_mode(command, data[0] != 0)
            return True
        if kind == CLASS_MAC and command == MAC_ADDR_SET and len(data) == 6:
            if data[0] & 1:
                return False
            self.mac = data
            self._layout()
            return True
        if kind == CLASS_MAC and command == MAC_TABLE_SET:
            return self._set_tables(data)
        if kind == CLASS_ANNOUNCE and command == 0 and not data:
            self.announce = False
            self._layout()
            return True
        if kind == CLASS_GUEST_OFFLOADS and command == 0 and len(data) == 8:
            wanted = int.from_bytes(data, "little")
            if wanted & ~(self.negotiated & GUEST_OFFLOADS) or not self.has(F_CTRL_GUEST_OFFLOADS):
                return False
            self.offloads = wanted
            return True
        return False

    def _set_tables(self, data: bytes) -> bool:
        """5.1.6.5.2: a count and addresses, twice."""
        tables: list[list[bytes]] = []
        for _ in range(2):
            if len(data) < 4:
                return False
            count = int.from_bytes(data[:4], "little")
            data = data[4:]
            if count * 6 > len(data):
                return False
            tables.append([data[6 * i : 6 * i + 6] for i in range(count)])
            data = data[6 * count :]
        if data:
            return False
        self.filter.set_tables(*tables)
        return True

    # Snapshots.

    def state(self) -> VirtioNetState:
        """What a reset device lacks besides the transport's part."""
        return VirtioNetState(
            self.mac,
            self.filter.mode,
            tuple(sorted(mac.hex() for mac in self.filter.unicast)),
            tuple(sorted(mac.hex() for mac in self.filter.multicast)),
            self.filter.overflow,
            self.offloads,
            self.announce,
        )

    def save(self) -> dict[str, object]:
        """See VirtioDevice."""
        return {**super().save(), "net": self.state().save()}

    def check_saved(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().check_saved(saved)
        net = saved.get("net")
        if not isinstance(net, dict):
            raise ConfigError(f"{self.io.path}: the saved card has no state")
        state = VirtioNetState.load(net)
        if state.offloads & ~GUEST_OFFLOADS:
            raise ConfigError(f"{self.io.path}: saved offloads are not those of this card")

    def load(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().load(saved)
        state = VirtioNetState.load(saved["net"])
        self.mac = state.mac
        self.filter.mode = state.mode
        self.filter.unicast = frozenset(map(bytes.fromhex, state.unicast))
        self.filter.multicast = frozenset(map(bytes.fromhex, state.multicast))
        self.filter.overflow = state.overflow
        self.offloads = state.offloads
        self.announce = state.announce
        self._layout()


def _header(packet: Packet, buffers: int) -> bytes:
    """5.1.6.4.1."""
    if packet.checksum_start < 0:
        return HEADER.pack(0, 0, 0, 0, 0, 0, buffers)
    return HEADER.pack(
        NEEDS_CSUM,
        packet.gso,
        min(len(packet.data), 0xFFFF) if packet.gso == GSO_NONE else _header_bytes(packet),
        packet.gso_size,
        packet.checksum_start,
        packet.checksum_offset,
        buffers,
    )


def _header_bytes(packet: Packet) -> int:
    """How long the headers of a large TCP segment are."""
    at = packet.checksum_start + 12
    words = packet.data[at] >> 4 if at < len(packet.data) else 5
    return min(packet.checksum_start + 4 * words, 0xFFFF)
