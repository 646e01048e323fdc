"""The conformance kit for devices: what every device, first-party or not, has to get right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from asyncvmm.plugin import DeviceType
from asyncvmm.testing.device_backend_checks import check_cancellation
from asyncvmm.testing.device_checks import (
    check_interrupts,
    check_out_of_range,
    check_registers,
    check_repeatable,
    check_reset,
)
from asyncvmm.testing.device_specimen import Subject
from asyncvmm.testing.device_state_checks import (
    check_previous_states,
    check_snapshots,
    check_spoilt_states,
)
from asyncvmm.testing.device_virtio_checks import check_dma, check_hostile_chains

CHECKS: Final[dict[str, Callable[[Subject], None]]] = {
    "reset": check_reset,
    "registers": check_registers,
    "out_of_range": check_out_of_range,
    "interrupts": check_interrupts,
    "repeatable": check_repeatable,
    "snapshots": check_snapshots,
    "spoilt_states": check_spoilt_states,
    "previous_states": check_previous_states,
    "hostile_chains": check_hostile_chains,
    "dma": check_dma,
    "cancellation": check_cancellation,
}
"""Every check by name. Those that are not for a device (no queues, no ``run(io)``) pass at once."""

Options = Mapping[str, str | None]


def check_device(
    device_type: DeviceType,
    options: Options | None = None,
    *,
    previous: Iterable[Mapping[str, Any]] = (),
    checks: Iterable[str] = tuple(CHECKS),
) -> None:
    """Run the checks on devices made with ``options``; AssertionError says what is wrong.

    ``previous`` are states that older versions of the device saved: one of each version.
    """
    subject = Subject(device_type, device_type.parse(dict(options or {})), tuple(previous))
    for name in checks:
        CHECKS[name](subject)


class DeviceConformance:
    """The same checks as tests of their own, for pytest::

    class TestThermometer(DeviceConformance):
        device_type = THERMOMETER
        options = {"start": "20"}
    """

    device_type: ClassVar[DeviceType]
    options: ClassVar[Options] = {}
    previous: ClassVar[tuple[Mapping[str, Any], ...]] = ()

    def check(self, name: str) -> None:
        """Run one check."""
        check_device(self.device_type, self.options, previous=self.previous, checks=(name,))

    def test_reset_is_idempotent(self) -> None:
        """See ``check_reset``."""
        self.check("reset")

    def test_registers_at_every_width_and_alignment(self) -> None:
        """See ``check_registers``."""
        self.check("registers")

    def test_out_of_range(self) -> None:
        """See ``check_out_of_range``."""
        self.check("out_of_range")

    def test_interrupt_level_and_acknowledge(self) -> None:
        """See ``check_interrupts``."""
        self.check("interrupts")

    def test_two_runs_are_the_same(self) -> None:
        """See ``check_repeatable``."""
        self.check("repeatable")

    def test_restored_at_every_event_boundary(self) -> None:
        """See ``check_snapshots``."""
        self.check("snapshots")

    def test_spoilt_states_are_refused(self) -> None:
        """See ``check_spoilt_states``."""
        self.check("spoilt_states")

    def test_states_of_previous_versions_load(self) -> None:
        """See ``check_previous_states``."""
        self.check("previous_states")

    def test_hostile_chains(self) -> None:
        """See ``check_hostile_chains``."""
        self.check("hostile_chains")

    def test_dma_stays_within_the_grant(self) -> None:
        """See ``check_dma``."""
        self.check("dma")

    def test_cancelled_at_every_await(self) -> None:
        """See ``check_cancellation``."""
        self.check("cancellation")
