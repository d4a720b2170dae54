"""An image of an environment: what of it travels, and where it is then."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from environments import Environment, content, files

from bigmachine.errors import UsageError
from bigmachine.host.messages import Program
from bigmachine.image.files import FileLayer
from bigmachine.image.layout import SITE
from bigmachine.image.manifest import map_path


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    made = Environment(tmp_path.resolve())
    monkeypatch.setattr(sys, "prefix", str(made.prefix))
    monkeypatch.setattr(sys, "exec_prefix", str(made.prefix))
    return made


def test_a_distribution_is_a_layer_with_all_its_files(env: Environment) -> None:
    env.install("thing", "thing/__init__.py", "../../../bin/thing", "../../../share/thing/x.csv")
    env.write(env.prefix / "bin/thing", "#!/somewhere/venv/bin/python\nimport thing\n")
    image = env.build()
    assert set(files(image, lambda name: name == "thing-1.0")) == {
        f"{SITE}/thing/__init__.py",
        f"{SITE}/thing-1.0.dist-info/METADATA",
        f"{SITE}/thing-1.0.dist-info/RECORD",
        f"{SITE}/thing-1.0.dist-info/WHEEL",
        "bin/thing",
        "share/thing/x.csv",
    }
    (ref,) = [ref for ref in image.manifest.layers if ref.kind == "distribution"]
    assert ref.distribution == ("thing", "1.0")
    assert ref.tags == ("py3-none-any",)
    assert image.manifest.scripts == ("bin/thing",)


def test_the_same_distribution_elsewhere_is_the_same_layer(tmp_path: Path) -> None:
    digests: set[str] = set()
    for name in ("a", "b"):
        env = Environment(tmp_path.resolve() / name)
        env.install("thing", "thing/__init__.py")
        os.utime(env.site / "thing/__init__.py", (len(digests), len(digests)))
        (ref,) = [ref for ref in env.build().manifest.layers if ref.kind == "distribution"]
        digests.add(ref.digest)
    assert len(digests) == 1


def test_the_users_directories_are_layers_of_their_own(env: Environment) -> None:
    env.write(env.project / "pi.py")
    env.write(env.project / "table.csv", "1,2\n")
    image = env.build()
    assert set(files(image, lambda name: name == "src:project")) == {
        "src/0/pi.py",
        "src/0/table.csv",
    }
    assert image.manifest.sys_path == ("src/0", SITE)
    assert map_path(image.manifest, str(env.project / "pi.py")) == "src/0/pi.py"
    assert map_path(image.manifest, str(env.site / "thing")) == f"{SITE}/thing"
    assert content(image, "src/0/table.csv") == b"1,2\n"


def test_an_edited_line_changes_the_layer_of_its_directory_alone(env: Environment) -> None:
    env.install("thing", "thing/__init__.py")
    env.write(env.project / "pi.py")
    before = env.build()
    env.write(env.project / "pi.py", "x = 2\n")
    after = env.build()
    changed = set(after.layers) - set(before.layers)
    assert [ref.name for ref in after.manifest.layers if ref.digest in changed] == ["src:project"]


def test_a_program_outside_of_the_path_belongs_to_it(env: Environment) -> None:
    elsewhere = env.write(env.root / "elsewhere/tool.py")
    program = Program(how="script", target=str(elsewhere), executable="python")
    image = env.build(program=program)
    assert map_path(image.manifest, str(elsewhere)) == "src/1/tool.py"
    assert "src/1" not in image.manifest.sys_path


def test_files_that_nobody_owns_travel_too(env: Environment) -> None:
    env.install("thing", "thing/__init__.py")
    env.write(env.site / "thing/extra.py")
    env.write(env.site / "lone.py")
    env.install("unrecorded", "unrecorded/__init__.py", record=False)
    env.write(env.site / "namespace/part.py")
    places = set(files(env.build(), lambda name: name == "site-packages"))
    assert places == {
        f"{SITE}/{each}"
        for each in (
            "lone.py",
            "namespace/part.py",
            "thing/extra.py",
            "unrecorded/__init__.py",
            "unrecorded-1.0.dist-info/METADATA",
            "unrecorded-1.0.dist-info/WHEEL",
        )
    }


def test_an_editable_directory_is_led_to_by_its_pth_file(env: Environment) -> None:
    source = env.write(env.root / "dev/src/mine/__init__.py").parent.parent
    env.write(env.site / "__editable__.mine-1.0.pth", f"{source}\n")
    env.install("mine", "__editable__.mine-1.0.pth")
    image = env.build()
    assert set(files(image, lambda name: name == "src:src")) == {"src/1/mine/__init__.py"}
    assert image.manifest.sys_path == ("src/0", SITE, "src/1")
    line = content(image, f"{SITE}/__editable__.mine-1.0.pth").decode().strip()
    assert os.path.normpath(os.path.join(SITE, line)) == "src/1"


def test_an_import_hook_becomes_plain_directories(env: Environment) -> None:
    package = env.write(env.root / "dev/lib/mine/__init__.py").parent
    module = env.write(env.root / "dev/single.py")
    finder = "__editable___mine_1_0_finder"
    mapping = {"mine": str(package), "single": str(module)[: -len(".py")]}
    env.write(
        env.site / f"{finder}.py", f"MAPPING: dict[str, str] = {mapping!r}\ndef install(): 1\n"
    )
    env.write(env.site / "__editable__.mine-1.0.pth", f"import {finder}; {finder}.install()\n")
    env.install("mine", f"{finder}.py", "__editable__.mine-1.0.pth")
    image = env.build()
    places = files(image)
    assert {"src/1/mine/__init__.py", "src/2/single.py"} <= set(places)
    assert f"{SITE}/{finder}.py" not in places
    lines = content(image, f"{SITE}/__editable__.mine-1.0.pth").decode().split()
    assert [os.path.normpath(os.path.join(SITE, line)) for line in lines] == ["src/1", "src/2"]


def test_an_editable_that_builds_itself_is_reported(env: Environment) -> None:
    env.write(env.site / "mine-editable.pth", "import _mine_editable_loader; print()\n")
    why = dict(env.build().manifest.left_out)[str(env.site / "mine-editable.pth")]
    assert "builds when imported" in why


def test_lines_of_python_in_pth_files_stay(env: Environment) -> None:
    env.write(env.site / "hook.pth", "import sys; sys.hooked = True\n")
    assert content(env.build(), f"{SITE}/hook.pth") == b"import sys; sys.hooked = True\n"


def test_an_archive_on_the_path_travels(env: Environment) -> None:
    archive = env.root / "lib.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.py", "x = 1\n")
    env.sys_path.append(str(archive))
    image = env.build()
    assert image.manifest.sys_path == ("src/0", SITE, "src/1/lib.zip")
    assert "src/1/lib.zip" in files(image)


def test_data_is_found_where_the_driver_has_it(env: Environment) -> None:
    outside = env.write(env.root / "big/data.csv", "1\n")
    inside = env.write(env.project / "build/model.bin", "2\n")
    env.write(env.project / ".gitignore", "build/\n")
    image = env.build(data=[outside, str(inside)])
    assert map_path(image.manifest, str(outside)) == "data/0/data.csv"
    assert map_path(image.manifest, str(inside)) == "src/0/build/model.bin"
    assert {"data/0/data.csv", "src/0/build/model.bin"} <= set(files(image))


def test_data_that_is_not_there_is_said(env: Environment) -> None:
    with pytest.raises(UsageError, match="no such file"):
        env.build(data=["/nowhere/at/all"])


def test_what_has_not_changed_is_not_read_again(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.install("thing", "thing/__init__.py", "../../../bin/thing")
    first = env.build()
    import bigmachine.image.distributions as distributions

    monkeypatch.setattr(distributions, "describe", lambda *_: pytest.fail("it was read again"))
    assert env.build().digest == first.digest


def test_what_has_changed_is_read_again(env: Environment) -> None:
    env.install("thing", "thing/__init__.py")
    first = env.build()
    env.write(env.site / "thing/__init__.py", "y = 2\n")
    again = env.build()
    assert again.digest != first.digest
    assert content(again, f"{SITE}/thing/__init__.py") == b"y = 2\n"


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"v":1}', '{"v":1,"layers":[]}'])
def test_a_damaged_index_does_no_harm(env: Environment, garbage: str) -> None:
    env.install("thing", "thing/__init__.py")
    first = env.build()
    for file in (env.root / "index").iterdir():
        file.write_text(garbage)
    assert env.build().digest == first.digest


def test_an_index_that_cannot_be_written_does_no_harm(env: Environment) -> None:
    env.install("thing", "thing/__init__.py")
    env.write(env.root / "index", "a file in its place")
    assert env.build().manifest.layers


def test_what_happens_to_the_programs_files_later_does_not_matter(env: Environment) -> None:
    edited = env.write(env.project / "edited.py")
    gone = env.write(env.project / "notebook.ipynb", "{}\n")
    log = env.write(env.project / "run.log", "begun\n")
    data = env.write(env.root / "results/part.csv", "1\n")
    image = env.build(data=[data])
    env.write(edited, "x = 2\n")
    env.write(env.project / "new.py")
    gone.unlink()
    env.write(log, "rotated\n")
    data.unlink()
    for place, was in (
        ("src/0/edited.py", b"x = 1\n"),
        ("src/0/notebook.ipynb", b"{}\n"),
        ("src/0/run.log", b"begun\n"),
        ("data/0/part.csv", b"1\n"),
    ):
        assert content(image, place) == was


def test_a_file_that_vanishes_while_the_image_is_built_is_left_out(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.write(env.project / "pi.py")
    fleeting = env.write(env.project / ".pi.py.swp")
    from bigmachine.image import build as module

    make_layer = module.make_layer

    def make_late(name: str, *args: Any, **options: Any) -> FileLayer:
        if name == "src:project":
            fleeting.unlink()
        return make_layer(name, *args, **options)

    monkeypatch.setattr(module, "make_layer", make_late)
    image = env.build()
    assert set(files(image)) == {"src/0/pi.py"}
    assert "No such file" in dict(image.manifest.left_out)[str(fleeting)]


def test_only_so_much_of_the_users_files_is_held_in_memory(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bigmachine.image.build.HELD_BYTES", 10)
    small = env.write(env.project / "pi.py")
    large = env.write(env.root / "large.csv", "1,2,3\n")
    image = env.build(data=[large])
    env.write(small, "x = 2\n")
    env.write(large, "4,5,6\n")
    assert content(image, "src/0/pi.py") == b"x = 1\n"
    with pytest.raises(OSError, match=r"large\.csv has changed since the image was built"):
        content(image, "data/0/large.csv")


def test_condas_libraries_travel(env: Environment) -> None:
    env.install("thing", "thing/__init__.py")
    env.write(env.prefix / "lib/libx.so.1", "elf")
    (env.prefix / "lib/libx.so").symlink_to("libx.so.1")
    listed = f'["lib/libx.so.1", "lib/libx.so", "{SITE}/thing/__init__.py"]'
    meta = f'{{"name": "libx", "version": "1", "files": {listed}}}'
    env.write(env.prefix / "conda-meta/libx.json", meta)
    found = files(env.build(), lambda name: name == "conda:libx-1")
    assert found["lib/libx.so"].target == "libx.so.1"
    assert set(found) == {"lib/libx.so", "lib/libx.so.1"}
