"""The gateway against its standards: ARP, DHCP, DNS, ICMP, TCP and what it lets out."""

from __future__ import annotations

import ipaddress

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import SECOND
from asyncvmm.network.config import NetworkConfig
from asyncvmm.network.ethernet import ARP, BROADCAST, ether_type
from asyncvmm.network.gateway import (
    ARP_TRIES,
    MAX_CONNECTIONS,
    DatagramRequest,
    OpenRequest,
    ResolveRequest,
)
from asyncvmm.network.inet import ACK, RST, SYN, TcpSegment, build_udp
from asyncvmm.network.nat import MAX_FLOWS
from asyncvmm.network.outside import Outside
from tests.unit.network.guest import (
    MAC,
    FakeGuest,
    address,
    dhcp_request,
    dns_query,
    ip_of,
    tcp_of,
    udp_of,
)

OUTSIDE = address("93.184.216.34")


def allowing(*rules: str) -> FakeGuest:
    guest = FakeGuest(NetworkConfig.from_mapping({"allow": rules}))
    guest.announce()
    return guest


def options_of(payload: bytes) -> dict[int, bytes]:
    assert payload[236:240] == b"\x63\x82\x53\x63"
    found, at = {}, 240
    while payload[at] != 255:
        found[payload[at]] = payload[at + 2 : at + 2 + payload[at + 1]]
        at += 2 + payload[at + 1]
    return found


def test_rfc2131_discover_offer_request_ack() -> None:
    guest = FakeGuest()
    nobody, everybody = bytes(4), b"\xff" * 4

    def ask(kind: int, options: bytes = b"", flags: int = 0x8000) -> bytes:
        payload = dhcp_request(kind, options, flags=flags)
        packet = guest.udp(everybody, (68, 67), payload)
        guest.address, saved = nobody, guest.address
        (reply,) = guest.exchange(guest.udp(everybody, (68, 67), payload))
        guest.address = saved
        assert packet is not None
        assert reply.data[:6] == (BROADCAST if flags else MAC)
        return udp_of(reply).payload

    offer = ask(1)
    assert offer[16:20] == guest.address == address("10.0.2.10")
    options = options_of(offer)
    assert options[53] == b"\x02"
    assert options[54] == options[3] == options[6] == address("10.0.2.1")
    assert options[1] == address("255.255.255.0")
    assert options[15] == b"lan"
    assert options[12] == b"web"
    ack = ask(3, bytes((50, 4)) + guest.address + bytes((54, 4)) + address("10.0.2.1"), flags=0)
    assert (ack[16:20], options_of(ack)[53]) == (guest.address, b"\x05")
    nak = ask(3, bytes((50, 4)) + address("10.0.2.99"))
    assert (nak[16:20], options_of(nak)[53]) == (nobody, b"\x06")


def test_rfc2131_another_servers_offer_is_none_of_ours() -> None:
    guest = FakeGuest()
    chosen = dhcp_request(3, bytes((54, 4)) + address("10.0.2.7"))
    assert guest.exchange(guest.udp(b"\xff" * 4, (68, 67), chosen)) == []


def test_every_name_keeps_its_address() -> None:
    leases = FakeGuest().gateway.leases
    first = leases.register("db", b"\x02\0\0\0\0\1")
    again = leases.register("db", b"\x02\0\0\0\0\2")  # another card later
    assert first == again == leases.of_name("db") == address("10.0.2.11")
    assert leases.of_mac(b"\x02\0\0\0\0\3") == address("10.0.2.12")
    for number in range(300):
        leases.of_mac(number.to_bytes(6, "big"))
    assert leases.of_mac(b"\x0a\0\0\0\0\1") is None  # the subnet is used up


def test_rfc792_echo() -> None:
    guest = FakeGuest()
    guest.announce()
    (reply,) = guest.exchange(guest.ping(guest.gateway.address, b"\0\7\0\1hello"))
    ip = ip_of(reply)
    assert (ip.source, ip.target) == (guest.gateway.address, guest.address)
    assert (ip.payload[0], ip.payload[4:]) == (0, b"\0\7\0\1hello")


def test_outside_is_prohibited_and_says_so() -> None:
    guest = FakeGuest()
    guest.announce()
    for packet in (guest.ping(OUTSIDE, bytes(8)), guest.udp(OUTSIDE, (999, 53), b"x")):
        (reply,) = guest.exchange(packet)
        assert ip_of(reply).payload[:2] == bytes((3, 13))
    (reply,) = guest.exchange(guest.tcp(OUTSIDE, TcpSegment(5000, 80, 9, 0, SYN, 1000)))
    segment = tcp_of(reply)
    assert (segment.flags, segment.acknowledged) == (RST | ACK, 10)
    assert not guest.gateway.requests
    assert guest.gateway.denied.counts == {"udp 93.184.216.34:53": 1, "tcp 93.184.216.34:80": 1}


