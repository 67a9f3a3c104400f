"""Bytes that are not what they should be."""

import pytest
from e2e.scenarios.hostile.world import (
    FAMILIES,
    MARK,
    NOTICED,
    SOURCE,
    VICTIMS,
    World,
    probes_of,
)
from scapy.layers.inet import TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from pilus_lab import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


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
