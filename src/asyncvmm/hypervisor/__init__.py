"""The policy of a host: who runs, and who may have how much. Pure decisions: nothing here awaits,
reads a clock or does I/O, and all arithmetic is whole.

Reading order: ``knobs.py`` (what a user can set per guest), ``vcpu.py`` (what is scheduled, and in
which units), ``cpus.py`` (the books of the physical CPUs, which the runtime drives), ``policy.py``
(what a pluggable policy decides), ``rates.py`` and ``eevdf.py`` (the default: entitlement and lag),
``round_robin.py``, ``static_partition.py``, ``policies.py`` (finding them), ``memory.py`` (resident
pages, entitlement, who goes), ``buckets.py`` (disk and network rates), ``io_rates.py`` (those of a
guest's disks), ``admission.py`` (refusals), ``ledger.py`` (what was done to whom, and why).
"""

from asyncvmm.hypervisor.admission import AdmissionError
from asyncvmm.hypervisor.book_state import DiskRatesState, HostMemoryState, LedgerState
from asyncvmm.hypervisor.buckets import IoLimiter, TokenBucket
from asyncvmm.hypervisor.cpu_state import CpusState
from asyncvmm.hypervisor.cpus import Cpus
from asyncvmm.hypervisor.io_rates import DiskRates, DiskUsage, IoKnobs
from asyncvmm.hypervisor.knobs import CpuKnobs, CpuMax, IoMax, MemoryKnobs
from asyncvmm.hypervisor.ledger import Ledger, LedgerEvent, Recorder
from asyncvmm.hypervisor.memory import HostMemory, MemoryLimitError, MemoryUsage
from asyncvmm.hypervisor.policies import DEFAULT_POLICY, find_policies, make_policy
from asyncvmm.hypervisor.policy import Policy, PolicyFactory
from asyncvmm.hypervisor.vcpu import (
    PARKED,
    RUNNING,
    WAITING,
    CpuSpec,
    CpuUsage,
    Grant,
    GuestCpus,
    Vcpu,
)

__all__ = [
    "DEFAULT_POLICY",
    "AdmissionError",
    "CpuKnobs",
    "CpuMax",
    "CpuSpec",
    "CpuUsage",
    "Cpus",
    "CpusState",
    "DiskRates",
    "DiskRatesState",
    "DiskUsage",
    "Grant",
    "GuestCpus",
    "HostMemory",
    "HostMemoryState",
    "IoKnobs",
    "IoLimiter",
    "IoMax",
    "Ledger",
    "LedgerEvent",
    "LedgerState",
    "MemoryKnobs",
    "MemoryLimitError",
    "MemoryUsage",
    "PARKED",
    "Policy",
    "PolicyFactory",
    "RUNNING",
    "Recorder",
    "TokenBucket",
    "WAITING",
    "Vcpu",
    "find_policies",
    "make_policy",
]
