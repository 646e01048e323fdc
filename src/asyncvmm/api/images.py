"""From an image's name to a guest's configuration."""

from __future__ import annotations

from typing import Any

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.plugin.images import ImageCache, ImageType
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime.commands import RUN_APPEND, RUN_DEVICES


def image_types(plugins: PluginManager | None = None) -> dict[str, ImageType]:
    """Every image that the plugins offer, by name; the first of two with one name counts."""
    manager = plugins if plugins is not None else create_plugin_manager()
    found: dict[str, ImageType] = {}
    for _, offered in manager.call("asyncvmm_images"):
        for image in offered:
            found.setdefault(image.name, image)
    return found


def find_image(name: str, plugins: PluginManager | None = None) -> ImageType:
    """The image of that name; ConfigError suggests the nearest."""
    known = image_types(plugins)
    if name not in known:
        raise ConfigError(f"no image {name!r}: {nearest(name, known)}")
    return known[name]


def image_config(
    image: ImageType, cache: ImageCache | None = None, *, commands: bool = False, **changes: Any
) -> GuestConfig:
    """The configuration of a guest of an image that was pulled.

    ``commands`` is for a guest that only runs commands (``guest.run``): its agent is its first
    process and the console has no shell. ``changes`` are GuestConfig's own fields; ``append``, ``disks``
    and ``devices`` are added to the image's, ``flash`` takes the place of its last. ConfigError when the
    image runs no commands.
    """
    files = image.boot_files(cache if cache is not None else ImageCache())
    agent = files.run_protocol == "agent"
    if commands and not agent:
        raise ConfigError(
            f"image {image.name!r} runs no commands: start it without one and use its console"
        )
    words = [files.append, RUN_APPEND if commands else "", changes.pop("append", "") or ""]
    disks = [f"{disk.path}{',readonly' if disk.readonly else ''}" for disk in files.disks]
    flash = [f"{part.path},{'readonly' if part.readonly else 'snapshot'}" for part in files.flash]
    own_flash = tuple(changes.pop("flash", None) or ())
    settings: dict[str, Any] = {
        "name": image.name,
        "memory": files.memory,
        "harts": files.harts,
        "kernel": files.kernel,
        "initrd": files.initrd,
        "firmware": files.firmware,
        "elf": files.elf,
        **{key: value for key, value in changes.items() if value is not None},
    }
    settings["append"] = " ".join(word for word in words if word)
    settings["flash"] = (*flash[: max(0, len(flash) - len(own_flash))], *own_flash)
    settings["disks"] = (*disks, *changes.get("disks", ()))
    settings["devices"] = (*(RUN_DEVICES if agent else ()), *changes.get("devices", ()))
    return GuestConfig.from_mapping(settings)
