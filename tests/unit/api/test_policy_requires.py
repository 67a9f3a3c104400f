"""What requirements (fromRequires, toRequires) make of the rules of their own policy and of others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml
from tests.unit.api.policy_texts import GROUPS, compiled, labels, policy, rule

from pilus_api.policies import drafts_of, resolve, together
from pilus_api.policy_together import TooMuchTogetherError

REQUIRES = """
endpointSelector: {matchLabels: {tier: db}}
ingress: [{fromRequires: [{matchLabels: {env: prod}}]}]
"""
ALLOWS = (
    "{endpointSelector: {matchLabels: {app: a}}, ingress: [{fromEndpoints: [{matchLabels: {role: r}}]}, {fromEntities: [host]}]}"
)


def governing(held: Sequence[dict[str, Any]], name: str, *texts: str) -> list[str]:
    """The rules of the policy of that name for a pod with these labels, among those of all policies that govern it."""
    of = labels("k8s:io.kubernetes.pod.namespace=N", *texts)
    drafts = [draft for each in held for draft in drafts_of(each, cluster="blue") if draft.subject.matches(of)]
    found = together(resolve(drafts, GROUPS))
    assert [each.origin for each in found] == [each.origin for each in drafts]
    return [rule(one) for each in found if each.origin.name == name for one in each.rules]


def test_requirements_bind_the_rules_of_other_policies_where_both_govern() -> None:
    held = policy(REQUIRES, name="requires"), policy(ALLOWS, name="allows")
    narrowed = ["allow any:env=prod & any:role=r & k8s:NS=N : *", "allow reserved:host= : *"]
    assert governing(held, "allows", "k8s:app=a", "k8s:tier=db") == narrowed
    assert governing(held, "allows", "k8s:app=a") == ["allow any:role=r & k8s:NS=N : *", "allow reserved:host= : *"]
    assert governing(held, "allows", "k8s:tier=db") == []
    assert governing(held, "requires", "k8s:tier=db") == ["allow nobody : *"]
    assert governing(held[::-1], "allows", "k8s:app=a", "k8s:tier=db") == narrowed


def test_requirements_of_several_policies_are_all_to_be_met() -> None:
    second = "{endpointSelector: {matchLabels: {zone: z}}, ingress: [{fromRequires: [{matchLabels: {team: t}}]}]}"
    held = policy(REQUIRES, name="one"), policy(second, name="two"), policy(ALLOWS, name="allows")
    for texts, expected in (
        ((), "any:role=r & k8s:NS=N"),
        (("k8s:tier=db",), "any:env=prod & any:role=r & k8s:NS=N"),
        (("k8s:zone=z",), "any:role=r & any:team=t & k8s:NS=N"),
        (("k8s:tier=db", "k8s:zone=z"), "any:env=prod & any:role=r & any:team=t & k8s:NS=N"),
    ):
        assert governing(held, "allows", "k8s:app=a", *texts)[0] == f"allow {expected} : *"


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
    alone = governing([other], "other", "k8s:tier=db")
    assert alone
    assert governing([policy(REQUIRES), other], "other", "k8s:tier=db") == alone


def test_requirements_of_more_peers_than_can_be_borne_are_refused() -> None:
    """Each of the peers gets all that is required: who may write policies may write thousands of either."""
    required = ", ".join(f"{{matchLabels: {{k{number}: v}}}}" for number in range(100))
    peers = ", ".join(f"{{matchLabels: {{a: p{number}}}}}" for number in range(200))
    elements = ", ".join([f"{{fromEndpoints: [{peers}]}}"] * 3)
    drafts = drafts_of(policy(f"ingress: [{{fromRequires: [{required}]}}, {elements}]"), cluster="blue")
    with pytest.raises(TooMuchTogetherError, match="more than 50,000 requirements of endpoint peers"):
        together(drafts)
    assert together(replace(draft, demands=draft.demands[:20]) for draft in drafts)


def test_policies_with_requirements_are_as_many_together_as_alone() -> None:
    """However many there are, and whomever each governs: none is cut into parts along the subjects of the others."""
    spec = "{{endpointSelector: {{matchLabels: {{a{n}: x, b: y}}}}, ingress: [{{fromRequires: [{{matchLabels: {{t{n}: z}}}}]}}]}}"
    held = policy({}) | {"specs": [yaml.safe_load(spec.format(n=n)) for n in range(20)]}
    del held["spec"]
    drafts = drafts_of(held, cluster="blue")
    assert [each.origin.path for each in resolve(drafts)] == [f"specs[{n}]" for n in range(20)]
    assert [each.demands for each in resolve(drafts)] == [each.demands for each in drafts]


def test_a_reserved_label_exempts_no_requirement() -> None:
    """From the namespace that is implied, as it does a peer: who requires a host's label in a namespace is met by nobody."""
    host = "{matchLabels: {'reserved:host': ''}}"
    for required, expected in ((f"fromRequires: [{host}], ", "k8s:NS=N & reserved:host="), ("", "reserved:host=")):
        (found,) = compiled(f"ingress: [{{{required}fromEndpoints: [{host}]}}]").rules
        assert rule(found) == f"allow {expected} : *"


def test_a_reserved_label_exempts_no_requirement_of_a_clusterwide_policy() -> None:
    """From being in some namespace, which those are not that a reserved label means."""
    host = "{matchLabels: {'reserved:host': ''}}"
    (found,) = compiled(f"ingress: [{{fromRequires: [{host}], fromEndpoints: [{host}]}}]", clusterwide=True).rules
    assert rule(found) == "allow k8s:NS & reserved:host= : *"


def test_requirements_of_deny_bind_deny() -> None:
    spec = "ingressDeny: [{fromRequires: [{matchLabels: {env: prod}}]}, {fromEndpoints: [{}]}]\ningress: [{fromEndpoints: [{}]}]"
    assert [rule(each) for each in compiled(spec).rules] == [
        "allow k8s:NS=N : *", "deny nobody : *", "deny any:env=prod & k8s:NS=N : *",
    ]  # fmt: skip
