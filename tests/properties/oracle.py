"""What policies mean, written from the sentences in docs/policy.md and from nothing else: no index, no tables, no classes.

Shares with the compiler the dataclasses that rules are written in, and none of their methods.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pilus_agent.desired.policy.tables import Endpoint
from pilus_api.identities import Identity
from pilus_api.labels import Labels
from pilus_api.rules import AddressPeer, Direction, Origin, Peer, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import Operator, Requirement, Selector

Names = Mapping[str, frozenset[tuple[int, int]]]


@dataclass(frozen=True, slots=True)
class World:
    policies: tuple[Policy, ...]
    identities: Mapping[Identity, Labels]
    named_ports: Mapping[Identity, Names]
    endpoints: Mapping[str, Endpoint]


@dataclass(frozen=True, slots=True)
class Probe:
    direction: Direction
    identity: Identity
    address: IPv4Address | IPv6Address | None
    inside: bool
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Truth:
    """`rules`: any of these may be given as the reason; empty: no rule decided."""

    allowed: bool
    rules: frozenset[Origin]


def truth(world: World, endpoint: Endpoint, probe: Probe, *, audited: bool = False) -> Truth:
    """`audited`: as if no policy were in audit mode; else those that are take no part."""
    if probe.direction == Direction.INGRESS and probe.identity == 1:
        return Truth(True, frozenset())
    governing = [policy for policy in governing_policies(world, endpoint) if audited or not policy.audit]
    hits = [
        rule
        for policy in governing
        for rule in policy.rules
        if rule.direction == probe.direction and _hits(world, endpoint, rule, probe)
    ]
    decided = _first(hits, Tier.ADMIN)
    if decided:
        return decided
    middle = [rule for rule in hits if rule.tier is Tier.NETWORK_POLICY]
    denying = frozenset(rule.origin for rule in middle if rule.deny)
    if denying:
        return Truth(False, denying)
    allowing = frozenset(rule.origin for rule in middle if not rule.unenforced)
    if allowing or any(policy.default_deny[probe.direction] for policy in governing):
        return Truth(bool(allowing), allowing)
    return _first(hits, Tier.BASELINE) or Truth(True, frozenset())


def governing_policies(world: World, endpoint: Endpoint) -> list[Policy]:
    return [policy for policy in world.policies if policy.host == endpoint.host and _selects(policy.subject, endpoint.labels)]


def _first(hits: list[Rule], tier: Tier) -> Truth | None:
    """An ordered tier: the first that means the packet decides, unless it passes. Of two in one place a denial is before others."""
    left = [rule for rule in hits if rule.tier is tier and (rule.deny or not rule.unenforced)]
    if not left:
        return None
    first = [rule for rule in left if rule.place == min(each.place for each in left)]
    if denying := frozenset(rule.origin for rule in first if rule.deny):
        return Truth(False, denying)
    # What the last tier passes is let pass: beside an allowing rule either is the reason.
    if allowing := frozenset(rule.origin for rule in first if tier is Tier.BASELINE or not rule.passes):
        return Truth(True, allowing)
    return None


def _hits(world: World, endpoint: Endpoint, rule: Rule, probe: Probe) -> bool:
    if rule.peers is None:
        return _ports_hit(world, endpoint, rule, probe, by_address=False)
    return any(
        _is_peer(world, peer, probe) and _ports_hit(world, endpoint, rule, probe, by_address=not isinstance(peer, Selector))
        for peer in rule.peers
    )


def _is_peer(world: World, peer: Peer, probe: Probe) -> bool:
    if isinstance(peer, AddressPeer):
        if probe.address is None or (probe.inside and peer.scope == Scope.OUTSIDE):
            return False
        return probe.address in peer.prefix and not any(probe.address in network for network in peer.excepted)
    assert isinstance(peer, Selector), "groups are resolved before anybody judges"
    labels = world.identities.get(probe.identity)
    return labels is not None and _selects(peer, labels)


def _ports_hit(world: World, endpoint: Endpoint, rule: Rule, probe: Probe, by_address: bool) -> bool:
    return rule.ports is None or any(_port_hits(world, endpoint, rule, port, probe, by_address) for port in rule.ports)


def _port_hits(world: World, endpoint: Endpoint, rule: Rule, port: Ports, probe: Probe, by_address: bool) -> bool:
    if port.protocol not in (0, probe.protocol):
        return False
    if not port.name:
        return port.low <= probe.port <= port.high
    if probe.direction == Direction.INGRESS:
        return (probe.protocol, probe.port) in endpoint.named_ports.get(port.name, frozenset())
    if by_address:
        return rule.deny
    return (probe.protocol, probe.port) in world.named_ports.get(probe.identity, {}).get(port.name, frozenset())


def _selects(selector: Selector, labels: Labels) -> bool:
    return all(_meets(requirement, labels) for requirement in selector.requirements)


def _meets(requirement: Requirement, labels: Labels) -> bool:
    sources = {requirement.source} if requirement.source != "any" else {label.source for label in labels} - {"node"}
    values = {value for source, key, value in labels if key == requirement.key and source in sources}
    match requirement.operator:
        case Operator.EXISTS:
            return len(values) > 0
        case Operator.DOES_NOT_EXIST:
            return len(values) == 0
        case Operator.IN:
            return len(values & set(requirement.values)) > 0
        case Operator.NOT_IN:
            return len(values & set(requirement.values)) == 0
