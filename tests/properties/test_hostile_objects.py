"""Objects that somebody wrote who wants more than is his, on the whole way: object -> labels -> identity -> rules -> tables.

What a pod may write of itself are its labels; what a tenant may write are the policies of its namespace.
"""

import string
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tests.properties.conftest import OBJECTS
from tests.properties.oracle import Probe, World, governing_policies

from pilus_agent.desired.policy.answers import Decision
from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.explain import explain
from pilus_agent.desired.policy.tables import Endpoint
from pilus_api.errors import InvalidError
from pilus_api.identities import RESERVED, Identity
from pilus_api.label_filters import IdentityFilter
from pilus_api.labels import Labels, from_security_labels, pod_labels, security_labels
from pilus_api.policies import drafts_of, policies_of, resolve
from pilus_api.rules import Direction, Policy

CLUSTER = "east"
RELEVANT = IdentityFilter()
OURS = "shop"  # the namespace of the policies
ADDRESSES = [ip_address(text) for text in ("10.0.0.9", "198.51.100.7", "fd00::9", "2001:db8::7")]
PORTS = [(1, 8), (6, 0), (6, 80), (17, 53), (58, 128), (132, 9)]


def labels(
    held: Mapping[str, str], namespace: str = "evil", account: str = "", of_namespace: Mapping[str, str] | None = None
) -> Labels:
    """As the operator writes them into a CiliumIdentity, and the agent reads them."""
    found = RELEVANT(pod_labels(dict(held), namespace, dict(of_namespace or {}), account, CLUSTER))
    return from_security_labels(security_labels(found))


PODS: dict[Identity, Labels] = {
    Identity(1001): labels({"app": "web"}, OURS, "robot", {"team": "blue"}),
    Identity(1002): labels({"app": "web"}, "other", "admin", {"team": "red"}),
    Identity(1003): labels({}, OURS),
}
VICTIM = Endpoint(PODS[Identity(1001)], {})


def policy(spec: Mapping[str, Any], kind: str = "CiliumNetworkPolicy", name: str = "p") -> dict[str, Any]:
    clusterwide = kind == "CiliumClusterwideNetworkPolicy"
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    selector: dict[str, Any] = {"podSelector": {}} if kind == "NetworkPolicy" else {"endpointSelector": {}}
    metadata = {"name": name, "uid": name} | ({} if clusterwide else {"namespace": OURS})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": selector | dict(spec)}


def passing(policies: tuple[Policy, ...], identities: Mapping[Identity, Labels], endpoint: Endpoint = VICTIM) -> set[Probe]:
    """Every packet, of whomever and from wherever, that an endpoint's tables let pass."""
    world = World(policies, dict(RESERVED) | dict(identities), {}, {"victim": endpoint})
    compiled = compile_policies(world.policies, world.identities, world.endpoints, world.named_ports)
    applied = compiled.endpoints["victim"]
    if applied.policy is None:
        return {Probe(direction, Identity(0), None, False, 0, 0) for direction in Direction}  # everything
    return {
        Probe(direction, identity, address, inside, *port)
        for direction in Direction
        for identity in world.identities
        for address in ADDRESSES
        for inside in (True, False)
        for port in PORTS
        if explain(compiled.policies[applied.policy], direction, identity, address, inside, *port).decision is Decision.ALLOW
    }


# -- row 34: what resolves to nobody lets nobody in --------------------------------------------------------------------

