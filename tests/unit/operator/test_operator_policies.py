"""Policies: conditions and `enforced`."""

from typing import Any

import pytest

from pilus_api.connection import Object
from pilus_api.errors import InvalidError
from pilus_operator.checks import check_policy
from pilus_operator.facts import Realised
from pilus_operator.policies import VALID_TEXT, Policies, policy_of


def raw(generation: int = 1, **status: Any) -> Object:
    return {"metadata": {"name": "p", "uid": "u", "generation": generation}, "status": status}


def valid(status: str = "True", message: str = VALID_TEXT, since: str = "then") -> dict[str, str]:
    return {"type": "Valid", "status": status, "message": message, "lastTransitionTime": since}


def policies(held: Object, error: str = "", nodes: tuple[str, ...] = ("a", "b")) -> Policies:
    made = Policies()
    for node in nodes:
        made.set_node(node, present=True)
    made.set_policy("u", policy_of(held, "/p/status", error))
    return made


@pytest.mark.parametrize(
    ("what", "held", "error", "expected"),
    [
        ("new", raw(), "", {"conditions": [valid(since="now")], "enforced": "0/2"}),
        ("as it should be", raw(conditions=[valid()], enforced="0/2"), "", None),
        ("became invalid", raw(conditions=[valid()], enforced="0/2"), "no", {"conditions": [valid("False", "no", "now")]}),
        ("invalid otherwise", raw(conditions=[valid("False", "a")], enforced="0/2"), "b", {"conditions": [valid("False", "b")]}),
        (
            "others' conditions stay",
            raw(conditions=[{"type": "Other", "status": "True"}, valid("False", "a")], enforced="0/2"),
            "",
            {"conditions": [{"type": "Other", "status": "True"}, valid(since="now")]},
        ),
    ],
)
def test_the_condition_changes_when_its_meaning_does(what: str, held: Object, error: str, expected: Object | None) -> None:
    assert policies(held, error).patch("u", "now") == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, "0/2"),
        ({"a": Realised(3, True, "")}, "1/2"),
        ({"a": Realised(3, True, ""), "b": Realised(3, True, "")}, "2/2"),
        ({"a": Realised(3, True, ""), "b": Realised(2, True, "")}, "1/2"),
        ({"a": Realised(3, False, "no room"), "b": Realised(3, True, "")}, "1/2"),
        ({"a": Realised(3, True, ""), "gone-node": Realised(3, True, "")}, "1/2"),
    ],
)
def test_enforced_counts_nodes_that_have_this_generation(said: dict[str, Realised], expected: str) -> None:
    made = policies(raw(generation=3))
    for node, found in said.items():
        made.set_said(node, {"u": found})
    assert made.enforced("u") == expected


def test_only_what_a_change_touches_is_looked_at_again() -> None:
    made = policies(raw())
    made.set_policy("v", policy_of(raw(), "/v/status", ""))
    made.dirty.clear()
    made.set_said("a", {"u": Realised(1, True, ""), "unknown": Realised(1, True, "")})
    assert made.dirty == {"u"}
    made.dirty.clear()
    made.set_said("a", {"u": Realised(1, True, "")})
    made.set_node("a", present=True)
    assert not made.dirty
    made.set_said("a", {})
    assert made.dirty == {"u"}
    made.set_node("c", present=True)
    assert made.dirty == {"u", "v"}
    made.remove_policy("u")
    assert made.dirty == {"v"}


def test_what_was_written_is_not_written_again() -> None:
    made = policies(raw())
    patch = made.patch("u", "now")
    assert patch is not None
    made.written("u", patch)
    assert made.patch("u", "later") is None
    made.written("gone", {})


def test_an_object_that_means_nothing_is_told_with_its_field() -> None:
    held = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "d"}}
    check_policy({**held, "spec": {"endpointSelector": {}, "ingress": [{}]}, "status": {"conditions": 3}}, "default")
    with pytest.raises(InvalidError, match="ingres"):
        check_policy({**held, "spec": {"endpointSelector": {}, "ingres": [{}]}}, "default")


