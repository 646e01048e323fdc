"""vm.toml: errors name file, line, key and the nearest right spelling; edits keep comments."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.api import ConfigError, VmFolder
from asyncvmm.plugin import PluginManager
from asyncvmm.runtime.folder.settings import KEYS, VmTomlError, parse_settings
from asyncvmm.runtime.folder.toml_places import line_of

FILE = Path("/machines/web.vm/vm.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kernel = "k"\nmemroy = "1G"', "line 2: memroy: no such key: did you mean 'memory'?"),
        ('# one\n\nkernel = "k"\nharts = 0', "line 4: harts: harts must be 1 to 64, not 0"),
        ('kernel = "k"\ndisks = [\n  "a",\n  7,\n]\nharts = 1', "line 2: disks: a list of strings"),
        ('kernel = "k"\n[policy]\n"cpu.wieght" = 3', "line 3: policy.cpu.wieght: "),
        ('kernel = "k"\n[logs]\nkeep = 3\nvm_bytes = "9T"', "line 4: logs.vm_bytes: "),
        ('kernel = "k"\nengine = "jti"', "line 2: engine: engine: no 'jti': did you mean 'jit'?"),
        ('kernel = "k"\nmemory = true', "line 2: memory: a size such as"),
        ('kernel = "k"\npublish = ["80"]', "line 2: publish: '80' is not"),
        ('kernel = "k"\ndevices = ["virtio-blok"]', "did you mean 'virtio-blk'?"),
        ('kernel = "k"\nversion = 2', "line 2: version: "),
        ('kernel = "k" "l"', "(at line 1, column 14)"),
        ("harts = 1", "nothing to boot"),
        ('elf = "e"\ninitrd = "i"', "elf is a whole program"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str, plugins: PluginManager) -> None:
    with pytest.raises(VmTomlError) as caught:
        parse_settings(text, FILE, plugins.device_types)
    assert str(caught.value).startswith(str(FILE)) and said in str(caught.value)


def test_paths_are_in_the_folder(plugins: PluginManager) -> None:
    text = 'kernel = "image/kernel"\ndisks = ["disks/a.qcow2,readonly", "/else/b.img"]'
    guest = parse_settings(text, FILE, plugins.device_types).guest
    assert guest.kernel == FILE.parent / "image/kernel"
    assert guest.disks == (f"{FILE.parent}/disks/a.qcow2,readonly", "/else/b.img")


LINES = st.lists(
    st.sampled_from(
        ["# comment", "", 'a = "x"', "[t]", "[u.v]", "b = [", "1,", "]", "c = 3", '"d.e" = 1']
    ),
    max_size=30,
)


@given(lines=LINES, at=st.integers(0, 30))
def test_the_line_of_a_key_is_where_it_was_put(lines: list[str], at: int) -> None:
    import tomllib

    at = min(at, len(lines))
    text = "\n".join([*lines[:at], "needle = [", " 1,", "]", *lines[at:]])
    try:
        document = tomllib.loads(text)
        tomllib.loads("\n".join(lines[:at]))
    except tomllib.TOMLDecodeError:
        return
    paths = [("needle",), ("t", "needle"), ("u", "v", "needle")]
    for path in paths:
        table = document
        for key in path[:-1]:
            table = table.get(key, {})
        if "needle" in table:
            assert line_of(text, path) == at + 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return (
            '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
        )
    return str(value or 0)


@given(
    values=st.dictionaries(st.sampled_from(sorted(KEYS)) | st.text(max_size=6), JSON, max_size=5)
)
def test_any_value_is_taken_or_refused_by_name(
    values: dict[str, object], plugins: PluginManager
) -> None:
    text = "".join(f"{_toml(key)} = {_toml(value)}\n" for key, value in values.items())
    try:
        parse_settings(text, FILE, plugins.device_types)
    except VmTomlError as error:
        assert str(error).startswith(str(FILE))


@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_typed_error(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    from asyncvmm.runtime.folder.settings import load_settings

    path = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    path.write_bytes(data)
    with pytest.raises(VmTomlError, match=r"fuzzed\.toml"):
        load_settings(path)


@pytest.mark.parametrize(
    "text", ["\n" * 60_000, "a = [" * 9000, "[" * 60_000, "x = " + "9" * 60_000, "a = '''" + "\n" * 60_000]
)  # fmt: skip
def test_long_and_deep_files_end_soon(text: str) -> None:
    with pytest.raises(VmTomlError):
        parse_settings(text + "\nmemroy = 1", FILE)


# -- edits


def test_edits_keep_comments(demo: VmFolder) -> None:
    file = demo.paths.config
    file.write_text(
        file.read_text() + "# mine\nharts = 1  # one is enough\n".replace("harts = 1", "")
    )
    before = file.read_text()
    demo.set("memory", "64M")
    demo.set("net", "lan", "lan")
    demo.set("policy.cpu.weight", "200")
    demo.set("logs.keep", "7")
    text = file.read_text()
    for line in before.splitlines():
        assert line in text or line.startswith("memory")
    assert demo.settings.guest.memory == 64 << 20 and len(demo.settings.guest.nets) == 2
    assert demo.get("policy.cpu.weight") == 200 and demo.settings.logs.keep == 7
    assert demo.get("seed") == 0  # the default
    demo.unset("net")
    demo.unset("policy.cpu.weight")
    assert demo.get("net") == () and demo.get("policy") == {}


@pytest.mark.parametrize(
    ("key", "words", "said"),
    [
        ("memroy", ["1M"], "did you mean 'memory'"),
        ("harts", ["500"], "harts must be 1 to 64"),
        ("harts", ["1", "2"], "one value"),
        ("policy.cpu.wieght", ["3"], "no knob"),
        ("memory.size", ["3"], "is no table"),
        ("elf", [""], "nothing to boot|a whole program|elf"),
        ("devices", ["virtio-blok"], "did you mean 'virtio-blk'"),
    ],
)
def test_a_wrong_edit_changes_nothing(
    demo: VmFolder, key: str, words: list[str], said: str
) -> None:
    before = demo.paths.config.read_bytes()
    try:
        demo.set(key, *words)
    except ConfigError as error:
        import re

        assert re.search(said, str(error)), error
        assert demo.paths.config.read_bytes() == before
    else:
        assert key == "elf"  # it is looked for when the machine starts
    with pytest.raises(ConfigError, match="is not set"):
        demo.unset("seed")
