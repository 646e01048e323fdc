"""apt's source files: sources.list(5)."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.plugin.images import NoAptError
from asyncvmm_plugins.debian_images.sources import (
    Source,
    machine_mirror,
    parse_deb822,
    parse_one_line,
    read_sources,
)


def test_one_line_style() -> None:
    text = """
# a comment
deb http://mirror.example/debian bookworm main contrib # trailing
deb [ arch=amd64 signed-by=/k.gpg ] https://other.example/debian/ sid main
deb-src http://mirror.example/debian bookworm main
deb cdrom:[Debian]/ bookworm main
deb nonsense
"""
    assert parse_one_line(text) == [
        Source("http://mirror.example/debian", "bookworm", ("main", "contrib")),
        Source("https://other.example/debian/", "sid", ("main",), "/k.gpg"),
    ]


def test_deb822_style_with_many_suites_folding_and_comments() -> None:
    text = """\
Types: deb deb-src
# which mirror
URIs: http://a.example/debian
 http://b.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /k.gpg

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: sid
Components: main
"""
    assert parse_deb822(text) == [
        Source(uri, suite, ("main",), "/k.gpg")
        for suite in ("trixie", "trixie-updates")
        for uri in ("http://a.example/debian", "http://b.example/debian")
    ]


def test_an_embedded_key_is_kept_in_its_folded_form() -> None:
    text = "Types: deb\nURIs: http://a/d\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN\n .\n x\n"
    assert parse_deb822(text)[0].signed_by == " -----BEGIN\n .\n x"


def test_the_first_debian_suite_with_main_is_the_mirror() -> None:
    sources = [
        Source("http://a.example/security", "bookworm-security", ("main",)),
        Source("http://b.example/x", "bookworm", ("contrib",)),
        Source("http://c.example/debian", "bookworm", ("main",), "/own.gpg"),
        Source("http://d.example/debian", "sid", ("main",)),
    ]
    mirror = machine_mirror(sources, keyrings=())
    assert (mirror.uris, mirror.signed_by) == (("http://c.example/debian",), "/own.gpg")


def test_the_archive_keyring_is_preferred(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"")
    source = Source("http://c.example/debian", "bookworm", ("main",), "/own.gpg")
    assert machine_mirror([source], keyrings=[str(keyring)]).signed_by == str(keyring)


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([], "has no sources"),
        ([Source("http://u.example/ubuntu", "noble", ("main",))], "has only noble"),
    ],
)
def test_without_a_debian_source_the_error_says_what_to_add(
    sources: list[Source], said: str
) -> None:
    with pytest.raises(NoAptError) as caught:
        machine_mirror(sources)
    assert said in str(caught.value) and "debian.sources" in str(caught.value)


def test_reading_a_configuration_directory(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a/d sid main\n")
    (parts / "b.sources").write_text(
        "Types: deb\nURIs: http://b/d\nSuites: sid\nComponents: main\n"
    )
    (parts / "c.list").write_text("deb http://c/d sid main\n")
    (parts / "d.list.disabled").write_text("deb http://d/d sid main\n")
    found = read_sources(tmp_path / "sources.list", parts)
    assert [source.uri for source in found] == ["http://a/d", "http://b/d", "http://c/d"]
    assert read_sources(tmp_path / "none", tmp_path / "nowhere") == []
