"""The closure over Depends and Pre-Depends: Debian policy 7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.plugin.images import BuildError
from asyncvmm_plugins.debian_images.closure import PackageIndex, alternatives

INDEX = PackageIndex(
    [
        {"package": "nginx", "depends": "nginx-common (>= 1), libc6 (>= 2.38) | libc7, awk"},
        {"package": "nginx-common", "depends": "debconf | debconf-2.0, python3:any"},
        {"package": "debconf", "pre-depends": "perl-base"},
        {"package": "perl-base"},
        {"package": "libc6", "depends": "libgcc-s1"},
        {"package": "libgcc-s1", "depends": "libc6"},
        {"package": "mawk", "provides": "awk"},
        {"package": "gawk", "provides": "awk (= 5)"},
        {"package": "python3", "version": "3.14"},
        {"package": "python3", "version": "3.13", "depends": "gone"},
        {"package": "broken", "depends": "nowhere | nothing"},
    ]
)


def test_needs_come_before_what_needs_them() -> None:
    order = INDEX.closure(["nginx"])
    assert set(order) == {
        "nginx", "nginx-common", "libc6", "libgcc-s1", "mawk", "debconf", "perl-base", "python3",
    }  # fmt: skip
    assert len(order) == len(set(order))
    assert order.index("perl-base") < order.index("debconf") < order.index("nginx-common")
    assert order[-1] == "nginx"


def test_a_selected_provider_is_kept() -> None:
    assert "mawk" not in INDEX.closure(["gawk", "nginx"])


def test_the_newest_version_of_a_name_counts() -> None:
    assert INDEX.closure(["python3"]) == ["python3"]


def test_a_need_that_nothing_meets_names_both() -> None:
    with pytest.raises(BuildError, match=r"nowhere or nothing, which broken needs"):
        INDEX.closure(["broken"])


def test_alternatives_without_versions_and_restrictions() -> None:
    assert alternatives(" ab (>= 1:2~) | cd:any [linux-any] |ef <!nocheck>") == ["ab", "cd", "ef"]


@given(st.dictionaries(st.integers(0, 20), st.lists(st.integers(0, 20), max_size=5), min_size=1))
def test_closures_are_closed(graph: dict[int, list[int]]) -> None:
    every = {*graph, *(n for needs in graph.values() for n in needs)}
    index = PackageIndex(
        {"package": f"p{n}", "depends": ", ".join(f"p{m}" for m in graph.get(n, []))} for n in every
    )
    found = index.closure([f"p{min(every)}"])
    assert len(found) == len(set(found))
    for name in found:
        assert {f"p{m}" for m in graph.get(int(name[1:]), [])} <= set(found)
