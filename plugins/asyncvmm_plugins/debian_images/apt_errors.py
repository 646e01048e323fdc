"""What apt's failures mean, as errors that say what to do about them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from asyncvmm.plugin.images import (
    BuildError,
    ChecksumError,
    ImageError,
    NoAptError,
    NoNetworkError,
    NoSpaceError,
)

NETWORK_SIGNS: Final = re.compile(
    r"could not resolve|temporary failure|could not connect|unable to connect|cannot initiate"
    r"|connection (?:failed|refused|timed out|reset)|network is unreachable|timed out|no route to host"
    r"|\b40[347]\b|\b50[0-9]\b|proxy",
    re.IGNORECASE,
)
MISMATCH_SIGNS: Final = re.compile(
    r"unexpected size|hash sum mismatch|mirror sync in progress", re.IGNORECASE
)
KEY_SIGNS: Final = re.compile(
    r"NO_PUBKEY|is not signed|couldn't be verified|Sub-process .*sqv|EXPKEYSIG", re.IGNORECASE
)
SPACE_SIGNS: Final = re.compile(r"no space left|enough free space|quota exceeded", re.IGNORECASE)


class IndexMismatchError(ChecksumError):
    """A suite's index does not match its signature, as happens while a mirror is being updated."""


def no_apt(reason: str) -> NoAptError:
    """The error for a machine that apt cannot be used on."""
    return NoAptError(
        f"the guest images come from Debian's archive through apt, which cannot be used here: {reason}; "
        "use a machine with apt (Debian or a container of it), or copy ~/.cache/asyncvmm from one, or "
        "try `asyncvmm run demo`, which needs no download"
    )


def apt_failure(label: str, errors: str, root: Path) -> ImageError:
    """What apt's error text means."""
    text = "\n".join(line for line in errors.splitlines() if line[:2] in ("E:", "W:", "  ")).strip()
    text = text or errors.strip() or "no reason given"
    if SPACE_SIGNS.search(text):
        return NoSpaceError(
            f"{label}: the file system of {root} is full: make room there, or set ASYNCVMM_CACHE to a "
            f"directory on a larger one (apt said: {text})"
        )
    if MISMATCH_SIGNS.search(text):
        return IndexMismatchError(
            f"{label}: the archive's index does not match its signature, most likely because the mirror "
            f"is being updated: try again later (apt said: {text})"
        )
    if KEY_SIGNS.search(text):
        return ChecksumError(
            f"{label}: the archive's signature cannot be verified: install the newest "
            f"`debian-archive-keyring` package (apt said: {text})"
        )
    if NETWORK_SIGNS.search(text):
        return NoNetworkError(
            f"{label}: the package archive cannot be reached: check the network and apt's proxy settings "
            f"(`apt-get update` must work), then run the command again; what was downloaded is kept "
            f"(apt said: {text})"
        )
    return BuildError(f"{label}: apt failed: {text}")
