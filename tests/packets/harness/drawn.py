"""A drawn set of policies in this node's tables: two pods and this host stand under them.

In: what was drawn (drawn_world.py: rules; drawn_cluster.py: objects), and chance for what that leaves open (how the node is set up,
who is on a packet's other side). Out: rows, and whoever that is. Never: packets (ways.py), nor what must become of them
(verdicts.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random
from typing import Any, Final, Literal

from tests.packets.harness.actors import HERE, THERE, Pod, packed
from tests.packets.harness.node import Node
from tests.packets.harness.world import NODE as NODES_OWN
from tests.properties.oracle import Probe

from pilus_api.identities import HOST, UNKNOWN, WORLD, Identity
from pilus_api.rules import Direction

Address = IPv4Address | IPv6Address
# A pod of another node; such a node by its own address or its router's; whoever has an address of no pod and no node; and who has
# one of the pods', and is nobody that policies know: not told of yet, or not compiled.
Kind = Literal["pod", "node", "router", "world", "stranger"]
IN_RANGES: Final[tuple[Kind, ...]] = ("pod", "router", "stranger")

HOST_NAME: Final = "host"
NOT_COMPILED: Final = Identity(9999)
# What is behind the other node. A pod of ours may have an address in it: then that one is in a range of its own.
INSIDE: Final = tuple(ip_network(text) for text in ("10.1.0.0/16", "10.200.0.0/16", "fd00:1::/32"))
# Ports of masquerading that no packet is for: what comes to one of them makes no entry, and so no event.
FIRST_PORT, LAST_PORT = 11000, 30000


@dataclass(frozen=True, slots=True)
class Peer:
    """`inside`: as the evaluator has it, so that address rules of the outside scope don't mean it."""

    kind: Kind
    address: Address
    identity: Identity
    inside: bool


@dataclass(frozen=True, slots=True)
class Said:
    """What an evaluator says. `reasons`: any of these rules may be given; empty: no rule decided."""

    allowed: bool
    reasons: frozenset[Any]


@dataclass(frozen=True, slots=True)
class Applied:
    """An endpoint's policies, by their numbers in the tables; `enforced`: directions."""

    policy: int = 0
    audit: int = 0
    enforced: tuple[int, ...] = ()


def directions(ingress: bool, egress: bool) -> tuple[int, ...]:
    """Those that are enforced."""
    return tuple(direction for direction, on in enumerate((ingress, egress)) if on)


class Drawn(ABC):
    """`ports`: those that packets are for. `known`: whom policies know. `audits`: whether one is in audit mode. `nodes_count`:
    rules by address mean nodes too."""

    ports: Sequence[int]
    known: Collection[Identity]
    audits: bool

    def __init__(self, node: Node, chance: Random, *, tunnel: bool | None, nodes_count: bool) -> None:
        self.node, self._chance, self.nodes_count = node, chance, nodes_count
        self.tunnel = chance.random() < 0.5 if tunnel is None else tunnel
        self.masquerades, self.probes_pass = (chance.random() < 0.5 for _ in range(2))
        self.pods: tuple[Pod, ...] = ()

    # -- what was drawn ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def said(self, name: str, probe: Probe, *, audited: bool) -> Said:
        """Of a pod here, or the host, about somebody whom policies know. `audited`: as if no policy were in audit mode."""

    @abstractmethod
    def closed(self, name: str, direction: Direction, *, audited: bool = False) -> bool:
        """Whether the policies can refuse anything in a direction (docs/policy.md, Enforced): else nobody asks who it is."""

    @abstractmethod
    def applied(self, name: str) -> Applied:
        """What the endpoint's row says."""

    @abstractmethod
    def reason(self, policy: int, rule: int) -> Any:
        """Which rule of a policy the kernel means, as evaluators call it."""

    @abstractmethod
    def _write_policies(self) -> None:
        """As the agent writes them."""

    @abstractmethod
    def _pick(self, kind: Kind) -> tuple[Address, Identity]:
        """Who is of that kind, and where."""

    @abstractmethod
    def _outside(self) -> Address:
        """One of no pod here or elsewhere."""

    # -- rows --------------------------------------------------------------------------------------------------------------

    def _setting(self, *names: str) -> int:
        known = self.node.datapath.enum("pilus_setting")
        return sum(known[f"PILUS_SETTING_{name}"] for name in names)

    def write(self) -> None:
        node = self.node
        node.reset()
        flags = ["READY", "HOST_FIREWALL"]
        for on, names in (
            (self.tunnel, ["TUNNEL"]),
            (self.masquerades, ["MASQUERADE_IPV4", "MASQUERADE_IPV6"]),
            (self.nodes_count, ["CIDR_NODES"]),
            (self.probes_pass, ["HOST_PROBES"]),
        ):
            flags += names if on else []
        node.settings(flags=self._setting(*flags), event_rate=1_000_000, event_burst=1_000_000, node_ipv6=packed(NODES_OWN[6]),
                      nat_first=FIRST_PORT, nat_last=LAST_PORT)  # fmt: skip
        self._write_policies()
        for network in INSIDE:
            node.range(network.version, str(network), THERE)
        for identity in self.known:
            node.datapath.map("identities").update(int(identity), {"cluster": 0})
        for pod in self.pods:
            row = self.applied(pod.name)
            node.endpoint(pod, policy=row.policy, enforced=row.enforced, audit=row.audit)
            for family, address in pod.addresses.items():
                node.range(family, address, HERE)
        row = self.applied(HOST_NAME)
        node.host(policy=row.policy, enforced=row.enforced, audit=row.audit)

    # -- the other side ----------------------------------------------------------------------------------------------------

    def somebody(self, kinds: Sequence[Kind]) -> Peer:
        """Of one of these kinds, and in the tables as that."""
        kind = self._chance.choice(kinds)
        inside = kind in IN_RANGES
        address, identity = self._pick(kind)
        if kind in ("pod", "node", "router"):
            return self._placed(kind, address, identity, kind.upper())
        if kind == "stranger" and self._chance.random() < 0.5:
            return self._placed(kind, address, NOT_COMPILED, "POD")
        self.node.datapath.map("ipcache").delete(_row_of(address))
        return Peer(kind, address, UNKNOWN if inside else WORLD, inside)

    def alias(self) -> Address:
        """Of this host too, and its settings don't name it: another link's."""
        address = self._outside()
        self._placed("node", address, HOST, "NODE", "LOCAL")
        return address

    def _placed(self, kind: Kind, address: Address, identity: Identity, *flags: str) -> Peer:
        known = self.node.datapath.enum("pilus_ipcache_flag")
        row = {"identity": int(identity), "flags": sum(known[f"PILUS_IPCACHE_{flag}"] for flag in flags),
               "tunnel_family": 4, "tunnel": packed(THERE.underlay)}  # fmt: skip
        self.node.datapath.map("ipcache").update(_row_of(address), row)
        return Peer(kind, address, identity, kind in ("pod", "stranger") or not self.nodes_count)


def is_inside(address: Address) -> bool:
    return any(address in network for network in INSIDE if network.version == address.version)


def _row_of(address: Address) -> dict[str, object]:
    return {"length": 32 + address.max_prefixlen, "family": address.version, "address": packed(str(address))}
