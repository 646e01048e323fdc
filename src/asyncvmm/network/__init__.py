"""The network between guests: frames, links, a switch and a gateway, in virtual time. No I/O.

Reading order: ``ethernet.py`` and ``offload.py`` (what a frame is), ``link.py`` (what a cable does to
it), ``acl.py`` and ``switch.py`` (where it goes), ``lan.py`` (all of it on one clock), ``capture.py``
(pcapng), ``config.py`` and ``outside.py`` (what a user says); then the gateway: ``inet.py`` (ARP, IPv4,
ICMP, UDP, TCP headers), ``dhcp.py``, ``dns.py``, ``tcp.py``, ``gateway.py``. Cards are in
``asyncvmm.device.net``; the sockets of the world outside are in ``asyncvmm.runtime``. ``saved.py`` and
``gateway_state.py``: all of this as plain data, for snapshots.
"""

from asyncvmm.network.capture import Capture
from asyncvmm.network.config import DEFAULT_NETWORK, CableConfig, NetworkConfig
from asyncvmm.network.lan import Cable, Network
from asyncvmm.network.link import LinkCounters, LinkShape

__all__ = [
    "DEFAULT_NETWORK",
    "Cable",
    "CableConfig",
    "Capture",
    "LinkCounters",
    "LinkShape",
    "Network",
    "NetworkConfig",
]
