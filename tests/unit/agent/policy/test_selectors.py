"""The index answers as the selectors themselves do, whatever came and went."""

import random

import pytest

from pilus_agent.desired.selectors import SelectorIndex, bits_of
from pilus_api.labels import Label, Labels, canonical
from pilus_api.selectors import EVERYTHING, Operator, Requirement, Selector, equals, exists, selector

WEB = canonical([Label("k8s", "app", "web"), Label("k8s", "env", "prod")])
API = canonical([Label("k8s", "app", "api")])
OWN = canonical([Label("own", "app", "web")])
NODE = canonical([Label("node", "app", "web")])


@pytest.mark.parametrize(
    ("asked", "members"),
    [
        (EVERYTHING, {"web", "api", "own", "node", "bare"}),
        (selector(equals("any", "app", "web")), {"web", "own"}),
        (selector(equals("k8s", "app", "web")), {"web"}),
        (selector(exists("k8s", "app")), {"web", "api"}),
        (selector(Requirement("any", "app", Operator.DOES_NOT_EXIST)), {"node", "bare"}),
        (selector(Requirement("k8s", "app", Operator.NOT_IN, ("web",))), {"api", "own", "node", "bare"}),
        (selector(Requirement("any", "app", Operator.IN, ("api", "web")), exists("k8s", "env")), {"web"}),
        (selector(Requirement("any", "app", Operator.IN)), set()),
        (selector(equals("node", "app", "web")), {"node"}),
    ],
)
@pytest.mark.parametrize("asked_first", [True, False])
def test_select(asked: Selector, members: set[str], asked_first: bool) -> None:
    index: SelectorIndex[str] = SelectorIndex()
    if asked_first:
        assert index.select(asked) == 0
    for name, labels in (("web", WEB), ("api", API), ("own", OWN), ("node", NODE), ("bare", ())):
        index.put(name, labels)
    assert set(index.members(index.select(asked))) == members
    for name in ("web", "api", "own", "node", "bare"):
        assert (asked in index.selectors_of(name)) == (name in members)


def test_a_forgotten_selector_is_found_again() -> None:
    index: SelectorIndex[str] = SelectorIndex()
    asked = selector(equals("k8s", "app", "web"))
    index.select(asked)
    index.forget(asked)
    index.forget(asked)
    index.put("web", WEB)
    assert index.selectors_of("web") == []
    assert index.members(index.select(asked)) == ["web"]


def test_what_is_there_already_and_what_is_not_there_change_nothing() -> None:
    index: SelectorIndex[str] = SelectorIndex()
    assert index.put("web", WEB)
    assert not index.put("web", WEB)
    assert index.put("web", API)
    assert index.labels("web") == API
    assert index.remove("web")
    assert not index.remove("web")
    assert len(index) == 0


def test_a_bit_nobody_has() -> None:
    index: SelectorIndex[str] = SelectorIndex()
    index.put("web", WEB)
    index.remove("web")
    with pytest.raises(LookupError):
        index.member(0)


def test_bits() -> None:
    assert list(bits_of(0b1010_0001)) == [0, 5, 7]


def _labels(chance: random.Random) -> Labels:
    return canonical(
        Label(chance.choice(("k8s", "own", "node")), chance.choice("abc"), chance.choice("xyz")) for _ in range(chance.randrange(5))
    )


def _selector(chance: random.Random) -> Selector:
    found = []
    for _ in range(chance.randrange(4)):
        operator = chance.choice(list(Operator))
        values = () if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) else tuple(sorted(chance.sample("xyz", 2)))
        found.append(Requirement(chance.choice(("any", "k8s", "own", "node")), chance.choice("abc"), operator, values))
    return selector(*found)


@pytest.mark.parametrize("seed", range(20))
def test_after_any_history_the_answer_is_that_of_the_selectors(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    index: SelectorIndex[int] = SelectorIndex()
    truth: dict[int, Labels] = {}
    asked = [_selector(chance) for _ in range(25)]
    for _ in range(300):
        member, labels = chance.randrange(20), _labels(chance)
        if chance.random() < 0.3:
            index.remove(member)
            truth.pop(member, None)
        else:
            index.put(member, labels)
            truth[member] = labels
        one = chance.choice(asked)
        if chance.random() < 0.2:
            index.forget(one)
        assert set(index.members(index.select(one))) == {each for each, has in truth.items() if one.matches(has)}
