"""A backend at the end of a cable: in the one order of all frames, in snapshots, and alone with its bugs."""

from __future__ import annotations

import json
import random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS
from asyncvmm.device import Packet
from asyncvmm.network import Network, NetworkConfig
from asyncvmm.network.outlet import NetworkIo, Outlet
from asyncvmm.network.saved import Saved
from asyncvmm.plugin import NetworkBackend, VersionedState
from asyncvmm.timeline.events import FOREVER
from tests.unit.network.test_lan import QUANTUM, Card

LATENCY = 4 * MS
ETHER = b"\x88\xb5"
Got = list[tuple[int, bytes]]


@attrs.frozen
class LaterState(VersionedState):
    """What is still to be said: when, and the frame."""

    waiting: tuple[tuple[int, bytes], ...]


class Later(NetworkBackend):
    """Answers each frame after a while of random length, with how many it has had."""

    state_type = LaterState

    def __init__(self, config: Any, io: NetworkIo) -> None:
        super().__init__(config, io)
        self.waiting: Got = []
        self.got: Got = []

    def arrive(self, frame: bytes) -> None:
        self.got.append((self.io.clock.now_ns, frame))
        if frame[14:15] == b"!":
            raise ValueError("a bug")
        due_ns = self.io.clock.now_ns + 1 + self.io.rng.below(3 * MS)
        self.waiting.append((due_ns, frame[6:12] + self.io.net.mac + ETHER + frame[14:]))
        self.arm()

    def arm(self) -> None:
        self.io.clock.after(self.waiting[-1][0] - self.io.clock.now_ns, self.say)

    def say(self) -> None:
        now = self.io.clock.now_ns
        for due in [one for one in self.waiting if one[0] <= now]:
            self.waiting.remove(due)
            self.send(due[1])

    def state(self) -> LaterState:
        return LaterState(tuple(self.waiting))

    def restore(self, state: LaterState) -> None:
        self.waiting = list(state.waiting)

    def resume(self) -> None:
        for due_ns, _ in self.waiting:
            self.io.clock.after(due_ns - self.io.clock.now_ns, self.say)


class Scene:
    """Two cards and a backend, ``far``, on one network."""

    def __init__(self, **link: Any) -> None:
        config = NetworkConfig.from_mapping(
            {"latency_ns": LATENCY, "backends": {"far": "later"}, "links": {"far": link}}
        )
        self.network = Network("lan", config, 5, QUANTUM)
        self.said: list[str] = []
        io = NetworkIo("net/lan/far", 5, self.said.append)
        self.far = Later(None, io)
        self.outlet = Outlet("far", io, self.far)
        self.network.add_outlet(self.outlet)
        self.cards = [Card(f"g{number}", number) for number in range(2)]

    def plug(self) -> None:
        for card in self.cards:
            self.network.plug(card.port.name, card.port, 0)

    def frame(self, sender: int, text: bytes, to: bytes | None = None) -> bytes:
        return (to or self.far.io.net.mac) + self.cards[sender].mac + ETHER + text

    def live(self, until_ns: int, cuts: list[int], order: random.Random | None = None) -> None:
        """Both cards live to ``until_ns``, in stretches of a quantum at most, cut at ``cuts`` too."""
        now = self.network.now_ns
        while now < until_ns:
            ends = [cut for cut in cuts if now < cut] + [until_ns, now + QUANTUM]
            now = min([*ends, max(now + 1, self.network.next_ns())])
            cards = list(self.cards)
            if order is not None:
                order.shuffle(cards)
            for card in cards:
                card.live_until(now)
            self.network.advance(now)


def test_a_frame_arrives_when_it_would_at_a_guest() -> None:
    scene = Scene()
    scene.plug()
    scene.cards[0].plan(7, scene.frame(0, b"hello"))
    scene.cards[0].plan(8, scene.frame(0, b"to another", scene.cards[1].mac))
    scene.live(40 * MS, [])
    arrived_ns = scene.far.got[0][0]
    assert scene.cards[1].got[-1][0] - arrived_ns == 1
    ((answer_ns, data),) = [one for one in scene.cards[0].got if one[1][14:] == b"hello"]
    assert data[6:12] == scene.far.io.net.mac
    assert arrived_ns + LATENCY < answer_ns <= arrived_ns + 3 * MS + LATENCY


