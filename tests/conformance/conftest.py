"""Each test builds a program and runs it on our machine and on every oracle that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from tests.conformance import machines
from tests.conformance.program import RAM, Program, Run

ORACLES = {"spike": machines.spike, "qemu": machines.qemu}


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that names an oracle's own deviation."""
    config.addinivalue_line(
        "markers", "deviates(machine, reason): this oracle does otherwise, and may"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per machine; the oracles' are marked so."""
    if "run_elf" in metafunc.fixturenames:
        parameters = [
            pytest.param("asyncvmm"),
            *(pytest.param(name, marks=pytest.mark.oracle) for name in ORACLES),
        ]
        metafunc.parametrize("run_elf", parameters, indirect=True)


@pytest.fixture
def run_elf(request: pytest.FixtureRequest) -> machines.RunElf:
    """The machine of this test; skipped when an oracle is not installed or is known to deviate."""
    name: str = request.param
    for mark in request.node.iter_markers("deviates"):
        if mark.args[0] == name:
            pytest.skip(f"{name}: {mark.args[1]}")
    if name == "asyncvmm":
        return machines.asyncvmm()
    runner = ORACLES[name]()
    if runner is None:
        pytest.skip(f"{name} is not installed")
    return runner


@pytest.fixture
def run(run_elf: machines.RunElf, tmp_path: Path) -> Run:
    """Assemble and run a program, and fail with the words of its failing check."""
    made = 0

    def execute(program: Program) -> None:
        nonlocal made
        made += 1
        elf = tmp_path / f"{made}.elf"
        elf.write_bytes(to_elf(assemble(program.source(), RAM)))
        try:
            code, console = run_elf(elf, program.harts)
        except TimeoutError as error:
            pytest.fail(f"{error}; {elf}", pytrace=False)
        if code == 0:
            return
        number = code & 127
        about = program.checks[number - 1] if 0 < number <= len(program.checks) else "the start"
        if code >= 128:
            values = console.decode(errors="replace").split()[:3]
            words = ("cause", "epc", "tval")
            seen = " ".join(f"{a}={b}" for a, b in zip(words, values, strict=False))
            pytest.fail(
                f"unexpected trap after check {number} ({about}): {seen}; {elf}", pytrace=False
            )
        pytest.fail(f"check {number} failed: {about}; {elf}", pytrace=False)

    return execute
