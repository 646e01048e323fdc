"""``asyncvmm disk``: making, changing and checking disk images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import attrs

from asyncvmm.api import disks
from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import GIB, KIB, MIB
from asyncvmm.cli.interrupts import Interruptible
from asyncvmm.machine import parse_size

EPILOG = """\
examples:
  asyncvmm disk create web.qcow2 4G                      takes a few hundred KB until it is written to
  asyncvmm disk create web.qcow2 --backing base.img      writes go to web.qcow2, base.img stays
  asyncvmm disk info web.qcow2
  asyncvmm disk resize web.qcow2 +2G
  asyncvmm disk convert web.qcow2 web.img
  asyncvmm disk check web.qcow2 --repair all
  asyncvmm run linux --disk web.qcow2 --snapshot

The format of an image goes by its name: qcow2 for *.qcow2, raw for all others, or what --format says. It is
never guessed from the contents, because those are a guest's: a guest could write a qcow2 header into its
raw disk that names a file of yours as backing file, and read it after the next start. For the same reason
look at `asyncvmm disk info` of a qcow2 image that somebody gave you before you run it.
An image is locked while a guest or a command has it open. Ctrl-C ends a command at a safe place.
"""

_SUFFIXES = {"K": KIB, "M": MIB, "G": GIB, "T": 1 << 40}


def add_parser(commands: Any) -> None:
    """Add the command and its actions."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "disk",
        help="make, change and check disk images",
        description="Disk images: raw files and qcow2 with backing files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_create(actions)
    _add_info(actions)
    _add_resize(actions)
    _add_convert(actions)
    _add_commit(actions)
    _add_rebase(actions)
    _add_check(actions)
    _add_map(actions)
    _add_compare(actions)


def _action(actions: Any, name: str, text: str, function: Any, *examples: str) -> Any:
    epilog = "examples:\n" + "\n".join(f"  asyncvmm disk {name} {each}" for each in examples)
    parser = actions.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=function)
    return parser


def _image(parser: Any, help: str = "the image") -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help=help)
    _format(parser, "--format", "what IMAGE is (default: qcow2 for *.qcow2, else raw)")


def _format(parser: Any, name: str, help: str) -> None:
    parser.add_argument(name, choices=disks.FORMATS, help=help)


def _json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")


