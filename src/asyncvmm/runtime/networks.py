"""The networks of a host: what the conductor calls between two stretches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import NetPort
from asyncvmm.machine import Machine
from asyncvmm.network import DEFAULT_NETWORK, Cable, LinkShape, Network, NetworkConfig
from asyncvmm.network.gateway import Gateway, Request
from asyncvmm.network.saved import Saved
from asyncvmm.plugin import PluginManager
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.connections import GuestStream
from asyncvmm.runtime.edge import Edge, Forward
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.journal_file import CONNECT
from asyncvmm.runtime.outlets import Outlets
from asyncvmm.timeline.events import FOREVER

Requested = Callable[[Gateway, int, Request], None]


@attrs.frozen
class _Plugged:
    network: Network
    cable: Cable
    gateway: Gateway | None
    address: bytes | None


class Networks:
    """All networks of one host, and which cable is whose. See ``residents.Exchange``."""

    def __init__(
        self,
        configs: Mapping[str, NetworkConfig | Mapping[str, Any]],
        seed: int,
        conductor: Conductor,
        plugins: PluginManager,
    ) -> None:
        self._quantum_ns = conductor.cpus.spec.quantum_ns
        self._seed = seed
        self.by_name: Final[dict[str, Network]] = {}
        self.gateways: Final[dict[str, Gateway]] = {}
        self.entrance: Final = Entrance(conductor, self._entered)
        self._outlets: Final = Outlets(plugins, conductor, self.entrance)
        self._edge: Edge | None = None
        self._requested: Requested | None = None
        self._cables: dict[str, list[_Plugged]] = {}
        usual = LinkShape()
        slow = attrs.evolve(usual, latency_ns=max(usual.latency_ns, self._quantum_ns))
        lan = NetworkConfig(shape=slow)
        for name, config in {DEFAULT_NETWORK: lan, **configs}.items():
            try:
                known = (
                    config
                    if isinstance(config, NetworkConfig)
                    else NetworkConfig.from_mapping(config)
                )
            except ConfigError as error:
                raise ConfigError(f"network {name}: {error}") from error
            self._add(name, name, known)

    def open(self, nursery: trio.Nursery) -> None:
        """From now on gateways reach the sockets outside, in ``nursery``."""
        self._edge = Edge(nursery, self.entrance)
        self._outlets.open(nursery)

    def close_door(self, requested: Requested) -> None:
        """From now on the outside does not exist: what gateways ask for is told to ``requested``."""
        self._requested = requested
        self._outlets.close_door()

    # -- guests come and go

    def check(self, machine: Machine) -> None:
        """ConfigError when a card is for a network that is not there, or is full."""
        ports = _ports(machine)
        for port in ports:
            if port.network not in self.by_name:
                raise ConfigError(
                    f"{port.name}: no network {port.network!r}: "
                    f"{nearest(port.network, self.by_name)}"
                )
            network = self.by_name[port.network]
            network.check_room(len(ports))
            if machine.config.name in network.outlets:
                raise ConfigError(
                    f"{port.name}: {machine.config.name!r} is a backend of network {port.network}: "
                    "name the guest otherwise"
                )

    def plug(self, machine: Machine, since_ns: int, *, apart: bool = False) -> None:
        """Connect all cards of a guest whose own time begins at ``since_ns``.

        ``apart`` gives it networks of its own, configured as those that it names, with nobody else.
        """
        cables = []
        for port in _ports(machine):
            key = f"{port.network}@{machine.name}" if apart else port.network
            if key not in self.by_name:
                self._add(key, port.network, self.by_name[port.network].config)
                if key in self.gateways:
                    self.gateways[key].leases.take_over(self.gateways[port.network].leases)
            network = self.by_name[key]
            cable = network.plug(machine.config.name, port, since_ns)
            gateway = self.gateways.get(key)
            address = gateway.leases.register(cable.name, port.mac) if gateway else None
            cables.append(_Plugged(network, cable, gateway, address))
        self._cables[machine.name] = cables
        self._outlets.start()

    def _add(self, key: str, name: str, config: NetworkConfig) -> None:
        if key != name:  # a guest's own, with nobody else
            config = attrs.evolve(config, backends={})
        network = Network(name, config, self._seed, self._quantum_ns)
        for backend, options in config.backends.items():
            network.add_outlet(self._outlets.make(name, backend, options, self._seed))
        self.by_name[key] = network
        if config.gateway:
            self.gateways[key] = Gateway(name, config, self._seed)
            self.gateways[key].place = key
            network.attach(self.gateways[key])

    # -- snapshots

    @property
    def configs(self) -> dict[str, NetworkConfig]:
        """What the networks were made of, but for those that a guest has of its own."""
        return {key: network.config for key, network in self.by_name.items() if "@" not in key}

    def save(self) -> dict[str, Any]:
        """Every network as plain data, and which guest is where."""
        cards: dict[str, dict[str, str]] = {key: {} for key in self.by_name}
        keys = {id(network): key for key, network in self.by_name.items()}
        for guest, cables in self._cables.items():
            for number, plugged in enumerate(cables):
                cards[keys[id(plugged.network)]][plugged.cable.name] = f"{guest}#{number}"
        return {
            "networks": {
                key: {"name": network.name, "state": network.save(cards[key])}
                for key, network in self.by_name.items()
            },
            "addresses": {
                guest: [(plugged.address or b"").hex() for plugged in cables]
                for guest, cables in self._cables.items()
            },
        }

    def load(self, values: Mapping[str, Any], machines: Mapping[str, Machine]) -> None:
        """Make networks that are as new what ``save`` told of, and connect ``machines`` as they were."""
        saved = Saved(values, "networks")
        networks = saved.take("networks")
        addresses = saved.part("addresses")
        saved.done()
        if not isinstance(networks, Mapping):
            raise ConfigError("networks: saved networks are not a mapping")
        ports = {
            f"{name}#{number}": port
            for name, machine in machines.items()
            for number, port in enumerate(_ports(machine))
        }
        found: dict[str, tuple[str, Cable]] = {}
        for key, item in networks.items():
            one = Saved(item, f"network {key}")
            name = one.text("name")
            if name not in self.by_name:
                raise one.wrong("name", f"is {name!r}, which is not among the networks")
            if key not in self.by_name:
                self._add(key, name, self.by_name[name].config)
            cables = self.by_name[key].load(one.part("state"), ports)
            one.done()
            if found.keys() & cables.keys():
                raise ConfigError(f"network {key}: a card is in two networks")
            found.update({card: (key, cable) for card, cable in cables.items()})
        for guest, machine in machines.items():
            cables_here: list[_Plugged] = []
            known = addresses.items(guest)
            if len(known) != len(_ports(machine)):
                raise addresses.wrong(guest, f"has {len(known)} cards")
            for number in range(len(_ports(machine))):
                if f"{guest}#{number}" not in found:
                    raise ConfigError(f"guest {guest}: its card {number} is in no saved network")
                key, cable = found[f"{guest}#{number}"]
                text = Saved({"address": known[number]}, f"guest {guest}")
                address = text.data("address", 4) or None
                plugged = _Plugged(self.by_name[key], cable, self.gateways.get(key), address)
                if plugged.gateway is not None and address is not None:
                    plugged.gateway.leases.register(cable.name, cable.port.mac)  # another one now?
                cables_here.append(plugged)
            self._cables[guest] = cables_here
        addresses.done()

    def cut_off(self, now_ns: int) -> int:
        """The host is a copy: see ``Gateway.cut_off``; how many connections ended."""
        count = sum(gateway.cut_off(now_ns) for gateway in self.gateways.values())
        if count:
            self._entered(now_ns)
        return count

    def unplug(self, guest: str) -> None:
        """A guest has ended."""
        for plugged in self._cables.pop(guest, []):
            plugged.network.unplug(plugged.cable)
            if not plugged.network.cables:
                for key in [
                    k for k, n in self.by_name.items() if n is plugged.network and "@" in k
                ]:
                    self.by_name.pop(key).close()
                    self.gateways.pop(key, None)
            if plugged.gateway is not None and plugged.address is not None:
                plugged.gateway.guest_left(plugged.address)

    def replug(self, machine: Machine, since_ns: int) -> None:
        """A guest went back, to be ``machine``: its cables are the same. The gateway forgets what it had
        with it, which that guest knows nothing of.
        """
        for plugged, port in zip(self._cables[machine.name], _ports(machine), strict=True):
            plugged.cable.port, plugged.cable.since_ns = port, since_ns
            if plugged.gateway is not None and plugged.address is not None:
                plugged.gateway.guest_left(plugged.address, "the guest went back in time")

    # -- what programs on the host do

    async def connect(self, guest: str, port: int, *, live: bool = False) -> GuestStream:
        """A stream to a server in a guest. ConfigError when the guest has no card at a gateway,
        ConnectFailedError when nobody takes the connection.
        """
        gateway, address = self._door(guest)
        if not 1 <= port <= 65535:
            raise ConfigError(f"ports are 1 to 65535, not {port}")
        await self.entrance.turn()
        names = {"gateway": gateway.place, "address": address.hex(), "port": port}
        key, connection = self.entrance.enter(
            lambda now: gateway.connect(now, address, port), live=live, note=(CONNECT, names, b"")
        )
        stream = GuestStream(gateway, key, connection, self.entrance, live=live)
        try:
            await stream.wait_connected()
        except BaseException:
            stream.abort()
            raise
        return stream

    async def forward(self, guest: str, forward: Forward) -> int:
        """Let programs outside connect to a guest's port; the host's port. Until the host ends."""
        self._door(guest)
        assert self._edge is not None

        async def connect(live: bool) -> GuestStream:
            return await self.connect(guest, forward.port, live=live)

        return await self._edge.forward(forward, connect)

    def _door(self, guest: str) -> tuple[Gateway, bytes]:
        for plugged in self._cables.get(guest, []):
            if plugged.gateway is not None and plugged.address is not None:
                return plugged.gateway, plugged.address
        if guest not in self._cables:
            raise ConfigError(f"no guest {guest!r} runs: {nearest(guest, self._cables)}")
        raise ConfigError(f"guest {guest} has no network card at a gateway: give it net lan")

    def close(self) -> None:
        """The host ends: captures are complete."""
        for network in self.by_name.values():
            network.close()

    # -- time

    def next_ns(self) -> int:
        """See Exchange."""
        return min((network.next_ns() for network in self.by_name.values()), default=FOREVER)

    def has_sent(self, guest: str) -> bool:
        """See Exchange."""
        return any(plugged.cable.port.has_sent for plugged in self._cables.get(guest, ()))

    def _entered(self, now_ns: int) -> None:
        for network in self.by_name.values():
            network.entered(now_ns)

    def advance(self, now_ns: int) -> None:
        """See Exchange."""
        if self._outlets.waiting:
            self._outlets.start()
        for network in self.by_name.values():
            network.advance(now_ns)
        if self._requested is not None:
            for gateway in self.gateways.values():
                while gateway.requests:
                    gateway.asked += 1
                    self._requested(gateway, gateway.asked, gateway.requests.popleft())
        elif self._edge is not None:
            for gateway in self.gateways.values():
                self._edge.serve(gateway)


def _ports(machine: Machine) -> list[NetPort]:
    """The sockets of a machine's cards, in the order of its config."""
    return [
        device.io.net for device in machine.devices if device.type.net(device.config) is not None
    ]
