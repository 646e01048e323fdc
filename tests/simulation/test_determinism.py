"""The same seed comes to the same digests in two processes that have nothing in common but the seed:
engines, PYTHONHASHSEED and load differ. ``python -m tests.simulation.seeded SEED`` repeats one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncvmm.api import find_image
from asyncvmm.plugin.images import ImageCache

SEEDS = range(1, 21)
LINUX_SEEDS = (1, 2)  # these boot Linux, where its image has been pulled
REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 600  # of a test that would otherwise hang


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[dict[int, Any], dict[int, Any]]]:
    """Results by seed, of an interpreted run beside a busy thread and of a translated one."""
    linux = len(LINUX_SEEDS) if find_image("linux").is_present(ImageCache()) else 0
    seeds = sorted(SEEDS, key=lambda seed: seed not in LINUX_SEEDS)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation.seeded", "--linux", str(linux), *words]
            + [str(seed) for seed in seeds],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
        )
        for hash_seed, words in (("1", ["--engine", "interpreter", "--busy"]), ("4711", []))
    ]
    found = []
    try:
        for process in processes:
            said, _ = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
            results = [json.loads(line) for line in said.splitlines()]
            found.append({result["seed"]: result for result in results})
    finally:
        for process in processes:
            process.kill()
            process.wait()
    yield found[0], found[1]


@pytest.mark.parametrize("seed", SEEDS)
def test_two_processes_come_to_the_same(
    both: tuple[dict[int, Any], dict[int, Any]], seed: int
) -> None:
    first, second = (results[seed] for results in both)
    assert len(first["digests"]) >= 2
    for key in first:
        assert first[key] == second[key], f"seed {seed}, {first['policy']}: {key}"


def test_seeds_differ(both: tuple[dict[int, Any], dict[int, Any]]) -> None:
    results = both[0].values()
    assert len({tuple(result["digests"].values()) for result in results}) == len(SEEDS)
    assert {result["policy"].split()[0] for result in results} == {
        "eevdf",
        "round-robin",
        "static-partition",
    }
    kinds = {event.split("kind='")[1].split("'")[0] for r in results for event in r["events"]}
    assert kinds >= {"admitted", "left", "changed", "throttled", "delayed"}
