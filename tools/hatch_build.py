"""Hatchling's hook: compile the hot floors and put the extension modules into the wheel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent.parent


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs for every wheel, editable ones included; a source distribution needs nothing."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, tag the wheel for this interpreter and add what was built (hatchling's contract)."""
        if self.target_name != "wheel":
            return
        sys.path.insert(0, str(ROOT))
        from tools.compile import CompilerMissingError, compile_modules

        try:
            built = compile_modules()
        except CompilerMissingError as error:
            self.app.abort(str(error))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if version != "editable":
            for path in built:
                build_data["force_include"][str(path)] = str(path.relative_to(ROOT / "src"))
