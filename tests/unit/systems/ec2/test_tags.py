"""Whose an instance is, as its tags say."""

from __future__ import annotations

from bigmachine.systems.ec2.tags import tags


def test_tags_say_whose_an_instance_is_as_far_as_tags_may_be_long() -> None:
    made = tags(
        cluster="c",
        host="h",
        owner="me@here",
        driver="d",
        program="p.py",
        arguments="x" * 999,
        digest="",
    )
    assert made["Name"] == "c h"
    assert made["bigmachine:driver"] == "d"
    assert len(made["bigmachine:arguments"]) == 256
    assert "bigmachine:digest" not in made
