"""Scenarios of demo guests: `up`, `verify`, and what they say when something is not so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from asyncvmm.api import verify as verify_module
from asyncvmm.api.scenarios import ScenarioResult, run_scenario
from asyncvmm.api.verify import verify_scenario
from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS
from asyncvmm.cli import main
from asyncvmm.cli.up import LiveTable
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.runtime.scenario import Scenario, Step, parse_scenario
from asyncvmm_plugins.demo_image.image import DemoImage

TWO_SHELLS = Path(__file__).parents[2] / "specs" / "scenarios" / "two-shells.toml"
PROMPT = 'expect = "demo> "\n'


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    cache = ImageCache(tmp_path_factory.mktemp("cache"))
    DemoImage().pull(cache, SilentProgress())
    return cache


@pytest.fixture(autouse=True)
def _use_cache(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCVMM_CACHE", str(cache.root))


def scenario(steps: str, *, host: str = "cpus = 1\nmips = 50\n") -> Scenario:
    guests = "".join(f'[guests.{name}]\nimage = "demo"\nmemory = "8M"\n' for name in "ab")
    return parse_scenario(f"[host]\n{host}{guests}{steps}")


def step(guest: str, rest: str) -> str:
    return f'[[steps]]\nguest = "{guest}"\n{rest}\n'


def test_up_reports_two_guests_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(TWO_SHELLS), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] and document["failed_step"] is None
    assert document["virtual_ns"] == 500 * MS
    heavy, light = (document["guests"][name] for name in ("heavy", "light"))
    assert heavy["exit"] == {"reason": "closed", "code": 0, "detail": ""}
    assert (light["state"], light["exit"]) == ("alive", None)
    assert heavy["digest"] != light["digest"]
    assert heavy["steal"] > 0 and light["steal"] > 0
    assert abs(light["cpu"]["received_steps"] - light["cpu"]["entitled_steps"]) <= 50_000
    outcomes = [(one["step"], one["outcome"]) for one in document["steps"]]
    assert outcomes == [(number, "ok") for number in range(1, 10)]
    by_number = {one["step"]: one for one in document["steps"]}
    # Twice the weight is done first; four times the weight, too.
    assert by_number[3]["ended_ns"] < by_number[4]["ended_ns"]
    assert by_number[7]["ended_ns"] < by_number[6]["ended_ns"]
    assert by_number[8]["ended_ns"] == 500 * MS
    admitted = [one["guest"] for one in document["events"] if one["kind"] == "admitted"]
    assert set(admitted) == {"heavy", "light"}


def test_up_prints_a_table_and_a_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", str(TWO_SHELLS)]) == 0
    said = capsys.readouterr()
    head, heavy, light, time, _, *steps = said.out.splitlines()
    assert head.split()[:4] == ["GUEST", "STATE", "ENTITLED", "RECEIVED"]
    assert heavy.split()[:2] == ["heavy", "closed"] and light.split()[:2] == ["light", "alive"]
    assert time == "virtual time 0.500000 s"
    assert len(steps) == 9 and all(line.startswith("ok ") for line in steps)
    assert said.err.count("asyncvmm: ok ") == 9


def test_verify_finds_two_runs_equal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(TWO_SHELLS)]) == 0
    heavy, light, end = capsys.readouterr().out.splitlines()
    assert heavy.startswith("equal    heavy  ") and light.startswith("equal    light  ")
    assert end == "equal after 0.500000000 s of virtual time"


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (step("a", 'expect = "never"\nwithin = "2s"'), "not done within 2 s of virtual time"),
        (step("a", 'send = "poweroff\\r"\nexpect = "never"'), "the guest ended before it said"),
        (step("a", 'run = ["true"]'), "runs no commands"),
        (step("a", 'policy = {"cpu.reserve" = 1001}'), "cpu.reserve"),
    ],
)
def test_a_step_that_fails_is_named(
    steps: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.toml"
    file.write_text('[guests.a]\nimage = "demo"\n' + step("a", PROMPT) + steps + step("a", PROMPT))
    no_agent = "run =" in steps
    assert main(["up", str(file)]) == (2 if no_agent else 1)
    said = capsys.readouterr()
    assert says in said.err
    if not no_agent:
        assert "asyncvmm: step 2 (a: " in said.err
        outcomes = [line.split()[0] for line in said.out.splitlines()[-3:]]
        assert outcomes == ["ok", "failed", "skipped"]


def test_wrong_input_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.toml"
    for text, says in (
        ('[guests.a]\nimage = "dem"\n', "s.toml: guests.a: no image 'dem'"),
        ('[guests.a]\nimage = "demo"\nharts = 99\n', "s.toml: guests.a: harts must be"),
        (
            '[networks.lan]\nbackends.x = "nope"\n[guests.a]\nimage = "demo"\n',
            "network lan: backend x: no network backend 'nope'",
        ),
        ('[host]\ncpus = 0\n[guests.a]\nimage = "demo"\n', "s.toml: host: cpus must be"),
        ('[host]\nmemory = "4M"\n[guests.a]\nimage = "demo"\n', "s.toml: guests.a: guest 'a'"),
    ):
        file.write_text(text)
        assert main(["up", str(file)]) == 2
        assert says in capsys.readouterr().err


async def test_steps_of_one_guest_keep_their_order_in_the_background() -> None:
    steps = [
        step("a", 'send = "memtest 16\\r"\nexpect = ": ok"\nbackground = true'),
        step("a", 'send = "echo done\\r"\nexpect = "\\ndone"\nbackground = true'),
        step("b", PROMPT),
    ]
    result = await run_scenario(scenario("".join(steps)))
    assert result.ok
    first, second, other = result.steps
    assert second.began_ns == first.ended_ns > other.ended_ns
    assert first.began_ns == other.began_ns == 0


async def test_a_guest_that_is_started_later_begins_there() -> None:
    steps = step("a", PROMPT) + '[[steps]]\nat = "30ms"\nstart = "b"\n' + step("b", PROMPT)
    result = await run_scenario(scenario(steps))
    assert result.ok and result.steps[1].began_ns == 30 * MS
    assert result.guests["b"].stats.virtual_ns == result.end_ns - 30 * MS


async def test_verify_finds_the_quantum_in_which_runs_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run gets a key stroke more, at 123 ms: equal until then."""
    key = Step(99, guest="b", at_ns=123 * MS, send="x", background=True)
    plain = scenario(step("b", PROMPT) + '[[steps]]\nuntil = "400ms"\n')
    spoiled = attrs.evolve(plain, steps=(plain.steps[0], key, *plain.steps[1:]))

    async def run(asked: Scenario, **options: Any) -> ScenarioResult:
        return await run_scenario(spoiled if options["probe"].pause_ns else asked, **options)

    monkeypatch.setattr(verify_module, "run_scenario", run)
    verdict = await verify_scenario(plain)
    assert not verdict.equal and verdict.differing == ["b"]
    assert verdict.interval_ns == (123 * MS, 124 * MS)


