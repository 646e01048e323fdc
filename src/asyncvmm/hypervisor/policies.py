"""The CPU policies by name: those that ship with asyncvmm, and those of plugins."""

from __future__ import annotations

from typing import Final

from asyncvmm.base.errors import ConfigError, InternalError
from asyncvmm.hypervisor.eevdf import EevdfPolicy
from asyncvmm.hypervisor.policy import Policy, PolicyFactory
from asyncvmm.hypervisor.round_robin import RoundRobinPolicy
from asyncvmm.hypervisor.static_partition import StaticPartitionPolicy
from asyncvmm.hypervisor.vcpu import CpuSpec
from asyncvmm.plugin import PluginManager
from asyncvmm.plugin.options import nearest

DEFAULT_POLICY: Final = "eevdf"

BUILT_IN: Final[dict[str, PolicyFactory]] = {
    "eevdf": EevdfPolicy,
    "round-robin": RoundRobinPolicy,
    "static-partition": StaticPartitionPolicy,
}


def find_policies(plugins: PluginManager | None = None) -> dict[str, PolicyFactory]:
    """Every policy by name. A name taken twice stays with the first: asyncvmm's own, then plugins
    in the order in which they are called.
    """
    found = dict(BUILT_IN)
    if plugins is not None:
        for name, factory in plugins.policies():
            found.setdefault(name, factory)
    return found


def make_policy(name: str, spec: CpuSpec, plugins: PluginManager | None = None) -> Policy:
    """The policy of that name for these CPUs; ConfigError with the nearest right spelling."""
    known = find_policies(plugins)
    factory = known.get(name)
    if factory is None:
        raise ConfigError(f"no policy {name!r}: {nearest(name, known)}")
    policy = factory(spec)
    if not isinstance(policy, Policy):
        raise InternalError(f"the plugin's policy {name!r} made {policy!r}, which is no Policy")
    return policy
