"""The benchmark's arithmetic and its guests' own instructions, without timing anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.testing import bench, bench_build
from asyncvmm.testing.bench import Machine, Run, format_table, measure, parse_report

MIX = bench_build.kernel_named("mix")
LINE = b"bench mix checksum=00000000000000%02x kernel=90 total=%d\r\n"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Makes `build` name the ELF instead of building it; lists what was asked for."""
    asked: list[tuple[str, str]] = []

    def build(kernel: bench_build.Kernel, paging: str = "bare", **_: object) -> Path:
        asked.append((kernel.name, paging))
        return Path(f"{kernel.name}-{paging}.elf")

    monkeypatch.setattr(bench, "build", build)
    return asked


def fake(
    seconds: list[float], instructions: int | None, checksum: int = 1
) -> Callable[[Path], Run]:
    """A machine that takes these times in turn, for the empty guest too."""
    times = iter(seconds)
    return lambda elf: Run(instructions, next(times), LINE % (checksum, 2_000_000))


def test_report_is_found_among_other_output() -> None:
    report = parse_report(b"booting\n" + LINE % (0xAB, 123) + b"bye")
    assert report == bench.Report("mix", "00000000000000ab", 90, 123)


def test_no_report_shows_what_was_there() -> None:
    with pytest.raises(BackendError, match="bench trap cause=2"):
        parse_report(b"bench trap cause=2")


def test_mips_are_medians_less_the_start(no_compiler: list[tuple[str, str]]) -> None:
    machines = [
        Machine("ours", fake([0.5, 9.0, 0.25], 2_000_000)),
        Machine("other", fake([0.1, 0.1, 7.0, 1.1, 0.6, 3.0], None), process=True),
    ]
    [row] = measure(machines, kernels=[MIX], pagings=["bare"], runs=3)
    assert row.mips == pytest.approx({"ours": 4.0, "other": 2.0})
    assert no_compiler == [("empty", "bare"), ("mix", "bare")]
    assert "2.000" in format_table([row], ours="ours", reference="other").splitlines()[1]


def test_a_run_as_short_as_the_start_has_no_speed(no_compiler: list[tuple[str, str]]) -> None:
    machine = Machine("a", fake([0.1, 0.1, 0.1, 0.11], 5), process=True)
    [row] = measure([machine], kernels=[MIX], pagings=["bare"], runs=1)
    assert math.isnan(row.mips["a"])


def test_disagreement_is_an_error(no_compiler: list[tuple[str, str]]) -> None:
    machines = [Machine("a", fake([1.0], 1)), Machine("b", fake([1.0], 1, checksum=2))]
    with pytest.raises(BackendError, match=r"different checksums: a: 0+1, b: 0+2"):
        list(measure(machines, kernels=[MIX], pagings=["bare"], runs=1))


def test_somebody_must_count(no_compiler: list[tuple[str, str]]) -> None:
    with pytest.raises(BackendError, match="counts instructions"):
        list(measure([Machine("a", fake([1.0], None))], kernels=[MIX], pagings=["bare"], runs=1))


def test_unknown_kernel_names_the_known() -> None:
    with pytest.raises(ConfigError, match="no benchmark 'nothing'; there are mix, "):
        bench_build.kernel_named("nothing")


def test_every_kernel_has_its_source() -> None:
    names = {kernel.name for kernel in (*bench_build.KERNELS, bench_build.EMPTY)}
    harness = {"main"}
    assert {path.stem for path in bench_build.SOURCES.glob("*.c")} == names | harness


@pytest.fixture(scope="session")
def compiler() -> bench_build.Compiler:
    try:
        return bench_build.find_compiler()
    except ConfigError as error:
        pytest.skip(str(error))


def test_build_is_cached_and_keyed(tmp_path: Path, compiler: bench_build.Compiler) -> None:
    first = bench_build.build(MIX, rounds=1, compiler=compiler, cache=tmp_path)
    made = first.stat().st_mtime_ns
    again = bench_build.build(MIX, rounds=1, compiler=compiler, cache=tmp_path)
    other = bench_build.build(MIX, "sv39", rounds=1, compiler=compiler, cache=tmp_path)
    assert again == first and first.stat().st_mtime_ns == made
    assert other != first
    assert sorted(tmp_path.iterdir()) == sorted([first, other])


def test_a_compiler_error_is_shown(tmp_path: Path, compiler: bench_build.Compiler) -> None:
    broken = bench_build.Compiler((*compiler.command, "--no-such-option"), compiler.version)
    with pytest.raises(BackendError, match="no-such-option"):
        bench_build.build(MIX, rounds=1, compiler=broken, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.oracle
@pytest.mark.parametrize("kernel", bench_build.KERNELS, ids=lambda kernel: kernel.name)
def test_qemu_gives_one_checksum_with_and_without_paging(
    kernel: bench_build.Kernel, tmp_path: Path, compiler: bench_build.Compiler
) -> None:
    qemu = bench.qemu_machine(icount=True)
    if qemu is None:
        pytest.skip(f"{bench.QEMU} is not installed")
    reports = [
        parse_report(
            qemu.run(
                bench_build.build(kernel, paging, rounds=1, compiler=compiler, cache=tmp_path)
            ).console
        )
        for paging in bench_build.PAGINGS
    ]
    assert {report.kernel for report in reports} == {kernel.name}
    assert len({report.checksum for report in reports}) == 1
    assert abs(reports[0].measured - reports[1].measured) <= 1
