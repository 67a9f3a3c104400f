"""An agent that has seen facts come, change and go wants what one wants that is told of the last ones at once.

What a pass costs is what has changed: this holds the short ways to the long one.
"""

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.properties.conftest import WORLDS
from tests.unit.agent.fakes import (
    NAMESPACE,
    NAMESPACE_LABELS,
    OTHER,
    OWN,
    FakeDatapath,
    FakeKernel,
    World,
    attachment,
    described,
    labels,
    pod,
)

from pilus_agent.attachments import key_of
from pilus_agent.decisions import Decisions
from pilus_agent.facts import AllocatedIdentity, Namespace
from pilus_agent.sources.kubernetes import policy_of
from pilus_api.identities import Identity
from pilus_api.lifelines import CUT_ANNOTATION
from pilus_api.policy_modes import MODE_ANNOTATION

APPS = ("web", "api", "data")
PODS = tuple(f"p{number}" for number in range(4))
NAMES = ("one", "two")
Fact = tuple[str, str, Any]  # kind, key, what it says; None: gone

WEB = {"matchLabels": {"app": "web"}}
SPECS: dict[str, dict[str, Any]] = {
    "peers": {"endpointSelector": WEB, "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "api"}}]}]},
    "closed": {"endpointSelector": {}, "ingress": [{}], "egress": []},
    "demand": {"endpointSelector": WEB, "ingress": [{"fromRequires": [{"matchLabels": {"tier": "front"}}]}]},
    "group": {"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidrGroupRef": "g"}]}]},
    "address": {"endpointSelector": WEB, "egress": [{"toCIDR": ["10.0.0.0/8"]}]},
    "service": {
        "endpointSelector": WEB,
        "egress": [{"toServices": [{"k8sService": {"serviceName": "s", "namespace": "default"}}]}],
    },
    "later": {"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["world"], "toPorts": [{"ports": [{"port": "80"}]}]}]},
    "layer 7": {
        "endpointSelector": WEB,
        "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"method": "GET"}]}}]}],
    },
    "no sense": {"endpointSelector": WEB, "egress": [{"toCIDR": ["nowhere"]}], "ingressDeny": [{"fromEntities": ["some"]}]},
    "nodes": {"nodeSelector": {"matchLabels": {"role": "edge"}}, "ingress": [{"fromEntities": ["cluster"]}]},
}
NODES = frozenset({"nodes"})
OFTEN = ("peers", "demand")  # of which one changes what the other means
KNP = {
    "podSelector": WEB,
    "policyTypes": ["Ingress", "Egress"],
    "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "http"}]}],
}


@st.composite
def policies(draw: st.DrawFn) -> Fact:
    name = draw(st.sampled_from(NAMES))
    kind = draw(st.sampled_from(("cnp", "ccnp", "knp")))
    spec = KNP
    if kind != "knp":
        spec = SPECS[draw(st.sampled_from(sorted(SPECS.keys() - NODES) + list(OFTEN if kind == "cnp" else NODES) * 4))]
    annotations = {}
    if mode := draw(st.sampled_from(("", "", "audit", "sometimes"))):
        annotations[MODE_ANNOTATION] = mode
    if cut := draw(st.sampled_from(("", "ssh", "all"))):
        annotations[CUT_ANNOTATION] = cut
    metadata: dict[str, Any] = {"name": name, "uid": f"{kind}-{name}-{draw(st.integers(1, 2))}", "annotations": annotations}
    metadata["generation"] = draw(st.integers(1, 3))
    if kind != "ccnp":
        metadata["namespace"] = NAMESPACE
    key = name if kind == "ccnp" else f"{NAMESPACE}/{name}"
    return kind, key, draw(st.sampled_from((None, policy_of({"metadata": metadata, "spec": spec}))))


@st.composite
def pods(draw: st.DrawFn) -> Fact:
    """Its object and its attachment come and go together: one without the other keeps what it was before, on purpose."""
    name, app = draw(st.sampled_from(PODS)), draw(st.sampled_from(APPS))
    there, tier = draw(st.sampled_from((True, True, False))), draw(st.sampled_from(({}, {"tier": "front"})))
    return "both", name, pod(name, app=app, **tier) if there else None


