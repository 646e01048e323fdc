"""The image ``linux``: a small SMP kernel built from Debian's kernel source, and a busybox initramfs.

It starts some eight times as fast as Debian's own kernel. Building takes minutes and a cross compiler.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Final

from asyncvmm.base.units import MIB
from asyncvmm.plugin.images import (
    BootFiles,
    BuildError,
    ImageCache,
    ImageType,
    MissingToolError,
    Progress,
    sha256_of,
)
from asyncvmm_plugins.debian_images import cpio, initramfs, lockfile
from asyncvmm_plugins.debian_images.agent import devmem_program
from asyncvmm_plugins.debian_images.apt import AptDirectory, PackageFile
from asyncvmm_plugins.debian_images.debs import unpack
from asyncvmm_plugins.debian_images.installer import (
    ARCHITECTURE,
    SUITE,
    Installer,
    check_kernel,
    read_installer,
)

PACKAGE: Final = "linux-source-6.12"
RECIPE: Final = "linux 4"
SAME_KERNEL: Final = ("linux 3", "linux 4")
"""Recipes that give the same kernel: one of them that is here need not be compiled again."""

CROSS_COMPILE: Final = "riscv64-linux-gnu-"
TOOLS: Final = {
    "riscv64-linux-gnu-gcc": "gcc-riscv64-linux-gnu",
    "riscv64-linux-gnu-ld": "binutils-riscv64-linux-gnu",
    "gcc": "gcc",
    "make": "make",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl",
    "tar": "tar",
    "xz": "xz-utils",
}
"""Program to the Debian package that has it."""

COMPILE_STEPS: Final = 1500
"""Lines that the build prints, about; for the bar only."""

LOG_LINES_SHOWN: Final = 15
IDENTITY: Final = {
    "KBUILD_BUILD_TIMESTAMP": "2026-01-01",
    "KBUILD_BUILD_USER": "asyncvmm",
    "KBUILD_BUILD_HOST": "asyncvmm",
    "LC_ALL": "C.UTF-8",
}


class SmallLinuxImage(ImageType):
    """``linux``."""

    name = "linux"
    summary = (
        "a small SMP Linux 6.12, compiled here from Debian's source (205 MB download, minutes)"
    )
    size_bytes_estimate = 220 * MIB

    def pull(self, cache: ImageCache, progress: Progress) -> None:
        """Fetches the source and the installer's busybox, and builds."""
        with cache.lock(self.name):
            here = cache.manifest(self.name)
            if here is None or here.recipe not in SAME_KERNEL:
                require_tools()
            cache.require_space(2600 * MIB, "building the image linux")
            lock = lockfile.load()
            apt = AptDirectory(cache, SUITE, ARCHITECTURE)
            source = apt.find(PACKAGE, lock, progress)
            kernel = kept_kernel(cache, str(source))
            if kernel is None:
                require_tools()
                kernel = build_kernel(cache, apt.fetch(source, progress), source, progress)
            installer, installer_package = read_installer(cache, progress)
            sources = [str(source), str(installer_package)]
            with cache.build(self.name, recipe=RECIPE, sources=sources) as directory:
                (directory / "Image").write_bytes(kernel)
                (directory / "initrd.cpio").write_bytes(build_initramfs(installer))

    def boot_files(self, cache: ImageCache) -> BootFiles:
        """Kernel, initramfs and command line."""
        directory = self.require_present(cache)
        return BootFiles(
            kernel=directory / "Image",
            initrd=directory / "initrd.cpio",
            append="console=ttyS0",
            memory="64M",
            run_protocol="agent",
        )


