"""What two sets of tables let pass differently: for each peer, the ports that change, and the rule that changes them.

In: what applies to an endpoint before and after. Out: changes, alike ones together. Pure; it answers from the tables, so it says
what packets would meet.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pilus_agent.desired.policy.answers import DEFAULT_ALLOW, Answer, Decision, Layers, combine
from pilus_agent.desired.policy.porttable import ANY_PORT, ANY_PROTOCOL, PORTS, PortTable
from pilus_agent.desired.policy.tables import CompiledPolicy
from pilus_agent.facts import Address
from pilus_api.identities import WORLD, WORLD_IPV4, WORLD_IPV6, Identity
from pilus_api.rules import OUTSIDE, Direction, Network, Origin, Scope

# Protocols that policies speak of, and one that stands for those that none does.
KNOWN: Final = (1, 6, 17, 58, 132)
OTHER: Final = 255

_OUTSIDE: Final = frozenset({WORLD, WORLD_IPV4, WORLD_IPV6})


@dataclass(frozen=True, slots=True)
class Placed:
    """Those of an identity who have one of these addresses, where rules by address mean some of it and some not."""

    identity: Identity
    addresses: tuple[Address, ...]


# An identity, some of it, or addresses outside the cluster.
Peer = Identity | Placed | Network

# Where a packet's address is looked for: the scope, its version, and the address as a number.
_At = tuple[Scope, int, int]
_NOWHERE: Final[Mapping[Identity, Iterable[Address]]] = {}


@dataclass(frozen=True, slots=True)
class Change:
    """Ports `low` to `high` of a protocol: whether they pass afterwards, and by which rule; None: by no rule.

    Protocol 0: every one, with every port.
    """

    protocol: int
    low: int
    high: int
    allowed: bool
    rule: Origin | None


def differences(
    before: CompiledPolicy | None,
    after: CompiledPolicy | None,
    direction: Direction,
    identities: Iterable[Identity],
    places: Mapping[Identity, Iterable[Address]] = _NOWHERE,
) -> dict[tuple[Change, ...], list[Peer]]:
    """By what changes: the peers for whom exactly that does. None: no policy applies, everything passes. `places`: addresses of
    pods and nodes by their identities, for rules by address that mean these too.
    """
    found: dict[tuple[Change, ...], list[Peer]] = {}
    memo: dict[tuple[object, ...], tuple[Change, ...]] = {}
    networks = _networks((before, after), direction)
    # Where a row means a whole family, the outside is its families: it has no address that would say which.
    told = _OUTSIDE if any(not network.prefixlen for network in networks) else frozenset()
    policies = before, after
    rows = [_Rows(policy, direction) for policy in policies]
    by_address = any(key.scope is Scope.ANY for policy in policies if policy for key in policy.directions[direction].cidrs)
    peers: list[tuple[Peer, _At | None]] = []
    for identity in identities:
        if identity not in told:
            peers += _placed(rows, identity, places.get(identity, ()) if by_address else ())
    peers += ((network, (Scope.OUTSIDE, network.version, address)) for network, address in networks.items())
    for peer, at in peers:
        who = peer.identity if isinstance(peer, Placed) else peer if isinstance(peer, int) else WORLD
        sides = [_Side(policy, direction, who, held.table(at) if at else None) for policy, held in zip(policies, rows, strict=True)]
        key = tuple(side.name for side in sides)
        if key not in memo:
            memo[key] = _whole(tuple(_changes(*sides)))
        if memo[key]:
            found.setdefault(memo[key], []).append(peer)
    return found


class _Rows:
    """A policy's rows by address, found by the length of their prefix: there may be thousands of them, and of addresses."""

    def __init__(self, policy: CompiledPolicy | None, direction: Direction) -> None:
        self._tables: dict[tuple[Scope, int], dict[int, dict[int, PortTable]]] = {}
        for key, peer_class in (policy.directions[direction].cidrs if policy else {}).items():
            network = key.network
            shift = network.max_prefixlen - network.prefixlen
            lengths = self._tables.setdefault((key.scope, network.version), {})
            lengths.setdefault(shift, {})[int(network.network_address) >> shift] = peer_class.table

    def table(self, at: _At) -> PortTable | None:
        """That of the longest prefix, as the kernel finds it."""
        scope, version, address = at
        lengths = self._tables.get((scope, version), {})
        found = (lengths[shift].get(address >> shift) for shift in sorted(lengths))
        return next((table for table in found if table is not None), None)


