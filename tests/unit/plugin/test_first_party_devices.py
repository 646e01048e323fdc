"""Every first-party device passes every check of the conformance kit."""

from __future__ import annotations

from importlib import import_module

import pytest

from asyncvmm.testing import CHECKS, check_device

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
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("name", "options"), DEVICES)
def test_first_party_device(name: str, options: dict[str, str | None], check: str) -> None:
    (device_type,) = import_module(f"asyncvmm_plugins.{name}.hooks").asyncvmm_device_types()
    check_device(device_type, options, checks=(check,))
