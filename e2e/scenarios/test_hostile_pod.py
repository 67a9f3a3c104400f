"""A pod that owns its network namespace sends whatever bytes it likes. Nobody else notices, and the node says why not.

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
import yaml
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from scapy.utils6 import in6_mactoifaceid

from pilus_lab import Lab, wait_for
from pilus_lab.probe import Capture, Probe, Prober, drops, transmit, within

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

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


def _calm() -> None:
    """An hour until a pod asks again who its gateway is: nothing is to be counted but what these scenarios send."""
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/neigh/eth0/base_reachable_time_ms").write_text("3600000")


def _deaf() -> list[socket.socket]:
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
        found = wait_for(f"the endpoint of {name}", lambda: self.lab.get("ciliumendpoints", name, check=False), 30)
        return int(found[0]["status"]["identity"]["id"])

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


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab("hostile", nodes=2, cni="pilus") as lab, Prober(lab) as prober:
        wait_for("its service account", lambda: lab.get("serviceaccount", "default", check=False), 30)
        lab.apply("\n---\n".join(yaml.safe_dump(manifest(name, *given)) for name, given in PODS.items()))
        lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=80s")
        addresses = {name: by_family(held["ip"] for held in lab.get("pod", name)[0]["status"]["podIPs"]) for name in PODS}
        for node in lab.get("ciliumnodes"):
            index = node["metadata"]["name"].removeprefix("n")
            for kind, name in (("InternalIP", f"node{index}"), ("CiliumInternalIP", f"router{index}")):
                addresses[name] = by_family(one["ip"] for one in node["spec"]["addresses"] if one["type"] == kind)
        made = World(lab, prober, addresses, {})
        for name in PODS:
            within(made.namespace(name), _calm)
            made.captures[name] = Capture(made.namespace(name))
            made.gateway_macs[name] = gateway_mac(made, name)
        for name in VICTIMS:
            made.sockets += within(made.namespace(name), _deaf)
        for victim in VICTIMS:
            wait_for(f"silence at {victim}", lambda name=victim: made.seen(name) == [], 30)
        yield made
        for held in (*made.captures.values(), *made.sockets):
            held.__exit__(None, None, None)


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


# -- in another's name ---------------------------------------------------------------------------------------------------

FORGED = {  # name: by family, a name of the world's or an address
    "a pod of this node": {4: "client", 6: "client"},
    "a pod of the other node": {4: "server2", 6: "server2"},
    "this node": {4: "node1", 6: "node1"},
    "the other node": {4: "node2", 6: "node2"},
    "the gateway": {4: "router1", 6: "router1"},
    "the other node's router": {4: "router2", 6: "router2"},
    "nobody, in this node's range": {4: "10.44.0.250", 6: "fd00:44::250"},
    "outside": {4: "198.51.100.7", 6: "2001:db8::7"},
    "this machine itself": {4: "127.0.0.1", 6: "::1"},
    "no address": {4: "0.0.0.0", 6: "::"},
    "everybody": {4: "224.0.0.1", 6: "ff02::1"},
    "its own, of the other family": {4: "169.254.7.7", 6: "::ffff:10.44.0.2"},
}


@FAMILIES
@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_source_address(world: World, family: int, forged: str) -> None:
    source = FORGED[forged][family]
    targets = (*VICTIMS, "node1", "router1", "router2", "node2")
    world.refused(SOURCE, *(world.frame(family, to, source) / probe for to in targets for probe in probes_of(family)))


def test_a_link_local_source_address(world: World) -> None:
    """The pod's own, but nobody's on its node: it reaches nothing but its link, where nobody is."""
    own = f"fe80::{in6_mactoifaceid(world.mac)}"
    world.refused(SOURCE, *(world.frame(6, to, own) / probe for to in (*VICTIMS, "ff02::1") for probe in probes_of(6)))


@FAMILIES
def test_forged_mac_addresses(world: World, family: int) -> None:
    frames = [world.frame(family, to) / probe for to in VICTIMS for probe in probes_of(family)]
    for mac in (world.captures["near"].mac, world.gateway_mac, "02:66:66:66:66:66"):
        world.refused(SOURCE_MAC, *(Ether(src=mac, dst=frame.dst) / frame.payload for frame in frames))
    for mac in (world.captures["near"].mac, "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"):
        world.refused(DESTINATION_MAC, *(Ether(src=frame.src, dst=mac) / frame.payload for frame in frames))


@FAMILIES
def test_to_everybody(world: World, family: int) -> None:
    """A pod is alone on its link; and a host's loopback is not reached from outside of it."""
    everybody = ("255.255.255.255", "224.0.0.1", "127.0.0.1") if family == 4 else ("ff02::1", "ff05::1", "::1")
    world.refused(UNROUTABLE, *(world.frame(family, to) / probe for to in everybody for probe in probes_of(family)))


