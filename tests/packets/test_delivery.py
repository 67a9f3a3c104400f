"""Where packets go that may: to a pod of this node, through the tunnel, to this host, back to who asked."""

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, HERE, THERE, WEB
from tests.packets.harness.frames import echo, from_pod, raw, routed, router, tcp, to_pod, tunnelled, udp
from tests.packets.harness.scenario import (
    Answered,
    Delivered,
    FromHost,
    FromPod,
    FromTunnel,
    Harness,
    Step,
    ToHost,
    Tunnelled,
    play,
)

pytestmark = pytest.mark.kernel


def _layers(family: int) -> dict[str, Packet]:
    return {"tcp": tcp(40000, 80), "udp": udp(40000, 53), "echo": echo(family)}


@pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
def test_a_pod_reaches_a_pod_of_its_node(harness: Harness, family: int, kind: str) -> None:
    """MACs are those of the receiver's link, the TTL is one less, nothing else changes."""
    frame = from_pod(CLIENT, WEB.address(family), _layers(family)[kind])
    play(harness, [Step(FromPod(CLIENT), frame, Delivered(WEB, routed(frame, to=WEB)))])


@pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
def test_a_pod_reaches_a_pod_of_another_node(harness: Harness, family: int, kind: str) -> None:
    """The sender's identity travels as the tunnel's number."""
    frame = from_pod(CLIENT, FAR.address(family), _layers(family)[kind])
    play(harness, [Step(FromPod(CLIENT), frame, Tunnelled(THERE, CLIENT.identity, routed(frame)))])


@pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
def test_a_pod_of_another_node_reaches_a_pod(harness: Harness, family: int, kind: str) -> None:
    frame = tunnelled(FAR.address(family), WEB.address(family), _layers(family)[kind])
    play(harness, [Step(FromTunnel(THERE, FAR.identity), frame, Delivered(WEB, routed(frame, to=WEB)))])


def test_this_host_reaches_a_pod(harness: Harness, family: int) -> None:
    frame = to_pod(router(family), WEB, tcp(40000, 80))
    play(harness, [Step(FromHost(WEB), frame, Delivered(WEB, raw(frame)))])


def test_a_pod_reaches_this_host(harness: Harness, family: int) -> None:
    """No hop: the gateway itself is meant."""
    frame = from_pod(CLIENT, router(family), udp(40000, 9999))
    play(harness, [Step(FromPod(CLIENT), frame, ToHost(raw(frame)))])


def test_a_pod_reaches_its_nodes_own_address(harness: Harness) -> None:
    frame = from_pod(CLIENT, HERE.underlay, udp(40000, 9999))
    play(harness, [Step(FromPod(CLIENT), frame, ToHost(raw(frame)))])


def test_the_gateway_is_answered_for_by_arp(harness: Harness) -> None:
    asked = Ether(src=CLIENT.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=CLIENT.mac, psrc=CLIENT.address(4), hwdst="00:00:00:00:00:00", pdst=router(4)
    )
    answer = Ether(src=CLIENT.gateway_mac, dst=CLIENT.mac) / ARP(
        op=2, hwsrc=CLIENT.gateway_mac, psrc=router(4), hwdst=CLIENT.mac, pdst=CLIENT.address(4)
    )
    play(harness, [Step(FromPod(CLIENT), asked, Answered(CLIENT, raw(answer)))])


@pytest.mark.parametrize("to", ["group", "gateway"])
def test_the_gateway_is_answered_for_by_neighbour_discovery(harness: Harness, to: str) -> None:
    """Also when a pod asks the gateway itself whether it is still there."""
    gateway = router(6)
    target = {"group": "ff02::1:ff00:1", "gateway": gateway}[to]
    mac = {"group": "33:33:ff:00:00:01", "gateway": CLIENT.gateway_mac}[to]
    asked = (
        Ether(src=CLIENT.mac, dst=mac)
        / IPv6(src=CLIENT.address(6), dst=target, hlim=255)
        / ICMPv6ND_NS(tgt=gateway)
        / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT.mac)
    )
    answer = (
        Ether(src=CLIENT.gateway_mac, dst=CLIENT.mac)
        / IPv6(src=gateway, dst=CLIENT.address(6), hlim=255)
        / ICMPv6ND_NA(tgt=gateway, R=1, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=CLIENT.gateway_mac)
    )
    play(harness, [Step(FromPod(CLIENT), asked, Answered(CLIENT, raw(answer)))])
