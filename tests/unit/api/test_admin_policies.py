"""What the policies of cluster administrators mean, in the same words."""

import pytest
import yaml

from pilus_api.errors import InvalidError
from pilus_api.policies import policies_of
from pilus_api.resources.adminnetworkpolicy import MOST_CLUSTER_RULES, MOST_RULES
from pilus_api.rules import PLACES, RULES_OF_A_PRIORITY, AddressPeer, Direction, Policy, Ports, Scope, Tier
from pilus_api.selectors import Operator, Requirement, equals, exists, selector

PODS = exists("k8s", "io.kubernetes.pod.namespace")
EVERY_NAMESPACE = "subject: {namespaces: {}}"


def team(value: str) -> Requirement:
    return equals("k8s", "io.cilium.k8s.namespace.labels.team", value)


def policy(kind: str, spec: str, name: str = "default", *, nodes: bool = False) -> Policy:
    version = "v1beta1" if kind == "ClusterNetworkPolicy" else "v1alpha1"
    held = {
        "apiVersion": f"policy.networking.k8s.io/{version}",
        "kind": kind,
        "metadata": {"name": name},
        "spec": yaml.safe_load(spec),
    }
    (found,) = policies_of(held, cluster="blue", nodes=nodes)
    return found


def admin(rules: str, priority: int = 7) -> Policy:
    return policy("AdminNetworkPolicy", f"{{priority: {priority}, {EVERY_NAMESPACE}, {rules}}}")


def cluster(rules: str, tier: str = "Admin", priority: int = 7) -> Policy:
    return policy("ClusterNetworkPolicy", f"{{tier: {tier}, priority: {priority}, {EVERY_NAMESPACE}, {rules}}}")


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("namespaces: {}", selector(PODS)),
        ("namespaces: {matchLabels: {team: t}}", selector(PODS, team("t"))),
        (
            "pods: {namespaceSelector: {matchLabels: {team: t}}, podSelector: {matchLabels: {app: a}}}",
            selector(PODS, team("t"), equals("k8s", "app", "a")),
        ),
        # NotIn holds of what has no labels at all, but only pods are subjects.
        (
            "namespaces: {matchExpressions: [{key: team, operator: NotIn, values: [t]}]}",
            selector(PODS, Requirement("k8s", "io.cilium.k8s.namespace.labels.team", Operator.NOT_IN, ("t",))),
        ),
    ],
)
def test_subjects(subject: str, expected: object) -> None:
    found = policy("AdminNetworkPolicy", f"{{priority: 1, subject: {{{subject}}}}}")
    assert found.subject == expected
    assert found.default_deny == (False, False)
    assert found.rules == ()


@pytest.mark.parametrize("kind", ["admin", "cluster"])
def test_rules_stand_in_the_order_of_priority_and_place(kind: str) -> None:
    peers = "from: [{namespaces: {}}]"
    allow = "Allow" if kind == "admin" else "Accept"
    out = f"egress: [{{action: {allow}, to: [{{namespaces: {{}}}}]}}]"
    rules = f"ingress: [{{action: Pass, {peers}}}, {{action: Deny, {peers}, name: first}}], {out}"
    found = admin(rules) if kind == "admin" else cluster(rules)
    assert [(rule.direction, rule.place - 7 * RULES_OF_A_PRIORITY, rule.passes, rule.deny) for rule in found.rules] == [
        (Direction.INGRESS, 0, True, False),
        (Direction.INGRESS, 1, False, True),
        (Direction.EGRESS, 0, False, False),
    ]
    assert {rule.tier for rule in found.rules} == {Tier.ADMIN}
    assert [rule.origin.path for rule in found.rules] == ["spec.ingress[0]", "spec.ingress[1] (first)", "spec.egress[0]"]


def test_every_rule_of_every_priority_has_a_place() -> None:
    assert MOST_CLUSTER_RULES < MOST_RULES <= RULES_OF_A_PRIORITY
    last = ", ".join(["{action: Deny, from: [{namespaces: {}}]}"] * MOST_RULES)
    assert admin(f"ingress: [{last}]", priority=1000).rules[-1].place < PLACES
    with pytest.raises(InvalidError, match="priority"):
        admin("ingress: []", priority=1001)


