"""CVE-2019-13119: a pod that passes for a node's tunnel."""

import pytest
from e2e.scenarios.hostile.world import (
    FAMILIES,
    TUNNEL_PORT,
    VICTIMS,
    World,
    probes_of,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from pilus_lab import wait_for
from pilus_lab.probe import drops

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


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
def test_cve_2019_13119_a_tunnel_packet_of_its_own(world: World, family: int, inner: int, to: str) -> None:
    """To another node it would come from the attacker's node's own address, as all does that leaves: and be believed."""
    address = {4: "172.30.0.1", 6: "fd00:30::1"}[family] if to == "the machine beside" else to
    frames = [world.frame(family, address) / UDP(sport=6666, dport=8472) / one for one in tunnelled(world, inner)]
    world.refused(TUNNEL_PORT, *frames)


@FAMILIES
@pytest.mark.parametrize("to", ["node1", "node2", "router2"])
def test_cve_2019_13119_a_tunnel_packet_in_disguise(world: World, family: int, to: str) -> None:
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


def test_cve_2019_13119_geneve(world: World) -> None:
    """No tunnel of ours: a pod may send to that port as to any other, and nobody takes what is in it for a packet."""
    for family in (4, 6):
        for victim in VICTIMS:
            world.captures[victim].frames()
        inner = bytes(world.frame(4, "near", "server2") / probes_of(4)[1])
        header = bytes.fromhex("00006558") + (1).to_bytes(3, "big") + b"\0"
        world.send(
            *(world.frame(family, to) / UDP(sport=6666, dport=6081) / Raw(header + inner) for to in ("node1", "node2", "router2"))
        )
        for victim in VICTIMS:
            assert world.seen(victim) == [], victim


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: tunnel}
spec: {ports: [{port: 53, protocol: UDP, targetPort: 8472}], ipFamilyPolicy: PreferDualStack}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: tunnel-NODE, labels: {kubernetes.io/service-name: tunnel}}
addressType: IPv4
ports: [{port: 8472, protocol: UDP}]
endpoints: [{addresses: [ADDRESS], conditions: {ready: true}}]
"""


@pytest.mark.parametrize("to", ["node1", "router1", "node2", "router2"])
def test_cve_2019_13119_through_a_service_of_its_own(world: World, to: str) -> None:
    """Whoever may write a Service and its EndpointSlice leads any name to any address: the packet is judged by where it goes, after
    the translation."""
    lab = world.lab
    lab.apply(SERVICE.replace("NODE", to).replace("ADDRESS", world.addresses[to][4]))
    try:
        address = lab.get("service", "tunnel")[0]["spec"]["clusterIP"]
        before = drops(lab, "n1").get(TUNNEL_PORT, 0)

        def refused() -> bool:
            lab.pod_exec("attacker", "/agnhost", "connect", "--protocol=udp", f"{address}:53", "--timeout=300ms", check=False)
            return drops(lab, "n1").get(TUNNEL_PORT, 0) > before

        wait_for("the refusal of what was translated", refused, 30)
        for victim in VICTIMS:
            assert world.seen(victim) == [], victim
    finally:
        lab.kubectl("delete", "service/tunnel", f"endpointslice/tunnel-{to}", "--wait=true")
