"""The hook for network backends: what plugins offer, what is wrong with it, and whose it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest

from asyncvmm.base.errors import ConfigError, InternalError
from asyncvmm.plugin import NetworkBackend, NetworkBackendType, PluginManager, hookimpl


@attrs.frozen
class Options:
    """One that is needed."""

    port: int


def offered(name: str = "tube", **more: Any) -> NetworkBackendType:
    return NetworkBackendType(name, "a sample", Options, NetworkBackend, **more)


def hooks(function: Callable[[], Any]) -> type:
    """A plugin with that one hook."""
    return type("Hooks", (), {function.__name__: staticmethod(hookimpl(function))})


def named(*backends: Any) -> Any:
    def asyncvmm_network_backends() -> Any:
        return backends

    return hooks(asyncvmm_network_backends)


def test_backends_have_names_options_and_owners() -> None:
    manager = PluginManager()
    manager.register(named(offered()), "tubes", "tubes-1")
    assert manager.network_backend("tube").parse({"port": "7"}) == Options(7)
    assert manager.backend_origin("tube") == ("tubes", "tubes-1")
    assert manager.problems == []
    with pytest.raises(ConfigError, match="no network backend 'tub': did you mean 'tube'"):
        manager.network_backend("tub")
    with pytest.raises(ConfigError, match=r"'port' is required \(tube,port="):
        manager.network_backend("tube").parse({})


def test_what_is_wrong_is_recorded_against_its_plugin_and_the_rest_is_kept() -> None:
    def asyncvmm_network_backends() -> Any:
        raise OSError("no luck")

    manager = PluginManager()
    manager.register(named(offered(), "tube"), "a-tubes")
    manager.register(named(offered(), offered("pipe")), "b-tubes", "more-tubes")
    manager.register(hooks(asyncvmm_network_backends), "c-tubes")
    assert sorted(manager.network_backends) == ["pipe", "tube"]
    assert manager.backend_origin("tube") == ("a-tubes", "")
    texts = sorted(str(problem) for problem in manager.problems)
    assert "plugin 'a-tubes' failed in asyncvmm_network_backends" in texts[0]
    assert "TypeError: 'tube' is not a NetworkBackendType" in texts[0]
    assert "plugin 'b-tubes' of more-tubes" in texts[1]
    assert "'tube' is a network backend of 'a-tubes' too" in texts[1]
    assert "plugin 'c-tubes' failed in asyncvmm_network_backends: OSError: no luck" in texts[2]


def test_a_type_that_cannot_be() -> None:
    with pytest.raises(
        ConfigError, match=r"backend 'tube' is written for version 2 .* newer asyncvmm"
    ):
        offered(api_version=2)
    with pytest.raises(InternalError, match="is not an attrs class"):
        NetworkBackendType("tube", "", dict, NetworkBackend)
    with pytest.raises(ValueError, match="must match regex"):
        offered("Tube")
