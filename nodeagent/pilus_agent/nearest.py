"""The nearest miss: of a packet that no rule lets pass, what would have been let pass, and by which rule.

In: a compiled policy and the packet. Out: one sentence, "" if nothing is near. Pure.
"""

from collections.abc import Iterable, Mapping

from pilus_agent.desired.policy.addresses import longest
from pilus_agent.desired.policy.answers import Decision, Layers
from pilus_agent.desired.policy.porttable import ANY_PROTOCOL, PORTS, PortRow, PortTable
from pilus_agent.desired.policy.tables import CompiledPolicy, DirectionTables
from pilus_agent.judgement import Packet
from pilus_api.identities import HOST, Identity
from pilus_api.labels import Labels
from pilus_api.protocols import ICMP, ICMPV6, PROTOCOL_NAMES
from pilus_api.rules import Direction, Scope


def port_words(protocol: int, low: int, high: int) -> str:
    """`TCP 80`, `TCP 80-89`, `TCP, every port`; of ICMP the type."""
    name = PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")
    if (low, high) == (0, PORTS - 1):
        return f"{name}, every port"
    return f"{name} {'type ' if protocol in (ICMP, ICMPV6) else ''}{low}" + (f"-{high}" if high != low else "")


def nearest_miss(policy: CompiledPolicy, packet: Packet, labels: Mapping[Identity, Labels]) -> str:
    """Another port for this peer, else another peer for this port."""
    tables = policy.directions[packet.direction]
    return _other_port(policy, _tables_of(tables, packet), packet) or _other_peer(policy, tables, packet, labels)


def _tables_of(tables: DirectionTables, packet: Packet) -> Iterable[PortTable]:
    yield tables.peers.get(packet.identity, tables.default).table
    if packet.address is not None:
        scope = Scope.OUTSIDE if packet.outside else Scope.ANY
        bits = packet.address.max_prefixlen if packet.bits is None else packet.bits
        rows = {key: peer_class for key, peer_class in tables.cidrs.items() if key.network.prefixlen <= bits}
        key = longest(rows, scope, packet.address.version, int(packet.address))
        if key is not None:
            yield tables.cidrs[key].table


def _other_port(policy: CompiledPolicy, tables: Iterable[PortTable], packet: Packet) -> str:
    allowing = [row for table in tables for row in table.rows if _lets_pass(row) and row.length != ANY_PROTOCOL]
    if not allowing:
        return ""

    def distance(row: PortRow) -> tuple[bool, int]:
        low, high = row.span
        return row.protocol != packet.protocol, max(low - packet.port, packet.port - high, 0)

    row = min(allowing, key=distance)
    asked = port_words(packet.protocol, packet.port, packet.port)
    return f"{port_words(row.protocol, *row.span)} is allowed by {_rule(policy, row)}; this is {asked}"


def _other_peer(policy: CompiledPolicy, tables: DirectionTables, packet: Packet, labels: Mapping[Identity, Labels]) -> str:
    here = set(labels.get(packet.identity, ()))
    best: tuple[int, Identity, Layers] | None = None
    for identity, peer_class in tables.peers.items():
        if identity == HOST and packet.direction is Direction.INGRESS:
            continue
        layers = peer_class.table.layers(packet.protocol, packet.port)
        if layers.answer.decision is not Decision.ALLOW or not layers.answer.rule:
            continue
        shared = len(here & set(labels.get(identity, ())))
        if best is None or (shared, -identity) > (best[0], -best[1]):
            best = shared, identity, layers
    if best is None:
        return _other_address(policy, tables, packet)
    _, identity, layers = best
    lacking = ", ".join(str(label) for label in labels.get(identity, ()) if label not in here)
    side = "from" if packet.direction is Direction.INGRESS else "to"
    origin = policy.origin(layers.answer.rule)
    return f"{origin} allows it {side} identity {identity}, which has {lacking or 'no other labels'}; this peer has not"


def _other_address(policy: CompiledPolicy, tables: DirectionTables, packet: Packet) -> str:
    for key, peer_class in tables.cidrs.items():
        answer = peer_class.table.answer(packet.protocol, packet.port)
        if answer.decision is Decision.ALLOW and answer.rule:
            side = "from" if packet.direction is Direction.INGRESS else "to"
            inside = "" if packet.outside or key.scope is Scope.ANY else "; address rules mean what is outside the cluster"
            return f"{policy.origin(answer.rule)} allows it {side} {key.network}{inside}"
    return ""


def _lets_pass(row: PortRow) -> bool:
    answer = Layers(row.answer, row.above).answer
    return answer.decision is Decision.ALLOW and answer.rule != 0


def _rule(policy: CompiledPolicy, row: PortRow) -> str:
    return str(policy.origin(Layers(row.answer, row.above).answer.rule))
