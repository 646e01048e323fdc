"""The image ``demo`` in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.plugin.images import ImageCache, ImageError, SilentProgress
from asyncvmm_plugins.demo_image import image
from asyncvmm_plugins.demo_image.hooks import asyncvmm_images
from asyncvmm_plugins.demo_image.image import DemoImage, build_program


def test_pulled_once_and_then_present(tmp_path: Path) -> None:
    (demo,) = asyncvmm_images()
    cache = ImageCache(tmp_path / "cache")
    assert not demo.is_present(cache)
    with pytest.raises(ImageError, match="asyncvmm image pull demo"):
        demo.boot_files(cache)
    demo.pull(cache, SilentProgress())
    assert demo.is_present(cache)
    files = demo.boot_files(cache)
    assert files.elf is not None and files.elf.read_bytes() == build_program()
    assert files.run_protocol == "none"
    demo.remove(cache)
    assert not demo.is_present(cache)


def test_another_source_is_another_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ImageCache(tmp_path)
    DemoImage().pull(cache, SilentProgress())
    source = image.read_source()
    monkeypatch.setattr(image, "read_source", lambda: source + "# a newer version\n")
    assert not DemoImage().is_present(cache)
    DemoImage().pull(cache, SilentProgress())
    assert DemoImage().is_present(cache)


def test_the_program_is_small_and_starts_at_the_start_of_ram() -> None:
    program = build_program()
    assert len(program) < DemoImage.size_bytes_estimate
    # e_entry: some loaders know nothing but the first address of RAM.
    assert int.from_bytes(program[24:32], "little") == image.BASE
