"""What is run in a guest: a shell that is PID 1 does it, between two lines on the console.

No agent and no init takes part, so the same files and the same command line serve QEMU. What is
prepared before the first line does not count.
"""

from __future__ import annotations

from typing import Final

import attrs

BEGIN: Final = "BEGIN42"
END: Final = "END42"
# The command line is on the console too: the lines are put together by the shell.
_SAY: Final = {BEGIN: "echo BEGIN$((6*7))", END: "echo END$((6*7))"}
MAX_COMMAND_LINE: Final = 1024
"""COMMAND_LINE_SIZE of Linux for RISC-V."""


@attrs.frozen
class Work:
    """``command`` is measured, after ``prepare``; both are the shell's, without double quotes.

    The target of issue 4 is that ours takes at most 1 / ``target`` of QEMU's CPU time.
    """

    name: str
    image: str
    command: str
    target: float
    prepare: str = ":"
    expected: str = ""  # what the console says in between

    def append(self) -> str:
        """What goes behind the image's own command line."""
        first = "init" if self.image == "debian-root" else "rdinit"
        script = "; ".join(
            (
                "busybox mkdir -p /proc /tmp",
                "busybox mount -t proc proc /proc",
                "busybox mount -t tmpfs tmpfs /tmp",
                "cd /tmp",
                self.prepare,
                _SAY[BEGIN],
                self.command,
                _SAY[END],
                "busybox poweroff -f",
            )
        )
        return f'quiet {first}=/bin/sh -- -c "{script}"'


_FILE: Final = (
    "while cat /usr/bin/python3.14 /bin/bash; do :; done 2>/dev/null | head -c 33554432 > f"
)
_ROWS: Final = (
    "(echo 'create table t(a integer primary key, b text, c real); begin;'; busybox seq 20000 | "
    "busybox sed 's/.*/insert into t values(&,char(114,111,119,32)||&,&.5);/'; "
    "echo 'commit; select count(*), sum(a), max(b) from t;') > s"
)

WORKS: Final = (
    Work(
        "fork",
        "linux",
        "i=0; while [ $i -lt 300 ]; do /bin/busybox true; i=$((i+1)); done",
        2.0,
    ),
    Work("sha256sum", "debian-root", "sha256sum < f", 1.0, _FILE),
    Work("gzip", "debian-root", "gzip -c < f | busybox wc -c", 1.0, _FILE),
    Work("sqlite3", "debian-root", "sqlite3 d < s", 1.0, _ROWS, "200010000"),
    Work(
        "python3",
        "debian-root",
        "for i in 1 2 3; do python3 -c 'print(sum(i * i % 7 for i in range(200000)))'; done",
        1.0,
    ),
    Work("boot", "debian", ":", 1.25),
)
