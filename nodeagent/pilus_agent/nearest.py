"""The nearest miss: of a packet that no rule lets pass, what would have been let pass, and by which rule.

In: a compiled policy and the packet. Out: what was missed, None if nothing is near, and one sentence for it. Pure. What is told
is what all that decides together says, of every port, identity or address that is named: else it is not told.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from typing import Final

from pilus_agent.desired.policy.addresses import longest
from pilus_agent.desired.policy.answers import Answer, Decision, Layers, combine
from pilus_agent.desired.policy.porttable import PORTS, PortTable
from pilus_agent.desired.policy.tables import CompiledPolicy, DirectionTables
from pilus_agent.judgement import Packet
from pilus_agent.stretches import Stretch, stretches
from pilus_api.identities import FIRST_FIXED, LAST_OF_CLUSTERS, WORLD, Identity
from pilus_api.labels import Label, Labels
from pilus_api.protocols import ICMP, ICMPV6, PROTOCOL_NAMES
from pilus_api.rules import Direction, Network, Scope

# Of other peers that a table alone would let pass, so many are looked into, the nearest first: refusals come in floods.
_MOST_TRIED: Final = 16
_MOST_EXCEPTED: Final = 3


@dataclass(frozen=True, slots=True)
class OtherPort:
    """This peer, at any of these ports. `rule` counts from 1 in the policy's origins, here and below."""

    protocol: int
    low: int
    high: int
    rule: int


@dataclass(frozen=True, slots=True)
class OtherIdentity:
    """This protocol and port, and whoever has the identity, at whatever address it may have."""

    identity: Identity
    rule: int


@dataclass(frozen=True, slots=True)
class OtherAddress:
    """This protocol and port, and every address of `network` that is in none of `excepted`; there is one. `identity`: of whoever
    has it, which is the packet's own, or the world's where `scope` is the outside and the packet's is not."""

    network: Network
    excepted: tuple[Network, ...]
    scope: Scope
    identity: Identity
    rule: int


Miss = OtherPort | OtherIdentity | OtherAddress


# -- what was missed -----------------------------------------------------------------------------------------------------------


def find_miss(policy: CompiledPolicy, packet: Packet, labels: Mapping[Identity, Labels]) -> Miss | None:
    """Another port for this peer, else another peer for this port. None as well for a packet that a rule decides about."""
    tables = policy.directions[packet.direction]
    who, where = tables.peers.get(packet.identity, tables.default).table, _where(tables, packet)
    now = combine(who.layers(packet.protocol, packet.port), where.layers(packet.protocol, packet.port) if where else None)
    if now.decision is Decision.ALLOW or now.rule:
        return None
    asked = _Asked(packet)
    return _other_port(stretches(who, where), packet) or _other_identity(tables, asked, labels) or _other_address(tables, asked)


def _where(tables: DirectionTables, packet: Packet) -> PortTable | None:
    if packet.address is None:
        return None
    rows = tables.cidrs
    if packet.bits is not None:
        rows = {key: peer_class for key, peer_class in rows.items() if key.network.prefixlen <= packet.bits}
    key = longest(rows, _scope(packet), packet.address.version, int(packet.address))
    return tables.cidrs[key].table if key else None


def _scope(packet: Packet) -> Scope:
    return Scope.OUTSIDE if packet.outside else Scope.ANY


def _lets_pass(answer: Answer) -> bool:
    """By a rule. So the host, whom none lets in, is nobody to be told of."""
    return answer.decision is Decision.ALLOW and answer.rule != 0


class _Asked:
    """What tables say of the packet's protocol and port: each is asked once, however many peers share it."""

    def __init__(self, packet: Packet) -> None:
        self.packet = packet
        self._known: dict[bytes, Layers] = {}

    def layers(self, table: PortTable) -> Layers:
        found = self._known.get(table.name)
        if found is None:
            found = self._known[table.name] = table.layers(self.packet.protocol, self.packet.port)
        return found


def _other_port(answered: Iterable[Stretch], packet: Packet) -> OtherPort | None:
    def distance(one: Stretch) -> tuple[bool, int]:
        return one.protocol != packet.protocol, max(one.low - packet.port, packet.port - one.high, 0)

    found = min((one for one in answered if _lets_pass(one.answer)), key=distance, default=None)
    return OtherPort(found.protocol, found.low, found.high, found.answer.rule) if found else None


def _other_identity(tables: DirectionTables, asked: _Asked, labels: Mapping[Identity, Labels]) -> OtherIdentity | None:
    """The one that shares the most labels, and that no address shuts out."""
    here = set(labels.get(asked.packet.identity, ()))
    allowed = (
        identity
        for identity, peer_class in tables.peers.items()
        if identity != asked.packet.identity and _lets_pass(asked.layers(peer_class.table).answer)
    )
    nearest = nsmallest(_MOST_TRIED, allowed, key=lambda each: (-len(here.intersection(labels.get(each, ()))), each))
    if not nearest:
        return None
    # Pods have no addresses outside. What else has an identity, a node or the world, may count as outside or not.
    inside = {peer_class.table.name: peer_class.table for key, peer_class in tables.cidrs.items() if key.scope is Scope.ANY}
    anywhere = {peer_class.table.name: peer_class.table for peer_class in tables.cidrs.values()}
    for identity in nearest:
        who = asked.layers(tables.peers[identity].table)
        wheres = inside if FIRST_FIXED <= identity <= LAST_OF_CLUSTERS else anywhere
        if all(combine(who, asked.layers(where)) == who.answer for where in wheres.values()):
            return OtherIdentity(identity, who.answer.rule)
    return None


