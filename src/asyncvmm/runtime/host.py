"""The host: a nursery of guests, with the plugins that they are made from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig, Machine, read_boot_files
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.runtime.blobs import open_file_blob
from asyncvmm.runtime.guest import Guest, TrioWallClock, WallClock


class Host:
    """Runs guests side by side. Made by ``open_host``; ends them all when its block ends."""

    def __init__(self, nursery: trio.Nursery, plugins: PluginManager, wall: WallClock) -> None:
        self.plugins: Final = plugins
        self.guests: dict[str, Guest] = {}
        self._nursery = nursery
        self._wall = wall

    async def start(self, config: GuestConfig, *, max_instructions: int | None = None) -> Guest:
        """Build a guest and let it run. ConfigError names what is wrong with its configuration.

        ``max_instructions`` ends it after that many steps (instructions and traps, all harts).
        """
        if config.name in self.guests:
            raise ConfigError(f"a guest named {config.name!r} runs already: give this one a name")
        machine = await trio.to_thread.run_sync(self._build, config)
        guest = Guest(machine, self._wall, self._ended, max_instructions)
        self.guests[config.name] = guest
        self._nursery.start_soon(guest.task)
        return guest

    def _build(self, config: GuestConfig) -> Machine:
        return Machine(
            config, read_boot_files(config), self.plugins.device_types, open_blob=open_file_blob
        )

    def _ended(self, guest: Guest) -> None:
        self.guests.pop(guest.name, None)


@asynccontextmanager
async def open_host(
    *, plugins: PluginManager | None = None, wall: WallClock | None = None
) -> AsyncIterator[Host]:
    """A host for the block: ``async with open_host() as host``. Guests that still run then stop."""
    manager = (
        plugins if plugins is not None else await trio.to_thread.run_sync(create_plugin_manager)
    )
    async with trio.open_nursery() as nursery:
        yield Host(nursery, manager, wall or TrioWallClock())
        nursery.cancel_scope.cancel()
