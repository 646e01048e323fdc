"""Which of the free CPUs for whom: the first in rank first, near where it ran before."""

from __future__ import annotations

from asyncvmm.hypervisor.vcpu import Vcpu


def place(ranked: list[Vcpu], free: list[int]) -> list[tuple[int, Vcpu]]:
    """(pcpu, vCPU): gives the free CPUs to the vCPUs in their order as far as cpusets allow.

    A vCPU is left out only when no arrangement serves it together with all those before it. One
    that can have the CPU where it ran last gets it.
    """
    count = len(free)
    if count == 1:
        cpu = free[0]
        for vcpu in ranked:
            if cpu in vcpu.guest.allowed:
                return [(cpu, vcpu)]
        return []
    chosen: list[Vcpu] = []
    owner: dict[int, Vcpu] = {}
    for vcpu in ranked:
        if _augment(vcpu, free, owner, set()):
            chosen.append(vcpu)
            if len(chosen) == count:
                break
    return _settle(chosen, owner)


def _augment(vcpu: Vcpu, free: list[int], owner: dict[int, Vcpu], tried: set[int]) -> bool:
    """Give ``vcpu`` a CPU, moving others along if need be (bipartite matching)."""
    allowed = vcpu.guest.allowed
    if vcpu.pcpu in allowed and vcpu.pcpu in free and vcpu.pcpu not in owner:
        owner[vcpu.pcpu] = vcpu
        return True
    for cpu in free:
        if cpu in allowed and cpu not in owner:
            owner[cpu] = vcpu
            return True
    for cpu in free:
        if cpu in allowed and cpu not in tried:
            tried.add(cpu)
            if _augment(owner[cpu], free, owner, tried):
                owner[cpu] = vcpu
                return True
    return False


def _settle(chosen: list[Vcpu], owner: dict[int, Vcpu]) -> list[tuple[int, Vcpu]]:
    """Swap two when that brings one home and the other may sit there; ascending by CPU."""
    at = {vcpu.order: cpu for cpu, vcpu in owner.items()}
    for vcpu in chosen:
        here, home = at[vcpu.order], vcpu.pcpu
        if here == home or home not in owner or home not in vcpu.guest.allowed:
            continue
        other = owner[home]
        if other.pcpu != home and here in other.guest.allowed:
            owner[here], owner[home] = other, vcpu
            at[vcpu.order], at[other.order] = home, here
    return sorted(owner.items(), key=lambda item: item[0])