def test_a_field_that_is_not_in_force_is_named_in_a_condition() -> None:
    made = policies(raw(conditions=[valid()], enforced="0/2"))
    made.set_said("a", {"u": Realised(1, True, "", ("spec.ingress[0].toPorts[0].rules",))})
    found = made.patch("u", "now")
    assert found is not None
    assert found["enforced"] == "1/2"
    condition = next(one for one in found["conditions"] if one["type"] == "InForce")
    assert condition["status"] == "False"
    assert "spec.ingress[0].toPorts[0].rules" in condition["message"]
    assert valid() in found["conditions"]


def test_what_a_node_could_not_do_is_named_and_goes_when_it_could() -> None:
    made = policies(raw(conditions=[valid()], enforced="0/2"))
    made.set_said("a", {"u": Realised(1, False, "too large: 20000 rows")})
    found = made.patch("u", "now")
    assert found is not None
    assert "a: too large: 20000 rows" in found["conditions"][-1]["message"]
    made.set_policy("u", policy_of(raw(conditions=found["conditions"], enforced="0/2"), "/p/status", ""))
    made.set_said("a", {"u": Realised(1, True, "")})
    after = made.patch("u", "later")
    assert after is not None
    assert after["conditions"][-1] == {
        "type": "InForce",
        "status": "True",
        "message": "All of it is in force",
        "lastTransitionTime": "later",
    }


def test_what_nodes_note_is_a_condition_of_its_own_and_goes_with_its_cause() -> None:
    """It says nothing about whether the policy is in force, and stands while no node has spoken of a new generation."""
    made = policies(raw(conditions=[valid()], enforced="0/2"))
    for node, notes in (("a", ("spec.egress[0]: n",)), ("b", ())):
        made.set_said(node, {"u": Realised(1, True, "", notes=notes)})
    found = made.patch("u", "now")
    assert found is not None
    noted = {"type": "Notes", "status": "True", "message": "spec.egress[0]: n", "lastTransitionTime": "now"}
    assert found["conditions"] == [valid(), noted]
    assert found["enforced"] == "2/2"
    assert made.news("u", found) == [("Notes", "spec.egress[0]: n")]
    made.set_policy("u", policy_of(raw(generation=2, conditions=found["conditions"], enforced="2/2"), "/p/status", ""))
    assert made.patch("u", "later") == {"enforced": "0/2"}
    made.set_said("a", {"u": Realised(2, True, "")})
    after = made.patch("u", "later")
    assert after is not None
    assert made.news("u", after) == []
    assert after["conditions"][-1] == noted | {"status": "False", "message": "Nothing to note", "lastTransitionTime": "later"}


def test_mode_and_pods_are_what_nodes_say_and_stay_while_none_has_spoken() -> None:
    made = policies(raw(conditions=[valid()], enforced="0/2"))
    assert made.patch("u", "now") is None, "nothing is known of it"
    for node, audited, expected, selected in (("a", False, "enforce", 2), ("b", True, "audit", 5), ("b", False, "enforce", 5)):
        made.set_said(node, {"u": Realised(1, True, "", (), audited, 2 if node == "a" else 3)})
        found = made.patch("u", "now")
        assert found is not None
        assert (found["mode"], found["selected"]) == (expected, selected)
    made.written("u", {"conditions": [valid()], "enforced": "2/2", "mode": "enforce", "selected": 5})
    assert made.patch("u", "now") is None
    made.set_said("a", {})
    made.set_said("b", {})
    assert made.patch("u", "now") == {"enforced": "0/2"}


