"""``bigmachine image``: what of this environment travels to other hosts, how much, and why.

::

    bigmachine image ls [program.py | saved.image] [-m MODULE] [--data PATH]... [--exclude P]...
    bigmachine image show [...] [--layer NAME]
    bigmachine image build [...] -o saved.image
    bigmachine image diff saved.image [other.image | program.py] [...]

A program is not run for that: its directory leads ``sys.path``, as if it were. Without one it is
the current directory that does. The rest is the environment that the command runs in, and what
``bigmachine.toml`` says of images.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from bigmachine.cli_cache import describe_size

if TYPE_CHECKING:
    from bigmachine.image.build import Image
    from bigmachine.image.difference import Difference, LayerChange
    from bigmachine.image.manifest import LayerRef, Manifest

_FILES: Final = 8  # of a layer that differs, as many are named
_ACTIONS: Final = {
    "ls": "list the layers, and what is left out",
    "show": "show what an image is, and where things are in it",
    "build": "write the image into a file",
    "diff": "compare a saved image with another, or with what is",
}


def add_parser(commands: Any) -> None:
    """Add the subcommand to those of the command ``bigmachine``."""
    parser = commands.add_parser("image", help="show what of this environment travels to hosts")
    parser.set_defaults(run=_say_actions)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    listing, show, build, diff = (
        actions.add_parser(name, help=purpose) for name, purpose in _ACTIONS.items()
    )
    listing.set_defaults(act=_list)
    show.add_argument("--layer", metavar="NAME", help="list the files of this layer")
    show.set_defaults(act=_show)
    build.add_argument("-o", "--output", required=True, metavar="FILE", help="the file")
    build.set_defaults(act=_build)
    diff.add_argument("old", metavar="FILE", help="the saved image")
    diff.set_defaults(act=_diff)
    for each in (listing, show, build, diff):
        what = each.add_mutually_exclusive_group()
        what.add_argument("what", nargs="?", metavar="PROGRAM", help="a program, or a saved image")
        what.add_argument("-m", dest="module", metavar="MODULE", help="a module that is run by -m")
        each.add_argument(
            "--data", action="append", default=[], metavar="PATH", help="what machines need besides"
        )
        each.add_argument(
            "--exclude",
            action="append",
            default=[],
            metavar="PATTERN",
            help="what of the program's directories they do not need, as in a .gitignore",
        )
        each.set_defaults(run=_run)


def _say_actions(_: argparse.Namespace) -> int:
    print("bigmachine image: say what to do:", file=sys.stderr)
    for name, purpose in _ACTIONS.items():
        print(f"  bigmachine image {name:6} {purpose}", file=sys.stderr)
    return 2


def _run(arguments: argparse.Namespace) -> int:
    from bigmachine.errors import UsageError

    try:
        status: int = arguments.act(arguments)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(f"bigmachine image: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except (UsageError, ValueError) as error:
        print(f"bigmachine image: {error}", file=sys.stderr)
        return 2
    return status


def _image_of(arguments: argparse.Namespace) -> Image:
    """Return the image that the command line means: a saved one, or this environment's."""
    from bigmachine.config import image_table
    from bigmachine.image.archive import is_archive
    from bigmachine.image.build import Image, build
    from bigmachine.image.gitignore import Exclusion

    what: str | None = arguments.what
    if what is not None and is_archive(what):
        return Image.load(what)
    if what is not None and not os.path.exists(what):
        raise FileNotFoundError(2, "no such program or image", what)
    table = image_table()
    return build(
        program=_program(what),
        data=[*table.data, *arguments.data],
        exclude=Exclusion(patterns=[*table.exclude, *arguments.exclude], base=table.base),
        sys_path=_sys_path(what),
    )


def _program(path: str | None) -> Any:
    from bigmachine.host.messages import Program

    if path is None:
        return None
    return Program(how="script", target=path, executable=sys.executable, directory=os.getcwd())


def _sys_path(path: str | None) -> list[str]:
    """Return ``sys.path`` as a program would have it, in place of the command."""
    if sys.flags.safe_path:
        return list(sys.path)
    if path is None:
        lead = os.getcwd()
    elif os.path.isdir(path) or not path.endswith(".py"):
        lead = os.path.realpath(path) if _is_container(path) else _directory(path)
    else:
        lead = _directory(path)
    return [lead, *sys.path[1:]]


def _is_container(path: str) -> bool:
    import zipfile

    return os.path.isdir(path) or zipfile.is_zipfile(path)


def _directory(path: str) -> str:
    return os.path.dirname(os.path.realpath(path))


# The actions


