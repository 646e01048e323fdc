"""What a snapshot keeps of a virtio-console."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from asyncvmm.plugin import DeviceState


def _are_bools(state: Any, attribute: Any, value: tuple[object, ...]) -> None:
    if any(type(item) is not bool for item in value):
        raise ValueError(f"{attribute.name} is {value!r}")


def _are_counts(state: Any, attribute: Any, value: tuple[object, ...]) -> None:
    if any(type(item) is not int or not 0 <= item < 1 << 32 for item in value):
        raise ValueError(f"{attribute.name} is {value!r}")


def _are_events(state: Any, attribute: Any, value: tuple[object, ...]) -> None:
    for item in value:
        numbers = list(item) if isinstance(item, (list, tuple)) else []
        if [type(number) for number in numbers] != [int] * 3 or not all(
            0 <= number < 1 << 16 for number in numbers
        ):
            raise ValueError(f"{attribute.name} has {item!r}")


@attrs.frozen
class VirtioConsoleState(DeviceState):
    """For each port whether the guest has it open, how much of its next buffer was sent and whether
    output waits for room at the host; and the control messages (port, event, value) that wait for a
    buffer. Version 1 did not know what waits.
    """

    version: ClassVar[int] = 2

    guest_open: tuple[bool, ...] = attrs.field(validator=_are_bools)
    sent: tuple[int, ...] = attrs.field(validator=_are_counts)
    outbox: tuple[Any, ...] = attrs.field(validator=_are_events)
    blocked: tuple[bool, ...] = attrs.field(validator=_are_bools)

    @classmethod
    def upgrade(cls, saved: dict[str, Any], version: int) -> dict[str, Any]:
        """Of version 1: everything may wait."""
        if version != 1:
            return super().upgrade(saved, version)
        ports = saved.get("guest_open")
        return {**saved, "blocked": [True] * len(ports) if isinstance(ports, list) else None}
