"""What the stub answers (gdb manual, appendix E), and that nothing hostile gets through it."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.gdb import Detach, Interrupt, Kill, Monitor, Resume, Stop
from asyncvmm.gdb.packets import MAX_PAYLOAD, PacketReader, frame
from asyncvmm.gdb.resume import parse_vcont
from asyncvmm.gdb.stub import MAX_TEXT
from tests.unit.gdb.stubs import Client, small_machine

PROGRAM = """
_start:
    li   a0, 5
1:  addi a1, a1, 1
    la   a2, data
    sd   a1, 0(a2)
    ld   a3, 0(a2)
    addi a0, a0, -1
    bnez a0, 1b
2:  j    2b
.balign 64
data: .dword 0
"""
LOOP = b"80000004"


@pytest.fixture
def client() -> Client:
    return Client(small_machine(PROGRAM, harts=2))


def test_what_it_supports(client: Client) -> None:
    answer = client.ask(b"qSupported:multiprocess+;swbreak+;hwbreak+").split(b";")
    for feature in (b"PacketSize=4000", b"ReverseStep+", b"ReverseContinue+", b"vContSupported+"):
        assert feature in answer
    assert client.ask(b"vMustReplyEmpty") == b""
    assert client.ask(b"vCont?") == b"vCont;c;C;s;S;t;r"


def test_acknowledgements_end_with_no_ack_mode(client: Client) -> None:
    client.stub.receive(frame(b"?"))
    assert client.stub.take_output() == b"+" + frame(b"T05thread:1;")
    client.stub.receive(b"-")
    assert client.stub.take_output() == frame(b"T05thread:1;")
    client.stub.receive(b"$?#00")
    assert client.stub.take_output() == b"-"
    client.stub.receive(frame(b"QStartNoAckMode"))
    assert client.stub.take_output() == b"+" + frame(b"OK")
    client.stub.receive(frame(b"?"))
    assert client.stub.take_output() == frame(b"T05thread:1;")


def test_registers_are_read_and_written(client: Client) -> None:
    general = bytes.fromhex(client.ask(b"g").decode())
    assert len(general) == 33 * 8
    assert int.from_bytes(general[32 * 8 :], "little") == 0x80000000
    assert client.ask(b"P5=efbeadde00000080") == b"OK"
    assert client.ask(b"p5") == b"efbeadde00000080"
    assert int(client.machine.harts[0].x[5]) == 0x80000000DEADBEEF - (1 << 64)
    assert client.ask(b"P0=ff00000000000000") == b"OK"
    assert client.ask(b"p0") == b"00" * 8
    assert client.ask(b"P21=000000000000f03f") == b"OK"  # ft0, whatever mstatus.FS says
    assert client.ask(b"p21") == b"000000000000f03f"
    assert client.ask(b"p%x" % (65 + 0x301)) == b"2f11140000000080"  # misa
    assert client.ask(b"P%x=%s" % (65 + 0x301, b"00" * 8)) == b"E02"
    assert client.ask(b"P%x=e1000000" % (65 + 3)) == b"OK"  # fcsr has 32 bits
    assert client.ask(b"p%x" % (65 + 2)) == b"07000000"
    assert client.ask(b"p1041") == b"0300000000000000"  # the privilege
    assert client.ask(b"p7777") == b"E01"
    assert client.ask(b"Hg2") == b"OK" and client.ask(b"p5") == b"00" * 8


def test_reading_the_time_is_not_seen_by_the_guest(client: Client) -> None:
    client.machine.run(max_steps=50)
    before = client.machine.digest()
    client.ask(b"p%x" % (65 + 0xC01))
    assert client.machine.digest() == before


def test_memory_is_read_and_written(client: Client) -> None:
    text = client.ask(b"m80000000,8")
    assert len(text) == 16
    assert client.ask(b"x80000000,8") == b"b" + bytes.fromhex(text.decode())
    assert client.ask(b"M80000100,3:010203") == b"OK"
    assert client.ask(b"X80000103,2:\x7d\x24") == b"OK"
    assert client.ask(b"m80000100,5") == b"0102037d24"
    assert client.ask(b"m800fffff,4") == b"00"  # as much as there is
    assert client.ask(b"m80100000,4") == b"E0e"
    assert client.ask(b"M800fffff,2:0102") == b"E0e"
    assert client.ask(b"m800fffff,1") == b"00"
    assert client.ask(b"M80000100,3:0102") == b"E01"
    assert len(client.ask(b"m80000000,ffffffff")) <= MAX_PAYLOAD


def test_the_target_description_names_what_p_reads(client: Client) -> None:
    document, offset = b"", 0
    while True:
        part = client.ask(b"qXfer:features:read:target.xml:%x,400" % offset)
        document, offset = document + part[1:], offset + len(part) - 1
        if part[:1] == b"l":
            break
    root = ET.fromstring(document.decode())
    features = {each.get("name") for each in root.iter("feature")}
    assert {f"org.gnu.gdb.riscv.{name}" for name in ("cpu", "fpu", "csr")} <= features
    registers = {each.get("name"): each for each in root.iter("reg")}
    assert {"pc", "zero", "t6", "ft0", "fcsr", "mstatus", "satp", "priv"} <= set(registers)
    for register in registers.values():
        answer = client.ask(b"p%x" % int(register.get("regnum") or -1))
        assert len(answer) * 4 == int(register.get("bitsize") or 0), register.get("name")
    assert client.ask(b"qXfer:features:read:target.xml:ffffff,400") == b"l"
    assert client.ask(b"qXfer:auxv:read::0,400") == b"E00"


def test_threads_are_harts(client: Client) -> None:
    assert client.ask(b"qfThreadInfo") == b"m1,2"
    assert client.ask(b"qsThreadInfo") == b"l"
    assert client.ask(b"qC") == b"QC1"
    assert client.ask(b"T2") == b"OK"
    assert client.ask(b"T3") == b"E01"
    assert bytes.fromhex(client.ask(b"qThreadExtraInfo,2").decode()) == b"M-mode, runs"
    threads = ET.fromstring(client.ask(b"qXfer:threads:read::0,1000")[1:].decode())
    assert [each.get("id") for each in threads] == ["1", "2"]


def test_a_breakpoint_stops_before_its_instruction_each_time() -> None:
    client = Client(small_machine(PROGRAM))
    client.ask(b"qSupported:swbreak+;hwbreak+")
    assert client.ask(b"Z0,%s,4" % LOOP) == b"OK"
    for times in range(5):
        assert client.go(b"c") == b"T05thread:1;swbreak:;"
        assert client.ask(b"p20") == b"0400008000000000"
        assert int(client.machine.harts[0].x[10]) == 5 - times
    assert client.ask(b"z0,%s,4" % LOOP) == b"OK"
    assert client.go(b"c", 1000) == b"T02thread:1;"


def test_a_breakpoint_on_a_jump_to_itself_stops_each_time() -> None:
    client = Client(small_machine("_start: nop\n1: j 1b\n"))
    client.ask(b"qSupported:hwbreak+")
    client.ask(b"Z1,80000004,4")
    for steps in (1, 2, 3):
        assert client.go(b"vCont;c") == b"T05thread:1;hwbreak:;"
        assert int(client.machine.harts[0].steps) == steps


@pytest.mark.parametrize(
    ("kind", "reason", "at"), [(2, b"watch", 4), (3, b"rwatch", 5), (4, b"awatch", 4)]
)
def test_a_watchpoint_stops_after_the_access(kind: int, reason: bytes, at: int) -> None:
    client = Client(small_machine(PROGRAM))
    data = client.machine.ram.base + 64
    assert client.ask(b"Z%d,%x,8" % (kind, data)) == b"OK"
    assert client.go(b"c") == b"T05thread:1;%s:%x;" % (reason, data)
    assert client.ask(b"p20") == (0x80000000 + 4 * at + 4).to_bytes(8, "little").hex().encode()
    assert client.ask(b"z%d,%x,8" % (kind, data)) == b"OK"
    assert client.go(b"c", 100) == b"T02thread:1;"


def test_steps_and_ranges() -> None:
    client = Client(small_machine(PROGRAM))
    assert client.go(b"s") == b"T05thread:1;"
    assert client.ask(b"p20") == b"0400008000000000"
    assert client.go(b"vCont;s:1") == b"T05thread:1;"
    assert client.ask(b"p20") == b"0800008000000000"
    assert client.go(b"vCont;r80000004,80000020:1;c") == b"T05thread:1;"  # the whole loop
    assert client.ask(b"p20") == b"2000008000000000"


def test_the_other_harts_run_on_schedule_while_one_is_stepped() -> None:
    client = Client(small_machine(PROGRAM, harts=2, quantum=100))
    assert client.go(b"vCont;s:2;c") == b"T05thread:2;"
    assert [int(hart.steps) for hart in client.machine.harts] == [100, 1]
    assert client.ask(b"qC") == b"QC2"


def test_requests(client: Client) -> None:
    assert client.stub.receive(b"\x03") == [Interrupt()]
    assert client.ask(b"bs") == b"(later)" and client.requests == [Resume(0, backward=True)]
    client.stub.stopped(Stop(1, reason="replaylog"))
    assert client.answer() == b"T05thread:2;replaylog:begin;"
    assert client.ask(b"bc") == b"(later)" and client.requests == [Resume(backward=True)]
    assert client.ask(b"g") == b"(later)"  # busy
    client.stub.stopped(Stop())
    client.answer()
    assert client.ask(b"qRcmd,%s" % b"info".hex().encode()) == b"(later)"
    assert client.requests == [Monitor("info")]
    client.stub.monitor_done("x" * 2 * MAX_TEXT)
    assert client.answer() == b"78" * MAX_TEXT
    assert client.ask(b"D") == b"OK" and client.requests == [Detach()]
    assert client.ask(b"g") == b"(later)"  # it is over


def test_the_end_of_the_target(client: Client) -> None:
    client.ask(b"c")
    client.stub.ended(7)
    assert client.answer() == b"W07"
    other = Client(client.machine)
    assert other.ask(b"vKill;1") == b"OK" and other.requests == [Kill()]
    third = Client(client.machine)
    assert third.ask(b"k") == b"(later)" and third.requests == [Kill()]


def test_vcont_chooses_who_is_stepped() -> None:
    assert parse_vcont(b"s:2;c", 2, 0) == Resume(1)
    assert parse_vcont(b"s", 2, 1) == Resume(1)
    assert parse_vcont(b"c:1;s:1", 2, 0) == Resume()
    assert parse_vcont(b"r10,20:1", 2, 0) == Resume(0, 16, 32)
    for wrong in (b"t", b"", b"x", b"s:3", b"s:1:2", b"C", b"r1:1", b"s" + b";c" * 100):
        assert parse_vcont(wrong, 2, 0) is None


_HEAD = st.sampled_from(
    [
        b"?", b"g", b"G", b"p", b"P", b"m", b"M", b"X", b"x", b"c", b"s", b"C", b"S", b"bs", b"bc",
        b"Z0,", b"z0,", b"Z2,", b"z2,", b"Z4,", b"Hg", b"Hc", b"T", b"vCont;", b"vKill", b"qC",
        b"qSupported:", b"qXfer:features:read:target.xml:", b"qXfer:", b"qRcmd,", b"D", b"k",
        b"qThreadExtraInfo,", b"QStartNoAckMode", b"qfThreadInfo", b"Z1,80000004,", b"m80000000,",
        b"M80000000,", b"P5=", b"X80000000,4:",
    ]
)  # fmt: skip
_PACKETS = st.lists(
    st.one_of(
        st.builds(lambda head, rest: frame(head + rest), _HEAD, st.binary(max_size=20)),
        st.builds(
            lambda head, rest: frame(head + rest.encode()),
            _HEAD,
            st.text("0123456789abcdef,:;=-", max_size=24),
        ),
        st.binary(max_size=20),
    ),
    max_size=12,
)


@settings(max_examples=400)
@given(_PACKETS)
def test_hostile_packets_are_answered_and_nothing_is_raised(packets: list[bytes]) -> None:
    client = Client(small_machine(PROGRAM, harts=2))
    for packet in packets:
        requests = client.stub.receive(packet)
        assert len(requests) <= len(packet)
        output = client.stub.take_output()
        assert len(output) <= (2 * MAX_PAYLOAD + 8) * (1 + packet.count(b"-") + packet.count(b"$"))
        for said in PacketReader().feed(output):
            assert said != "bad"
        for request in requests:
            if isinstance(request, Resume):
                client.target.prepare(request)
                client.machine.run(max_steps=100)
                client.stub.stopped(client.target.take_stop())
            elif isinstance(request, Monitor):
                client.stub.monitor_done("")
    assert client.machine.guard.point_count <= 512