def test_the_baseline_is_below() -> None:
    rule = "ingress: [{action: Deny, from: [{namespaces: {}}]}]"
    (found,) = policy("BaselineAdminNetworkPolicy", f"{{{EVERY_NAMESPACE}, {rule}}}").rules
    assert (found.tier, found.place) == (Tier.BASELINE, 0)
    (found,) = cluster(rule, tier="Baseline").rules
    assert (found.tier, found.place) == (Tier.BASELINE, 7 * RULES_OF_A_PRIORITY)


def test_there_is_one_baseline_with_a_name() -> None:
    rule = "ingress: [{action: Deny, from: [{namespaces: {}}]}]"
    with pytest.raises(InvalidError, match="the one baseline of a cluster is named default"):
        policy("BaselineAdminNetworkPolicy", f"{{{EVERY_NAMESPACE}, {rule}}}", name="other")


def test_pods_of_every_namespace_need_no_selector_of_namespaces_in_v1beta1() -> None:
    """A definition that defaults nothing leaves it out; then a denial must not govern nobody."""
    pods = "pods: {podSelector: {matchLabels: {app: a}}}"
    spec = f"{{tier: Admin, priority: 7, subject: {{{pods}}}, ingress: [{{action: Deny, from: [{{{pods}}}]}}]}}"
    found = policy("ClusterNetworkPolicy", spec)
    everywhere = selector(PODS, equals("k8s", "app", "a"))
    assert (found.subject, found.rules[0].peers) == (everywhere, (everywhere,))
    with pytest.raises(InvalidError, match="namespaceSelector"):
        policy("AdminNetworkPolicy", spec.replace("tier: Admin, ", ""))


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ("", None),
        ("ports: []", None),
        ("ports: [{portNumber: {port: 80}}]", (Ports(6, 80, 80),)),
        ("ports: [{portNumber: {protocol: UDP, port: 53}}, {portRange: {start: 8, end: 9}}]", (Ports(6, 8, 9), Ports(17, 53, 53))),
        ("ports: [{namedPort: http}]", (Ports(0, 0, 0, "http"),)),
    ],
)
def test_ports_of_admin_policies(ports: str, expected: object) -> None:
    (found,) = admin(f"ingress: [{{action: Allow, from: [{{namespaces: {{}}}}], {ports}}}]").rules
    assert found.ports == expected


@pytest.mark.parametrize(
    ("protocols", "expected"),
    [
        ("", None),
        ("protocols: [{tcp: {destinationPort: {number: 80}}}]", (Ports(6, 80, 80),)),
        (
            "protocols: [{udp: {destinationPort: {range: {start: 8, end: 9}}}}, {sctp: {destinationPort: {number: 9}}}]",
            (Ports(17, 8, 9), Ports(132, 9, 9)),
        ),
        ("protocols: [{destinationNamedPort: http}]", (Ports(0, 0, 0, "http"),)),
    ],
)
def test_protocols_of_cluster_policies(protocols: str, expected: object) -> None:
    (found,) = cluster(f"ingress: [{{action: Accept, from: [{{namespaces: {{}}}}], {protocols}}}]").rules
    assert found.ports == expected


def test_networks_are_any_address_pods_too() -> None:
    (found,) = admin("egress: [{action: Deny, to: [{networks: [10.0.0.0/8, 'fd00::/8']}]}]").rules
    assert found.peers is not None
    assert [(str(peer.prefix), peer.scope) for peer in found.peers if isinstance(peer, AddressPeer)] == [
        ("10.0.0.0/8", Scope.ANY),
        ("fd00::/8", Scope.ANY),
    ]


@pytest.mark.parametrize("action", ["Allow", "Deny", "Pass"])
def test_nodes_by_their_labels(action: str) -> None:
    spec = f"egress: [{{action: {action}, to: [{{nodes: {{matchLabels: {{rack: b}}}}}}, {{nodes: {{}}}}]}}]"
    (found,) = policy("AdminNetworkPolicy", f"{{priority: 7, {EVERY_NAMESPACE}, {spec}}}", nodes=True).rules
    rack, nodes = equals("node", "rack", "b"), [equals("reserved", name, "") for name in ("host", "remote-node")]
    assert found.peers == tuple(selector(*wanted, node) for wanted in ([rack], []) for node in nodes)
    assert (found.deny, found.passes, found.unenforced) == (action == "Deny", action == "Pass", ())


