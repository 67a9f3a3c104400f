"""Rule sets: the rules that apply to an endpoint, in one order, numbered, and named by their content.

In: policies whose subject selects the endpoint, and what the endpoint calls its ports. Out: a RuleSet, which all endpoints with
the same rules share. Never: identities, tables.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from pilus_agent.desired.policy.answers import Decision, Precedence, decision, precedence
from pilus_agent.desired.policy.porttable import EVERY_PORT, PORTS, Grant, Span
from pilus_agent.desired.policy.tables import NamedPorts, PolicyName, Unresolved
from pilus_api.rules import AddressGroup, AddressPeer, Direction, Origin, Peer, Policy, Ports, Rule
from pilus_api.selectors import Selector

# Part of every name: raise it when the same rules come to mean other tables.
FORMAT: Final = 3

# Protocols with ports: what protocol 0 with some of the ports can only mean.
WITH_PORTS: Final = (6, 17, 132)

Resolution = tuple[tuple[str, tuple[tuple[int, int], ...]], ...]


@dataclass(frozen=True, slots=True)
class NumberedRule:
    """A rule that does something. `rule` counts from 1 in the set's origins; `ports` None is everything."""

    rule: int
    precedence: int
    ports: tuple[Ports, ...] | None

    @property
    def deny(self) -> bool:
        return decision(self.precedence) is Decision.DENY

    def names(self) -> frozenset[str]:
        return frozenset(port.name for port in self.ports or () if port.name)

    def grant(self, resolution: Resolution, unknown_denies: bool = False) -> Grant:
        """What it says of ports. A name that stands for nothing means no port, or every one where that would fail open."""
        if self.ports is None:
            return Grant(self.rule, self.precedence, (EVERY_PORT,))
        known = dict(resolution)
        spans: list[Span] = []
        for port in self.ports:
            if not port.name:
                spans += _spans(port.protocol, port.low, port.high)
            elif unknown_denies:
                spans += _spans(port.protocol, 0, PORTS - 1) if self.deny else ()
            else:
                spans += (
                    Span(protocol, number, number)
                    for protocol, number in known.get(port.name, ())
                    if port.protocol in (0, protocol)
                )
        return Grant(self.rule, self.precedence, tuple(spans))


def _spans(protocol: int, low: int, high: int) -> tuple[Span, ...]:
    if protocol or (low, high) == (0, PORTS - 1):
        return (Span(protocol, low, high),)
    return tuple(Span(each, low, high) for each in WITH_PORTS)


@dataclass(frozen=True, slots=True)
class DirectionRules:
    """One direction of a rule set. A rule with several kinds of peers stands in several places."""

    default_deny: bool
    rules: tuple[NumberedRule, ...]
    anyone: tuple[NumberedRule, ...]
    by_selector: tuple[tuple[Selector, tuple[NumberedRule, ...]], ...]
    by_address: tuple[tuple[AddressPeer, NumberedRule], ...]

    @property
    def enforced(self) -> bool:
        return self.default_deny or any(rule.deny for rule in self.rules)


@dataclass(frozen=True, slots=True)
class RuleSet:
    name: PolicyName
    origins: tuple[Origin, ...]
    closers: tuple[tuple[Origin, ...], tuple[Origin, ...]]  # by Direction: the policies that make it default deny
    directions: tuple[DirectionRules, DirectionRules]
    own_ports: Resolution  # of the names that ingress rules use

    def unresolved(self) -> tuple[Unresolved, ...]:
        """Egress by address to a named port: who is there, and so what it calls its ports, is not known from the address."""
        egress = self.directions[Direction.EGRESS]
        named = {rule.rule: sorted(names) for rule in egress.rules if (names := rule.names())}
        by_address = dict.fromkeys(rule.rule for _, rule in egress.by_address) if named else ()
        return tuple(dict.fromkeys(Unresolved(self.origins[rule - 1], name) for rule in by_address for name in named.get(rule, ())))


def resolve(names: Iterable[str], named_ports: NamedPorts) -> Resolution:
    """What the names in use mean to one that calls its ports so; names it does not know are left out."""
    return tuple((name, tuple(sorted(found))) for name in sorted(set(names)) if (found := named_ports.get(name)))


