"""What a user can set per guest, under the names of cgroup v2 (Linux, admin-guide/cgroup-v2).

Each group of knobs is a frozen value: a live change replaces it as a whole. ``from_mapping`` takes
the names with dots (``cpu.weight``) or underscores, as TOML tables or keywords have them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.machine.config import parse_size
from asyncvmm.plugin.options import nearest

MIN_WEIGHT: Final = 1
MAX_WEIGHT: Final = 10_000
DEFAULT_WEIGHT: Final = 100
DEFAULT_PERIOD_US: Final = 100_000
MIN_PERIOD_US: Final = 1_000
MAX_PERIOD_US: Final = 1_000_000
MIN_QUOTA_US: Final = 100
MILLI: Final = 1000  # cpu.reserve counts in thousandths of one physical CPU
MAX_CPUS: Final = 64
MAX_RATE: Final = 1 << 50  # bytes or operations per second


@attrs.frozen
class CpuMax:
    """``cpu.max``: at most ``quota_us`` of CPU time, of all vCPUs together, per ``period_us``."""

    quota_us: int
    period_us: int = DEFAULT_PERIOD_US

    def __attrs_post_init__(self) -> None:
        if not MIN_PERIOD_US <= self.period_us <= MAX_PERIOD_US:
            raise ConfigError(
                f"cpu.max: the period must be {MIN_PERIOD_US} to {MAX_PERIOD_US} us, "
                f"not {self.period_us}"
            )
        if not MIN_QUOTA_US <= self.quota_us <= MAX_CPUS * self.period_us:
            raise ConfigError(
                f"cpu.max: the quota must be {MIN_QUOTA_US} us to {MAX_CPUS} periods, "
                f"not {self.quota_us} us"
            )


def parse_cpu_max(value: Any) -> CpuMax | None:
    """From ``"50000 100000"``, ``"50000"`` or ``"max"`` (no cap: None)."""
    if value is None or isinstance(value, CpuMax):
        return value
    words = str(value).split()
    if not 1 <= len(words) <= 2:
        raise ConfigError(f'cpu.max: "quota period" in us is expected, not {value!r}')
    try:
        period = int(words[1]) if len(words) == 2 else DEFAULT_PERIOD_US
        return None if words[0] == "max" else CpuMax(int(words[0]), period)
    except ValueError:
        raise ConfigError(f'cpu.max: "quota period" in us is expected, not {value!r}') from None


def parse_cpuset(value: Any) -> frozenset[int] | None:
    """The CPUs in ``"0-2,4"``, a number or numbers; None (or an empty string) means any."""
    if value is None or value == "":
        return None
    if isinstance(value, int):
        value = (value,)
    if not isinstance(value, str):
        numbers = [_integer("cpuset.cpus", cpu) for cpu in value]
    else:
        numbers = []
        for part in value.split(","):
            first, _, last = part.partition("-")
            low = _integer("cpuset.cpus", first)
            high = _integer("cpuset.cpus", last) if last else low
            if high - low >= MAX_CPUS:
                raise ConfigError(f"cpuset.cpus: {part!r} is more than {MAX_CPUS} CPUs")
            numbers += range(low, high + 1)
    if not numbers or min(numbers) < 0 or max(numbers) >= MAX_CPUS:
        raise ConfigError(f"cpuset.cpus: CPUs are 0 to {MAX_CPUS - 1}, not {value!r}")
    return frozenset(numbers)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise ConfigError(f"{name}: a whole number is expected, not {value!r}")
    try:
        if isinstance(value, str):
            return int(value, 0)
        if int(value) == value:
            return int(value)
    except (TypeError, ValueError):
        pass
    raise ConfigError(f"{name}: a whole number is expected, not {value!r}")


def _within(name: str, value: Any, low: int, high: int) -> int:
    number = _integer(name, value)
    if not low <= number <= high:
        raise ConfigError(f"{name} must be {low} to {high}, not {number}")
    return number


def _weight(value: Any) -> int:
    return _within("cpu.weight", value, MIN_WEIGHT, MAX_WEIGHT)


def _reserve(value: Any) -> int:
    return _within("cpu.reserve", value, 0, MAX_CPUS * MILLI)


def _bytes(value: Any) -> int:
    """A size in whole pages."""
    size = parse_size(value)
    if size < 0:
        raise ConfigError(f"memory: a size must not be negative, not {value!r}")
    return size // PAGE_SIZE * PAGE_SIZE


def _bytes_or_max(value: Any) -> int | None:
    return None if value is None or value == "max" else _bytes(value)


def _rate(value: Any) -> int | None:
    if value is None or value == "max":
        return None
    number = parse_size(value)
    if not 1 <= number <= MAX_RATE:
        raise ConfigError(f"a rate must be 1 to {MAX_RATE} per second, not {value!r}")
    return number


def _burst(value: Any) -> int:
    number = parse_size(value)
    if not 0 <= number <= MAX_RATE:
        raise ConfigError(f"a burst must be 0 to {MAX_RATE}, not {value!r}")
    return number


def _read(cls: type[attrs.AttrsInstance], prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords for ``cls`` from a mapping whose names may begin with ``prefix`` and a dot."""
    known = [field.name for field in attrs.fields(cls)]
    read: dict[str, Any] = {}
    for key, value in values.items():
        name = key.removeprefix(prefix + ".").replace(".", "_")
        if name not in known:
            raise ConfigError(f"{prefix}: no knob {key!r}: {nearest(name, known)}")
        read[name] = value
    return read


