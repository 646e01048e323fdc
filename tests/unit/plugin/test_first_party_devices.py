"""Every first-party device passes every check of the conformance kit."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest

from asyncvmm.plugin import DeviceType
from asyncvmm.testing import CHECKS, check_device
from asyncvmm.testing.device_specimen import Specimen

DEVICES: list[tuple[str, dict[str, str | None]]] = [
    ("cfi_flash", {"path": "flash.fd"}),
    ("cfi_flash", {"path": "flash.fd", "readonly": None}),
    ("ns16550", {}),
    ("ns16550", {"register-shift": "2"}),
    ("goldfish_rtc", {"epoch": "1700000000"}),
    ("test_finisher", {}),
    ("virtio_blk", {"path": "disk.img"}),
    ("virtio_blk", {"path": "disk.img", "readonly": None}),
    ("virtio_console", {"ports": "asyncvmm.run+log"}),
    ("virtio_net", {}),
    ("virtio_net", {"offload": "no", "control": "no"}),
    ("virtio_rng", {}),
    ("vmgenid", {}),
]

PREVIOUS: dict[str, dict[str, Any]] = {  # a state of version 1, of a machine that was just reset
    "virtio_console": {
        "version": 1,
        "guest_open": [False] * 3,
        "sent": [0] * 3,
        "outbox": [],
    },
}


def older(kind: DeviceType, options: dict[str, str | None], key: str, state: Any) -> dict[str, Any]:
    """What a fresh device saves, with an older state in it."""
    saved: dict[str, Any] = json.loads(Specimen(kind, kind.parse(options)).snapshot())
    saved["device"][key] = state
    return saved


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("name", "options"), DEVICES)
def test_first_party_device(name: str, options: dict[str, str | None], check: str) -> None:
    (device_type,) = import_module(f"asyncvmm_plugins.{name}.hooks").asyncvmm_device_types()
    previous = (older(device_type, options, "console", PREVIOUS[name]),) if name in PREVIOUS else ()
    check_device(device_type, options, previous=previous, checks=(check,))
