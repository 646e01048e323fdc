"""gdb's connection to a guest on a host: stopping, going on, going back, going away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.gdb.packets import PacketReader, frame
from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.debugger import RECEIVE_BYTES
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.replay import Replay, open_replay
from asyncvmm.testing import assemble, to_elf

MS = 1_000_000
# Counts in s1 and in memory, and takes a timer interrupt every 50 us. Hart 1 does the same elsewhere.
COUNT = """
_start:
    la   t0, tick
    csrw mtvec, t0
    csrr s7, mhartid
    slli t0, s7, 3
    li   s6, 0x02004000
    add  s6, s6, t0
    sd   zero, 0(s6)
    la   s0, data
    add  s0, s0, t0
    li   t0, 0x80
    csrw mie, t0
    csrsi mstatus, 8
loop:
    addi s1, s1, 1
    sd   s1, 0(s0)
    andi t1, s1, 1023
    bnez t1, loop
again:
    j    loop
.balign 4
tick:
    addi s4, s4, 1
    li   s9, 0x0200bff8
    ld   s9, 0(s9)
    addi s9, s9, 500
    sd   s9, 0(s6)
    mret
.balign 64
data: .dword 0, 0
"""
QUIET = "_start: wfi\n j _start\n"


class Gdb:
    """A client that speaks the protocol."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = PacketReader()
        self._waiting: list[bytes] = []

    async def ask(self, payload: bytes) -> bytes:
        await self.stream.send_all(frame(payload))
        return await self.hear()

    async def hear(self) -> bytes:
        with trio.fail_after(30):
            while not self._waiting:
                data = await self.stream.receive_some(RECEIVE_BYTES)
                if not data:
                    return b"(gone)"
                events = self._reader.feed(bytes(data))
                self._waiting += [each for each in events if isinstance(each, bytes)]
        return self._waiting.pop(0)

    async def register(self, number: int) -> int:
        return int.from_bytes(bytes.fromhex((await self.ask(b"p%x" % number)).decode()), "little")

    async def monitor(self, command: str) -> str:
        return bytes.fromhex(
            (await self.ask(b"qRcmd," + command.encode().hex().encode())).decode()
        ).decode()


@asynccontextmanager
async def started(
    tmp_path: Path,
    source: str = COUNT,
    *,
    harts: int = 1,
    wait: bool = True,
    engine: str = "auto",
    journal: Path | None = None,
    quantum_us: int | None = None,
) -> AsyncIterator[tuple[Host, Guest, Gdb]]:
    """A guest with a gdb that is connected to it."""
    elf = tmp_path / "program.elf"
    elf.write_bytes(to_elf(assemble(source, 0x80000000)))
    async with open_host(mips=20, paused=True, journal=journal, quantum_us=quantum_us) as host:
        guest = await host.start(
            GuestConfig(elf=elf, memory="8M", harts=harts, engine=engine, quantum=1000)
        )
        port = await guest.gdb(wait=wait)
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        gdb = Gdb(stream)
        assert (await gdb.ask(b"?")).startswith(b"T05thread:1;")
        yield host, guest, gdb
        await trio.aclose_forcefully(stream)


async def undisturbed(tmp_path: Path, until_ns: int, *, harts: int = 1) -> str:
    elf = tmp_path / "program.elf"
    elf.write_bytes(to_elf(assemble(COUNT, 0x80000000)))
    async with open_host(mips=20, paused=True) as host:
        guest = await host.start(GuestConfig(elf=elf, memory="8M", harts=harts, quantum=1000))
        await host.run_until(until_ns)
        return guest.machine.digest()


@pytest.fixture
def address() -> int:
    """Where ``sd s1, 0(s0)`` is."""
    words = assemble(COUNT, 0x80000000).data
    store = assemble("sd s1, 0(s0)", 0).data
    return 0x80000000 + words.index(store)


async def test_it_waits_at_the_first_instruction(tmp_path: Path) -> None:
    async with started(tmp_path) as (host, guest, gdb):
        assert await gdb.register(32) == 0x80000000
        assert guest.stats.instructions == 0
        await gdb.stream.send_all(frame(b"c"))
        await host.run_until(2 * MS)
        assert guest.stats.instructions > 30_000


