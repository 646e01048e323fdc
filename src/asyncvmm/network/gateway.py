"""The door of a network: ARP, DHCP, DNS, echo, and what guests and the host's programs say to each other.

A state machine like the rest: frames and times in, frames out. What it needs of the world outside it
asks for in ``requests``; the answers come back through ``resolved``, ``opened``, ``datagram`` and the
connections themselves, at an instant between two stretches.
"""

from __future__ import annotations

import heapq
import ipaddress
from collections import deque
from typing import Any, Final

import attrs

from asyncvmm.device import Packet, RandomStream
from asyncvmm.network import dhcp, dns
from asyncvmm.network.config import NetworkConfig
from asyncvmm.network.ethernet import ARP, BROADCAST, IPV4, MIN_MTU, ether_type
from asyncvmm.network.gateway_state import (
    MAX_ARMED,
    load_connections,
    load_segment,
    save_frames,
    save_key,
    save_segment,
)
from asyncvmm.network.inet import (
    ACK,
    ARP_REPLY,
    ARP_REQUEST,
    ICMP,
    RST,
    SYN,
    TCP,
    UDP,
    ArpPacket,
    Ipv4Packet,
    TcpSegment,
    UdpDatagram,
    build_arp,
    build_icmp,
    build_tcp,
    build_udp,
    parse_arp,
    parse_ipv4,
    parse_tcp,
    parse_udp,
)
from asyncvmm.network.leases import Leases
from asyncvmm.network.nat import DatagramFlow, Flows, NatDenied
from asyncvmm.network.offload import checksum
from asyncvmm.network.saved import Saved
from asyncvmm.network.tcp import CLOSED, TcpConnection
from asyncvmm.timeline.events import FOREVER

MTU: Final = 1500
MSS: Final = MTU - 40
MAX_CONNECTIONS: Final = 1024
MAX_NEIGHBOURS: Final = 4096
MAX_WAITING: Final = 64  # packets for one address that ARP has not found yet
MAX_REQUESTS: Final = 1024
MAX_RESOLVED: Final = 4096
ARP_TRIES: Final = 5
ARP_RETRY_NS: Final = 1_000_000_000
FIRST_PORT: Final = 32768
PORTS: Final = 28000
DOMAIN_SUFFIX: Final = "internal"
_NOBODY: Final = bytes(4)
_PROHIBITED: Final = (3, 13)  # ICMP: destination unreachable, administratively prohibited

Key = tuple[bytes, int, bytes, int]  # the gateway's address and port, the guest's address and port


@attrs.frozen
class ResolveRequest:
    """A guest asks for a name outside; answer with ``Gateway.resolved``."""

    query: dns.DnsQuery
    guest: bytes
    port: int


@attrs.frozen
class OpenRequest:
    """A guest's SYN to ``host``:``port`` outside waits; answer with ``Gateway.opened``."""

    key: Key
    host: str
    port: int


@attrs.frozen
class DatagramRequest:
    """A guest's datagram for outside; answers go to ``Gateway.datagram``."""

    flow: DatagramFlow
    payload: bytes


Request = ResolveRequest | OpenRequest | DatagramRequest


@attrs.define
class _Neighbour:
    mac: bytes | None = None
    tries: int = 0
    waiting: list[tuple[int, bytes, bytes, bytes | TcpSegment]] = attrs.field(factory=list)
    # (protocol, source, target, payload): what to send once the MAC address is known


