"""Networks from the command line and from scenarios, with Debian's own servers and clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api.scenarios import run_scenario
from asyncvmm.api.verify import verify_scenario
from asyncvmm.runtime.scenario import load_scenario
from asyncvmm_plugins.debian_images import root_disk, small_linux
from tests.guests.conftest import Run, require_recipe

pytestmark = pytest.mark.guest

WEB = Path(__file__).parents[2] / "specs" / "scenarios" / "web.toml"


async def test_web_server_and_client() -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    result = await run_scenario(WEB)
    assert result.ok, result.failed
    assert "nginx on Debian" in result.steps[1].output
    assert "199 200 0" in result.steps[2].output


async def test_web_is_the_same_in_every_run() -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    verdict = await verify_scenario(load_scenario(WEB))
    assert verdict.equal


def test_a_guest_with_net_has_a_lease_and_a_capture(command_line: Run, tmp_path: Path) -> None:
    require_recipe("linux", small_linux.RECIPE)
    captures = [tmp_path / "1.pcapng", tmp_path / "2.pcapng"]
    for path in captures:
        done = command_line(
            "linux",
            *("--net", "lan", "--capture", str(path), "--"),
            *("sh", "-c", "ip addr show eth0; cat /etc/resolv.conf; ping -c 1 gateway"),
        )
        assert done.returncode == 0, done
        assert b"inet 10.0.2.10/24" in done.stdout
        assert b"nameserver 10.0.2.1" in done.stdout
        assert b"1 packets received" in done.stdout
    assert captures[0].read_bytes() == captures[1].read_bytes()
    assert len(captures[0].read_bytes()) > 1000


def test_outside_is_denied_unless_allowed(command_line: Run) -> None:
    require_recipe("linux", small_linux.RECIPE)
    done = command_line("linux", "--net", "lan", "--", "ping", "-c", "1", "example.org")
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--net", "wan"), b"no network 'wan'"),
        (("-p", "80"), b"HOSTPORT:GUESTPORT"),
        (("--allow", "a b"), b"allow"),
        (("--net", "lan,mac=1"), b"MAC address"),
        (("--capture", "/nowhere/x"), b"--capture /nowhere/x"),
    ],
)
def test_wrong_words_are_named(command_line: Run, words: tuple[str, ...], said: bytes) -> None:
    done = command_line("linux", *words, "--", "true")
    assert done.returncode == 2, done
    assert said in done.stderr