@pytest.mark.parametrize("harts", [1, 2])
async def test_stops_do_not_change_the_guest(tmp_path: Path, address: int, harts: int) -> None:
    expected = await undisturbed(tmp_path, 3 * MS, harts=harts)
    async with started(tmp_path, harts=harts) as (host, guest, gdb):
        assert await gdb.ask(b"qSupported:swbreak+") != b""
        assert await gdb.ask(b"Z0,%x,4" % address) == b"OK"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run_until, 3 * MS)
            for times in range(20):
                reply = await gdb.ask(b"vCont;c")
                assert reply.endswith(b"swbreak:;"), (times, reply)
                thread = int(reply[10:11])
                assert await gdb.register(32) == address
                assert await gdb.register(9) == int(guest.machine.harts[thread - 1].x[9])
                assert (await gdb.ask(b"s")).startswith(b"T05")
            for _ in range(5):
                assert await gdb.ask(b"bs") == b"T05thread:%x;" % thread
            assert (await gdb.ask(b"bc")).endswith(b"swbreak:;")
            assert await gdb.ask(b"z0,%x,4" % address) == b"OK"
            assert await gdb.ask(b"D") == b"OK"
        assert guest.machine.digest() == expected
        assert await gdb.hear() == b"(gone)"


async def test_going_back_shows_what_was(tmp_path: Path, address: int) -> None:
    """Every step back undoes exactly one, in time too; forward again it is what it was."""
    async with started(tmp_path) as (host, _guest, gdb), trio.open_nursery() as nursery:
        nursery.start_soon(host.run_until, 3 * MS)
        seen = []
        await gdb.ask(b"Z0,%x,4" % address)
        for _ in range(3):
            await gdb.ask(b"c")
        await gdb.ask(b"z0,%x,4" % address)
        for _ in range(30):
            seen.append((await gdb.register(32), await gdb.ask(b"g")))
            await gdb.ask(b"s")
        for was in reversed(seen):
            assert await gdb.ask(b"bs") == b"T05thread:1;"
            assert (await gdb.register(32), await gdb.ask(b"g")) == was
        assert await gdb.ask(b"P9=0000000000000000") == b"E02"  # the past cannot be changed
        assert await gdb.ask(b"M80000100,1:00") == b"E0e"
        for was in seen:
            assert (await gdb.register(32), await gdb.ask(b"g")) == was
            await gdb.ask(b"s")
        assert await gdb.ask(b"Z0,%x,4" % address) == b"OK"
        for _ in range(3):
            assert (await gdb.ask(b"bc")).startswith(b"T05thread:1;")
            assert await gdb.register(32) == address
        await gdb.ask(b"z0,%x,4" % address)
        assert await gdb.ask(b"bc") == b"T05thread:1;replaylog:begin;"
        assert await gdb.register(32) == 0x80000000
        assert await gdb.ask(b"bs") == b"T05thread:1;replaylog:begin;"
        await gdb.ask(b"D")


async def test_a_watchpoint_backward_stops_before_the_store(tmp_path: Path, address: int) -> None:
    async with started(tmp_path) as (host, _guest, gdb), trio.open_nursery() as nursery:
        nursery.start_soon(host.run_until, 3 * MS)
        data = (0x80000000 + len(assemble(COUNT, 0x80000000).data)) - 16
        await gdb.ask(b"Z0,%x,4" % address)
        for _ in range(6):
            await gdb.ask(b"c")
        await gdb.ask(b"z0,%x,4" % address)
        count = await gdb.register(9)
        await gdb.ask(b"Z2,%x,8" % data)
        for before in (1, 2, 3):
            assert await gdb.ask(b"bc") == b"T05thread:1;watch:%x;" % data
            assert await gdb.register(32) == address
            assert await gdb.register(9) == count - before
            value = bytes.fromhex((await gdb.ask(b"m%x,8" % data)).decode())
            assert int.from_bytes(value, "little") == count - before - 1
        await gdb.ask(b"D")


