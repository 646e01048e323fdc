"""What a scenario is, once it was read: a host, its guests and the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.units import SECOND
from asyncvmm.network import DEFAULT_NETWORK, NetworkConfig

STEP_LIMIT_NS: Final = 60 * SECOND


@attrs.frozen
class HostSpec:
    """``[host]``: the keywords of ``open_host`` that were given."""

    settings: Mapping[str, Any] = attrs.field(factory=dict, hash=False)


@attrs.frozen
class GuestSpec:
    """``[guests.NAME]``: an image or the files to boot, and the other fields of GuestConfig."""

    name: str
    image: str | None
    settings: Mapping[str, Any] = attrs.field(hash=False)


@attrs.frozen
class Step:
    """``[[steps]]``: one action. ``number`` counts from 1.

    ``at_ns`` is the virtual time before which it does not begin, ``within_ns`` how long it may take.
    The sequence does not wait for a ``background`` step; the next step of its guest does. ``name`` is
    what people call it; what a command says is part of the report if ``show`` is set.
    """

    number: int
    name: str = ""
    guest: str | None = None
    at_ns: int | None = None
    within_ns: int = STEP_LIMIT_NS
    background: bool = False
    run: tuple[str, ...] | None = None
    status: int = 0
    contains: str | None = None
    show: bool = False
    send: str | None = None
    expect: str | None = None
    start: bool = False
    stop: bool = False
    policy: Mapping[str, Any] | None = attrs.field(default=None, hash=False)
    link: Mapping[str, Any] | None = attrs.field(default=None, hash=False)
    network: str = DEFAULT_NETWORK
    until_ns: int | None = None

    @property
    def title(self) -> str:
        """Its name, else what it does, in a few words."""
        who = f"{self.guest}: " if self.guest else ""
        if self.name:
            what = self.name
        elif self.run is not None:
            what = f"run {' '.join(self.run)}"
        elif self.start or self.stop:
            what = "start" if self.start else "stop"
        elif self.policy is not None:
            what = f"policy {', '.join(f'{key}={value}' for key, value in self.policy.items())}"
        elif self.link is not None:
            changes = ", ".join(f"{key}={value}" for key, value in self.link.items())
            what = f"{self.network} link {changes}"
        elif self.until_ns is not None:
            what = f"until {self.until_ns / SECOND:g} s"
        else:
            words = [
                f"{verb} {text!r}"
                for verb, text in (("send", self.send), ("expect", self.expect))
                if text is not None
            ]
            what = ", ".join(words)
        return who + what


@attrs.frozen
class Scenario:
    """A host with its guests and what is done to them. ``path`` is the file, for messages."""

    path: Path
    host: HostSpec
    guests: Mapping[str, GuestSpec] = attrs.field(hash=False)
    steps: Sequence[Step] = ()
    networks: Mapping[str, NetworkConfig] = attrs.field(factory=dict, hash=False)

    def starts_later(self, guest: str) -> bool:
        """Whether a step starts it, instead of the host's beginning."""
        return any(step.start and step.guest == guest for step in self.steps)

    def runs_commands(self, guest: str) -> bool:
        """Whether a step runs a command in it."""
        return any(step.run is not None and step.guest == guest for step in self.steps)
