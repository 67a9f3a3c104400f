"""What a Kubernetes NetworkPolicy means, in the same words."""

from typing import Any

import pytest
import yaml

from pilus_api.errors import InvalidError
from pilus_api.labels import Label
from pilus_api.policies import drafts_left, policies_of
from pilus_api.rules import AddressPeer, Direction, Peer, Policy, Scope
from pilus_api.selectors import Selector, equals, exists, selector

NS = equals("k8s", "io.kubernetes.pod.namespace", "N")
IN_N = Label("k8s", "io.kubernetes.pod.namespace", "N")
PODS = exists("k8s", "io.kubernetes.pod.namespace")


def team(value: str) -> Any:
    return equals("k8s", "io.cilium.k8s.namespace.labels.team", value)


def compiled(spec: str) -> Policy:
    held = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "N"},
        "spec": {"podSelector": {}} | yaml.safe_load(spec),
    }  # fmt: skip
    (found,) = policies_of(held, cluster="blue")
    return found


@pytest.mark.parametrize(
    ("spec", "closed", "rules"),
    [
        ("{}", (True, False), []),
        ("{policyTypes: []}", (True, False), []),
        ("{ingress: [{}]}", (True, False), [Direction.INGRESS]),
        ("{egress: [{}]}", (True, True), [Direction.EGRESS]),
        ("{egress: []}", (True, False), []),
        ("{policyTypes: [Ingress]}", (True, False), []),
        ("{policyTypes: [Egress]}", (False, True), []),
        ("{policyTypes: [Ingress, Egress]}", (True, True), []),
        ("{policyTypes: [Egress], ingress: [{}], egress: [{}]}", (False, True), [Direction.EGRESS]),
        ("{policyTypes: [Ingress], ingress: [{}], egress: [{}]}", (True, False), [Direction.INGRESS]),
    ],
)
def test_policy_types(spec: str, closed: tuple[bool, bool], rules: list[Direction]) -> None:
    found = compiled(spec)
    assert found.default_deny == closed
    assert [each.direction for each in found.rules] == rules


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ("[]", None),
        ("[{podSelector: {}}]", (Selector((NS,)),)),
        ("[{podSelector: {matchLabels: {app: a}}}]", (selector(NS, equals("k8s", "app", "a")),)),
        ("[{namespaceSelector: {}}]", (Selector((PODS,)),)),
        ("[{namespaceSelector: {matchLabels: {team: t}}}]", (selector(PODS, team("t")),)),
        (
            "[{namespaceSelector: {matchLabels: {team: t}}, podSelector: {matchLabels: {app: a}}}]",
            (selector(PODS, team("t"), equals("k8s", "app", "a")),),
        ),
        ("[{namespaceSelector: {}}, {podSelector: {}}]", (Selector((PODS,)), Selector((NS,)))),
    ],
)
def test_peers(peers: str, expected: tuple[Peer, ...] | None) -> None:
    assert compiled(f"ingress: [{{from: {peers}}}]").rules[0].peers == expected
    assert compiled(f"egress: [{{to: {peers}}}]").rules[0].peers == expected


def test_keys_are_kubernetes_own() -> None:
    (peer,) = compiled("ingress: [{from: [{podSelector: {matchLabels: {example.org/a_B.c: ''}}}]}]").rules[0].peers or ()
    assert peer == selector(NS, equals("k8s", "example.org/a_B.c", ""))


def test_a_null_is_an_empty_label_and_not_everybody() -> None:
    """As Go's decoder has it."""
    assert compiled("podSelector: {matchLabels: {team: }}").subject == selector(NS, equals("k8s", "team", ""))
    rule = compiled("ingress: [{from: [{namespaceSelector: {matchLabels: {team: }}}]}]").rules[0]
    assert rule.peers == (selector(PODS, team("")),)
    assert compiled("podSelector: {matchLabels: }").subject == Selector((NS,))


def test_what_is_refused_is_closed_where_it_is_in_force_all_the_same() -> None:
    metadata = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "N"}}
    for spec in (
        {"podSelector": {"matchLabels": {"k8s:app": "a"}}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}]},
        {"podSelector": {}, "policyTypes": ["Ingress", "Egress", "Ingress"]},
        {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"port": 0}]}]},
    ):
        (left,), said = drafts_left(metadata | {"spec": spec}, cluster="blue", nodes=False, hosts=True)
        assert (left.subject, left.default_deny) == (Selector((NS,)), (True, True))
        assert not any(isinstance(peer, Selector) and peer.matches((IN_N,)) for rule in left.rules for peer in rule.peers or ())
        assert all(rule.peers is not None for rule in left.rules)
        assert said


