"""A drawn world of policies in this node's tables, written as the agent does it: two pods and this host stand under its policies.

In: a world of the property tests, and chance for what that leaves open (who has which address, how the node is set up). Out: rows,
and whoever is to be on a packet's other side. Never: packets (ways.py), nor what must become of them (verdicts.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from random import Random
from typing import Final, Literal

from tests.packets.harness.actors import CLIENT, HERE, THERE, WEB, Pod, packed
from tests.packets.harness.node import Node
from tests.packets.harness.world import NODE as NODES_OWN
from tests.properties.oracle import World, governing_policies
from tests.properties.worlds import ADDRESSES, KEYS, VALUES

from pilus_agent.bind.policy_rows import PolicyRows
from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.tables import PolicyName
from pilus_api.identities import (
    FIRST_ALLOCATED,
    HOST,
    KUBE_APISERVER,
    REMOTE_NODE,
    REMOTE_NODE_SCOPE,
    RESERVED,
    SCOPE_SHIFT,
    UNKNOWN,
    WORLD,
    Identity,
)
from pilus_api.labels import SOURCE_NODE, Label, canonical
from pilus_api.rules import Direction

Address = IPv4Address | IPv6Address
# A pod of another node; such a node by its own address or its router's; whoever has an address of no pod and no node; and who has
# one of the pods', and is nobody that policies know: not told of yet, or not compiled.
Kind = Literal["pod", "node", "router", "world", "stranger"]
IN_RANGES: Final[tuple[Kind, ...]] = ("pod", "router", "stranger")

HOST_NAME: Final = "host"
NOT_COMPILED: Final = Identity(9999)
BY_LABELS: Final = Identity(REMOTE_NODE_SCOPE << SCOPE_SHIFT | 1)
# What is behind the other node. A pod of ours may have an address in it: then that one is in a range of its own.
INSIDE: Final = tuple(ip_network(text) for text in ("10.1.0.0/16", "10.200.0.0/16", "fd00:1::/32"))
# Ports of masquerading that no packet is for: what comes to one of them makes no entry, and so no event.
FIRST_PORT, LAST_PORT = 10000, 30000


@dataclass(frozen=True, slots=True)
class Peer:
    """`inside`: as the evaluator has it, so that address rules of the outside scope don't mean it."""

    kind: Kind
    address: Address
    identity: Identity
    inside: bool


