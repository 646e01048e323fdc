"""The shared folder: what a guest may do with it, and what it may not."""

from __future__ import annotations

import errno
import json
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import Folder, MemoryFolder
from asyncvmm.testing import DeviceConformance
from asyncvmm.testing.virtio_driver import NEEDS_RESET
from asyncvmm_plugins.virtio_9p.hooks import asyncvmm_device_types
from asyncvmm_plugins.virtio_9p.nodes import BLOCK
from asyncvmm_plugins.virtio_9p.tests.client import FILES, Client, NinePError, text
from asyncvmm_plugins.virtio_9p.tests.fuzz import fuzz_one
from asyncvmm_plugins.virtio_9p.tree import Tree


class TestReadOnly(DeviceConformance):
    device_type = asyncvmm_device_types()[0]
    options = {"path": "somewhere"}


class TestCopyOnWrite(DeviceConformance):
    device_type = asyncvmm_device_types()[0]
    options = {"path": "somewhere", "cow": None}


def refused(code: int) -> pytest.RaisesExc[NinePError]:
    return pytest.raises(NinePError, match=rf"^{code}$")


def test_files_folders_and_links_are_shown_in_order() -> None:
    client = Client(cow=False)
    assert client.folder() == [b".", b"..", b"a.txt", b"big", b"link", b"sub", b"up"]
    assert client.folder(count=60) == client.folder()
    assert client.content(b"a.txt") == b"hello\n"
    assert client.content(b"big") == FILES["big"]
    assert client.content(b"sub", b"inner") == b"inside"
    client.walk(1, b"link")
    assert client.call(22, struct.pack("<I", 1)) == text(b"/etc/passwd")
    found = client.attributes(1)
    assert found["mode"] == 0o120777 and found["kind"] == 2


def test_attributes_do_not_depend_on_the_host() -> None:
    client = Client(cow=False)
    client.walk(1, b"a.txt")
    found = client.attributes(1)
    assert found["mode"] == 0o100644 and found["size"] == 6 and found["uid"] == 0
    assert found["mtime"] == client.bench.io.clock.epoch_ns // 10**9
    assert found["path"] == 2  # the first entry after the root


def test_nothing_leads_out_of_the_folder() -> None:
    client = Client()
    assert client.walk(1, b"..", b"..", b"sub", b"..", b"..") == 5
    assert client.attributes(1)["path"] == 1
    for name in (b"/etc/passwd", b"sub/inner", b"../a.txt", b"", b"a\0b"):
        with refused(errno.ENOENT):
            client.walk(2, name)
    assert client.walk(3, b"link", b"x") == 1  # links are the guest's to follow
    with refused(errno.EBADF):
        client.clunk(3)
    client.walk(3, b"link")
    with refused(errno.ELOOP):
        client.open(3)
    for name in (b"..", b".", b"", b"a/b", b"a\0"):
        with refused(errno.EINVAL):
            client.create(0, name)
    with refused(errno.EPERM):  # devices: /dev/mem for one
        client.call(
            18, struct.pack("<I", 0) + text(b"mem") + struct.pack("<IIII", 0o20666, 1, 1, 0)
        )


def test_a_read_only_share_refuses_every_change() -> None:
    client = Client(cow=False)
    client.walk(1, b"a.txt")
    with refused(errno.EROFS):
        client.open(1, 2)
    with refused(errno.EROFS):
        client.open(1, 0o1000)
    with refused(errno.EROFS):
        client.create(0, b"new")
    with refused(errno.EROFS):
        client.call(72, struct.pack("<I", 0) + text(b"new") + bytes(8))
    with refused(errno.EROFS):
        client.call(76, struct.pack("<I", 0) + text(b"a.txt") + bytes(4))
    with refused(errno.EROFS):
        client.call(74, struct.pack("<I", 0) + text(b"a.txt") + bytes(4) + text(b"b"))
    with refused(errno.EROFS):
        client.call(26, struct.pack("<IIIIIQQQQQ", 1, 1, 0, 0, 0, 0, 0, 0, 0, 0))