@pytest.mark.parametrize(
    ("rule", "closed"),
    [
        ("to: [{nodes: {}}, {namespaces: {}}]", "spec.egress[0].to[0].nodes"),
        ("to: [{namespaces: {}}, {}]", "spec.egress[0].to[1] (of an unknown sort)"),
    ],
)
@pytest.mark.parametrize("action", ["Allow", "Deny", "Pass"])
def test_a_peer_that_is_not_in_force_or_not_understood_fails_closed(rule: str, closed: str, action: str) -> None:
    """Allowed it is nobody, and the rule is for nobody if it isn't understood; denied, or passed on, all that it could be is
    denied: everything, if it isn't understood."""
    found = admin(f"egress: [{{action: {action}, {rule}, ports: [{{portNumber: {{port: 80}}}}]}}]").rules
    (told,) = (one for one in found if one.unenforced)
    rest = [one.peers for one in found if not one.unenforced]
    assert told.unenforced == (closed,)
    assert rest == ([] if "unknown" in closed else [(selector(PODS),)])
    if action == "Allow":
        assert told.peers == ()
        return
    assert (told.deny, told.passes) == (True, False)
    assert (told.peers is None, told.ports is None) == (("unknown" in closed,) * 2)


@pytest.mark.parametrize("action", ["Accept", "Deny", "Pass"])
@pytest.mark.parametrize("port", ["{}", "{tcp: {}}", "{tcp: {destinationPort: {}}}"])
def test_a_port_that_is_not_understood_fails_closed(action: str, port: str) -> None:
    """What stood there has been pruned: an accepting rule is for nobody, another one denies its peers everything."""
    known = "{udp: {destinationPort: {number: 80}}}"
    (told,) = cluster(f"ingress: [{{action: {action}, from: [{{namespaces: {{}}}}], protocols: [{port}, {known}]}}]").rules
    assert told.unenforced == ("spec.ingress[0].protocols[0] (of an unknown sort)",)
    if action == "Accept":
        assert told.peers == ()
    else:
        assert (told.deny, told.passes, told.ports, told.peers) == (True, False, None, (selector(PODS),))


def test_domain_names_allow_nobody_yet() -> None:
    found = admin("egress: [{action: Allow, to: [{domainNames: ['*.example.org']}, {namespaces: {}}]}]").rules
    assert [one.peers for one in found] == [(selector(PODS),), ()]
    assert found[1].unenforced == ("spec.egress[0].to[0].domainNames",)


@pytest.mark.parametrize(
    ("rules", "path"),
    [
        ("ingress: [{action: Accept, from: [{namespaces: {}}]}]", "spec.ingress[0].action"),
        ("ingress: [{action: Allow, from: []}]", "spec.ingress[0].from"),
        ("ingress: [{action: Allow}]", "spec.ingress[0].from"),
        ("ingress: [{action: Allow, from: [{networks: [10.0.0.0/8]}]}]", "spec.ingress[0].from[0].networks"),
        (
            "ingress: [{action: Allow, from: [{namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}]}]",
            "spec.ingress[0].from[0]",
        ),
        ("egress: [{action: Deny, to: [{networks: [10.0.0.0/33]}]}]", "spec.egress[0].to[0].networks[0]"),
        ("egress: [{action: Deny, to: [{networks: [10.0.0.0/8, 10.0.0.1/8]}]}]", "spec.egress[0].to[0].networks[1]"),
        ("egress: [{action: Deny, to: [{domainNames: [example.org]}]}]", "spec.egress[0]"),
        (
            "ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portRange: {start: 9, end: 9}}]}]",
            "spec.ingress[0].ports[0].portRange",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_path(rules: str, path: str) -> None:
    with pytest.raises(InvalidError) as refused:
        admin(rules)
    assert refused.value.path == path


def test_a_subject_is_of_one_sort() -> None:
    both = "subject: {namespaces: {}, pods: {namespaceSelector: {}, podSelector: {}}}"
    for subject in ("subject: {}", both):
        with pytest.raises(InvalidError, match="subject"):
            policy("AdminNetworkPolicy", f"{{priority: 1, {subject}}}")
