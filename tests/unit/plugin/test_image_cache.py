"""The image cache: what is in it is whole, whatever happened on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyncvmm.plugin.images import (
    BootFiles,
    ImageCache,
    ImageError,
    ImageType,
    NoSpaceError,
    Progress,
    SilentProgress,
    default_cache_root,
)


@pytest.fixture
def cache(tmp_path: Path) -> ImageCache:
    return ImageCache(tmp_path / "cache")


class Toy(ImageType):
    name = "toy"
    summary = "a toy"
    size_bytes_estimate = 3

    def pull(self, cache: ImageCache, progress: Progress) -> None:
        with (
            cache.lock(self.name),
            cache.build(self.name, recipe="toy 1", sources=["nothing"]) as directory,
            progress.task("building", 1) as task,
        ):
            (directory / "Image").write_bytes(b"abc")
            task.advance(1)

    def boot_files(self, cache: ImageCache) -> BootFiles:
        return BootFiles(kernel=self.require_present(cache) / "Image")


def leftovers(cache: ImageCache) -> list[str]:
    return sorted(path.name for path in (cache.root / "work").iterdir())


def test_a_build_is_present_with_its_manifest(cache: ImageCache) -> None:
    toy = Toy()
    assert not toy.is_present(cache)
    toy.pull(cache, SilentProgress())
    assert toy.is_present(cache)
    kernel = toy.boot_files(cache).kernel
    assert kernel is not None and kernel.read_bytes() == b"abc"
    manifest = cache.manifest("toy")
    assert manifest is not None
    assert manifest.sources == ("nothing",)
    assert [(f.name, f.size_bytes) for f in manifest.files] == [("Image", 3)]
    assert leftovers(cache) == []


def test_a_second_build_takes_the_place_of_the_first(cache: ImageCache) -> None:
    Toy().pull(cache, SilentProgress())
    with cache.build("toy") as directory:
        (directory / "other").write_bytes(b"xy")
    assert sorted(p.name for p in cache.directory("toy").iterdir()) == ["manifest.json", "other"]
    assert leftovers(cache) == []


def test_a_failed_build_leaves_the_image_as_it_was(cache: ImageCache) -> None:
    Toy().pull(cache, SilentProgress())
    with pytest.raises(ZeroDivisionError), cache.build("toy") as directory:
        (directory / "Image").write_bytes(b"half")
        raise ZeroDivisionError
    assert (cache.directory("toy") / "Image").read_bytes() == b"abc"
    assert leftovers(cache) == []


def test_what_a_killed_build_left_is_cleared_and_other_images_builds_are_not(
    cache: ImageCache,
) -> None:
    work = cache.work_directory()
    (work / "toy.new-1").mkdir()
    (work / "toy-full.new-1").mkdir()
    Toy().pull(cache, SilentProgress())
    assert leftovers(cache) == ["toy-full.new-1"]


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "image": "other", "files": [], "sources": [], "recipe": ""}',
        '{"format": 1, "image": "toy", "files": [{"name": 1}], "sources": [], "recipe": ""}',
        '{"format": 1, "image": "toy", "files": 7, "sources": [], "recipe": ""}',
    ],
)
def test_a_directory_with_a_bad_manifest_is_no_image(cache: ImageCache, manifest: str) -> None:
    Toy().pull(cache, SilentProgress())
    (cache.directory("toy") / "manifest.json").write_text(manifest)
    assert not Toy().is_present(cache)


def test_a_truncated_file_makes_the_image_absent(cache: ImageCache) -> None:
    Toy().pull(cache, SilentProgress())
    (cache.directory("toy") / "Image").write_bytes(b"ab")
    assert not Toy().is_present(cache)
    with pytest.raises(ImageError, match="asyncvmm image pull toy"):
        Toy().boot_files(cache)


def test_removing_an_image(cache: ImageCache) -> None:
    Toy().pull(cache, SilentProgress())
    assert cache.remove("toy")
    assert not Toy().is_present(cache)
    assert not cache.remove("toy")
    Toy().remove(cache)


def test_too_little_space_names_how_much_and_where(cache: ImageCache) -> None:
    with pytest.raises(NoSpaceError) as caught:
        cache.require_space(1 << 60, "the image toy")
    text = str(caught.value)
    assert "the image toy needs" in text and str(cache.root) in text and "ASYNCVMM_CACHE" in text


def test_a_cache_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(ImageError, match="ASYNCVMM_CACHE"):
        Toy().pull(ImageCache(blocker / "cache"), SilentProgress())


def test_the_manifest_is_json_with_hashes(cache: ImageCache) -> None:
    Toy().pull(cache, SilentProgress())
    raw = json.loads((cache.directory("toy") / "manifest.json").read_text())
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4: "abc"
    assert raw["files"][0]["sha256"] == digest


def test_the_environment_chooses_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ASYNCVMM_CACHE", str(tmp_path / "own"))
    assert default_cache_root() == tmp_path / "own"
    monkeypatch.delenv("ASYNCVMM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_root() == tmp_path / "xdg" / "asyncvmm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_root() == tmp_path / ".cache" / "asyncvmm"