def test_a_negative_namespace_selector_does_not_mean_the_world() -> None:
    spec = "ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [t]}]}}]}]"
    (peer,) = compiled(spec).rules[0].peers or ()
    assert isinstance(peer, Selector)
    assert not peer.matches(())


def test_an_ip_block_may_be_a_pod() -> None:
    (peer,) = compiled("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]").rules[0].peers or ()
    assert isinstance(peer, AddressPeer)
    assert (peer.scope, str(peer.prefix), [str(each) for each in peer.excepted]) == (Scope.ANY, "10.0.0.0/8", ["10.1.0.0/16"])


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ("[]", None),
        ("[{}]", [(6, 0, 65535, "")]),
        ("[{protocol: UDP}]", [(17, 0, 65535, "")]),
        ("[{port: 80}]", [(6, 80, 80, "")]),
        ("[{port: 80, endPort: 90}]", [(6, 80, 90, "")]),
        ("[{port: http}, {port: 53, protocol: UDP}]", [(6, 0, 0, "http"), (17, 53, 53, "")]),
        ("[{port: 7, protocol: SCTP}]", [(132, 7, 7, "")]),
    ],
)
def test_ports(ports: str, expected: list[tuple[int, int, int, str]] | None) -> None:
    held = compiled(f"ingress: [{{ports: {ports}}}]").rules[0]
    assert held.peers is None
    found = held.ports if held.ports is None else [(each.protocol, each.low, each.high, each.name) for each in held.ports]
    assert found == expected


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("ingress: [{from: [{}]}]", "spec.ingress[0].from[0]"),
        ("ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]", "spec.ingress[0].from[0]"),
        ("ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]", "spec.ingress[0].from[0].ipBlock.cidr"),
        ("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]", "spec.egress[0].to[0].ipBlock"),
        ("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]", "spec.egress[0].to[0].ipBlock"),
        ("egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.0.0.0/7]}}]}]", "spec.egress[0].to[0].ipBlock"),
        ("egress: [{to: [{ipBlock: {cidr: 'fd00::/64', except: ['fd00::1/64']}}]}]", "spec.egress[0].to[0].ipBlock"),
        ("podSelector: {matchLabels: {'k8s:app': a}}", "spec.podSelector.matchLabels.k8s:app"),
        ("podSelector: {matchLabels: {a: b c}}", "spec.podSelector.matchLabels.a"),
        ("podSelector: {matchLabels: {'': a}}", "spec.podSelector.matchLabels."),
        (
            "ingress: [{from: [{podSelector: {matchExpressions: [{key: 'k8s:app', operator: Exists}]}}]}]",
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].key",
        ),
        (
            "egress: [{to: [{namespaceSelector: {matchLabels: {a/: b}}}]}]",
            "spec.egress[0].to[0].namespaceSelector.matchLabels.a/",
        ),
        (
            "egress: [{to: [{namespaceSelector: {matchExpressions: [{key: a, operator: In, values: [b c]}]}}]}]",
            "spec.egress[0].to[0].namespaceSelector.matchExpressions[0].values[0]",
        ),
        ("policyTypes: [Ingress, Egress, Ingress]", "spec.policyTypes"),
        ("ingress: [{ports: [{port: 0}]}]", "spec.ingress[0].ports[0].port"),
        ("ingress: [{ports: [{port: a_b}]}]", "spec.ingress[0].ports[0].port"),
        ("ingress: [{ports: [{port: [80]}]}]", "spec.ingress[0].ports[0].port"),
        ("ingress: [{ports: [{}, {port: {a: b}}]}]", "spec.ingress[0].ports[1].port"),
        ("ingress: [{ports: [{port: 90, endPort: 80}]}]", "spec.ingress[0].ports[0]"),
        ("ingress: [{ports: [{port: http, endPort: 80}]}]", "spec.ingress[0].ports[0]"),
        ("ingress: [{ports: [{port: 80, protocol: ICMP}]}]", "spec.ingress[0].ports[0].protocol"),
        ("policyTypes: [Both]", "spec.policyTypes[0]"),
        ("ingress: [{form: []}]", "spec.ingress[0].form"),
    ],
)
def test_what_is_refused(spec: str, path: str) -> None:
    with pytest.raises(InvalidError) as caught:
        compiled(spec)
    assert caught.value.path == path


def test_origin() -> None:
    found = compiled("{ingress: [{}, {from: []}], egress: [{}]}")
    assert str(found.origin) == "NetworkPolicy N/p spec"
    assert [each.origin.path for each in found.rules] == ["spec.ingress[0]", "spec.ingress[1]", "spec.egress[0]"]
    assert found.subject == Selector((NS,))
