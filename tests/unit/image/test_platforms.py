"""Platforms: which compiled distributions run where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bigmachine.image.platforms import Platform

BOOKWORM = Platform(
    system="Linux", machine="x86_64", libc="glibc", libc_version=(2, 36), python=(3, 11)
)
OLDER = replace(BOOKWORM, libc_version=(2, 17))
ARM = replace(BOOKWORM, machine="aarch64")
ALPINE = replace(BOOKWORM, libc="musl", libc_version=(1, 2))
MAC = Platform(system="Darwin", machine="aarch64", python=(3, 11))


def test_a_platform_runs_what_is_made_for_it() -> None:
    here = Platform.here()
    assert here.runs_what_is_made_for(here)
    assert here.python >= (3, 11)


@pytest.mark.parametrize("other", [ARM, ALPINE, MAC, replace(BOOKWORM, python=(3, 12))])
def test_what_is_made_for_another_platform_does_not_run(other: Platform) -> None:
    assert not BOOKWORM.runs_what_is_made_for(other)
    assert not other.runs_what_is_made_for(BOOKWORM)


def test_a_newer_c_library_runs_what_an_older_one_does() -> None:
    assert BOOKWORM.runs_what_is_made_for(OLDER)
    assert not OLDER.runs_what_is_made_for(BOOKWORM)


@pytest.mark.parametrize(
    ("tag", "those"),
    [
        ("py3-none-any", {BOOKWORM, OLDER, ARM, ALPINE, MAC}),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", {BOOKWORM, OLDER}),
        ("cp311-cp311-manylinux_2_28_x86_64", {BOOKWORM}),
        ("cp38-abi3-manylinux2014_x86_64", {BOOKWORM, OLDER}),
        ("cp312-abi3-manylinux2014_x86_64", set()),
        ("cp312-cp312-manylinux2014_x86_64", set()),
        ("cp311-cp311-manylinux_2_17_aarch64", {ARM}),
        ("cp311-cp311-musllinux_1_2_x86_64", {ALPINE}),
        ("cp311-cp311-linux_x86_64", set()),
        ("cp311-cp311-macosx_11_0_arm64", {MAC}),
        ("cp311-cp311-macosx_10_9_universal2", {MAC}),
        ("py2.py3-none-any", {BOOKWORM, OLDER, ARM, ALPINE, MAC}),
    ],
)
def test_a_wheels_tag_says_where_it_runs(tag: str, those: set[Platform]) -> None:
    assert {each for each in (BOOKWORM, OLDER, ARM, ALPINE, MAC) if each.runs(tag)} == those


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        (BOOKWORM, "x86_64-manylinux_2_36"),
        (ARM, "aarch64-manylinux_2_36"),
        (ALPINE, "x86_64-unknown-linux-musl"),
        (MAC, "aarch64-apple-darwin"),
        (replace(BOOKWORM, libc_version=()), "x86_64-unknown-linux-gnu"),
    ],
)
def test_uv_has_a_name_for_it(platform: Platform, name: str) -> None:
    assert platform.uv_name == name


def test_a_hosts_words_are_understood() -> None:
    said = {"system": "Linux", "machine": "AMD64", "libc": ["glibc", "2.36"]}
    assert Platform.from_mapping(said, (3, 11, 2)) == BOOKWORM
    assert Platform.from_mapping({"system": "Darwin", "machine": "arm64"}, (3, 11)) == MAC