NOBODY: dict[str, dict[str, Any]] = {
    "no element that names anybody": {},
    "an empty list of endpoints": {"Endpoints": []},
    "an empty list of prefixes": {"CIDR": []},
    "an empty list of prefixes with exceptions": {"CIDRSet": []},
    "an empty list of entities": {"Entities": []},
    "an empty list of groups": {"Groups": []},
    "an empty list of nodes": {"Nodes": []},
    "an empty list of requirements": {"Requires": []},
    "requirements alone": {"Requires": [{"matchLabels": {"app": "web"}}]},
    "a group of a cloud": {"Groups": [{"aws": {"region": "r"}}]},
    "a group without a name": {"Groups": [{}]},
    "a group of prefixes that nobody has": {"CIDRSet": [{"cidrGroupRef": "gone"}]},
    "nodes": {"Nodes": [{}]},
    "labels that nobody has": {"Endpoints": [{"matchLabels": {"app": "nobody"}}]},
    "a label and its absence": {
        "Endpoints": [{"matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "a", "operator": "DoesNotExist"}]}]
    },
    "nothing as a value": {"Endpoints": [{"matchLabels": {"k8s:app": ""}}]},
    "a namespace that does not exist": {"Endpoints": [{"matchLabels": {"k8s:io.kubernetes.pod.namespace": "gone"}}]},
    "the entity of nobody": {"Entities": ["none"]},
    "a prefix without its whole": {"CIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]},
    "a prefix without its halves": {"CIDRSet": [{"cidr": "::/0", "except": ["::/1", "8000::/1"]}]},
}
EGRESS_ALONE: dict[str, dict[str, Any]] = {
    "names": {"FQDNs": [{"matchName": "a.example"}]},
    "every name": {"FQDNs": [{"matchPattern": "*"}]},
    "an empty list of names": {"FQDNs": []},
    "a service": {"Services": [{"k8sService": {"serviceName": "a", "namespace": "b"}}]},
    "services by label": {"Services": [{"k8sServiceSelector": {"selector": {}}}]},
    "an empty list of services": {"Services": []},
    "a service without a name": {"Services": [{}]},
}
FORMS = {
    f"{section}: {name}, {'a port' if ports else 'any port'}": (section, prefix, peers, ports)
    for section, prefix, named in (("ingress", "from", NOBODY), ("egress", "to", NOBODY | EGRESS_ALONE))
    for name, peers in named.items()
    for ports in (False, True)
    # Ports alone are a rule for everybody, and ports beside services are refused.
    if not (ports and (not peers or peers == {"Requires": []} or "Services" in peers))
}


@pytest.mark.parametrize("kind", ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"])
@pytest.mark.parametrize(("section", "prefix", "peers", "ports"), FORMS.values(), ids=FORMS)
def test_cve_2025_64715_a_peer_that_is_nobody_lets_nobody_in(
    section: str, prefix: str, peers: Mapping[str, Any], kind: str, ports: bool
) -> None:
    element: dict[str, Any] = {f"{prefix}{name}": held for name, held in peers.items()}
    if ports:
        element["toPorts"] = [{"ports": [{"port": "80", "protocol": "TCP"}]}]
    found = policies_of(policy({section: [element]}, kind), cluster=CLUSTER)
    direction = Direction.INGRESS if section == "ingress" else Direction.EGRESS
    # Its own host comes in whatever a policy says; the other direction was not spoken of.
    assert {one for one in passing(found, PODS) if one.direction is direction and (direction, one.identity) != (0, 1)} == set()


@pytest.mark.parametrize("section", ["ingress", "egress"])
@pytest.mark.parametrize(
    "peers",
    [
        [{"podSelector": {"matchLabels": {"app": "nobody"}}}],
        [{"namespaceSelector": {"matchLabels": {"a": "b"}}}],
        [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/9", "10.128.0.0/9"]}}],
    ],
)
def test_cve_2025_64715_a_peer_of_a_network_policy_that_is_nobody(section: str, peers: list[dict[str, Any]]) -> None:
    held = policy(
        {"policyTypes": [section.capitalize()], section: [{"from" if section == "ingress" else "to": peers}]}, "NetworkPolicy"
    )
    direction = Direction.INGRESS if section == "ingress" else Direction.EGRESS
    found = passing(policies_of(held, cluster=CLUSTER), PODS)
    assert {one for one in found if one.direction is direction and (direction, one.identity) != (0, 1)} == set()


@pytest.mark.parametrize("section", ["ingress", "egress"])
def test_cve_2025_64715_an_api_server_that_is_not_known_is_nobody(section: str) -> None:
    """Its identity is a node's that is one; its addresses, while none is known, are none."""
    prefix, direction = ("from", Direction.INGRESS) if section == "ingress" else ("to", Direction.EGRESS)
    drafts = drafts_of(policy({section: [{f"{prefix}Entities": ["kube-apiserver"]}]}), cluster=CLUSTER)
    found = passing(resolve(drafts, {}), PODS)
    allowed = {one.identity for one in found if one.direction is direction}
    assert allowed <= {7} | ({1} if section == "ingress" else set())


# -- rows 6 and 13: a pod's labels are its own words, and no more ------------------------------------------------------

IMITATED = [
    "io.kubernetes.pod.namespace",
    "io.cilium.k8s.policy.cluster",
    "io.cilium.k8s.policy.serviceaccount",
    "io.cilium.k8s.namespace.labels.team",
    "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
    "reserved",
    "reserved:host",
    "reserved.host",
    "host",
    "k8s",
    "any",
    "k8s:io.kubernetes.pod.namespace",
    "any:io.kubernetes.pod.namespace",
    "k8s.io.kubernetes.pod.namespace",
    "reserved:kube-apiserver",
    "reserved:world",
    "cidr:0.0.0.0/0",
    "fqdn:*",
    "io.cilium.k8s",
    "kubernetes.io/metadata.name",
]
_KEYS = st.one_of(
    st.sampled_from(IMITATED),
    st.text(string.printable, min_size=1, max_size=40),
    st.text(min_size=1, max_size=20),
    st.sampled_from(IMITATED).flatmap(
        lambda key: st.sampled_from([key + ":", ":" + key, key + "=", key.upper(), key + "\x00", " " + key])
    ),
)
_VALUES = st.one_of(st.sampled_from(["", "trusted", OURS, "red", "admin", "east", "host", "a=b", "x:y"]), st.text(max_size=20))
HOSTILE = st.dictionaries(_KEYS, _VALUES, max_size=8)

TRUSTED: list[dict[str, Any]] = [  # what an attacker from another namespace would like to be
    {"matchLabels": {"k8s:io.kubernetes.pod.namespace": OURS}},
    {"matchLabels": {"io.kubernetes.pod.namespace": OURS}},
    {"matchLabels": {"any:io.kubernetes.pod.namespace": "trusted"}},
    {"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "red"}},
    {"matchLabels": {"io.cilium.k8s.namespace.labels.team": "red"}},
    {"matchExpressions": [{"key": "k8s:io.cilium.k8s.namespace.labels.team", "operator": "Exists"}]},
    {"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["evil"]}]},
    {"matchLabels": {"k8s:io.cilium.k8s.policy.serviceaccount": "admin", "k8s:io.kubernetes.pod.namespace": "evil"}},
    {"matchLabels": {"io.cilium.k8s.policy.cluster": "west", "io.kubernetes.pod.namespace": "evil"}},
    *(
        {"matchLabels": {f"reserved:{name}": ""}}
        for name in ("host", "world", "remote-node", "kube-apiserver", "health", "init", "unmanaged")
    ),
    *({"matchExpressions": [{"key": f"reserved:{name}", "operator": "Exists"}]} for name in ("host", "world", "remote-node")),
]
LET_IN = policies_of(
    policy({"ingress": [{"fromEndpoints": TRUSTED}, {"fromEntities": ["host", "world", "kube-apiserver"]}]}), cluster=CLUSTER
)


@OBJECTS
@given(held=HOSTILE)
@example(held=dict.fromkeys(IMITATED, OURS))
@example(held=dict.fromkeys(IMITATED, ""))
@example(held=dict.fromkeys(IMITATED, "red"))
@example(held={"io.kubernetes.pod.namespace=": "trusted", "io.kubernetes.pod.namespace": OURS})
@example(held={"io.cilium.k8s.policy.serviceaccount": "admin", "io.cilium.k8s.policy.cluster": "west"})
def test_ghsa_pfhr_pccp_hwmh_cve_2023_39347_no_label_of_a_pod_makes_it_another(held: dict[str, str]) -> None:
    """Of a namespace, an account, a cluster, or a reserved identity: nobody who selects by these selects it for what it says."""
    try:
        evil = labels(held)
    except InvalidError:  # an identity that the agent leaves out is nobody's
        return
    assert {label.source for label in evil} == {"k8s"}
    own = {label for label in labels({}) if label in evil}
    assert own == set(labels({})), "a label that is its namespace's has been changed"
    allowed = passing(LET_IN, PODS | {Identity(2000): evil})
    assert not {one for one in allowed if one.identity == 2000 and one.direction is Direction.INGRESS and one.inside}


def test_who_is_trusted_is_let_in_by_that_policy() -> None:
    """The rule above would hold for a policy that lets nobody in."""
    friend = labels({}, "trusted", "admin", {"team": "red"})
    allowed = {one.identity for one in passing(LET_IN, PODS | {Identity(2000): friend}) if one.direction is Direction.INGRESS}
    assert {1001, 1002, 1003, 2000, 1, 2} <= allowed


# -- row 15: a tenant's policy is about its namespace ------------------------------------------------------------------

_SOURCES = st.sampled_from(["", "k8s:", "any:", "reserved:", "cni:", "k8s.", ":"])
_NAMES = st.sampled_from(
    [
        "io.kubernetes.pod.namespace",
        "io.cilium.k8s.namespace.labels.team",
        "io.cilium.k8s.policy.cluster",
        "app",
        "host",
        "init",
        "kubernetes.io/metadata.name",
        "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name",
    ]
)
_PARTS = st.tuples(_SOURCES, _NAMES).map("".join)
_WANTED = st.sampled_from(["other", OURS, "red", "blue", "east", "web", ""])
_EXPRESSION = st.one_of(
    st.builds(
        lambda key, operator, values: {"key": key, "operator": operator, "values": values},
        _PARTS,
        st.sampled_from(["In", "NotIn"]),
        st.lists(_WANTED, min_size=1, max_size=3),
    ),
    st.builds(lambda key, operator: {"key": key, "operator": operator}, _PARTS, st.sampled_from(["Exists", "DoesNotExist"])),
)
SELECTORS = st.fixed_dictionaries(
    {},
    optional={"matchLabels": st.dictionaries(_PARTS, _WANTED, max_size=3), "matchExpressions": st.lists(_EXPRESSION, max_size=3)},
)


def governed(selector: Mapping[str, Any], specs: bool, *pods: Labels) -> list[tuple[bool, bool]]:
    """Of pods, by their labels: whether a tenant's policy with that endpointSelector governs them, by the tables and by the
    rules as the oracle reads them. Raises InvalidError."""
    spec = {
        "endpointSelector": selector,
        "ingress": [{}],
        "egress": [{}],
        "ingressDeny": [{"fromEntities": ["all"]}],
        "egressDeny": [{"toRequires": [selector], "toEndpoints": [{}]}],
    }
    held = policy({})
    held |= {"specs": [spec]} if specs else {"spec": spec}
    if specs:
        del held["spec"]
    endpoints = {f"pod{number}": Endpoint(each, {}) for number, each in enumerate(pods)}
    world = World(policies_of(held, cluster=CLUSTER), dict(RESERVED) | PODS, {}, endpoints)
    applied = compile_policies(world.policies, world.identities, world.endpoints, {}).endpoints
    return [(applied[name].policy is not None, bool(governing_policies(world, each))) for name, each in endpoints.items()]


OWN = (PODS[Identity(1001)], PODS[Identity(1003)])


@OBJECTS
@given(selector=SELECTORS, specs=st.booleans())
@example(selector={}, specs=True)
@example(selector={"matchLabels": {"io.kubernetes.pod.namespace": "other"}}, specs=True)
@example(selector={"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}, specs=False)
@example(
    selector={"matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "In", "values": ["other", OURS]}]},
    specs=False,
)
@example(selector={"matchExpressions": [{"key": "any:io.kubernetes.pod.namespace", "operator": "DoesNotExist"}]}, specs=False)
def test_cve_2023_41333_a_policy_governs_no_other_namespace(selector: dict[str, Any], specs: bool) -> None:
    """Whatever keys, sources and operators its endpointSelector has: pods of others, and what is no pod, go on as they were.
    Those of its own namespace it does govern, where it selects them."""
    others = (PODS[Identity(1002)], labels({"io.kubernetes.pod.namespace": OURS}, "other"), *RESERVED.values())
    try:
        found = governed(selector, specs, *OWN, *others)
    except InvalidError:
        assume(False)  # governs nobody, and is no proof either: were every one refused, this would fail
        raise
    assert all(by_tables == by_rules for by_tables, by_rules in found[: len(OWN)])
    assert not any(by_tables for by_tables, _ in found[len(OWN) :])


@pytest.mark.parametrize("specs", [False, True])
@pytest.mark.parametrize(
    ("selector", "web", "bare"),
    [
        ({}, True, True),
        ({"matchLabels": {"app": "web"}}, True, False),
        ({"matchLabels": {"k8s:io.kubernetes.pod.namespace": "other"}}, True, True),  # its own is put in its place
        ({"matchLabels": {"io.kubernetes.pod.namespace": "other"}}, False, False),
        ({"matchLabels": {"k8s:io.cilium.k8s.namespace.labels.team": "blue"}}, True, False),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, False, True),
        ({"matchExpressions": [{"key": "io.kubernetes.pod.namespace", "operator": "NotIn", "values": ["other"]}]}, True, True),
    ],
)
def test_a_policy_governs_its_own_namespace(selector: dict[str, Any], specs: bool, web: bool, bare: bool) -> None:
    """The rule above would hold for policies that govern nobody."""
    assert governed(selector, specs, *OWN) == [(web, web), (bare, bare)]