# -- neighbours ----------------------------------------------------------------------------------------------------------


def test_arp_in_anothers_name(world: World) -> None:
    """CVE-2020-10749. Victims hear no question, and the attacker gets no answer either."""
    own, near, far = (world.addresses[name][4] for name in ("attacker", *VICTIMS))
    router = world.addresses["router1"][4]

    def arp(operation: int, psrc: str, pdst: str, hwsrc: str = "", to: str = "ff:ff:ff:ff:ff:ff") -> Packet:
        return Ether(src=world.mac, dst=to) / ARP(op=operation, hwsrc=hwsrc or world.mac, psrc=psrc, pdst=pdst)

    near_mac = world.captures["near"].mac
    world.captures["attacker"].frames()
    world.refused(
        SOURCE, arp(1, near, router), arp(1, far, router), arp(1, router, near), arp(1, "0.0.0.0", near), arp(1, near, near)
    )
    world.refused(SOURCE, arp(2, router, near), arp(2, router, near, to=near_mac), arp(2, near, router), arp(2, far, near))
    world.refused(SOURCE_MAC, arp(1, own, router, near_mac), arp(2, own, near, near_mac))
    world.refused(BAD_ARP, arp(1, own, near), arp(1, own, far), arp(2, own, near), arp(2, own, near, to=near_mac), arp(1, own, own))
    world.refused(BAD_ARP, bytes(arp(1, own, router))[:30])
    assert [frame for frame in world.captures["attacker"].frames() if ARP in Ether(frame)] == []


def test_neighbour_discovery_in_anothers_name(world: World) -> None:
    own, near, router = (world.addresses[name][6] for name in ("attacker", "near", "router1"))

    def message(layers: Packet, source: str, to: str = "ff02::1", mac: str = "33:33:00:00:00:01") -> Packet:
        return Ether(src=world.mac, dst=mac) / IPv6(src=source, dst=to, hlim=255) / layers

    def advertisement(target: str) -> Packet:
        return ICMPv6ND_NA(tgt=target, R=1, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=world.mac)

    def solicitation(target: str) -> Packet:
        return ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=world.mac)

    near_mac = world.captures["near"].mac
    world.captures["attacker"].frames()
    world.refused(
        FORBIDDEN,
        message(advertisement(near), near), message(advertisement(router), router),
        message(advertisement(router), router, near, near_mac), message(advertisement(router), "fe80::1"),
    )  # fmt: skip
    world.refused(FORBIDDEN, message(advertisement(near), own), message(advertisement(router), own, near, near_mac))
    world.refused(FORBIDDEN, message(solicitation(near), own), message(solicitation(near), own, near, near_mac))
    world.refused(SOURCE, message(solicitation(router), near), message(solicitation(router), world.addresses["far"][6]))
    # Whoever asks from no address whether an address is free hears nothing, and so learns nothing.
    world.refused(HOUSEKEEPING, message(ICMPv6ND_NS(tgt=near), "::"), message(ICMPv6ND_NS(tgt=router), "::"))
    assert [frame for frame in world.captures["attacker"].frames() if ICMPv6ND_NA in Ether(frame)] == []


