"""What a network is made of, as the user says it."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import shown
from asyncvmm.network.acl import Rule, parse_rules
from asyncvmm.network.ethernet import MAX_VLAN
from asyncvmm.network.link import LinkShape
from asyncvmm.network.outside import Outside
from asyncvmm.network.switch import NATIVE

DEFAULT_NETWORK: Final = "lan"
GATEWAY: Final = "gateway"  # at the switch
DEFAULT_SUBNET: Final = "10.0.2.0/24"


def _vlan(_instance: Any, attribute: Any, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VLAN:
        raise ConfigError(f"{attribute.name}: VLANs are 1 to {MAX_VLAN}, not {str(value)[:60]!r}")


def _trunk(value: Any) -> frozenset[int]:
    numbers = value if isinstance(value, (list, tuple, set, frozenset)) else [value]
    for number in numbers:
        _vlan(None, attrs.fields(CableConfig).trunk, number)
    return frozenset(numbers)


@attrs.frozen
class CableConfig:
    """The cable of one guest and its port at the switch."""

    shape: LinkShape = attrs.field(factory=LinkShape)
    vlan: int = attrs.field(default=NATIVE, validator=_vlan)
    trunk: frozenset[int] = attrs.field(default=frozenset(), converter=_trunk)
    rules: tuple[Rule, ...] = ()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], default: LinkShape) -> CableConfig:
        """From ``{"latency_ns": ..., "vlan": 10, "rules": ["deny in tcp port 25"]}``."""
        rest = dict(values)
        known = {key: rest.pop(key) for key in ("vlan", "trunk") if key in rest}
        rules = parse_rules(rest.pop("rules", ()))
        return cls(default.change(**rest), rules=rules, **known)


def _subnet(value: Any) -> ipaddress.IPv4Network:
    try:
        network = ipaddress.IPv4Network(value)
    except ValueError as error:
        raise ConfigError(f"subnet: {error}") from None
    if network.prefixlen > 28 or network.prefixlen < 8:
        raise ConfigError(f"subnet: {network} must be between a /8 and a /28")
    return network


def _backends(values: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"backends: names with options are expected, not {shown(values)}")
    for name, options in values.items():
        if name == GATEWAY:
            raise ConfigError(
                "backends: the name 'gateway' is the network's own gateway's: take another"
            )
        if re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", str(name)) is None:
            raise ConfigError(
                f"backends: a name is 1 to 64 letters, digits, '.', '-' or '_', not {str(name)[:60]!r}"
            )
        if not isinstance(options, str):
            raise ConfigError(
                f"backends: {name}: options such as 'udp-tunnel,port=5000' are expected"
            )
    return dict(values)


@attrs.frozen
class NetworkConfig:
    """One network. ``shape`` is every cable's, unless ``cables`` has another for a guest.

    With ``gateway`` the first address of ``subnet`` answers DHCP, DNS and ICMP echo, and lets guests
    reach what ``outside`` allows, which is nothing unless said. ``backends`` are the ends of cables that
    are no guests, by their names at the switch: options such as ``"udp-tunnel,port=5000"`` of a network
    backend of a plugin.
    """

    shape: LinkShape = attrs.field(factory=LinkShape)
    cables: Mapping[str, CableConfig] = attrs.field(factory=dict, hash=False)
    subnet: ipaddress.IPv4Network = attrs.field(
        default=ipaddress.IPv4Network(DEFAULT_SUBNET), converter=_subnet
    )
    gateway: bool = True
    outside: Outside = attrs.field(factory=Outside)
    backends: Mapping[str, str] = attrs.field(factory=dict, converter=_backends, hash=False)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """From keywords: those of LinkShape, ``subnet``, ``gateway``, ``allow`` (a list), ``links``
        (guest or backend to a mapping) and ``backends`` (name to options). ConfigError names what is wrong.
        """
        rest = dict(values)
        keys = ("subnet", "gateway", "backends")
        given: dict[str, Any] = {key: rest.pop(key) for key in keys if key in rest}
        outside = Outside.parse(rest.pop("allow", ()))
        links = rest.pop("links", {})
        if not isinstance(links, Mapping) or not all(
            isinstance(link, Mapping) for link in links.values()
        ):
            raise ConfigError(f"links: guests with their cables are expected, not {shown(links)}")
        if not isinstance(given.get("gateway", True), bool):
            raise ConfigError(f"gateway: true or false, not {shown(given['gateway'])}")
        shape = LinkShape().change(**rest)
        cables = {name: CableConfig.from_mapping(link, shape) for name, link in links.items()}
        return cls(shape=shape, cables=cables, outside=outside, **given)

    def to_mapping(self) -> dict[str, Any]:
        """Plain data that ``from_mapping`` makes the same network of."""
        links = {
            name: {
                **cable.shape.save(),
                "vlan": cable.vlan,
                "trunk": sorted(cable.trunk),
                "rules": [rule.text for rule in cable.rules],
            }
            for name, cable in self.cables.items()
        }
        return {
            **self.shape.save(),
            "subnet": str(self.subnet),
            "gateway": self.gateway,
            "allow": [rule.text for rule in self.outside.rules],
            "links": links,
            "backends": dict(self.backends),
        }

    def cable(self, guest: str) -> CableConfig:
        """The cable of a guest."""
        return self.cables.get(guest, CableConfig(self.shape))
