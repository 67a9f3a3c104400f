"""What does not pass, and under which reason it is counted and shown. One case for each reason that can occur."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, ELSEWHERE, FAR, NOBODY, OTHER, OUTSIDE, STRANGER, THERE, WEB
from tests.packets.harness.frames import echo, from_pod, ip, raw, routed, router, tcp, to_pod, tunnelled, udp
from tests.packets.harness.scenario import Delivered, Dropped, FromHost, FromPod, FromTunnel, Harness, Step, play
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.wire import Wire

pytestmark = pytest.mark.kernel


def _refused(harness: Harness, frame: Packet | bytes, reason: str, **event: object) -> None:
    play(harness, [Step(FromPod(CLIENT), frame, Dropped(reason), event or None)])


# -- a pod that is not who it says it is -------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["another pod of this node", "a pod of another node", "nobody", "outside", "the gateway"])
def test_a_forged_source_address(harness: Harness, family: int, source: str) -> None:
    address = {"another pod of this node": OTHER.address(family), "a pod of another node": FAR.address(family),
               "nobody": NOBODY[family], "outside": OUTSIDE[family], "the gateway": router(family)}[source]  # fmt: skip
    frame = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / ip(address, WEB.address(family)) / tcp(1, 80)
    _refused(harness, frame, "INVALID_SOURCE_IP", source_identity=0, endpoint=0)


def test_a_forged_source_mac(harness: Harness, family: int) -> None:
    frame = from_pod(CLIENT, WEB.address(family), tcp(1, 80))
    frame.src = OTHER.mac
    _refused(harness, frame, "INVALID_SOURCE_MAC", source_identity=CLIENT.identity, endpoint=CLIENT.number)


def test_a_frame_to_another_mac(harness: Harness, family: int) -> None:
    frame = from_pod(CLIENT, WEB.address(family), tcp(1, 80))
    frame.dst = WEB.mac
    _refused(harness, frame, "INVALID_DESTINATION_MAC", source_identity=CLIENT.identity)


def _arp(**changed: object) -> Packet:
    fields = {"op": 1, "hwsrc": CLIENT.mac, "psrc": CLIENT.address(4), "hwdst": "00:00:00:00:00:00", "pdst": router(4)} | changed
    return Ether(src=CLIENT.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(**fields)


def test_cve_2020_10749_arp_in_anothers_name(harness: Harness) -> None:
    _refused(harness, _arp(psrc=OTHER.address(4)), "INVALID_SOURCE_IP")
    _refused(harness, _arp(hwsrc=OTHER.mac), "INVALID_SOURCE_MAC", source_identity=CLIENT.identity)
    _refused(harness, _arp(pdst=OTHER.address(4)), "INVALID_ARP", source_identity=CLIENT.identity)
    _refused(harness, _arp(op=2), "INVALID_ARP")
    _refused(harness, raw(_arp())[:30], "INVALID_ARP")


def _link(message: Packet, source: str = "", hops: int = 255) -> Packet:
    return (
        Ether(src=CLIENT.mac, dst="33:33:00:00:00:01") / IPv6(src=source or CLIENT.address(6), dst="ff02::1", hlim=hops) / message
    )


@pytest.mark.parametrize("kind", ["router advertisement", "another's address", "another's question", "from afar", "for another"])
def test_cve_2020_10749_forged_neighbour_discovery(harness: Harness, kind: str) -> None:
    ns = ICMPv6ND_NS(tgt=router(6)) / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT.mac)
    message, reason = {
        "router advertisement": (_link(ICMPv6ND_RA()), "FORBIDDEN_ICMP6"),
        "another's address": (_link(ICMPv6ND_NA(tgt=OTHER.address(6)), OTHER.address(6)), "FORBIDDEN_ICMP6"),
        "another's question": (_link(ns, OTHER.address(6)), "INVALID_SOURCE_IP"),
        "from afar": (_link(ns, hops=254), "FORBIDDEN_ICMP6"),
        "for another": (_link(ICMPv6ND_NS(tgt=OTHER.address(6)) / ICMPv6NDOptSrcLLAddr(lladdr=CLIENT.mac)), "FORBIDDEN_ICMP6"),
    }[kind]
    _refused(harness, message, reason)


@pytest.mark.parametrize("kind", ["router solicitation", "multicast report", "duplicate address detection"])
def test_housekeeping_is_counted_and_makes_no_event(harness: Harness, kind: str) -> None:
    message = {"router solicitation": _link(ICMPv6ND_RS()), "multicast report": _link(ICMPv6MLReport2(), hops=1),
               "duplicate address detection": _link(ICMPv6ND_NS(tgt=CLIENT.address(6)), "::")}[kind]  # fmt: skip
    play(harness, [Step(FromPod(CLIENT), message, Dropped("HOUSEKEEPING"), {})])


# -- bytes that are not what they should be ----------------------------------------------------------------------------


def test_a_vlan_tag(wire: Wire, family: int) -> None:
    """The tag is in the buffer's metadata, which a test run can't set."""
    wire.node.reset()
    frame = from_pod(CLIENT, WEB.address(family), tcp(1, 80))
    tagged = Ether(src=frame.src, dst=frame.dst) / Dot1Q(vlan=7) / frame.payload
    _refused(wire, tagged, "VLAN")


def test_another_ethertype(harness: Harness) -> None:
    _refused(harness, Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac, type=0x88CC) / (b"x" * 40), "UNSUPPORTED_L2")


def test_ip_options(harness: Harness) -> None:
    frame = (
        Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac)
        / IP(src=CLIENT.address(4), dst=WEB.address(4), options=[IPOption_RR()])
        / tcp(1, 80)
    )
    _refused(harness, frame, "IP_OPTIONS")


def test_extension_headers(harness: Harness) -> None:
    """Options are read over, at most four; a routing header is refused."""
    base = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / IPv6(src=CLIENT.address(6), dst=WEB.address(6))
    read = base / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / tcp(1, 80)
    play(harness, [Step(FromPod(CLIENT), read, Delivered(WEB, routed(read, to=WEB)))])
    _refused(harness, base / IPv6ExtHdrRouting(addresses=[OTHER.address(6)]) / tcp(1, 80), "INVALID_EXTENSION")
    many = base
    for _ in range(5):
        many = many / IPv6ExtHdrDestOpt()
    _refused(harness, many / tcp(1, 80), "INVALID_EXTENSION")
    _refused(harness, raw(base / IPv6ExtHdrHopByHop())[:55], "INVALID")


@pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
def test_truncated_layer_4_headers(harness: Harness, family: int, kind: str) -> None:
    layers = {"tcp": tcp(1, 80), "udp": udp(1, 80, b""), "echo": echo(family)}[kind]
    whole = raw(from_pod(CLIENT, WEB.address(family), layers))
    head = 14 + (20 if family == 4 else 40)
    need = {"tcp": 20, "udp": 8, "echo": 8}[kind]
    cut = bytearray(whole[: head + need - 1])
    length = len(cut) - 14
    at, value = (16, length) if family == 4 else (18, length - 40)
    cut[at : at + 2] = value.to_bytes(2, "big")
    _refused(harness, bytes(cut), "INVALID_HEADER", source_identity=0)


def test_truncated_and_lying_ip_headers(harness: Harness, family: int) -> None:
    whole = raw(from_pod(CLIENT, WEB.address(family), tcp(1, 80)))
    if family == 4:
        _refused(harness, whole[:14] + b"\x46" + whole[15:], "IP_OPTIONS")
        _refused(harness, whole[:14] + b"\x44" + whole[15:], "INVALID")
        _refused(harness, whole[:14] + b"\x65" + whole[15:], "INVALID")
        _refused(harness, whole[:16] + b"\xff\xff" + whole[18:], "INVALID")
        _refused(harness, whole[:16] + b"\x00\x13" + whole[18:], "INVALID")
    else:
        _refused(harness, whole[:14] + b"\x40" + whole[15:], "INVALID")
        _refused(harness, whole[:18] + b"\xff\xff" + whole[20:], "INVALID")


def test_an_ip_header_cut_short(wire: Wire, family: int) -> None:
    """A test run refuses such a frame itself."""
    wire.node.reset()
    whole = raw(from_pod(CLIENT, WEB.address(family), tcp(1, 80)))
    _refused(wire, whole[: 14 + (20 if family == 4 else 40) - 1], "INVALID")


def test_another_layer_4_protocol(harness: Harness, family: int) -> None:
    frame = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / ip(CLIENT.address(family), WEB.address(family)) / (b"x" * 40)
    if family == 4:
        frame[IP].proto = 47
    else:
        frame[IPv6].nh = 47
    _refused(harness, frame, "UNKNOWN_L4")


def test_the_last_hop(harness: Harness, family: int) -> None:
    _refused(harness, from_pod(CLIENT, WEB.address(family), tcp(1, 80), ttl=1), "TTL_EXCEEDED", source_identity=CLIENT.identity)
    _refused(harness, from_pod(CLIENT, FAR.address(family), tcp(1, 80), ttl=1), "TTL_EXCEEDED")
    frame = tunnelled(FAR.address(family), WEB.address(family), tcp(1, 80), ttl=1)
    play(harness, [Step(FromTunnel(THERE, FAR.identity), frame, Dropped("TTL_EXCEEDED"))])


# -- nowhere to go -----------------------------------------------------------------------------------------------------


def test_no_such_pod_here(harness: Harness, family: int) -> None:
    _refused(harness, from_pod(CLIENT, NOBODY[family], tcp(1, 80)), "NO_LOCAL_ENDPOINT")
    frame = tunnelled(FAR.address(family), NOBODY[family], tcp(1, 80))
    play(harness, [Step(FromTunnel(THERE, FAR.identity), frame, Dropped("NO_LOCAL_ENDPOINT"))])


def test_the_outside(harness: Harness, family: int) -> None:
    _refused(harness, from_pod(CLIENT, OUTSIDE[family], tcp(1, 80)), "OUTSIDE", destination_identity=2)


def test_no_way_to_another_nodes_pods_without_a_tunnel(harness: Harness, family: int) -> None:
    """Directly, it would be by the uplink (test_uplink_world.py); this node has none."""
    harness.node.settings(flags=1, uplink_ifindex=0)
    _refused(harness, from_pod(CLIENT, FAR.address(family), tcp(1, 80)), "UNROUTABLE", destination_identity=FAR.identity)


# -- the tunnel --------------------------------------------------------------------------------------------------------


def _from_tunnel(harness: Harness, source: str, reason: str, vni: int = FAR.identity, node: object = THERE) -> None:
    frame = tunnelled(source, WEB.addresses[6 if ":" in source else 4], tcp(1, 80))
    at = FromTunnel(node, vni)  # type: ignore[arg-type]
    play(harness, [Step(at, frame, Dropped(reason), {"reason": harness.node.reason(reason), "hook": 2})])


def test_a_tunnel_packet_of_the_wrong_node(harness: Harness, family: int) -> None:
    _from_tunnel(harness, FAR.address(family), "WRONG_NODE", node=ELSEWHERE)
    _from_tunnel(harness, CLIENT.address(family), "WRONG_NODE")  # a pod of ours does not come from outside


def test_a_tunnel_packet_of_an_unknown_sender(harness: Harness, family: int) -> None:
    _from_tunnel(harness, OUTSIDE[family], "UNKNOWN_SENDER")


@pytest.mark.parametrize("vni", [0, 1, 2, 6, 8, 127])
def test_a_tunnel_packet_with_a_reserved_identity(harness: Harness, family: int, vni: int) -> None:
    """Anybody on the underlay can write a VNI (CVE-2019-13119): 1, the host, is always let in, and never comes from the wire."""
    _from_tunnel(harness, FAR.address(family), "INVALID_VNI", vni=vni)


@pytest.mark.parametrize("vni", [128, 255, 4242, 0xFFFFFF])
def test_a_tunnel_packet_with_an_unknown_identity(harness: Harness, family: int, vni: int) -> None:
    _from_tunnel(harness, FAR.address(family), "UNKNOWN_IDENTITY", vni=vni)


def test_link_messages_never_cross_the_tunnel(harness: Harness) -> None:
    frame = tunnelled(FAR.address(6), WEB.address(6), ICMPv6ND_RA(), ttl=255)
    play(harness, [Step(FromTunnel(THERE, FAR.identity), frame, Dropped("FORBIDDEN_ICMP6"))])


def test_a_sender_without_a_row_passes_where_nothing_is_enforced(harness: Harness, family: int) -> None:
    """Its identity is the tunnel's; the row may be late."""
    frame = tunnelled(STRANGER[family], WEB.address(family), tcp(1, 80))
    play(harness, [Step(FromTunnel(THERE, FAR.identity), frame, Delivered(WEB, routed(frame, to=WEB)))])


