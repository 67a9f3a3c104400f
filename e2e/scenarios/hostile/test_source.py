"""In another's name: addresses, MACs, ARP, neighbour discovery."""

import pytest
from e2e.scenarios.hostile.world import (
    BAD_ARP,
    DESTINATION_MAC,
    FAMILIES,
    FORBIDDEN,
    HOUSEKEEPING,
    SOURCE,
    SOURCE_MAC,
    UNROUTABLE,
    VICTIMS,
    World,
    probes_of,
)
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
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
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet
from scapy.utils6 import in6_mactoifaceid

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

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


def test_cve_2020_10749_arp_in_anothers_name(world: World) -> None:
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


def test_cve_2020_10749_neighbour_discovery_in_anothers_name(world: World) -> None:
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


def test_cve_2020_10749_router_advertisements_and_redirects(world: World) -> None:
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
