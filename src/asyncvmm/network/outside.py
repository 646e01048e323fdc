"""What of the outside guests may reach through the gateway: nothing, unless a rule allows it.

A rule is ``HOST[:PORT[-PORT]][/tcp|/udp]``; HOST is a name, ``*.domain``, an address, a network in
CIDR form, or ``*`` for every public address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError

TCP: Final = "tcp"
UDP: Final = "udp"
# What ``*`` does not cover: the machine that the host runs on, its neighbours and their services.
_PRIVATE: Final = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3"),
    )
)


@attrs.frozen
class OutsideRule:
    """One thing that is allowed; ``name`` or ``network``, neither for every public address."""

    name: str | None
    network: ipaddress.IPv4Network | None
    ports: tuple[int, int]
    protocol: str | None

    def covers(self, address: ipaddress.IPv4Address, port: int, protocol: str) -> bool:
        """Whether an address may be reached; never by a rule about a name."""
        if self.name is not None or not self.ports[0] <= port <= self.ports[1]:
            return False
        if self.protocol is not None and protocol != self.protocol:
            return False
        if self.network is not None:
            return address in self.network
        return not any(address in network for network in _PRIVATE)

    @property
    def text(self) -> str:
        """What ``Outside.parse`` makes this rule of."""
        host = self.name or ("*" if self.network is None else str(self.network))
        end = "" if self.protocol is None else f"/{self.protocol}"
        return f"{host}:{self.ports[0]}-{self.ports[1]}{end}"

    def covers_name(self, name: str) -> bool:
        """Whether the rule is about this name."""
        if self.name is None:
            return self.network is None
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return name == self.name


@attrs.frozen
class Outside:
    """The rules. Names are allowed by what the gateway's DNS answered for them."""

    rules: tuple[OutsideRule, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str] | str) -> Outside:
        """From the texts of rules; ConfigError names the wrong one."""
        given = [texts] if isinstance(texts, str) else texts
        return cls(tuple(_parse(text) for text in given))

    def may_resolve(self, name: str) -> bool:
        """Whether the gateway looks a name up for guests."""
        return any(rule.covers_name(name) for rule in self.rules)

    def may_reach(
        self, address: ipaddress.IPv4Address, port: int, protocol: str, names: Iterable[str] = ()
    ) -> bool:
        """Whether guests may reach an address that DNS gave for ``names``."""
        return any(
            rule.covers(address, port, protocol)
            or any(
                rule.name is not None
                and rule.covers_name(name)
                and rule.ports[0] <= port <= rule.ports[1]
                and rule.protocol in (None, protocol)
                for name in names
            )
            for rule in self.rules
        )


def _parse(text: str) -> OutsideRule:
    rest = str(text).strip().lower()
    protocol: str | None = None
    for known in (TCP, UDP):
        if rest.endswith(f"/{known}"):
            rest, protocol = rest[: -len(known) - 1], known
    host, colon, port = rest.partition(":")
    ports = (0, 65535)
    try:
        if colon:
            low, _, high = port.partition("-")
            ports = (int(low), int(high or low))
        if not host or not 0 <= ports[0] <= ports[1] <= 65535:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"allow: {text!r} is not HOST[:PORT[-PORT]][/tcp|/udp], such as mail.example.org:25"
        ) from None
    if host == "*":
        return OutsideRule(None, None, ports, protocol)
    try:
        return OutsideRule(None, ipaddress.IPv4Network(host, strict=False), ports, protocol)
    except ValueError:
        pass
    names = host.split(".")
    if names[-1].isdecimal() or not all(
        part.replace("-", "").isalnum() or part == "*" for part in names
    ):
        raise ConfigError(f"allow: {host!r} is neither a name, an address nor a network")
    return OutsideRule(host, None, ports, protocol)
