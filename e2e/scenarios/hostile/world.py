"""A pod that owns its network namespace sends whatever bytes it likes: the world that it does that in.

Frames are sent as they are from the attacker's own link. Its victims are silent pods: nothing arrives at them by itself, so that
"they saw nothing" is meant literally. After each attack a harmless datagram is sent, which must arrive: the captures work, and
what was sent before has arrived by then or never will.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from pilus_lab import Lab, wait_for
from pilus_lab.probe import Capture, Probe, Prober, drops, transmit

PODS = {  # name: node, labels, whether the kubelet asks how it is
    "attacker": ("n1", {"app": "attacker"}, False),
    "near": ("n1", {"app": "victim"}, False),
    "far": ("n2", {"app": "victim"}, False),
    "probed": ("n1", {"app": "probed"}, True),
    "client": ("n1", {"app": "client"}, False),
    "server1": ("n1", {"app": "server"}, False),
    "server2": ("n2", {"app": "server"}, False),
}
VICTIMS = ("near", "far")
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
NOTICED = 7777  # a port of the victims' where datagrams arrive and are never answered
MARK = b"sent by the hostile pod"

SOURCE = "Invalid source ip"
SOURCE_MAC = "Invalid source mac"
DESTINATION_MAC = "Invalid destination mac"
FORBIDDEN = "Forbidden ICMPv6 message"
HOUSEKEEPING = "IPv6 housekeeping that needs no answer"
BAD_ARP = "ARP for what is not the gateway, or in another's name"
TUNNEL_PORT = "To a node's tunnel port, past the tunnel"
UNROUTABLE = "Stale or unroutable IP"


def manifest(name: str, node: str, labels: dict[str, str], probed: bool = False, **metadata: Any) -> dict[str, Any]:
    probe = {"readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels, **metadata},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "lab.local/agnhost:1", "imagePullPolicy": "Never",
                "args": ["netexec", "--http-port=8080", "--udp-port=8081"], **(probe if probed else {}),
            }],
        },
    }  # fmt: skip


def calm() -> None:
    """An hour until a pod asks again who its gateway is: nothing is to be counted but what these scenarios send."""
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/neigh/eth0/base_reachable_time_ms").write_text("3600000")


def deaf() -> list[socket.socket]:
    """Sockets that datagrams to the victims' port arrive at, so that nothing answers that the port is closed."""
    made = []
    for family in (socket.AF_INET, socket.AF_INET6):
        one = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(("", NOTICED))
        made.append(one)
    return made


@dataclass
class World:
    lab: Lab
    prober: Prober
    addresses: dict[str, dict[int, str]]  # pods, `node1`, `router1`, ...: by family
    captures: dict[str, Capture]
    gateway_macs: dict[str, str] = field(default_factory=dict)
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def mac(self) -> str:
        """The attacker's."""
        return self.captures["attacker"].mac

    @property
    def gateway_mac(self) -> str:
        return self.gateway_macs["attacker"]

    def namespace(self, name: str) -> int:
        return self.prober.namespace_of(f"default/{name}")

    def identity(self, name: str) -> int:
        """As the pod's CiliumEndpoint says, which is written some time after the pod has begun."""
        return wait_for(f"the identity of {name}", lambda: self.lab.identity_of(name), 30)

    def send(self, *frames: Packet | bytes, pod: str = "attacker") -> None:
        transmit(self.namespace(pod), [bytes(frame) for frame in frames])

    def frame(self, family: int, to: str, source: str = "", pod: str = "attacker", **fields: Any) -> Packet:
        """Ethernet and IP as this pod may send them, but for the source; `to` and `source` are names or addresses."""
        of = self.addresses
        source, to = (of[name][family] if name in of else name for name in (source or pod, to))
        layer = IP(src=source, dst=to, **fields) if family == 4 else IPv6(src=source, dst=to, **fields)
        return Ether(src=self.captures[pod].mac, dst=self.gateway_macs[pod]) / layer

    def seen(self, victim: str) -> list[bytes]:
        """What has arrived at a victim before a datagram that may arrive."""
        mark = os.urandom(16)
        found: list[bytes] = []

        def arrived() -> bool:
            found.extend(self.captures[victim].frames())
            return any(mark in frame for frame in found)

        self.send(self.frame(4, victim) / UDP(sport=NOTICED, dport=NOTICED) / mark)
        wait_for(f"the harmless datagram at {victim}", arrived, 10, 0.01)
        return [frame for frame in found if mark not in frame]

    def refused(self, reason: str, *frames: Packet | bytes, on: str = "n1", victims: Sequence[str] = VICTIMS) -> None:
        """All of these frames are dropped for this reason and none for another, and no victim sees anything."""
        other = {"n1": "n2", "n2": "n1"}[on]
        before = {node: drops(self.lab, node) for node in (on, other)}
        for victim in victims:
            self.captures[victim].frames()
        self.send(*frames)

        def since(node: str) -> dict[str, int]:
            grown = {why: count - before[node].get(why, 0) for why, count in drops(self.lab, node).items()}
            return {why: count for why, count in grown.items() if count and (why == reason or why != HOUSEKEEPING)}

        try:
            wait_for(f"{len(frames)} x {reason}", lambda: since(on).get(reason, 0) >= len(frames), 10, 0.02)
        finally:
            print(f"counted: on {on} {since(on)}, on {other} {since(other)}")
        for victim in victims:
            assert self.seen(victim) == [], victim
        found = since(on)
        if reason == HOUSEKEEPING:  # the pods' own is counted there too
            found[reason] = len(frames)
        assert found == {reason: len(frames)}
        assert {why: count for why, count in since(other).items() if why != HOUSEKEEPING} == {}

    def everything_works(self) -> None:
        """Connections of the attacker, to the attacker, and between others."""
        pods = ("attacker", *VICTIMS, "client", "server2")
        probes = [
            Probe(f"default/{source}", address, port, protocol)
            for source in pods
            for target in pods
            if source != target
            for address in self.addresses[target].values()
            for port, protocol in ((8080, "tcp"), (8081, "udp"))
        ]
        missing = [probe for probe, reached in self.prober.table(probes, limit=3).items() if not reached]
        assert missing == []


