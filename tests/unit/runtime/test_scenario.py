"""Scenario files: what they mean, and what is said about wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS, SECOND
from asyncvmm.runtime.scenario import load_scenario, parse_scenario, parse_time_ns

SCENARIOS = Path(__file__).parents[3] / "specs" / "scenarios"
GUEST = '[guests.a]\nimage = "demo"\n'
STEP = GUEST + '[[steps]]\nguest = "a"\n'


def test_a_whole_scenario() -> None:
    scenario = parse_scenario(
        """
        [host]
        cpus = 2
        memory = "1G"
        overcommit = true
        [guests.a]
        image = "linux"
        policy = {"cpu.weight" = 200, "cpu.max" = "50000 100000"}
        [guests.b]
        kernel = "boot/Image"
        disks = ["root.img,readonly", "/abs.img"]
        [[steps]]
        at = "1.5s"
        guest = "a"
        run = ["uname", "-a"]
        contains = "riscv64"
        show = true
        background = true
        [[steps]]
        name = "b comes"
        start = "b"
        [[steps]]
        guest = "b"
        send = "x"
        expect = "y"
        within = "20 ms"
        [[steps]]
        until = "2s"
        """,
        "there/s.toml",
    )
    assert scenario.host.settings == {"cpus": 2, "memory": "1G", "overcommit": True}
    a, b = scenario.guests.values()
    assert (a.image, dict(a.settings)) == (
        "linux",
        {"policy": {"cpu.weight": 200, "cpu.max": "50000 100000"}},
    )
    assert b.settings["kernel"] == Path("there/boot/Image")
    assert b.settings["disks"] == ("there/root.img,readonly", "/abs.img")
    run, start, type_, until = scenario.steps
    assert run.show and not start.show
    assert run.at_ns == 1_500_000_000 and run.background and run.run == ("uname", "-a")
    assert start.start and start.guest == "b" and scenario.starts_later("b")
    assert (type_.send, type_.expect, type_.within_ns) == ("x", "y", 20_000_000)
    assert until.until_ns == 2 * SECOND and until.guest is None
    assert scenario.runs_commands("a") and not scenario.runs_commands("b")
    assert [step.title for step in scenario.steps] == [
        "a: run uname -a",
        "b: b comes",
        "b: send 'x', expect 'y'",
        "until 2 s",
    ]


@pytest.mark.parametrize("file", sorted(SCENARIOS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_scenarios(file: Path) -> None:
    assert load_scenario(file).steps


@pytest.mark.parametrize(
    ("text", "ns"),
    [("0s", 0), ("1.5s", 1_500_000_000), ("20ms", 20_000_000), ("0.3 us", 300), ("7ns", 7)],
)
def test_times(text: str, ns: int) -> None:
    assert parse_time_ns(text) == ns


@pytest.mark.parametrize("text", ["", "5", "-1s", "1h", "0.5ns", "1e3s", "9999999999s"])
def test_wrong_times(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a (time|whole number)"):
        parse_time_ns(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("guests = ", "s.toml: Invalid value"),
        ("", "s.toml: there is no guest: add a table [guests.NAME]"),
        ("[gests.a]", "s.toml: no key 'gests': did you mean 'guests'?"),
        ("[host]\nmisp = 3", "s.toml: host: no key 'misp': did you mean 'mips'?"),
        ("[host]\ncpus = true", "s.toml: host: cpus: a whole number is expected, not True"),
        ("[host]\nmemory = 1.5", 's.toml: host: memory: a size such as "64M" is expected'),
        ("[guests]\na = 1", "s.toml: guests.a: a table is expected, not 1"),
        ('[guests."a b"]\nimage = "x"', "s.toml: guests.a b: a guest's name is 1 to 64"),
        ("[guests.a]", "s.toml: guests.a: nothing to boot: give one of image, kernel"),
        ('[guests.a]\nimage = "d"\nelf = "e"', "guests.a: image and elf do not go together"),
        (GUEST + 'memry = "3M"', "s.toml: guests.a: no key 'memry': did you mean 'memory'?"),
        (GUEST + 'disks = "x"', "s.toml: guests.a: disks: a list of strings is expected"),
        (GUEST + 'policy = {"cpu.wight" = 2}', "guests.a: policy: cpu: no knob 'cpu.wight'"),
        (GUEST + 'policy = {"cpu.max" = "1"}', "guests.a: policy: cpu.max: the quota must be"),
        (STEP, "s.toml: step 1: it does nothing: give one of run, expect"),
        (STEP + 'rum = ["x"]', "s.toml: step 1: no key 'rum': did you mean 'run'?"),
        (STEP + "run = []", "s.toml: step 1: run: a command has at least one word"),
        (STEP + 'run = "ls"', "s.toml: step 1: run: a list of strings is expected, not 'ls'"),
        (STEP + 'run = ["x"]\nsend = "y"', "s.toml: step 1: run and send do not go together"),
        (STEP + 'expect = "x"\nstatus = 1', "s.toml: step 1: status goes with run"),
        (STEP + 'expect = "x"\nshow = true', "s.toml: step 1: show goes with run"),
        (STEP + 'expect = ""', "s.toml: step 1: expect: a text that is not empty is expected"),
        (STEP + 'at = "soon"\nexpect = "x"', "s.toml: step 1: at: 'soon' is not a time"),
        (STEP + 'stop = "b"', "s.toml: step 1: stop names 'b' and guest 'a'"),
        (STEP + 'start = "a"\n[[steps]]\nstart = "a"', "s.toml: step 2: guest 'a' runs already"),
        (
            STEP + 'expect = "x"\n[[steps]]\nstart = "a"',
            "s.toml: step 1: guest 'a' does not run: start it before",
        ),
        (
            STEP + 'stop = "a"\n[[steps]]\nguest = "a"\nexpect = "x"',
            "s.toml: step 2: guest 'a' does not run",
        ),
        (GUEST + '[[steps]]\nexpect = "x"', "step 1: guest is missing: say which one is to expect"),
        (
            GUEST + '[[steps]]\nguest = "aa"\nexpect = "x"',
            "step 1: no guest 'aa': did you mean 'a'?",
        ),
        ("steps = 3\n" + GUEST, "s.toml: steps: a list of tables is expected, not 3"),
    ],
)
def test_what_is_wrong_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_scenario(text, "s.toml")
    assert says in str(caught.value)
    assert str(caught.value).startswith("s.toml: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.toml: No such file"):
        load_scenario(tmp_path / "none.toml")
    wrong = tmp_path / "latin.toml"
    wrong.write_bytes(b'[guests.a]\nimage = "\xe9"\n')
    with pytest.raises(ConfigError, match=r"latin.toml: is not UTF-8 text"):
        load_scenario(wrong)


def test_networks_and_links() -> None:
    scenario = parse_scenario(
        """
        [networks.lan]
        latency = "5ms"
        bandwidth = "100M"
        allow = ["*.debian.org:80"]
        [networks.lan.links.a]
        loss = 0.5
        reorder_within = "2ms"
        queue = "64K"
        vlan = 7
        rules = ["deny in tcp port 25"]
        [networks.back]
        gateway = false
        [guests.a]
        image = "demo"
        net = ["lan", "back,mtu=9000"]
        [[steps]]
        guest = "a"
        network = "back"
        link = {up = false, latency = "3ms"}
        """
    )
    lan, back = scenario.networks["lan"], scenario.networks["back"]
    cable = lan.cable("a")
    assert (lan.shape.latency_ns, lan.shape.bandwidth) == (5 * MS, 100_000_000)
    assert (cable.shape.latency_ns, cable.shape.loss) == (5 * MS, 0.5)
    assert (cable.shape.reorder_ns, cable.shape.queue_bytes) == (2 * MS, 65536)
    assert (cable.vlan, len(cable.rules)) == (7, 1)
    assert lan.cable("b").shape == lan.shape
    assert lan.outside.may_resolve("ftp.debian.org")
    assert not back.gateway
    assert scenario.guests["a"].settings["nets"] == ("lan", "back,mtu=9000")
    (step,) = scenario.steps
    assert step.link == {"up": False, "latency_ns": 3 * MS}
    assert step.network == "back"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[networks.lan]\nlatncy = '1ms'\n" + GUEST, "did you mean 'latency'"),
        ("[networks.lan]\nlatency = 5\n" + GUEST, "networks.lan: latency"),
        ("[networks.lan]\nloss = 2\n" + GUEST, "loss must be 0 to 1"),
        ("[networks.lan]\nsubnet = '10.0.0.0/30'\n" + GUEST, "/28"),
        ("[networks.lan]\nlinks.a = {vlan = 5000}\n" + GUEST, "VLANs are 1 to 4094"),
        ("[networks.lan]\nlinks.a = {rules = ['x']}\n" + GUEST, "allow or deny"),
        ("[networks.'a b']\n" + GUEST, "network's name"),
        (GUEST + "net = ['wan']\n", "no network 'wan'"),
        (STEP + "link = {up = 1}\n", "true or false"),
        ("[networks.lan]\nlinks.zz = {loss = 0.1}\n" + GUEST, "links.zz: no guest or backend"),
        (STEP + "link = {loss = 2}\n", "step 1: link: loss must be 0 to 1"),
        (STEP + "link = {up = true}\nnetwork = 'x'\n", "no network 'x'"),
        (STEP + "send = 'x'\nnetwork = 'lan'\n", "network goes with link"),
    ],
)
def test_what_is_wrong_about_networks_is_named(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        parse_scenario(text, "file.toml")