@pytest.mark.parametrize("name", ["web", "web.lan", "WEB.LAN", "web.lan.internal"])
def test_dns_knows_the_guests(name: str) -> None:
    guest = FakeGuest()
    guest.announce()
    query = dns_query(name)
    (reply,) = guest.exchange(guest.udp(guest.gateway.address, (999, 53), query))
    answer = udp_of(reply).payload
    assert answer[:2] == query[:2]
    assert answer[3] & 15 == 0
    assert answer[12 : len(query)] == query[12:]
    assert answer[-4:] == guest.address
    (reply,) = guest.exchange(guest.udp(guest.gateway.address, (999, 53), dns_query(name, 28)))
    assert udp_of(reply).payload[3] & 15 == 0  # no such record, but the name is there
    assert udp_of(reply).payload[7] == 0


def test_dns_denies_what_is_not_allowed() -> None:
    guest = allowing("*.debian.org:80")
    for name, code in (("example.org", 3), ("debian.org", 3)):
        (reply,) = guest.exchange(guest.udp(guest.gateway.address, (999, 53), dns_query(name)))
        assert udp_of(reply).payload[3] & 15 == code
    assert (
        guest.exchange(guest.udp(guest.gateway.address, (9, 53), dns_query("a.debian.org"))) == []
    )
    request = guest.gateway.requests.popleft()
    assert isinstance(request, ResolveRequest)
    guest.gateway.resolved(guest.now, request, [OUTSIDE])
    (reply,) = guest.exchange()
    assert udp_of(reply).payload[-4:] == OUTSIDE
    # What was resolved may be reached, on the port that the rule names.
    guest.exchange(guest.tcp(OUTSIDE, TcpSegment(5000, 80, 9, 0, SYN, 1000)))
    assert isinstance(guest.gateway.requests.popleft(), OpenRequest)
    (reply,) = guest.exchange(guest.tcp(OUTSIDE, TcpSegment(5000, 81, 9, 0, SYN, 1000)))
    assert tcp_of(reply).flags & RST


def test_a_guest_reaches_outside_when_the_outside_answers() -> None:
    guest = allowing("93.184.216.0/24:80")
    syn = TcpSegment(5000, 80, 100, 0, SYN, 1000, mss=1460, scale=7)
    assert guest.exchange(guest.tcp(OUTSIDE, syn), guest.tcp(OUTSIDE, syn)) == []
    request = guest.gateway.requests.popleft()
    assert isinstance(request, OpenRequest)
    assert (request.host, request.port) == ("93.184.216.34", 80)
    assert not guest.gateway.requests  # a SYN that comes again asks for nothing more
    connection = guest.gateway.opened(guest.now, request, True)
    assert connection is not None
    (reply,) = guest.exchange()
    segment = tcp_of(reply)
    assert (segment.flags, segment.acknowledged) == (SYN | ACK, 101)
    assert ip_of(reply).source == OUTSIDE
    ack = TcpSegment(5000, 80, 101, segment.sequence + 1, ACK, 1000, b"GET")
    guest.exchange(guest.tcp(OUTSIDE, ack))
    assert connection.receive(10) == b"GET"
    connection.send(b"answer" * 1000, guest.now)
    guest.gateway.changed(request.key, guest.now)
    (large,) = guest.exchange()
    assert large.gso_size == 1460
    assert tcp_of(large).payload == b"answer" * 1000


def test_an_outside_that_refuses_is_a_reset() -> None:
    guest = allowing("93.184.216.34")
    guest.exchange(guest.tcp(OUTSIDE, TcpSegment(5000, 80, 100, 0, SYN, 1000)))
    request = guest.gateway.requests.popleft()
    assert isinstance(request, OpenRequest)
    assert guest.gateway.opened(guest.now, request, False) is None
    assert tcp_of(guest.exchange()[0]).flags & RST


def test_datagrams_go_out_and_come_back_in_their_flow() -> None:
    guest = allowing("*:53/udp")
    guest.exchange(guest.udp(OUTSIDE, (999, 53), b"question"))
    request = guest.gateway.requests.popleft()
    assert isinstance(request, DatagramRequest)
    assert request.payload == b"question"
    guest.gateway.datagram(guest.now, request.flow, b"answer")
    (reply,) = guest.exchange()
    datagram = udp_of(reply)
    assert (ip_of(reply).source, datagram.source_port, datagram.target_port) == (OUTSIDE, 53, 999)
    assert datagram.payload == b"answer"
    for port in range(MAX_FLOWS + 10):
        guest.exchange(guest.udp(OUTSIDE, (10_000 + port, 53), b"q"))
    assert len(guest.gateway.requests) == MAX_FLOWS - 1


