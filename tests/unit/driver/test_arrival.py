"""How far an image is, as the person at the terminal is told."""

from __future__ import annotations

from bigmachine.driver.arrival import Arrival
from bigmachine.driver.progress import StatusLine


class Seen(StatusLine):
    """A status line that is taken for a terminal's, and shows nothing."""

    def __init__(self) -> None:
        super().__init__(lambda: None)

    def is_seen(self) -> bool:
        return True


def arrival(lacking: dict[str, set[str]]) -> Arrival:
    return Arrival({"a": 100, "b": 50}, lambda host: lacking.get(host, set()), Seen())


def test_it_is_what_a_host_on_average_has_of_what_it_lacked() -> None:
    lacking = {"h0": {"a", "b"}, "h1": {"b"}}
    coming = arrival(lacking)
    assert coming.expect("h0", {"a", "b"})
    assert not coming.expect("h1", {"b"}), "it is shown already"
    assert coming.measure() == (2, 0, 100)
    lacking["h0"].remove("a")
    assert coming.measure() == (2, 50, 100)


def test_what_the_driver_has_sent_of_a_layer_is_with_all_who_get_it_soon() -> None:
    coming = arrival({"h0": {"a"}, "h1": {"a"}})
    for host in ("h0", "h1"):
        coming.expect(host, {"a"})
    coming.sent("a", 30)
    assert coming.measure() == (2, 30, 100)
    coming.sent("a", 90)  # some of it a second time
    assert coming.measure() == (2, 100, 100)


def test_a_host_that_has_all_is_not_spoken_of() -> None:
    coming = arrival({})
    assert not coming.expect("h0", set())
    assert coming.expect("h1", {"a"})


def test_elsewhere_than_on_a_terminal_nobody_counts() -> None:
    coming = Arrival({"a": 1}, lambda _: {"a"}, StatusLine(lambda: None))
    assert not coming.expect("h0", {"a"})
