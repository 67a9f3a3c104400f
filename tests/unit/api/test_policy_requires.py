"""What requirements (fromRequires, toRequires) make of the rules of their own policy and of others."""

from typing import Any

import pytest
from tests.unit.api.policy_texts import compiled, labels, policy, rule

from pilus_api.policies import drafts_of, policies_of, resolve
from pilus_api.rules import Policy

REQUIRES = """
endpointSelector: {matchLabels: {tier: db}}
ingress: [{fromRequires: [{matchLabels: {env: prod}}]}]
"""
ALLOWS = (
    "{endpointSelector: {matchLabels: {app: a}}, ingress: [{fromEndpoints: [{matchLabels: {role: r}}]}, {fromEntities: [host]}]}"
)


def together(*held: dict[str, Any]) -> tuple[Policy, ...]:
    return resolve(draft for each in held for draft in drafts_of(each, cluster="blue"))


def governing(policies: tuple[Policy, ...], name: str, *texts: str) -> list[str]:
    """The rules of the policy of that name for a pod with these labels: of one part of it, or of none."""
    parts = [
        each
        for each in policies
        if each.origin.name == name and each.subject.matches(labels("k8s:io.kubernetes.pod.namespace=N", *texts))
    ]
    assert len(parts) <= 1
    return [rule(each) for part in parts for each in part.rules]


def test_requirements_bind_the_rules_of_other_policies_where_both_govern() -> None:
    found = together(policy(REQUIRES, name="requires"), policy(ALLOWS, name="allows"))
    narrowed = ["allow any:env=prod & any:role=r & k8s:NS=N : *", "allow reserved:host= : *"]
    assert governing(found, "allows", "k8s:app=a", "k8s:tier=db") == narrowed
    assert governing(found, "allows", "k8s:app=a") == ["allow any:role=r & k8s:NS=N : *", "allow reserved:host= : *"]
    assert governing(found, "allows", "k8s:tier=db") == []
    assert governing(found, "requires", "k8s:tier=db") == ["allow nobody : *"]


def test_requirements_do_not_depend_on_the_order_of_policies() -> None:
    one, other = policy(REQUIRES, name="requires"), policy(ALLOWS, name="allows")
    assert set(together(one, other)) == set(together(other, one))


def test_two_requirements_cut_a_policy_into_disjoint_parts() -> None:
    second = "{endpointSelector: {matchLabels: {zone: z}}, ingress: [{fromRequires: [{matchLabels: {team: t}}]}]}"
    found = together(policy(REQUIRES, name="one"), policy(second, name="two"), policy(ALLOWS, name="allows"))
    for texts, expected in (
        ((), "any:role=r & k8s:NS=N"),
        (("k8s:tier=db",), "any:env=prod & any:role=r & k8s:NS=N"),
        (("k8s:zone=z",), "any:role=r & any:team=t & k8s:NS=N"),
        (("k8s:tier=db", "k8s:zone=z"), "any:env=prod & any:role=r & any:team=t & k8s:NS=N"),
    ):
        assert governing(found, "allows", "k8s:app=a", *texts)[0] == f"allow {expected} : *"


@pytest.mark.parametrize(
    "spec",
    [
        "ingressDeny: [{fromEndpoints: [{matchLabels: {role: r}}]}]",
        "egress: [{toEndpoints: [{matchLabels: {role: r}}]}]",
        "ingress: [{fromCIDR: [10.0.0.0/8]}, {fromEntities: [cluster]}]",
    ],
)
def test_requirements_leave_alone_what_they_do_not_concern(spec: str) -> None:
    other = policy(spec, name="other")
    assert [each for each in together(policy(REQUIRES), other) if each.origin.name == "other"] == list(
        policies_of(other, cluster="blue")
    )


def test_policies_of_another_namespace_are_left_whole() -> None:
    other = policy(ALLOWS, name="other")
    other["metadata"]["namespace"] = "M"
    assert together(policy(REQUIRES), other)[1:] == policies_of(other, cluster="blue")


def test_a_reserved_label_exempts_no_requirement() -> None:
    """From the namespace that is implied, as it does a peer: who requires a host's label in a namespace is met by nobody."""
    host = "{matchLabels: {'reserved:host': ''}}"
    for required, expected in ((f"fromRequires: [{host}], ", "k8s:NS=N & reserved:host="), ("", "reserved:host=")):
        (found,) = compiled(f"ingress: [{{{required}fromEndpoints: [{host}]}}]").rules
        assert rule(found) == f"allow {expected} : *"


def test_requirements_of_deny_bind_deny() -> None:
    spec = "ingressDeny: [{fromRequires: [{matchLabels: {env: prod}}]}, {fromEndpoints: [{}]}]\ningress: [{fromEndpoints: [{}]}]"
    assert [rule(each) for each in compiled(spec).rules] == [
        "allow k8s:NS=N : *", "deny nobody : *", "deny any:env=prod & k8s:NS=N : *",
    ]  # fmt: skip
