"""Ranges: which pod range each node has.

In: nodes, claims, CiliumNode objects and the time. Out: claims to create, CiliumNodes to create and write, claims and
CiliumNodes to delete. Pure: no clock, no network.

A range is claimed before it is written: creating a claim can't succeed twice, while a paused leader may wake up and write
anything into a CiliumNode. So agents believe claims, and we decide by claims; CiliumNode follows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from pilus_api.settings import Settings
from pilus_operator.facts import Address, Claim, Network, Node, NodeObject, claim_name

# A kubelet may register its node anew, and other nodes may hold on to what they knew of a range.
RELEASE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class CreateClaim:
    node: str
    range: Network


@dataclass(frozen=True, slots=True)
class CreateNode:
    """Make the CiliumNode of a Node whose agent has not been there yet."""

    node: str
    uid: str
    address: str


@dataclass(frozen=True, slots=True)
class WriteNode:
    """spec.ipam.podCIDRs := ranges, and the Node of uid `owner` (if not "") owns it; if it is still this version."""

    node: str
    version: str
    ranges: tuple[Network, ...]
    owner: str


@dataclass(frozen=True, slots=True)
class DeleteNode:
    node: str
    uid: str


@dataclass(frozen=True, slots=True)
class DeleteClaim:
    name: str
    uid: str
    version: str


Action = CreateClaim | CreateNode | WriteNode | DeleteNode | DeleteClaim


class Pool:
    """One family's pools, cut into ranges of one size; handed out round-robin, so that a released range rests longest."""

    def __init__(self, networks: Iterable[Network], mask: int) -> None:
        self._networks = tuple(networks)
        self._mask = mask
        self._counts = tuple(1 << (mask - network.prefixlen) for network in self._networks)
        self._total = sum(self._counts)
        self._cursor = 0

    def _cut(self, index: int) -> Network:
        for network, count in zip(self._networks, self._counts, strict=True):
            if index < count:
                size = 1 << (network.max_prefixlen - self._mask)
                kind = IPv4Network if isinstance(network, IPv4Network) else IPv6Network
                return kind((int(network.network_address) + index * size, self._mask))
            index -= count
        raise IndexError(index)

    def _indices(self, taken: Network) -> range:
        """Which of our ranges a taken one overlaps: it may be of another size, from before the settings were changed."""
        base = 0
        for network, count in zip(self._networks, self._counts, strict=True):
            if network.overlaps(taken):
                size = 1 << (network.max_prefixlen - self._mask)
                start = max(int(taken.network_address) - int(network.network_address), 0) // size
                end = min((int(taken.broadcast_address) - int(network.network_address)) // size, count - 1)
                return range(base + start, base + end + 1)
            base += count
        return range(0)

    def holds(self, wanted: Network) -> bool:
        return any(wanted.version == network.version and network.overlaps(wanted) for network in self._networks)

    def next(self, taken: Iterable[Network]) -> Network | None:
        """A range that overlaps none of `taken`; None if there is none."""
        closed = sorted((found.start, found.stop) for found in map(self._indices, taken) if found)
        for start in (self._cursor, 0):
            index = start
            for low, high in closed:
                if low <= index < high:
                    index = high
            if index < self._total:
                self._cursor = (index + 1) % self._total
                return self._cut(index)
        return None

    def passed(self, network: Network) -> None:
        """A range that is in use: the next one comes after it."""
        found = self._indices(network)
        if found and found.stop > self._cursor:
            self._cursor = found.stop % self._total


class Ranges:
    """Everything known about nodes and their ranges; `plan` says what to do next."""

    def __init__(self, settings: Settings) -> None:
        self._pools: dict[int, Pool] = {}
        if settings.enable_ipv4:
            self._pools[4] = Pool(settings.cluster_pool_ipv4_cidr, settings.cluster_pool_ipv4_mask_size)
        if settings.enable_ipv6:
            self._pools[6] = Pool(settings.cluster_pool_ipv6_cidr, settings.cluster_pool_ipv6_mask_size)
        self.nodes: dict[str, Node] = {}
        self.cilium_nodes: dict[str, NodeObject] = {}
        self.claims: dict[str, Claim] = {}
        self._claimed: dict[str, dict[str, Claim]] = {}
        self._absent: dict[str, float] = {}

    def set_claim(self, name: str, claim: Claim) -> None:
        self.remove_claim(name)
        self.claims[name] = claim
        self._claimed.setdefault(claim.node, {})[name] = claim
        pool = self._pools.get(claim.range.version)
        if pool is not None:
            pool.passed(claim.range)

    def remove_claim(self, name: str) -> None:
        former = self.claims.pop(name, None)
        if former is not None:
            held = self._claimed[former.node]
            del held[name]
            if not held:
                del self._claimed[former.node]

    def owns(self, node: str, address: Address) -> bool:
        """Whether an address lies in a range that the node has claimed."""
        return any(address in claim.range for claim in self._claimed.get(node, {}).values())

    def plan(self, now: float) -> Iterator[Action]:
        """What to do now. A claim that is created, and a node that is written, lead to the next plan."""
        present = self.nodes.keys() | {name for name, held in self.cilium_nodes.items() if held.kept or not held.owner}
        # Within one plan too, no range is given twice.
        taken = [claim.range for claim in self.claims.values()]
        for node in sorted(present):
            self._absent.pop(node, None)
            yield from self._plan_node(node, list(self._claimed.get(node, {}).items()), taken)
        for node in sorted((self.cilium_nodes.keys() | self._claimed.keys()) - present):
            if now - self._absent.setdefault(node, now) < RELEASE_SECONDS:
                continue
            held = self.cilium_nodes.get(node)
            if held is not None:
                yield DeleteNode(node, held.uid)
            else:
                for name, claim in self._claimed[node].items():
                    yield DeleteClaim(name, claim.uid, claim.version)
        for node in [node for node in self._absent if node not in self.cilium_nodes and node not in self._claimed]:
            del self._absent[node]

    def _plan_node(self, node: str, claims: list[tuple[str, Claim]], taken: list[Network]) -> Iterator[Action]:
        held = self.cilium_nodes.get(node)
        if held is None:
            found = self.nodes[node]
            yield CreateNode(node, found.uid, found.address)
        written = held.ranges if held else ()
        chosen: list[Network] = []
        complete = True
        for family, pool in sorted(self._pools.items()):
            ours = sorted((claim.range for _, claim in claims if claim.range.version == family), key=lambda n: n.network_address)
            stays = next((found for found in written if found in ours), None) or next(iter(ours), None)
            if stays is not None:
                chosen.append(stays)
                continue
            complete = False
            # A CiliumNode that was written before there were claims keeps its range, if nobody else has it.
            kept = next((r for r in written if r.version == family and pool.holds(r) and not _overlaps(r, taken)), None)
            wanted = kept or pool.next(found for found in taken if found.version == family)
            if wanted is not None:
                taken.append(wanted)
                yield CreateClaim(node, wanted)
        if held is None or not complete:
            return
        owner = self.nodes[node].uid if node in self.nodes and not held.kept else ""
        if tuple(chosen) != written or (owner and owner != held.owner):
            yield WriteNode(node, held.version, tuple(chosen), owner)
            return
        # Two leaders may each have claimed one: what did not make it into the CiliumNode is given back.
        for name, claim in claims:
            if claim.range not in chosen and claim.range.version in self._pools:
                yield DeleteClaim(name, claim.uid, claim.version)

    def full(self) -> list[int]:
        """The families whose pool has no range for a node that needs one."""
        have = {(claim.node, claim.range.version) for claim in self.claims.values()}
        return [family for family in self._pools if any((node, family) not in have for node in self.nodes)]

    def waits(self, now: float) -> float | None:
        """In how many seconds something of an absent node may be released."""
        return max(0.1, min(self._absent.values()) + RELEASE_SECONDS - now) if self._absent else None


def _overlaps(wanted: Network, taken: Iterable[Network]) -> bool:
    return any(wanted.version == found.version and wanted.overlaps(found) for found in taken)


def claim_object(action: CreateClaim) -> dict[str, object]:
    return {
        "apiVersion": "pilus.io/v1alpha1",
        "kind": "PilusRangeClaim",
        "metadata": {"name": claim_name(action.range)},
        "spec": {"node": action.node, "range": str(action.range)},
    }


def _owner(node: str, uid: str) -> dict[str, str]:
    return {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}


def node_patch(action: WriteNode) -> dict[str, object]:
    """A merge patch. Without the Node of today as its owner, it would be deleted as an orphan when a kubelet registers anew."""
    metadata: dict[str, object] = {"resourceVersion": action.version}
    if action.owner:
        metadata["ownerReferences"] = [_owner(action.node, action.owner)]
    return {"metadata": metadata, "spec": {"ipam": {"podCIDRs": [str(found) for found in action.ranges]}}}


def node_object(action: CreateNode) -> dict[str, object]:
    """A CiliumNode that ends with its Node. The agent adds what it knows of itself."""
    addresses = [{"type": "InternalIP", "ip": action.address}] if action.address else []
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": action.node, "ownerReferences": [_owner(action.node, action.uid)]},
        "spec": {"addresses": addresses},
    }
