"""Which of the free CPUs for whom: the first in rank first, near where it ran before."""

from __future__ import annotations

from asyncvmm.hypervisor.vcpu import Vcpu


def place(ranked: list[tuple[Vcpu, int]], free: list[int]) -> list[tuple[int, Vcpu]]:
    """(pcpu, vCPU) ascending by CPU, for vCPUs in order of rank with the mask of CPUs of each.

    A vCPU is left out only when no arrangement serves it together with all those before it. One
    that can have the CPU where it ran last gets it.
    """
    count = len(free)
    if count == 1:
        cpu = free[0]
        for vcpu, mask in ranked:
            if mask >> cpu & 1:
                return [(cpu, vcpu)]
        return []
    owner: dict[int, tuple[Vcpu, int]] = {}
    for item in ranked:
        if _augment(item, free, owner, set()) and len(owner) == count:
            break
    _send_home(owner)
    return [(cpu, owner[cpu][0]) for cpu in sorted(owner)]


def _augment(
    item: tuple[Vcpu, int], free: list[int], owner: dict[int, tuple[Vcpu, int]], tried: set[int]
) -> bool:
    """Give ``item`` a CPU, moving others along if need be (bipartite matching)."""
    vcpu, mask = item
    last = vcpu.pcpu
    if last >= 0 and mask >> last & 1 and last in free and last not in owner:
        owner[last] = item
        return True
    for cpu in free:
        if mask >> cpu & 1 and cpu not in owner:
            owner[cpu] = item
            return True
    for cpu in free:
        if mask >> cpu & 1 and cpu not in tried:
            tried.add(cpu)
            if _augment(owner[cpu], free, owner, tried):
                owner[cpu] = item
                return True
    return False


def _send_home(owner: dict[int, tuple[Vcpu, int]]) -> None:
    """Swap two when that brings one to its last CPU and does not take the other from its own."""
    for here in sorted(owner):
        vcpu, mask = owner[here]
        home = vcpu.pcpu
        if here == home or home not in owner or not mask >> home & 1:
            continue
        other, other_mask = owner[home]
        if other.pcpu != home and other_mask >> here & 1:
            owner[here], owner[home] = owner[home], owner[here]