async def test_verify_refuses_disks_that_the_first_run_would_change(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(bytes(4096))
    text = '[guests.a]\nimage = "demo"\ndisks = ["disk.img"]\n' + step("a", PROMPT)
    with pytest.raises(ConfigError, match="add ',snapshot' or ',readonly'"):
        await verify_scenario(parse_scenario(text, tmp_path / "s.toml"))
    text = text.replace("disk.img", "disk.img,readonly")
    assert (await verify_scenario(parse_scenario(text, tmp_path / "s.toml"))).equal


class Drawn(LiveTable):
    """Draws at every step's beginning instead of by the wall clock."""

    def step_began(self, step: Step) -> None:
        """See ScenarioObserver."""
        super().step_began(step)
        self.draw()


async def test_the_live_table_shows_what_happened_since_it_was_drawn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    memtest = 'send = "memtest 64\\r"\nexpect = ": ok"\n'
    steps = [
        step("a", PROMPT),
        step("b", PROMPT),
        step("a", memtest),
        '[[steps]]\nuntil = "100ms"\n[[steps]]\nuntil = "110ms"\n',
    ]
    result = await run_scenario(scenario("".join(steps)), Drawn())
    assert result.ok
    frames = capsys.readouterr().err.replace("\x1b[K", "").split("GUEST")
    assert frames[0] == "" and len(frames) == 6
    assert "a      running" in frames[1] and "step 1: a: expect 'demo> '" in frames[1]
    a, b, time, doing, rest = frames[5].splitlines()[1:]
    # Nobody did anything since the last frame, at 100 ms.
    assert a.split()[:5] == ["a", "idle", "0.0%", "0.0%", "0.0%"] == ["a", *b.split()[1:5]]
    assert (time, doing) == ("virtual time 0.100 s", "step 5: until 0.11 s")
    # The frame is taken away, cursor up and clear, before the step's line.
    assert rest.startswith("\x1b[5A\x1b[Jok      step 5")
