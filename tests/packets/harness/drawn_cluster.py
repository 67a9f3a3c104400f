"""A drawn cluster's policies in this node's tables, as an agent makes rows of them. What they mean says meaning.py, which reads the
objects as people write them.
"""

from dataclasses import replace
from ipaddress import ip_address
from random import Random
from typing import Any

from tests.packets.harness.actors import CLIENT, WEB
from tests.packets.harness.drawn import HOST_NAME, Address, Applied, Drawn, Kind, Said, directions
from tests.packets.harness.node import Node
from tests.packets.harness.wire import VXLAN_PORT
from tests.properties.meaning import Cluster, End, Packet, decide, in_audit
from tests.properties.objects import OUTSIDE, PORTS, ROUTER
from tests.properties.oracle import Probe
from tests.properties.staged import staged

from pilus_agent.tables import Tables
from pilus_api.identities import FIRST_FIXED, RESERVED, WORLD, Identity
from pilus_api.rules import Direction

# Addresses that the cluster does not have.
_HERE = ({4: "10.1.0.97", 6: "fd00:1::97"}, {4: "10.1.0.98", 6: "fd00:1::98"})


class DrawnCluster(Drawn):
    ports = tuple(port for port in PORTS if port != VXLAN_PORT)  # what is for a node's tunnel no policy decides

    def __init__(self, node: Node, cluster: Cluster, chance: Random, *, tunnel: bool | None = None) -> None:
        super().__init__(node, chance, tunnel=tunnel, nodes_count=cluster.settings["policy_cidr_match_mode"] == ("nodes",))
        self._cluster = cluster
        self._stage, self._governed = staged(cluster)
        self._tables = Tables.of(node.datapath.description["maps"])
        self._stage.settle(self._tables)
        self._names = {HOST_NAME: HOST_NAME}
        names = chance.sample(sorted(cluster.governed.keys() - {HOST_NAME}), 2)
        for pod, name, addresses in zip((CLIENT, WEB), names, _HERE, strict=True):
            self.pods += (replace(pod, identity=cluster.governed[name].identity, addresses=addresses),)
            self._names[pod.name] = name
        nodes = cluster.other_nodes
        told = [end for end in cluster.ends if end.labels is not None and end not in nodes]
        self._ends: dict[Kind, list[End]] = {
            "pod": [end for end in told if end.identity >= FIRST_FIXED],  # no tunnel takes a reserved number from a pod
            "node": nodes, "router": nodes,
            "world": [end for end in cluster.ends if end.outside],
            "stranger": [end for end in cluster.ends if end.labels is None],
        }  # fmt: skip
        self._by_number = {end.identity: end for end in (*cluster.governed.values(), *cluster.ends)}
        known = {Identity(number) for number, end in self._by_number.items() if end.labels is not None}
        self.known = known | RESERVED.keys()
        # The setting makes `enable-policy: always` audit, too, which no object says.
        self.audits = cluster.settings["policy_audit_mode"] or any(in_audit(cluster, policy) for policy in cluster.policies)

    def said(self, name: str, probe: Probe, *, audited: bool) -> Said:
        asked = Packet(int(probe.direction), self._end(probe), probe.address, not probe.inside, probe.protocol, probe.port)
        return Said(*decide(self._cluster, self._names[name], asked, audited=audited))

    def _end(self, probe: Probe) -> End:
        """Of the outside, which is one number, families are told apart by label."""
        if probe.identity != WORLD:
            return self._by_number[probe.identity]
        assert probe.address is not None
        family = probe.address.version
        return next(end for end in self._cluster.ends if end.outside and end.addresses[0].version == family)

    def closed(self, name: str, direction: Direction, *, audited: bool = False) -> bool:
        """By the agent's own word: should it be wrong, what is refused or passes is."""
        row = self.applied(name)
        audit = self._stage.numbered(row.audit) if audited and row.audit else None
        return direction in row.enforced or (audit is not None and audit.directions[direction].enforced)

    def applied(self, name: str) -> Applied:
        found = self._governed.get(self._names[name])
        if found is None:
            return Applied()
        policy, audit = (self._stage.number(each) if each else 0 for each in (found.policy, found.audit))
        return Applied(policy, audit, directions(found.ingress_enforced, found.egress_enforced))

    def reason(self, policy: int, rule: int) -> Any:
        held = self._stage.numbered(policy)
        origin = held.origin(rule) if held else None
        return origin and (origin.kind, origin.namespace, origin.name, origin.path)

    def _write_policies(self) -> None:
        for name in ("verdicts", "policies", "peers", "cidrs"):
            self.node.datapath.map(name).update_raw(self._tables.trackers[name].wanted)

    def _pick(self, kind: Kind) -> tuple[Address, Identity]:
        end = self._chance.choice(self._ends[kind])
        addresses = tuple(map(ip_address, ROUTER)) if kind == "router" else end.addresses
        return self._chance.choice(addresses), Identity(end.identity)

    def _outside(self) -> Address:
        return ip_address(self._chance.choice(OUTSIDE))
