"""Fragments that overlap, come twice, or lie about what they are a part of. Nobody here reassembles: what a receiver makes of those
that pass must be what was judged."""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from tests.packets.harness.actors import CLIENT, FAR, THERE, WEB
from tests.packets.harness.frames import raw, routed, tunnelled
from tests.packets.harness.node import Rule, Side
from tests.packets.harness.scenario import Delivered, Dropped, FromPod, FromTunnel, Harness, Step, play

pytestmark = pytest.mark.kernel
ALLOWED, REFUSED = 53, 54
POLICIES = {5: (Side(everybody=[Rule(1, protocol=17, port=ALLOWED), Rule(2, protocol=6, port=ALLOWED)]), Side())}
UDP_NUMBER, TCP_NUMBER = 17, 6


def _part(family: int, data: bytes, offset: int, more: bool, protocol: int = UDP_NUMBER, number: int = 5) -> Packet:
    ethernet = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac)
    if family == 4:
        head = IP(src=CLIENT.address(4), dst=WEB.address(4), id=number, flags="MF" if more else 0, frag=offset // 8, proto=protocol)
        return ethernet / head / Raw(data)
    head = IPv6(src=CLIENT.address(6), dst=WEB.address(6))
    return ethernet / head / IPv6ExtHdrFragment(id=number, nh=protocol, offset=offset // 8, m=int(more)) / Raw(data)


def _udp(port: int) -> bytes:
    return raw(UDP(sport=4000, dport=port, len=40, chksum=0) / (b"y" * 32))


def _passes(frame: Packet) -> Step:
    return Step(FromPod(CLIENT), frame, Delivered(WEB, routed(frame, to=WEB)))


def _refused(frame: Packet, reason: str = "POLICY") -> Step:
    return Step(FromPod(CLIENT), frame, Dropped(reason))


@pytest.fixture(autouse=True)
def _closed(harness: Harness) -> None:
    harness.node.reset(policies=POLICIES, pods={"web": 5})


def test_what_overlaps_is_judged_as_its_first_part_was(harness: Harness, family: int) -> None:
    """A second beginning with a port that is refused is refused, and so is all that follows it; the other way round likewise."""
    good, bad = _part(family, _udp(ALLOWED)[:24], 0, True), _part(family, _udp(REFUSED)[:24], 0, True)
    later, overlapping = _part(family, _udp(ALLOWED)[24:], 24, False), _part(family, _udp(REFUSED)[8:], 8, False)
    play(harness, [_passes(good), _passes(overlapping), _refused(bad), _refused(later), _refused(overlapping)])
    play(harness, [_passes(good), _passes(later)])


def test_no_later_part_reaches_the_ports(harness: Harness, family: int) -> None:
    """RFC 1858: a first part so small that the ports lie in the second, or one that writes over them. The first has its whole
    header, and no offset but 0 reaches into the first eight bytes."""
    whole = raw(TCP(sport=4000, dport=ALLOWED, flags="S") / (b"y" * 12))
    for length in (0, 8, 16):
        play(harness, [_refused(_part(family, whole[:length], 0, True, TCP_NUMBER), "FRAGMENT")])
    play(harness, [_refused(_part(family, whole[8:], 8, False, TCP_NUMBER), "FRAGMENT_NOT_FOUND")])


def test_a_part_of_another_protocol(harness: Harness, family: int) -> None:
    """The numbers of datagrams are each protocol's own: none continues another's."""
    play(harness, [_passes(_part(family, _udp(ALLOWED)[:24], 0, True)),
                   _refused(_part(family, b"z" * 16, 24, False, TCP_NUMBER), "FRAGMENT_NOT_FOUND"),
                   _refused(_part(family, b"z" * 16, 24, False, 0 if family == 4 else 60),
                            "FRAGMENT_NOT_FOUND" if family == 4 else "INVALID_EXTENSION")])  # fmt: skip


def test_without_end(harness: Harness, family: int) -> None:
    """A thousand parts of one datagram, all of them more to come: one row, and nobody else's parts suffer."""
    play(harness, [_passes(_part(family, _udp(ALLOWED)[:24], 0, True))])
    for number in range(100):
        play(harness, [_passes(_part(family, b"z" * 8, 24 + 8 * number, True))])
    assert len(harness.node.datapath.map("fragments").items_raw()) == 1


def test_one_nodes_parts_are_not_anothers(harness: Harness, family: int) -> None:
    """Through the tunnel: a later part goes by what the same node's first one said, with a number of its own."""
    part = _part(family, _udp(ALLOWED)[24:], 24, False)
    frame = tunnelled(FAR.address(family), WEB.address(family), part.payload.payload)
    if family == 4:
        frame[IP].frag, frame[IP].id, frame[IP].proto = 3, 5, UDP_NUMBER
    play(harness, [_passes(_part(family, _udp(ALLOWED)[:24], 0, True)),
                   Step(FromTunnel(THERE, FAR.identity), frame, Dropped("FRAGMENT_NOT_FOUND"))])  # fmt: skip


def test_a_fragment_header_within_a_fragment(harness: Harness) -> None:
    """A second one behind the first part's is refused; what is whole behind an empty one is judged as what it is."""
    inner = IPv6ExtHdrFragment(id=6, nh=UDP_NUMBER, m=1) / Raw(_udp(ALLOWED)[:24])
    head = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / IPv6(src=CLIENT.address(6), dst=WEB.address(6))
    hidden = head / IPv6ExtHdrFragment(id=5, nh=60, m=1) / IPv6ExtHdrDestOpt(nh=UDP_NUMBER) / Raw(_udp(REFUSED)[:24])
    play(harness, [_refused(head / IPv6ExtHdrFragment(id=5, nh=44, m=1) / inner, "INVALID_EXTENSION"),
                   _passes(head / IPv6ExtHdrFragment(id=5, nh=UDP_NUMBER) / Raw(_udp(ALLOWED))),
                   _refused(head / IPv6ExtHdrFragment(id=5, nh=UDP_NUMBER) / Raw(_udp(REFUSED))),
                   _refused(hidden)])  # fmt: skip