def test_writes_are_the_guests_own() -> None:
    folder = MemoryFolder(FILES)
    before = dict(folder.contents)
    client = Client(folder=folder)
    client.walk(1, b"big")
    client.open(1, 2)
    assert client.write(1, 5, b"XYZ") == 3
    image = bytearray(before[folder.child(0, b"big")])
    image[5:8] = b"XYZ"
    assert client.content(b"big") == image
    client.write(1, len(image) + 100_000, b"end")
    image += bytes(100_000) + b"end"
    assert client.content(b"big") == image
    client.call(26, struct.pack("<IIIIIQQQQQ", 1, 8, 0, 0, 0, 20000, 0, 0, 0, 0))
    client.write(1, 40000, b"!")
    assert client.content(b"big") == bytes(image[:20000]) + bytes(20000) + b"!"
    assert folder.contents == before


def test_names_can_be_made_moved_and_removed() -> None:
    client = Client()
    client.walk(1)
    client.create(1, b"new")
    client.write(1, 0, b"data")
    client.walk(2, b"sub")
    client.call(74, struct.pack("<I", 0) + text(b"new") + struct.pack("<I", 2) + text(b"moved"))
    assert client.content(b"sub", b"moved") == b"data"
    assert client.folder(b"sub")[2:] == [b"deep", b"inner", b"moved"]
    client.call(70, struct.pack("<II", 0, 1) + text(b"hard"))
    assert client.attributes(1)["links"] == 2
    client.call(76, struct.pack("<I", 2) + text(b"moved") + bytes(4))
    assert client.content(b"hard") == b"data"
    client.call(76, struct.pack("<I", 0) + text(b"hard") + bytes(4))
    assert client.read(1) == b"data"  # it is open
    client.clunk(1)
    with refused(errno.ENOTEMPTY):
        client.call(76, struct.pack("<I", 0) + text(b"sub") + struct.pack("<I", 0x200))
    with refused(errno.EINVAL):  # into itself
        client.walk(3, b"sub", b"deep")
        client.call(74, struct.pack("<I", 0) + text(b"sub") + struct.pack("<I", 3) + text(b"x"))
    with refused(errno.ENOTEMPTY):  # over a folder that has something
        client.call(74, struct.pack("<I", 2) + text(b"deep") + struct.pack("<I", 0) + text(b"sub"))


def test_the_overlay_is_bounded_and_given_back() -> None:
    client = Client(overlay=64 << 10)
    client.walk(1)
    client.create(1, b"new")
    used = client.device.tree.used_bytes
    with refused(errno.ENOSPC):
        for number in range(10):
            client.write(1, number * BLOCK, bytes(BLOCK))
    assert client.device.tree.used_bytes <= 64 << 10
    client.call(26, struct.pack("<IIIIIQQQQQ", 1, 8, 0, 0, 0, 0, 0, 0, 0, 0))
    assert client.device.tree.used_bytes == used
    client.call(76, struct.pack("<I", 0) + text(b"new") + bytes(4))
    client.clunk(1)
    assert list(client.device.tree.own) == [0]


def test_malformed_messages_are_answered() -> None:
    client = Client()
    rlerror = struct.pack("<IBHI", 11, 7, 0x1234, errno.EINVAL)
    assert client.raw(struct.pack("<IBH", 7, 116, 0x1234)) == rlerror
    assert client.raw(struct.pack("<IBH", 6, 116, 0x1234)) == rlerror
    assert client.raw(struct.pack("<IBH", 1 << 31, 116, 0x1234)) == rlerror
    assert client.raw(b"x") == struct.pack("<IBHI", 11, 7, 0, errno.EINVAL)
    with refused(errno.EOPNOTSUPP):
        client.call(200, b"")
    with refused(errno.EBADF):
        client.walk(0, b"a.txt", fid=55)
    with refused(errno.EINVAL):
        client.walk(1, *[b"sub"] * 17)
    with refused(errno.EMFILE):
        for fid in range(1, 5000):
            client.walk(fid)
    assert client.attributes(0)["path"] == 1
    client.queue.add([struct.pack("<IBH", 7, 116, 1)], [10])
    client.queue.kick()
    assert client.driver.status & NEEDS_RESET


