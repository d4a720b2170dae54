"""Environments as they are met: several of them at once, hooks, links, commands, what is hidden."""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from environments import Environment, content, files

from bigmachine.host.messages import Program
from bigmachine.image.build import Image
from bigmachine.image.layout import SITE
from bigmachine.image.manifest import map_path


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    made = Environment(tmp_path.resolve())
    monkeypatch.setattr(sys, "prefix", str(made.prefix))
    monkeypatch.setattr(sys, "exec_prefix", str(made.prefix))
    return made


@pytest.fixture
def system(env: Environment) -> Path:
    """A second directory of distributions, behind the first."""
    directory = env.root / "usr/lib/python3/dist-packages"
    directory.mkdir(parents=True)
    env.sys_path.append(str(directory))
    return directory


def script(path: Path, directory: str = "/") -> Program:
    return Program(how="script", target=str(path), executable=sys.executable, directory=directory)


def importable(image: Image, module: str) -> bool:
    places = files(image)
    return any(f"{entry}/{module}" in places for entry in image.manifest.sys_path)


def reasons(image: Image) -> dict[str, str]:
    return dict(image.manifest.left_out)


# Several directories of distributions


def test_a_hidden_package_does_not_mix_with_the_one_that_hides_it(
    env: Environment, system: Path
) -> None:
    env.install("num", "num/__init__.py", "num/core.py")
    env.write(system / "num/__init__.py", "old")
    env.write(system / "num/core.so", "old")  # found before core.py, were it there
    env.write(system / "num/only/old.py")
    env.write(system / "num_tool.py")
    env.write(system / "num-0.9.dist-info/METADATA", "Name: num\nVersion: 0.9\n")
    places = files(env.build())
    assert {place for place in places if "num" in place} == {
        f"{SITE}/num/__init__.py",
        f"{SITE}/num/core.py",
        *(f"{SITE}/num-1.0.dist-info/{name}" for name in ("METADATA", "RECORD", "WHEEL")),
        f"{SITE}/num_tool.py",
    }


def test_a_package_that_nobody_owns_hides_a_distributions(env: Environment, system: Path) -> None:
    env.write(env.site / "num/__init__.py", "mine\n")
    env.write(system / "num/__init__.py", "theirs\n")
    env.write(system / "num/more.py")
    info = env.write(system / "num-1.0.dist-info/METADATA", "Name: num\nVersion: 1.0\n").parent
    env.write(info / "RECORD", "num/__init__.py,,\nnum/more.py,,\nnum-1.0.dist-info/METADATA,,\n")
    image = env.build()
    assert content(image, f"{SITE}/num/__init__.py") == b"mine\n"
    assert f"{SITE}/num/more.py" not in files(image)


def test_a_module_hides_a_package(env: Environment, system: Path) -> None:
    env.write(env.site / "num.py")
    env.write(system / "num/__init__.py")
    assert f"{SITE}/num/__init__.py" not in files(env.build())


def test_parts_of_a_namespace_are_found_in_all(env: Environment, system: Path) -> None:
    env.install("space-one", "space/one.py")
    env.write(system / "space/two/__init__.py")
    assert {f"{SITE}/space/one.py", f"{SITE}/space/two/__init__.py"} <= set(files(env.build()))


def test_what_begins_to_hide_is_noticed(env: Environment, system: Path) -> None:
    info = env.write(system / "num-1.0.dist-info/METADATA", "Name: num\nVersion: 1.0\n").parent
    env.write(system / "num/__init__.py", "theirs\n")
    env.write(info / "RECORD", "num/__init__.py,,\n")
    assert content(env.build(), f"{SITE}/num/__init__.py") == b"theirs\n"
    env.write(env.site / "num.py")
    assert f"{SITE}/num/__init__.py" not in files(env.build())


# Editable installations


def test_modules_that_a_finder_finds_may_be_compiled_or_in_a_namespace(env: Environment) -> None:
    lib, suffix = env.root / "dev", EXTENSION_SUFFIXES[0]
    for name in (f"fast{suffix}", "space/inner/__init__.py", "space/lone.py"):
        env.write(lib / name)
    finder = "__editable___mine_1_0_finder"
    mapping = {
        "fast": str(lib / "fast"),
        "space.inner": str(lib / "space/inner"),
        "space.lone": str(lib / "space/lone"),
    }
    env.write(env.site / f"{finder}.py", f"MAPPING: dict[str, str] = {mapping!r}\n")
    env.write(env.site / "__editable__.mine.pth", f"import {finder}; {finder}.install()\n")
    image = env.build()
    for module in (f"fast{suffix}", "space/inner/__init__.py", "space/lone.py"):
        assert importable(image, module)