def test_a_kind_of_another_project_has_conditions_with_reasons_and_nothing_else() -> None:
    made = policies(raw())
    made.set_policy("u", policy_of(raw(), "/apis/policy.networking.k8s.io/v1alpha1/adminnetworkpolicies/p/status", ""))
    made.set_said("a", {"u": Realised(1, True, "")})
    found = made.patch("u", "now")
    assert found is not None
    assert list(found) == ["conditions"]
    told = {one["type"]: (one["status"], one["reason"], one["message"]) for one in found["conditions"]}
    assert told["Valid"][:2] == ("True", "Valid")
    assert told["InForce"] == ("False", "NotInForce", "On 1/2 nodes")
    made.written("u", found)
    made.set_said("b", {"u": Realised(1, True, "")})
    found = made.patch("u", "later")
    assert found is not None
    assert [(one["status"], one["message"]) for one in found["conditions"] if one["type"] == "InForce"] == [
        ("True", "On 2/2 nodes")
    ]
    made.written("u", found)
    assert made.patch("u", "later") is None


def test_what_is_not_as_it_was_declared_is_news_once() -> None:
    made = policies(raw(conditions=[valid()], enforced="0/2"))
    made.set_said("a", {"u": Realised(1, True, "", ("spec.egress[0].toFQDNs",))})
    found = made.patch("u", "now")
    assert found is not None
    ((reason, message),) = made.news("u", found)
    assert reason == "NotInForce"
    assert "toFQDNs" in message
    made.written("u", found)
    made.set_said("b", {"u": Realised(1, True, "", ("spec.egress[0].toFQDNs",))})
    again = made.patch("u", "later")
    assert again is not None
    assert made.news("u", again) == []


def test_while_no_node_has_spoken_of_a_generation_what_was_said_before_stands() -> None:
    """Not that all of it is in force."""
    made = policies(raw(conditions=[valid()], enforced="0/2"))
    made.set_said("a", {"u": Realised(1, False, "too large")})
    found = made.patch("u", "now")
    assert found is not None
    made.set_policy("u", policy_of(raw(2, conditions=found["conditions"], enforced="0/2"), "/p/status", ""))
    assert made.patch("u", "later") is None


def test_words_of_nodes_are_put_in_order() -> None:
    """Paths of fields together, counts of more behind what they are of, sentences by themselves."""
    sentence = "annotation pilus.io/mode is 'adit', and not enforce or audit: it is enforced"
    made = policies(raw(conditions=[valid()], enforced="0/2"))
    made.set_said("a", {"u": Realised(1, True, "", ("spec.egress[1]", sentence, "and 7 more"), notes=("x", "and 2 more"))})
    made.set_said("b", {"u": Realised(1, True, "", ("spec.egress[0]", "spec.egress[1]", "and 7 more"), notes=("x", "y"))})
    found = made.patch("u", "now")
    assert found is not None
    told = {one["type"]: one["message"] for one in found["conditions"]}
    fields = "not in force as it is written, and what it would allow by that is denied: spec.egress[0], spec.egress[1], and 7 more"
    assert told["InForce"] == f"{sentence}; {fields}"
    assert told["Notes"] == "x; y; and 2 more"
    made.set_said("a", {"u": Realised(1, True, "", (sentence, "and 7 more"))})
    made.set_said("b", {"u": Realised(1, True, "")})
    found = made.patch("u", "now")
    assert found is not None
    assert found["conditions"][-1]["message"] == f"{sentence}; and 7 more"


def test_of_a_kind_without_a_status_conditions_are_kept_here() -> None:
    made = policies(raw(), error="no")
    made.set_policy("u", policy_of(raw(), "", "no"))
    made.set_said("a", {"u": Realised(1, False, "too large", audited=True, selected=3)})
    found = made.patch("u", "now")
    assert found is not None
    assert list(found) == ["conditions"]
    assert made.news("u", found) == [("NotValid", "no"), ("NotInForce", "a: too large")]
    made.written("u", found)
    for generation in (1, 2):  # the same object again, and a change of it
        made.set_policy("u", policy_of(raw(generation), "", "no"))
        assert made.patch("u", "later") is None
    made.set_said("a", {"u": Realised(2, True, "")})
    found = made.patch("u", "later")
    assert found is not None
    assert made.news("u", found) == []
    assert [(one["type"], one["status"]) for one in found["conditions"]] == [("Valid", "False"), ("InForce", "True")]