def test_router_advertisements_and_redirects(world: World) -> None:
    own, near, far, router = (world.addresses[name][6] for name in ("attacker", "near", "far", "router1"))
    advertisement = ICMPv6ND_RA() / ICMPv6NDOptSrcLLAddr(lladdr=world.mac) / ICMPv6NDOptPrefixInfo(prefix="fd66::", prefixlen=64)
    redirect = ICMPv6ND_Redirect(tgt=own, dst=far) / ICMPv6NDOptDstLLAddr(lladdr=world.mac)
    links = [
        ("ff02::1", "33:33:00:00:00:01"),
        (near, world.captures["near"].mac),
        (near, world.gateway_mac),
        (far, world.gateway_mac),
    ]
    for layers in (advertisement, redirect):
        for source in (own, router, "fe80::1"):
            world.refused(
                FORBIDDEN,
                *(Ether(src=world.mac, dst=mac) / IPv6(src=source, dst=to, hlim=255) / layers for to, mac in links),
                # In a fragment (RFC 6980), behind options, and from afar.
                world.frame(6, "near", source, hlim=255) / IPv6ExtHdrFragment(id=1) / layers,
                world.frame(6, "near", source, hlim=255) / IPv6ExtHdrDestOpt() / layers,
                world.frame(6, "near", source, hlim=64) / layers,
            )
    icmp = ICMP(type=5, code=1, gw=world.addresses["attacker"][4])
    quoted = IP(src=world.addresses["near"][4], dst=world.addresses["far"][4]) / UDP(sport=1, dport=2)
    world.refused(SOURCE, world.frame(4, "near", "router1") / icmp / quoted)


# -- bytes that are not what they should be ------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("tag", [Dot1Q, Dot1AD], ids=["802.1Q", "802.1ad"])
def test_a_vlan_tag(world: World, family: int, tag: type[Packet]) -> None:
    plain = [world.frame(family, to) / probe for to in VICTIMS for probe in probes_of(family)]
    world.refused(
        "VLAN traffic disallowed by VLAN filter",
        *(Ether(src=frame.src, dst=frame.dst) / tag(vlan=7) / frame.payload for frame in plain),
        *(Ether(src=frame.src, dst=frame.dst) / tag(vlan=7) / Dot1Q(vlan=8) / frame.payload for frame in plain),
    )


def test_other_protocols_of_the_link(world: World) -> None:
    frames = [Ether(src=world.mac, dst=to, type=kind) / (MARK * 3) for to in ("ff:ff:ff:ff:ff:ff", world.captures["near"].mac)
              for kind in (0x88CC, 0x8847, 0x8864)]  # fmt: skip
    world.refused("Unsupported L2 protocol", *frames)


def test_ip_options(world: World) -> None:
    frames = (world.frame(4, to, options=[IPOption_RR()]) / probe for to in VICTIMS for probe in probes_of(4))
    world.refused("IP options are not accepted", *frames)


def test_a_routing_header(world: World) -> None:
    """The first hop is the attacker's choice, and so is the second."""
    own = world.addresses["client"][6]
    world.refused(
        "Invalid IPv6 extension header",
        *(world.frame(6, to) / IPv6ExtHdrRouting(addresses=[own]) / probe for to in VICTIMS for probe in probes_of(6)),
        *(world.frame(6, to) / IPv6ExtHdrRouting(type=4, segleft=0) / probe for to in VICTIMS for probe in probes_of(6)),
        *(world.frame(6, to) / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / probe for to in VICTIMS for probe in probes_of(6)),
    )


@FAMILIES
def test_truncated_headers(world: World, family: int) -> None:
    frames = []
    for to in VICTIMS:
        for layer, most in (
            (TCP(sport=6666, dport=8080, flags="S"), 19),
            (UDP(sport=6666, dport=NOTICED), 7),
            (probes_of(family)[2], 7),
        ):
            for length in (0, 4, most):
                protocol = {TCP: 6, UDP: 17}.get(type(layer), 1 if family == 4 else 58)
                fields = {"proto": protocol} if family == 4 else {"nh": protocol}
                frames.append(world.frame(family, to, **fields) / Raw(bytes(layer)[:length]))
    world.refused("CT: Truncated or invalid header", *frames)


@FAMILIES
def test_a_header_behind_its_packet(world: World, family: int) -> None:
    """The frame goes on where the packet has ended: what is there is no header."""
    fields = {"proto": 6, "len": 24} if family == 4 else {"nh": 6, "plen": 4}
    frames = [world.frame(family, to, **fields) / Raw(bytes(probes_of(family)[0])) for to in VICTIMS]
    world.send(*frames)
    for victim in VICTIMS:
        assert world.seen(victim) == [], victim
    world.refused("CT: Truncated or invalid header", *frames)


