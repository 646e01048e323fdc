"""Parts of networks as plain data: there and back, and refused when they lie."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.network.config import NetworkConfig
from asyncvmm.network.saved import Saved
from asyncvmm.network.tcp import CLOSED, TcpConnection

MS = 1_000_000


def again(values: dict[str, Any]) -> Saved:
    """What comes back from a file."""
    return Saved(json.loads(json.dumps(values)), "here")


def exchange(one: TcpConnection, other: TcpConnection, now_ns: int, lost: list[bool]) -> None:
    """Carry what both say, but for what is lost, and let timers run."""
    for sender, receiver in ((one, other), (other, one)):
        for segment in sender.take_segments():
            if not (lost and lost.pop()):
                receiver.segment(segment, now_ns)
        sender.timer(now_ns)


@given(st.data())
def test_connections_go_on_from_any_instant(data: st.DataObject) -> None:
    one = TcpConnection(1000, 80, 0xFFFFFFF0, 0, 1460)
    (syn,) = one.take_segments()
    other = TcpConnection.accept(syn, 77, 0, 1460)
    now_ns = 0
    for _ in range(data.draw(st.integers(1, 12))):
        now_ns += data.draw(st.sampled_from([MS, 300 * MS, 1100 * MS]))
        for end in (one, other):
            if end.connected:
                end.send(data.draw(st.binary(max_size=8000)), now_ns)
                end.receive(data.draw(st.integers(1, 8000)))
        if data.draw(st.integers(0, 9)) == 0:
            one.finish(now_ns)
        exchange(one, other, now_ns, data.draw(st.lists(st.booleans(), max_size=3)))
    for end in (one, other):
        end.take_segments()
    copies = [TcpConnection.from_saved(again(end.save())) for end in (one, other)]
    for end, copied in zip((one, other), copies, strict=True):
        assert copied.save() == end.save()
        assert (copied.next_ns(), copied.eof) == (end.next_ns(), end.eof)
    for _ in range(20):
        now_ns += 400 * MS
        for pair in ((one, other), copies):
            exchange(pair[0], pair[1], now_ns, [])
        for end, copied in zip((one, other), copies, strict=True):
            assert copied.receive(5000) == end.receive(5000)
    assert [copied.save() for copied in copies] == [one.save(), other.save()]


@given(st.data())
def test_connections_that_lie_are_refused_or_end(data: st.DataObject) -> None:
    good = TcpConnection(1000, 80, 5, 0, 1460).save()
    key = data.draw(st.sampled_from(sorted(good)))
    value = data.draw(
        st.one_of(
            st.none(), st.integers(-(1 << 70), 1 << 70), st.text(max_size=4), st.just([]),
            st.lists(st.lists(st.integers(-2, 1 << 66), max_size=14), max_size=2),
        )
    )  # fmt: skip
    try:
        made = TcpConnection.from_saved(again({**good, key: value}))
    except ConfigError as error:
        assert "here" in str(error)
        return
    for step in range(30):
        made.timer(step * 100_000 * MS)
        made.take_segments()
    made.abort()
    assert made.state == CLOSED or made.next_ns() >= 0


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "mapping"),
        ({"a": -1}, "not 0 to"),
        ({"a": True}, "not 0 to"),
        ({}, "missing"),
        ({"a": 1, "b": 2}, "b is not known"),
    ],
)
def test_saved_says_what_is_wrong(values: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        saved = Saved(values, "there")
        saved.number("a")
        saved.done()


def test_configs_are_what_they_were() -> None:
    config = NetworkConfig.from_mapping(
        {
            "latency_ns": 2 * MS,
            "bandwidth": "10M",
            "subnet": "10.9.0.0/24",
            "allow": ["deb.example.org:80/tcp", "10.1.0.0/16:1-99", "*", "*.example.com:53/udp"],
            "links": {
                "web": {
                    "vlan": 7,
                    "trunk": [8, 9],
                    "loss": 0.25,
                    "rules": ["deny in tcp from 10.0.0.0/8 port 25", "allow out arp", "deny ip6",
                              "allow icmp to 10.9.0.4"],
                }
            },
        }
    )  # fmt: skip
    assert NetworkConfig.from_mapping(json.loads(json.dumps(config.to_mapping()))) == config