# -- not ready ---------------------------------------------------------------------------------------------------------


def test_without_settings_nothing_passes(harness: Harness, family: int) -> None:
    harness.node.settings(flags=0)
    play(harness, [
        Step(FromPod(CLIENT), from_pod(CLIENT, WEB.address(family), tcp(1, 80)), Dropped("NO_CONFIG")),
        Step(FromHost(WEB), to_pod(router(family), WEB, tcp(1, 80)), Dropped("NO_CONFIG")),
        Step(FromTunnel(THERE, FAR.identity), tunnelled(FAR.address(family), WEB.address(family), tcp(1, 80)),
             Dropped("NO_CONFIG")),
    ])  # fmt: skip


def test_an_endpoint_that_is_not_ready(harness: Harness, family: int) -> None:
    harness.node.endpoint(WEB, ready=False)
    play(harness, [
        Step(FromPod(CLIENT), from_pod(CLIENT, WEB.address(family), tcp(1, 80)), Dropped("ENDPOINT_NOT_READY")),
        Step(FromPod(WEB), from_pod(WEB, CLIENT.address(family), tcp(1, 80)), Dropped("ENDPOINT_NOT_READY")),
        Step(FromHost(WEB), to_pod(router(family), WEB, tcp(1, 80)), Dropped("ENDPOINT_NOT_READY")),
        Step(FromTunnel(THERE, FAR.identity), tunnelled(FAR.address(family), WEB.address(family), tcp(1, 80)),
             Dropped("ENDPOINT_NOT_READY")),
    ])  # fmt: skip


