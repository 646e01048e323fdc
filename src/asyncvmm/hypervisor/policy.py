"""What a CPU policy is: it chooses, and nothing else.

``Cpus`` keeps the books (who runs, caps, steal time, admission of reservations against capacity) and
asks the policy who is next, so a policy that a plugin brings cannot let a guest exceed its cap or
run one vCPU on two CPUs. A policy is deterministic: integers only, no clock but ``now_ns``, no order
taken from hashes. ``now_ns`` never falls from call to call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor.vcpu import CpuSpec, GuestCpus, Vcpu
from asyncvmm.plugin import VersionedState
from asyncvmm.timeline.events import FOREVER


class Policy(ABC):
    """Decides which vCPU runs on which free physical CPU, and for how long at most.

    A vCPU is *ready* when it is runnable, not running, and its guest's pool is not empty.
    ``isolates`` promises that when a vCPU runs depends on nothing that other guests do, and that all
    slices begin and end at multiples of the quantum.
    """

    isolates: ClassVar[bool] = False

    def __init__(self, spec: CpuSpec) -> None:
        self.spec = spec

    def admit(self, guest: GuestCpus, now_ns: int) -> None:  # noqa: B027
        """``guest`` (its vCPUs all asleep) wants to join: make room, or raise AdmissionError with
        nothing changed.
        """

    def leave(self, guest: GuestCpus, now_ns: int) -> None:  # noqa: B027
        """``guest`` is gone; its vCPUs were blocked before."""

    def change(self, guest: GuestCpus, now_ns: int) -> None:  # noqa: B027
        """``guest.knobs`` were changed; AdmissionError when they cannot be honoured (they are then
        put back).
        """

    @abstractmethod
    def ready(self, vcpu: Vcpu, now_ns: int) -> None:
        """``vcpu`` becomes ready: it woke up, or the pool was refilled."""

    @abstractmethod
    def blocked(self, vcpu: Vcpu, now_ns: int) -> None:
        """A ready ``vcpu`` is not ready any more: it sleeps, or the pool is empty."""

    @abstractmethod
    def choose(self, now_ns: int, free: list[int]) -> list[tuple[int, Vcpu, int]]:
        """(pcpu, ready vCPU, most steps > 0) for the free CPUs (ascending) that shall run someone.

        A CPU or vCPU at most once, a vCPU only on a CPU of ``vcpu.guest.allowed``.
        """

    @abstractmethod
    def started(self, vcpu: Vcpu, now_ns: int) -> None:
        """A chosen vCPU runs from now on (maybe for fewer steps): it is not ready until stopped."""

    @abstractmethod
    def stopped(self, vcpu: Vcpu, now_ns: int, steps: int) -> None:
        """A running ``vcpu`` stopped after ``steps`` and is ready again; ``blocked`` follows when
        it is not.
        """

    def next_ns(self, now_ns: int) -> int:
        """The next time (> ``now_ns``) at which ``choose`` may answer otherwise though nothing
        happened; FOREVER when there is none.
        """
        return FOREVER

    def lag_steps(self, vcpu: Vcpu, now_ns: int) -> int | None:
        """Steps that ``vcpu`` is behind (> 0) or ahead of (< 0) its entitlement; None when this
        policy has no such notion.
        """
        return None

    def entitled_steps(self, guest: GuestCpus, now_ns: int) -> int | None:
        """Steps that the guest was entitled to so far; None when that is not measured."""
        return None

    def state(self) -> VersionedState:
        """What a snapshot keeps of this policy; ConfigError of one that cannot be saved."""
        raise ConfigError(f"the policy {type(self).__name__} cannot be saved")

    def restore(self, saved: Mapping[str, Any], guests: Mapping[str, GuestCpus]) -> None:
        """Go on where ``state().save()`` was taken. ``guests`` are those of then, made anew.

        ConfigError, with nothing changed, when anything about it is wrong.
        """
        raise ConfigError(f"the policy {type(self).__name__} cannot be restored")


PolicyFactory = Callable[[CpuSpec], Policy]
