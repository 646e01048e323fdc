"""What a host is made of, and how it is put together.

Nothing of it runs yet: that begins where ``open_host`` has a nursery. Each part is handed the parts
that it needs, and none knows the ``Host`` around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import US
from asyncvmm.hypervisor import DEFAULT_POLICY, Cpus, CpuSpec, HostMemory, Ledger, make_policy
from asyncvmm.machine import parse_size
from asyncvmm.machine.engines import find_spin
from asyncvmm.machine.renewal import Reseed, new_seed
from asyncvmm.network import NetworkConfig
from asyncvmm.plugin import PluginManager
from asyncvmm.runtime.backends import Backends
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.machines import Machines
from asyncvmm.runtime.networks import Networks
from asyncvmm.runtime.population import Population
from asyncvmm.runtime.wall import WallClock
from asyncvmm.runtime.workers import Workers

DEFAULT_CPUS: Final = 8
DEFAULT_MIPS: Final = 1000
DEFAULT_MEMORY: Final = 1 << 50  # as good as unlimited
STEPS_PER_STRETCH: Final = 1_000_000  # of one CPU: about 5 ms of wall time
LONGEST_QUANTUM_NS: Final = 1_000_000  # unless another one is asked for


@attrs.frozen
class HostOptions:
    """What ``open_host`` is given that guests can see."""

    cpus: int = DEFAULT_CPUS
    mips: int = DEFAULT_MIPS
    memory: int | str = DEFAULT_MEMORY
    overcommit: bool = False
    policy: str = DEFAULT_POLICY
    quantum_us: int | None = None
    seed: int = 0
    networks: Mapping[str, NetworkConfig | Mapping[str, Any]] | None = None
    saved_quantum_ns: int | None = None

    def from_snapshot(self, snapshot: HostSnapshot, reseed: Reseed) -> HostOptions:
        """Those of a host that goes on from ``snapshot``; ConfigError when some were given besides."""
        if self != HostOptions():
            raise ConfigError("a host from a snapshot has the CPUs, memory, policy, seed and networks"
                              " of that: give none")  # fmt: skip
        snapshot.check_open()
        known = snapshot.saved.books.settings
        return HostOptions(
            known.cpus,
            known.mips,
            known.memory_bytes,
            known.overcommit,
            known.policy,
            None,
            new_seed(reseed, known.seed, "host"),
            snapshot.saved.configs,
            known.quantum_ns,
        )

    @property
    def quantum_ns(self) -> int:
        """The policy's quantum in virtual time."""
        if self.saved_quantum_ns is not None:
            return self.saved_quantum_ns
        if self.quantum_us is not None:
            return self.quantum_us * US
        if self.mips <= 0:
            return 0
        return max(1_000, min(LONGEST_QUANTUM_NS, STEPS_PER_STRETCH * 1000 // self.mips))

    def journaled(self, networks: Mapping[str, NetworkConfig]) -> dict[str, Any]:
        """The keywords of ``open_host`` that a replay gives it, as plain data."""
        return {
            "cpus": self.cpus,
            "mips": self.mips,
            "memory": parse_size(self.memory),
            "overcommit": self.overcommit,
            "policy": self.policy,
            "quantum_us": self.quantum_us,
            "seed": self.seed,
            "networks": {name: one.to_mapping() for name, one in networks.items()},
        }


@attrs.frozen(eq=False)
class HostParts:
    """The parts of one host."""

    options: HostOptions
    plugins: PluginManager
    conductor: Conductor
    networks: Networks
    backends: Backends
    machines: Machines
    population: Population


def put_together(
    options: HostOptions, plugins: PluginManager, workers: int | None, wall: WallClock
) -> HostParts:
    """The parts of a host without guests. ConfigError names what cannot be."""
    spec = CpuSpec(options.cpus, options.mips, options.quantum_ns)
    ledger = Ledger()
    conductor = Conductor(
        Cpus(spec, make_policy(options.policy, spec, plugins), ledger),
        HostMemory(parse_size(options.memory), ledger, overcommit=options.overcommit),
        ledger,
        Workers(workers, find_spin),
        wall,
        realtime=lambda: bool(population.paced),
    )
    networks = Networks(options.networks or {}, options.seed, conductor, plugins)
    conductor.exchange = networks
    backends = Backends(conductor, networks.entrance)
    machines = Machines(plugins, networks.entrance)
    population = Population(conductor, networks, backends, machines, options.seed)
    ledger.listener = population.note
    return HostParts(options, plugins, conductor, networks, backends, machines, population)