# -- the host's stack --------------------------------------------------------------------------------------------------


def test_the_stack_forwards_nothing(testrun: Harness, family: int) -> None:
    testrun.node.reset()
    frame = to_pod(OUTSIDE[family], WEB, tcp(1, 80))
    play(testrun, [Step(FromHost(WEB, forwarded=True), frame, Dropped("FORWARDED"), {"destination_identity": 0})])


def test_the_stack_sends_a_pod_what_is_its_own(testrun: Harness, family: int) -> None:
    testrun.node.reset()
    frame = to_pod(router(family), OTHER, tcp(1, 80))
    play(testrun, [Step(FromHost(WEB), frame, Dropped("NO_LOCAL_ENDPOINT"))])
    arp = Ether(src=WEB.gateway_mac, dst=WEB.mac) / ARP(pdst=WEB.address(4))
    play(testrun, [Step(FromHost(WEB), arp, Dropped("UNSUPPORTED_L2"))])


# -- events ------------------------------------------------------------------------------------------------------------


def test_a_flood_of_refusals_is_counted_whole_and_told_in_part(testrun: TestRun, family: int) -> None:
    """What was left out is in the next event."""
    testrun.node.reset()
    testrun.node.settings(event_rate=10, event_burst=2)
    frame = raw(Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / ip(OTHER.address(family), WEB.address(family)) / tcp(1, 80))
    told = [len(testrun.send(FromPod(CLIENT), frame).events) for _ in range(6)]
    assert told == [1, 1, 0, 0, 0, 0] or sum(told) == 3  # the first event takes no token of the bucket that it makes
    buckets = testrun.node.datapath.map("buckets")
    for key, bucket in list(buckets.items()):  # as if seconds had passed
        buckets.update(key, {**bucket, "refilled": 0})
    (event,) = testrun.send(FromPod(CLIENT), frame).events
    assert event["suppressed"] == 6 - sum(told)