class Changing(Folder):
    """A folder whose files have changed on the host."""

    def __init__(self) -> None:
        super().__init__(MemoryFolder(FILES).entries)

    def pread(self, number: int, offset: int, length: int) -> bytes:
        raise BackendError("changed")


def test_a_file_that_changed_on_the_host_cannot_be_read() -> None:
    client = Client(folder=Changing())
    client.walk(1, b"a.txt")
    client.open(1)
    with refused(errno.EIO):
        client.read(1)


def test_open_files_and_overlay_are_in_snapshots() -> None:
    client = Client()
    client.walk(1)
    client.create(1, b"new")
    client.write(1, 3, b"data")
    client.call(76, struct.pack("<I", 0) + text(b"a.txt") + bytes(4))
    client.call(76, struct.pack("<I", 0) + text(b"new") + bytes(4))
    saved = json.loads(json.dumps(client.target.save()))
    ram = client.bench.ram.read(client.bench.ram.base, 1 << 26)
    other = Client()
    other.bench.ram.write(other.bench.ram.base, ram)
    other.bench.timeline.now_ns = client.bench.timeline.now_ns
    other.target.reset()
    other.target.load(saved)
    other.target.resume()
    other.driver, other.queue = client.driver, client.queue
    client.driver.target, client.driver.ram = other.target, other.bench.ram
    client.queue.ram = other.bench.ram
    assert other.read(1) == b"\0\0\0data"
    assert other.folder() == [b".", b"..", b"big", b"link", b"sub", b"up"]
    elsewhere = Client(folder=MemoryFolder({"a.txt": b"other"}))
    elsewhere.target.reset()
    with pytest.raises(ConfigError, match="is not what it was"):
        elsewhere.target.load(saved)


def test_requests_take_virtual_time_and_stay_in_order() -> None:
    client = Client()
    client.walk(1, b"big")
    client.open(1)
    client.bench.advance(10**9)
    body = struct.pack("<IQI", 1, 0, 60000)
    client.queue.collect()
    batches = []
    for _ in range(8):  # at one instant
        for tag in range(20):
            client.queue.add([struct.pack("<IBH", 23, 116, tag) + body], [65536], indirect=True)
        client.queue.kick()
        batches.append(client.queue.collect())
        if len(batches[-1]) < 20:
            break
    state = client.device.state()
    assert 3 <= len(batches) < 8  # a burst of 4 ms
    assert state.busy_until_ns > client.bench.timeline.now_ns
    client.bench.advance(10_000_000)
    last = batches[-1] + client.queue.collect()
    assert [used.length for used in last] == [60011] * 20


@given(st.binary(max_size=400))
def test_no_message_is_an_exception(data: bytes) -> None:
    fuzz_one(data)


def test_no_message_is_an_exception_at_random() -> None:
    rng = random.Random(9)
    for _ in range(1500):
        fuzz_one(bytes([3 - rng.randrange(2)]) + rng.randbytes(rng.randrange(200)))


@given(
    st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 40_000), st.booleans()), max_size=12)
)
def test_files_hold_what_was_written(steps: list[tuple[int, int, bool]]) -> None:
    tree = Tree(MemoryFolder(FILES), 1 << 24, 0)
    number = tree.child(0, b"big")
    tree.hold(number)
    model = bytearray(tree.read(number, 0, 1 << 20))
    for count, (offset, length, cut) in enumerate(steps):
        if cut:
            tree.truncate(number, offset, 0)
            model = model[:offset].ljust(offset, b"\0")
        else:
            data = bytes([count + 1]) * length
            tree.write(number, offset, data, 0)
            model = model.ljust(offset, b"\0") if length else model
            model[offset : offset + length] = data
            if not length:
                model = model.ljust(offset, b"\0")
        assert tree.read(number, 0, 1 << 20) == model
        assert tree.read(number, 10_000, 20_000) == model[10_000:30_000]
    assert tree.used_bytes == sum(node.cost for node in tree.own.values())