class Drawn:
    def __init__(self, node: Node, world: World, chance: Random, *, tunnel: bool | None = None) -> None:
        self.node, self._chance = node, chance
        labels = (
            *RESERVED[REMOTE_NODE],
            *(Label(SOURCE_NODE, key, chance.choice(VALUES)) for key in KEYS if chance.random() < 0.5),
        )
        self.world = replace(world, identities={**world.identities, BY_LABELS: canonical(labels)})
        self.compiled = compile_policies(world.policies, self.world.identities, world.endpoints, world.named_ports)
        self._rows = PolicyRows()
        self.tunnel = chance.random() < 0.5 if tunnel is None else tunnel
        self.masquerades, self.nodes_count, self.probes_pass = (chance.random() < 0.5 for _ in range(3))
        self.allocated = [each for each in world.identities if each >= FIRST_ALLOCATED]
        self.pods: tuple[Pod, ...] = ()
        self.elsewhere = list(ADDRESSES)
        self.names = {HOST_NAME: HOST_NAME}  # of endpoints in the world, by those of the pods here
        for pod in (CLIENT, WEB):
            addresses = {family: self._taken(family) for family in (4, 6)}
            identity = NOT_COMPILED if chance.random() < 0.1 else chance.choice(self.allocated)
            self.pods += (replace(pod, identity=int(identity), addresses=addresses),)
            self.names[pod.name] = chance.choice([name for name in world.endpoints if name != HOST_NAME])

    def _taken(self, family: int) -> str:
        address = self._chance.choice([each for each in self.elsewhere if each.version == family])
        self.elsewhere.remove(address)
        return str(address)

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
        for change in self._rows.settle(self.compiled.policies):
            assert change.value is not None
            node.datapath.map(change.table).update(change.key, change.value)
        for network in INSIDE:
            node.range(network.version, str(network), THERE)
        for identity in self.world.identities:
            node.datapath.map("identities").update(int(identity), {"cluster": 0})
        for pod in self.pods:
            policy, audit, enforced = self._applied(pod.name)
            node.endpoint(pod, policy=policy, enforced=enforced, audit=audit)
            for family, address in pod.addresses.items():
                node.range(family, address, HERE)
        policy, audit, enforced = self._applied(HOST_NAME)
        node.host(policy=policy, enforced=enforced, audit=audit)

    def _applied(self, name: str) -> tuple[int, int, list[int]]:
        applied = self.compiled.endpoints[self.names[name]]
        enforced = [side for side, on in enumerate((applied.ingress_enforced, applied.egress_enforced)) if on]
        return self.number_of(applied.policy), self.number_of(applied.audit), enforced

    def number_of(self, policy: PolicyName | None) -> int:
        return self._rows.number_of(policy) if policy else 0

    def closed(self, name: str, direction: Direction, *, audited: bool = False) -> bool:
        """Whether the policies can refuse anything in a direction (docs/policy.md, Enforced): else nobody asks who it is."""
        governing = governing_policies(self.world, self.world.endpoints[self.names[name]])
        return any(
            policy.default_deny[direction]
            or any(rule.deny and rule.direction == direction and () not in (rule.peers, rule.ports) for rule in policy.rules)
            for policy in governing
            if audited or not policy.audit
        )

    def audits(self, name: str) -> bool:
        return any(policy.audit for policy in governing_policies(self.world, self.world.endpoints[self.names[name]]))

    # -- the other side ----------------------------------------------------------------------------------------------------

    def somebody(self, kinds: Sequence[Kind]) -> Peer:
        """Of one of these kinds, and in the tables as that."""
        kind = self._chance.choice(kinds)
        inside = kind in IN_RANGES
        address = self._chance.choice([each for each in self.elsewhere if _is_inside(each) == inside])
        if kind == "pod":
            return self._known(kind, address, self._chance.choice(self.allocated), "POD")
        if kind in ("node", "router"):
            identity = self._chance.choice((REMOTE_NODE, KUBE_APISERVER, BY_LABELS))
            return self._known(kind, address, identity, kind.upper())
        if kind == "stranger" and self._chance.random() < 0.5:
            return self._known(kind, address, NOT_COMPILED, "POD")
        self.node.datapath.map("ipcache").delete(_row_of(address))
        return Peer(kind, address, UNKNOWN if inside else WORLD, inside)

    def alias(self) -> Address:
        """Of this host too, and its settings don't name it: another link's."""
        address = self._chance.choice([each for each in self.elsewhere if not _is_inside(each)])
        self._known("node", address, HOST, "NODE", "LOCAL")
        return address

    def _known(self, kind: Kind, address: Address, identity: Identity, *flags: str) -> Peer:
        known = self.node.datapath.enum("pilus_ipcache_flag")
        row = {"identity": int(identity), "flags": sum(known[f"PILUS_IPCACHE_{flag}"] for flag in flags),
               "tunnel_family": 4, "tunnel": packed(THERE.underlay)}  # fmt: skip
        self.node.datapath.map("ipcache").update(_row_of(address), row)
        return Peer(kind, address, identity, kind in ("pod", "stranger") or not self.nodes_count)


def _is_inside(address: Address) -> bool:
    return any(address in network for network in INSIDE if network.version == address.version)


def _row_of(address: Address) -> dict[str, object]:
    return {"length": 32 + address.max_prefixlen, "family": address.version, "address": packed(str(address))}
