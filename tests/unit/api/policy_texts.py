"""Policies of cilium.io from little text, and what becomes of them as text, for the tests of what they mean."""

from ipaddress import ip_network
from typing import Any

import yaml

from pilus_api.labels import Labels, parse_label
from pilus_api.policies import drafts_of, resolve, together
from pilus_api.rules import AddressPeer, ApiServers, CidrGroup, GroupName, Network, Peer, Policy, Ports, Rule, Services
from pilus_api.selectors import Operator, Requirement, Selector

SIGNS = {Operator.IN: "=", Operator.NOT_IN: "!="}


def requirement(held: Requirement) -> str:
    name = f"{held.source}:{held.key}".replace("io.kubernetes.pod.namespace", "NS").replace(
        "io.cilium.k8s.policy.cluster", "CLUSTER"
    )
    if held.operator in SIGNS:
        return f"{name}{SIGNS[held.operator]}{'|'.join(held.values)}"
    return name if held.operator is Operator.EXISTS else f"!{name}"


def peer(held: Peer) -> str:
    if isinstance(held, AddressPeer):
        return f"{held.prefix}" + "".join(f"-{excepted}" for excepted in held.excepted) + f" {held.scope.name}"
    assert isinstance(held, Selector), "groups are resolved"
    return " & ".join(requirement(each) for each in held.requirements) or "everything"


def port(held: Ports) -> str:
    return f"{held.protocol}/{held.name or held.low}" + (f"-{held.high}" if held.high > held.low else "")


def rule(held: Rule) -> str:
    """`verb peers [: ports] [! unenforced]`; peers and ports of None are *, and without any nobody and nothing."""
    peers = "*" if held.peers is None else ", ".join(peer(each) for each in held.peers) or "nobody"
    ports = "*" if held.ports is None else " ".join(port(each) for each in held.ports) or "nothing"
    text = f"{'deny' if held.deny else 'allow'} {peers} : {ports}"
    return f"{text} ! {' '.join(held.unenforced)}" if held.unenforced else text


def policy(spec: str | dict[str, Any], *, clusterwide: bool = False, name: str = "p") -> dict[str, Any]:
    held = yaml.safe_load(spec) if isinstance(spec, str) else spec
    kind = "CiliumClusterwideNetworkPolicy" if clusterwide else "CiliumNetworkPolicy"
    metadata = {"name": name} | ({} if clusterwide else {"namespace": "N"})
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": {"endpointSelector": {}} | held}


def compiled(spec: str | dict[str, Any], *, clusterwide: bool = False, nodes: bool = False) -> Policy:
    (found,) = together(resolve(drafts_of(policy(spec, clusterwide=clusterwide), cluster="blue", nodes=nodes), GROUPS))
    return found


# An API server that is on a node, a CiliumCIDRGroup, and Services without selectors.
GROUPS: dict[GroupName, tuple[Network, ...]] = {
    ApiServers(): (),
    CidrGroup("g"): (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32")),
    Services("", "a"): (ip_network("192.0.2.1/32"),),
    Services("M", labels=Selector((Requirement("any", "x", Operator.IN, ("y",)),))): (ip_network("192.0.2.2/32"),),
}


def word(name: str, operator: str) -> str:
    """A requirement of a reserved label, as a test of selectors writes it."""
    values = ", values: ['']" if operator.endswith("In") else ""
    return f"{{matchExpressions: [{{key: 'reserved:{name}', operator: {operator}{values}}}]}}"


def labels(*texts: str) -> Labels:
    """Of whom a selector is asked about."""
    return tuple(sorted(parse_label(text) for text in texts))
