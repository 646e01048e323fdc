"""A cache with the demo image, and machines made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api import VmFolder, create_vm, find_image
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.plugin.images import ImageCache, SilentProgress


@pytest.fixture(scope="session")
def plugins() -> PluginManager:
    return create_plugin_manager()


@pytest.fixture(scope="session")
def demo_cache(tmp_path_factory: pytest.TempPathFactory, plugins: PluginManager) -> ImageCache:
    cache = ImageCache(tmp_path_factory.mktemp("cache"))
    find_image("demo", plugins).pull(cache, SilentProgress())
    return cache


@pytest.fixture
def demo(
    tmp_path: Path, demo_cache: ImageCache, plugins: PluginManager, monkeypatch: pytest.MonkeyPatch
) -> VmFolder:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))
    return create_vm(
        tmp_path / "demo.vm", image="demo", plugins=plugins, cache=demo_cache, disks=("1M",)
    )
