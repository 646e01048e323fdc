"""``asyncvmm run web.vm``: a folder's machine at the terminal, or for one command."""

from __future__ import annotations

import argparse
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from asyncvmm.api import ConfigError, Guest, Host, open_folder
from asyncvmm.api.folder import VmFolder
from asyncvmm.cli import terminal
from asyncvmm.cli.session import Session, run_session
from asyncvmm.cli.terminal import say
from asyncvmm.machine.renewal import FREEZE
from asyncvmm.runtime.folder.running import (
    RunningMachine,
    StartOptions,
    effective_config,
    open_machine,
)

NOT_FOR_FOLDERS: Final = ("kernel", "initrd", "firmware", "snapshot", "allow")


def run_folder(options: argparse.Namespace) -> int:
    """The machine in the folder ``options.target``; returns the exit status."""
    for name in NOT_FOR_FOLDERS:
        if getattr(options, name):
            raise ConfigError(
                f"--{name} does not go with a folder: `asyncvmm config set {options.target}` changes what "
                "it boots and may reach"
            )
    folder = open_folder(options.target)
    holder = folder.holder
    if holder is not None and holder.serves and options.guest_command is not None:
        from asyncvmm.cli.remote_run import run_remotely

        return run_remotely(folder, options)
    return run_session(FolderSession(options, folder))


def start_options(options: argparse.Namespace, *, commands: bool, live: bool) -> StartOptions:
    """What the command line says of this start; ``live`` means that somebody looks at it."""
    changes: dict[str, Any] = {
        "memory": options.memory,
        "harts": options.harts,
        "append": options.append,
        "seed": options.seed,
        "engine": options.engine,
        "clock": options.clock,
        "flash": tuple(options.flash) or None,
        "disks": tuple(options.disk) or None,
        "shares": tuple(options.share) or None,
        "nets": tuple(options.net) or None,
        "devices": tuple(options.device) or None,
    }
    defaults = {
        "clock": "realtime" if live else None,
        "epoch_ns": time.time_ns() if live else None,
    }
    return StartOptions(
        cold=options.cold,
        commands=commands,
        changes=changes,
        defaults=defaults,
        max_instructions=options.max_instructions,
        journal=options.record,
        date=options.date or FREEZE,
    )


class FolderSession(Session):
    """A run of a folder's machine: what it writes is kept, and so is its state when it is left."""

    def __init__(self, options: argparse.Namespace, folder: VmFolder) -> None:
        settings = folder.settings
        outside = bool(settings.publish or settings.allow or options.publish)
        commands = options.guest_command is not None
        live = (not commands and terminal.is_terminal(0)) or outside
        # A state that the machine goes on from has its agent in it, and its console too.
        resumes = folder.head.resume is not None and not options.cold
        self.start = start_options(options, commands=commands and not resumes, live=live)
        self.folder = folder
        self.machine: RunningMachine | None = None
        super().__init__(options, effective_config(settings, self.start))
        options.publish = [*settings.publish, *options.publish]

    @asynccontextmanager
    async def hosted(self) -> AsyncIterator[tuple[Host, Guest]]:
        """See Session."""
        opened = open_machine(self.folder.paths, self.start, plugins=self.folder.plugins)
        async with opened as machine:
            self.machine = machine
            if machine.resumed is not None and self.interactive:
                say("the machine goes on from its kept state (--cold boots instead)")
            yield machine.host, machine.guest
            if machine.guest.exit is None and (
                self.options.guest_command is None or machine.resumed is not None
            ):
                await machine.save_and_stop()
                if self.interactive:
                    say(
                        f"its state is kept: `asyncvmm run {self.options.target}` goes on from here"
                    )

    async def leave(self, guest: Guest) -> None:
        """After a command: a machine that was booted for it is shut down, one that went on is kept."""
        if self.machine is not None and self.machine.resumed is None:
            await super().leave(guest)
