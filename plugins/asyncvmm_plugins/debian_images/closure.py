"""Which packages a set of packages needs: the closure over Depends and Pre-Depends.

A resolver for filling one empty root from one consistent index: versions are not compared (an index has
one version of nearly everything, the newest is taken), conflicts are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from asyncvmm.plugin.images import BuildError


class PackageIndex:
    """An index's stanzas (field names in lower case) by package name."""

    def __init__(self, stanzas: Iterable[Mapping[str, str]]) -> None:
        self.packages: dict[str, Mapping[str, str]] = {}
        self.providers: dict[str, list[str]] = {}
        for stanza in stanzas:
            name = stanza.get("package", "")
            if not name or name in self.packages:
                continue
            self.packages[name] = stanza
            for provided in _alternatives_of_all(stanza.get("provides", "")):
                self.providers.setdefault(provided, []).append(name)

    def closure(self, wanted: Iterable[str]) -> list[str]:
        """``wanted`` and all that they need, each after what it needs, as far as circles allow.

        Of alternatives the first is taken that is selected already, else the first that exists (a
        virtual package stands for the first that provides it). Raises `BuildError` for a dependency that
        nothing in the index meets, naming who needs it.
        """
        selected: set[str] = set()
        ordered: list[str] = []
        roots = [self._choose([name], selected, "the image") for name in wanted]
        selected.update(roots)
        todo = [(name, False) for name in reversed(roots)]
        opened: set[str] = set()
        while todo:
            name, is_done = todo.pop()
            if is_done:
                ordered.append(name)
                continue
            if name in opened:
                continue
            opened.add(name)
            todo.append((name, True))
            for alternatives in self.depends(name):
                chosen = self._choose(alternatives, selected, name)
                selected.add(chosen)
                todo.append((chosen, False))
        return ordered

    def depends(self, name: str) -> list[list[str]]:
        """What package ``name`` needs: lists of alternatives."""
        stanza = self.packages[name]
        text = ", ".join(
            stanza[key] for key in ("pre-depends", "depends") if stanza.get(key, "").strip()
        )
        return [alternatives(part) for part in text.split(",") if part.strip()]

    def _choose(self, names: list[str], selected: set[str], needed_by: str) -> str:
        candidates = [
            candidate
            for name in names
            for candidate in ([name] if name in self.packages else self.providers.get(name, []))
        ]
        for candidate in candidates:
            if candidate in selected:
                return candidate
        if not candidates:
            raise BuildError(
                f"nothing in the archive is {' or '.join(names)}, which {needed_by} needs"
            )
        return candidates[0]


def alternatives(text: str) -> list[str]:
    """The names in ``a (>= 1) | b:any [linux-any]``, without versions, qualifiers and restrictions."""
    found = []
    for part in text.split("|"):
        match = re.match(r"\s*([a-z0-9][a-z0-9+.\-]+)", part)
        if match is not None:
            found.append(match[1])
    return found


def _alternatives_of_all(text: str) -> list[str]:
    return [name for part in text.split(",") for name in alternatives(part)]
