"""Objects that make no sense as a whole: the parts that do are in force, the others close what they could have meant."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import yaml

from pilus_api.errors import InvalidError
from pilus_api.labels import pod_labels
from pilus_api.policies import drafts_of, resolve, together
from pilus_api.policy_salvage import MOST_PARTS, salvaged
from pilus_api.rules import Demand, Direction, Policy, Rule, Tier

read = partial(drafts_of, cluster="blue")
NAMED = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a", "namespace": "shop"}}
BAD = "{fromEndpoints: [{matchLabels: {'k8s:': a}}]}"
GOOD = "{fromEntities: [world]}"


def left(kind: str, held: str, version: str = "cilium.io/v2", **more: Any) -> tuple[Policy, ...]:
    obj: dict[str, Any] = {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": yaml.safe_load(held)} | more
    if kind in ("CiliumNetworkPolicy", "NetworkPolicy"):
        obj["metadata"]["namespace"] = "shop"
    with pytest.raises(InvalidError):
        read(obj)
    found = salvaged(obj, read)
    return () if found is None else together(resolve(read(found)))


def cnp(spec: str) -> tuple[Policy, ...]:
    return left("CiliumNetworkPolicy", spec)


def closed(rule: Rule) -> bool:
    """It denies everybody."""
    return rule.deny and rule.peers is None and rule.ports is None


def test_an_allow_that_makes_no_sense_allows_nobody_and_the_others_do() -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, ingress: [{BAD}, {GOOD}], egress: [{{}}]}}")
    assert found.default_deny == (True, True)
    assert [(rule.origin.path, bool(rule.peers)) for rule in found.rules if rule.direction is Direction.INGRESS] == [
        ("spec.ingress[0]", False), ("spec.ingress[1]", True),
    ]  # fmt: skip


REQUIRED = "fromRequires: [{matchLabels: {team: y}}]"


@pytest.mark.parametrize(
    ("element", "met"),
    [
        (f"{{{REQUIRED}, fromCIDR: ['010.0.0.0/8']}}", {"y"}),
        ("{fromRequires: [{matchLabels: {team: y}}, {matchLabels: {'k8s:': y}}]}", set()),
        ("{fromRequires: x}", set()),
        ("{fromRequire: [{matchLabels: {team: y}}]}", set()),
        (f"{{{REQUIRED}, FromRequires: []}}", set()),
        (BAD, {"x", "y"}),
        ("x", {"x", "y"}),
    ],
)
def test_what_an_allow_that_makes_no_sense_requires_is_required_or_met_by_nobody(element: str, met: set[str]) -> None:
    """Whoever wrote it believes that others are restricted by it."""
    (found,) = cnp(f"{{endpointSelector: {{}}, ingress: [{{fromEndpoints: [{{}}]}}, {element}]}}")
    (peers,) = (rule.peers for rule in found.rules if rule.peers)
    assert {team for team in "xy" if peers and peers[0].matches(pod_labels({"team": team}, "shop", {}, "", "c"))} == met  # type: ignore[union-attr]


def test_what_is_required_is_required_where_it_is_not_known_of_whom_or_where_there_are_too_many() -> None:
    def demanded(spec: str) -> list[Demand]:
        found = salvaged({**NAMED, "spec": yaml.safe_load(spec)}, read)
        return [demand for draft in read(found or {}) for demand in draft.demands]

    (readable,) = read({**NAMED, "spec": yaml.safe_load(f"{{endpointSelector: {{}}, ingress: [{{{REQUIRED}}}]}}")})
    assert demanded(f"{{endpointSelector: 1, ingress: [{{{REQUIRED}}}]}}") == list(readable.demands)
    (nobody,) = demanded(f"{{endpointSelector: {{}}, ingress: [{', '.join([GOOD] * MOST_PARTS)}, {{{REQUIRED}}}]}}")
    assert not nobody.peer.matches(pod_labels({"team": "y"}, "shop", {}, "", "c"))


@pytest.mark.parametrize(
    ("element", "closing"),
    [
        ("{fromEndpoints: [{matchLabels: {'k8s:': a}}], authentication: {mode: required}}", True),
        ("{fromEndpoints: [{matchLabels: {'k8s:': a}}], authentification: {mode: required}}", True),
        ("{fromCIDR: ['010.0.0.0/8'], toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}", True),
        ("{fromCIDR: ['010.0.0.0/8'], toPorts: x}", True),
        ("{fromEntities: [world], toPort: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}", True),
        ("{fromCIDR: ['010.0.0.0/8'], toPorts: [{ports: [{port: '80', protocol: TCP}]}], authentication: {mode: disabled}}", False),
    ],
)
def test_what_would_restrict_others_and_makes_no_sense_closes_what_they_allow(element: str, closing: bool) -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, ingress: [{GOOD}, {element}]}}")
    assert [closed(rule) for rule in found.rules] == [False, closing]


def test_what_nobody_meets_for_sure_opens_nothing_that_is_closed() -> None:
    """An unreadable requirement makes peers nobody; what authentication closes must not be nobody with them."""
    closing = "{fromEndpoints: [{}], authentication: {mode: required}}"
    (found,) = cnp(f"{{endpointSelector: {{}}, ingress: [{GOOD}, {closing}, {{fromRequires: x}}]}}")
    assert [(rule.deny, bool(rule.peers)) for rule in found.rules] == [(False, True), (True, True), (False, False)]
    me = pod_labels({}, "shop", {}, "", "c")
    assert any(peer.matches(me) for rule in found.rules if rule.deny for peer in rule.peers or ())  # type: ignore[union-attr]


def test_a_denial_that_makes_no_sense_denies_everybody() -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, ingressDeny: [{GOOD}, {BAD}], enableDefaultDeny: {{ingress: false}}}}")
    assert [closed(rule) for rule in found.rules] == [False, True]
    assert found.default_deny == (False, False)


@pytest.mark.parametrize(
    "held", ["ingressDeny: x", "ingressDeny: [x]", "ingressDeny: {a: b}", "ingressDeny: {}", "ingressDeny: [[{}]]"]
)
def test_what_is_no_list_of_rules_is_one_that_makes_no_sense(held: str) -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, {held}}}")
    assert [closed(rule) for rule in found.rules] == [True]


def test_a_section_that_is_mistyped_closes_both_directions() -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, ingres: [{GOOD}]}}")
    assert found.default_deny == (True, True)
    assert not found.rules


@pytest.mark.parametrize(
    "section",
    ["ingressdeny: [{}]", "ingres: [{fromEntities: [all], authentication: {mode: required}}]", f"Ingress: [{{{REQUIRED}}}]"],
)
def test_a_mistyped_section_that_may_take_from_what_others_allow_denies_everybody(section: str) -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, {section}}}")
    assert found.default_deny == (True, True)
    assert [(closed(rule), rule.direction) for rule in found.rules] == [(True, Direction.INGRESS), (True, Direction.EGRESS)]


def test_where_it_is_not_known_whom_a_policy_governs_its_namespace_is_closed_and_nobody_is_let_in() -> None:
    """What it allows may be for others; what it denies may be for all of them. A whole cluster is not closed for one word."""
    spec = (
        "{endpointSelector: {matchLabels: {'k8s:': a}}, ingress: [{fromEntities: [all]}], ingressDeny: [{fromEntities: [world]}]}"
    )
    (found,) = cnp(spec)
    (all_of_it,) = read({**NAMED, "spec": {"endpointSelector": {}}})
    assert found.subject == all_of_it.subject
    assert found.default_deny == (True, False)
    assert [(rule.deny, bool(rule.peers)) for rule in found.rules] == [(False, False), (True, True)]
    (nobody,) = left("CiliumClusterwideNetworkPolicy", spec)
    assert not any(nobody.subject.matches(labels) for labels in (pod_labels({"a": "b"}, "shop", {}, "", "c"), ()))


@pytest.mark.parametrize("section", ["enableDefaultDeny: {ingress: 'true'}", "enableDefaultDeny: []", "enableDefaultDeny: x"])
def test_whether_it_closes_is_yes_where_it_can_not_be_read(section: str) -> None:
    (found,) = cnp(f"{{endpointSelector: {{}}, {section}}}")
    assert found.default_deny == (True, True)
    (found,) = cnp("x")
    assert found.default_deny == (True, True)


@pytest.mark.parametrize(
    "more",
    [
        {"spec": {"endpointSelector": {}, "ingress": [yaml.safe_load(GOOD)] * 10 + [yaml.safe_load(BAD)]}},
        {"spec": {"endpointSelector": {}, "ingress": [yaml.safe_load(BAD)]}, "specs": [{"endpointSelector": {}}] * 20},
        {"spec": {"endpointSelector": {}, "ingress": [yaml.safe_load(GOOD)] * 151}},
        {"spec": {"endpointSelector": {}, "ingress": [{}]}, "specs": [{"endpointSelector": {}}] * 21},
    ],
    ids=["more than specs may have", "all specs that there may be", "too many", "too many specs"],
)
def test_no_number_of_parts_leaves_a_policy_that_governs_nobody(more: dict[str, Any]) -> None:
    found = left("CiliumNetworkPolicy", "", **more)
    assert found[0].default_deny[Direction.INGRESS]
    assert found[0].origin.path == "spec"


def test_more_parts_than_anybody_reads_one_by_one_are_one() -> None:
    many = ", ".join([GOOD] * (MOST_PARTS + 1))
    (found,) = cnp(f"{{endpointSelector: {{}}, ingress: [{many}]}}")
    assert [rule.peers for rule in found.rules] == [()]
    assert found.default_deny == (True, False)


def test_each_of_specs_is_looked_at_alone() -> None:
    found = left("CiliumNetworkPolicy", "{endpointSelector: {}}", specs=[{"endpointSelector": {}, "egressDeny": 1}, 7])
    assert [policy.origin.path for policy in found] == ["spec", "specs[0]", "specs[1]"]
    assert [closed(rule) for rule in found[1].rules] == [True]


@pytest.mark.parametrize(
    ("spec", "types", "nobody"),
    [
        ("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}, {}]}", (True, False), [True, False]),
        ("{podSelector: {}, egress: [{to: 1}]}", (True, True), [True]),
        ("{podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 90, endPort: 80}]}]}", (False, True), [True]),
        ("{podSelector: {}, policyTypes: [Everything]}", (True, True), []),
        ("{podSelector: 1, ingress: [{}]}", (True, False), [True]),
        ("{podSelector: {}, ingress: {}}", (True, False), [True]),
        ("{podSelector: {}, policyTypes: [Ingress, Egress], egress: {}}", (True, True), [True]),
        ("{podSelector: {}, egres: [{}]}", (True, True), []),
        ("x", (True, True), []),
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


def admin(spec: str) -> Policy:
    (found,) = left("AdminNetworkPolicy", spec, "policy.networking.k8s.io/v1alpha1")
    return found


SUBJECT = "subject: {namespaces: {}}"
DENY = "{action: Deny, from: [{namespaces: {}}]}"


def test_an_action_of_the_other_kind_is_none_of_this_one() -> None:
    found = admin(f"{{priority: 3, {SUBJECT}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}]}}, {DENY}]}}")
    assert any(closed(rule) for rule in found.rules)
    assert found.rules[-1].origin.path == "spec.ingress[1]"


def test_where_the_place_among_others_can_not_be_read_denials_go_first_and_nothing_else_holds() -> None:
    allow = "{action: Allow, from: [{namespaces: {}}]}"
    found = admin(f"{{priority: high, {SUBJECT}, ingress: [{allow}, {DENY}]}}")
    assert {rule.place for rule in found.rules} == {0, 1}
    assert not any(not rule.deny and rule.peers for rule in found.rules)
    assert any(closed(rule) for rule in found.rules)


def test_more_rules_than_there_may_be_are_one() -> None:
    found = admin(f"{{priority: 3, {SUBJECT}, ingress: [{', '.join([DENY] * 101)}]}}")
    assert any(closed(rule) for rule in found.rules)


def test_what_else_an_object_says_of_itself_is_not_read_with_every_part() -> None:
    read_with: list[Any] = []

    def watched(obj: Mapping[str, Any]) -> object:
        read_with.append(obj["metadata"])
        return read(obj)

    obj = {**NAMED, "spec": {"endpointSelector": {}, "ingress": [yaml.safe_load(BAD)]}}
    obj["metadata"] = {**NAMED["metadata"], "annotations": {"long": "x" * 100}}  # type: ignore[dict-item]
    assert salvaged(obj, watched) is not None
    assert all(held.keys() <= {"name", "namespace", "uid"} for held in read_with)


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
