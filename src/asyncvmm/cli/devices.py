"""``asyncvmm devices``: the kinds of device that guests can have, those of network backends, and where
they come from.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from asyncvmm.plugin import DEVICE_API, DeviceType, NetworkBackendType, create_plugin_manager
from asyncvmm.plugin.manager import warn_of_problems
from asyncvmm.plugin.options import describe_options

Kind = DeviceType | NetworkBackendType


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "devices",
        help="list device types, network backends and their options",
        description="The kinds of device that the installed plugins offer, for --device, and of network "
        "backends, for a scenario's networks.",
        epilog="examples:\n  asyncvmm devices\n  asyncvmm devices virtio-net\n"
        "  asyncvmm run linux --device virtio-rng",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="TYPE", help="only these")
    parser.add_argument("--json", action="store_true", help="for other tools")
    parser.set_defaults(function=list_devices)


def list_devices(options: argparse.Namespace) -> int:
    """A paragraph for each type, or one JSON object."""
    manager = create_plugin_manager()
    known, backends = manager.device_types, manager.network_backends
    names = options.names or [*sorted(known), *sorted(backends)]
    chosen = [manager.device_type(name) for name in names if name in known or name not in backends]
    ends = [backends[name] for name in names if name in backends]
    warn_of_problems(manager)
    if options.json:
        document = {
            "device_api": DEVICE_API,
            "types": [_described(kind, *manager.origin(kind.name)) for kind in chosen],
            "network_backends": [
                _common(kind, *manager.backend_origin(kind.name)) for kind in ends
            ],
        }
        print(json.dumps(document, indent=2))
        return 0
    for kind in chosen:
        _print(kind, kind.kind, *manager.origin(kind.name))
    for end in ends:
        _print(end, "network backend", *manager.backend_origin(end.name))
    return 0


def _described(kind: DeviceType, plugin: str, distribution: str) -> dict[str, Any]:
    return {
        **_common(kind, plugin, distribution),
        "kind": kind.kind,
        "compatible": list(kind.compatible),
    }


def _common(kind: Kind, plugin: str, distribution: str) -> dict[str, Any]:
    return {
        "name": kind.name,
        "summary": kind.summary,
        "live": kind.live,
        "api_version": kind.api_version,
        "plugin": plugin,
        "distribution": distribution,
        "options": describe_options(kind.config),
    }


def _print(kind: Kind, what: str, plugin: str, distribution: str) -> None:
    marks = f"{what}, live" if kind.live else what
    print(f"{kind.name} ({marks}): {kind.summary}")
    print(f"    from plugin {plugin} of {distribution or 'an unknown distribution'}")
    for option in describe_options(kind.config):
        text = f"{option['name']}={option['type']}"
        default = option["default"]
        text += ", required" if option["required"] else f", default {default!r}"
        print(textwrap.indent(text, "    "))