@FAMILIES
def test_a_packet_that_may_go_no_further(world: World, family: int) -> None:
    for ttl in (0, 1):
        fields = {"ttl": ttl} if family == 4 else {"hlim": ttl}
        world.refused("TTL exceeded", *(world.frame(family, to, **fields) / probe for to in VICTIMS for probe in probes_of(family)))


@FAMILIES
def test_fragments_that_belong_to_nothing(world: World, family: int) -> None:
    """No first one was there, or one in which the ports are missing: what the rest is can't be said."""

    def fragment(to: str, offset: int, more: bool, payload: bytes, number: int = 66, **of: str) -> Packet:
        if family == 4:
            return world.frame(4, to, proto=17, id=number, flags="MF" if more else 0, frag=offset, **of) / Raw(payload)
        return world.frame(6, to, **of) / IPv6ExtHdrFragment(nh=17, offset=offset, m=int(more), id=number) / Raw(payload)

    world.refused(
        "First logical datagram fragment not found",
        *(fragment(to, offset, more, MARK + bytes(1)) for to in VICTIMS for offset in (1, 100) for more in (True, False)),
    )
    world.refused("IP fragmentation not supported", *(fragment(to, 0, True, bytes(length)) for to in VICTIMS for length in (0, 4)))
    # What another pod's datagram has begun is not continued from here; and neither is what the attacker began in its name.
    begun = bytes(UDP(sport=6666, dport=NOTICED, len=8 + 24) / MARK)[:24]
    world.captures["far"].frames()
    world.send(fragment("far", 0, True, begun, 67, pod="client"), pod="client")
    wait_for("the datagram's begin at far", lambda: any(begun[8:] in frame for frame in world.captures["far"].frames()), 10)
    world.refused("First logical datagram fragment not found", fragment("far", 3, False, MARK, 67, source="client"))
    world.refused(SOURCE, *(fragment("far", offset, not offset, begun, 68, source="client") for offset in (0, 3)))


# -- the tunnel ----------------------------------------------------------------------------------------------------------


def tunnelled(world: World, family: int) -> list[Packet]:
    """CVE-2019-13119: what a node would believe of another node, and the numbers that open everything."""
    frames = []
    for victim, other, node in (("near", "server2", "router2"), ("far", "client", "router1")):
        numbers = [(other, world.identity("near")), (other, 1), (node, 6), (node, 1), ("attacker", 6), ("198.51.100.7", 2)]
        if family == 6:
            numbers[-1] = ("2001:db8::7", 2)
        for source, number in numbers:
            inner = world.frame(family, victim, source)
            inner.src, inner.dst = "02:00:00:00:0e:01", "02:00:00:00:0e:02"
            frames += [VXLAN(vni=number, flags=8) / inner / probe for probe in probes_of(family)]
    return frames


@FAMILIES
@pytest.mark.parametrize("inner", [4, 6], ids=["IPv4 inside", "IPv6 inside"])
@pytest.mark.parametrize("to", ["node1", "router1", "node2", "router2", "the machine beside"])
def test_a_tunnel_packet_of_its_own(world: World, family: int, inner: int, to: str) -> None:
    """To another node it would come from the attacker's node's own address, as all does that leaves: and be believed."""
    address = {4: "172.30.0.1", 6: "fd00:30::1"}[family] if to == "the machine beside" else to
    frames = [world.frame(family, address) / UDP(sport=6666, dport=8472) / one for one in tunnelled(world, inner)]
    world.refused(TUNNEL_PORT, *frames)


@FAMILIES
@pytest.mark.parametrize("to", ["node1", "node2", "router2"])
def test_a_tunnel_packet_in_disguise(world: World, family: int, to: str) -> None:
    """In fragments, and behind options."""
    datagram = bytes(UDP(sport=6666, dport=8472) / tunnelled(world, family)[0])
    if family == 4:
        whole = world.frame(4, to, proto=17, id=99)
        parts = [(0, datagram[:24]), (3, datagram[24:])]
        frames = [whole.copy() for _ in parts]
        for frame, (offset, data) in zip(frames, parts, strict=True):
            frame[IP].frag, frame[IP].flags = offset, "" if offset else "MF"
            frame.add_payload(Raw(data))
        world.refused(TUNNEL_PORT, *frames)
        return
    pieces = [IPv6ExtHdrFragment(nh=17, offset=offset, m=int(not offset), id=99) / Raw(data)
              for offset, data in ((0, datagram[:24]), (3, datagram[24:]))]  # fmt: skip
    hidden = [IPv6ExtHdrDestOpt(nh=17) / Raw(datagram), IPv6ExtHdrFragment(nh=17, id=98) / Raw(datagram)]
    world.refused(TUNNEL_PORT, *(world.frame(6, to) / one for one in (*pieces, *hidden)))


