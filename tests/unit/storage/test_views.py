"""Views of a disk that is written in place: each shows what was there when it was taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Blob, MemoryBlob
from asyncvmm.storage.views import BLOCK_BYTES, ViewBlob, ViewedBlob

SIZE = 3 * BLOCK_BYTES + 777
PLACES = st.integers(0, SIZE - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACES, st.integers(1, 2 * BLOCK_BYTES), st.integers(1, 255)),
        st.tuples(st.just("zero"), PLACES, st.integers(1, 2 * BLOCK_BYTES), st.just(0)),
        st.tuples(st.just("discard"), PLACES, st.integers(1, 500), st.just(0)),
        st.tuples(st.just("view"), st.just(0), st.just(0), st.just(0)),
        st.tuples(st.just("close"), st.integers(0, 5), st.just(0), st.just(0)),
    ),
    max_size=25,
)


class Closing(Blob):
    """In memory; counts how often it was closed."""

    def __init__(self, contents: bytes) -> None:
        super().__init__(len(contents), False)
        self.contents = bytearray(contents)
        self.closed = 0

    def pread(self, offset: int, length: int) -> bytes:
        return bytes(self.contents[offset : offset + length])

    def pwrite(self, offset: int, data: bytes) -> None:
        self.contents[offset : offset + len(data)] = data

    def discard(self, offset: int, length: int) -> None:
        self.contents[offset : offset + length] = b"\xdd" * length  # whatever it likes

    def close(self) -> None:
        self.closed += 1


@given(STEPS)
def test_a_view_never_changes(steps: list[tuple[str, int, int, int]]) -> None:
    image = Closing(bytes(range(256)) * (SIZE // 256) + bytes(SIZE % 256))
    disk = ViewedBlob(image)
    views: list[tuple[ViewBlob, bytes]] = []
    for kind, at, length, value in steps:
        length = min(length, SIZE - at)
        if kind == "write":
            disk.pwrite(at, bytes([value]) * length)
        elif kind == "zero":
            disk.write_zeroes(at, length)
        elif kind == "discard":
            disk.discard(at, length)
        elif kind == "view":
            views.append((disk.view(), bytes(image.contents)))
        elif views:
            views.pop(at % len(views))[0].close()
        for view, was in views:
            assert view.pread(0, SIZE) == was
            assert view.pread(SIZE // 3, 5) == was[SIZE // 3 : SIZE // 3 + 5]
    disk.close()
    for view, was in views:
        assert not image.closed
        assert view.pread(0, SIZE) == was
        view.close()
        view.close()
    assert image.closed == 1


def test_a_view_is_read_only_and_bounded() -> None:
    view = ViewedBlob(MemoryBlob(bytes(100))).view()
    assert view.read_only and view.size_bytes == 100
    with pytest.raises(BackendError, match="outside"):
        view.pread(90, 11)
