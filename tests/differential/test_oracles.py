"""The interpreter against Spike and QEMU: the same ELF, the same memory at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.differential.campaign import probe_builder
from tools.differential.image import QEMU_WRONG, ImageBuilder, Signature
from tools.differential.oracles import available, run_interpreter

ORACLES = ("spike", "qemu")


@pytest.mark.oracle
@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("seed", [1, 2])
def test_blocks(oracle: str, seed: int, tmp_path: Path) -> None:
    """Registers, flags and traps after each of 4,000 random blocks of twenty instructions."""
    run = available().get(oracle)
    if run is None:
        pytest.skip(f"{oracle} is not installed")
    avoid = QEMU_WRONG if oracle == "qemu" else frozenset[str]()
    image = ImageBuilder(seed, avoid).build(4000, 20)
    at = (image.elf, image.signature, image.signature_size, tmp_path)
    ours = Signature(image, run_interpreter(*at))
    assert ours.differences(Signature(image, run(*at)), ("interpreter", oracle)) == ""
    assert {cause for cause, _, _ in ours.traps} == {2, 3, 5, 7, 11}
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
