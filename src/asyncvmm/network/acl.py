"""Access rules of a switch port, and their text form.

``allow|deny [in|out] [arp|ip|ip6|tcp|udp|icmp] [from NET] [to NET] [port N[-M]]``: the first rule that
matches decides, and a frame that none matches passes. ``in`` is from the guest into the switch.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.network.ethernet import ARP, IPV4, IPV6
from asyncvmm.network.offload import network_offset

PROTOCOLS: Final = {"tcp": 6, "udp": 17, "icmp": 1}
TYPES: Final = {"arp": ARP, "ip": IPV4, "ip6": IPV6}
MAX_RULES: Final = 256


@attrs.frozen
class Rule:
    """One rule; None matches anything."""

    allow: bool
    direction: str | None = None
    kind: int | None = None
    protocol: int | None = None
    source: ipaddress.IPv4Network | None = None
    target: ipaddress.IPv4Network | None = None
    ports: tuple[int, int] | None = None

    def matches(self, direction: str, facts: Facts) -> bool:
        """Whether the rule is about this frame."""
        if self.direction is not None and direction != self.direction:
            return False
        if self.kind is not None and facts.kind != self.kind:
            return False
        if self.protocol is not None and facts.protocol != self.protocol:
            return False
        if self.source is not None and not _within(facts.source, self.source):
            return False
        if self.target is not None and not _within(facts.target, self.target):
            return False
        if self.ports is None:
            return True
        return facts.port is not None and self.ports[0] <= facts.port <= self.ports[1]

    @property
    def text(self) -> str:
        """What ``parse_rule`` makes this rule of."""
        words = ["allow" if self.allow else "deny"]
        if self.direction is not None:
            words.append(self.direction)
        if self.protocol is not None:
            words += [name for name, number in PROTOCOLS.items() if number == self.protocol]
        else:
            words += [name for name, number in TYPES.items() if number == self.kind]
        if self.source is not None:
            words += ["from", str(self.source)]
        if self.target is not None:
            words += ["to", str(self.target)]
        if self.ports is not None:
            words += ["port", f"{self.ports[0]}-{self.ports[1]}"]
        return " ".join(words)


@attrs.frozen
class Facts:
    """What rules can ask about a frame. ``port`` is the destination port."""

    kind: int
    protocol: int | None = None
    source: int | None = None
    target: int | None = None
    port: int | None = None


def facts_of(data: bytes) -> Facts:
    """Of any frame, also of a malformed one."""
    at, kind = network_offset(data)
    if kind == ARP and len(data) >= at + 28:
        source = int.from_bytes(data[at + 14 : at + 18], "big")
        return Facts(kind, None, source, int.from_bytes(data[at + 24 : at + 28], "big"))
    if kind != IPV4 or len(data) < at + 20:
        return Facts(kind)
    protocol = data[at + 9]
    source = int.from_bytes(data[at + 12 : at + 16], "big")
    target = int.from_bytes(data[at + 16 : at + 20], "big")
    first = at + (data[at] & 15) * 4
    fragment = int.from_bytes(data[at + 6 : at + 8], "big") & 0x1FFF
    port = None
    if protocol in (6, 17) and not fragment and len(data) >= first + 4:
        port = data[first + 2] << 8 | data[first + 3]
    return Facts(kind, protocol, source, target, port)


class AccessList:
    """The rules of one port."""

    def __init__(self, rules: tuple[Rule, ...] = ()) -> None:
        self.rules: Final = rules
        self.denied = 0

    def passes(self, direction: str, data: bytes) -> bool:
        """Whether a frame may go ``in`` or ``out``."""
        if not self.rules:
            return True
        facts = facts_of(data)
        for rule in self.rules:
            if rule.matches(direction, facts):
                if not rule.allow:
                    self.denied += 1
                return rule.allow
        return True


def parse_rules(texts: Any) -> tuple[Rule, ...]:
    """Rules from their texts; ConfigError names the wrong one."""
    if len(texts) > MAX_RULES:
        raise ConfigError(f"at most {MAX_RULES} rules a port, not {len(texts)}")
    return tuple(parse_rule(text) for text in texts)


def parse_rule(text: str) -> Rule:
    """One rule from its text."""
    words = str(text).lower().split()
    if not words or words[0] not in ("allow", "deny"):
        raise ConfigError(f"rule {text!r}: it begins with allow or deny")
    given: dict[str, Any] = {"allow": words.pop(0) == "allow"}
    while words:
        word = words.pop(0)
        if word in ("in", "out"):
            given["direction"] = word
        elif word in TYPES:
            given["kind"] = TYPES[word]
        elif word in PROTOCOLS:
            given["kind"], given["protocol"] = IPV4, PROTOCOLS[word]
        elif word in ("from", "to", "port") and words:
            key = {"from": "source", "to": "target", "port": "ports"}[word]
            given[key] = _value(text, word, words.pop(0))
        else:
            raise ConfigError(f"rule {text!r}: {word!r} is not understood here")
    return Rule(**given)


def _value(text: str, word: str, value: str) -> Any:
    try:
        if word != "port":
            return ipaddress.IPv4Network(value, strict=False)
        low, _, high = value.partition("-")
        ports = (int(low), int(high or low))
        if not 0 <= ports[0] <= ports[1] <= 65535:
            raise ValueError
        return ports
    except ValueError:
        raise ConfigError(f"rule {text!r}: {value!r} is wrong after {word!r}") from None


def _within(address: int | None, network: ipaddress.IPv4Network) -> bool:
    if address is None:
        return False
    return address & int(network.netmask) == int(network.network_address)