async def test_an_interrupt_stops_it_within_a_quantum(tmp_path: Path) -> None:
    async with started(tmp_path) as (host, guest, gdb):
        await gdb.stream.send_all(frame(b"c"))
        await host.run_until(2 * MS)
        host.resume()
        await gdb.stream.send_all(b"\x03")
        assert await gdb.hear() == b"T02thread:1;"
        at = guest.now_ns
        assert await gdb.register(9) == int(guest.machine.harts[0].x[9]) > 0
        await trio.testing.wait_all_tasks_blocked()
        assert guest.now_ns == at == host.now_ns
        await gdb.ask(b"D")


async def test_an_interrupt_stops_a_guest_that_sleeps(tmp_path: Path) -> None:
    async with started(tmp_path, QUIET) as (host, _guest, gdb):
        host.resume()
        await gdb.stream.send_all(frame(b"c"))
        await host.wait_quiet()
        await gdb.stream.send_all(b"\x03")
        assert await gdb.hear() == b"T02thread:1;"
        assert bytes.fromhex((await gdb.ask(b"qThreadExtraInfo,1")).decode()) == b"M-mode, waits"


async def test_a_connection_that_goes_away_leaves_the_guest_running(
    tmp_path: Path, address: int
) -> None:
    expected = await undisturbed(tmp_path, 3 * MS)
    async with started(tmp_path) as (host, guest, gdb):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run_until, 3 * MS)
            await gdb.ask(b"Z0,%x,4" % address)
            await gdb.ask(b"c")
            await trio.aclose_forcefully(gdb.stream)
        assert guest.machine.digest() == expected
        assert guest.machine.guard.point_count == 0


async def test_one_gdb_at_a_time(tmp_path: Path) -> None:
    async with started(tmp_path) as (_host, guest, gdb):
        assert guest._gdb.debugger is not None
        with pytest.raises(ConfigError, match="already"):
            await guest.gdb()
        client, server = trio.testing.memory_stream_pair()
        await guest._gdb.debugger.serve(server)
        assert await client.receive_some() == b""
        assert await gdb.ask(b"qC") == b"QC1"


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async with started(tmp_path) as (host, guest, _):
        other = await host.start(guest.config, name="other")
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        try:
            with pytest.raises(BackendError, match="cannot be listened on"):
                await other.gdb(listeners[0].socket.getsockname()[1])
        finally:
            await listeners[0].aclose()


async def test_kill_ends_the_guest(tmp_path: Path) -> None:
    async with started(tmp_path) as (_host, guest, gdb):
        assert await gdb.ask(b"vKill;1") == b"OK"
        assert (await guest.wait()).detail == "killed by gdb"


async def test_the_end_of_the_guest_is_told(tmp_path: Path) -> None:
    source = "_start: li t0, 0x100000\n li t1, 0x73333\n sw t1, 0(t0)\n1: j 1b\n"
    async with started(tmp_path, source) as (host, guest, gdb):
        host.resume()
        assert await gdb.ask(b"c") == b"W07"
        assert (await guest.wait()).code == 7
        assert await gdb.hear() == b"(gone)"


async def test_monitor_commands(tmp_path: Path) -> None:
    async with started(tmp_path) as (host, guest, gdb):
        await gdb.stream.send_all(frame(b"c"))
        await host.run_until(2 * MS)
        await gdb.stream.send_all(b"\x03")
        await gdb.hear()
        assert f"guest {guest.name}: {guest.now_ns / 1e9:.9f} s" in await gdb.monitor("info")
        assert (await gdb.monitor("goto 100 steps")).startswith("at 0.000005000 s, 100 steps")
        assert "the guest itself is at" in await gdb.monitor("info")
        assert (await gdb.monitor("goto 10us")).startswith("at 0.000010000 s")
        assert await gdb.monitor("snapshot") == "remembered: monitor goto comes back to it\n"
        assert "at " in await gdb.monitor("goto now")
        assert "is not a time" in await gdb.monitor("goto tomorrow")
        assert "no monitor command" in await gdb.monitor("sing")
        folder = tmp_path / "here"
        assert "saved to" in await gdb.monitor(f"snapshot {folder}")
        assert folder.is_dir()
        await gdb.ask(b"D")


