"""Making the folder of a virtual machine: it appears under its name only when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import tomlkit

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.machine import parse_size
from asyncvmm.machine.config import NVRAM, split_disk
from asyncvmm.plugin import DeviceType
from asyncvmm.plugin.images import BootFiles
from asyncvmm.runtime.commands import RUN_DEVICES
from asyncvmm.runtime.folder.layout import VM_TOML, FolderPaths
from asyncvmm.runtime.folder.settings import FORMAT, VmSettings, VmTomlError, parse_settings
from asyncvmm.runtime.folder.settings_edit import set_value
from asyncvmm.storage import Progress, convert_image, create_image, opened
from asyncvmm.storage.hostfile import sync_folder
from asyncvmm.storage.nvram import Nvram
from asyncvmm.storage.nvram_flash import flash_part
from asyncvmm.storage.packs import write_durably
from asyncvmm.storage.progress import silent

SUBFOLDERS: Final = ("disks", "image", "logs", "snapshots")
BOOT_FILES: Final = ("kernel", "initrd", "firmware", "elf")


@attrs.frozen
class NewMachine:
    """What ``asyncvmm create`` asks for. ``disks`` are sizes, or files to copy.

    ``keys`` are further keys of vm.toml, as ``asyncvmm config set`` takes them.
    """

    image: str = ""
    files: BootFiles | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    firmware: Path | None = None
    elf: Path | None = None
    append: str = ""
    memory: str | None = None
    harts: int | None = None
    disks: tuple[str, ...] = ()
    nets: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    keys: Mapping[str, str] = attrs.field(factory=dict, hash=False)


def create_folder(
    path: Path | str,
    wanted: NewMachine,
    *,
    types: Mapping[str, DeviceType] | None = None,
    progress: Progress = silent,
) -> VmSettings:
    """Make the folder at ``path``. ConfigError when something is there or the wishes are wrong."""
    target = Path(path)
    if os.path.lexists(target):
        raise ConfigError(
            f"{target}: exists already: choose another name, or `asyncvmm rm {target}`"
        )
    if not target.name or target.name in (".", ".."):
        raise ConfigError(f"{target}: is no name for a folder")
    with _new_folder(target) as part:
        where = FolderPaths(part)
        for name in SUBFOLDERS:
            (part / name).mkdir()
        boot = {name: _place_boot(where, name, wanted) for name in BOOT_FILES}
        flash, nvram = _image_flash(where, wanted)
        disks = [*_image_disks(where, wanted, progress), *_own_disks(where, wanted, progress)]
        text = _text(target, wanted, boot, flash, disks)
        try:
            parse_settings(text, part / VM_TOML, types)
            write_durably(part / VM_TOML, text.encode())
            for key, value in wanted.keys.items():
                set_value(part / VM_TOML, key, [value], types)
        except VmTomlError as error:
            raise VmTomlError(str(error).replace(str(part), str(target))) from error
        settings = parse_settings((part / VM_TOML).read_text(), part / VM_TOML, types)
        where.lock.touch()
        nvram.save(where.nvram)
    return settings


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        if not target.parent.is_dir():
            raise ConfigError(f"{target.parent}: there is no such folder")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        part = part.resolve()
        yield part
        for folder in (part, *(part / name for name in SUBFOLDERS)):
            sync_folder(folder)
        part.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise BackendError(f"{error.filename or target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _place_boot(where: FolderPaths, name: str, wanted: NewMachine) -> str | None:
    """The boot file ``name`` in the folder, as vm.toml names it."""
    source: Path | None = getattr(wanted, name)
    if source is None and wanted.files is not None:
        source = getattr(wanted.files, name)
    if source is None:
        return None
    _keep(source, where.image / name)
    return f"image/{name}"


def _keep(source: Path, target: Path) -> None:
    """The file as it is now: a second name for it where that can be, else a copy.

    A cached image is replaced by new files and never changed, so the machine keeps the one that it was
    made from, and pays nothing for it.
    """
    if not source.is_file():
        raise ConfigError(f"{source}: {'is a directory' if source.is_dir() else 'no such file'}")
    try:
        os.link(source.resolve(), target)
    except OSError:
        _copy(source, target)
        shutil.copystat(source, target)


def _copy(source: Path, target: Path) -> None:
    """Durably."""
    with source.open("rb") as file, target.open("wb") as out:
        shutil.copyfileobj(file, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())


def _image_flash(where: FolderPaths, wanted: NewMachine) -> tuple[list[str], Nvram]:
    """The image's firmware as it is, and the NVRAM with what the guest writes its variables to.

    A second part to be written, which no board has, is a file among the disks.
    """
    nvram = Nvram.fresh()
    found = []
    for number, part in enumerate(wanted.files.flash if wanted.files is not None else ()):
        if part.readonly:
            _keep(part.path, where.image / f"flash{number}.fd")
            found.append(f"image/flash{number}.fd,readonly")
        elif not nvram.flash:
            with opened(part.path, read_only=True) as image:
                nvram = attrs.evolve(nvram, flash=(flash_part(image),))
            found.append(f"{where.nvram.name},format={NVRAM}")
        else:
            _copy(part.path, where.disks / f"flash{number}.fd")
            found.append(f"disks/flash{number}.fd")
    return found, nvram


def _image_disks(where: FolderPaths, wanted: NewMachine, progress: Progress) -> Iterator[str]:
    """An overlay on each of the image's disks, to be written to."""
    if wanted.files is None:
        return
    for number, disk in enumerate(wanted.files.disks):
        base = where.image / f"disk{number}.raw"
        try:
            os.link(disk.path.resolve(), base)
        except OSError:
            convert_image(disk.path, base, source_format="raw", progress=progress)
            shutil.copystat(disk.path, base)
        name = "root.qcow2" if number == 0 else f"image{number}.qcow2"
        create_image(where.disks / name, backing=f"../image/{base.name}", backing_format="raw")
        yield f"disks/{name}"


