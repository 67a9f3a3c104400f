"""Packets that are too big for their path, and packets in parts."""

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, OTHER, THERE, WEB, Pod
from tests.packets.harness.frames import from_pod, raw, routed, router, tunnelled, udp
from tests.packets.harness.node import Rule, Side
from tests.packets.harness.scenario import Answered, Delivered, Dropped, FromPod, FromTunnel, Harness, Step, Tunnelled, play
from tests.packets.harness.testrun import TestRun

pytestmark = pytest.mark.kernel
MTU = 1400


def _too_big(family: int, pod: Pod, about: Packet) -> bytes:
    """From the gateway: the path's MTU and the beginning of the packet, as it was sent."""
    head = raw(about)[14 : 14 + (40 if family == 4 else 60)]
    ethernet = Ether(src=pod.gateway_mac, dst=pod.mac)
    if family == 4:
        return raw(ethernet / IP(src=router(4), dst=pod.address(4), ttl=64, id=0) / ICMP(type=3, code=4, nexthopmtu=MTU) / head)
    return raw(ethernet / IPv6(src=router(6), dst=pod.address(6), hlim=64) / ICMPv6PacketTooBig(mtu=MTU) / head)


@pytest.mark.parametrize("known", [False, True])
def test_a_packet_too_big_for_the_tunnel_is_answered(harness: Harness, family: int, known: bool) -> None:
    """Whether its flow is known or not; one byte less passes."""
    harness.node.settings(tunnel_mtu=MTU)
    head = 28 if family == 4 else 48
    fits = from_pod(CLIENT, FAR.address(family), udp(1, 2, b"x" * (MTU - head)))
    big = from_pod(CLIENT, FAR.address(family), udp(1, 2, b"x" * (MTU - head + 1)))
    passes = Step(FromPod(CLIENT), fits, Tunnelled(THERE, CLIENT.identity, routed(fits)))
    answer = Step(FromPod(CLIENT), big, Answered(CLIENT, _too_big(family, CLIENT, big), "TOO_BIG"), {"reason": 136})
    play(harness, [passes, answer, passes] if known else [answer, passes])


def test_a_reply_too_big_for_the_tunnel_is_answered(harness: Harness, family: int) -> None:
    harness.node.settings(tunnel_mtu=MTU)
    into = tunnelled(FAR.address(family), WEB.address(family), udp(1, 2))
    big = from_pod(WEB, FAR.address(family), udp(2, 1, b"x" * 1400))
    play(harness, [
        Step(FromTunnel(THERE, FAR.identity), into, Delivered(WEB, routed(into, to=WEB))),
        Step(FromPod(WEB), big, Answered(WEB, _too_big(family, WEB, big), "TOO_BIG"), {"reply": 1}),
    ])  # fmt: skip


def test_on_the_same_node_no_mtu_is_held_to(harness: Harness, family: int) -> None:
    harness.node.settings(tunnel_mtu=MTU)
    big = from_pod(CLIENT, WEB.address(family), udp(1, 2, b"x" * 1400))
    play(harness, [Step(FromPod(CLIENT), big, Delivered(WEB, routed(big, to=WEB)))])


