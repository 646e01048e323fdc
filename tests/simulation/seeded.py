"""A whole host made from a seed: its policy, its guests, who comes and goes when, and what is typed.

    python -m tests.simulation.seeded --engine interpreter --busy --linux 2 1 2 3

prints one line of JSON per seed: every guest's digest, output and end, and the ledger.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from asyncvmm.api import find_image, image_config
from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from asyncvmm_plugins.demo_image.image import DemoImage
from tests.simulation.hostile import COMPUTATION, HOSTILE, MS, PING_PONG, Programs

LIFE_NS = 16 * MS
LINUX_NS = 300 * MS
CALM = {"computation": (COMPUTATION, 1), "ping-pong": (PING_PONG, 2)}
WORDS = ("help", "uptime", "memtest 4", "block 3", "echo x", "nonsense")


class Run:
    """One host of one seed."""

    def __init__(self, seed: int, engine: str, programs: Programs, demo: Path, linux: bool) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.engine = engine
        self.programs = programs
        self.demo = demo
        self.linux = linux
        self.guests: dict[str, Guest] = {}
        self.notes: list[str] = []
        self.journal: Path | None = None

    def knobs(self, policy: str) -> dict[str, Any]:
        """Knobs that the policy admits, most of the time."""
        rng = self.rng
        knobs: dict[str, Any] = {"cpu.weight": rng.choice((1, 50, 100, 300, 10_000))}
        if policy == "static-partition":
            knobs["cpu.reserve"] = rng.choice((60, 130, 250))
        elif rng.random() < 0.3:
            period = rng.choice((1000, 3000, 10_000))
            knobs["cpu.max"] = f"{period * rng.choice((1, 3, 7)) // 10} {period}"
        if rng.random() < 0.2:
            knobs["memory.max"] = "2M"
        if rng.random() < 0.3:
            knobs["io.max"] = f"riops={rng.choice((400, 20_000))}"
        return knobs

    def config(self, name: str, policy: str) -> GuestConfig:
        """A guest of any kind."""
        rng = self.rng
        options: dict[str, Any] = {
            "engine": self.engine, "policy": self.knobs(policy), "seed": rng.randrange(4),
        }  # fmt: skip
        kind = rng.choice((*HOSTILE, *CALM, *CALM, "demo", "demo"))
        if rng.random() < 0.4 or kind in ("demo", "disk-flood", "mmio-storm"):
            options["disks"] = (f"{self.programs.disk},readonly",)
        if kind == "demo":
            return GuestConfig(name=name, elf=self.demo, memory="8M", **options)
        source, harts = CALM[kind] if kind in CALM else (HOSTILE[kind], 1)
        elf = self.programs.elf(source, kind)
        return GuestConfig(name=name, elf=elf, memory="8M", harts=harts, **options)

    def linux_config(self, name: str, policy: str) -> GuestConfig:
        """A small Linux."""
        knobs: dict[str, Any] = {"cpu.weight": self.rng.choice((100, 300))}
        if policy == "static-partition":
            knobs["cpu.reserve"] = self.rng.choice((400, 500))
        return image_config(
            find_image("linux"),
            commands=True,
            name=name,
            memory="96M",
            engine=self.engine,
            devices=("virtio-rng",),
            policy=knobs,
        )

    async def start(self, host: Host, config: GuestConfig) -> None:
        """It may be refused: that is noted."""
        try:
            self.guests[config.name] = await host.start(config)
        except ConfigError as error:
            self.notes.append(f"{host.now_ns} {error}")

    async def converse(self, guest: Guest, words: list[str]) -> None:
        """Type, and wait for the answer before typing on."""
        try:
            for word in words:
                await guest.console.expect("demo> ")
                await guest.console.send_all(f"{word}\r".encode())
        except (GuestError, trio.BrokenResourceError) as error:
            self.notes.append(f"{guest.name} {type(error).__name__}")

    async def command(self, guest: Guest) -> None:
        """A command in a Linux guest, when it is up."""
        said = await guest.run(["sh", "-c", "cat /proc/uptime /proc/stat; ls -l / /dev"])
        self.notes.append(f"{guest.name} {hashlib.sha256(said.stdout).hexdigest()}")

    async def change(self, host: Host, policy: str) -> None:
        """Something that a user may do to a running host."""
        rng = self.rng
        living = sorted(host.guests)
        action = rng.choice(("join", "leave", "knobs", "nothing"))
        if action == "join":
            await self.start(host, self.config(f"late{host.now_ns}", policy))
        elif action == "leave" and len(living) > 1:
            await host.guests[rng.choice(living)].aclose()
        elif action == "knobs" and living:
            knobs = {key.replace(".", "_"): value for key, value in self.knobs(policy).items()}
            try:
                host.guests[rng.choice(living)].policy.update(**knobs)
            except ConfigError as error:
                self.notes.append(f"{host.now_ns} {error}")

    async def live(self) -> dict[str, Any]:
        """The whole run."""
        rng = self.rng
        policy = rng.choice(("eevdf", "eevdf", "round-robin", "static-partition"))
        cpus = rng.choice((1, 1, 2, 3))
        mips = 1000 if self.linux else rng.choice((7, 20, 33))
        life_ns = LINUX_NS if self.linux else LIFE_NS
        async with (
            open_host(
                cpus=cpus,
                mips=mips,
                policy=policy,
                seed=rng.randrange(100),
                paused=True,
                journal=self.journal,
            ) as host,
            trio.open_nursery() as nursery,
        ):
            if self.linux:
                for number in range(2):
                    await self.start(host, self.linux_config(f"linux{number}", policy))
                for guest in self.guests.values():
                    nursery.start_soon(self.command, guest)
            else:
                for number in range(rng.randint(2, 6)):
                    await self.start(host, self.config(f"g{number}", policy))
            for guest in self.guests.values():
                if guest.config.elf == self.demo:
                    words = rng.choices(WORDS, k=4)
                    nursery.start_soon(self.converse, guest, words)
            for instant in sorted(rng.randrange(life_ns) for _ in range(5)):
                await host.run_until(instant)
                if not self.linux:
                    await self.change(host, policy)
            await host.run_until(life_ns)
            digests = {name: guest.machine.digest() for name, guest in self.guests.items()}
            nursery.cancel_scope.cancel()
            return {
                "seed": self.seed,
                "policy": f"{policy} on {cpus} CPUs of {mips} MIPS",
                "digests": digests,
                "exits": {name: str(guest.exit) for name, guest in self.guests.items()},
                "usage": {name: str(guest.usage()) for name, guest in self.guests.items()},
                "notes": sorted(self.notes),
                "events": [str(event) for event in host.events if event.kind != "blocked"],
            }


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """A thread beside that never rests."""
    end = threading.Event()

    def work() -> None:
        while not end.is_set():
            sum(range(2000))

    thread = threading.Thread(target=work)
    if wanted:
        thread.start()
    try:
        yield
    finally:
        end.set()
        if wanted:
            thread.join()


def main() -> None:
    """See the top."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--linux", type=int, default=0, help="how many of the seeds boot Linux")
    parser.add_argument("seeds", type=int, nargs="+")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, busy(options.busy):
        cache = ImageCache(Path(directory) / "cache")
        DemoImage().pull(cache, SilentProgress())
        demo = DemoImage().boot_files(cache).elf
        assert demo is not None
        programs = Programs(Path(directory))
        for number, seed in enumerate(options.seeds):
            run = Run(seed, options.engine, programs, demo, linux=number < options.linux)
            print(json.dumps(trio.run(run.live)), flush=True)


if __name__ == "__main__":
    main()
