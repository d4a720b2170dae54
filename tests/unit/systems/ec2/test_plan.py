"""How many machines an instance holds, and how many instances machines need."""

from __future__ import annotations

from typing import Any

import pytest

from bigmachine.systems.ec2.plan import count, share


@pytest.mark.parametrize(
    ("cpus", "each", "expected"),
    [(8, 1, (8, 1)), (8, 3, (2, 3)), (2, 4, (1, 2)), (8, "host", (1, 8))],
)
def test_an_instance_holds_as_many_machines_as_fit(cpus: int, each: Any, expected) -> None:
    assert share(cpus, each) == expected
    assert count(9, share(8, 4)[0]) == 5