def test_the_hooks_of_the_editables_library_become_directories(env: Environment) -> None:
    env.write(env.root / "dev/src/pack/__init__.py")
    env.write(env.root / "dev/src/lone.py")
    env.write(env.root / "dev/notes.txt")
    hook = (
        "from editables.redirector import RedirectingFinder as F\nF.install()\n"
        f"F.map_module('pack', {str(env.root / 'dev/src/pack/__init__.py')!r})\n"
        f"F.map_module('lone', {str(env.root / 'dev/src/lone.py')!r})\n"
    )
    env.write(env.site / "_mine.py", hook)
    env.write(env.site / "_mine.pth", "import _mine\n")
    env.install("mine", "_mine.pth", "_mine.py")
    image = env.build()
    assert importable(image, "pack/__init__.py")
    assert importable(image, "lone.py")
    assert f"{SITE}/_mine.py" not in files(image)
    assert map_path(image.manifest, str(env.root / "dev/src/lone.py")) in files(image)


def test_a_developed_egg_is_led_to(env: Environment) -> None:
    env.write(env.root / "dev/egg/__init__.py")
    env.write(env.root / "dev/egg.egg-info/PKG-INFO", "Name: egg\nVersion: 1\n")
    env.write(env.site / "egg.egg-link", f"{env.root}/dev\n.")
    env.write(env.site / "easy-install.pth", f"{env.root}/dev\n/gone/since\n")
    env.sys_path.append(str(env.root / "dev"))
    image = env.build()
    assert importable(image, "egg/__init__.py")
    assert importable(image, "egg.egg-info/PKG-INFO")
    lines = content(image, f"{SITE}/easy-install.pth").decode().splitlines()
    assert [os.path.normpath(os.path.join(SITE, line)) for line in lines] == ["src/1"]
    assert f"{SITE}/egg.egg-link" not in files(image)


# Distributions' files


def test_links_of_distributions_stay_links_where_they_lead_to_the_same(env: Environment) -> None:
    env.install("thing", "thing/__init__.py", "thing/lib.so.1", "thing/lib.so", "thing/out")
    env.write(env.root / "outside", "data")
    for name, target in (("lib.so", "lib.so.1"), ("out", "../../../../../outside")):
        (env.site / "thing" / name).unlink()
        (env.site / "thing" / name).symlink_to(target)
    image = env.build()
    assert files(image)[f"{SITE}/thing/lib.so"].target == "lib.so.1"
    assert content(image, f"{SITE}/thing/out") == b"data"


def test_modules_without_sources_travel(env: Environment) -> None:
    env.install("secret", "secret/__init__.pyc")
    env.write(env.site / "other/__init__.pyc")
    places = files(env.build())
    assert f"{SITE}/secret/__init__.pyc" in places
    assert f"{SITE}/other/__init__.pyc" in places


def test_what_of_a_distribution_cannot_travel_is_said_each_time(env: Environment) -> None:
    env.install("thing", "thing/__init__.py", "thing/gone.py", str(env.root / "etc/thing.conf"))
    (env.site / "thing/gone.py").unlink()
    env.write(env.site / "sitecustomize.py")
    first, again = env.build(), env.build()
    assert first.digest == again.digest
    why = reasons(again)
    assert "gone.py" in why[str(env.site / "thing-1.0.dist-info")]
    assert "outside of the environment" in why[str(env.root / "etc/thing.conf")]
    assert str(env.site / "sitecustomize.py") in why


@pytest.mark.skipif(os.geteuid() == 0, reason="whoever may read everything sees no difference")
def test_what_cannot_be_read_is_said(env: Environment) -> None:
    env.install("thing", "thing/__init__.py", "thing/secret.py")
    (env.site / "thing/secret.py").chmod(0)
    image = env.build()
    assert "permission" in reasons(image)[str(env.site / "thing/secret.py")]
    assert f"{SITE}/thing/__init__.py" in files(image)