def test_the_gateway_opens_connections_after_finding_the_guest() -> None:
    guest = FakeGuest()
    _, connection = guest.gateway.connect(5, guest.address, 80)
    (ask,) = guest.exchange()
    assert ether_type(ask.data) == ARP
    guest.now = SECOND
    guest.announce_quietly()
    (syn,) = [frame for frame in guest.exchange() if ether_type(frame.data) != ARP]
    segment = tcp_of(syn)
    assert (segment.flags, segment.target_port) == (SYN, 80)
    answer = TcpSegment(80, segment.source_port, 7, segment.sequence + 1, SYN | ACK, 1000)
    guest.exchange(guest.tcp(guest.gateway.address, answer))
    assert connection.connected


def test_an_address_that_nobody_has_is_asked_for_five_times() -> None:
    guest = FakeGuest()
    guest.gateway.connect(0, address("10.0.2.200"), 80)
    asked = 0
    while guest.gateway.next_ns() < 10 * SECOND:
        now = guest.gateway.next_ns()
        guest.gateway.run(now)
        asked += sum(ether_type(p.data) == ARP for _, p in guest.gateway.take_frames())
    assert asked >= ARP_TRIES


def test_connections_are_bounded_and_the_oldest_goes() -> None:
    guest = FakeGuest()
    guest.announce()
    made = [guest.gateway.connect(0, guest.address, 80)[1] for _ in range(MAX_CONNECTIONS + 5)]
    assert len(guest.gateway.connections) == MAX_CONNECTIONS
    assert [c.failure for c in made[:5]] == ["too many connections"] * 5


def test_a_guest_that_has_left_is_forgotten() -> None:
    guest = allowing("93.184.216.34")
    _, connection = guest.gateway.connect(0, guest.address, 80)
    guest.exchange(guest.tcp(OUTSIDE, TcpSegment(5000, 80, 100, 0, SYN, 1000)))
    request = guest.gateway.requests.popleft()
    assert isinstance(request, OpenRequest)
    guest.gateway.guest_left(guest.address)
    assert (connection.state, connection.failure) == ("closed", "the guest has ended")
    assert not guest.gateway.connections
    assert guest.gateway.opened(guest.now, request, True) is None


def test_a_seed_gives_the_same_sequence_numbers() -> None:
    def first(seed: int) -> int:
        guest = FakeGuest(seed=seed)
        guest.announce()
        guest.gateway.connect(0, guest.address, 80)
        return tcp_of(guest.exchange()[0]).sequence

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_foreign_sources_are_dropped() -> None:
    guest = allowing("*")
    guest.address = address("172.16.0.1")
    assert guest.exchange(guest.tcp(OUTSIDE, TcpSegment(5000, 80, 100, 0, SYN, 1000))) == []
    assert not guest.gateway.requests
    packet = build_udp(
        guest.macs, (guest.address, OUTSIDE), udp_of(guest.udp(OUTSIDE, (1, 53), b""))
    )
    assert guest.exchange(packet) == []


@pytest.mark.parametrize(
    ("rule", "target", "port", "protocol", "allowed"),
    [
        ("*", "93.184.216.34", 80, "tcp", True),
        ("*", "127.0.0.1", 80, "tcp", False),
        ("*", "10.1.2.3", 80, "tcp", False),
        ("*", "169.254.169.254", 80, "tcp", False),
        ("127.0.0.1:8000", "127.0.0.1", 8000, "tcp", True),
        ("127.0.0.1:8000", "127.0.0.1", 8001, "tcp", False),
        ("192.168.1.0/24:20-22/tcp", "192.168.1.9", 21, "tcp", True),
        ("192.168.1.0/24:20-22/tcp", "192.168.1.9", 21, "udp", False),
        ("example.org", "93.184.216.34", 80, "tcp", False),
    ],
)
def test_outside_rules(rule: str, target: str, port: int, protocol: str, allowed: bool) -> None:
    outside = Outside.parse([rule])
    assert outside.may_reach(ipaddress.IPv4Address(target), port, protocol) is allowed


def test_no_rule_allows_nothing() -> None:
    assert not Outside().may_reach(ipaddress.IPv4Address("93.184.216.34"), 80, "tcp")
    assert not Outside().may_resolve("example.org")


@pytest.mark.parametrize("rule", ["", ":80", "host:port", "host:70000", "ho st", "a:9-1"])
def test_wrong_rules_are_named(rule: str) -> None:
    with pytest.raises(ConfigError, match="allow"):
        Outside.parse([rule])
