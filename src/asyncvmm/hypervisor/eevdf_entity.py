"""A vCPU in EEVDF's competition, and what a snapshot keeps of the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import attrs
from attrs.validators import ge, gt

from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.rates import ONE
from asyncvmm.hypervisor.vcpu import RUNNING, WAITING, GuestCpus, Vcpu
from asyncvmm.plugin import VersionedState


class Entity:
    """A vCPU in the competition."""

    __slots__ = (
        "active",
        "extra",
        "home",
        "lag",
        "leaving",
        "left",
        "order",
        "rate",
        "running",
        "since_ns",
        "started",
        "vcpu",
    )

    def __init__(self, vcpu: Vcpu, slice_parts: int) -> None:
        self.vcpu = vcpu
        self.order = vcpu.order
        self.lag = 0  # in parts * ONE; while it is not active, what it may get back
        self.rate = 0
        self.home = 0  # the CPUs that the rate comes from
        self.extra = False  # runs on a CPU that nobody else wants: its lag stands still
        self.left = slice_parts  # parts of its request that have not run
        self.started = False  # its request has begun, and so was eligible
        self.running = False
        self.since_ns = 0  # when it was started
        self.active = False  # has a rate
        self.leaving = False  # active, but sleeps: waits for its negative lag to become zero


@attrs.frozen
class EntityState(VersionedState):
    """Entity, by its vCPU's order; whether it is active is in EevdfState."""

    version: ClassVar[int] = 1

    guest_order: int
    number: int
    lag: int
    rate: int = attrs.field(validator=ge(0))
    home: int = attrs.field(validator=ge(0))
    extra: bool
    left: int = attrs.field(validator=gt(0))
    started: bool
    running: bool
    since_ns: int = attrs.field(validator=ge(0))
    leaving: bool

    @classmethod
    def of(cls, entity: Entity) -> EntityState:
        """The entity as plain data."""
        names = [field.name for field in attrs.fields(cls)[2:]]
        return cls(*entity.vcpu.order, **{name: getattr(entity, name) for name in names})


@attrs.frozen
class EevdfState(VersionedState):
    """EevdfPolicy: ``active`` are the orders of the vCPUs that compete, in the policy's order."""

    version: ClassVar[int] = 1

    time_ns: int = attrs.field(validator=ge(0))
    stale: bool
    homes: int = attrs.field(validator=ge(0))
    slice_parts: int = attrs.field(validator=gt(0))
    entities: tuple[EntityState, ...]
    active: tuple[tuple[int, int], ...]

    def make_entities(self, guests: Mapping[str, GuestCpus]) -> dict[tuple[int, int], Entity]:
        """The entities by order; ConfigError when they cannot be those of these guests."""
        vcpus = {vcpu.order: vcpu for guest in guests.values() for vcpu in guest.vcpus}
        found: dict[tuple[int, int], Entity] = {}
        for saved in self.entities:
            order = (saved.guest_order, saved.number)
            require(order in vcpus and order not in found, f"an entity of vCPU {order}")
            entity = found[order] = Entity(vcpus[order], self.slice_parts)
            for field in attrs.fields(EntityState)[2:]:
                setattr(entity, field.name, getattr(saved, field.name))
        require(len(set(self.active)) == len(self.active), "a vCPU competes twice")
        for order in self.active:
            require(order in found, f"vCPU {order} competes and is not there")
            found[order].active = True
        for order, vcpu in vcpus.items():
            self._check(vcpu, found.get(order))
        return found

    def _check(self, vcpu: Vcpu, entity: Entity | None) -> None:
        """A vCPU that runs or is ready competes; the others do not, or are about to leave."""
        competes = entity is not None and entity.active and not entity.leaving
        require(competes == (vcpu.state in (RUNNING, WAITING)), f"{vcpu} competes though it sleeps")
        if entity is None:
            return
        require(entity.running == (vcpu.state == RUNNING), f"{vcpu} runs and does not")
        require(entity.active or not entity.leaving, f"{vcpu} leaves and is not there")
        require(not entity.leaving or entity.lag < 0, f"{vcpu} waits for a lag that it has not")
        rated = not entity.active or self.stale or 0 < entity.rate <= len(vcpu.guest.vcpus) * ONE
        require(rated, f"{vcpu} has an impossible rate")
