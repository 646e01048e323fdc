"""The interpreter against Spike and QEMU: the same ELF, the same memory at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.differential.campaign import probe_builder
from tools.differential.image import ImageBuilder
from tools.differential.oracles import available, run_interpreter, run_spike
from tools.differential.signature import MODES, QEMU_WRONG, Signature
from tools.differential.trap_probes import ACTIONS, RESULT, TrapBuilder

ORACLES = ("spike", "qemu")
EXPECTED_CAUSES = {
    "m": {2, 3, 5, 7, 11},
    "s": {2, 3, 5, 7, 9},
    "s39": {2, 3, 9, 13, 15},
    "s48": {2, 3, 9, 13, 15},
    "u39": {2, 3, 8, 13, 15},
    "u48": {2, 3, 8, 13, 15},
}


@pytest.mark.oracle
@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("mode", MODES)
def test_blocks(oracle: str, mode: str, tmp_path: Path) -> None:
    """Registers, flags and traps after each of 2,000 random blocks of twenty instructions."""
    run = available().get(oracle)
    if run is None:
        pytest.skip(f"{oracle} is not installed")
    avoid = QEMU_WRONG if oracle == "qemu" else frozenset[str]()
    image = ImageBuilder(7, avoid, mode).build(2000, 20)
    at = (image.elf, image.signature, image.signature_size, tmp_path)
    ours = Signature(image, run_interpreter(*at))
    assert ours.differences(Signature(image, run(*at)), ("interpreter", oracle)) == ""
    assert {cause for cause, _, _ in ours.traps} == EXPECTED_CAUSES[mode]
    assert any(any(record) for record in ours.records)


@pytest.mark.oracle
@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("seed", [1, 2])
def test_translation_and_protection(oracle: str, seed: int, tmp_path: Path) -> None:
    """The outcome of each of 8,000 accesses through random page tables and PMP settings."""
    run = available().get(oracle)
    if run is None:
        pytest.skip(f"{oracle} is not installed")
    image = probe_builder(oracle, seed).build(8000)
    at = (image.elf, image.signature, image.signature_size, tmp_path)
    ours = run_interpreter(*at)
    assert image.differences(ours, run(*at), ("interpreter", oracle)) == []
    causes = {int.from_bytes(ours[n : n + 8], "little") for n in range(0, len(ours), 64)}
    assert causes >= {1, 2, 5, 7, 8, 9, 11, 12, 13, 15, 0xFFFFFFFFFFFFFFFF}


@pytest.mark.oracle
@pytest.mark.parametrize("seed", [1, 2])
def test_traps(seed: int, tmp_path: Path) -> None:
    """Delegation, interrupts, vectors, trap returns and CSR permissions: 16,000 times, on Spike."""
    if "spike" not in available():
        pytest.skip("spike is not installed")
    image = TrapBuilder(seed).build(16000)
    at = (image.elf, image.signature, image.signature_size, tmp_path)
    ours = run_interpreter(*at)
    assert image.differences(ours, run_spike(*at), ("interpreter", "spike")) == []
    assert {probe.action for probe in image.probes} == set(range(len(ACTIONS)))
    results = list(RESULT.iter_unpack(ours))
    assert {result[1] for result in results} >= {2, 3, 8, 9, 11, *(1 << 63 | n for n in (1, 5, 9))}
    assert {result[8] for result in results} >= {2, 3, 8, *(1 << 63 | n for n in (1, 5, 9))}
