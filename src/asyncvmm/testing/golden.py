"""pytest fixtures of booted guests: boot once, and every test gets a fork of its own in milliseconds.

    from asyncvmm.testing.golden import golden

    redis = golden("debian-root", setup=["redis-server --daemonize yes"], until="redis-cli ping")

    async def test_a_key(redis):
        assert (await redis.run(["redis-cli", "set", "a", "1"])).stdout == b"OK\\n"

The state is kept in memory for the session and on disk for the next one, by what it was made from: the
image's files, the configuration, ``setup`` and ``until``. Needs pytest and pytest-trio.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
import trio

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache, SilentProgress, default_cache_root
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.snapshots import Snapshot

VERSION: Final = 1
SHELL: Final = ("sh", "-c")
TRIES: Final = 200
SAID_BYTES: Final = 20_000  # of the console, in a failing test's report

_made: dict[str, Snapshot] = {}
_said: dict[str, list[_Said]] = {}


@attrs.frozen
class _Said:
    """A test's guest, and the files that tell of it, by what they are."""

    guest: Guest
    files: dict[str, Path]


@attrs.frozen
class Golden:
    """A named state of a guest: its configuration, and how it is reached."""

    config: GuestConfig
    setup: tuple[str, ...]
    until: str | None

    @property
    def key(self) -> str:
        """Names the state: another one when anything changes that it was made from."""
        paths: list[Path] = [
            value for value in attrs.asdict(self.config, recurse=False).values()
            if isinstance(value, Path)
        ]  # fmt: skip
        paths += [Path(disk.partition(",")[0]) for disk in self.config.disks]
        stamps = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in paths if p.exists()]
        values = [VERSION, str(self.config), self.setup, self.until, stamps]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]

    async def snapshot(self, folder: Path) -> Snapshot:
        """The state: from memory, from ``folder``, or by booting a guest."""
        key = self.key
        if key not in _made:
            _made[key] = await self._load_or_boot(folder / key)
        return _made[key]

    async def _load_or_boot(self, place: Path) -> Snapshot:
        if place.exists():
            try:
                return await trio.to_thread.run_sync(Snapshot.load, place)
            except ConfigError:
                shutil.rmtree(place, ignore_errors=True)  # damaged, or of another version
        async with open_host() as host:
            guest = await host.start(self.config)
            for command in self.setup:
                await guest.run([*SHELL, command], check=True)
            if self.until is not None:
                await self._wait(guest, self.until)
            made = await guest.snapshot()
        place.parent.mkdir(parents=True, exist_ok=True)
        await trio.to_thread.run_sync(made.save, place)
        return made

    async def _wait(self, guest: Guest, command: str) -> None:
        done = None
        for _ in range(TRIES):
            done = await guest.run([*SHELL, f"{command} || {{ sleep 0.1; false; }}"])
            if done.status == 0:
                return
        raise GuestError(f"golden: {command!r} still fails after {TRIES} tries: {done}")


def golden(
    image: str,
    *,
    setup: Sequence[str] = (),
    until: str | None = None,
    folder: Path | None = None,
    journal: bool = True,
    **changes: Any,
) -> Callable[..., AsyncIterator[Guest]]:
    """A fixture that gives each test a guest of ``image``, booted and set up, as a fork of its own.

    ``setup`` are shell commands that must succeed, ``until`` one that is repeated until it does.
    ``changes`` are GuestConfig's fields; disks of the image are opened with throw-away overlays.
    ``folder`` is where states are kept: by default in asyncvmm's cache.

    The report of a test that fails has the guest's console and log, the name of a capture of its
    networks, and the command that repeats the run; not the last without ``journal``.
    """

    @pytest.fixture
    async def fork(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> AsyncIterator[Guest]:
        state = Golden(_config(image, changes), tuple(setup), until)
        place = folder or default_cache_root() / "golden"
        snapshot = await state.snapshot(place)
        kept = tmp_path_factory.mktemp("golden")
        files = {"journal": kept / "run.journal"} if journal else {}
        async with open_host(journal=files.get("journal"), journal_digests=False) as host:
            guest = await host.start(snapshot)
            for name, network in host.networks.items():
                if network.cables:
                    files[f"capture of {name}"] = kept / f"{name}.pcapng"
                    network.capture(files[f"capture of {name}"].open("wb"))
            _said.setdefault(request.node.nodeid, []).append(_Said(guest, files))
            yield guest

    return fork


def _config(name: str, changes: dict[str, Any]) -> GuestConfig:
    image = find_image(name)
    cache = ImageCache()
    if not image.is_present(cache):
        image.pull(cache, SilentProgress())
    config = image_config(image, cache, commands=True, **changes)
    disks = tuple(
        disk if ",readonly" in disk or ",snapshot" in disk else f"{disk},snapshot"
        for disk in config.disks
    )
    return attrs.evolve(config, disks=disks)


# -- the pytest plugin: what guests said, in the report of a test that failed


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """See pytest."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        for one in _said.get(item.nodeid, []):
            guest = one.guest
            said = guest.console.unread[-SAID_BYTES:].decode(errors="replace")
            log = "\n".join(guest.log.lines)
            report.sections.append((f"console of guest {guest.name}", said))
            report.sections.append((f"log of guest {guest.name}", log))
            at = f"{guest.now_ns / 1e9:.9f} s of virtual time, digest {guest.machine.digest()}"
            report.sections.append((f"end of guest {guest.name}", at))
            for what, path in one.files.items():
                text = f"asyncvmm replay {path}" if what == "journal" else str(path)
                report.sections.append((f"{what} of guest {guest.name}", text))
    if report.when == "teardown":
        _said.pop(item.nodeid, None)
