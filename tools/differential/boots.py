"""Images booted on both engines: ``python -m tools.differential.boots linux debian-root --harts 2``.

The digest of the whole machine is compared at several counts of steps. The interpreter runs once,
translated code ``--runs`` times: when optimised code appears depends on the wall clock, so every run
is another trial, and starts with the optimised code of those before. ``--eager`` optimises whatever
is seen once; ``--arena-mib`` makes the code's memory small, so that it is thrown away again and again.
Ends with 1 at the first difference.
"""

from __future__ import annotations

import argparse
import sys
import time

from asyncvmm.api import find_image, image_config
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.engine.jit.build import ARENA_BYTES, Native, SharedCode
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages
from asyncvmm.engine.jit.regions import RegionStore
from asyncvmm.machine import RAN_STEPS, Machine, read_boot_files
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.runtime.blobs import open_file_blob

TYPED = b"uname -a; ls /; cat /proc/cpuinfo | head -4\n"


def boot(image: str, harts: int, engine: Engine, points: list[int]) -> list[str]:
    """The digests at every point; fewer when the guest stops. A command is typed at the third."""
    config = image_config(find_image(image), harts=harts)
    types = create_plugin_manager().device_types
    files = read_boot_files(config)
    machine = Machine(config, files, types, engine=engine, open_blob=open_file_blob)
    found: list[str] = []
    done = 0
    for number, point in enumerate(points):
        while done < point:
            before = sum(int(hart.steps) for hart in machine.harts)
            reason = machine.run(max_steps=point - done)
            done += sum(int(hart.steps) for hart in machine.harts) - before
            if reason != RAN_STEPS:
                return [*found, machine.digest()]
        machine.console.take_output()
        if number == 2:
            machine.console.push(TYPED)
        found.append(machine.digest())
    return found


def main(arguments: list[str] | None = None) -> int:
    """Compare; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.differential.boots", description=__doc__)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--harts", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=float, default=8e8)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--shared", action="store_true", help="runs share their code")
    parser.add_argument("--arena-mib", type=float, default=ARENA_BYTES / (1 << 20))
    options = parser.parse_args(arguments)
    steps = int(options.steps)
    points = [steps * k // 1000 + 7 * k for k in (10, 100, 300, 500, 700, 900, 1000)]
    for image in options.images:
        began = time.perf_counter()
        expected = boot(image, options.harts, Interpreter(), points)
        print(f"{image}: interpreter {time.perf_counter() - began:.1f} s", flush=True)
        store = RegionStore(None)
        size = int(options.arena_mib * (1 << 20))
        shared = SharedCode(size=size) if options.shared else None
        for run in range(options.runs):
            hot = HotPages(0.0003, 1, store) if options.eager else HotPages(store=store)
            native = Native(arena_bytes=size, hot=hot, shared=shared)
            engine = TranslatingEngine(native, native.enter)
            began = time.perf_counter()
            found = boot(image, options.harts, engine, points)
            same = sum(a == b for a, b in zip(found, expected, strict=False))
            counted = engine.statistics()
            print(
                f"{image} {options.harts} harts, run {run}: {same} of {len(expected)} digests equal,"
                f" {time.perf_counter() - began:.1f} s, {counted['regions']} regions,"
                f" {counted['cache_hits']} of them from before,"
                f" {counted['resets']} resets, {counted['evictions']} evictions,"
                f" {counted['blocks']} blocks, {counted['reused']} pages of other runs",
                flush=True,
            )
            if found != expected:
                print(f"different from step {points[min(same, len(points) - 1)]} on at the latest")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
