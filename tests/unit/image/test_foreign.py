"""Images for other kinds of computers: the same versions, compiled for those."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bigmachine.errors import ProvisionError
from bigmachine.image import resolve as resolving
from bigmachine.image.build import Image, build
from bigmachine.image.foreign import adapt
from bigmachine.image.index import Index
from bigmachine.image.layout import SITE
from bigmachine.image.listing import Listing
from bigmachine.image.platforms import Platform
from bigmachine.image.resolve import resolve

HERE = Platform.here()
ARM = replace(HERE, machine="riscv64" if HERE.machine == "aarch64" else "aarch64")

# In place of uv, which would ask a package index: it unpacks what it is asked for.
UV = """#!{python}
import os, sys
target = next(word for word in sys.argv if word.startswith("--target=")).partition("=")[2]
name, _, version = sys.argv[-1].partition("==")
with open({log!r}, "a") as log:
    platform = next(word for word in sys.argv if "platform" in word)
    log.write(f"{{platform}} {{sys.argv[-1]}}\\n")
if name == "missing":
    print("error: No solution found")
    sys.exit(1)
record = f"{{name}}-1.0.dist-info/RECORD"
for path in (f"{{name}}/__init__.py", f"{{name}}/fast.so", "bin/tool", record):
    path = os.path.join(target, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("made for another")
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the stand-in for uv was asked for."""
    log = tmp_path / "asked"
    uv = tmp_path / "uv"
    uv.write_text(UV.format(python=sys.executable, log=str(log)))
    uv.chmod(0o755)
    monkeypatch.setattr(resolving, "find_uv", lambda platform: str(uv))
    return log


def image_with(root: Path, distributions: dict[str, str], *extra: str) -> Image:
    """An image of distributions with these tags, each with a compiled module."""
    site = root.resolve() / SITE
    for name, tag in distributions.items():
        info = f"{name}-1.0.dist-info"
        texts = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{info}/WHEEL": f"Tag: {tag}\n",
            f"{name}/__init__.py": "x = 1\n",
            f"{name}/fast.so": "made here\n",
        }
        texts[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in texts)
        for path, text in texts.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)
    for path in extra:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    paths = [str(root / "project"), str(site)]
    return build(sys_path=paths, index=Index([str(root)], directory=str(root / "index")))


def compiled_tag() -> str:
    version = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    return f"{version}-{version}-manylinux_2_17_{HERE.machine}"


def test_hosts_of_the_same_kind_need_nothing_else(tmp_path: Path, asked: Path) -> None:
    image = image_with(tmp_path, {"fast": compiled_tag()})
    assert adapt(image, HERE, str(tmp_path / "kept")) is image
    assert not asked.exists()


def test_what_was_compiled_is_had_for_the_other_kind(tmp_path: Path, asked: Path) -> None:
    image = image_with(tmp_path, {"fast": compiled_tag(), "plain": "py3-none-any"})
    other = adapt(image, ARM, str(tmp_path / "kept"))
    assert asked.read_text().split() == [f"--python-platform={ARM.uv_name}", "fast==1.0"]
    before = {ref.name: ref.digest for ref in image.manifest.layers}
    after = {ref.name: ref.digest for ref in other.manifest.layers}
    assert [name for name in before if before[name] != after[name]] == ["fast-1.0"]
    layer = other.layers[after["fast-1.0"]]
    assert layer.read_pack(0) == b"made for another" * 3
    assert [entry.path for entry in Listing.decode(layer.listing).entries] == [
        "bin/tool",
        f"{SITE}/fast/__init__.py",
        f"{SITE}/fast/fast.so",
    ]
    assert other.manifest.platform["machine"] == ARM.machine
    assert set(other.layers) == set(after.values())


def test_what_was_had_once_is_kept(tmp_path: Path, asked: Path) -> None:
    image = image_with(tmp_path, {"fast": compiled_tag()})
    first = adapt(image, ARM, str(tmp_path / "kept"))
    assert adapt(image, ARM, str(tmp_path / "kept")).digest == first.digest
    assert len(asked.read_text().splitlines()) == 1


def test_what_cannot_be_had_is_named_with_the_choice(tmp_path: Path, asked: Path) -> None:
    image = image_with(tmp_path, {"missing": compiled_tag(), "fast": compiled_tag()})
    with pytest.raises(ProvisionError) as raised:
        adapt(image, ARM, str(tmp_path / "kept"))
    assert "missing==1.0 (No solution found)" in str(raised.value)
    assert "fast" not in str(raised.value)
    assert "hosts of the driver's own platform" in raised.value.remedy
    assert not [name for name in os.listdir(tmp_path / "kept") if name.startswith(".new")]


def test_the_users_own_compiled_modules_are_named(tmp_path: Path, asked: Path) -> None:
    image = image_with(tmp_path, {}, "project/mine/fast.so", "project/mine/plain.py")
    with pytest.raises(ProvisionError, match=r"src:project: mine/fast\.so"):
        adapt(image, ARM, str(tmp_path / "kept"))


def test_without_uv_the_way_to_get_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ProvisionError, match=r"pip install uv, which the extra bigmachine\[cross\] brings"
    ):
        resolve([("fast", "1.0")], ARM, str(tmp_path))
