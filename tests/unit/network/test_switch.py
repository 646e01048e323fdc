"""The switch: learning, ageing, VLANs, access lists, and a table that stays small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Packet
from asyncvmm.network.acl import AccessList, facts_of, parse_rule, parse_rules
from asyncvmm.network.ethernet import (
    BROADCAST,
    IPV4,
    mac_text,
    parse_mac,
    tag,
    untag,
    vlan_of,
)
from asyncvmm.network.inet import UDP, build_ipv4, ethernet
from asyncvmm.network.switch import AGE_NS, Switch, SwitchPort

A, B, C = (bytes([2, 0, 0, 0, 0, number]) for number in (1, 2, 3))


def frame(target: bytes, source: bytes, payload: bytes = b"x" * 46) -> Packet:
    return Packet(ethernet(target, source, IPV4, payload))


def switch(**ports: SwitchPort) -> Switch:
    made = Switch()
    for name in ("a", "b", "c"):
        made.add(ports.get(name, SwitchPort(name)))
    return made


def names(out: list[tuple[str, Packet]]) -> list[str]:
    return [name for name, _ in out]


def test_unknown_is_flooded_and_known_is_not() -> None:
    it = switch()
    assert names(it.forward(0, "a", frame(B, A))) == ["b", "c"]
    assert names(it.forward(1, "b", frame(A, B))) == ["a"]
    assert names(it.forward(2, "a", frame(B, A))) == ["b"]
    assert names(it.forward(3, "a", frame(BROADCAST, A))) == ["b", "c"]
    assert it.learnt == {(1, A): "a", (1, B): "b"}


def test_a_card_that_moves_is_found_again() -> None:
    it = switch()
    it.forward(0, "b", frame(BROADCAST, B))
    it.forward(1, "c", frame(BROADCAST, B))
    assert names(it.forward(2, "a", frame(B, A))) == ["c"]


def test_what_was_learnt_ages_in_virtual_time() -> None:
    it = switch()
    it.forward(0, "b", frame(BROADCAST, B))
    assert names(it.forward(AGE_NS, "a", frame(B, A))) == ["b"]
    assert names(it.forward(AGE_NS + 1, "a", frame(B, A))) == ["b", "c"]


def test_a_frame_for_its_own_port_goes_nowhere() -> None:
    it = switch()
    it.forward(0, "a", frame(BROADCAST, A))
    assert it.forward(1, "a", frame(A, B)) == []


def test_the_table_is_bounded_and_forgets_the_longest_unseen() -> None:
    it = Switch(table_size=10)
    it.add(SwitchPort("a"))
    it.add(SwitchPort("b"))
    for number in range(100):
        it.forward(number, "a", frame(BROADCAST, bytes([2, 0, 0, 0, 1, number])))
    assert [mac[5] for _, mac in it.learnt] == list(range(90, 100))


@pytest.mark.parametrize(
    "bad",
    [
        frame(B, b"\x03" + A[1:]),  # a group address as source
        frame(b"\x01\x80\xc2\x00\x00\x0e", A),  # 802.1Q: kept by the bridge
        Packet(b"short"),
    ],
)
def test_what_no_switch_forwards(bad: Packet) -> None:
    it = switch()
    assert it.forward(0, "a", bad) == []
    assert it.dropped == 1


def test_vlans_are_apart_and_trunks_are_tagged() -> None:
    it = switch(
        a=SwitchPort("a", vlan=10),
        b=SwitchPort("b", vlan=20),
        c=SwitchPort("c", vlan=1, trunk=frozenset({10, 20})),
    )
    (out,) = it.forward(0, "a", frame(BROADCAST, A))
    assert out[0] == "c"
    assert vlan_of(out[1].data) == 10
    assert untag(out[1]).data == frame(BROADCAST, A).data
    assert names(it.forward(1, "c", tag(frame(A, C), 20))) == ["b"]
    (back,) = it.forward(2, "c", tag(frame(A, C), 10))
    assert (back[0], back[1].data) == ("a", frame(A, C).data)
    assert it.forward(3, "a", tag(frame(B, A), 20)) == []  # an access port sends no tags
    assert it.forward(4, "c", tag(frame(B, C), 30)) == []


def test_a_priority_tag_is_no_vlan() -> None:
    it = switch()
    (first, _) = it.forward(0, "a", tag(frame(BROADCAST, A), 0))
    assert first[1].data == frame(BROADCAST, A).data


def udp(source: str, target: str, port: int) -> Packet:
    def address(text: str) -> bytes:
        return bytes(map(int, text.split(".")))

    head = (1000).to_bytes(2, "big") + port.to_bytes(2, "big") + bytes(4)
    return build_ipv4((A, B), (address(source), address(target)), UDP, head)


@pytest.mark.parametrize(
    ("rules", "direction", "packet", "passes"),
    [
        (["deny udp port 53"], "in", udp("10.0.0.1", "10.0.0.2", 53), False),
        (["deny udp port 53"], "in", udp("10.0.0.1", "10.0.0.2", 54), True),
        (["deny out udp"], "in", udp("10.0.0.1", "10.0.0.2", 53), True),
        (["deny ip to 10.0.0.0/24"], "out", udp("10.0.1.1", "10.0.0.2", 1), False),
        (["allow udp port 1-9", "deny ip"], "in", udp("10.0.1.1", "10.0.0.2", 9), True),
        (["allow udp port 1-9", "deny ip"], "in", udp("10.0.1.1", "10.0.0.2", 10), False),
        (["deny from 10.0.1.1"], "in", udp("10.0.1.1", "10.0.0.2", 10), False),
        (["deny tcp"], "in", udp("10.0.1.1", "10.0.0.2", 10), True),
        (["deny arp"], "in", udp("10.0.1.1", "10.0.0.2", 10), True),
    ],
)
def test_access_lists(rules: list[str], direction: str, packet: Packet, passes: bool) -> None:
    access = AccessList(parse_rules(rules))
    assert access.passes(direction, packet.data) is passes
    assert access.denied == (0 if passes else 1)


def test_access_lists_hold_in_and_out() -> None:
    it = switch(b=SwitchPort("b", access=AccessList(parse_rules(["deny out ip"]))))
    assert names(
        it.forward(0, "a", frame(BROADCAST, A, udp("1.2.3.4", "5.6.7.8", 9).data[14:]))
    ) == ["c"]
    assert names(it.forward(0, "b", frame(BROADCAST, B))) == ["a", "c"]


@pytest.mark.parametrize(
    "text", ["", "permit ip", "deny tcp port 70000", "deny from nowhere", "deny port", "deny tcp x"]
)
def test_wrong_rules_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match="rule"):
        parse_rule(text)


@given(st.binary(min_size=14, max_size=80))
def test_facts_of_anything(data: bytes) -> None:
    facts = facts_of(data)
    assert facts.port is None or 0 <= facts.port <= 65535


def test_mac_addresses() -> None:
    assert parse_mac("02:00:00:00:00:0a") == b"\x02\0\0\0\0\n"
    assert mac_text(b"\x02\0\0\0\0\n") == "02:00:00:00:00:0a"
    for bad in ("", "02:00", "03:00:00:00:00:01", "0:0:0:0:0:0", "02:00:00:00:00:zz"):
        with pytest.raises(ConfigError):
            parse_mac(bad)
