"""A sample of every campaign of ``tools.fuzz``, and what makes a campaign worth something.

``ASYNCVMM_FUZZ`` multiplies the number of inputs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.queue_fuzz import QueueFuzzer
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue
from tools.fuzz.campaign import campaign, check, input_of
from tools.fuzz.targets import Target, find_targets

INPUTS = 300 * int(os.environ.get("ASYNCVMM_FUZZ", "1"))
SEED = int(os.environ.get("ASYNCVMM_FUZZ_SEED", "20261124"))
ROOT = Path(__file__).parents[2]
TARGETS = find_targets()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_sample(target: Target) -> None:
    outcome = campaign(target, SEED, range(INPUTS))
    assert outcome.finding is None, str(outcome.finding)
    assert outcome.inputs == INPUTS


def test_every_queue_and_every_protocol_is_a_target() -> None:
    names = {target.name for target in TARGETS}
    assert names >= {
        *("virtio_net.receive", "virtio_net.transmit", "virtio_net.control", "virtio_blk"),
        *("virtio_console.receive", "virtio_console.transmit", "virtio_rng", "switch", "link"),
        *("gateway.dhcp", "gateway.dns", "gateway.nat", "tcp", "qcow2", "manifest"),
        *("nvram.file", "nvram.sealed", "journal.file", "journal.records", "journal.header"),
        "replay",
        *("pages.pack", "pages.sealed_pack", "pages.table", "pages.sealed_table"),
        *("manifest.values", "manifest.host", "manifest.start", "folder.head", "folder.info"),
        *("folder.lock", "folder.log", "folder.entry", "folder.restore"),
        *("vm_toml.text", "vm_toml.keys", "vm_toml.large", "vm_toml.edit"),
    }
    assert {target.name for target in find_targets(["virtio_net"])} < names
    with pytest.raises(ConfigError, match="no target 'virtio_nets'"):
        find_targets(["virtio_nets"])


def test_an_input_depends_on_its_number_alone() -> None:
    target = Target("t", lambda data: None, (b"good input", b"another"))
    first = [input_of(target, 7, number) for number in range(50)]
    assert [input_of(target, 7, number) for number in reversed(range(50))] == first[::-1]
    assert len(set(first)) > 40
    assert [input_of(target, 8, number) for number in range(50)] != first


def test_a_finding_names_seed_and_input() -> None:
    def refuse(data: bytes) -> None:
        if len(data) % 5 == 3:
            raise GuestError("three")

    target = Target("t", refuse)
    finding = campaign(target, 3, range(1000)).finding
    assert finding is not None
    assert "seed 3" in str(finding) and finding.data.hex() in str(finding)
    assert check(target, 3, finding.number)[0] == finding


class Stray(VirtioDevice):
    """Writes one byte behind what it was given; or raises what is no GuestError."""

    def __init__(self, bench: DeviceBench, *, raises: bool) -> None:
        super().__init__(bench.io, 42, [16])
        self.raises = raises

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        if self.raises:
            raise ValueError("a bug")
        segment = chain.writable[-1]
        end = segment.address + segment.length
        byte = self.io.dma.read(end, 1)
        self.io.dma.write(end, bytes([byte[0] ^ 0xFF]))
        queue.complete(chain, 0)


@pytest.mark.parametrize(("raises", "said"), [(False, "was not granted"), (True, "a bug")])
def test_a_broken_device_is_found(raises: bool, said: str) -> None:
    fuzzer = QueueFuzzer(lambda bench: Stray(bench, raises=raises), 0, writable=True)
    outcome = campaign(Target("stray", fuzzer.run), SEED, range(500))
    assert outcome.finding is not None
    assert said in outcome.finding.text


def test_the_command() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.fuzz", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run("link", "--count", "600", "--seed", "5", "--jobs", "2")
    assert done.returncode == 0, done
    assert done.stdout.startswith("link: seed 5, 600 inputs") and "nothing found" in done.stdout
    assert run("nothing").returncode == 2
