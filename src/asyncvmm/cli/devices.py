"""``asyncvmm devices``: the kinds of device that guests can have, and where they come from."""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from asyncvmm.plugin import DEVICE_API, DeviceType, create_plugin_manager
from asyncvmm.plugin.manager import warn_of_problems
from asyncvmm.plugin.options import describe_options


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "devices",
        help="list device types and their options",
        description="The kinds of device that the installed plugins offer, for --device.",
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
    known = manager.device_types
    names = options.names or sorted(known)
    chosen = [manager.device_type(name) for name in names]
    warn_of_problems(manager)
    if options.json:
        types = [_described(kind, *manager.origin(kind.name)) for kind in chosen]
        print(json.dumps({"device_api": DEVICE_API, "types": types}, indent=2))
        return 0
    for kind in chosen:
        _print(kind, *manager.origin(kind.name))
    return 0


def _described(kind: DeviceType, plugin: str, distribution: str) -> dict[str, Any]:
    return {
        "name": kind.name,
        "summary": kind.summary,
        "kind": kind.kind,
        "compatible": list(kind.compatible),
        "live": kind.live,
        "api_version": kind.api_version,
        "plugin": plugin,
        "distribution": distribution,
        "options": describe_options(kind.config),
    }


def _print(kind: DeviceType, plugin: str, distribution: str) -> None:
    marks = f"{kind.kind}, live" if kind.live else kind.kind
    print(f"{kind.name} ({marks}): {kind.summary}")
    print(f"    from plugin {plugin} of {distribution or 'an unknown distribution'}")
    for option in describe_options(kind.config):
        text = f"{option['name']}={option['type']}"
        default = option["default"]
        text += ", required" if option["required"] else f", default {default!r}"
        print(textwrap.indent(text, "    "))
