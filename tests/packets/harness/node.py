"""This node's tables, written from the actors; its counters, events and flows, read back."""

import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

from tests.packets.harness import actors
from tests.packets.harness.actors import HERE, LOCAL_PODS, NODES, REMOTE_PODS, Pod, mac_bytes, packed, prefix_length

from pilus_maps import Datapath
from pilus_maps.ring import Ring

_EMPTIED: Final = ("endpoints", "ipcache", "pod_ranges", "identities", "policies", "peers", "cidrs", "verdicts", "buckets",
                   "flows", "embryonic", "fragments")  # fmt: skip
ALLOW, DENY = 1, 0
INGRESS, EGRESS = 0, 1
READY = 4
ENFORCED = {INGRESS: 1, EGRESS: 2}


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of a port table. `protocol` 0: any; `port` None: any port. `above`: what the admin tier says, precedence, rule."""

    number: int
    decision: int = ALLOW
    protocol: int = 0
    port: int | None = None
    precedence: int = 10
    above: tuple[int, int, int] = (DENY, 0, 0)


@dataclass(frozen=True, slots=True)
class Side:
    """One direction of a policy: rules by peer identity, by network (any address, or outside alone), and for everybody."""

    everybody: Sequence[Rule] = ()
    peers: Mapping[int, Sequence[Rule]] | None = None
    networks: Mapping[str, Sequence[Rule]] | None = None
    outside: Mapping[str, Sequence[Rule]] | None = None


def _link(ifindex: int) -> bytes:
    """A pod's link in place of an address."""
    return ifindex.to_bytes(4, sys.byteorder).ljust(16, b"\0")


