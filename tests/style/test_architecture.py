"""The architecture is a test: floors, generated files, documented hooks (DESIGN sections 2, 3 and 8)."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

from asyncvmm.plugin import hookspecs
from tools.gen.__main__ import main as generate

ROOT = Path(__file__).resolve().parent.parent.parent


def test_imports_go_down_only() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    command = [str(lint)] if lint.exists() else [sys.executable, "-m", "importlinter.cli"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'plugins'}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_files_are_up_to_date() -> None:
    assert generate(["--check"]) == 0


def test_every_hook_is_documented() -> None:
    hooks = [f for name, f in vars(hookspecs).items() if name.startswith("asyncvmm_")]
    assert hooks
    for hook in hooks:
        assert inspect.getdoc(hook), f"{hook.__name__} has no docstring"


def test_no_compiled_module_is_missing_its_extension() -> None:
    from tools.compile import compiled_modules

    for path in compiled_modules():
        name = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        module = __import__(name, fromlist=["x"])
        assert not str(module.__file__).endswith(".py"), f"{name} runs interpreted"
