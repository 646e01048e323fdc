"""Refusals: what the host cannot promise, and by how much."""

from __future__ import annotations

from asyncvmm.base.errors import ConfigError


class AdmissionError(ConfigError):
    """The host has not enough left for what a guest asks to be promised.

    ``resource`` is ``cpu`` or ``memory``; ``wanted``, ``available`` and ``shortfall`` are in
    ``unit``. Nothing was changed: the caller can ask for less, or make room and ask again.
    """

    def __init__(
        self, guest: str, resource: str, wanted: int, available: int, unit: str, remedy: str
    ) -> None:
        self.guest = guest
        self.resource = resource
        self.wanted = wanted
        self.available = available
        self.unit = unit
        super().__init__(
            f"guest {guest!r}: {resource}: wants {wanted} {unit}, {available} left, "
            f"{self.shortfall} short: {remedy}"
        )

    @property
    def shortfall(self) -> int:
        """How much is missing, in ``unit``."""
        return self.wanted - self.available