@given(
    plan=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 20 * MS)), max_size=12),
    cuts=st.lists(st.integers(1, 40 * MS), max_size=12),
    seed=st.integers(0, 1 << 32),
)
def test_it_does_not_matter_how_time_is_cut(
    plan: list[tuple[int, int]], cuts: list[int], seed: int
) -> None:
    results = []
    for where, order in (([], None), (sorted(cuts), random.Random(seed))):
        scene = Scene(loss=0.1, duplicate=0.1, reorder=0.1)
        scene.plug()
        for number, (sender, time_ns) in enumerate(plan):
            scene.cards[sender].plan(time_ns, scene.frame(sender, bytes([number])))
        scene.live(60 * MS, where, order)
        results.append((scene.far.got, [card.got for card in scene.cards]))
    assert results[0] == results[1]


@given(at_ns=st.integers(1, 30 * MS))
def test_a_snapshot_at_any_instant_goes_on_as_the_original(at_ns: int) -> None:
    def began() -> Scene:
        scene = Scene(loss=0.1)
        scene.plug()
        for number in range(6):
            sender = number % 2
            scene.cards[sender].plan(number * 3 * MS, scene.frame(sender, bytes([number])))
        return scene

    original = began()
    original.live(at_ns, [])
    cards = {name: name for name in ("g0", "g1")}
    saved = json.loads(json.dumps(original.network.save(cards)))
    copy = Scene(loss=0.1)
    ports = {"g0": original.cards[0].port, "g1": original.cards[1].port}
    assert copy.network.load(Saved(saved, "lan"), ports).keys() == {"g0", "g1"}
    copy.cards = original.cards
    had = len(original.far.got)
    copy.live(80 * MS, [])
    whole = began()
    whole.live(80 * MS, [])
    assert original.far.got + copy.far.got == whole.far.got and len(original.far.got) == had
    assert [card.got for card in copy.cards] == [card.got for card in whole.cards]


def test_what_is_left_undone_is_done_before_it_arrives() -> None:
    scene = Scene()
    scene.plug()
    head = scene.frame(0, b"")[:12] + b"\x08\x00"
    ip = bytes.fromhex("450000280000000040060000") + bytes([10, 0, 2, 10, 10, 0, 2, 99])
    tcp = bytes(12) + b"\x50\x10" + bytes(6)
    packet = Packet(head + ip + tcp + bytes(3000), 34, 16, 1, 1000)
    scene.cards[0].timeline.at(5, lambda: scene.cards[0].port.send(packet) and None)
    scene.live(20 * MS, [])
    assert [len(frame) for _, frame in scene.far.got] == [1054, 1054, 1054]


def test_a_bug_kills_the_backend_and_nobody_else() -> None:
    scene = Scene()
    scene.plug()
    scene.cards[0].plan(7, scene.frame(0, b"!"))
    scene.cards[0].plan(8, scene.frame(0, b"again"))
    scene.cards[0].plan(9, scene.frame(0, b"to another", scene.cards[1].mac))
    scene.live(40 * MS, [])
    assert scene.said == ["failed, and is called no more: ValueError: a bug"]
    assert len(scene.far.got) == 1 and not scene.cards[0].got
    assert scene.cards[1].got[-1][1].endswith(b"to another")
    saved = json.loads(json.dumps(scene.outlet.save()))
    again = Scene()
    again.outlet.load(Saved(saved, "far"))
    again.outlet.enter(41 * MS, again.frame(0, b"from outside"))
    assert again.network.next_ns() == FOREVER and not again.said


@pytest.mark.parametrize(
    "spoilt",
    [
        {"now_ns": -1},
        {"random": "x"},
        {"broken": 1},
        {"card": None},
        {"card": {"version": 2}},
        {"state": {"version": 1}},
        {"state": None},
        {"more": 1},
    ],
)
def test_what_was_not_saved_so_is_refused(spoilt: dict[str, Any]) -> None:
    saved = {**Scene().outlet.save(), **spoilt}
    with pytest.raises(ConfigError):
        Scene().outlet.load(Saved(saved, "far"))


@pytest.mark.parametrize("name", ["", "a b", "x" * 65])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ConfigError, match="backends: a name is"):
        NetworkConfig.from_mapping({"backends": {name: "later"}})


def test_the_gateways_name_is_taken() -> None:
    with pytest.raises(ConfigError, match="'gateway' is the network's own gateway's: take another"):
        NetworkConfig.from_mapping({"backends": {"gateway": "later"}})


def test_a_config_is_itself_again() -> None:
    config = NetworkConfig.from_mapping({"backends": {"far": "later,x=1"}})
    assert NetworkConfig.from_mapping(config.to_mapping()) == config


@pytest.mark.parametrize(
    "values", [{"backends": "x"}, {"links": 3}, {"links": {"a": 3}}, {"gateway": "no"}]
)
def test_a_network_of_other_types(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        NetworkConfig.from_mapping(values)