def require_tools() -> None:
    """Raises `MissingToolError`, naming the command that installs them, unless all tools are there."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        packages = sorted({TOOLS[tool] for tool in missing})
        raise MissingToolError(
            f"building the image linux needs {', '.join(missing)}: run "
            f"`sudo apt-get install {' '.join(packages)}`, or use the images debian or debian-full, which "
            "need no compiler"
        )


def build_initramfs(installer: Installer) -> bytes:
    """Busybox with its libraries, and ``devmem``; the kernel has its drivers built in."""
    program = installer.busybox
    return initramfs.pack(
        [
            *initramfs.program_entries(installer.tree, {"bin/busybox": program}),
            *initramfs.busybox_entries(program),
            cpio.file("sbin/devmem", devmem_program(), 0o755),
            *initramfs.base_entries(),
        ]
    )


def kept_kernel(cache: ImageCache, source: str) -> bytes | None:
    """The kernel of the image that is here, if ``source`` would become the same one, else None."""
    manifest = cache.manifest(SmallLinuxImage.name)
    if manifest is None or manifest.recipe not in SAME_KERNEL or source not in manifest.sources:
        return None
    path = cache.directory(SmallLinuxImage.name) / "Image"
    known = next((file.sha256 for file in manifest.files if file.name == "Image"), "")
    return path.read_bytes() if sha256_of(path) == known else None


def build_kernel(cache: ImageCache, deb: Path, source: PackageFile, progress: Progress) -> bytes:
    """The kernel Image built from the source package; its log stays in the cache's work directory if
    the build fails."""
    log = cache.work_directory() / "linux-build.log"
    with tempfile.TemporaryDirectory(prefix="linux.src-", dir=cache.work_directory()) as scratch:
        tree = Path(scratch)
        with progress.task(f"unpacking {source.package}", None):
            unpack(deb, tree)
            archive = next(tree.glob("usr/src/linux-source-*.tar.xz"), None)
            if archive is None:
                raise BuildError(f"{source} holds no kernel source archive")
            _run(["tar", "-xJf", str(archive), "-C", str(tree)], log)
            archive.unlink()
        directory = next(tree.glob("linux-source-*"))
        output = tree / "build"
        fragment = tree / "linux.config"
        fragment.write_text(config_fragment(), "utf-8")
        make = [
            "nice", "-n", "10", "make", "-C", str(directory), f"O={output}", "ARCH=riscv",
            f"CROSS_COMPILE={CROSS_COMPILE}", *(f"{key}={value}" for key, value in IDENTITY.items()),
        ]  # fmt: skip
        _run([*make, f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig"], log)
        check_config(config_fragment(), (output / ".config").read_text("utf-8"))
        jobs = len(os.sched_getaffinity(0))
        with progress.task("compiling linux", COMPILE_STEPS) as task:
            steps = _run([*make, f"-j{jobs}", "Image"], log, lambda: task.advance(1))
            task.advance(max(0, COMPILE_STEPS - steps))
        image = (output / "arch/riscv/boot/Image").read_bytes()
    log.unlink(missing_ok=True)
    return check_kernel(image, str(source))


def config_fragment() -> str:
    """The options that the kernel is built with."""
    return resources.files(__package__).joinpath("linux.config").read_text("utf-8")


def check_config(wanted: str, resulting: str) -> None:
    """Raises `BuildError` that names every option of ``wanted`` that ``resulting`` does not have."""
    have = parse_config(resulting)
    lost = [
        f"{name}={value} (is {have.get(name, 'n')})"
        for name, value in parse_config(wanted).items()
        if have.get(name, "n") != value
    ]
    if lost:
        raise BuildError(f"the kernel's configuration lost options: {', '.join(lost)}")


def parse_config(text: str) -> dict[str, str]:
    """The settings of a kernel configuration file."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.startswith("CONFIG_"):
            found[name] = value
    return found


def _run(command: list[str], log: Path, on_line: Callable[[], None] | None = None) -> int:
    """Runs a build step, its output appended to ``log``; the number of lines. Raises `BuildError`."""
    lines = 0
    tail: list[str] = []
    with log.open("a", buffering=1, encoding="utf-8") as out:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, **IDENTITY},
            )
        except OSError as error:
            raise MissingToolError(f"{command[0]} cannot be run: {error.strerror}") from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                out.write(line)
                tail = [*tail[1 - LOG_LINES_SHOWN :], line.rstrip()]
                lines += 1
                if on_line is not None and lines <= COMPILE_STEPS:
                    on_line()
    if process.returncode != 0:
        shown = "\n  ".join(tail)
        raise BuildError(
            f"building the image linux failed in `{' '.join(command[:6])} ...`; the whole log is "
            f"{log}, its end:\n  {shown}"
        )
    return lines
