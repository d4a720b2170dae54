"""A virtual environment as ``venv`` and ``pip`` make it, and its image as a host would have it."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from bigmachine.host.messages import Program
from bigmachine.image.assemble import assemble
from bigmachine.image.build import Image, build
from bigmachine.image.index import Index
from bigmachine.image.listing import Listing
from bigmachine.image.manifest import map_path
from bigmachine.image.store import Store

pytestmark = pytest.mark.slow

# A build backend in the project itself: nothing has to be downloaded, or to be installed already.
BACKEND = """
import os, zipfile

INFO = "mine-1.0.dist-info"
FILES = {
    f"{INFO}/METADATA": "Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n",
    f"{INFO}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    f"{INFO}/entry_points.txt": "[console_scripts]\\nmine = mine:main\\n",
    "mine-1.0.data/data/share/mine/table.csv": "1,2\\n",
}

def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "mine-1.0-py3-none-any.whl"
    files = {**FILES, "__editable__.mine.pth": os.path.join(os.getcwd(), "src") + "\\n"}
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        rows = "".join(f"{path},,\\n" for path in [*files, f"{INFO}/RECORD"])
        wheel.writestr(f"{INFO}/RECORD", rows)
    return name

build_wheel = build_editable
"""

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""

MODULE = """
import os, sys

def main():
    with open(os.path.join(sys.prefix, "share/mine/table.csv")) as file:
        print("mine", os.path.dirname(__file__), file.read().strip())
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with an editable project in it, that has a command and data."""
    root = tmp_path.resolve()
    (root / "mine/src/mine").mkdir(parents=True)
    (root / "mine/backend.py").write_text(BACKEND)
    (root / "mine/pyproject.toml").write_text(PROJECT)
    (root / "mine/src/mine/__init__.py").write_text(MODULE)
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", str(root / "venv")], check=True)
    python = root / "venv/bin/python"
    options = ["--quiet", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    install = [str(python), "-m", "pip", "install", *options, "-e", str(root / "mine")]
    subprocess.run(install, check=True, env={**os.environ, "PYTHONPATH": ""})
    return root / "venv"


def assembled(image: Image, directory: Path) -> tuple[Store, str]:
    """Return a host's store, and where the image is in it."""
    store = Store(str(directory))
    for layer in image.layers.values():
        receiving = store.begin(layer.listing)
        for number in range(len(Listing.decode(layer.listing).packs)):
            receiving.write_pack(number, layer.read_pack(number))
        receiving.finish()
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    made = assemble(store, image.manifest, base)
    os.close(made.lock)
    return store, made.root


def test_its_image_works_where_the_environment_is_not(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.setattr(sys, "exec_prefix", str(venv))
    project = tmp_path.resolve() / "project"
    project.mkdir()
    program = project / "main.py"
    program.write_text(
        textwrap.dedent("""
        import importlib.metadata, mine, pip
        mine.main()
        print(importlib.metadata.version("mine"), pip.__file__)
        """)
    )
    (site,) = venv.glob("lib/python*/site-packages")
    image = build(
        Program(how="script", target="main.py", executable="", directory=str(project)),
        sys_path=[str(project), str(site), str(venv.parent / "mine/src")],
        index=Index([str(venv)], str(tmp_path / "index")),
    )
    place = map_path(image.manifest, str(program))
    assert place is not None
    store, root = assembled(image, tmp_path / "store")
    try:
        for name in ("venv", "mine", "project"):
            (tmp_path / name).rename(tmp_path / f"{name}-gone")
        ran = run(f"{root}/bin/python", f"{root}/{place}")
        assert ran.splitlines() == [
            f"mine {root}/src/1/mine 1,2",
            f"1.0 {root}/{site.relative_to(venv)}/pip/__init__.py",
        ]
        assert run(f"{root}/bin/mine") == f"mine {root}/src/1/mine 1,2\n"
    finally:
        store.close()


def run(*command: str) -> str:
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env={"PATH": os.defpath}
    ).stdout
