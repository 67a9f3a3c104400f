"""What every node's CiliumNode means for the kernel: pod ranges, nodes' addresses, routes. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pilus_agent.desired.addresses import family, host_prefix, prefix, raw
from pilus_agent.facts import Address, Network, Node
from pilus_api.identities import HOST, KUBE_APISERVER, REMOTE_NODE, Identity

# enum pilus_ipcache_flag
POD, NODE, ROUTER, LOCAL = 1, 2, 4, 8
# enum pilus_setting: address rules of the outside scope mean other nodes' addresses too
CIDR_NODES = 16

Record = dict[str, object]
Row = tuple[Record, Record]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A range that is not believed: `holder` has claimed it, or has a range that overlaps; empty: nobody has claimed it."""

    network: Network
    node: str
    holder: str


def tunnel_of(node: Node) -> Address | None:
    """Where a tunnel packet for this node goes: its IPv4 address on the underlay, else its IPv6."""
    ordered = sorted(node.addresses, key=lambda address: address.version)
    return ordered[0] if ordered else None


def _tunnel(node: Node, own: str) -> Record:
    address = None if node.name == own else tunnel_of(node)
    return {"tunnel_family": family(address), "tunnel": raw(address)} if address else {}


def believed_ranges(
    nodes: Mapping[str, Node], own: str, claims: Mapping[str, str] | None = None
) -> tuple[dict[Network, str], list[Overlap]]:
    """Each range with its node, and what is refused. Our own come first, then the lowest name: the same on each call.

    `claims`: which node has claimed which range (PilusRangeClaim); a range that its node has not claimed counts for nothing, for
    any node's agent may write any CiliumNode. None: nobody claims here.
    """
    held: dict[Network, str] = {}
    refused: list[Overlap] = []
    order = sorted(nodes, key=lambda name: (name != own, name))
    believed: dict[int, list[tuple[int, int, int]]] = {
        4: [],
        6: [],
    }  # first and last address, its node's place in `order`: disjoint
    for place, name in enumerate(order):
        for network in nodes[name].ranges:
            if claims is not None and claims.get(str(network)) != name:
                refused.append(Overlap(network, name, claims.get(str(network), "")))
                continue
            first, last = int(network.network_address), int(network.broadcast_address)
            others = believed[network.version]
            behind = at = bisect_right(others, last, key=lambda one: one[0])
            while at and others[at - 1][1] >= first:
                at -= 1
            if at == behind:
                others.insert(at, (first, last, place))
                held[network] = name
            elif (holder := min(other[2] for other in others[at:behind])) != place:
                refused.append(Overlap(network, name, order[holder]))
    return held, refused


def pod_range_rows(ranges: Mapping[Network, str], nodes: Mapping[str, Node], own: str) -> Iterator[Row]:
    """pod_ranges: a range -> the node it is on. A node whose address is unknown has no row: its packets drop."""
    for network, name in ranges.items():
        if name != own and tunnel_of(nodes[name]) is None:
            continue
        flags = LOCAL if name == own else 0
        yield prefix(network), {"flags": flags, **_tunnel(nodes[name], own)}


class RangeIndex:
    """Which node an address belongs to, in one lookup for each length of range that occurs."""

    def __init__(self, ranges: Mapping[Network, str]) -> None:
        self._held: dict[tuple[int, int], dict[int, str]] = {}
        for network, name in ranges.items():
            shift = network.max_prefixlen - network.prefixlen
            self._held.setdefault((network.version, shift), {})[int(network.network_address) >> shift] = name

    def holder(self, address: Address) -> str | None:
        number = int(address)
        for (version, shift), names in self._held.items():
            if version == address.version and (name := names.get(number >> shift)) is not None:
                return name
        return None


@dataclass(frozen=True, slots=True)
class NodeNumbers:
    """What another node's own stack is, and an API server on it."""

    node: Identity = REMOTE_NODE
    api_server: Identity = KUBE_APISERVER


def address_rows(
    node: Node, own: str, ranges: RangeIndex, api_servers: frozenset[Address] = frozenset(), numbers: NodeNumbers = NodeNumbers()
) -> Iterator[Row]:
    """ipcache: a node's own addresses, and its routers' where they lie in a range of its own.

    An API server on another node is known by the address that it is asked at, and by that node's routers': through the tunnel
    what it sends bears one of these.
    """
    local = node.name == own
    identity = HOST if local else numbers.node
    asked = set() if local else set(node.addresses) & api_servers
    mark = LOCAL if local else 0
    for address in node.addresses:
        if not local and ranges.holder(address) is not None:
            continue  # a pod's, whatever this node's object says
        yield host_prefix(address), {"identity": numbers.api_server if address in asked else identity, "flags": NODE | mark}
    for address in node.routers:
        if ranges.holder(address) == node.name:
            value = {"identity": numbers.api_server if asked else identity, "flags": ROUTER | mark}
            yield host_prefix(address), {**value, **_tunnel(node, own)}


def direct_routes(ranges: Mapping[Network, str], nodes: Mapping[str, Node], own: str) -> Iterator[tuple[Network, Address]]:
    """Other nodes' ranges, each by the node's first address of the same family. A node without one has no route here."""
    for network, name in ranges.items():
        if name == own:
            continue
        gateway = next((address for address in nodes[name].addresses if address.version == network.version), None)
        if gateway is not None:
            yield network, gateway


def remote_ranges(ranges: Mapping[Network, str], own: str) -> Iterable[Network]:
    return [network for network, name in ranges.items() if name != own]