def _placed(rows: Sequence[_Rows], identity: Identity, addresses: Iterable[Address]) -> list[tuple[Peer, _At | None]]:
    """The identity as a whole, or by its addresses if rules by address do not say the same of all of them."""
    found: dict[tuple[object, ...], list[Address]] = {}
    for address in sorted(addresses, key=lambda one: (one.version, one)):
        at = (Scope.ANY, address.version, int(address))
        tables = (held.table(at) for held in rows)
        found.setdefault(tuple(table.name if table else b"" for table in tables), []).append(address)
    if not found:
        return [(identity, None)]
    places = [(held, (Scope.ANY, held[0].version, int(held[0]))) for held in found.values()]
    if len(places) == 1:
        return [(identity, places[0][1])]
    return [(Placed(identity, tuple(held)), at) for held, at in places]


def _networks(policies: Iterable[CompiledPolicy | None], direction: Direction) -> dict[Network, int]:
    """Prefixes that a row of either has, with an address that is in no smaller one of them; those without one are no peers. Of two
    families both or neither stand for themselves."""
    rows = [key for policy in policies if policy for key in policy.directions[direction].cidrs]
    told = {key.network for key in rows if key.scope is Scope.OUTSIDE}
    if any(not network.prefixlen for network in told):
        told |= {peer.prefix for peer in OUTSIDE}
    networks = sorted(told, key=lambda one: (one.version, one))
    found = {}
    for network in networks:
        address = int(network.network_address)
        # Smaller ones come behind it in order, and of two that contain an address the larger comes first.
        for inner in networks:
            smaller = inner.version == network.version and inner.prefixlen > network.prefixlen
            if smaller and int(inner.network_address) <= address <= int(inner.broadcast_address):
                address = int(inner.broadcast_address) + 1
        if address <= int(network.broadcast_address):
            found[network] = address
    return found


class _Side:
    """One policy, as one peer meets it."""

    def __init__(self, policy: CompiledPolicy | None, direction: Direction, identity: Identity, where: PortTable | None) -> None:
        self._policy = policy
        self._who: PortTable | None = None
        self._where = where
        if policy is None:
            return
        tables = policy.directions[direction]
        self._who = tables.peers.get(identity, tables.default).table

    @property
    def name(self) -> tuple[bytes, bytes, bytes]:
        """The same for sides that say the same. Rules are numbered within a policy, so that it belongs to it."""
        who, where = (table.name if table else b"" for table in (self._who, self._where))
        return self._policy.name if self._policy else b"", who, where

    @property
    def _tables(self) -> Iterator[PortTable]:
        yield from (table for table in (self._who, self._where) if table)

    def protocols(self) -> set[int]:
        return {row.protocol for table in self._tables for row in table.rows if row.length != ANY_PROTOCOL}

    def cuts(self, protocol: int) -> set[int]:
        """Ports at which another answer may begin."""
        spans = [row.span for table in self._tables for row in table.rows if row.protocol == protocol and row.length > ANY_PORT]
        return {low for low, _ in spans} | {high + 1 for _, high in spans}

    def answer(self, protocol: int, port: int) -> Answer:
        if self._who is None:
            return DEFAULT_ALLOW
        where: Layers | None = self._where.layers(protocol, port) if self._where else None
        return combine(self._who.layers(protocol, port), where)

    def rule(self, answer: Answer) -> Origin | None:
        return self._policy.origin(answer.rule) if self._policy else None


def _changes(before: _Side, after: _Side) -> Iterator[Change]:
    for protocol in (*sorted({*KNOWN, *before.protocols(), *after.protocols()}), OTHER):
        cuts = sorted(({0} | before.cuts(protocol) | after.cuts(protocol)) - {PORTS})
        held: Change | None = None
        for low, end in zip(cuts, [*cuts[1:], PORTS], strict=True):
            was, now = before.answer(protocol, low), after.answer(protocol, low)
            found = None
            if (was.decision is Decision.ALLOW) != (now.decision is Decision.ALLOW):
                found = Change(protocol, low, end - 1, now.decision is Decision.ALLOW, after.rule(now))
            if held and found and (held.allowed, held.rule) == (found.allowed, found.rule):
                held = Change(protocol, held.low, found.high, held.allowed, held.rule)
                continue
            if held:
                yield held
            held = found
        if held:
            yield held


def _whole(changes: tuple[Change, ...]) -> tuple[Change, ...]:
    """One change where every protocol changes alike."""
    kinds = {(change.low, change.high, change.allowed, change.rule) for change in changes}
    everywhere = {change.protocol for change in changes} >= {*KNOWN, OTHER}
    if everywhere and len(kinds) == 1 and changes[0].low == 0 and changes[0].high == PORTS - 1:
        return (Change(0, 0, PORTS - 1, changes[0].allowed, changes[0].rule),)
    return changes