class Node:
    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self.links: dict[str, int] = {}
        self.tunnel_ifindex = 0
        self.uplink_ifindex = 0
        self._tables = 0
        self._ring: Ring | None = None
        self.hooks: dict[str, int] = datapath.enum("pilus_hook")
        self.drops: dict[str, int] = datapath.enum("pilus_drop")
        self._audited = datapath.enum("pilus_count")["PILUS_COUNT_AUDITED"]

    def close(self) -> None:
        if self._ring:
            self._ring.close()
            self._ring = None

    # -- writing -------------------------------------------------------------------------------------------------------

    def reset(self, *, policies: Mapping[int, tuple[Side, Side]] | None = None, pods: Mapping[str, int] | None = None,
              mtu: int = 0) -> None:  # fmt: skip
        """Everything as if a healthy agent had just written it. `pods`: name -> policy number, enforced where it has a side."""
        self._forget_events()
        for name in _EMPTIED:
            if name in self.datapath.description["maps"]:
                self.datapath.map(name).clear()
        if "quotas" in self.datapath.description["maps"]:
            for number in (0, *(pod.number for pod in LOCAL_PODS)):  # 0: the host's own
                self.datapath.map("quotas").update(number, {})
        self.settings(tunnel_mtu=mtu)
        reserved = (1, 2, 6, 7)
        for identity in (*reserved, *(pod.identity for pod in (*LOCAL_PODS, *REMOTE_PODS))):
            self.datapath.map("identities").update(identity, {"cluster": 0})
        for node in NODES:
            for family, network in node.ranges.items():
                self.range(family, network, node)
                self.ipcache(node.routers[family], 1 if node.local else 6, flags=4 | 8 * node.local, tunnel=node.underlay)
            self.ipcache(node.underlay, 1 if node.local else 6, flags=2 | 8 * node.local)
        for pod in LOCAL_PODS:
            self.endpoint(pod)
        for pod in (*LOCAL_PODS, *REMOTE_PODS):
            for address in pod.addresses.values():
                self.ipcache(
                    address, pod.identity, flags=1 | 8 * pod.node.local, tunnel="" if pod.node.local else pod.node.underlay
                )
        for number, (ingress, egress) in (policies or {}).items():
            self.policy(number, ingress, egress)
        for name, number in (pods or {}).items():
            pod = next(one for one in LOCAL_PODS if one.name == name)
            sides = (policies or {})[number]
            self.endpoint(pod, policy=number, enforced=[i for i in (INGRESS, EGRESS) if sides[i] != Side()])
        self.events()

    def settings(self, **changed: Any) -> None:
        values = {"flags": 3, "tunnel_ifindex": self.tunnel_ifindex, "uplink_ifindex": self.uplink_ifindex,
                  "node_ipv4": packed(HERE.underlay),
                  "router_ipv4": packed(HERE.routers[4]), "router_ipv6": packed(HERE.routers[6]),
                  "event_rate": 1000, "event_burst": 1000}  # fmt: skip
        known = {field["name"] for field in self.datapath.description["structs"]["pilus_settings"]["fields"]}
        values |= {name: value for name, value in changed.items() if name in known}
        self.datapath.map("settings").update(0, values)

    def endpoint(self, pod: Pod, *, policy: int = 0, enforced: Sequence[int] = (), ready: bool = True, **changed: Any) -> None:
        row = {"ifindex": self.links.get(pod.name, 0), "identity": pod.identity, "policy": policy, "number": pod.number,
               "slot": pod.slot, "flags": READY * ready + sum(ENFORCED[i] for i in enforced), "mac": mac_bytes(pod.mac),
               "gateway_mac": mac_bytes(pod.gateway_mac)} | changed  # fmt: skip
        for family, address in pod.addresses.items():
            self.datapath.map("endpoints").update({"family": family, "address": packed(address)}, row)
        self.datapath.map("endpoints").update(
            {"family": 0, "address": _link(changed.get("ifindex", self.links.get(pod.name, 0)))}, row
        )

    def host(self, *, policy: int = 0, enforced: Sequence[int] = (), audit: int = 0) -> None:
        """This host as an endpoint with a policy; the settings have to say that it has one."""
        row = {"identity": 1, "policy": policy, "audit": audit, "flags": READY + sum(ENFORCED[i] for i in enforced)}
        self.datapath.map("endpoints").update({"family": 0, "address": _link(0)}, row)

    def forget(self, pod: Pod) -> None:
        for family, address in pod.addresses.items():
            self.datapath.map("endpoints").delete({"family": family, "address": packed(address)})
        self.datapath.map("endpoints").delete({"family": 0, "address": _link(self.links.get(pod.name, 0))})

    def ipcache(self, address: str, identity: int, flags: int = 0, tunnel: str = "") -> None:
        family = actors.family_of(address)
        key = {"length": 32 + (32 if family == 4 else 128), "family": family, "address": packed(address)}
        row = {"identity": identity, "flags": flags, "tunnel_family": 4 if tunnel else 0, "tunnel": packed(tunnel or "0.0.0.0")}
        self.datapath.map("ipcache").update(key, row)

    def range(self, family: int, network: str, node: actors.NodeActor) -> None:
        key = {"length": 32 + prefix_length(network), "family": family, "address": packed(str(ip_network(network).network_address))}
        row = {"flags": 8 * node.local, "tunnel_family": 0 if node.local else 4, "tunnel": packed(node.underlay)}
        self.datapath.map("pod_ranges").update(key, row)

    def table(self, rules: Sequence[Rule]) -> int:
        self._tables += 1
        for rule in rules:
            length, port = 32, 0
            if rule.protocol:
                length, port = (48, 0) if rule.port is None else (64, rule.port)
            key = {"length": length, "table": self._tables, "protocol": rule.protocol, "port": port}
            above, precedence, number = rule.above
            self.datapath.map("verdicts").update(
                key,
                {
                    "decision": rule.decision, "precedence": rule.precedence, "rule": rule.number,
                    "above": above, "above_precedence": precedence, "above_rule": number,
                },
            )  # fmt: skip
        return self._tables

    def policy(self, number: int, ingress: Side, egress: Side, *, complete: bool = True) -> None:
        sides = (ingress, egress)
        for direction, side in enumerate(sides):
            for identity, rules in (side.peers or {}).items():
                row = {"table": self.table(rules), "number": identity}
                self.datapath.map("peers").update({"policy": number, "direction": direction, "identity": identity}, row)
            for scope, networks in enumerate((side.networks, side.outside)):
                for network, rules in (networks or {}).items():
                    family = ip_network(network).version
                    key = {"length": 64 + prefix_length(network), "policy": number, "direction": direction, "scope": scope,
                           "family": family, "address": packed(str(ip_network(network).network_address))}  # fmt: skip
                    self.datapath.map("cidrs").update(key, {"table": self.table(rules), "number": 1})
        last: dict[str, Any] = {"table": tuple(self.table(side.everybody) for side in sides), "complete": int(complete),
               "closes": 3, "cidrs": tuple(len(side.networks or {}) + len(side.outside or {}) for side in sides)}  # fmt: skip
        self.datapath.map("policies").update(number, last)

    # -- generations ---------------------------------------------------------------------------------------------------

    def raise_slot(self, slot: int) -> None:
        generation = self.datapath.map("generation")
        generation.update(slot, generation.lookup(slot) + 1)

    # -- reading -------------------------------------------------------------------------------------------------------

    def counters(self, *, audited: bool = False) -> dict[tuple[int, int], int]:
        """(hook, reason) -> packets, those that are not zero. `audited`: what is counted besides for policies in audit mode."""
        found = {}
        for key, raw in self.datapath.map("counters").items_raw().items():
            packets = sum(struct.unpack_from("=Q", raw, offset)[0] for offset in range(0, len(raw), 16))
            if packets:
                index = int.from_bytes(key, "little")
                hook, reason = divmod(index, 256)
                if (reason == self._audited) == audited:
                    found[hook, reason] = packets
        return found

    def audited(self, hook: str) -> int:
        """What is counted at one hook for policies in audit mode: one row, where `counters` reads all."""
        found = self.datapath.map("counters").lookup(self.hooks[hook] * 256 + self._audited)
        return sum(each["packets"] for each in found)

    def events(self) -> list[dict[str, Any]]:
        """What has come since the last call."""
        described = self.datapath.map("events")
        if self._ring is None:
            self._ring = Ring(described.fd, described.max_entries)
        return [described.value.decode(record) for record in self._ring.read()]

    def _forget_events(self) -> None:
        """All of them: one look has an end, and whoever used the tables before may have left more."""
        while self.events():
            pass

    def reason(self, name: str) -> int:
        return self.drops[f"PILUS_DROP_{name}"]

    # -- flows ---------------------------------------------------------------------------------------------------------

    def flow_key(self, zone: str, source: str, destination: str, protocol: int, ports: tuple[int, int]) -> dict[str, Any]:
        return {"zone": self.datapath.enum("pilus_zone")[f"PILUS_ZONE_{zone}"], "family": actors.family_of(source),
                "protocol": protocol, "source": packed(source), "destination": packed(destination),
                "source_port": ports[0], "destination_port": ports[1]}  # fmt: skip

    def flow(self, zone: str, source: str, destination: str, protocol: int, ports: tuple[int, int]) -> tuple[str, dict[str, Any]]:
        """(the table that holds it, the entry); ("", {}) if there is none."""
        key = self.flow_key(zone, source, destination, protocol, ports)
        for table in ("flows", "embryonic"):
            found = self.datapath.map(table).lookup(key)
            if found is not None:
                return table, found
        return "", {}

    def change_flow(self, zone: str, source: str, destination: str, protocol: int, ports: tuple[int, int], **fields: Any) -> None:
        table, held = self.flow(zone, source, destination, protocol, ports)
        assert table, "no such flow"
        self.datapath.map(table).update(self.flow_key(zone, source, destination, protocol, ports), held | fields)

    @staticmethod
    def seconds(ago: int = 0) -> int:
        """The coarse clock of the flow table, which wraps: a machine may be younger than a time-out."""
        return (int(time.clock_gettime(time.CLOCK_MONOTONIC)) - ago) & 0xFFFFFFFF
