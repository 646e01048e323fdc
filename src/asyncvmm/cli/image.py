"""``asyncvmm image``: what can be run by name."""

from __future__ import annotations

import argparse
from typing import Any

from asyncvmm.api import find_image, image_types
from asyncvmm.base.units import MIB
from asyncvmm.cli.progress import BarProgress
from asyncvmm.plugin.images import ImageCache, ImageType


def add_parser(commands: Any) -> None:
    """Add the command and its actions."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "image",
        help="list, get and remove guest images",
        description="Guest images: systems that can be run by name. They live in a cache.",
        epilog="examples:\n  asyncvmm image list\n  asyncvmm image pull debian\n"
        "  asyncvmm image path linux",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all images, and which are here").set_defaults(
        function=list_images
    )
    for name, text, function in (
        ("pull", "get or build an image that is not here yet", pull),
        ("build", "get or build it anew, here or not", build),
        ("rm", "remove it from the cache", remove),
        ("path", "print the directory it is in", path),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("name", help="an image of `asyncvmm image list`")
        action.set_defaults(function=function)


def list_images(options: argparse.Namespace) -> int:
    """A line an image."""
    cache = ImageCache()
    images = image_types()
    width = max((len(name) for name in images), default=0)
    for name, image in sorted(images.items()):
        here = "here" if image.is_present(cache) else f"{image.size_bytes_estimate // MIB:4d} MiB"
        print(f"{name:<{width}}  {here:>8}  {image.summary}")
    return 0


def ensure(image: ImageType, cache: ImageCache) -> None:
    """Pull an image that is not here."""
    if not image.is_present(cache):
        image.pull(cache, BarProgress())


def pull(options: argparse.Namespace) -> int:
    """Get it unless it is here."""
    ensure(find_image(options.name), ImageCache())
    return 0


def build(options: argparse.Namespace) -> int:
    """Get it whether or not it is here."""
    find_image(options.name).pull(ImageCache(), BarProgress())
    return 0


def remove(options: argparse.Namespace) -> int:
    """Forget it."""
    find_image(options.name).remove(ImageCache())
    return 0


def path(options: argparse.Namespace) -> int:
    """Where it is."""
    print(find_image(options.name).require_present(ImageCache()))
    return 0
