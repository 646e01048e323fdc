"""The private apt directory, with a stand-in for apt: what is asked of it, and what its failures become."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from asyncvmm.plugin.images import (
    BuildError,
    ChecksumError,
    ImageCache,
    ImageError,
    NoAptError,
    NoNetworkError,
    NoSpaceError,
    SilentProgress,
)
from asyncvmm_plugins.debian_images.apt import (
    AptDirectory,
    configuration,
    package_file,
    require_apt,
    source_stanza,
)
from asyncvmm_plugins.debian_images.apt_errors import IndexMismatchError, apt_failure
from asyncvmm_plugins.debian_images.kernel_package import kernel_packages, verified_suite
from asyncvmm_plugins.debian_images.lockfile import LockFile, Pin
from asyncvmm_plugins.debian_images.sources import Mirror

MIRROR = Mirror(("http://mirror.example/debian",), "/keys.gpg")
DEB = b"not really a package"
DIGEST = hashlib.sha256(DEB).hexdigest()

FAKE_GET = """#!/bin/sh
echo "$@" >> {log}
fd=$(echo "$@" | sed 's/.*Status-Fd=//')
if [ -e {fail} ]; then cat {fail} >&2; exit 100; fi
case " $* " in
*" download "*)
	echo dlstatus:1:50.0:half > /proc/self/fd/$fd
	printf %s "$(cat {deb})" > thing_1%3a2_riscv64.deb ;;