# Echoes each byte of its serial port to memory, one after the other.
ECHO = """
_start:
    li   s0, 0x10000000
    la   s1, data
1:  lbu  t0, 5(s0)
    andi t0, t0, 1
    beqz t0, 1b
    lbu  t1, 0(s0)
    sb   t1, 0(s1)
    addi s1, s1, 1
    j    1b
.balign 64
data: .dword 0
"""


async def test_input_from_outside_is_in_the_past_too(tmp_path: Path) -> None:
    data = 0x80000000 + 64

    async with started(tmp_path, ECHO) as (host, guest, gdb):

        async def memory() -> bytes:
            return bytes.fromhex((await gdb.ask(b"m%x,4" % data)).decode())

        await gdb.stream.send_all(frame(b"c"))
        for number, letter in enumerate(b"abc"):
            await host.run_until((number + 1) * MS)
            await guest.console.send_all(bytes([letter]))
        await host.run_until(4 * MS)
        await gdb.stream.send_all(b"\x03")
        assert await gdb.hear() == b"T02thread:1;"
        digest = guest.machine.digest()
        assert await memory() == b"abc\0"
        await gdb.ask(b"Z2,%x,8" % data)
        for seen in (b"ab\0\0", b"a\0\0\0", b"\0\0\0\0"):
            assert (await gdb.ask(b"bc")).endswith(b"watch:%x;" % data)
            assert await memory() == seen
        for seen in (b"a\0\0\0", b"ab\0\0", b"abc\0"):
            assert (await gdb.ask(b"c")).endswith(b"watch:%x;" % data)
            assert await memory() == seen
        assert (await gdb.ask(b"bs")).startswith(b"T05")
        await gdb.ask(b"z2,%x,8" % data)
        await gdb.stream.send_all(frame(b"c"))  # to the present, which is where the host is
        await trio.testing.wait_all_tasks_blocked()
        assert guest.machine.digest() == digest


async def test_a_reset_is_in_the_past_too(tmp_path: Path) -> None:
    source = "_start: addi s1, s1, 1\n li t0, 2000\n 1: addi t0, t0, -1\n bnez t0, 1b\n"
    source += " li t0, 0x100000\n li t1, 0x7777\n sw t1, 0(t0)\n2: j 2b\n"
    async with started(tmp_path, source) as (host, _, gdb):
        await gdb.stream.send_all(frame(b"c"))
        await host.run_until(2 * MS)
        await gdb.stream.send_all(b"\x03")
        await gdb.hear()
        assert await gdb.ask(b"Z0,80000000,4") == b"OK"
        for _ in range(4):
            reply = await gdb.ask(b"bc")
            assert await gdb.register(32) == 0x80000000
        assert reply.startswith(b"T05thread:1;")
        await gdb.ask(b"D")


@settings(max_examples=30)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30),
            st.sampled_from(
                [b"$c#63", b"\x03", b"$bc#c5", b"$bs#d5", b"$s#73", b"$vCont;s:1;c#c1", b"$?#3f"]
            ),
            st.sampled_from([b"Z0,8000003c,4", b"Z2,80000080,8", b"g", b"m80000000,10"]).map(frame),
            st.text("0123456789 gotosnepnfu.", max_size=12).map(
                lambda text: frame(b"qRcmd," + text.encode().hex().encode())
            ),
        ),
        max_size=12,
    )
)
def test_a_hostile_client_harms_nobody(pieces: list[bytes]) -> None:
    """Whatever is sent, and whenever it goes away, the guest goes on to the same digest."""

    async def run(disturbed: bool) -> str:
        async with open_host(mips=20, paused=True) as host:
            with TemporaryDirectory() as folder:
                elf = Path(folder) / "program.elf"
                elf.write_bytes(to_elf(assemble(COUNT, 0x80000000)))
                guest = await host.start(GuestConfig(elf=elf, memory="8M", quantum=1000))
                if disturbed:
                    port = await guest.gdb(wait=True)
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(host.run_until, MS)
                        for piece in pieces:
                            await stream.send_all(piece)
                            await trio.testing.wait_all_tasks_blocked()
                        await trio.aclose_forcefully(stream)
                else:
                    await host.run_until(MS)
                return guest.machine.digest()

    assert trio.run(run, True) == trio.run(run, False)


