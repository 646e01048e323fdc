"""What a snapshot keeps of a virtio-9p: the overlay, the open files, and of which folder they are."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import and_, ge, le

from asyncvmm.plugin import DeviceState
from asyncvmm_plugins.virtio_9p.nodes import NodeState
from asyncvmm_plugins.virtio_9p.session import MAX_FIDS, FidState


@attrs.frozen
class Virtio9pState(DeviceState):
    """``folder`` is the digest of what was captured, which must be the same again."""

    version: ClassVar[int] = 1

    folder: str
    msize: int = attrs.field(validator=and_(ge(0), le(1 << 20)))
    busy_until_ns: int = attrs.field(validator=ge(0))
    next_number: int = attrs.field(validator=ge(1))
    fids: tuple[FidState, ...] = attrs.field(validator=attrs.validators.max_len(MAX_FIDS))
    nodes: tuple[NodeState, ...]
