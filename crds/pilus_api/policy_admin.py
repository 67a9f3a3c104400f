"""AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy -> policies.

In: the models. Out: rules of the ordered tiers. They never make a direction default deny: what no rule of theirs means, goes on to
the next tier. A rule with a peer of no known sort fails closed as the API says: one that allows means nobody, one that denies or
passes denies everything. So does one with such a port, but for its peers alone; and of what is understood and not in force yet,
that part: allowed it is nobody, denied or passed all that it could be is denied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pilus_api.addresses import parse_prefix
from pilus_api.labels import NAMESPACE_LABELS_KEY, SOURCE_KUBERNETES, SOURCE_NODE
from pilus_api.policy_ports import PROTOCOLS
from pilus_api.policy_selectors import IN_SOME_NAMESPACE, NOBODY, NODES, requirements
from pilus_api.resources.adminnetworkpolicy import (
    AdminNetworkPolicy,
    AdminPort,
    BaselineAdminNetworkPolicy,
    BaselineEgressPeer,
    BaselineEgressRule,
    BaselineIngressRule,
    ClusterEgressRule,
    ClusterIngressRule,
    ClusterNetworkPolicy,
    ClusterProtocol,
    EgressPeer,
    EgressRule,
    IngressPeer,
    IngressRule,
    NamespacedPod,
    Subject,
)  # fmt: skip
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.rules import OUTSIDE, RULES_OF_A_PRIORITY, AddressPeer, Direction, Origin, Peer, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import Selector, selector

AdminObject = AdminNetworkPolicy | BaselineAdminNetworkPolicy | ClusterNetworkPolicy
_AnyRule = IngressRule | EgressRule | BaselineIngressRule | BaselineEgressRule | ClusterIngressRule | ClusterEgressRule


@dataclass(frozen=True, slots=True)
class _Found:
    """`peers` that are in force; `closed`: those that one which is not could be, and the paths of those; paths of unknown sorts."""

    peers: tuple[Peer, ...]
    closed: tuple[Peer, ...]
    unenforced: tuple[str, ...]
    unknown: tuple[str, ...]


def _pods(namespaces: LabelSelector, pods: LabelSelector | None, path: str) -> Selector:
    among = requirements(namespaces, path, SOURCE_KUBERNETES, f"{NAMESPACE_LABELS_KEY}.")
    wanted = requirements(pods, path, SOURCE_KUBERNETES) if pods else ()
    # NotIn and DoesNotExist hold of what has no labels at all; only pods are in a namespace.
    return selector(*wanted, *among, IN_SOME_NAMESPACE)


def _selected(namespaces: LabelSelector | None, pods: NamespacedPod | None, path: str) -> Selector | None:
    if namespaces is not None:
        return _pods(namespaces, None, f"{path}.namespaces")
    return _pods(pods.namespace_selector, pods.pod_selector, f"{path}.pods") if pods is not None else None


def _peers(held: Sequence[IngressPeer], path: str, nodes: bool) -> _Found:
    found: list[Peer] = []
    closed: list[Peer] = []
    unenforced: list[str] = []
    unknown: list[str] = []
    for index, each in enumerate(held):
        where = f"{path}[{index}]"
        by_label = _selected(each.namespaces, each.pods, where)
        if by_label is not None:
            found.append(by_label)
        elif isinstance(each, BaselineEgressPeer) and each.networks is not None:
            found += (AddressPeer(parse_prefix(text), (), Scope.ANY) for text in each.networks)
        elif isinstance(each, BaselineEgressPeer) and each.nodes is not None and nodes:
            wanted = requirements(each.nodes, f"{where}.nodes", SOURCE_NODE)
            found += (selector(*wanted, *one.requirements) for one in NODES)
        elif isinstance(each, BaselineEgressPeer) and each.nodes is not None:
            closed += NODES
            unenforced.append(f"{where}.nodes")
        elif isinstance(each, EgressPeer) and each.domain_names is not None:
            closed += OUTSIDE  # only where it is allowed, so that this is nobody
            unenforced.append(f"{where}.domainNames")
        else:
            unknown.append(f"{where} (of an unknown sort)")
    return _Found(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(closed)), tuple(unenforced), tuple(unknown))


def _admin_ports(held: Sequence[AdminPort]) -> Iterable[Ports | None]:
    for each in held:
        if each.port_number is not None:
            (protocol,) = PROTOCOLS[each.port_number.protocol]
            yield Ports(protocol, each.port_number.port, each.port_number.port)
        elif each.port_range is not None:
            (protocol,) = PROTOCOLS[each.port_range.protocol]
            yield Ports(protocol, each.port_range.start, each.port_range.end)
        else:
            yield Ports(0, 0, 0, each.named_port.lower()) if each.named_port is not None else None


def _cluster_ports(held: Sequence[ClusterProtocol]) -> Iterable[Ports | None]:
    for each in held:
        transports = ((PROTOCOLS["TCP"], each.tcp), (PROTOCOLS["UDP"], each.udp), (PROTOCOLS["SCTP"], each.sctp))
        given = [(protocol, transport) for (protocol,), transport in transports if transport is not None]
        if not given:
            yield Ports(0, 0, 0, each.destination_named_port.lower()) if each.destination_named_port is not None else None
            continue
        ((protocol, transport),) = given
        port = transport.destination_port
        if port is None:  # no definition has one without anything: what was there has been pruned
            yield None
        elif port.number is not None:
            yield Ports(protocol, port.number, port.number)
        else:
            yield Ports(protocol, port.range.start, port.range.end) if port.range is not None else None


def _ports(rule: _AnyRule, path: str) -> tuple[tuple[Ports, ...] | None, tuple[str, ...]]:
    """The rule's ports, None for all of them, and the paths of entries that can't be understood."""
    if isinstance(rule, ClusterIngressRule | ClusterEgressRule):
        field, rows = "protocols", None if rule.protocols is None else list(_cluster_ports(rule.protocols))
    else:
        field, rows = "ports", None if rule.ports is None else list(_admin_ports(rule.ports))
    if not rows:
        return None, ()
    unknown = tuple(f"{path}.{field}[{index}] (of an unknown sort)" for index, row in enumerate(rows) if row is None)
    return tuple(sorted({row for row in rows if row is not None})), unknown


def _rules(rule: _AnyRule, origin: Origin, direction: Direction, tier: Tier, place: int, nodes: bool) -> list[Rule]:
    field, held = (
        ("from", rule.from_) if isinstance(rule, IngressRule | BaselineIngressRule | ClusterIngressRule) else ("to", rule.to)
    )
    found = _peers(held, f"{origin.path}.{field}", nodes)
    ports, unknown = _ports(rule, origin.path)
    allows = rule.action in ("Allow", "Accept")
    made = Rule(origin, direction, rule.action == "Deny", found.peers, ports, (), tier, place, rule.action == "Pass")
    if allows:
        missing = found.unknown + unknown + found.unenforced
        nobody = [replace(made, peers=(), unenforced=missing)] if missing else []
        return nobody if found.unknown or unknown else [made, *nobody]
    closed = replace(made, deny=True, passes=False)
    if found.unknown:
        return [replace(closed, peers=None, ports=None, unenforced=found.unknown + unknown + found.unenforced)]
    rules = [replace(closed, ports=None, unenforced=unknown)] if unknown else [made]
    if found.unenforced:
        everything = None if unknown else ports
        rules.append(replace(closed, peers=found.closed, ports=everything, unenforced=found.unenforced))
    return rules


def _subject(held: Subject) -> Selector:
    return _selected(held.namespaces, held.pods, "spec.subject") or NOBODY  # the model has seen that there is one


def admin_policy(held: AdminObject, origin: Origin, nodes: bool) -> Policy:
    """The one policy that the object is. `origin.path` is empty. `nodes`: they have identities by their labels."""
    spec = held.spec
    tier, priority = Tier.ADMIN, 0
    if isinstance(held, BaselineAdminNetworkPolicy):
        tier = Tier.BASELINE
    else:
        priority = held.spec.priority
    if isinstance(held, ClusterNetworkPolicy) and held.spec.tier == "Baseline":
        tier = Tier.BASELINE
    whole = replace(origin, path="spec")
    rules: list[Rule] = []
    sections: tuple[tuple[str, Direction, Sequence[_AnyRule]], ...] = (
        ("ingress", Direction.INGRESS, spec.ingress),
        ("egress", Direction.EGRESS, spec.egress),
    )
    for name, direction, given in sections:
        for index, rule in enumerate(given):
            where = replace(origin, path=f"spec.{name}[{index}]" + (f" ({rule.name})" if rule.name else ""))
            rules += _rules(rule, where, direction, tier, priority * RULES_OF_A_PRIORITY + index, nodes)
    return Policy(whole, _subject(spec.subject), (False, False), tuple(rules))