# -- every reason has its test -----------------------------------------------------------------------------------------

# What can't be shown: a write that failed after its bounds were checked.
_IMPOSSIBLE = {"WRITE_ERROR"}
_ELSEWHERE = {
    "MISSED_TAIL_CALL",
    "NO_TUNNEL_KEY",
    "POLICY",
    "POLICY_DENY",
    "FRAGMENT",
    "FRAGMENT_NOT_FOUND",
    "TOO_BIG",
    "NAT_NO_MAPPING",
    "NAT_PROTOCOL",
    "AROUND_TUNNEL",
    "UNTRANSLATED",
    "TUNNEL_PORT",
}  # in the other files


def test_no_reason_is_forgotten(testrun: Harness) -> None:
    with open(__file__) as own:  # noqa: PTH123
        text = own.read()
    names = {name.removeprefix("PILUS_DROP_") for name in testrun.node.drops}
    missing = {name for name in names - _IMPOSSIBLE - _ELSEWHERE if f'"{name}"' not in text}
    assert not missing, f"no test names {', '.join(sorted(missing))}"


@pytest.mark.parametrize("kind", ["first", "later"])
def test_fragments_of_headers(harness: Harness, family: int, kind: str) -> None:
    """A first fragment without its whole layer-4 header is refused, and so is what has no first one."""
    first = kind == "first"
    if family == 4:
        layers = TCP(sport=1, dport=80) if first else b"x" * 16
        frame = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / IP(
            src=CLIENT.address(4), dst=WEB.address(4), id=5, flags="MF" if first else 0, frag=0 if first else 1, proto=6
        )
        cut = raw(frame / layers)
        cut = cut[: 14 + 20 + 16]
        cut = cut[:16] + (36).to_bytes(2, "big") + cut[18:]
    else:
        fragment = IPv6ExtHdrFragment(id=5, nh=6, offset=0 if first else 2, m=int(first))
        base = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / IPv6(src=CLIENT.address(6), dst=WEB.address(6))
        cut = raw(base / fragment / (TCP(sport=1, dport=80) if first else b"x" * 16))[: 14 + 40 + 8 + 16]
        cut = cut[:18] + (24).to_bytes(2, "big") + cut[20:]
    _refused(harness, cut, "FRAGMENT" if first else "FRAGMENT_NOT_FOUND")


def test_scapy_is_what_these_tests_think() -> None:
    """An echo request of each family, as a guard against a changed library."""
    assert raw(IP(src="10.0.0.1", dst="10.0.0.2") / ICMP(type=8, id=1, seq=1))[9] == 1
    assert raw(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2))[9] == 17