def _other_address(tables: DirectionTables, asked: _Asked) -> OtherAddress | None:
    """The one with most bits in common: of this peer at another address, else of the world, if this peer is none of it."""
    packet = asked.packet
    whose = {_scope(packet): packet.identity} | ({} if packet.outside else {Scope.OUTSIDE: WORLD})
    for scope, identity in whose.items():
        who = asked.layers(tables.peers.get(identity, tables.default).table)
        rows = {key.network: peer_class.table for key, peer_class in tables.cidrs.items() if key.scope is scope}
        answers = {table.name: combine(who, asked.layers(table)) for table in {each.name: each for each in rows.values()}.values()}
        passing = {name for name, answer in answers.items() if _lets_pass(answer)}
        allowed = (network for network, table in rows.items() if table.name in passing)
        for network in nsmallest(_MOST_TRIED, allowed, key=_distance_from(packet)):
            held = answers[rows[network].name]
            others = (inner for inner, table in rows.items() if answers[table.name] != held and _within(inner, network))
            excepted = _outermost(others)
            if sum(one.num_addresses for one in excepted) < network.num_addresses:
                return OtherAddress(network, excepted, scope, identity, held.rule)
    return None


def _distance_from(packet: Packet) -> Callable[[Network], tuple[bool, int, int, int]]:
    """Of the world, which is no one address, no bits are known."""
    address, known = packet.address, 128 if packet.bits is None else packet.bits

    def distance(network: Network) -> tuple[bool, int, int, int]:
        first, length = int(network.network_address), network.prefixlen
        if address is None or address.version != network.version:
            return address is not None, 0, length, first
        alike = network.max_prefixlen - (first ^ int(address)).bit_length()
        return False, -min(length, alike, known), length, first

    return distance


def _within(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version or inner.prefixlen < outer.prefixlen:
        return False
    return (int(inner.network_address) ^ int(outer.network_address)) >> (outer.max_prefixlen - outer.prefixlen) == 0


def _outermost(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Those that no other one contains, in order."""
    found: list[Network] = []
    for network in sorted(networks, key=lambda one: (int(one.network_address), one.prefixlen)):
        if not found or not _within(network, found[-1]):
            found.append(network)
    return tuple(found)


# -- in words ------------------------------------------------------------------------------------------------------------------


def port_words(protocol: int, low: int, high: int) -> str:
    """`TCP 80`, `TCP 80-89`, `TCP, every port`; of ICMP the type."""
    name = PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")
    if (low, high) == (0, PORTS - 1):
        return f"{name}, every port"
    return f"{name} {'type ' if protocol in (ICMP, ICMPV6) else ''}{low}" + (f"-{high}" if high != low else "")


def nearest_miss(policy: CompiledPolicy, packet: Packet, labels: Mapping[Identity, Labels]) -> str:
    """One sentence, "" if nothing is near."""
    miss = find_miss(policy, packet, labels)
    if miss is None:
        return ""
    rule, side = policy.origin(miss.rule), "from" if packet.direction is Direction.INGRESS else "to"
    match miss:
        case OtherPort(protocol, low, high):
            asked = port_words(packet.protocol, packet.port, packet.port)
            return f"{port_words(protocol, low, high)} is allowed by {rule}; this is {asked}"
        case OtherIdentity(identity):
            differing = _differing(labels.get(identity, ()), labels.get(packet.identity))
            return f"{rule} allows it {side} identity {identity}{differing}"
        case OtherAddress():
            # Also where the packet's own address is in the network: it counts as inside.
            note = "" if packet.outside or miss.scope is Scope.ANY else "; address rules mean what is outside the cluster"
            return f"{rule} allows it {side} {miss.network}{_without(miss, packet)}{note}"


def _differing(there: Labels, here: Labels | None) -> str:
    """What the other peer has and this one has not, else the other way round; of a peer that nobody knows nothing is said."""
    if here is None:
        return f", which has {_words(there)}" if there else ""
    lacking, own = ([label for label in held if label not in others] for held, others in ((there, here), (here, there)))
    if lacking:
        return f", which has {_words(lacking)}; this peer has not"
    return f", which has not {_words(own)}; this peer has" if own else ""


def _words(labels: Iterable[Label]) -> str:
    return ", ".join(str(label) for label in labels)


def _without(miss: OtherAddress, packet: Packet) -> str:
    """Some of them, first the one that this peer is in."""
    if not miss.excepted:
        return ""
    shown = sorted(miss.excepted, key=lambda one: packet.address is None or packet.address not in one)
    more = f" and {len(shown) - _MOST_EXCEPTED} more" if len(shown) > _MOST_EXCEPTED else ""
    return f" without {', '.join(map(str, shown[:_MOST_EXCEPTED]))}{more}"
