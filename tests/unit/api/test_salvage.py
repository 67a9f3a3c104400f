"""Objects that make no sense as a whole: the parts that do are in force, the others close what they could have meant."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import yaml

from pilus_api.errors import InvalidError
from pilus_api.policies import drafts_of, resolve
from pilus_api.policy_salvage import MOST_PARTS, salvaged
from pilus_api.rules import Direction, Policy, Rule, Tier

read = partial(drafts_of, cluster="blue")
BAD = "{fromEndpoints: [{matchLabels: {'k8s:': a}}]}"
GOOD = "{fromEntities: [world]}"


def left(kind: str, spec: str, version: str = "cilium.io/v2", **more: Any) -> tuple[Policy, ...]:
    obj: dict[str, Any] = {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": yaml.safe_load(spec)} | more
    if kind in ("CiliumNetworkPolicy", "NetworkPolicy"):
        obj["metadata"]["namespace"] = "shop"
    with pytest.raises(InvalidError):
        read(obj)
    found = salvaged(obj, read)
    return () if found is None else resolve(read(found))


def cnp(spec: str) -> tuple[Policy, ...]:
    return left("CiliumNetworkPolicy", spec)


def closed(rule: Rule) -> bool:
    """It denies everybody."""
    return rule.deny and rule.peers is None and rule.ports is None


def test_an_allow_that_makes_no_sense_allows_nobody_and_the_others_do() -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, ingress: [{BAD}, {GOOD}], egress: [{{}}]}}")
    assert found.default_deny == (True, True)
    assert [(rule.origin.path, bool(rule.peers)) for rule in found.rules if rule.direction is Direction.INGRESS] == [
        ("specs[0].ingress[0]", False), ("specs[0].ingress[1]", True),
    ]  # fmt: skip


def test_a_denial_that_makes_no_sense_denies_everybody() -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, ingressDeny: [{GOOD}, {BAD}], enableDefaultDeny: {{ingress: false}}}}")
    assert [closed(rule) for rule in found.rules] == [False, True]
    assert found.default_deny == (False, False)


@pytest.mark.parametrize("held", ["ingressDeny: x", "ingressDeny: [x]", "ingressDeny: {a: b}", "ingressDeny: [[{}]]"])
def test_what_is_no_list_of_rules_is_one_that_makes_no_sense(held: str) -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, {held}}}")
    assert [closed(rule) for rule in found.rules] == [True]


def test_a_section_that_is_mistyped_closes_both_directions() -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, ingresDeny: [{GOOD}]}}")
    assert found.default_deny == (True, True)
    assert not found.rules


def test_where_it_is_not_known_whom_a_policy_governs_it_may_be_all_of_its_namespace_but_not_of_the_cluster() -> None:
    spec = f"{{endpointSelector: {{matchLabels: {{'k8s:': a}}}}, ingress: [{GOOD}]}}"
    (found,) = cnp(spec)
    assert [str(need) for need in found.subject.requirements] == [str(need) for need in read(yaml.safe_load(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a, namespace: shop}, spec: {endpointSelector: {}}}"
    ))[0].policy.subject.requirements]  # fmt: skip
    assert left("CiliumClusterwideNetworkPolicy", spec) == ()


def test_more_parts_than_anybody_reads_one_by_one_are_one() -> None:
    many = ", ".join([GOOD] * (MOST_PARTS + 1))
    (found,) = cnp(f"{{endpointSelector: {{}}, ingress: [{many}]}}")
    assert [rule.peers for rule in found.rules] == [()]
    assert found.default_deny == (True, False)


def test_each_of_specs_is_looked_at_alone() -> None:
    found = left("CiliumNetworkPolicy", "{endpointSelector: {}}", specs=[{"endpointSelector": {}, "egressDeny": 1}, 7])
    assert [policy.origin.path for policy in found] == ["specs[0]", "specs[1]", "specs[2]"]
    assert [closed(rule) for rule in found[1].rules] == [True]


@pytest.mark.parametrize(
    ("spec", "types", "nobody"),
    [
        ("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}, {}]}", (True, False), [True, False]),
        ("{podSelector: {}, egress: [{to: 1}]}", (True, True), [True]),
        ("{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 90, endPort: 80}]}]}", (False, True), [True]),
        ("{podSelector: {}, policyTypes: [Everything]}", (True, True), []),
        ("{podSelector: 1, ingress: []}", (True, True), []),
    ],
)
def test_a_network_policy_closes_what_it_names(spec: str, types: tuple[bool, bool], nobody: list[bool]) -> None:
    (found,) = left("NetworkPolicy", spec, "networking.k8s.io/v1")
    assert found.default_deny == types
    labels = yaml.safe_load("[]")
    assert [rule.peers is not None and not any(peer.matches(labels) for peer in rule.peers) for rule in found.rules] == nobody  # type: ignore[union-attr]


@pytest.mark.parametrize(("action", "denies"), [("Allow", False), ("Deny", True), ("Pass", True), ("Later", True)])
def test_a_rule_of_administrators_with_a_field_that_is_newer_than_this_release_fails_closed(action: str, denies: bool) -> None:
    rules = f"[{{action: {action}, from: [{{namespaces: {{}}, someday: {{}}}}]}}, {{action: Deny, from: [{{namespaces: {{}}}}]}}]"
    version = "policy.networking.k8s.io/v1alpha1"
    (found,) = left("AdminNetworkPolicy", f"{{priority: 3, subject: {{namespaces: {{}}}}, ingress: {rules}}}", version)
    assert {rule.tier for rule in found.rules} == {Tier.ADMIN}
    assert any(closed(rule) for rule in found.rules) == denies
    assert not any(not rule.deny and rule.peers for rule in found.rules)
    assert found.rules[-1].origin.path == "spec.ingress[1]"


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"kind": "Pod"},
        {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"},
        {"kind": "AdminNetworkPolicy", "metadata": {"name": "a"}},
    ],
)
def test_of_nothing_nothing_is_made(obj: Mapping[str, Any]) -> None:
    assert salvaged(obj, read) is None
