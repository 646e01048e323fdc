"""The generation identifier: reading, notice, snapshot."""

from __future__ import annotations

from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm_plugins.vmgenid.config import VmGenIdConfig
from asyncvmm_plugins.vmgenid.device import VmGenId
from asyncvmm_plugins.vmgenid.state import VmGenIdState


def read(device: VmGenId) -> bytes:
    return b"".join(int(device.read(at, 4)).to_bytes(4, "little") for at in (0, 4, 8, 12))


def test_it_changes_with_a_notice_only() -> None:
    bench = DeviceBench()
    device = VmGenId(VmGenIdConfig(), bench.io)
    device.reset()
    first = read(device)
    assert read(device) == first == device.identity
    device.reset()
    assert read(device) == first
    device.renew()
    assert bench.irq
    second = bytes(device.read(at, 1) for at in range(16))
    assert second != first
    assert not bench.irq
    device.write(0, 8, 0)
    assert read(device) == second


def test_it_is_saved_with_its_notice() -> None:
    bench = DeviceBench()
    device = VmGenId(VmGenIdConfig(), bench.io)
    device.reset()
    device.renew()
    again = DeviceBench()
    copied = VmGenId(VmGenIdConfig(), again.io)
    copied.reset()
    copied.restore(VmGenIdState.load(device.state().save()))
    assert again.irq
    assert copied.identity == device.identity
