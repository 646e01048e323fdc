"""A guest's part of its host: live changes of its knobs, and what it got."""

from __future__ import annotations

from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor import CpuKnobs, CpuUsage, MemoryKnobs, MemoryUsage
from asyncvmm.runtime.conductor import Conductor

PREFIXES: Final = ("cpu", "cpuset", "memory")


@attrs.frozen
class GuestUsage:
    """``cpu`` as cpu.stat has it, ``memory`` in bytes."""

    cpu: CpuUsage
    memory: MemoryUsage


def split_knobs(knobs: dict[str, Any]) -> tuple[CpuKnobs, MemoryKnobs]:
    """The knobs of a flat mapping such as ``{"cpu.weight": 200, "memory.max": "64M"}``.

    ConfigError names an unknown knob.
    """
    cpu: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    for key, value in knobs.items():
        name = key.replace("_", ".", 1) if "." not in key else key
        family = name.partition(".")[0]
        if family == "memory":
            memory[name] = value
        elif family == "cpu":
            cpu[name] = value
        elif family == "cpuset":
            cpu["cpuset.cpus"] = value
        else:
            raise ConfigError(f"no knob {key!r}: they begin with {', '.join(PREFIXES)}")
    return CpuKnobs.from_mapping(cpu), MemoryKnobs.from_mapping(memory)


class GuestPolicy:
    """The knobs of one guest, by the names of cgroup v2."""

    def __init__(self, name: str, conductor: Conductor) -> None:
        self._name = name
        self._conductor = conductor
        self._knobs: dict[str, Any] = {}
        self._last: GuestUsage | None = None

    def remember(self, knobs: dict[str, Any]) -> None:
        """What the guest was admitted with."""
        self._knobs = dict(knobs)

    def freeze(self) -> None:
        """The guest is about to leave its host."""
        self._last = self.usage()

    def update(self, **knobs: Any) -> None:
        """Change knobs of the running guest, such as ``update(cpu_weight=200, cpu_max="50000 100000")``.

        AdmissionError or ConfigError leave everything as it was.
        """
        wanted = {**self._knobs, **{k.replace("_", ".", 1): v for k, v in knobs.items()}}
        cpu, memory = split_knobs(wanted)
        conductor = self._conductor
        conductor.memory.update(self._name, memory, conductor.now_ns)
        conductor.cpus.update(self._name, cpu, conductor.now_ns)
        self._knobs = wanted

    def usage(self) -> GuestUsage:
        """What the guest got so far; all it ever got (but for its last stretch) once it is gone."""
        if self._last is not None:
            return self._last
        conductor = self._conductor
        return GuestUsage(
            conductor.cpus.usage(self._name, conductor.now_ns), conductor.memory.usage(self._name)
        )