@attrs.frozen
class CpuKnobs:
    """A guest's part of the physical CPUs.

    ``weight`` (1 to 10000) divides what is contended; ``max`` caps; ``reserve`` (thousandths of one
    CPU) is promised and needs admission; ``cpuset_cpus`` are the physical CPUs it may use.
    """

    weight: int = attrs.field(default=DEFAULT_WEIGHT, converter=_weight)
    max: CpuMax | None = attrs.field(default=None, converter=parse_cpu_max)
    reserve: int = attrs.field(default=0, converter=_reserve)
    cpuset_cpus: frozenset[int] | None = attrs.field(default=None, converter=parse_cpuset)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> CpuKnobs:
        """From ``{"cpu.weight": 200, "cpu.max": "50000 100000"}``; ConfigError names mistakes."""
        return cls(**_read(cls, "cpu", values))


@attrs.frozen
class MemoryKnobs:
    """A guest's part of the host's memory, in bytes (whole pages).

    ``max`` is a hard limit (None: the size of its RAM), ``high`` where it is asked to give pages
    back, ``low`` what is promised and needs admission.
    """

    max: int | None = attrs.field(default=None, converter=_bytes_or_max)
    high: int | None = attrs.field(default=None, converter=_bytes_or_max)
    low: int = attrs.field(default=0, converter=_bytes)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> MemoryKnobs:
        """From ``{"memory.max": "128M", "memory.low": "64M"}``; ConfigError names mistakes."""
        return cls(**_read(cls, "memory", values))


@attrs.frozen
class IoMax:
    """``io.max`` of one device: bytes (``rbps``, ``wbps``) and operations (``riops``, ``wiops``)
    per second, None for no limit. ``burst_bytes`` and ``burst_ops`` may be used once, at any
    speed, by each direction. For a network device, r is to the guest and w from the guest.
    """

    rbps: int | None = attrs.field(default=None, converter=_rate)
    wbps: int | None = attrs.field(default=None, converter=_rate)
    riops: int | None = attrs.field(default=None, converter=_rate)
    wiops: int | None = attrs.field(default=None, converter=_rate)
    burst_bytes: int = attrs.field(default=0, converter=_burst)
    burst_ops: int = attrs.field(default=0, converter=_burst)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> IoMax:
        """From ``{"rbps": "10M", "wiops": 500}``; ConfigError names mistakes."""
        return cls(**_read(cls, "io", values))

    @classmethod
    def parse(cls, text: str) -> IoMax:
        """From ``"rbps=1048576 wiops=120"``, as the file of cgroup v2 has it."""
        values: dict[str, str] = {}
        for word in text.split():
            key, equals, value = word.partition("=")
            if not equals or not value:
                raise ConfigError(f"io.max: key=value is expected, not {word!r}")
            values[key] = value
        return cls.from_mapping(values)