esac
"""
FAKE_CACHE = """#!/bin/sh
cat {index}
"""


class Machine:
    """A directory of stand-in tools on PATH."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log"
        self.fail = root / "fail"
        self.deb = root / "deb"
        self.index = root / "index"
        self.deb.write_bytes(DEB)
        self.index.write_text(stanza("1:2", DIGEST))
        self.tool("apt-get", FAKE_GET)
        self.tool("apt-cache", FAKE_CACHE)
        self.tool("apt-config", "#!/bin/sh\n")
        self.tool("dpkg-deb", "#!/bin/sh\n")

    def tool(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        paths = {"log": self.log, "fail": self.fail, "deb": self.deb, "index": self.index}
        path.write_text(text.format(**paths))
        path.chmod(0o755)


def stanza(version: str, digest: str, package: str = "thing", depends: str = "") -> str:
    more = f"Depends: {depends}\n" if depends else ""
    return (
        f"Package: {package}\nVersion: {version}\nArchitecture: riscv64\nSize: {len(DEB)}\n"
        f"SHA256: {digest}\n{more}\n"
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    return machine


@pytest.fixture
def apt(machine: Machine) -> AptDirectory:
    return AptDirectory(ImageCache(machine.root / "cache"), "sid", "riscv64", MIRROR)


def test_a_package_is_resolved_fetched_checked_and_kept(
    machine: Machine, apt: AptDirectory
) -> None:
    progress = SilentProgress()
    apt.update(progress)
    package = apt.resolve("thing", LockFile([]), progress)
    path = apt.fetch(package, progress)
    assert path.read_bytes() == DEB
    asked = machine.log.read_text()
    assert "download thing=1:2" in asked
    assert apt.fetch(package, progress) == path
    assert machine.log.read_text() == asked, "a file that is there is not fetched again"


def test_the_index_is_updated_once(machine: Machine, apt: AptDirectory) -> None:
    apt.update(SilentProgress())
    apt.update(SilentProgress())
    assert machine.log.read_text().count(" update ") == 1


def test_a_wrong_file_is_refused(machine: Machine, apt: AptDirectory) -> None:
    machine.deb.write_bytes(b"x" * len(DEB))
    package = apt.packages(["thing"])[0]
    with pytest.raises(ChecksumError, match=DIGEST):
        apt.fetch(package, SilentProgress())


def test_a_vanished_pin_falls_back_to_the_newest_and_says_so(
    machine: Machine, apt: AptDirectory
) -> None:
    machine.index.write_text(stanza("3", DIGEST) + stanza("2", DIGEST))
    pin = Pin("thing", "sid", "riscv64", "1", len(DEB), DIGEST)
    progress = SilentProgress()
    assert apt.resolve("thing", LockFile([pin]), progress).version == "3"
    assert progress.notes == ["thing 1 is no longer in sid; using 3 instead"]


def test_a_pin_that_is_there_is_used(machine: Machine, apt: AptDirectory) -> None:
    machine.index.write_text(stanza("3", "cd" * 32) + stanza("2", DIGEST))
    pin = Pin("thing", "sid", "riscv64", "2", len(DEB), DIGEST)
    assert apt.resolve("thing", LockFile([pin]), SilentProgress()).version == "2"


def test_a_pin_with_another_hash_is_refused(machine: Machine, apt: AptDirectory) -> None:
    pin = Pin("thing", "sid", "riscv64", "1:2", len(DEB), "ef" * 32)
    with pytest.raises(ChecksumError, match="lock file"):
        apt.resolve("thing", LockFile([pin]), SilentProgress())


def test_a_pinned_file_that_is_there_needs_no_network(machine: Machine, apt: AptDirectory) -> None:
    lock = LockFile([Pin("thing", "sid", "riscv64", "1:2", len(DEB), DIGEST)])
    assert apt.pinned("thing", lock) is None
    apt.fetch(apt.packages(["thing"])[0], SilentProgress())
    machine.fail.write_text("E: no network\n")
    package = apt.pinned("thing", lock)
    assert package is not None
    assert apt.fetch(package, SilentProgress()).read_bytes() == DEB


def test_an_unknown_package_is_named(machine: Machine, apt: AptDirectory) -> None:
    machine.index.write_text("")
    with pytest.raises(ImageError, match="sid has no package thing for riscv64"):
        apt.resolve("thing", LockFile([]), SilentProgress())


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
    [
        (
            "E: Failed to fetch x  Temporary failure resolving 'mirror.example'",
            NoNetworkError,
            "network",
        ),
        ("E: Failed to fetch x  Could not connect to 127.0.0.1:1", NoNetworkError, "proxy"),
        ("W: Failed to fetch x  Connection timed out [IP: 1.2.3.4 80]", NoNetworkError, "kept"),
        (
            "E: Failed to fetch x  File has unexpected size (1 != 2). Mirror sync in progress?",
            IndexMismatchError,
            "try again later",
        ),
        ("E: Failed to fetch x  Hash Sum mismatch", IndexMismatchError, "try again later"),
        ("W: GPG error: x InRelease: NO_PUBKEY 6ED0E7B8", ChecksumError, "debian-archive-keyring"),
        ("E: The repository 'x' is not signed.", ChecksumError, "debian-archive-keyring"),
        ("E: You don't have enough free space in /x.", NoSpaceError, "ASYNCVMM_CACHE"),
        ("E: Write error - write (28: No space left on device)", NoSpaceError, "ASYNCVMM_CACHE"),
        ("E: something new", BuildError, "something new"),
        ("", BuildError, "no reason given"),
    ],
)
def test_failures_have_a_type_and_a_remedy(
    machine: Machine, apt: AptDirectory, said: str, kind: type[ImageError], remedy: str
) -> None:
    machine.fail.write_text(said + "\n")
    with pytest.raises(kind, match=remedy) as caught:
        apt.update(SilentProgress())
    assert type(caught.value) is kind
    assert "index of sid (riscv64)" in str(caught.value)
    assert type(apt_failure("x", said, Path("/c"))) is kind


def test_without_apt_the_error_says_what_else_there_is(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, apt: AptDirectory
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NoAptError, match="asyncvmm run demo"):
        require_apt()
    with pytest.raises(NoAptError, match="apt-get is not installed"):
        apt.update(SilentProgress())


def test_the_configuration_keeps_apt_in_its_directory(machine: Machine, apt: AptDirectory) -> None:
    apt.update(SilentProgress())
    text = configuration(apt.root, "riscv64")
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name.startswith("Dir::") and value not in ('"";', '"/dev/null";'):
            assert value.startswith(f'"{apt.root}'), line
    assert (apt.root / "sources.d" / "asyncvmm.sources").read_text() == (
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: sid\nComponents: main\n"
        "Architectures: riscv64\nSigned-By: /keys.gpg\n"
    )
    assert "Signed-By" not in source_stanza(Mirror(("x",)), "sid", "riscv64")
    with pytest.raises(ImageError, match="cannot use a cache directory"):
        configuration(Path('/a"b'), "riscv64")


def test_a_stanza_without_a_hash_is_refused() -> None:
    with pytest.raises(BuildError, match="sha256"):
        package_file({"package": "a", "version": "1", "architecture": "all", "size": "1"}, "sid")


def test_suites_whose_index_does_not_verify_are_passed_over(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.tool(
        "apt-get",
        "#!/bin/sh\ncase \"$*\" in */sid-*) echo 'E: x Hash Sum mismatch' >&2; exit 100;; esac\n",
    )
    machine.tool("apt-config", f"#!/bin/sh\necho \"LIST='{machine.root}/list.list'\"\n")
    (machine.root / "list.list").write_text("deb http://a.example/debian bookworm main\n")
    progress = SilentProgress()
    cache = ImageCache(machine.root / "cache")
    assert verified_suite(cache, ("sid", "forky"), progress).suite == "forky"
    assert "sid is passed over" in progress.notes[0]
    with pytest.raises(IndexMismatchError):
        verified_suite(cache, ("sid",), progress)
    monkeypatch.setenv("ASYNCVMM_DEBIAN_SUITE", "trixie")
    assert verified_suite(cache, ("sid",), progress).suite == "trixie"
    monkeypatch.setenv("ASYNCVMM_DEBIAN_SUITE", "../x")
    with pytest.raises(ImageError, match="ASYNCVMM_DEBIAN_SUITE"):
        verified_suite(cache, ("sid",), progress)


def test_a_kernel_in_parts_is_followed_from_its_meta_package(
    machine: Machine, apt: AptDirectory
) -> None:
    machine.tool("apt-cache", "#!/bin/sh\nfor last; do :; done\ncat {index}.$last\n")
    parts = {
        "linux-image-riscv64": "linux-base (= 7), linux-image-7-riscv64 (= 7-1)",
        "linux-image-7-riscv64": "kmod, linux-binary-7-riscv64 (= 7-1), linux-modules-7-riscv64 (= 7-1)",
        "linux-binary-7-riscv64": "",
        "linux-modules-7-riscv64": "",
    }
    for name, depends in parts.items():
        text = stanza("7-2", DIGEST, name, depends) + stanza("7-1", DIGEST, name, depends)
        Path(f"{machine.index}.{name}").write_text(text)
    found = kernel_packages(apt, LockFile([]), SilentProgress())
    assert [(p.package, p.version) for p in found] == [(n, "7-1") for n in list(parts)[1:]]
