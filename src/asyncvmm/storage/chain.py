"""Opening an image with everything behind it, and what format a file is taken for.

The format is never guessed from what is in a file: a guest that owns a raw disk could write a qcow2
header into it that names any file of the host as its backing file, and would read that file after
the next start. It is what the user says (``format=``), or what the backing file's own entry in the
overlay says, or else qcow2 for names that end in ``.qcow2`` and raw for all others; and a file taken
for raw only because of its name is refused when it begins like a qcow2 image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asyncvmm.device import Blob
from asyncvmm.storage import layout
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.header import Header, read_header
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.qcow2 import Qcow2Image
from asyncvmm.storage.raw import RawImage
from asyncvmm.storage.repair import repair_image

FORMATS: Final = ("raw", "qcow2")
MAX_CHAIN: Final = 64

Image = RawImage | Qcow2Image
_PROTOCOL: Final = re.compile(r"[A-Za-z0-9+.-]+:")


def format_of(path: Path, given: str | None = None) -> str:
    """The format that a file is taken for; ImageError when that is not clear."""
    if given is not None:
        if given not in FORMATS:
            raise ImageError(f"disk image {path}: no format {given!r}: raw or qcow2")
        return given
    if path.suffix.lower() == ".qcow2":
        return "qcow2"
    try:
        if not path.is_file():
            return "raw"
        with path.open("rb") as file:
            magic = file.read(4)
    except (OSError, ValueError):
        return "raw"  # opening it says what is wrong
    if magic == layout.MAGIC:
        raise ImageError(
            f"disk image {path}: begins like a qcow2 image and is not named *.qcow2: "
            "say format=qcow2, or format=raw when a guest wrote this into its raw disk"
        )
    return "raw"


def backing_path(path: Path, header: Header) -> Path | None:
    """Where an image's backing file is; names are relative to the image. ImageError for URLs."""
    name = header.backing_file
    if name is None:
        return None
    if _PROTOCOL.match(name):
        raise ImageError(f"disk image {path}: backing file {name!r}: only files are supported")
    return path.parent / name


def backing_format(path: Path, header: Header) -> str:
    """The format of an image's backing file, as its header says it."""
    backing = backing_path(path, header)
    assert backing is not None
    given = header.backing_format
    if given is not None and given not in FORMATS:
        raise ImageError(f"disk image {path}: the backing file's format {given!r} is not supported")
    try:
        return format_of(backing, given)
    except ImageError as error:
        raise ImageError(
            f"disk image {path}: it does not say what format its backing file has: {error}; "
            f"asyncvmm disk rebase --unsafe --backing {header.backing_file} --backing-format ..."
        ) from error


def open_image(
    path: Path | str,
    format: str | None = None,
    read_only: bool = False,
    *,
    backing: bool = True,
    above: Image | None = None,
) -> Image:
    """An image, with its backing files unless ``backing`` is False; only the first is written to.

    ``above`` is an open image that is to have this one as its backing file, and so cannot be in it.
    ImageError names the file that is missing, locked, of another format or wrong, a chain of more than
    64 files, or one that leads back to itself.
    """
    seen = [] if above is None else [above.file.identity]
    return _open(Path(path), format, read_only, backing, seen)


@contextmanager
def opened(
    path: Path | str,
    format: str | None = None,
    read_only: bool = False,
    *,
    backing: bool = True,
    above: Image | None = None,
) -> Iterator[Image]:
    """``open_image`` for a block. When the block is interrupted rather than done or failed, tables
    that were being changed in memory are not written: the file is as its last flush left it.
    """
    image = open_image(path, format, read_only, backing=backing, above=above)
    try:
        yield image
    except Exception:
        image.close()
        raise
    except BaseException:
        image.abandon()
        raise
    image.close()


def _open(
    path: Path, given: str | None, read_only: bool, backing: bool, seen: list[tuple[int, int]]
) -> Image:
    _refuse_loop(path, seen)
    if format_of(path, given) == "raw":
        return RawImage(path, read_only, devices=not seen)
    file = HostFile(path, read_only, devices=False)
    below: Blob | None = None
    try:
        if not read_only:
            _tidy(file)
        probe = Qcow2Image(file)
        if not backing or probe.header.backing_file is None:
            return probe
        if len(seen) >= MAX_CHAIN:
            raise ImageError(f"disk image {path}: more than {MAX_CHAIN} backing files")
        where = backing_path(path, probe.header)
        assert where is not None
        below = _open(where, backing_format(path, probe.header), True, True, [*seen, file.identity])
        probe.backing = below
        return probe
    except BaseException:
        file.close()
        if below is not None:
            below.close()
        raise


def _tidy(file: HostFile) -> None:
    """An image with lazy refcounts that was not closed has its refcounts counted anew."""
    features = read_header(file).incompatible
    if features & layout.DIRTY and not features & layout.CORRUPT:
        repair_image(file)


def _refuse_loop(path: Path, seen: list[tuple[int, int]]) -> None:
    """Before it is opened: this process itself holds the lock of an image that is seen again."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return  # opening it says what is wrong
    if (status.st_dev, status.st_ino) in seen:
        raise ImageError(f"disk image {path}: is its own backing file")


def chain(image: Blob | None) -> list[Image]:
    """The image and what is behind it, top first."""
    images: list[Image] = []
    while isinstance(image, (RawImage, Qcow2Image)):
        images.append(image)
        image = image.backing if isinstance(image, Qcow2Image) else None
    return images