def ingress_names(policy: Policy) -> frozenset[str]:
    """The named ports that the policy means of its subject."""
    return frozenset(
        port.name for rule in policy.rules if rule.direction is Direction.INGRESS for port in rule.ports or () if port.name
    )


def digest(policy: Policy) -> bytes:
    """The content of a policy, 16 bytes. Its subject is left out: it says for whom, not what; but not whether that is a host."""
    content: list[object] = [
        _origin(policy.origin),
        policy.default_deny,
        [
            [
                _origin(rule.origin),
                rule.direction,
                precedence(rule),
                None if rule.peers is None else [_peer(peer) for peer in rule.peers],
                None if rule.ports is None else [[port.protocol, port.low, port.high, port.name] for port in rule.ports],
                bool(rule.unenforced),
                [_peer(peer) for peer in rule.endpoints],
                rule.closing,
            ]
            for rule in policy.rules
        ],
        [[demand.direction, demand.deny, _peer(demand.peer)] for demand in policy.demands],
        [[str(name), [str(network) for network in members]] for name, members in policy.known],
        *(["host"] if policy.host else []),
    ]
    return blake2b(json.dumps(content, separators=(",", ":")).encode(), digest_size=16).digest()


def _origin(origin: Origin) -> list[str]:
    return [origin.kind, origin.namespace, origin.name, origin.uid, origin.path]


def _peer(peer: Peer) -> list[object]:
    if isinstance(peer, Selector):
        return [[each.source, each.key, each.operator, each.values] for each in peer.requirements]
    if isinstance(peer, AddressGroup):
        return [str(peer.name), "group"]
    return [str(peer.prefix), [str(network) for network in peer.excepted], peer.scope, "address"]


def set_name(digests: Iterable[bytes], own_ports: Resolution) -> PolicyName:
    """The name of a rule set, without making it. `digests` sorted."""
    content = b"".join((b"%d:" % FORMAT, *digests, json.dumps(own_ports).encode()))
    return PolicyName(blake2b(content, digest_size=16).digest())


def rule_set(name: PolicyName, policies: Iterable[Policy], own_ports: Resolution) -> RuleSet:
    """The set of these policies' rules; `policies` together, in the order of the digests that made the name."""
    origins: list[Origin] = []
    effective: tuple[list[tuple[NumberedRule, Rule]], ...] = ([], [])
    closers: tuple[list[Origin], list[Origin]] = ([], [])
    for policy in policies:
        for direction in Direction:
            if policy.default_deny[direction]:
                closers[direction].append(policy.origin)
        for rule in policy.rules:
            origins.append(rule.origin)
            grants_nothing = bool(rule.unenforced) and not rule.deny
            if rule.peers == () or rule.ports == () or grants_nothing:
                continue
            ports = None if rule.ports is None else tuple(sorted(set(rule.ports)))
            effective[rule.direction].append((NumberedRule(len(origins), precedence(rule), ports), rule))
    for direction in Direction:
        if closers[direction]:  # nothing gets past the middle tier to the baseline
            effective[direction][:] = (pair for pair in effective[direction] if pair[0].precedence >= Precedence.ALLOW)
    ingress, egress = (_direction(bool(closers[direction]), effective[direction]) for direction in Direction)
    return RuleSet(name, tuple(origins), (tuple(closers[0]), tuple(closers[1])), (ingress, egress), own_ports)


def _direction(default_deny: bool, effective: list[tuple[NumberedRule, Rule]]) -> DirectionRules:
    anyone: list[NumberedRule] = []
    by_selector: dict[Selector, list[NumberedRule]] = {}
    by_address: list[tuple[AddressPeer, NumberedRule]] = []
    for numbered, rule in effective:
        if rule.peers is None:
            anyone.append(numbered)
            continue
        for peer in dict.fromkeys(rule.peers):
            if isinstance(peer, Selector):
                by_selector.setdefault(peer, []).append(numbered)
            elif isinstance(peer, AddressPeer):
                by_address.append((peer, numbered))
    return DirectionRules(
        default_deny,
        tuple(numbered for numbered, _ in effective),
        tuple(anyone),
        tuple((selector, tuple(numbered)) for selector, numbered in by_selector.items()),
        tuple(by_address),
    )