def _parts(pod: Pod, destination: str, number: int = 5, head: int = 16, port: int = 53) -> tuple[Packet, Packet]:
    """A datagram of 24 bytes in two parts, the first of `head` bytes."""
    family = 6 if ":" in destination else 4
    source = pod.address(family)
    whole = raw(
        (IP(src=source, dst=destination) if family == 4 else IPv6(src=source, dst=destination))
        / UDP(sport=4000, dport=port)
        / (b"y" * 16)
    )
    data = whole[20 if family == 4 else 40 :]
    ethernet = Ether(src=pod.mac, dst=pod.gateway_mac)
    if family == 4:
        return (ethernet / IP(src=source, dst=destination, id=number, flags="MF", proto=17) / data[:head],
                ethernet / IP(src=source, dst=destination, id=number, frag=head // 8, proto=17) / data[head:])  # fmt: skip
    base = ethernet / IPv6(src=source, dst=destination)
    return (base / IPv6ExtHdrFragment(id=number, nh=17, m=1) / data[:head],
            base / IPv6ExtHdrFragment(id=number, nh=17, offset=head // 8) / data[head:])  # fmt: skip


def _to_web(frame: Packet) -> Step:
    return Step(FromPod(CLIENT), frame, Delivered(WEB, routed(frame, to=WEB)))


def test_later_parts_pass_as_their_first_one(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (Side(everybody=[Rule(1, protocol=17, port=53)]), Side())}, pods={"web": 5})
    first, later = _parts(CLIENT, WEB.address(family))
    play(harness, [Step(FromPod(CLIENT), later, Dropped("FRAGMENT_NOT_FOUND")), _to_web(first), _to_web(later)])
    table, entry = harness.node.flow("POD_OUT", CLIENT.address(family), WEB.address(family), 17, (4000, 53))
    assert (table, entry["packets"]) == ("embryonic", 2)


def test_parts_of_what_policy_refuses(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (Side(everybody=[Rule(1, protocol=17, port=53)]), Side())}, pods={"web": 5})
    first, later = _parts(CLIENT, WEB.address(family), port=54)
    play(harness, [Step(FromPod(CLIENT), first, Dropped("POLICY")), Step(FromPod(CLIENT), later, Dropped("POLICY"))])


def test_parts_of_another_datagram_or_of_another_pod(harness: Harness, family: int) -> None:
    """64 numbers apart share a place: the newer datagram has it. Another pod's parts never meet this one's."""
    first, later = _parts(CLIENT, WEB.address(family))
    _, other_number = _parts(CLIENT, WEB.address(family), number=69)
    _, other_pod = _parts(OTHER, WEB.address(family))
    play(harness, [
        _to_web(first),
        Step(FromPod(CLIENT), other_number, Dropped("FRAGMENT_NOT_FOUND")),
        Step(FromPod(OTHER), other_pod, Dropped("FRAGMENT_NOT_FOUND")),
        _to_web(later),
        _to_web(_parts(CLIENT, WEB.address(family), number=69)[0]),
        Step(FromPod(CLIENT), later, Dropped("FRAGMENT_NOT_FOUND")),
    ])  # fmt: skip


def test_parts_too_late(testrun: TestRun, family: int) -> None:
    testrun.node.reset()
    first, later = _parts(CLIENT, WEB.address(family))
    play(testrun, [_to_web(first), _to_web(later)])
    fragments = testrun.node.datapath.map("fragments")
    ((key, row),) = fragments.items()
    fragments.update(key, row | {"last_seen": testrun.node.seconds(40)})
    play(testrun, [Step(FromPod(CLIENT), later, Dropped("FRAGMENT_NOT_FOUND"))])


def test_a_pods_parts_have_a_bound(testrun: TestRun, family: int) -> None:
    testrun.node.reset()
    for number in range(200):
        testrun.run(FromPod(CLIENT), raw(_parts(CLIENT, WEB.address(family), number=number)[0]))
    assert len(testrun.node.datapath.map("fragments").items_raw()) == 64


def test_a_first_part_without_its_header(harness: Harness, family: int) -> None:
    first, _ = _parts(CLIENT, WEB.address(family), head=8)
    play(harness, [_to_web(first)])
    frame = from_pod(CLIENT, WEB.address(family), b"x" * 7)
    if family == 4:
        frame[IP].flags, frame[IP].proto = "MF", 17
    else:
        frame = (
            Ether(src=frame.src, dst=frame.dst)
            / IPv6(src=CLIENT.address(6), dst=WEB.address(6))
            / IPv6ExtHdrFragment(nh=17, m=1)
            / (b"x" * 7)
        )
    play(harness, [Step(FromPod(CLIENT), frame, Dropped("FRAGMENT"))])
