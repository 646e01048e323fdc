"""Virtual machines as Python values: unmodified RISC-V operating systems inside one Python process.

    async with asyncvmm.open_host() as host:
        guest = await host.start(asyncvmm.image_config(asyncvmm.find_image("debian"), commands=True))
        print((await guest.run(["uname", "-a"])).stdout)

Reading guide: ``api`` is what users import (all of it from here, too); ``runtime`` awaits, nothing below
it does; ``machine`` puts a guest together; ``engine`` runs instructions that ``isa`` decodes on the
state in ``arch``; ``device`` and ``plugin`` are what a device's author needs; ``base`` to ``bus`` are the
ground floors. Imports go down only.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily, so that a plugin or a tool that needs one floor does not load them all.
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return getattr(import_module("asyncvmm.api"), name)
    except AttributeError:
        raise AttributeError(f"module 'asyncvmm' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return [*import_module("asyncvmm.api").__all__, "__version__"]