def _list(arguments: argparse.Namespace) -> int:
    manifest = _image_of(arguments).manifest
    refs = sorted(manifest.layers, key=lambda ref: (-ref.size_bytes, ref.name))
    width = max((len(ref.name) for ref in refs), default=0)
    for ref in refs:
        print(f"{describe_size(ref.size_bytes):>10}  {ref.name:{width}}  {_why(ref, manifest)}")
    total = describe_size(manifest.size_bytes)
    print(f"{total:>10}  in {_count(len(refs), 'layer')}; image {manifest.digest[:12]}")
    _print_left_out(manifest)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    image = _image_of(arguments)
    if arguments.layer is not None:
        return _show_layer(image, arguments.layer)
    manifest = image.manifest
    platform = manifest.platform
    where = (platform["system"], platform["machine"], *(platform.get("libc") or ()))
    layers = _count(len(manifest.layers), "layer")
    print(f"image      {manifest.digest}")
    print(f"python     {'.'.join(map(str, manifest.python))}")
    print(f"platform   {' '.join(where).rstrip()}")
    print(f"size       {describe_size(manifest.size_bytes)} in {layers}")
    _print_block("sys.path", manifest.sys_path)
    width = max((len(there) for _, there in manifest.places), default=0)
    _print_block("places", [f"{there or '.':{width}}  {ours}" for ours, there in manifest.places])
    _print_block("commands", manifest.scripts)
    _print_left_out(manifest)
    return 0


def _show_layer(image: Image, name: str) -> int:
    from bigmachine.image.listing import Listing

    found = [ref for ref in image.manifest.layers if name in (ref.name, ref.distribution[0])]
    if not found:
        raise ValueError(f"there is no layer {name!r}; `bigmachine image ls` lists them")
    for ref in found:
        print(f"{ref.name}  {describe_size(ref.size_bytes)}  {_why(ref, image.manifest)}")
        print(f"  digest {ref.digest}")
        for entry in Listing.decode(image.layers[ref.digest].listing).entries:
            size = "" if entry.size is None else describe_size(entry.size)
            leads = f" -> {entry.target}" if entry.target is not None else ""
            print(f"{size:>10}  {os.path.join(ref.mount, entry.path)}{leads}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    image = _image_of(arguments)
    image.save(arguments.output)
    size = describe_size(os.path.getsize(arguments.output))
    content = describe_size(image.manifest.size_bytes)
    layers = _count(len(image.manifest.layers), "layer")
    print(f"{arguments.output}: {size}, {content} in {layers}; image {image.digest[:12]}")
    _print_left_out(image.manifest)
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    """Say how two images differ; as of ``diff``, the status is 1 if they do."""
    from bigmachine.image.build import Image
    from bigmachine.image.difference import compare

    old, new = Image.load(arguments.old), _image_of(arguments)
    found = compare((old.manifest, old.layers), (new.manifest, new.layers))
    for line in _describe_difference(found):
        print(line)
    return 1 if found else 0


# What is printed


def _why(ref: LayerRef, manifest: Manifest) -> str:
    """Say why a layer is part of an image."""
    where = [ours for ours, there in manifest.places if _is_in(there, ref.mount)]
    if ref.kind == "distribution":
        if ref.name == "site-packages":
            return "in site-packages, of no distribution"
        if ref.name.startswith("conda:"):
            return "installed by conda"
        return "installed" + (", compiled" if _is_compiled(ref) else "")
    if ref.kind == "data":
        return f"named as data: {where[0]}" if where else "named as data"
    source = f": {where[0]}" if where else ""
    on_path = any(
        _is_in(entry, ref.mount) or _is_in(ref.mount, entry) for entry in manifest.sys_path
    )
    return ("on sys.path" if on_path else "the program's") + source


def _is_in(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _is_compiled(ref: LayerRef) -> bool:
    return bool(ref.tags) and not any(tag.endswith("-none-any") for tag in ref.tags)


def _print_left_out(manifest: Manifest) -> None:
    _print_block("left out", [f"{path}: {why}" for path, why in manifest.left_out])


def _print_block(title: str, lines: tuple[str, ...] | list[str]) -> None:
    if lines:
        print(f"{title}:")
        for line in lines:
            print(f"  {line}")


def _describe_difference(found: Difference) -> Iterator[str]:
    if not found:
        yield f"the same: {_count(found.same, 'layer')}"
        return
    for what, old, new in found.facts:
        yield f"! {what}: {old or 'none'} → {new or 'none'}"
    for change in found.layers:
        yield _describe_change(change)
        for path in change.files[:_FILES]:
            yield f"      {path}"
        if len(change.files) > _FILES:
            yield f"      and {_count(len(change.files) - _FILES, 'file')} more"
    same, travels = _count(found.same, "layer"), describe_size(found.travels_bytes)
    yield f"{same} the same; {travels} would travel to a host that has the first"


def _describe_change(change: LayerChange) -> str:
    if change.new is None:
        assert change.old is not None
        return f"- {change.old.name}"
    size = describe_size(change.travels_bytes)
    if change.old is None:
        return f"+ {change.new.name}  {size}"
    old, new = change.old.distribution[1], change.new.distribution[1]
    if old != new:
        return f"~ {change.name} {old} → {new}  {size}"
    files = f", {_count(len(change.files), 'file')}" if change.files else ""
    return f"~ {change.new.name}  {size}{files}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
