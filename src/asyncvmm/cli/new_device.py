"""``asyncvmm new-device NAME``: a plugin project that passes its own tests, to be changed."""

from __future__ import annotations

import argparse
import keyword
import re
import string
from importlib import resources
from pathlib import Path
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.plugin import DEVICE_API

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST: Final = 40
# Template to where it goes.
FILES: Final = {
    "pyproject.toml.in": "pyproject.toml",
    "README.md.in": "README.md",
    "init.py.in": "src/{package}/__init__.py",
    "config.py.in": "src/{package}/config.py",
    "device.py.in": "src/{package}/device.py",
    "hooks.py.in": "src/{package}/hooks.py",
    "state.py.in": "src/{package}/state.py",
    "test_device.py.in": "tests/test_{package}.py",
}


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "new-device",
        help="write a device plugin to begin with",
        description="Write a plugin project with a small device that passes its own tests.",
        epilog="example:\n  asyncvmm new-device blinker && cd blinker\n"
        "  pip install -e '.[test]' && python -m pytest\n"
        "  asyncvmm run demo --device blinker",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="of the project and of its device type: blinker, my-sensor")
    parser.add_argument("--directory", type=Path, help="where to write it (default: NAME)")
    parser.set_defaults(function=new_device)


def new_device(options: argparse.Namespace) -> int:
    """Write it, and say what comes next."""
    directory = options.directory if options.directory is not None else Path(options.name)
    write_project(options.name, directory)
    print(f"{directory}: a device plugin. Next:")
    print(f"  cd {directory} && pip install -e '.[test]' && python -m pytest")
    print(f"  asyncvmm devices {options.name}")
    return 0


def write_project(name: str, directory: Path) -> None:
    """Write the project; ConfigError for a bad name, or a directory that has something in it."""
    if NAME.fullmatch(name) is None or len(name) > LONGEST:
        raise ConfigError(
            f"{name!r}: a name is small letters, digits and single hyphens, at most {LONGEST}"
        )
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or package in ("asyncvmm", "asyncvmm_plugins", "tests"):
        raise ConfigError(f"{name!r} cannot be the name of a package")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigError(f"{directory}: is there already")
    words = {
        "name": name,
        "package": package,
        "class": "".join(part.capitalize() for part in name.split("-")),
        "api": str(DEVICE_API),
    }
    templates = resources.files("asyncvmm.cli").joinpath("device_template")
    for template, place in FILES.items():
        text = string.Template(templates.joinpath(template).read_text("utf-8")).substitute(words)
        path = directory / place.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