@st.composite
def surroundings(draw: st.DrawFn) -> Fact:
    match draw(st.sampled_from(("namespaces", "cidrgroups", "nodelabels", "identities"))):
        case "identities":
            number = draw(st.integers(400, 402))
            found = AllocatedIdentity(Identity(number), labels(pod("p", app="far", copy=str(number))))
            return "identities", str(number), draw(st.sampled_from((None, found)))
        case "namespaces":
            return "namespaces", NAMESPACE, Namespace(NAMESPACE_LABELS, draw(st.sampled_from(("", "audit", "enforce"))))
        case "cidrgroups":
            texts = draw(st.sampled_from(((), ("192.0.2.0/24",), ("192.0.2.0/24", "2001:db8::/32"))))
            return "cidrgroups", "g", draw(st.sampled_from((None, tuple(map(ip_network, texts)))))
        case _:
            return "nodelabels", "n1", (("role", draw(st.sampled_from(("edge", "core")))),)


def told(desired: Decisions, fact: Fact) -> None:
    kind, key, held = fact
    if kind != "both":
        desired.put(kind, key, held)
        return
    number = PODS.index(key) + 1
    made = attachment(key, number)
    desired.put("pods", f"{NAMESPACE}/{key}", held)
    desired.put("attachments", key_of(made), None if held is None else made)


def begun() -> Decisions:
    """An agent that knows two nodes, and a number for everything that a pod may be."""
    desired = World(FakeKernel(FakeDatapath(described()))).wiring.desired
    for node in (OWN, OTHER):
        desired.put("nodes", node.name, node)
    desired.put("namespaces", NAMESPACE, Namespace(NAMESPACE_LABELS))
    kinds = [pod("p", app=app, **tier) for app in APPS for tier in ({}, {"tier": "front"})]
    for number, one in enumerate(kinds, 300):
        desired.put("identities", str(number), AllocatedIdentity(Identity(number), labels(one)))
    return desired


def decide(desired: Decisions) -> None:
    desired.decide_nodes()
    desired.decide_endpoints()
    desired.decide_addresses()


def wanted(desired: Decisions) -> dict[str, Any]:
    """All that follows, with policies by what they are in place of the numbers that the road gave them."""

    def decoded(table: str) -> list[tuple[Any, Any]]:
        layout = desired.tables.layouts[table]
        rows = desired.tables.trackers[table].wanted.items()
        return [(layout.key.decode(key), layout.value.decode(value)) for key, value in rows]

    names = {0: b"", **{number: bytes(value["hash"]) for number, value in decoded("policies")}}
    plain: Callable[[dict[str, Any]], list[tuple[str, str]]] = lambda row: sorted((key, repr(value)) for key, value in row.items())  # noqa: E731
    endpoints = [
        (plain(key), plain(row | {each: names[row[each]] for each in ("policy", "audit")})) for key, row in decoded("endpoints")
    ]
    return {
        "policies": desired.policy.objects.policies,
        "unenforced": desired.policy.objects.unenforced,
        "cut": desired.policy.host.cut,
        "endpoints": sorted(endpoints),
        "host": desired.host,
        "addresses": sorted((plain(key), plain(row)) for key, row in decoded("ipcache")),
        "identities": sorted(map(repr, decoded("identities"))),
        "acknowledged": desired.policy.acknowledgements(""),
        "rules": sorted(desired.policy.rules().values()),
    }


@WORLDS
@given(road=st.lists(st.tuples(st.one_of(policies(), policies(), pods(), surroundings()), st.booleans()), min_size=8, max_size=40))
def test_what_an_agent_wants_does_not_depend_on_the_road(road: list[tuple[Fact, bool]]) -> None:
    walked = begun()
    last: dict[tuple[str, str], Fact] = {}
    for fact, look in road:
        told(walked, fact)
        last[fact[:2]] = fact
        if look:
            decide(walked)
            wanted(walked)
    decide(walked)

    straight = begun()
    for fact in last.values():
        told(straight, fact)
    decide(straight)
    assert wanted(walked) == wanted(straight)
