"""The pluggy markers of the project ``asyncvmm``."""

from __future__ import annotations

from typing import Final

import pluggy

hookspec: Final = pluggy.HookspecMarker("asyncvmm")
hookimpl: Final = pluggy.HookimplMarker("asyncvmm")
