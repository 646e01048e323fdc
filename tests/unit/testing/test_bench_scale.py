"""``bench scale``: what it counts, on hosts of a few small guests."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.cli import bench as command
from asyncvmm.cli import bench_scale as scale_command
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.testing import assemble, bench_scale, to_elf
from asyncvmm.testing.bench_build import Kernel
from asyncvmm_plugins.demo_image.image import DemoImage

SPIN = "_start: addi s1, s1, 1\n j _start\n"


@pytest.fixture
def spin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that does not end, instead of the one that a compiler would have built."""
    path = tmp_path / "spin-sv39-0.elf"
    path.write_bytes(to_elf(assemble(SPIN, 0x80000000)))
    monkeypatch.setattr(bench_scale, "BUSY_STEPS", 3_000_000)
    monkeypatch.setattr(bench_scale, "WARM_STEPS", 1_000_000)
    monkeypatch.setattr(bench_scale, "OWN_NS", 5_000_000)
    return path


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoImage:
    cache = ImageCache(tmp_path / "cache")
    DemoImage().pull(cache, SilentProgress())
    monkeypatch.setenv("ASYNCVMM_CACHE", str(cache.root))
    return DemoImage()


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(list(words))


def test_busy_guests_against_one(spin: Path) -> None:
    cost = bench_scale.busy_cost(
        spin, guests=3, cpus=2, runs=2, engine="interpreter", plugins=create_plugin_manager()
    )
    assert (cost.workload, cost.guests, cost.cpus, cost.runs) == ("spin-sv39", 3, 2, 2)
    assert cost.one_ns > 0 and cost.many_ns > 0
    assert f"{cost.extra:+.1%}" in bench_scale.format_busy(cost)


def test_the_hosts_own_time_is_per_quantum(spin: Path) -> None:
    cost = bench_scale.own_cost(spin, guests=3, cpus=1, plugins=create_plugin_manager())
    assert cost.quantum_us > 0
    assert 0 < cost.quantum_steps <= 1_000_000  # of 1 ms at most


def test_idle_guests_take_their_wakeups_only(demo: DemoImage) -> None:
    cost = bench_scale.idle_cost(
        demo, guests=2, virtual_s=60, cpus=2, engine="interpreter", plugins=create_plugin_manager()
    )
    assert (cost.image, cost.guests, cost.virtual_s) == ("demo", 2, 60)
    assert cost.wakeups == 0 and cost.instructions == 0
    assert cost.resident_bytes > 0


def test_the_command_writes_what_it_says(
    spin: Path,
    demo: DemoImage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def build(kernel: Kernel, paging: str, rounds: int) -> Path:
        assert rounds > kernel.rounds
        return spin

    monkeypatch.setattr(scale_command, "build", build)
    monkeypatch.setattr(scale_command, "HOST_GUESTS", (1, 2))
    path = tmp_path / "scale.json"
    words = [
        "scale",
        "--busy",
        "2",
        "--idle",
        "2",
        "--image",
        "demo",
        "--hours",
        "0.01",
        "--engine",
        "interpreter",
        "--runs",
        "1",
    ]
    assert scale_command.run(parse(*words, "--json", str(path))) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["busy", "host", "host", "idle"]
    document = json.loads(path.read_text())
    assert [one["guests"] for one in document["host"]] == [1, 2]
    assert document["idle"]["virtual_s"] == 36.0


def test_scale_is_no_kernel(demo: DemoImage) -> None:
    with pytest.raises(ConfigError, match="name no other"):
        scale_command.run(parse("scale", "mix"))
    with pytest.raises(ConfigError, match="no image"):
        scale_command.run(parse("scale", "--part", "idle", "--image", "nonesuch"))


@pytest.mark.parametrize("words", [["--busy", "0"], ["--idle", "x"], ["--hours", "-1"]])
def test_bad_options_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse("scale", *words)