async def replayed(journal: Path) -> tuple[Replay, dict[str, str]]:
    async with open_replay(journal) as replay:
        await replay.run()
        return replay, {name: guest.machine.digest() for name, guest in replay.guests.items()}


@pytest.mark.parametrize("quantum_us", [None, 100])
@pytest.mark.parametrize("harts", [1, 2])
async def test_a_recorded_guest_is_looked_at(
    tmp_path: Path, address: int, harts: int, quantum_us: int | None
) -> None:
    """Stops, steps, a past and keys in between: the replay, where nobody stops, is equal."""
    journal = tmp_path / "journal"
    made = started(tmp_path, harts=harts, journal=journal, quantum_us=quantum_us)
    async with made as (host, guest, gdb):
        other = await host.start(GuestConfig(name="other", elf=tmp_path / "program.elf"))
        assert "nothing can be written" in await gdb.monitor("info")
        await gdb.ask(b"Z0,%x,4" % address)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.run_until, 3 * MS + 123_456)
            for times in range(12):
                assert (await gdb.ask(b"c")).startswith(b"T05thread:")
                assert await gdb.ask(b"P9=0000000000000000") == b"E02"
                assert await gdb.ask(b"M80000100,1:00") == b"E0e"
                assert await gdb.ask(b"c80000000") == b"E02"
                await gdb.ask(b"s")
                if times == 5:
                    assert await gdb.ask(b"bs") == b"T05thread:1;"
                    assert await gdb.ask(b"P9=0000000000000000") == b"E02"
                    nursery.start_soon(other.console.send_all, b"k")  # when the stretch is over
            await gdb.ask(b"z0,%x,4" % address)
            await gdb.stream.send_all(frame(b"c"))
        await other.console.send_all(b"l")
        host.resume()
        await gdb.stream.send_all(b"\x03")
        assert await gdb.hear() == b"T02thread:1;"
        await guest.console.send_all(b"x")  # while it stands still
        await gdb.ask(b"D")
        host.pause()
        await host.run_until(host.now_ns + MS)
        lived = {each.name: each.machine.digest() for each in (guest, other)}
    replay, digests = await replayed(journal)
    assert replay.compared and not replay.differing
    assert digests == lived


async def test_a_recorded_guest_is_killed(tmp_path: Path, address: int) -> None:
    """By a gdb that had stopped it in the middle of a stretch: its end comes with that of the stretch."""
    journal = tmp_path / "journal"
    async with started(tmp_path, journal=journal) as (host, guest, gdb):
        other = await host.start(GuestConfig(name="other", elf=tmp_path / "program.elf"))
        host.resume()
        await gdb.ask(b"Z0,%x,4" % address)
        await gdb.ask(b"c")
        await gdb.stream.send_all(frame(b"k"))
        assert (await guest.wait()).detail == "killed by gdb"
        host.pause()
        await host.run_until(host.now_ns + MS)
        lived = other.machine.digest()
        steps = guest.stats.instructions
    replay, digests = await replayed(journal)
    assert replay.guests["guest"].stats.instructions == steps
    assert digests["other"] == lived and not replay.differing


async def test_a_recorded_host_ends_where_gdb_has_stopped_a_guest(
    tmp_path: Path, address: int
) -> None:
    """The stretch is lived to its end first, so the journal is whole."""
    journal = tmp_path / "journal"
    with trio.fail_after(60):
        async with started(tmp_path, journal=journal) as (host, _guest, gdb):
            host.resume()
            await gdb.ask(b"Z0,%x,4" % address)
            await gdb.ask(b"c")
    replay, _ = await replayed(journal)
    assert replay.recorded.complete
    assert replay.compared and not replay.differing
