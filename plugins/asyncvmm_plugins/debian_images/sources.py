"""The machine's own package sources: where its Debian mirror is.

Formats: sources.list(5), the one-line style (``*.list``) and the deb822 style (``*.sources``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

from asyncvmm.plugin.images import NoAptError

RELEASES: Final = ("bullseye", "bookworm", "trixie", "forky", "duke", "sid")
ALIASES: Final = ("oldoldstable", "oldstable", "stable", "testing", "unstable")
DEBIAN_SUITES: Final = frozenset({*RELEASES, *ALIASES})
KEYRINGS: Final = (
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
)


@frozen
class Source:
    """One archive that the machine may use: an URI, a suite, and what its signature is checked with
    (a path, a key in ASCII armour, or nothing)."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


@frozen
class Mirror:
    """A Debian mirror: the URIs that serve it and how its signature is checked."""

    uris: tuple[str, ...]
    signed_by: str = ""


def machine_mirror(sources: Iterable[Source], keyrings: Iterable[str] = KEYRINGS) -> Mirror:
    """The first Debian mirror among ``sources``. Raises `NoAptError` if there is none.

    The archive's keyring is preferred to what the source names: it knows the keys of other suites.
    """
    seen: list[str] = []
    for source in sources:
        seen.append(source.suite)
        if source.suite not in DEBIAN_SUITES or "main" not in source.components:
            continue
        known = next((path for path in keyrings if Path(path).is_file()), source.signed_by)
        return Mirror((source.uri,), known)
    found = f"has only {', '.join(sorted(set(seen)))}" if seen else "has no sources"
    raise NoAptError(
        f"apt's configuration {found}, and none of these is a Debian suite: the guest images are made "
        "from Debian packages; add a source for Debian's main component (for example a file "
        "/etc/apt/sources.list.d/debian.sources, see sources.list(5))"
    )


def read_sources(list_file: Path, parts: Path) -> list[Source]:
    """The binary package sources of an apt configuration: its sources.list and sources.list.d."""
    found: list[Source] = []
    files = [list_file]
    if parts.is_dir():
        files += sorted(parts.iterdir())
    for path in files:
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        if path.suffix == ".list":
            found += parse_one_line(text)
        elif path.suffix == ".sources":
            found += parse_deb822(text)
    return found


def parse_one_line(text: str) -> list[Source]:
    """The ``deb`` lines of a file in the one-line style; lines that make no sense are left out."""
    found: list[Source] = []
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        match = re.fullmatch(r"deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)((?:\s+\S+)*)", line)
        if match is None:
            continue
        options = dict(option.split("=", 1) for option in (match[1] or "").split() if "=" in option)
        signed_by = options.get("signed-by", "")
        found += _sources([match[2]], [match[3]], match[4].split(), signed_by)
    return found


def parse_deb822(text: str) -> list[Source]:
    """The enabled binary sources of a file in the deb822 style."""
    found: list[Source] = []
    for fields in stanzas(text):
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").strip().lower() in ("no", "false", "0", "off", "disable"):
            continue
        found += _sources(
            fields.get("uris", "").split(),
            fields.get("suites", "").split(),
            fields.get("components", "").split(),
            fields.get("signed-by", "").strip("\n"),
        )
    return found


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The stanzas of a deb822 text: field names in lower case, folded lines kept with their newlines."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line
        elif ":" in line:
            name, value = line.split(":", 1)
            last = name.strip().lower()
            fields[last] = value.strip()
    if fields:
        yield fields


def _sources(
    uris: list[str], suites: list[str], components: list[str], signed_by: str
) -> list[Source]:
    usable = [uri for uri in uris if not uri.startswith("cdrom:")]
    return [Source(uri, suite, tuple(components), signed_by) for suite in suites for uri in usable]
