"""Guests from real images. A test whose image is missing is skipped, except that ``debian`` and the images
that ``ASYNCVMM_TEST_PULL`` names (words between spaces) are pulled first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import pytest

from asyncvmm.api import find_image
from asyncvmm.plugin.images import ImageCache, ImageError, SilentProgress

PATIENCE_S = 300  # of a test that would otherwise hang

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@cache
def why_missing(name: str, pull: bool) -> str:
    """Why an image cannot be had here, or nothing."""
    image = find_image(name)
    if image.is_present(ImageCache()):
        return ""
    if not pull:
        return f"image {name} is not pulled: asyncvmm image pull {name}"
    try:
        image.pull(ImageCache(), SilentProgress())
    except ImageError as error:
        return f"image {name} cannot be pulled: {error}"
    return ""


def require(*names: str) -> None:
    """Skip the test unless these images are here."""
    wanted = {"debian", *os.environ.get("ASYNCVMM_TEST_PULL", "").split()}
    for name in names:
        if reason := why_missing(name, pull=name in wanted):
            pytest.skip(reason)


def require_recipe(name: str, recipe: str) -> None:
    """Skip the test unless the image was built by this version, whose guests have what it asks for."""
    require(name)
    manifest = ImageCache().manifest(name)
    if manifest is None or manifest.recipe != recipe:
        pytest.skip(f"image {name} is older than this version: asyncvmm image build {name}")


@pytest.fixture(scope="session")
def command_line() -> Run:
    """Runs ``asyncvmm run IMAGE WORDS...`` with some standard input."""

    def run(image: str, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        require(image)
        return subprocess.run(
            [sys.executable, "-m", "asyncvmm", "run", image, *words],
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
        )

    return run
