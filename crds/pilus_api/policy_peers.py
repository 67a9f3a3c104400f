"""Peers of policy elements -> selectors and addresses.

In: models of resources.policypeers. Out: rules.Peer, and which of the fields are not in force yet. A peer that is not in
force is nobody here; beside it stands all that it could be, which is meant where it is denied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pilus_api.addresses import parse_address_or_prefix, parse_prefix
from pilus_api.policy_outside import with_addresses
from pilus_api.policy_selectors import API_SERVER, OTHER_NODES, entity, other_nodes, peer, requirements
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.resources.policypeers import CidrRule, EgressDenyPeers, EgressPeers, Groups, IngressPeers, Service
from pilus_api.resources.policyports import FqdnSelector
from pilus_api.rules import OUTSIDE, AddressGroup, AddressPeer, ApiServers, CidrGroup, Peer, Scope, Services
from pilus_api.selectors import Selector, selector


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element stands."""

    namespace: str  # "" for a clusterwide policy
    cluster: str
    path: str
    deny: bool
    init: bool  # the policy governs reserved:init
    nodes: bool  # nodes have identities by their labels


@dataclass(frozen=True, slots=True)
class Peers:
    """`peers` as in rules.Rule, of what is in force. `endpoints`: those selectors of them that requirements restrict.

    `requires`: what the element demands of the endpoints of others. `unenforced`: paths. `possible`: all that those could be.
    """

    peers: tuple[Peer, ...] | None
    endpoints: tuple[Selector, ...]
    requires: tuple[Selector, ...]
    unenforced: tuple[str, ...]
    possible: tuple[Peer, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of either direction by what they mean."""

    prefix: str
    endpoints: Sequence[LabelSelector] | None
    requires: Sequence[LabelSelector] | None
    cidr: Sequence[str] | None
    cidr_set: Sequence[CidrRule] | None
    entities: Sequence[str] | None
    nodes: Sequence[LabelSelector] | None
    groups: Sequence[Groups] | None
    services: Sequence[Service] | None = None
    fqdns: Sequence[FqdnSelector] | None = None


def _fields(element: IngressPeers | EgressDenyPeers) -> _Fields:
    if isinstance(element, IngressPeers):
        return _Fields(
            "from", element.from_endpoints, element.from_requires, element.from_cidr, element.from_cidr_set, element.from_entities,
            element.from_nodes, element.from_groups,
        )  # fmt: skip
    return _Fields(
        "to", element.to_endpoints, element.to_requires, element.to_cidr, element.to_cidr_set, element.to_entities,
        element.to_nodes, element.to_groups, element.to_services, element.to_fqdns if isinstance(element, EgressPeers) else None,
    )  # fmt: skip


def _unique(peers: Iterable[Peer]) -> tuple[Peer, ...]:
    return tuple(dict.fromkeys(peers))


def _cidr_rule(rule: CidrRule, path: str) -> Peer:
    excepted = tuple(parse_prefix(text) for text in rule.except_ or ())
    if rule.cidr is None:  # the model has seen that there is one of the two
        return AddressGroup(CidrGroup(rule.cidr_group_ref or ""), f"{path}.cidrGroupRef", excepted)
    return AddressPeer(parse_prefix(rule.cidr), excepted, Scope.OUTSIDE)


def _service_groups(held: Service, path: str) -> Iterable[AddressGroup]:
    """An entry names a Service, or selects some, or both. One that says neither is nobody."""
    if (named := held.k8s_service) is not None and named.service_name:
        yield AddressGroup(Services(named.namespace or "", named.service_name), f"{path}.k8sService")
    if (selected := held.k8s_service_selector) is not None:
        wanted = selector(*requirements(selected.selector, f"{path}.k8sServiceSelector.selector"))
        yield AddressGroup(Services(selected.namespace or "", labels=wanted), f"{path}.k8sServiceSelector")


def element_peers(element: IngressPeers | EgressDenyPeers, place: Place) -> Peers:
    """Whom an element speaks of. Raises InvalidError."""
    held = _fields(element)
    given: list[Sequence[object] | None] = [
        held.endpoints, held.cidr, held.cidr_set, held.entities, held.nodes, held.groups, held.services, held.fqdns, held.requires,
    ]  # fmt: skip
    if all(field is None for field in given):
        return Peers(None, (), (), ())

    def selected(field: str, selectors: Sequence[LabelSelector], *, requires: bool = False) -> list[Selector]:
        return [
            peer(each, place.namespace, f"{place.path}.{held.prefix}{field}[{index}]", init=place.init, requires=requires)
            for index, each in enumerate(selectors)
        ]

    endpoints = selected("Endpoints", held.endpoints or ())
    found: list[Peer] = [one for each in endpoints for one in with_addresses(each, place.path)]
    found += [AddressPeer(parse_address_or_prefix(text), (), Scope.OUTSIDE) for text in held.cidr or ()]
    for name in held.entities or ():
        found += entity(name, place.cluster)
    if API_SERVER in found:  # one outside the cluster has no identity: it is known by its address
        found.append(AddressGroup(ApiServers(), place.path))
    found += [_cidr_rule(rule, f"{place.path}.{held.prefix}CIDRSet[{index}]") for index, rule in enumerate(held.cidr_set or ())]

    for index, service in enumerate(held.services or ()):
        found += _service_groups(service, f"{place.path}.toServices[{index}]")

    # Read in any case, so that what can't be is refused alike by whoever knows the setting and whoever does not.
    by_node = [other_nodes(each, f"{place.path}.{held.prefix}Nodes[{index}]") for index, each in enumerate(held.nodes or ())]
    if place.nodes:
        found += by_node

    unenforced: list[str] = []
    possible: list[Peer] = []
    later: list[tuple[str, Sequence[object] | None, tuple[Peer, ...]]] = [
        ("Nodes", () if place.nodes else held.nodes, OTHER_NODES), ("Groups", held.groups, OUTSIDE), ("FQDNs", held.fqdns, OUTSIDE),
    ]  # fmt: skip
    for field, entries, all_of_them in later:
        if entries:
            unenforced.append(f"{place.path}.{held.prefix}{field}")
            possible += all_of_them
    return Peers(
        peers=_unique(found),
        endpoints=tuple(endpoints),
        requires=tuple(selected("Requires", held.requires or (), requires=True)),
        unenforced=tuple(unenforced),
        possible=_unique(possible),
    )