# -- another's connection ------------------------------------------------------------------------------------------------


@dataclass
class Talk:
    """A connection between two pods, and every frame of it that each side got."""

    world: World
    server: str
    family: int
    connection: socket.socket

    def ask(self) -> bytes:
        """An answer to one more request on the same connection."""
        self.connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: it\r\n\r\n")
        found = b""
        while self.server.encode() not in found:
            more = self.connection.recv(4096)
            assert more, "the connection ended"
            found += more
        return found

    def frames(self) -> dict[str, list[Packet]]:
        return {pod: [Ether(one) for one in self.world.captures[pod].frames()] for pod in ("client", self.server)}


@pytest.fixture(params=["server1", "server2"], ids=["same node", "other node"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def talk(world: World, server: str, family: int) -> Iterator[Talk]:
    address = world.addresses[server][family]
    connection = within(world.namespace("client"), lambda: socket.create_connection((address, 8080), 10))
    with connection:
        yield Talk(world, server, family, connection)


@FAMILIES
def test_anothers_connection_is_not_ridden_on(world: World, talk: Talk) -> None:
    """Its very frames, both directions', byte for byte and with the attacker's own MACs; a reset of the right sequence number."""
    talk.frames()
    talk.ask()
    taken = talk.frames()
    frames: list[Packet] = []
    for receiver, sender in ((talk.server, "client"), ("client", talk.server)):
        ip = IP if talk.family == 4 else IPv6
        found = [one for one in taken[receiver] if TCP in one and one[ip].src == world.addresses[sender][talk.family]]
        assert found
        last = found[-1].copy()
        last[TCP].flags = "R"
        last[TCP].seq += len(last[TCP].payload)
        for layer in (last[TCP], last[ip]):
            if "chksum" in layer.fields:
                del layer.chksum
        for one in (*found, Ether(bytes(last))):
            frames += [one, Ether(src=world.mac, dst=world.gateway_mac) / one.payload]
    world.refused(SOURCE, *frames)
    for pod, seen in talk.frames().items():
        assert [one for one in seen if TCP in one and one[TCP].sport != 8081] == [], pod
    talk.ask()


@FAMILIES
@pytest.mark.parametrize(
    ("teller", "server"),
    [
        ("attacker", "server1"),
        ("attacker", "server2"),
        ("far", "server2"),
    ],
    indirect=["server"],
    ids=["all on one node", "beside the client", "beside the server"],
)
def test_news_of_anothers_connection(world: World, talk: Talk, teller: str) -> None:
    """An ICMP error tells of a connection. From a pod that has no part in it, it is subject to policy as anything else is."""
    talk.frames()
    talk.ask()
    sent = next(one for one in talk.frames()[talk.server] if TCP in one)
    error = ICMP(type=3, code=1) if talk.family == 4 else ICMPv6DestUnreach(code=3)
    with policy(world, "client", "ingress: [{fromEndpoints: [{matchLabels: {app: server}}]}]"):
        world.captures["client"].frames()
        before = drops(world.lab, "n1").get("Policy denied", 0)
        frame = world.frame(talk.family, "client", pod=teller)
        world.send(frame / error / Raw(bytes(sent.payload)[:60]), frame / probes_of(talk.family)[1], pod=teller)
        wait_for("the refusal of a plain datagram", lambda: drops(world.lab, "n1").get("Policy denied", 0) > before, 10)
        talk.ask()
        assert [one for one in talk.frames()["client"] if type(error) in one] == []
        assert drops(world.lab, "n1")["Policy denied"] == before + 2


# -- the kubelet's way ---------------------------------------------------------------------------------------------------


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


@FAMILIES
def test_the_kubelets_way_in_is_the_kubelets_alone(world: World, family: int) -> None:
    """A closed pod lets its node in, because the node's probes ask it how it is. Nobody else passes for the node."""
    capture = world.captures["probed"]
    with policy(world, "probed", "ingress: [{}]"):
        capture.frames()
        asked: list[Packet] = []

        def probed() -> bool:
            asked.extend(one for one in map(Ether, capture.frames()) if TCP in one and one[TCP].dport == 8080)
            return bool(asked)

        wait_for("a probe of the kubelet", probed, 20)
        syn = TCP(sport=6666, dport=8080, flags="S", seq=1)
        world.refused("Policy denied", world.frame(family, "probed") / syn)
        forged = [world.frame(family, "probed", name) / syn for name in ("node1", "router1", "node2", "router2")]
        replayed = [Ether(src=world.mac, dst=world.gateway_mac) / one.payload for one in asked]
        # And the answer to a probe, in the closed pod's name.
        answered = world.frame(family, "router1", "probed") / TCP(sport=8080, dport=asked[-1][TCP].sport, flags="R", seq=1)
        world.refused(SOURCE, *forged, *replayed, answered)
        seen = [Ether(frame) for frame in capture.frames()]
        assert [one for one in seen if TCP in one and one[TCP].sport == 6666] == []
        assert is_ready(world.lab, "probed")


# -- afterwards ----------------------------------------------------------------------------------------------------------


def test_everybody_talks_as_before(world: World) -> None:
    world.everything_works()
    assert is_ready(world.lab, "probed")
    for node in ("n1", "n2"):
        running = world.lab.node(node).components()
        assert running["agent"]["status"] is None
        assert running["observer"]["status"] is None
    restarts = [held["restartCount"] for pod in world.lab.get("pods") for held in pod["status"]["containerStatuses"]]
    assert set(restarts) == {0}


# -- labels --------------------------------------------------------------------------------------------------------------

CLUSTER = "io.cilium.k8s.policy.cluster"
ACCOUNT = "io.cilium.k8s.policy.serviceaccount"
TEAM = "io.cilium.k8s.namespace.labels.team"
FORGERIES = {
    CLUSTER: "other", ACCOUNT: "admin", TEAM: "trusted", "io.kubernetes.pod.namespace": "trusted", "io.cilium.k8s": "x",
    "reserved.host": "", "reserved": "host", "k8s.io.cilium.k8s.policy.cluster": "other",
}  # fmt: skip
HOSTILE_LABELS = (
    FORGERIES | {f"many-{n}": "v" * 63 for n in range(150)} | {"p" * 63: "", f"{'d' * 60}.example/{'n' * 63}": "v" * 63}
)
ANNOTATIONS = {
    "pilus.io/network-namespace": "/proc/1/ns/net",
    "cilium.io/identity": "1",
    "io.cilium.network.ipv4-pod-ip": "10.44.0.1",
    "ends": "\x1b]0;owned\x07\x1b[2J\x00".replace("\x00", "") + "\n- {not: yaml",
    "much": "x" * 90_000,
}


@pytest.fixture(scope="module")
def labelled(world: World) -> Iterator[World]:
    lab = world.lab
    lab.kubectl("create", "namespace", "trusted")
    lab.kubectl("label", "namespace", "trusted", "team=trusted")
    lab.kubectl("create", "serviceaccount", "admin", "--namespace=trusted")
    wait_for("its service account", lambda: lab.get("serviceaccount", "default", "--namespace=trusted", check=False), 30)
    friend = manifest("friend", "n2", {"app": "friend"}, namespace="trusted")
    friend["spec"]["serviceAccountName"] = "admin"
    hostile = manifest("hostile", "n2", HOSTILE_LABELS, annotations=ANNOTATIONS)
    lab.apply("\n---\n".join(json.dumps(one) for one in (friend, hostile)))
    lab.kubectl("wait", "--for=condition=Ready", "pod/hostile", "--timeout=60s")
    lab.kubectl("wait", "--namespace=trusted", "--for=condition=Ready", "pod/friend", "--timeout=60s")
    yield world
    lab.kubectl("delete", "pod", "hostile", "--wait=true")
    lab.kubectl("delete", "namespace", "trusted", "--wait=true")


def test_the_api_server_refuses_labels_with_control_characters(world: World) -> None:
    bad = manifest("bad", "n2", {"app": "a\x1b[2Jb"})
    done = world.lab.kubectl("apply", "--filename=-", stdin=json.dumps(bad), check=False)
    assert done.returncode
    assert "valid label" in done.stderr


def test_derived_labels_are_not_taken_from_a_pod(labelled: World) -> None:
    number = labelled.identity("hostile")
    assert number >= 256
    held = labelled.lab.get("ciliumidentities", str(number))[0]["security-labels"]
    assert held[f"k8s:{CLUSTER}"] == "default"
    assert held[f"k8s:{ACCOUNT}"] == "default"
    assert held["k8s:io.kubernetes.pod.namespace"] == "default"
    assert f"k8s:{TEAM}" not in held
    assert "k8s:io.cilium.k8s" not in held
    assert [label for label in held if not label.startswith("k8s:")] == []
    assert held["k8s:many-149"] == "v" * 63
    [endpoint] = [one for one in pilus(labelled.lab, "n2", "endpoint") if one["name"] == "hostile"]
    assert endpoint["identity"] == number
    assert sorted(endpoint["labels"]) == sorted(f"{key}={value}" if value else key for key, value in held.items())


SELECTED = {  # a selector: the pods that it lets in
    "a namespace's label": (f"{{matchLabels: {{'k8s:{TEAM}': trusted}}}}", {"friend"}),
    "a namespace": ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': trusted}}", {"friend"}),
    "a service account": (f"{{matchLabels: {{'k8s:{ACCOUNT}': admin}}}}", {"friend"}),
    "another cluster": (f"{{matchLabels: {{'k8s:{CLUSTER}': other}}}}", set()),
    "another cluster, from any source": (f"{{matchLabels: {{'{CLUSTER}': other}}}}", set()),
    "a namespace's label that exists": (f"{{matchExpressions: [{{key: 'k8s:{TEAM}', operator: Exists}}]}}", {"friend"}),
    "the host": ("{matchLabels: {'reserved:host': ''}}", set()),
    "the host, in other words": ("{matchLabels: {reserved.host: ''}}", set()),
    "a label that it may have": ("{matchLabels: {'k8s:many-7': " + "v" * 63 + "}}", {"hostile"}),
}


@pytest.mark.parametrize("selector", SELECTED)
def test_a_policy_does_not_believe_what_a_pod_says_of_itself(labelled: World, selector: str) -> None:
    text, expected = SELECTED[selector]
    with policy(labelled, "victim", f"ingress: [{{fromEndpoints: [{text}]}}]"):
        probes = {
            Probe(source, address, 8080): source.partition("/")[2]
            for source in ("trusted/friend", "default/hostile")
            for victim in VICTIMS
            for address in labelled.addresses[victim].values()
        }
        found = labelled.prober.table(probes, limit=2)
    assert {pod for probe, pod in probes.items() if found[probe]} == expected
    for pod in expected:
        assert all(found[probe] for probe, name in probes.items() if name == pod)


def test_labels_of_a_running_pod_gain_it_nothing(labelled: World) -> None:
    """CVE-2023-39347."""
    before = labelled.identity("hostile")
    labelled.lab.kubectl("label", "pod", "hostile", "--overwrite", f"{ACCOUNT}=root", "io.cilium.k8s.policy.new=x", f"{TEAM}=other")
    labelled.lab.kubectl(
        "label", "pod", "hostile", "--overwrite", "seen=yes"
    )  # makes another identity: the others were seen by then
    wait_for("the other identity", lambda: labelled.identity("hostile") != before, 30)
    held = labelled.lab.get("ciliumidentities", str(labelled.identity("hostile")))[0]["security-labels"]
    old = labelled.lab.get("ciliumidentities", str(before))[0]["security-labels"]
    assert held == old | {"k8s:seen": "yes"}


def test_nothing_was_harmed_by_labels_and_annotations(labelled: World) -> None:
    for node in ("n1", "n2"):
        running = labelled.lab.node(node).components()
        assert running["agent"]["status"] is None
        assert running["observer"]["status"] is None
    assert labelled.lab.control.components()["operator"]["status"] is None
    labelled.everything_works()
