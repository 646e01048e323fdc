"""Trust groups on a host: equal pages are kept once, and no guest can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncvmm.api.images import find_image, image_config
from asyncvmm.hypervisor import AdmissionError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.testing import assemble, to_elf

MS = 1_000_000
MIPS = 20
MIB = 1 << 20
PAGE = 4096
FILLED = 256  # pages

# Writes a page every 20,000 steps, the same ones in every guest, then counts for ever in one of its own.
FILL = f"""
_start:
    li   t0, 0x80100000
    li   t1, {0x80100000 + FILLED * PAGE}
    li   t2, 4096
1:  sd   t0, 0(t0)
    sd   t1, 2040(t0)
    li   t3, 10000
2:  addi t3, t3, -1
    bnez t3, 2b
    add  t0, t0, t2
    bltu t0, t1, 1b
    li   t0, 0x80080000
3:  addi s1, s1, 1
    sd   s1, 0(t0)
    j    3b
"""


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    path = tmp_path / "fill"
    path.write_bytes(to_elf(assemble(FILL, 0x80000000)))
    return path


def config(elf: Path, name: str, group: str | None, **options: Any) -> GuestConfig:
    return GuestConfig(name=name, elf=elf, memory="8M", trust_group=group, **options)


async def start(host: Host, elf: Path, *guests: tuple[str, str | None]) -> list[Guest]:
    return [await host.start(config(elf, name, group)) for name, group in guests]


async def test_guests_of_a_group_share_and_no_digest_tells(elf: Path) -> None:
    digests = []
    for groups in ((None, None, None), ("team", "team", "rivals")):
        async with open_host(cpus=4, mips=MIPS, paused=True) as host:
            guests = await start(host, elf, *zip("abc", groups, strict=True))
            await host.run_until(400 * MS)
            digests.append([guest.machine.digest() for guest in guests])
            a, b, c = (guest.usage().memory for guest in guests)
            assert [usage.charged_bytes for usage in (a, b, c)] == [a.charged_bytes] * 3
            if groups[0] is None:
                assert a.shared_bytes == a.saved_bytes == 0
                continue
            assert a.shared_bytes >= (FILLED - 10) * PAGE
            assert a.private_bytes < 12 * PAGE
            assert a.saved_bytes == b.saved_bytes >= (FILLED - 10) // 2 * PAGE
            assert c.saved_bytes == 0  # nobody else is in its group
            assert c.private_bytes > 200 * PAGE
    assert digests[0] == digests[1]


async def test_a_group_ends_with_its_last_guest(elf: Path) -> None:
    async with open_host(cpus=4, mips=MIPS, paused=True) as host:
        sharing = host._conductor.sharing
        a, b = await start(host, elf, ("a", "team"), ("b", "team"))
        await host.run_until(400 * MS)
        before = sharing.usage("team")
        assert before is not None
        assert before.references > before.kept_pages > FILLED - 10
        digest = a.machine.digest()
        await a.aclose()
        after = sharing.usage("team")
        assert after is not None
        assert after.references == b.usage().memory.shared_bytes // PAGE
        await host.run_until(410 * MS)
        assert a.machine.digest() == digest  # it can still be looked at
        assert b.usage().memory.saved_bytes == 0
        await b.aclose()
        assert sharing.usage("team") is None


async def test_a_guest_that_is_refused_leaves_nothing_in_its_group(elf: Path) -> None:
    async with open_host(cpus=1, mips=MIPS, memory="12M", paused=True) as host:
        sharing = host._conductor.sharing
        for _ in range(2):
            with pytest.raises(AdmissionError):
                await host.start(config(elf, "big", "team", policy={"cpu.reserve": 2000}))
        assert sharing.usage("team") is None
        await host.start(config(elf, "first", "team"))
        before = sharing.usage("team")
        with pytest.raises(AdmissionError):
            await host.start(config(elf, "second", "team"))
        after = sharing.usage("team")
        assert before is not None
        assert after is not None
        assert (after.kept_pages, after.references) == (before.kept_pages, before.references)
        assert after.merged_pages > before.merged_pages  # it had been loaded


async def test_more_guests_fit_when_they_share(elf: Path) -> None:
    """1 MiB each, four of them: 2 MiB hold them when three quarters are kept once."""
    ended = []
    for group in (None, "team"):
        async with open_host(cpus=4, mips=MIPS, memory="2M", overcommit=True, paused=True) as host:
            guests = await start(host, elf, *((name, group) for name in "abcd"))
            await host.run_until(400 * MS)
            ended.append([guest.name for guest in guests if guest.exit is not None])
    assert len(ended[0]) >= 1
    assert ended[1] == []


async def test_memory_max_counts_shared_pages_as_ones_own(elf: Path) -> None:
    ends = []
    for group in (None, "team"):
        async with open_host(cpus=4, mips=MIPS, paused=True) as host:
            await start(host, elf, ("neighbour", group))
            guest = await host.start(config(elf, "a", group, policy={"memory.max": "512K"}))
            await host.run_until(400 * MS)
            assert guest.exit is not None
            assert guest.exit.reason == "memory"
            ends.append((guest.machine.timeline.now_ns, guest.machine.digest()))
            assert list(host.guests) == ["neighbour"]
    assert ends[0] == ends[1]


@pytest.mark.guest
async def test_linux_guests_share_most_of_their_memory() -> None:
    image = find_image("linux")
    if not image.is_present(ImageCache()):
        pytest.skip("the image linux is not pulled")
    digests = []
    for group in (None, "team"):
        async with open_host(cpus=4) as host:
            guests = [
                await host.start(
                    image_config(image, commands=True, name=f"g{number}", trust_group=group)
                )
                for number in range(4)
            ]
            for guest in guests:
                done = await guest.run(["uname", "-s"], check=True)
                assert done.stdout == b"Linux\n"
            await host.run_until(2000 * MS)
            digests.append([guest.machine.digest() for guest in guests])
            for guest in guests:
                used = guest.usage().memory
                assert group is None or used.saved_bytes > used.charged_bytes * 0.6
    assert digests[0] == digests[1]
