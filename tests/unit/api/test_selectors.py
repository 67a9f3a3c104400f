"""Selectors against label sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_api.labels import Label, Labels, canonical
from pilus_api.selectors import EVERYTHING, Operator, Requirement, Selector, equals, exists, selector

WEB: Labels = canonical(
    [Label("k8s", "app", "web"), Label("k8s", "tier", ""), Label("container", "app", "other"), Label("node", "rack", "blue")]
)


@pytest.mark.parametrize(
    ("requirement", "holds"),
    [
        (equals("k8s", "app", "web"), True),
        (equals("k8s", "app", "other"), False),
        (equals("any", "app", "other"), True),
        (equals("container", "app", "other"), True),
        (equals("reserved", "app", "web"), False),
        (equals("k8s", "tier", ""), True),
        (equals("k8s", "none", ""), False),
        (exists("k8s", "app"), True),
        (exists("any", "app"), True),
        (exists("reserved", "app"), False),
        (exists("k8s", "tier"), True),
        (Requirement("k8s", "app", Operator.DOES_NOT_EXIST), False),
        (Requirement("reserved", "app", Operator.DOES_NOT_EXIST), True),
        (Requirement("k8s", "app", Operator.IN, ("a", "web")), True),
        (Requirement("k8s", "app", Operator.IN, ()), False),
        (Requirement("k8s", "app", Operator.NOT_IN, ("a", "web")), False),
        (Requirement("k8s", "app", Operator.NOT_IN, ("a",)), True),
        (Requirement("k8s", "none", Operator.NOT_IN, ("a",)), True),  # also without the key
        (Requirement("any", "app", Operator.NOT_IN, ("other",)), False),
        (equals("node", "rack", "blue"), True),
        (equals("any", "rack", "blue"), False),  # a node's labels are asked for by name
        (Requirement("any", "rack", Operator.DOES_NOT_EXIST), True),
    ],
)
def test_requirements(requirement: Requirement, holds: bool) -> None:
    assert requirement.matches(WEB) is holds
    assert selector(requirement).matches(WEB) is holds


def test_everything_and_nothing() -> None:
    assert EVERYTHING.matches(())
    assert EVERYTHING.matches(WEB)
    assert not selector(exists("k8s", "app"), Requirement("k8s", "app", Operator.DOES_NOT_EXIST)).matches(WEB)


requirements = st.builds(
    lambda source, key, operator, values: Requirement(
        source, key, operator, tuple(sorted(values)) if operator in (Operator.IN, Operator.NOT_IN) else ()
    ),
    st.sampled_from(["any", "k8s", "x"]), st.sampled_from("ab"), st.sampled_from(Operator), st.sets(st.sampled_from("12")),
)  # fmt: skip
label_sets = st.lists(st.builds(Label, st.sampled_from(["k8s", "x"]), st.sampled_from("ab"), st.sampled_from("12"))).map(canonical)


@given(st.lists(requirements, max_size=4), label_sets)
def test_a_selector_is_all_of_its_requirements(held: list[Requirement], labels: Labels) -> None:
    assert selector(*held).matches(labels) == all(one.matches(labels) for one in held)
    assert selector(*held) == selector(*reversed(held), *held)
    assert selector(*held[:2]).and_(selector(*held[2:])) == selector(*held)


@given(st.sampled_from(["any", "k8s", "x"]), st.sampled_from("ab"), st.sets(st.sampled_from("12")), label_sets)
def test_a_requirement_and_its_opposite(source: str, key: str, values: set[str], labels: Labels) -> None:
    held = tuple(sorted(values))
    assert Requirement(source, key, Operator.IN, held).matches(labels) != Requirement(source, key, Operator.NOT_IN, held).matches(
        labels
    )
    absent = Requirement(source, key, Operator.DOES_NOT_EXIST)
    assert exists(source, key).matches(labels) != absent.matches(labels)


def test_selectors_are_values() -> None:
    assert len({selector(equals("k8s", "a", "1"), exists("k8s", "b")), selector(exists("k8s", "b"), equals("k8s", "a", "1"))}) == 1
    assert Selector() == EVERYTHING
