"""What can be extended: the hook specifications and their markers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pluggy

from asyncvmm.plugin.devices import DeviceType
from asyncvmm.plugin.network_backends import NetworkBackendType

PROJECT = "asyncvmm"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def asyncvmm_device_types() -> Sequence[DeviceType]:  # type: ignore[empty-body]
    """The kinds of device that this plugin adds. Called once, when the plugins are loaded."""


@hookspec
def asyncvmm_network_backends() -> Sequence[NetworkBackendType]:  # type: ignore[empty-body]
    """What this plugin can put at the end of a network's cable. Called once, when first asked for."""


@hookspec
def asyncvmm_images() -> Sequence[Any]:  # type: ignore[empty-body]
    """The guest images (``asyncvmm.plugin.images.ImageType``) that this plugin knows how to get."""


@hookspec
def asyncvmm_policies() -> Mapping[str, Callable[[Any], Any]]:  # type: ignore[empty-body]
    """CPU policies by name: a function of the ``CpuSpec`` (cpus, mips, quantum_ns) that makes an
    ``asyncvmm.hypervisor.Policy``. Called when a host is opened.
    """


@hookspec
def asyncvmm_machine_assembled(machine: Any) -> None:
    """A machine was put together, its devices attached and reset; it has not run yet."""


@hookspec
def asyncvmm_guest_stopped(guest: Any, reason: str) -> None:
    """A guest stopped for good; ``reason`` says why in a few words."""


@hookspec
def asyncvmm_cli_commands() -> Mapping[str, Callable[[Sequence[str]], int]]:  # type: ignore[empty-body]
    """Further commands of the command line: name to a function of the arguments after the name,
    which returns the exit code and whose docstring's first line is the help text."""