def _own_disks(where: FolderPaths, wanted: NewMachine, progress: Progress) -> Iterator[str]:
    for number, text in enumerate(wanted.disks):
        target = where.disks / f"data{number}.qcow2"
        source = split_disk(text)
        if source.path.is_file():
            convert_image(source.path, target, source_format=source.format, progress=progress)
        else:
            try:
                size = parse_size(text)
            except ConfigError:
                raise ConfigError(
                    f"--disk {text}: is neither a file nor a size such as 4G"
                ) from None
            create_image(target, size)
        yield f"disks/{target.name}"


def _text(
    target: Path,
    wanted: NewMachine,
    boot: Mapping[str, str | None],
    flash: Sequence[str],
    disks: Sequence[str],
) -> str:
    """The new vm.toml, with a word on everything in it."""
    files = wanted.files
    document = tomlkit.document()

    def say(*lines: str) -> None:
        document.add(tomlkit.nl())
        for line in lines:
            document.add(tomlkit.comment(line))

    document.add(
        tomlkit.comment(f"The virtual machine {target.name}: `asyncvmm run {target.name}`.")
    )
    document.add(
        tomlkit.comment(
            "Change this file, or `asyncvmm config set`, which checks; see `config --help`."
        )
    )
    document["version"] = FORMAT
    name = FolderPaths(Path(target.name)).name
    document["name"] = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)[:64]
    if wanted.image:
        say(
            "Where kernel and disks came from. They are kept in image/, whatever becomes of that image."
        )
        document["image"] = wanted.image
    say("What it boots, relative to this folder.")
    for key, value in boot.items():
        if value is not None:
            document[key] = value
    if flash:
        document["flash"] = list(flash)
    append = [_append(files), wanted.append]
    if any(append):
        document["append"] = " ".join(word for word in append if word)
    say("The machine.")
    memory = wanted.memory or (files.memory if files is not None else "128M")
    document["memory"] = memory
    document["harts"] = wanted.harts or (files.harts if files is not None else 1)
    agent = files is not None and files.run_protocol == "agent"
    devices = [*(RUN_DEVICES if agent else ()), *wanted.devices]
    if devices:
        document["devices"] = devices
    if disks:
        say("What the guest writes is kept. Look at disks with `asyncvmm disk`.")
        document["disks"] = list(disks)
    nets = wanted.nets or (("lan",) if wanted.publish or wanted.allow else ())
    if nets or wanted.publish or wanted.allow:
        say(
            "Network cards; ports of this machine that lead to the guest; what it may reach outside."
        )
        document["net"] = list(nets)
        if wanted.publish:
            document["publish"] = list(wanted.publish)
        if wanted.allow:
            document["allow"] = list(wanted.allow)
    return tomlkit.dumps(document)


def _append(files: BootFiles | None) -> str:
    if files is None:
        return ""
    return files.append if files.append_kept is None else files.append_kept