def by_family(addresses: Iterator[str]) -> dict[int, str]:
    return {6 if ":" in address else 4: address for address in addresses}


def gateway_mac(world: World, pod: str) -> str:
    """As every pod learns it: it asks."""
    capture = world.captures[pod]
    own, gateway = world.addresses[pod][4], world.addresses[f"router{PODS[pod][0][1:]}"][4]
    world.send(Ether(src=capture.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=capture.mac, psrc=own, pdst=gateway), pod=pod)

    def answer() -> str:
        found = [Ether(frame)[ARP] for frame in capture.frames() if ARP in Ether(frame)]
        return next((str(one.hwsrc) for one in found if one.op == 2 and one.psrc == gateway), "")

    return wait_for(f"the gateway's answer to {pod}", answer, 10)


def probes_of(family: int) -> list[Packet]:
    """What an attacker would send somebody: a connection's begin, a datagram, an echo request."""
    echo = ICMP(type=8, id=66) if family == 4 else ICMPv6EchoRequest(id=66)
    return [TCP(sport=6666, dport=8080, flags="S", seq=1), UDP(sport=6666, dport=NOTICED) / MARK, echo / MARK]


class policy:  # noqa: N801  # reads as a statement
    """A policy on the pods of one label, in force inside of the block."""

    def __init__(self, world: World, app: str, rules: str) -> None:
        self._world, self._lab = world, world.lab
        self._text = (
            "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: tested}\n"
            f"spec: {{endpointSelector: {{matchLabels: {{app: {app}}}}}, {rules}}}\n"
        )

    def __enter__(self) -> None:
        self._lab.apply(self._text)

        def enforced() -> bool:
            held = self._lab.get("ciliumclusterwidenetworkpolicies", "tested")[0]
            return str((held.get("status") or {}).get("enforced")) == "2/2"

        wait_for("the policy on both nodes", enforced, 30)

    def __exit__(self, *_: object) -> None:
        self._lab.kubectl("delete", "ciliumclusterwidenetworkpolicies", "tested", "--wait=true")

        def open_again() -> bool:
            return not any(one["ingress_enforced"] for node in ("n1", "n2") for one in pilus(self._lab, node, "endpoint"))

        wait_for("the policy gone from both nodes", open_again, 30)


def pilus(lab: Lab, node: str, noun: str) -> list[dict[str, Any]]:
    done = lab.node(node).exec([str(Path(sys.executable).with_name("pilus")), "-o", "json", noun, "list"])
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def is_ready(lab: Lab, name: str) -> bool:
    conditions = lab.get("pod", name)[0]["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
