"""Options of virtio-net."""

from __future__ import annotations

import attrs
from attrs.validators import and_, ge, in_, le, matches_re

from asyncvmm.base.errors import ConfigError
from asyncvmm.network.ethernet import MAX_MTU, MIN_MTU, parse_mac


def _mac(text: str) -> str:
    if text:
        try:
            parse_mac(text)
        except ConfigError as error:
            raise ConfigError(f"virtio-net: mac: {error}") from error
    return text


@attrs.frozen
class VirtioNetConfig:
    """A card in ``network``. Without ``mac`` its address comes from seed, guest and number.

    ``offload=no`` takes away checksum and segmentation offloads, ``control=no`` the control queue.
    """

    network: str = attrs.field(default="lan", validator=matches_re(r"[\w.-]{1,64}"))
    mac: str = attrs.field(default="", converter=_mac)
    mtu: int = attrs.field(default=1500, validator=and_(ge(MIN_MTU), le(MAX_MTU)))
    queue_size: int = attrs.field(default=256, validator=in_((16, 32, 64, 128, 256, 512, 1024)))
    offload: bool = True
    control: bool = True
