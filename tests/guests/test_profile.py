"""A Linux guest's profile: functions of its kernel by name, and the guest none the wiser."""

from __future__ import annotations

import pytest

from asyncvmm.api import Profiler, SymbolTable, find_image, image_config, open_host
from asyncvmm.api.profile import Profile, read_kernel_symbols
from tests.guests.conftest import require

pytestmark = pytest.mark.guest
# The kernel fills and hashes; the shell counts.
COMMAND = [
    "sh",
    "-c",
    "head -c 3000000 /dev/zero | wc -c; n=0; while [ $n != 999 ]; do n=$((n+1)); done",
]


async def _run(period: int | None) -> tuple[str, Profile | None, SymbolTable]:
    """The guest's digest after the command, what was seen, and its kernel's symbols."""
    config = image_config(find_image("linux"), commands=True)
    async with open_host() as host:
        guest = await host.start(config)
        profiler = None if period is None else Profiler(guest.machine, period=period)
        await guest.wait_ready()
        if profiler is not None:
            profiler.resume()
        done = await guest.run(COMMAND, check=True)
        assert done.stdout == b"3000000\n"
        digest = guest.machine.digest()
        if profiler is None:
            return digest, None, SymbolTable()
        profiler.pause()
        symbols = SymbolTable(await read_kernel_symbols(guest))
        return digest, profiler.profile(), symbols


async def test_linux_s_functions_are_named_and_its_digest_is_the_same() -> None:
    require("linux")
    plain, _, _ = await _run(None)
    digest, profile, symbols = await _run(1009)
    assert digest == plain
    assert profile is not None and profile.count > 1000
    assert profile.count <= profile.steps // 1009 + 1
    modes = {row.name: row for row in profile.by_privilege()}
    assert set(modes) == {"user", "supervisor"}
    assert len(symbols) > 5000
    rows = profile.by_symbol(symbols)
    named = sum(row.samples for row in rows if not row.name.startswith("["))
    assert named > 0.99 * modes["supervisor"].samples
    assert {"__clear_user", "do_syscall_64", "handle_exception"} & {row.name for row in rows}
    users = sum(row.samples for row in rows if row.name.startswith("[user] 0x"))
    assert users == modes["user"].samples