class Gateway:
    """See ``lan.Station``. ``address`` is its own in the subnet, ``mac`` its card's."""

    def __init__(self, network: str, config: NetworkConfig, seed: int) -> None:
        self.leases: Final = Leases(config.subnet)
        self.address: Final = self.leases.gateway
        self.outside: Final = config.outside
        self.place = network  # what its host calls it, which may have several of a network's
        self.asked = 0  # requests so far
        self.domain: Final = network.lower()
        self.requests: Final[deque[Request]] = deque()
        self.connections: Final[dict[Key, TcpConnection]] = {}
        self.dropped = 0
        self.denied: Final = NatDenied()
        self._random = RandomStream(seed, f"net/{network}/gateway")
        self.mac: Final = b"\x02" + self._random.bytes(5)
        self._neighbours: dict[bytes, _Neighbour] = {}
        self._frames: list[tuple[int, Packet]] = []
        self._timers: list[tuple[int, int, Key | bytes]] = []
        self._armed: dict[Key | bytes, int] = {}
        self._sequence = 0
        self._next_port = 0
        self._opening: dict[Key, TcpSegment] = {}
        self._flows = Flows()
        self._resolved: dict[bytes, set[str]] = {}
        self._settings = dhcp.DhcpSettings(
            self.address,
            config.subnet.netmask.packed,
            self.address,
            self.address,
            self.domain,
            config.subnet.broadcast_address.packed,
        )

    # -- the network's side (Station)

    def next_ns(self) -> int:
        """When something is due."""
        first = self._frames[0][0] if self._frames else FOREVER
        while self._timers:
            time_ns, _, key = self._timers[0]
            if self._armed.get(key) == time_ns:
                return min(first, time_ns)
            heapq.heappop(self._timers)
        return first

    def run(self, time_ns: int) -> None:
        """Everything due at ``time_ns``."""
        while self._timers and self._timers[0][0] <= time_ns:
            due_ns, _, key = heapq.heappop(self._timers)
            if self._armed.get(key) != due_ns:
                continue
            del self._armed[key]
            if isinstance(key, bytes):
                self._seek(key, due_ns)
            else:
                connection = self.connections.get(key)
                if connection is not None:
                    connection.timer(due_ns)
                    self._flush(key, due_ns)

    def take_frames(self) -> list[tuple[int, Packet]]:
        """What is to be sent, with the times."""
        frames, self._frames = self._frames, []
        return frames

    def arrive(self, time_ns: int, packet: Packet) -> None:
        """A frame has come. Whatever is in it, nothing is raised."""
        data = packet.data
        if data[:6] not in (self.mac, BROADCAST):
            return
        if ether_type(data) == ARP:
            self._arp(time_ns, data)
        elif ether_type(data) == IPV4:
            ip = parse_ipv4(packet)
            if ip is None:
                self.dropped += 1
            else:
                self._ipv4(time_ns, ip, data[6:12])

    # -- neighbours

    def _arp(self, time_ns: int, data: bytes) -> None:
        arp = parse_arp(data)
        if arp is None or arp.sender_mac != data[6:12]:
            self.dropped += 1
            return
        self._learn(time_ns, arp.sender, arp.sender_mac)
        if arp.operation == ARP_REQUEST and arp.target == self.address:
            reply = ArpPacket(ARP_REPLY, self.mac, self.address, arp.sender_mac, arp.sender)
            self._frames.append((time_ns, build_arp(reply, arp.sender_mac)))

    def _learn(self, time_ns: int, address: bytes, mac: bytes) -> None:
        if not self.leases.within(address) or address == self.address or mac[0] & 1:
            return
        known = self._neighbours.pop(address, None)
        if known is None:
            known = _Neighbour()
            if len(self._neighbours) >= MAX_NEIGHBOURS:
                del self._neighbours[next(iter(self._neighbours))]
        self._neighbours[address] = known
        known.mac, known.tries = mac, 0
        waiting, known.waiting = known.waiting, []
        for protocol, source, target, payload in waiting:
            self._send(time_ns, protocol, source, target, payload)

    def _seek(self, address: bytes, time_ns: int) -> None:
        """Ask (again) who has an address."""
        neighbour = self._neighbours.get(address)
        if neighbour is None or neighbour.mac is not None:
            return
        neighbour.tries += 1
        if neighbour.tries > ARP_TRIES:
            del self._neighbours[address]
            return
        ask = ArpPacket(ARP_REQUEST, self.mac, self.address, bytes(6), address)
        self._frames.append((time_ns, build_arp(ask, BROADCAST)))
        self._arm(address, time_ns + ARP_RETRY_NS)

    def _send(
        self,
        time_ns: int,
        protocol: int,
        source: bytes,
        target: bytes,
        payload: bytes | TcpSegment,
        mss: int = MSS,
    ) -> None:
        """A packet to a guest, once its MAC address is known."""
        neighbour = self._neighbours.get(target)
        if neighbour is None:
            neighbour = self._neighbours[target] = _Neighbour()
            if len(self._neighbours) > MAX_NEIGHBOURS:
                del self._neighbours[next(iter(self._neighbours))]
            self._seek(target, time_ns)
        if neighbour.mac is None:
            if len(neighbour.waiting) < MAX_WAITING:
                neighbour.waiting.append((protocol, source, target, payload))
            return
        macs, addresses = (self.mac, neighbour.mac), (source, target)
        if isinstance(payload, TcpSegment):
            packet = build_tcp(macs, addresses, payload, mss)
        elif protocol == ICMP:
            packet = build_icmp(macs, addresses, payload[0], payload[1], payload[4:])
        else:
            ports = int.from_bytes(payload[:2], "big"), int.from_bytes(payload[2:4], "big")
            packet = build_udp(macs, addresses, UdpDatagram(*ports, payload[8:]))
        self._frames.append((time_ns, packet))

    def _send_udp(
        self, time_ns: int, source: bytes, target: bytes, ports: tuple[int, int], data: bytes
    ) -> None:
        head = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + bytes(4)
        self._send(time_ns, UDP, source, target, head + data)

    # -- IPv4

    def _ipv4(self, time_ns: int, ip: Ipv4Packet, mac: bytes) -> None:
        if ip.source != _NOBODY:
            self._learn(time_ns, ip.source, mac)
        if ip.protocol == UDP:
            datagram = parse_udp(ip)
            if datagram is None:
                self.dropped += 1
            elif datagram.target_port == dhcp.SERVER_PORT:
                self._dhcp(time_ns, datagram, mac)
            elif self.leases.within(ip.source):
                self._udp(time_ns, ip, datagram)
        elif not self.leases.within(ip.source):
            self.dropped += 1
        elif ip.protocol == TCP:
            segment = parse_tcp(ip)
            if segment is None:
                self.dropped += 1
            else:
                self._tcp(time_ns, ip, segment)
        elif ip.protocol == ICMP:
            self._icmp(time_ns, ip)

    def _icmp(self, time_ns: int, ip: Ipv4Packet) -> None:
        body = ip.payload
        if len(body) < 8 or checksum(body) != 0 or body[0] != 8:
            return
        if ip.target == self.address:
            self._send(time_ns, ICMP, ip.target, ip.source, bytes(4) + body[4:])
        elif not self.leases.within(ip.target):
            self._prohibited(time_ns, ip)

    def _prohibited(self, time_ns: int, ip: Ipv4Packet) -> None:
        """Tell a guest that it may not (RFC 1812 5.2.7.1)."""
        text = bytes((*_PROHIBITED, 0, 0)) + bytes(4) + ip.header + ip.payload[:8]
        self._send(time_ns, ICMP, self.address, ip.source, text)

    # -- DHCP and DNS

    def _dhcp(self, time_ns: int, datagram: UdpDatagram, mac: bytes) -> None:
        request = dhcp.parse_request(datagram.payload)
        if request is None or request.mac != mac or request.server not in (None, self.address):
            return
        address = self.leases.of_mac(mac)
        if address is None:
            return
        if request.kind == dhcp.DISCOVER:
            kind = dhcp.OFFER
        elif request.kind == dhcp.REQUEST:
            asked = request.wanted or request.client
            kind = dhcp.ACK if asked == address else dhcp.NAK
        elif request.kind == dhcp.INFORM:
            kind = dhcp.ACK
        else:
            return
        name = self.leases.name_of(mac)
        payload = dhcp.build_reply(request, kind, address, name, self._settings)
        ports = (dhcp.SERVER_PORT, dhcp.CLIENT_PORT)
        to_mac, to = mac, request.client if request.client != _NOBODY else address
        if request.wants_broadcast or kind == dhcp.NAK:
            to_mac, to = BROADCAST, b"\xff" * 4
        answer = UdpDatagram(*ports, payload)
        self._frames.append((time_ns, build_udp((self.mac, to_mac), (self.address, to), answer)))

    def _dns(self, time_ns: int, ip: Ipv4Packet, datagram: UdpDatagram) -> None:
        query = dns.parse_query(datagram.payload)
        if query is None:
            self.dropped += 1
            return
        if query.opcode != 0:
            self._answer(time_ns, query, ip.source, datagram.source_port, dns.NOT_IMPLEMENTED)
            return
        known = self._known(query.name)
        if known is not None:
            wanted = [known] if query.kind in (dns.A, dns.ANY) else []
            self._answer(time_ns, query, ip.source, datagram.source_port, dns.NO_ERROR, wanted)
        elif not self.outside.may_resolve(query.name):
            self.denied.count(f"name {query.name}")
            self._answer(time_ns, query, ip.source, datagram.source_port, dns.NO_NAME)
        elif query.kind != dns.A:
            self._answer(time_ns, query, ip.source, datagram.source_port, dns.NO_ERROR)
        else:
            self._ask(ResolveRequest(query, ip.source, datagram.source_port))

    def _known(self, name: str) -> bytes | None:
        """The address of a guest, by its name or by its name in the network's domain."""
        short = name
        for suffix in (f".{self.domain}", f".{self.domain}.{DOMAIN_SUFFIX}"):
            short = short.removesuffix(suffix)
        return self.address if short == "gateway" else self.leases.of_name(short)

    def _answer(
        self,
        time_ns: int,
        query: dns.DnsQuery,
        guest: bytes,
        port: int,
        code: int,
        addresses: list[bytes] | None = None,
    ) -> None:
        data = dns.build_answer(query, code, addresses or [])
        self._send_udp(time_ns, self.address, guest, (dns.PORT, port), data)

    def resolved(self, time_ns: int, request: ResolveRequest, addresses: list[bytes]) -> None:
        """What the outside says about a name: no address means that there is no such name."""
        for address in addresses:
            if len(self._resolved) >= MAX_RESOLVED and address not in self._resolved:
                del self._resolved[next(iter(self._resolved))]
            self._resolved.setdefault(address, set()).add(request.query.name)
        code = dns.NO_ERROR if addresses else dns.NO_NAME
        self._answer(time_ns, request.query, request.guest, request.port, code, addresses)

    # -- UDP

    def _udp(self, time_ns: int, ip: Ipv4Packet, datagram: UdpDatagram) -> None:
        if ip.target == self.address:
            if datagram.target_port == dns.PORT:
                self._dns(time_ns, ip, datagram)
            return
        if self.leases.within(ip.target) or ip.target[0] >= 224:
            return
        if not self._may_reach(ip.target, datagram.target_port, "udp"):
            self._prohibited(time_ns, ip)
            return
        flow = DatagramFlow(ip.source, datagram.source_port, ip.target, datagram.target_port)
        if self._flows.touch(flow, time_ns):
            self._ask(DatagramRequest(flow, datagram.payload))

    def datagram(self, time_ns: int, flow: DatagramFlow, payload: bytes) -> None:
        """A datagram has come from outside for one of the flows."""
        if len(payload) <= MTU - 28 and self._flows.touch(flow, time_ns):
            ports = (flow.target_port, flow.source_port)
            self._send_udp(time_ns, flow.target, flow.source, ports, payload)

    # -- TCP

    def connect(self, time_ns: int, guest: bytes, port: int) -> tuple[Key, TcpConnection]:
        """A connection to a guest's server, opened from here."""
        while True:
            number = FIRST_PORT + self._next_port % PORTS
            self._next_port += 1
            key = (self.address, number, guest, port)
            if key not in self.connections:
                break
        self._make_room()
        connection = TcpConnection(number, port, self._isn(), time_ns, MSS)
        self.connections[key] = connection
        self._flush(key, time_ns)
        return key, connection

    def changed(self, key: Key, time_ns: int) -> None:
        """The application's side of a connection has done something: send what comes of it."""
        self._flush(key, time_ns)

    def opened(self, time_ns: int, request: OpenRequest, works: bool) -> TcpConnection | None:
        """The outside of a guest's connection is there, or it cannot be."""
        syn = self._opening.pop(request.key, None)
        if syn is None:
            return None
        if not works:
            self._refuse(time_ns, request.key, syn)
            return None
        self._make_room()
        connection = TcpConnection.accept(syn, self._isn(), time_ns, MSS)
        self.connections[request.key] = connection
        self._flush(request.key, time_ns)
        return connection

    def guest_left(self, address: bytes, why: str = "the guest has ended") -> None:
        """A guest has ended: so have its connections, at once."""
        self._neighbours.pop(address, None)
        self._armed.pop(address, None)
        for key in [key for key in self._opening if key[2] == address]:
            del self._opening[key]
        for key in [key for key in self.connections if key[2] == address]:
            self._armed.pop(key, None)
            self.connections.pop(key).abort(why)

    def _tcp(self, time_ns: int, ip: Ipv4Packet, segment: TcpSegment) -> None:
        key = (ip.target, segment.target_port, ip.source, segment.source_port)
        connection = self.connections.get(key)
        if connection is not None:
            connection.segment(segment, time_ns)
            self._flush(key, time_ns)
            return
        if ip.target != self.address and self.leases.within(ip.target):
            return
        if not segment.flags & SYN or segment.flags & (ACK | RST):
            self._refuse(time_ns, key, segment)
            return
        if key in self._opening:
            return
        outside = ip.target != self.address
        if outside and self._may_reach(ip.target, segment.target_port, "tcp"):
            if len(self._opening) < MAX_CONNECTIONS:
                host = str(ipaddress.IPv4Address(ip.target))
                if self._ask(OpenRequest(key, host, segment.target_port)):
                    self._opening[key] = segment
            return
        self._refuse(time_ns, key, segment)

    def _refuse(self, time_ns: int, key: Key, segment: TcpSegment) -> None:
        """RFC 9293 3.10.7.1."""
        if segment.flags & RST:
            return
        ack = segment.sequence + len(segment.payload) + (1 if segment.flags & SYN else 0)
        if segment.flags & ACK:
            reply = TcpSegment(key[1], key[3], segment.acknowledged, 0, RST, 0)
        else:
            reply = TcpSegment(key[1], key[3], 0, ack & 0xFFFFFFFF, RST | ACK, 0)
        self._send(time_ns, TCP, key[0], key[2], reply)

    def _flush(self, key: Key, time_ns: int) -> None:
        """Send what a connection has to say, and see when it wants to be called."""
        connection = self.connections.get(key)
        if connection is None:
            return
        mss = max(connection.mss, MIN_MTU - 40)
        for segment in connection.take_segments():
            self._send(time_ns, TCP, key[0], key[2], segment, mss)
        if connection.state == CLOSED:
            del self.connections[key]
            self._armed.pop(key, None)
            return
        self._arm(key, connection.next_ns())

    def _arm(self, key: Key | bytes, due_ns: int) -> None:
        if due_ns == FOREVER:
            self._armed.pop(key, None)
        elif self._armed.get(key) != due_ns:
            self._armed[key] = due_ns
            self._sequence += 1
            heapq.heappush(self._timers, (due_ns, self._sequence, key))

    def _make_room(self) -> None:
        """The oldest connection goes when there are too many."""
        if len(self.connections) >= MAX_CONNECTIONS:
            key = next(iter(self.connections))
            self.connections.pop(key).abort("too many connections")
            self._armed.pop(key, None)

    def _isn(self) -> int:
        return int.from_bytes(self._random.bytes(4), "big")

    def _may_reach(self, target: bytes, port: int, protocol: str) -> bool:
        address = ipaddress.IPv4Address(target)
        allowed = self.outside.may_reach(address, port, protocol, self._resolved.get(target, ()))
        if not allowed:
            self.denied.count(f"{protocol} {address}:{port}")
        return allowed

    def _ask(self, request: Request) -> bool:
        if len(self.requests) >= MAX_REQUESTS:
            self.dropped += 1
            return False
        self.requests.append(request)
        return True

    # -- snapshots

    def save(self) -> dict[str, Any]:
        """All of it as plain data, but for requests under way outside: what asks for those in a copy
        must ask again.
        """
        armed = []
        for time_ns, _, key in sorted(self._timers, key=lambda timer: timer[:2]):
            if self._armed.get(key) == time_ns and [time_ns, *save_key(key)] not in armed:
                armed.append([time_ns, *save_key(key)])
        return {
            "leases": self.leases.save(),
            "connections": [[*save_key(k), c.save()] for k, c in self.connections.items()],
            "opening": [[*save_key(k), save_segment(s)] for k, s in self._opening.items()],
            "neighbours": [
                [
                    address.hex(),
                    (neighbour.mac or b"").hex(),
                    neighbour.tries,
                    [self._save_waiting(*item) for item in neighbour.waiting],
                ]
                for address, neighbour in self._neighbours.items()
            ],
            "frames": save_frames(self._frames),
            "armed": armed,
            "flows": self._flows.save(),
            "resolved": [[a.hex(), sorted(names)] for a, names in self._resolved.items()],
            "denied": self.denied.save(),
            "dropped": self.dropped,
            "next_port": self._next_port,
            "random": self._random.position,
        }

    @staticmethod
    def _save_waiting(
        protocol: int, source: bytes, target: bytes, payload: bytes | TcpSegment
    ) -> list[Any]:
        segment = isinstance(payload, TcpSegment)
        kept = save_segment(payload) if isinstance(payload, TcpSegment) else payload.hex()
        return [protocol, source.hex(), target.hex(), segment, kept]

    def load(self, saved: Saved) -> None:
        """What ``save`` gave. Connections have nobody at this side: see ``cut_off``."""
        self.leases.load(saved.part("leases"))
        self.connections.update(load_connections(saved, MAX_CONNECTIONS))
        for *key, row in saved.rows("opening", "bnbna", MAX_CONNECTIONS):
            self._opening[key[0], key[1], key[2], key[3]] = load_segment(saved, "opening", row)
        for address, mac, tries, waiting in saved.rows("neighbours", "bbna", MAX_NEIGHBOURS):
            if len(address) != 4 or len(mac) not in (0, 6) or not isinstance(waiting, list):
                raise saved.wrong("neighbours", f"have {address.hex()}")
            known = self._neighbours[address] = _Neighbour(mac or None, tries)
            for item in Saved({"": waiting}, saved.where).rows("", "nbbfa", MAX_WAITING):
                known.waiting.append(self._load_waiting(saved, *item))
        for time_ns, item in saved.rows("frames", "na"):
            self._frames.append((time_ns, saved.packet("frames", item)))
        for due_ns, source, source_port, target, target_port in saved.rows(
            "armed", "nbnbn", MAX_ARMED
        ):
            self._arm((source, source_port, target, target_port) if source else target, due_ns)
        self._flows.load(saved, "flows")
        for address, names in saved.rows("resolved", "ba", MAX_RESOLVED):
            if not isinstance(names, list) or any(type(name) is not str for name in names):
                raise saved.wrong("resolved", "has names that are none")
            self._resolved[address] = set(names)
        self.denied.load(saved.part("denied"))
        self.dropped = saved.number("dropped")
        self._next_port = saved.number("next_port")
        self._random.position = saved.number("random")
        saved.done()

    def _load_waiting(
        self,
        saved: Saved,
        protocol: int,
        source: bytes,
        target: bytes,
        segment: bool,
        payload: object,
    ) -> tuple[int, bytes, bytes, bytes | TcpSegment]:
        if segment:
            return protocol, source, target, load_segment(saved, "neighbours", payload)
        data = Saved({"": payload}, saved.where).data("", 0xFFFF, 8)
        return protocol, source, target, data

    def cut_off(self, time_ns: int) -> int:
        """This is a copy, and what was at the outer ends of its connections stayed with the original:
        cut those with RST, refuse those that wait to be opened; how many there were. A connection
        whose outer end had been closed already just ends as it would have.
        """
        count = 0
        for key, connection in list(self.connections.items()):
            if not connection.orphaned and connection.state != CLOSED:
                count += 1
                connection.abort("its outer end stayed with the host that this is a copy of")
                self._flush(key, time_ns)
        for key, syn in list(self._opening.items()):
            count += 1
            del self._opening[key]
            self._refuse(time_ns, key, syn)
        return count
