"""``asyncvmm run --gdb`` and gdb itself: what it prints is what the guest is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.guests.conftest import require

PATIENCE_S = 120
SOURCES = Path(__file__).with_name("gdb_program")
GDB = shutil.which("gdb-multiarch")
COMPILER = shutil.which("riscv64-linux-gnu-gcc")
FLAGS = [
    *("-g", "-O1", "-march=rv64gc", "-mabi=lp64d", "-mcmodel=medany"),
    *("-nostdlib", "-static", "-ffreestanding", "-fno-pic", "-Wl,--build-id=none"),
]

pytestmark = pytest.mark.skipif(GDB is None, reason="gdb-multiarch is not installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("riscv64-linux-gnu-gcc is not installed")
    elf = tmp_path_factory.mktemp("gdb") / "program.elf"
    sources = [SOURCES / "main.c", SOURCES / "start.S"]
    subprocess.run(
        [COMPILER, *FLAGS, f"-Wl,-T,{SOURCES / 'link.ld'}", *sources, "-o", elf], check=True
    )
    return elf


@contextmanager
def guest(*words: str | Path) -> Iterator[str]:
    """A guest that waits for gdb; how gdb gets to it."""
    with serving("run", *words, "--gdb-wait") as port:
        yield port


@contextmanager
def serving(*words: str | Path) -> Iterator[str]:
    """A command that serves gdb; how gdb gets to it."""
    command = [sys.executable, "-m", "asyncvmm", *map(str, words), "--gdb", "0"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        said, found = "", None
        while found is None:
            line = process.stderr.readline()
            said += line
            assert line, said
            found = re.search(r"target remote (:\d+)", line)
        yield found[1]
    finally:
        process.kill()
        print("the guest's host said:", process.communicate()[1])


def gdb(port: str, commands: Sequence[str], program: Path | None = None) -> str:
    """What gdb prints for some commands after it has connected."""
    assert GDB is not None
    words = [GDB, "-nx", "-batch", "-ex", "set pagination off", "-ex", "set confirm off"]
    for command in (f"target remote {port}", *commands):
        words += ["-ex", command]
    if program is not None:
        words.append(str(program))
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, "LC_ALL": "C"}
    )
    print(done.stdout, done.stderr)
    assert "Remote" not in done.stderr and "rror" not in done.stderr
    return done.stdout + done.stderr


def marked(output: str) -> list[str]:
    """The lines that were echoed with ``printf "> ..."``."""
    return [line[2:] for line in output.splitlines() if line.startswith("> ")]


def show(*expressions: str) -> str:
    """A command that prints expressions in a line of its own."""
    return f'printf "> {" ".join(["%lx"] * len(expressions))}\\n", {", ".join(expressions)}'


def test_breakpoints_registers_memory_and_steps(program: Path) -> None:
    with guest(program) as port:
        output = gdb(
            port,
            [
                show("$pc", "$priv"),
                "break triangle",
                "continue",
                show("$a0", "$pc == &triangle", "n"),
                "backtrace 2",
                "x/2i $pc",
                "stepi",
                "stepi",
                show("$a4", "counter"),
                "delete",
                "finish",
                "next",
                show("table[0]", "counter", "$mstatus & 0x6000", "(long)$mhartid"),
                "set var counter = 99",
                "set var $t0 = 0xfeedfacecafe",
                show("counter", "$t0"),
                "hbreak done",
                "continue",
                'printf "> %g %lx\\n", ratio, table[0]',
                "info registers fcsr",
                "delete",
                "monitor info",
                "continue",
            ],
            program,
        )
    assert marked(output) == [
        "80000000 3",
        "5 1 5",
        "6 0",
        "f 5 6000 0",
        "63 feedfacecafe",
        "3 40",  # 15 + 21 + 28
    ]
    assert "#1  0x" in output and "in work (hart=" in output
    assert re.search(r"=> 0x\w+ <triangle>:\tblez\ta0", output), output
    assert "Value returned is $1 = 15" in output
    assert "Hardware assisted breakpoint 2" in output
    assert re.search(r"fcsr +0x0\b", output), output
    assert "hart 0: M-mode, runs, pc 0x8000" in output
    assert "[Inferior 1 (Remote target) exited normally]" in output


@pytest.mark.parametrize(
    ("command", "kind", "first"),
    [("watch", "watchpoint", 1), ("awatch", "access", 1), ("rwatch", "read", 0)],
)
def test_watchpoints(program: Path, command: str, kind: str, first: int) -> None:
    where = "counter" if first else "table[0]"
    with guest(program) as port:
        output = gdb(
            port,
            [f"{command} {where}", "continue", show(where), "continue", show(where), "kill"],
            program,
        )
    if command == "watch":
        assert "Old value = 0\nNew value = 1" in output and "Old value = 1\nNew value = 2" in output
    elif command == "awatch":
        assert "Old value = 0\nNew value = 1" in output
    else:
        assert "Value = 0" in output and "Value = 15" in output
    assert marked(output) == (["1", "2"] if first else ["0", "f"])
    assert kind in output


def test_a_local_watchpoint_by_address_and_a_condition(program: Path) -> None:
    with guest(program) as port:
        output = gdb(
            port,
            ["break triangle if n == 7", "continue", show("n", "table[0]"),
             "watch -l counter if counter == 6",
             "continue", show("counter"), "kill"],
            program,
        )  # fmt: skip
    assert marked(output) == ["7 24", "6"]


def test_harts_are_threads(program: Path) -> None:
    with guest(program, "--harts", "2") as port:
        output = gdb(
            port,
            [
                "info threads",
                "break other",
                "continue",
                show("$_thread", "hart", "$mhartid"),
                "delete",
                "thread 1",
                show("$_thread", "$mhartid"),
                "stepi",
                show("$_thread"),
                "thread 2",
                show("$_thread", "$mhartid", "$pc >= &other"),
                "kill",
            ],
            program,
        )
    assert re.search(r'1 +Thread 1 "hart0" \(M-mode, runs\)', output), output
    assert re.search(r'2 +Thread 2 "hart1" \(M-mode, runs\)', output), output
    assert 'Thread 2 "hart1" hit Breakpoint 1, other (hart=1)' in output
    lines = marked(output)
    assert lines == ["2 1 1", "1 0", "1", "2 1 1"]


def test_reverse_execution(program: Path) -> None:
    with guest(program) as port:
        output = gdb(
            port,
            [
                "break done",
                "continue",
                show("counter", "table[0]"),
                "delete",
                "watch counter",
                "reverse-continue",
                show("counter"),
                "reverse-continue",
                show("counter"),
                "delete",
                "break triangle",
                "reverse-continue",
                show("n", "table[0]"),
                "set $here = $pc",
                "stepi",
                "stepi",
                "reverse-stepi",
                "reverse-stepi",
                show("$pc == $here"),
                "reverse-continue",
                show("n", "table[0]"),
                "reverse-finish",
                show("$pc < &other && $pc > &work"),
                "delete",
                "reverse-continue",
                show("$pc"),
                "monitor goto now",
                "maintenance flush register-cache",
                show("counter", "table[0]"),
                "continue",
            ],
            program,
        )
    assert marked(output) == [
        "7 40", "6", "5", "7 24", "1", "6 f", "1", "80000000", "7 40",
    ]  # fmt: skip
    assert "Old value = 7\nNew value = 6" in output
    assert "No more reverse-execution history" in output
    assert "[Inferior 1 (Remote target) exited normally]" in output


def test_a_recorded_run_under_gdb(program: Path, tmp_path: Path) -> None:
    """What was run yesterday is looked at today: at an instant, and on from there."""
    journal = tmp_path / "run.journal"
    words = [sys.executable, "-m", "asyncvmm", "run", str(program), "--record", str(journal)]
    subprocess.run(words, check=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    with serving("replay", journal, "--at", "1ms") as port:
        output = gdb(
            port,
            [show("counter", "table[0]"), "break done", "continue", "monitor info", "kill"],
            program,
        )
    assert marked(output) == ["7 40"]
    assert re.search(r"Breakpoint 1, done \(\)", output), output


@pytest.fixture(scope="module")
def linux_symbols() -> dict[str, int]:
    """Where the kernel's functions are, as it says itself."""
    require("linux")
    words = [sys.executable, "-m", "asyncvmm", "run", "linux", "--", "cat", "/proc/kallsyms"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {name: int(address, 16) for address, _, name, *_ in lines}


def test_linux_with_two_harts(linux_symbols: dict[str, int]) -> None:
    """Breakpoints, registers, memory, threads and going back in a kernel's virtual memory."""
    start, call = linux_symbols["start_kernel"], linux_symbols["kernel_init"]
    with guest("linux", "--harts", "2") as port:
        output = gdb(
            port,
            [
                show("$pc", "$satp", "$priv"),
                f"hbreak *{start:#x}",
                "continue",
                show(
                    "$pc",
                    "(unsigned long)$satp >> 60",
                    "$priv",
                    f"*(unsigned int *){start:#x} != 0",
                ),
                "info threads",
                "stepi",
                "reverse-stepi",
                show("$pc"),
                "delete",
                f"hbreak *{linux_symbols['handle_exception']:#x}",
                "continue",
                show("$pc == $stvec", "$scause >> 63"),
                "delete",
                f"hbreak *{start:#x}",
                "reverse-continue",
                show("$pc"),
                "delete",
                f"hbreak *{call:#x}",
                "continue",
                show("$pc"),
                "kill",
            ],
        )
    lines = marked(output)
    assert lines[0] == "80200000 0 1"
    assert lines[1] == f"{start:x} 9 1 1"
    assert lines[2] == f"{start:x}"
    assert lines[3].startswith("1 ")
    assert lines[4] == f"{start:x}"
    assert lines[5] == f"{call:x}"
    assert re.search(r'1 +Thread 1 "hart0" \(S-mode, runs\)', output), output
    assert re.search(r'2 +Thread 2 "hart1" \(stopped\)', output), output
