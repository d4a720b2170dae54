"""The plan of who gets which layer from whom."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bigmachine.image.plan import DRIVER, Fetch, Plan

SIZES = {"large": 900, "middle": 500, "small": 20, "tiny": 1}


def fetch(host: str, source: str, layer: str = "large") -> Fetch:
    return Fetch(host=host, layer=layer, source=source)


def complete(plan: Plan, fetches: list[Fetch]) -> list[Fetch]:
    """Let everything that was begun succeed, sources before those they serve."""
    begun = {(each.host, each.layer): each for each in fetches}
    all_of_them = list(fetches)
    while begun:
        for key, each in list(begun.items()):
            source = each.source
            if source == DRIVER or each.layer not in plan.lacking(source):
                del begun[key]
                new = plan.done(each.host, each.layer)
                begun.update({(one.host, one.layer): one for one in new})
                all_of_them += new
    return all_of_them


def test_one_host_gets_all_from_the_driver_the_large_ones_first() -> None:
    plan = Plan(SIZES, uploads=2)
    first = plan.join("a", SIZES)
    assert first == [fetch("a", DRIVER), fetch("a", DRIVER, "middle")]
    assert plan.done("a", "large") == [fetch("a", DRIVER, "small")]
    assert plan.lacking("a") == {"middle", "small", "tiny"}


def test_hosts_that_come_one_after_another_form_a_chain() -> None:
    plan = Plan({"large": 900})
    assert plan.join("a", ["large"]) == [fetch("a", DRIVER)]
    assert plan.join("b", ["large"]) == [fetch("b", "a")]
    assert plan.join("c", ["large"]) == [fetch("c", "b")]


def test_a_host_that_has_a_layer_is_a_source_and_the_driver_sends_nothing() -> None:
    plan = Plan({"large": 900})
    assert plan.join("warm", []) == []
    assert plan.join("a", ["large"]) == [fetch("a", "warm")]
    assert plan.join("b", ["large"]) == [fetch("b", "a")]
    assert plan.done("a", "large") == []
    assert plan.join("c", ["large"]) == [fetch("c", "warm")]


def test_the_driver_sends_each_layer_once_and_so_does_each_host_however_many_come() -> None:
    layers = {f"layer-{n}": 100 for n in range(16)}
    plan = Plan(layers)
    fetches = [one for n in range(8) for one in plan.join(f"h{n}", layers)]
    fetches = complete(plan, fetches)
    sent = Counter(each.source for each in fetches)
    assert sent[DRIVER] == 16
    assert len(fetches) == 8 * 16
    assert max(Counter((each.source, each.layer) for each in fetches).values()) == 1
    hosts = [sent[f"h{n}"] for n in range(8)]
    assert max(hosts) - min(hosts) <= 4, "the links are not used evenly"


def test_with_many_hosts_each_passes_a_layer_on_to_two_and_the_tree_is_shallow() -> None:
    plan = Plan({"large": 900}, chain_hosts=4)
    sources = {}
    for n in range(100):
        sources |= {each.host: each.source for each in plan.join(f"h{n}", ["large"])}
    assert max(Counter(sources.values()).values()) == 2

    def depth(host: str) -> int:
        return 0 if host == DRIVER else 1 + depth(sources[host])

    assert max(map(depth, sources)) <= 11


def test_the_place_of_a_host_that_goes_is_taken() -> None:
    plan = Plan({"large": 900})
    for host in "abcd":
        plan.join(host, ["large"])
    # b and those behind it have no more than a has sent: the tail of the rest is a.
    assert plan.leave("b") == [fetch("c", "a")]
    # Nobody is left who has a part of it and does not have it through c.
    assert plan.leave("a") == [fetch("c", DRIVER)]
    assert plan.leave("a") == []


def test_after_a_loss_the_driver_sends_to_one_that_has_a_part_already() -> None:
    plan = Plan({"large": 900, "small": 20}, uploads=1)
    plan.join("a", ["large", "small"])
    plan.done("a", "large")  # and small is on its way
    assert plan.join("b", ["large", "small"]) == [fetch("b", "a"), fetch("b", "a", "small")]
    assert plan.leave("a") == [fetch("b", DRIVER)]
    assert plan.join("c", ["large", "small"]) == [fetch("c", "b")]
    # b has sent more than c has.
    assert plan.done("b", "large") == [fetch("b", DRIVER, "small"), fetch("c", "b", "small")]


def test_a_source_that_fails_is_replaced_by_another_and_not_asked_again() -> None:
    plan = Plan({"large": 900})
    for host in "abc":
        plan.join(host, ["large"])
    assert plan.failed("c", "large", "b") == [fetch("c", "a")]
    assert plan.failed("c", "large", "a") == [fetch("c", DRIVER)]
    assert plan.failed("c", "large", "b") == [], "that was long ago"


def test_a_source_of_which_others_complain_is_the_last_to_be_chosen() -> None:
    plan = Plan({"large": 900})
    plan.join("a", [])
    plan.join("b", [])
    assert plan.join("c", ["large"]) == [fetch("c", "a")]
    assert plan.failed("c", "large", "a") == [fetch("c", "b")]
    # b is at work for c, and a for nobody; all the same:
    assert plan.join("d", ["large"]) == [fetch("d", "c")]
    plan.done("c", "large")
    assert plan.join("e", ["large"]) == [fetch("e", "b")]


class Spreading(RuleBasedStateMachine):
    """Hosts come, go, finish and fail in any order; time has no say."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = Plan(SIZES, uploads=2, chain_hosts=3)
        self.lacking: dict[str, set[str]] = {}
        self.running: dict[tuple[str, str], str] = {}
        self.losses = 0
        self.sent: Counter[str] = Counter()
        self.count = 0

    def begin(self, fetches: list[Fetch]) -> None:
        for each in fetches:
            assert each.host in self.lacking
            assert each.layer in self.lacking[each.host]
            assert each.source == DRIVER or each.source in self.lacking
            self.running[each.host, each.layer] = each.source
            self.sent[each.layer] += each.source == DRIVER

    def ready(self) -> list[tuple[str, str]]:
        """What can be finished: its source has it all."""
        return sorted(
            key
            for key, source in self.running.items()
            if source == DRIVER or (source in self.lacking and key[1] not in self.lacking[source])
        )

    @rule(lacking=st.sets(st.sampled_from(sorted(SIZES))))
    def come(self, lacking: set[str]) -> None:
        host = f"h{self.count}"
        self.count += 1
        self.lacking[host] = set(lacking)
        self.begin(self.plan.join(host, lacking))

    @precondition(lambda self: self.lacking)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        host = data.draw(st.sampled_from(sorted(self.lacking)))
        del self.lacking[host]
        self.running = {
            key: source for key, source in self.running.items() if key[0] != host and source != host
        }
        self.losses += 1
        self.begin(self.plan.leave(host))

    @precondition(lambda self: self.ready())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        host, layer = data.draw(st.sampled_from(self.ready()))
        self.finish_one(host, layer)

    def finish_one(self, host: str, layer: str) -> None:
        del self.running[host, layer]
        self.lacking[host].discard(layer)
        self.begin(self.plan.done(host, layer))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        host, layer = data.draw(st.sampled_from(sorted(self.running)))
        source = self.running.pop((host, layer))
        self.losses += 1
        self.begin(self.plan.failed(host, layer, source))

    @invariant()
    def the_plan_knows_who_lacks_what(self) -> None:
        for host, lacking in self.lacking.items():
            assert self.plan.lacking(host) == lacking

    @invariant()
    def nobody_waits_for_himself(self) -> None:
        for host, layer in self.running:
            seen = set()
            while layer in self.lacking.get(host, ()) and (host, layer) in self.running:
                assert host not in seen
                seen.add(host)
                host = self.running[host, layer]

    @invariant()
    def the_driver_sends_no_more_than_losses_make_it(self) -> None:
        assert sum(source == DRIVER for source in self.running.values()) <= 2
        assert all(times <= 1 + self.losses for times in self.sent.values())

    def teardown(self) -> None:
        """In the end everybody who lives has everything."""
        while ready := self.ready():
            self.finish_one(*ready[0])
        assert not self.running
        assert not any(self.lacking.values())


TestSpreading = Spreading.TestCase
TestSpreading.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
