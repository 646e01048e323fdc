"""The time server: what a client hears, in virtual time, in copies, and of nonsense."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.api import ConfigError
from asyncvmm.testing import NetworkBench
from asyncvmm_example_timeserver.config import GUESTS_EPOCH
from asyncvmm_example_timeserver.hooks import TIME_SERVER
from asyncvmm_example_timeserver.state import MOST_WAITING

SECOND = 1_000_000_000
OURS = b"\x02\0\0\0\0\x11"
CLIENT, SERVER = bytes([10, 0, 2, 17]), bytes([10, 0, 2, 123])
STAMP = b"clients "
STEADY = settings(derandomize=True, deadline=None)  # the same examples every time, however slow


def bench(seed: int = 0, **options: str) -> NetworkBench:
    given = {key.replace("_", "-"): value for key, value in options.items()}
    return NetworkBench(TIME_SERVER, {"address": "10.0.2.123", **given}, seed)


def asks(server: NetworkBench, port: int = 4000, first: int = 0x23) -> bytes:
    """A client's frame; ``first`` is its first byte (version 4, mode 3: a client)."""
    sntp = bytes([first, 0, 6, 0]) + bytes(36) + STAMP
    udp = struct.pack(">HHHH", port, 123, 8 + len(sntp), 0) + sntp
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0x4000, 64, 17, 0)
    return server.mac + OURS + b"\x08\0" + ip + CLIENT + SERVER + udp


def unix_ns(stamp: bytes) -> int:
    seconds, fraction = struct.unpack(">II", stamp)
    return int((seconds - 2_208_988_800) * SECOND + -(-fraction * SECOND >> 32))


def test_it_says_who_has_its_address() -> None:
    server = bench()
    who = b"\xff" * 6 + OURS + bytes.fromhex("08060001080006040001") + OURS + CLIENT + bytes(6)
    (heard,) = server.arrive(who + SERVER)
    assert heard == OURS + server.mac + bytes.fromhex("08060001080006040002") + (
        server.mac + SERVER + OURS + CLIENT
    )
    assert server.arrive(who + CLIENT) == []


@pytest.mark.parametrize(("drift", "shown"), [("0", 100), ("50000", 105), ("-100000", 90)])
def test_its_clock_is_virtual_time_as_fast_as_it_is_told(drift: str, shown: int) -> None:
    server = bench(drift_ppm=drift)
    server.advance(100 * SECOND)
    (heard,) = server.arrive(asks(server))
    assert heard[:14] == OURS + server.mac + b"\x08\0"
    assert heard[26:34] == SERVER + CLIENT
    assert struct.unpack(">HHHH", heard[34:42]) == (123, 4000, 56, 0)
    header = struct.unpack(">10H", heard[14:34])
    assert sum(header) % 0xFFFF == 0 and header[1] == len(heard) - 14
    sntp = heard[42:]
    assert sntp[:2] == bytes([0x24, 1]) and sntp[12:16] == b"VIRT"
    assert sntp[24:32] == STAMP, "the client's own time comes back"
    assert unix_ns(sntp[32:40]) == unix_ns(sntp[40:48]) == (GUESTS_EPOCH + shown) * SECOND


def test_a_late_answer_says_when_it_left() -> None:
    server = bench(seed=3, jitter_us="500")
    for port in range(20):
        server.arrive(asks(server, port))
    server.advance(500_000)
    assert len(server.sent) == 20
    assert len({time_ns for time_ns, _ in server.sent}) > 10
    for time_ns, frame in server.sent:
        assert unix_ns(frame[74:82]) == GUESTS_EPOCH * SECOND
        assert unix_ns(frame[82:90]) == GUESTS_EPOCH * SECOND + time_ns


@STEADY
@given(st.integers(0, 2**32), st.lists(st.integers(0, 400_000), min_size=1, max_size=12))
def test_a_copy_at_any_instant_goes_on_as_the_original(seed: int, waits: list[int]) -> None:
    server = bench(seed=seed, jitter_us="300")
    copies = []
    for port, wait in enumerate(waits):
        server.arrive(asks(server, port))
        copies.append((len(server.sent), server.copy()))
        for _, other in copies[:-1]:
            other.arrive(asks(other, port))
        for one in (server, *(other for _, other in copies)):
            one.advance(wait)
    for _, other in copies:
        other.advance(SECOND)
        assert other.end.save()["waiting"] == []
    server.advance(SECOND)
    for had, other in copies:
        assert other.sent == server.sent[had:]
        assert other.end.save() == server.end.save()


def test_it_keeps_a_bounded_number_of_answers() -> None:
    server = bench(jitter_us="1000000", seed=1)
    for port in range(2 * MOST_WAITING):
        server.arrive(asks(server, port))
    server.advance(2 * SECOND)
    assert MOST_WAITING <= len(server.sent) < 2 * MOST_WAITING
    assert server.end.save()["asked"] == len(server.sent)


@STEADY
@given(st.data())
def test_whatever_comes_it_goes_on(data: st.DataObject) -> None:
    server = bench()
    good = bytearray(asks(server))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 89), st.integers(0, 255)))):
        good[at] = value
    server.arrive(bytes(good[: data.draw(st.integers(14, 90))]))
    assert len(server.arrive(asks(server))) == 1


def test_servers_are_not_answered() -> None:
    server = bench()
    assert server.arrive(asks(server, first=0x24)) == []  # mode 4: two would answer for ever


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"address": "10.0.2"}, "example-timeserver: .*10.0.2"),
        ({"drift_ppm": "-600000"}, "drift_ppm"),
        ({"jitter_us": "soon"}, "jitter-us=soon: a number"),
        ({"jiter_us": "1"}, "did you mean 'jitter-us'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        bench(**options)


@pytest.mark.parametrize(
    "spoilt",
    [
        {"asked": -1},
        {"waiting": [{"version": 1, "due_ns": -1, "frame": ""}]},
        {"waiting": [7]},
        {"waiting": [{"version": 1, "due_ns": 1, "frame": "xy"}]},
        {"waiting": [{"version": 1, "due_ns": 1, "frame": ""}] * (MOST_WAITING + 1)},
    ],
)
def test_a_spoilt_state_is_refused(spoilt: dict[str, object]) -> None:
    server = bench()
    saved = {**server.end.save(), **spoilt}
    with pytest.raises(ConfigError):
        server.end.load(saved)