def test_what_was_written_in_place_is_noticed(env: Environment) -> None:
    env.install("thing", "thing/__init__.py")
    env.build()
    file = env.site / "thing/__init__.py"
    before = file.stat()
    file.write_text("x = 2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert content(env.build(), f"{SITE}/thing/__init__.py") == b"x = 2\n"


# Programs


def test_a_command_runs_from_the_images_commands(env: Environment) -> None:
    env.install("thing", "thing.py", "../../../bin/thing")
    env.write(env.prefix / "bin/thing", "#!/somewhere/python\nimport thing\n")
    env.write(env.prefix / "bin/other", "another program")
    (env.prefix / "bin/python3").symlink_to(sys.executable)
    env.sys_path[0] = str(env.prefix / "bin")
    image = env.build(program=script(env.prefix / "bin/thing"))
    assert map_path(image.manifest, str(env.prefix / "bin/thing")) == "bin/thing"
    assert image.manifest.sys_path == ("bin", SITE)
    assert {place for place in files(image) if not place.startswith(SITE)} == {"bin/thing"}


def test_a_command_that_is_nobodys_travels_alone(env: Environment) -> None:
    program = env.write(env.prefix / "bin/mine", "#!/somewhere/python\n")
    env.write(env.prefix / "bin/other")
    env.sys_path[0] = str(env.prefix / "bin")
    image = env.build(program=script(program))
    place = map_path(image.manifest, str(program))
    assert {each for each in files(image) if not each.startswith(SITE)} == {place}


def test_a_program_travels_though_git_ignores_it(env: Environment) -> None:
    env.write(env.project / ".gitignore", "*.py\n")
    program = env.write(env.project / "main.py")
    image = env.build(program=script(Path("main.py"), str(env.project)))
    assert map_path(image.manifest, str(program)) in files(image)


def test_modules_that_were_imported_travel_though_git_ignores_them(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.write(env.project / ".gitignore", "generated/\n")
    module = env.write(env.project / "generated/mod_that_is_generated.py")
    env.write(env.project / "generated/result.csv")
    monkeypatch.syspath_prepend(str(module.parent))
    __import__("mod_that_is_generated")
    places = files(env.build())
    del sys.modules["mod_that_is_generated"]
    assert "src/0/generated/mod_that_is_generated.py" in places
    assert "src/0/generated/result.csv" not in places


def test_a_program_is_found_by_the_links_that_lead_to_it(env: Environment) -> None:
    env.write(env.project / "main.py")
    data = env.write(env.root / "data/x.csv")
    (env.root / "link").symlink_to(env.project)
    (env.root / "run").symlink_to(env.project / "main.py")
    (env.root / "table").symlink_to(data)
    env.sys_path[0] = str(env.root / "link")
    image = env.build(program=script(env.root / "run"), data=[env.root / "table"])
    where = {name: map_path(image.manifest, str(env.root / name)) for name in ("link", "run")}
    assert where == {"link": "src/0", "run": "src/0/main.py"}
    assert map_path(image.manifest, str(env.root / "link/main.py")) == "src/0/main.py"
    assert map_path(image.manifest, str(env.root / "table")) == "data/0/x.csv"


def test_names_of_any_bytes_travel(env: Environment) -> None:
    with open(os.fsencode(env.project) + b"/caf\xe9.txt", "w") as file:
        file.write("x")
    assert os.fsdecode(b"src/0/caf\xe9.txt") in files(env.build())


def test_data_that_is_not_held_is_read_once(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bigmachine.image.build as module

    monkeypatch.setattr(module, "HELD_BYTES", -1)
    data = env.write(env.root / "table.csv", "1,2\n")
    first = env.build(data=[data])
    monkeypatch.setattr(module, "make_layer", lambda *_, **__: pytest.fail("it was read again"))
    assert env.build(data=[data]).digest == first.digest


def test_nothing_of_the_drivers_environment_is_in_it(
    env: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    env.write(env.project / "main.py")
    monkeypatch.setenv("SECRET_TOKEN", "xyzzy-never-to-be-seen")
    image = env.build()
    texts = [image.manifest.encode(), *(layer.listing for layer in image.layers.values())]
    assert not any(b"xyzzy" in text for text in texts)