def _add_create(actions: Any) -> None:
    parser = _action(
        actions,
        "create",
        "make an empty image",
        create,
        "web.qcow2 4G",
        "web.qcow2 --backing base.img",
        "scratch.img 512M",
    )
    _image(parser, "the new file")
    parser.add_argument(
        "size", nargs="?", metavar="SIZE", help="such as 4G (default: the backing's)"
    )
    parser.add_argument(
        "--backing", metavar="FILE", help="read from FILE (relative to IMAGE) what is not written"
    )
    _format(parser, "--backing-format", "what the backing file is")
    parser.add_argument("--cluster-size", metavar="SIZE", default="64K", help="512 to 2M")
    parser.add_argument(
        "--lazy-refcounts", action="store_true", help="let programs put off writing refcounts"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def create(options: argparse.Namespace) -> int:
    """Make it."""
    disks.create_image(
        options.image,
        None if options.size is None else _size(options.size),
        format=options.format,
        backing=options.backing,
        backing_format=options.backing_format,
        cluster_bytes=_size(options.cluster_size),
        lazy_refcounts=options.lazy_refcounts,
        force=options.force,
    )
    return 0


def _add_info(actions: Any) -> None:
    parser = _action(
        actions, "info", "say what an image is, and its backing files", info, "web.qcow2 --json"
    )
    _image(parser)
    _json(parser)


def info(options: argparse.Namespace) -> int:
    """The image and, as far as they can be opened, those behind it."""
    first = disks.image_info(options.image, options.format)
    if options.json:
        print(json.dumps(attrs.asdict(first, value_serializer=_plain), indent=2))
        return 0
    print("\n".join(f"{name:<16}{value}" for name, value in _info_lines(first)))
    return 0


def _plain(_instance: Any, _attribute: Any, value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _info_lines(info: disks.ImageInfo) -> list[tuple[str, str]]:
    lines = [
        ("image", str(info.path)),
        ("format", info.format + (f", version {info.version}" if info.version else "")),
        ("size", f"{_human(info.size_bytes)} ({info.size_bytes} bytes)"),
        ("on the host", _human(info.allocated_bytes)),
    ]
    if info.cluster_bytes is not None:
        lines.append(("cluster size", _human(info.cluster_bytes)))
        lines.append(("refcount bits", str(info.refcount_bits)))
        lines.append(("compression", str(info.compression)))
    if info.backing_file is not None:
        form = info.backing_format or "not said"
        missing = "" if info.backing_path and info.backing_path.exists() else ", not there"
        lines.append(("backing file", f"{info.backing_file} (format: {form}{missing})"))
    features = info.incompatible + info.compatible + info.autoclear
    if features:
        lines.append(("features", ", ".join(features)))
    for each in info.snapshots:
        lines.append(("snapshot", f"{each.id} {each.name}"))
    return lines


def _add_resize(actions: Any) -> None:
    parser = _action(
        actions, "resize", "change the size of a disk", resize, "web.qcow2 8G", "web.img +512M"
    )
    _image(parser)
    parser.add_argument("size", metavar="[+]SIZE", help="the new size, or how much more")
    parser.add_argument("--shrink", action="store_true", help="lose what is behind the new end")


def resize(options: argparse.Namespace) -> int:
    """Change it; smaller only when nothing is lost, or when told so."""
    with disks.opened(options.image, options.format) as image:
        more = options.size.startswith("+")
        size = _size(options.size.removeprefix("+"))
        disks.resize_image(image, image.size_bytes + size if more else size, shrink=options.shrink)
    return 0


def _add_convert(actions: Any) -> None:
    parser = _action(
        actions,
        "convert",
        "copy a disk into a new image of its own",
        convert,
        "web.qcow2 web.img",
        "web.img web.qcow2 --cluster-size 2M",
    )
    _image(parser, "what to copy, with its backing files")
    parser.add_argument("target", type=Path, metavar="TARGET", help="the new file")
    _format(parser, "--target-format", "what TARGET is to be")
    parser.add_argument("--cluster-size", metavar="SIZE", default="64K", help="of a qcow2 target")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")


def convert(options: argparse.Namespace) -> int:
    """Copy it."""
    with Interruptible("copying") as progress:
        disks.convert_image(
            options.image,
            options.target,
            source_format=options.format,
            format=options.target_format,
            cluster_bytes=_size(options.cluster_size),
            force=options.force,
            progress=progress,
        )
    return 0


def _add_commit(actions: Any) -> None:
    parser = _action(
        actions, "commit", "write an overlay's contents into its backing file", commit, "web.qcow2"
    )
    _image(parser, "the overlay; other overlays of its backing file are no good afterwards")
    parser.add_argument("--keep", action="store_true", help="do not empty the overlay")


def commit(options: argparse.Namespace) -> int:
    """Commit it."""
    with Interruptible("committing") as progress:
        below = disks.commit_image(
            options.image, format=options.format, keep=options.keep, progress=progress
        )
    print(f"committed to {below}")
    return 0


def _add_rebase(actions: Any) -> None:
    parser = _action(
        actions,
        "rebase",
        "give an overlay another backing file; it shows the same as before",
        rebase,
        "web.qcow2 --backing new-base.img",
        "web.qcow2 --no-backing",
        "web.qcow2 --backing moved/base.img --unsafe",
    )
    _image(parser, "the overlay")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--backing", metavar="FILE", help="the new backing file")
    which.add_argument("--no-backing", action="store_true", help="copy all that is needed")
    _format(parser, "--backing-format", "what the backing file is")
    parser.add_argument(
        "--unsafe", action="store_true", help="change the name only: FILE has the same contents"
    )


def rebase(options: argparse.Namespace) -> int:
    """Rebase it."""
    with Interruptible("rebasing") as progress:
        disks.rebase_image(
            options.image,
            options.backing,
            format=options.format,
            backing_format=options.backing_format,
            unsafe=options.unsafe,
            progress=progress,
        )
    return 0


def _add_check(actions: Any) -> None:
    parser = _action(
        actions,
        "check",
        "look for errors in an image",
        check,
        "web.qcow2",
        "web.qcow2 --repair all",
    )
    parser.epilog += (
        "\n\nexit status: 0 when it is clean, 1 with errors, 3 with leaks only, 2 for wrong input."
    )
    _image(parser)
    parser.add_argument(
        "--repair", choices=("leaks", "all"), help="free what nobody uses, or repair errors too"
    )
    _json(parser)


def check(options: argparse.Namespace) -> int:
    """Check it; the exit status says what was found, after a repair what is left."""
    with Interruptible("checking") as progress:
        report = disks.check_image(
            options.image, options.format, repair=options.repair, progress=progress
        )
    if options.json:
        print(json.dumps(attrs.asdict(report, value_serializer=_plain), indent=2))
    else:
        for line in report.findings:
            print(line)
        print(_verdict(report))
    if report.errors or report.corrupt or report.dirty:
        return 1
    return 3 if report.leaks else 0


def _verdict(report: disks.CheckReport) -> str:
    words = [f"{report.errors} errors", f"{report.leaks} leaked clusters"]
    words += [name for name in ("dirty", "corrupt") if getattr(report, name)]
    if report.repaired:
        words.append(f"{report.repaired} repaired")
    text = "clean" if report.clean else ", ".join(words)
    if report.clean and report.repaired:
        text = f"clean, {report.repaired} repaired"
    share = report.allocated_clusters * 100 / max(1, report.total_clusters)
    return f"{report.path}: {text}; {share:.1f} % allocated"


def _add_map(actions: Any) -> None:
    parser = _action(
        actions, "map", "say which parts of a disk are where", map_disk, "web.qcow2 --json"
    )
    _image(parser)
    _json(parser)


def map_disk(options: argparse.Namespace) -> int:
    """Every range with its place; in text only those with data."""
    with disks.opened(options.image, options.format, read_only=True) as image:
        files = [str(each.path) for each in disks.chain(image)]
        if options.json:
            entries = [attrs.asdict(entry) for entry in disks.map_image(image)]
            print(json.dumps(entries, indent=2))
            return 0
        print(f"{'start':>16} {'length':>16} {'at':>16}  file")
        for entry in disks.map_image(image):
            if entry.data and not entry.zero:
                at = "compressed" if entry.offset is None else f"{entry.offset:#x}"
                print(f"{entry.start:#16x} {entry.length:#16x} {at:>16}  {files[entry.depth]}")
    return 0


def _add_compare(actions: Any) -> None:
    parser = _action(
        actions, "compare", "say whether two disks show the same", compare, "web.qcow2 web.img"
    )
    parser.epilog += "\n\nexit status: 0 when they do, 1 when not."
    _image(parser)
    parser.add_argument("other", type=Path, metavar="OTHER", help="another image")
    _format(parser, "--other-format", "what OTHER is")


def compare(options: argparse.Namespace) -> int:
    """Compare them."""
    with Interruptible("comparing") as progress:
        result = disks.compare_images(
            options.image,
            options.other,
            first_format=options.format,
            second_format=options.other_format,
            progress=progress,
        )
    print("the same" if result.equal else f"they differ at byte {result.offset}")
    return 0 if result.equal else 1


def _size(text: str) -> int:
    """Bytes; also in T, which memory does not come in."""
    word = text.strip().upper().removesuffix("IB").removesuffix("B")
    if word.endswith("T") and word[:-1].isdigit():
        return int(word[:-1]) << 40
    size = parse_size(text)
    if size < 0:
        raise ConfigError(f"{text!r} is not a size: write for example 128M or 1G")
    return size


def _human(size_bytes: int) -> str:
    for suffix in ("T", "G", "M", "K"):
        unit = _SUFFIXES[suffix]
        if size_bytes >= unit:
            return f"{size_bytes / unit:.4g} {suffix}iB"
    return f"{size_bytes} bytes"
