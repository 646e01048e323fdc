"""A private apt directory: the machine's apt fetches and verifies, without root and without touching
the machine's own state.

apt does what it is good at (mirrors, proxies, credentials, signatures, resuming); this module gives
it a configuration of its own, reads its answers and turns its failures into typed errors.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from asyncvmm.plugin.images import (
    BuildError,
    ChecksumError,
    ImageCache,
    ImageError,
    Progress,
    sha256_of,
)
from asyncvmm_plugins.debian_images.apt_errors import apt_failure, no_apt
from asyncvmm_plugins.debian_images.lockfile import LockFile, Pin
from asyncvmm_plugins.debian_images.sources import Mirror, machine_mirror, read_sources, stanzas


@frozen
class PackageFile:
    """A binary package as an index describes it."""

    package: str
    version: str
    architecture: str
    size_bytes: int
    sha256: str
    depends: str = ""
    suite: str = ""

    def __str__(self) -> str:
        """``name version (suite)``, for notes and manifests."""
        return f"{self.package} {self.version} ({self.suite})"


class AptDirectory:
    """apt for one suite and architecture, in ``cache.root/apt/SUITE-ARCHITECTURE``."""

    def __init__(
        self, cache: ImageCache, suite: str, architecture: str, mirror: Mirror | None = None
    ) -> None:
        self.cache = cache
        self.suite = suite
        self.architecture = architecture
        self.root = cache.root / "apt" / f"{suite}-{architecture}"
        self._mirror = mirror
        self._updated = False

    def update(self, progress: Progress) -> None:
        """Fetches and verifies the suite's index, once in this object's life."""
        if self._updated:
            return
        require_apt()
        self._configure()
        label = f"index of {self.suite} ({self.architecture})"
        self._run(["apt-get", "-c", str(self._conf), "update"], label, 100, progress)
        self._updated = True

    def packages(self, names: Sequence[str]) -> list[PackageFile]:
        """Every version of the packages ``names`` in the index, newest first for each name."""
        out = self._query(["apt-cache", "-c", str(self._conf), "show", *names])
        return [package_file(fields, self.suite) for fields in stanzas(out) if "sha256" in fields]

    def index(self) -> list[dict[str, str]]:
        """The whole index as stanzas."""
        return list(stanzas(self._query(["apt-cache", "-c", str(self._conf), "dumpavail"])))

    def resolve(self, name: str, lock: LockFile, progress: Progress) -> PackageFile:
        """The pinned file of package ``name``, or the newest, with a note, if the pin has vanished."""
        found = self.packages([name])
        if not found:
            raise ImageError(
                f"{self.suite} has no package {name} for {self.architecture}: the archive has changed; "
                "look for a newer asyncvmm"
            )
        pin = lock.find(name, self.suite)
        for candidate in found:
            if pin is not None and candidate.version == pin.version:
                if candidate.sha256 != pin.sha256:
                    raise ChecksumError(
                        f"{candidate} is not the file that asyncvmm was tested with: its SHA-256 is "
                        f"{candidate.sha256}, the lock file says {pin.sha256}"
                    )
                return candidate
        if pin is not None:
            progress.note(
                f"{name} {pin.version} is no longer in {self.suite}; using {found[0].version} instead"
            )
        return found[0]

    def pinned(self, name: str, lock: LockFile) -> PackageFile | None:
        """The pinned file of package ``name`` if it was downloaded before: no network is needed."""
        pin = lock.find(name, self.suite)
        if pin is None:
            return None
        package = _from_pin(pin)
        return package if self._is_downloaded(package) else None

    def find(self, name: str, lock: LockFile, progress: Progress) -> PackageFile:
        """The file of package ``name``: the pinned one, or the newest where that has vanished.

        The index is only asked for when the pinned file was not downloaded before.
        """
        package = self.pinned(name, lock)
        if package is None:
            self.update(progress)
            package = self.resolve(name, lock, progress)
        return package

    def fetch(self, package: PackageFile, progress: Progress) -> Path:
        """The path of the package's file, downloaded (resuming if it was cut off) and checked."""
        return self.fetch_all([package], progress)[0]

    def fetch_all(self, packages: Sequence[PackageFile], progress: Progress) -> list[Path]:
        """The paths of the packages' files, those that are missing downloaded in one go and checked."""
        missing = [package for package in packages if not self._is_downloaded(package)]
        if missing:
            self.update(progress)
            size = sum(package.size_bytes for package in missing)
            label = missing[0].package if len(missing) == 1 else f"{len(missing)} packages"
            self.cache.require_space(size * 2, f"downloading {label}")
            wanted = [f"{package.package}={package.version}" for package in missing]
            command = ["apt-get", "-c", str(self._conf), "download", *wanted]
            self._run(command, label, size, progress)
            for package in missing:
                self._accept(package)
        return [self._path(package) for package in packages]

    def _accept(self, package: PackageFile) -> None:
        """Finds a package's file among what apt delivered and gives it its checked name."""
        for path in (self.root / "archives").glob(f"{package.package}_*.deb"):
            if path.stat().st_size == package.size_bytes and sha256_of(path) == package.sha256:
                path.rename(self._path(package))
                return
        raise ChecksumError(
            f"apt delivered no file of {package} with SHA-256 {package.sha256}: try again; if it stays "
            f"so, delete {self.root}"
        )

    @property
    def _conf(self) -> Path:
        return self.root / "apt.conf"

    def _path(self, package: PackageFile) -> Path:
        return self.root / "archives" / f"{package.package}_{package.sha256[:16]}.deb"

    def _is_downloaded(self, package: PackageFile) -> bool:
        path = self._path(package)
        return (
            path.is_file()
            and path.stat().st_size == package.size_bytes
            and sha256_of(path) == package.sha256
        )

    def _configure(self) -> None:
        """Writes the private configuration. The machine's own is read before it by apt, so that
        proxies and credentials hold; what would touch the machine's state is replaced."""
        mirror = self._mirror if self._mirror is not None else find_mirror()
        for name in ("lists/partial", "archives/partial", "sources.d", "empty.d"):
            try:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ImageError(f"{self.root / name} cannot be made: {error.strerror}") from error
        (self.root / "status").touch()
        self._conf.write_text(configuration(self.root, self.architecture), "utf-8")
        source = source_stanza(mirror, self.suite, self.architecture)
        (self.root / "sources.d" / "asyncvmm.sources").write_text(source, "utf-8")

    def _query(self, command: list[str]) -> str:
        try:
            done = subprocess.run(command, capture_output=True, env=_environment(), check=False)
        except OSError as error:
            raise no_apt(str(error)) from error
        return done.stdout.decode("utf-8", "replace")

    def _run(self, command: list[str], label: str, total: int, progress: Progress) -> None:
        """Runs an apt command in the archive directory with a bar; raises what its failure means."""
        reader, writer = os.pipe()
        command = [*command, "-o", f"APT::Status-Fd={writer}"]
        with (
            progress.task(label, total) as task,
            open(reader, encoding="utf-8") as status,
            tempfile.TemporaryFile() as said,
        ):
            with subprocess.Popen(
                command,
                cwd=self.root / "archives",
                env=_environment(),
                pass_fds=[writer],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            ) as process:
                os.close(writer)
                done = 0
                for line in status:
                    now = min(total, _status_percent(line) * total // 10_000)
                    if now > done:
                        task.advance(now - done)
                        done = now
            if process.returncode == 0:
                task.advance(total - done)
                return
            said.seek(0)
            errors = said.read().decode("utf-8", "replace")
        raise apt_failure(label, errors, self.root)


def find_mirror() -> Mirror:
    """The machine's Debian mirror, from the files that apt itself reads."""
    command = [
        "apt-config", "shell",
        "LIST", "Dir::Etc::sourcelist/f",
        "PARTS", "Dir::Etc::sourceparts/d",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise no_apt(str(error)) from error
    found = dict(re.findall(r"^(LIST|PARTS)='(.*)'$", done.stdout, re.MULTILINE))
    return machine_mirror(
        read_sources(
            Path(found.get("LIST", "/etc/apt/sources.list")),
            Path(found.get("PARTS", "/etc/apt/sources.list.d")),
        )
    )


def require_apt() -> None:
    """Raises `NoAptError` unless apt's and dpkg's tools are installed."""
    for tool in ("apt-get", "apt-cache", "apt-config", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise no_apt(f"{tool} is not installed")


def configuration(root: Path, architecture: str) -> str:
    """The private apt.conf."""
    directory = str(root)
    if any(character in directory for character in '"\n\\;{}'):
        raise ImageError(f"apt cannot use a cache directory of this name: {directory!r}")
    return f"""\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg;
#clear APT::Architectures;
#clear APT::Default-Release;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::Contents-deb;
Dir::State "{directory}";
Dir::State::lists "{directory}/lists";
Dir::State::status "{directory}/status";
Dir::State::extended_states "{directory}/extended_states";
Dir::Cache "{directory}";
Dir::Cache::archives "{directory}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{directory}/sources.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{directory}/empty.d";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
APT::Get::List-Cleanup "true";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::Retries "3";
Acquire::http::Timeout "30";
"""


def source_stanza(mirror: Mirror, suite: str, architecture: str) -> str:
    """The private sources file, deb822 style."""
    lines = [
        "Types: deb",
        f"URIs: {' '.join(mirror.uris)}",
        f"Suites: {suite}",
        "Components: main",
        f"Architectures: {architecture}",
    ]
    if mirror.signed_by:
        lines.append(f"Signed-By: {mirror.signed_by}")
    return "\n".join(lines) + "\n"


def package_file(fields: Mapping[str, str], suite: str) -> PackageFile:
    """A package file from its stanza in the index of ``suite``. Raises `BuildError` if it lacks a field."""
    depends = ", ".join(
        fields[key] for key in ("pre-depends", "depends") if fields.get(key, "").strip()
    )
    try:
        return PackageFile(
            fields["package"],
            fields["version"],
            fields["architecture"],
            int(fields["size"]),
            fields["sha256"],
            depends,
            suite,
        )
    except (KeyError, ValueError) as error:
        raise BuildError(f"the index of {suite} has a package without {error}") from error


def _from_pin(pin: Pin) -> PackageFile:
    return PackageFile(
        pin.package, pin.version, pin.architecture, pin.size_bytes, pin.sha256, "", pin.suite
    )


def _status_percent(line: str) -> int:
    """Hundredths of a percent from an apt status line (``dlstatus:1:42.5:text``), 0 if it is none."""
    match = re.match(r"dlstatus:\d+:([0-9]+(?:\.[0-9]+)?):", line)
    return int(float(match[1]) * 100) if match is not None else 0


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "LANGUAGE": ""}
