"""The host firewall, packet by packet: what a node's own stack gets and sends, where the node has a policy."""

import pytest
from scapy.layers.inet import ICMP, IP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import ARP, GRE, Dot1Q, Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, HERE, NEAR_FAR, OTHER, OUTSIDE, THERE, WEB
from tests.packets.harness.frames import echo, echo_reply, from_pod, ip, raw, routed, tcp, to_pod, tunnelled, udp
from tests.packets.harness.node import DENY, EGRESS, INGRESS, Rule, Side
from tests.packets.harness.scenario import (
    Delivered,
    Dropped,
    FromHost,
    FromOutside,
    FromPod,
    FromStack,
    FromTunnel,
    Sent,
    Step,
    ToHost,
    ToOutside,
    Tunnelled,
    play,
)
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.world import NODE, OTHER_NODE, ROUTER_MAC, VXLAN_PORT, masquerading

pytestmark = pytest.mark.kernel

READY, TUNNEL, MASQUERADE, FIREWALL, PROBES, TUNNELS = 1, 2, 4 | 8, 32, 64, 128
OPEN, CLOSED = Side(), Side(everybody=[])
SSH = Side(everybody=[Rule(3, protocol=6, port=22)])
ROUTER_ON_THE_WAY = {4: "203.0.113.200", 6: "2001:db8:71::200"}
TCP_, UDP_ = 6, 17


def guard(harness: TestRun, ingress: Side = OPEN, egress: Side = OPEN, *, tunnel: bool = True, more: int = 0) -> None:
    """A node with this policy of its own; a direction without rules is not enforced."""
    harness.node.reset(policies={9: (ingress, egress)})
    masquerading(harness.node, flags=READY | MASQUERADE | TUNNEL * tunnel | FIREWALL | more)
    harness.node.ipcache(NODE[6], 1, flags=2 | 8)
    harness.node.ipcache(OTHER_NODE[6], 6, flags=2)
    harness.node.host(policy=9, enforced=[i for i, side in ((INGRESS, ingress), (EGRESS, egress)) if side != OPEN])


@pytest.fixture
def closed(testrun: TestRun) -> TestRun:
    """Nothing gets in but to port 22."""
    guard(testrun, SSH)
    return testrun


def _in(family: int, layers: Packet, source: str = "", to: str = "") -> Packet:
    return Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(source or OUTSIDE[family], to or NODE[family], 60) / layers


def _out(family: int, layers: Packet, to: str = "", source: str = "") -> Packet:
    return Ether(src=HERE.mac, dst=ROUTER_MAC) / ip(source or NODE[family], to or OUTSIDE[family]) / layers


def _enters(frame: Packet) -> Step:
    return Step(FromOutside(), frame, ToHost(raw(frame)))


def _refused(frame: Packet, reason: str = "POLICY") -> Step:
    return Step(FromOutside(), frame, Dropped(reason))


def _leaves(frame: Packet) -> Step:
    return Step(ToOutside(), frame, Sent(raw(frame)))


# -- in and out ----------------------------------------------------------------------------------------------------------


def test_only_what_is_allowed_gets_in(closed: TestRun, family: int) -> None:
    allowed = _in(family, tcp(40000, 22))
    told = {"source_identity": 2, "destination_identity": 1, "direction": INGRESS, "path": 3}
    play(closed, [
        Step(FromOutside(), allowed, ToHost(raw(allowed)), {"reason": 0, "rule": 3, "policy": 9, **told}),
        Step(FromOutside(), _in(family, tcp(40000, 23)), Dropped("POLICY"), {"rule": 0, "policy": 9, **told}),
        Step(FromOutside(), _in(family, udp(40000, 22)), Dropped("POLICY"), {"rule": 0, "policy": 9, **told}),
        _refused(_in(family, echo(family))),
    ])  # fmt: skip


def test_an_answer_needs_no_rule(testrun: TestRun, family: int) -> None:
    """Both directions closed but for port 22 in, and 53 out: each connection's other side passes, by the table from then on."""
    guard(testrun, SSH, Side(everybody=[Rule(4, protocol=UDP_, port=53)]))
    asked, answered = _out(family, udp(40001, 53)), _in(family, udp(53, 40001))
    play(testrun, [
        _enters(_in(family, tcp(40000, 22))), _leaves(_out(family, tcp(22, 40000, "SA"))),
        _leaves(asked), _enters(answered),
        *(Step(ToOutside(), asked, Sent(raw(asked)), {}) for _ in range(2)), Step(FromOutside(), answered, ToHost(), {}),
        Step(ToOutside(), _out(family, tcp(40002, 22)), Dropped("POLICY"), {"direction": EGRESS, "source_identity": 1}),
        _refused(_in(family, udp(53, 40003))),
    ])  # fmt: skip
    for zone, ends, ports in (("UPLINK_IN", (OUTSIDE[family], NODE[family]), (40000, 22)),
                              ("UPLINK_OUT", (NODE[family], OUTSIDE[family]), (22, 40000))):  # fmt: skip
        assert testrun.node.flow(zone, *ends, 6, ports)[0] == "flows"


def test_echo_both_ways(testrun: TestRun, family: int) -> None:
    """Who pings gets its answer; an answer that nobody asked for does not get in."""
    guard(testrun, CLOSED)
    play(testrun, [
        _leaves(_out(family, echo(family))), _enters(_in(family, echo_reply(family))),
        _refused(_in(family, echo_reply(family, 8))), _refused(_in(family, echo(family, 9))),
    ])  # fmt: skip


@pytest.mark.parametrize("source", ["node", "world"])
def test_who_asks_is_known_by_its_address(testrun: TestRun, family: int, source: str) -> None:
    guard(testrun, Side(peers={6: [Rule(1)]}))
    address = {"node": OTHER_NODE, "world": OUTSIDE}[source][family]
    frame = _in(family, tcp(40000, 80), source=address)
    play(testrun, [_enters(frame) if source == "node" else _refused(frame)])


def test_rules_by_address(testrun: TestRun, family: int) -> None:
    """They mean the outside, and another node not."""
    around = {"0.0.0.0/0": [Rule(1)], "::/0": [Rule(1)]}
    guard(testrun, Side(outside=around), Side(outside=around))
    play(testrun, [
        _enters(_in(family, tcp(40000, 80))), _refused(_in(family, tcp(40000, 80), source=OTHER_NODE[family])),
        _leaves(_out(family, tcp(40001, 80))),
        Step(ToOutside(), _out(family, tcp(40001, 80), to=OTHER_NODE[family]), Dropped("POLICY")),
    ])  # fmt: skip


def test_a_denial_is_told_as_one(testrun: TestRun, family: int) -> None:
    guard(testrun, Side(everybody=[Rule(5, DENY)]))
    play(testrun, [Step(FromOutside(), _in(family, tcp(1, 2)), Dropped("POLICY_DENY"), {"rule": 5, "policy": 9})])


# -- pods and nodes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["router", "node"])
def test_pods_are_let_in_by_their_identity(testrun: TestRun, family: int, address: str) -> None:
    guard(testrun, Side(peers={CLIENT.identity: [Rule(1, protocol=TCP_, port=80)]}))
    to = {"router": HERE.routers, "node": NODE}[address][family]
    allowed = from_pod(CLIENT, to, tcp(40000, 80))
    other = from_pod(OTHER, to, tcp(40000, 80))
    play(testrun, [
        Step(FromPod(CLIENT), allowed, ToHost(raw(allowed)), {"rule": 1, "policy": 9, "direction": INGRESS}),
        Step(FromPod(CLIENT), from_pod(CLIENT, to, tcp(40000, 81)), Dropped("POLICY")),
        Step(FromPod(OTHER), other, Dropped("POLICY"), {"source_identity": OTHER.identity, "direction": INGRESS}),
    ])  # fmt: skip
    back = to_pod(to, CLIENT, tcp(80, 40000, "SA"))
    play(testrun, [Step(FromHost(CLIENT), back, Delivered(CLIENT, raw(back)))])


def test_a_pods_own_policy_is_asked_first(testrun: TestRun, family: int) -> None:
    guard(testrun, Side(everybody=[Rule(1)]))
    testrun.node.policy(5, OPEN, CLOSED)
    testrun.node.endpoint(CLIENT, policy=5, enforced=[EGRESS])
    frame = from_pod(CLIENT, HERE.routers[family], tcp(40000, 80))
    play(testrun, [Step(FromPod(CLIENT), frame, Dropped("POLICY"), {"policy": 5, "direction": EGRESS})])


@pytest.mark.parametrize("probes", [True, False])
def test_what_the_host_sends_to_its_pods(testrun: TestRun, family: int, probes: bool) -> None:
    """The kubelet's probes go on, unless somebody has said that they shall not."""
    guard(testrun, OPEN, Side(peers={WEB.identity: [Rule(1)]}), more=PROBES * probes)
    web, client = (to_pod(HERE.routers[family], pod, tcp(40000, 80)) for pod in (WEB, CLIENT))
    play(testrun, [
        Step(FromHost(WEB), web, Delivered(WEB, raw(web))),
        Step(FromHost(CLIENT), client, Delivered(CLIENT, raw(client)) if probes else Dropped("POLICY")),
    ])  # fmt: skip


def test_through_the_tunnel(testrun: TestRun, family: int) -> None:
    """Another node's stack to ours, and ours to another node's pod; a pod of ours is not the host."""
    guard(testrun, Side(peers={6: [Rule(1, protocol=TCP_, port=10250)]}), Side(peers={FAR.identity: [Rule(2)]}))
    source, router = THERE.routers[family], HERE.routers[family]
    kubelet = tunnelled(source, router, tcp(40000, 10250))
    to_far = tunnelled(router, FAR.address(family), tcp(40000, 80), 64)
    to_web = tunnelled(FAR.address(family), WEB.address(family), tcp(40000, 80))
    play(testrun, [
        Step(FromTunnel(THERE, 6), kubelet, ToHost(raw(kubelet))),
        Step(FromTunnel(THERE, 6), tunnelled(source, router, tcp(40000, 22)), Dropped("POLICY"), {"direction": INGRESS}),
        Step(FromTunnel(THERE, FAR.identity), tunnelled(FAR.address(family), router, tcp(40000, 10250)), Dropped("POLICY")),
        Step(FromTunnel(THERE, FAR.identity), to_web, Delivered(WEB, routed(to_web, to=WEB))),
        Step(FromStack(), to_far, Tunnelled(THERE, 6, raw(to_far))),
        Step(FromStack(), tunnelled(router, NEAR_FAR.address(family), tcp(40000, 80), 64), Dropped("POLICY")),
    ])  # fmt: skip


def test_cve_2026_26963_direct_routing(testrun: TestRun, family: int) -> None:
    """A pod of another node is known by its address; pods of ours are no affair of the host's policy."""
    guard(testrun, Side(peers={FAR.identity: [Rule(1)]}), tunnel=False)
    mine = from_pod(CLIENT, FAR.address(family), tcp(40000, 80))
    to_web = _in(family, tcp(40000, 80), FAR.address(family), WEB.address(family))
    play(testrun, [
        _enters(_in(family, tcp(40000, 80), source=FAR.address(family))),
        _refused(_in(family, tcp(40000, 80), source=OTHER_NODE[family])),
        Step(FromOutside(), to_web, Delivered(WEB, routed(to_web, to=WEB))),
        Step(FromPod(CLIENT), mine, Sent(routed(mine))),
        Step(ToOutside(CLIENT), mine, Sent(raw(mine))),
    ])  # fmt: skip


@pytest.mark.parametrize("kind", ["tcp", "udp", "echo"])
def test_what_pods_send_outside_is_none_of_it(testrun: TestRun, family: int, kind: str) -> None:
    """Masqueraded, it bears the host's address: the host's policy is not asked, neither there nor back."""
    guard(testrun, CLOSED, CLOSED)
    layers = {"tcp": tcp(40000, 80), "udp": udp(40000, 53), "echo": echo(family, 40000)}[kind]
    out = testrun.send(FromPod(CLIENT), raw(from_pod(CLIENT, OUTSIDE[family], layers)))
    assert out.verdict == "tunnelled"
    play(testrun, [Step(ToOutside(CLIENT), out.frame, Sent(out.frame)), Step(ToOutside(), out.frame, Dropped("POLICY"))])
    left = Ether(out.frame)[IP if family == 4 else IPv6].payload
    given = left.id if kind == "echo" else left.sport
    answer = {"tcp": tcp(80, given, "SA"), "udp": udp(53, given), "echo": echo_reply(family, given)}[kind]
    back = testrun.send(FromOutside(), raw(_in(family, answer)))
    assert (back.verdict, back.to) == ("delivered", "client")


def test_what_others_send_through_the_host(testrun: TestRun, family: int) -> None:
    """With an address of their own it is theirs; with the host's, translated by somebody else, an answer gets in."""
    guard(testrun, CLOSED)
    theirs = _out(family, tcp(40000, 80), source={4: "172.17.0.2", 6: "2001:db8:99::2"}[family])
    play(testrun, [
        Step(ToOutside(forwarded=True), theirs, Sent(raw(theirs))),
        Step(ToOutside(forwarded=True), _out(family, tcp(40001, 80)), Sent(raw(_out(family, tcp(40001, 80))))),
        _enters(_in(family, tcp(80, 40001, "SA"))),
    ])  # fmt: skip


def test_the_tunnels_own_packets(testrun: TestRun, family: int) -> None:
    """They are judged by what is in them; with the lifeline cut, as any other."""
    guard(testrun, CLOSED, CLOSED, more=TUNNELS)
    into, out = _in(family, udp(40000, VXLAN_PORT), OTHER_NODE[family]), _out(family, udp(40000, VXLAN_PORT), OTHER_NODE[family])
    play(testrun, [
        _enters(into), _leaves(out), _refused(_in(family, udp(VXLAN_PORT, 40000))),
        _refused(_in(family, udp(40000, VXLAN_PORT))), Step(ToOutside(), _out(family, udp(40000, VXLAN_PORT)), Dropped("POLICY")),
        _refused(_in(family, udp(40000, VXLAN_PORT), OTHER_NODE[family], {4: "224.0.0.9", 6: "ff02::9"}[family])),
    ])  # fmt: skip
    guard(testrun, CLOSED, CLOSED)
    play(testrun, [_refused(into), Step(ToOutside(), out, Dropped("POLICY"))])


# -- what is not plain --------------------------------------------------------------------------------------------------------


def test_fragments(closed: TestRun, family: int) -> None:
    """Later ones pass as their first did, and not before it."""

    def parts(port: int, number: int) -> list[Packet]:
        whole = raw(udp(40000, port, b"x" * 2000)) if port != 22 else raw(tcp(40000, 22, "S", b"x" * 2000))
        protocol = 17 if port != 22 else 6
        if family == 4:
            head = IP(src=OUTSIDE[4], dst=NODE[4], ttl=60, id=number)
            made = [head.copy(), head.copy()]
            for index, (part, piece) in enumerate(zip(made, (whole[:1200], whole[1200:]), strict=True)):
                part.flags, part.frag, part.proto = 1 - index, 150 * index, protocol
                made[index] = part / piece
            return [Ether(src=ROUTER_MAC, dst=HERE.mac) / part for part in made]
        return [
            Ether(src=ROUTER_MAC, dst=HERE.mac)
            / IPv6(src=OUTSIDE[6], dst=NODE[6], hlim=60)
            / IPv6ExtHdrFragment(id=number, nh=protocol, m=1 - index, offset=150 * index)
            / piece
            for index, piece in enumerate((whole[:1200], whole[1200:]))
        ]

    good, bad = parts(22, 7), parts(53, 9)
    play(closed, [
        _refused(good[1], "FRAGMENT_NOT_FOUND"), _enters(good[0]), _enters(good[1]), _refused(bad[0]), _refused(bad[1]),
    ])  # fmt: skip


def test_protocols_without_ports(testrun: TestRun) -> None:
    """Judged by who sends them: a rule for everything lets them in, one with ports does not."""
    frame = _in(4, GRE() / b"inner", OTHER_NODE[4])
    guard(testrun, Side(everybody=[Rule(1, protocol=TCP_, port=22)]))
    play(testrun, [_refused(frame)])
    guard(testrun, Side(peers={6: [Rule(1)]}), CLOSED)
    play(testrun, [_enters(frame), Step(ToOutside(), _out(4, GRE() / b"inner", OTHER_NODE[4]), Dropped("POLICY"))])


def test_what_can_not_be_parsed_does_not_get_in(closed: TestRun) -> None:
    options = Ether(src=ROUTER_MAC, dst=HERE.mac) / IP(src=OUTSIDE[4], dst=NODE[4], options=[IPOption_RR()]) / tcp(40000, 22)
    short = raw(_in(4, tcp(40000, 22)))[:40]
    play(closed, [_refused(options, "IP_OPTIONS"), Step(FromOutside(), short, Dropped("INVALID"))])


@pytest.mark.parametrize("sides", [(OPEN, CLOSED), (CLOSED, OPEN), (OPEN, OPEN)], ids=["egress", "ingress", "audit"])
def test_where_nothing_is_refused_nothing_is_lost(testrun: TestRun, sides: tuple[Side, Side]) -> None:
    """What can't be judged passes in a direction that no policy closes, as it would without any."""
    guard(testrun, *sides)
    if sides == (OPEN, OPEN):
        testrun.node.policy(9, CLOSED, CLOSED)
        testrun.node.host(audit=9)
    options = IP(src=OUTSIDE[4], dst=NODE[4], options=[IPOption_RR()]) / tcp(40000, 23)
    back = IP(src=NODE[4], dst=OUTSIDE[4], options=[IPOption_RR()]) / tcp(23, 40000)
    into, out = Ether(src=ROUTER_MAC, dst=HERE.mac) / options, Ether(src=HERE.mac, dst=ROUTER_MAC) / back
    spoofed = _in(4, tcp(40000, 23), source=FAR.address(4))
    later = Ether(src=ROUTER_MAC, dst=HERE.mac) / IP(src=OUTSIDE[4], dst=NODE[4], proto=17, frag=100, id=3) / (b"x" * 64)
    closed_in, closed_out = (side == CLOSED for side in sides)
    play(testrun, [
        _refused(into, "IP_OPTIONS") if closed_in else _enters(into),
        _refused(later, "FRAGMENT_NOT_FOUND") if closed_in else _enters(later),
        _refused(spoofed, "AROUND_TUNNEL") if closed_in else _enters(spoofed),
        Step(ToOutside(), out, Dropped("IP_OPTIONS")) if closed_out else _leaves(out),
    ])  # fmt: skip


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_a_stranger_takes_no_port_from_a_pod(testrun: TestRun, family: int, kind: str) -> None:
    """What comes to a port of masquerading's, and passes the host's policy, makes no entry where a pod would get one."""
    guard(testrun, OPEN, CLOSED)
    masquerading(testrun.node, flags=READY | MASQUERADE | TUNNEL | FIREWALL, nat_first=61000, nat_last=61000)
    layers = udp(53, 61000) if kind == "udp" else tcp(80, 61000, "A")
    play(testrun, [_enters(_in(family, layers))])
    asked = from_pod(WEB, OUTSIDE[family], udp(40000, 53) if kind == "udp" else tcp(40000, 80))
    assert testrun.send(FromPod(WEB), raw(asked)).verdict == "tunnelled"


def test_a_port_that_a_pod_has_is_not_the_hosts(testrun: TestRun, family: int) -> None:
    """Neither does a SYN to it get to the pod, nor does what the host sends from it take it over."""
    guard(testrun, SSH)
    masquerading(testrun.node, flags=READY | MASQUERADE | TUNNEL | FIREWALL, nat_first=61000, nat_last=61000)
    for layers in (tcp(40000, 80), echo(family, 40000)):
        assert testrun.send(FromPod(WEB), raw(from_pod(WEB, OUTSIDE[family], layers))).verdict == "tunnelled"
    play(testrun, [_refused(_in(family, tcp(80, 61000))), _leaves(_out(family, echo(family, 61000)))])
    for layers in (tcp(80, 61000, "SA"), echo_reply(family, 61000)):
        back = testrun.send(FromOutside(), raw(_in(family, layers)))
        assert (back.verdict, back.to) == ("delivered", "web")


def test_what_a_link_needs_passes(testrun: TestRun) -> None:
    guard(testrun, CLOSED, CLOSED)
    igmp = Ether(src=ROUTER_MAC, dst="01:00:5e:00:00:01") / IP(src=OUTSIDE[4], dst="224.0.0.1", ttl=1, proto=2) / bytes(8)
    alert = IP(src=NODE[4], dst="224.0.0.22", ttl=1, proto=2, options=b"\x94\x04\x00\x00") / bytes(16)
    asked = Ether(src=ROUTER_MAC, dst=HERE.mac) / IPv6(src="fe80::1", dst=NODE[6], hlim=255) / ICMPv6ND_NS(tgt=NODE[6])
    report = Ether(src=HERE.mac, dst="33:33:00:00:00:16") / IPv6(src="fe80::2", dst="ff02::16", hlim=1)
    report = report / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / ICMPv6MLReport2()
    arp = Ether(src=ROUTER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc=OTHER_NODE[4], pdst=NODE[4])
    play(testrun, [
        _enters(igmp), _leaves(Ether(src=HERE.mac, dst="01:00:5e:00:00:16") / alert), _enters(asked), _leaves(report), _enters(arp),
    ])  # fmt: skip


@pytest.mark.parametrize("to", ["another address", "broadcast", "group"])
def test_other_addresses_are_the_hosts_too(closed: TestRun, to: str) -> None:
    """One that nobody has told us of, everybody's, and a group's."""
    address = {"another address": "192.0.2.199", "broadcast": "255.255.255.255", "group": "224.0.0.251"}[to]
    play(closed, [_refused(_in(4, udp(5353, 5353), to=address)), _enters(_in(4, tcp(5353, 22), to=address))])


def test_addresses_of_a_link(closed: TestRun) -> None:
    """A neighbour is no way around."""
    play(closed, [_refused(_in(6, tcp(40000, 23), "fe80::1", "fe80::2")), _enters(_in(6, tcp(40000, 22), "fe80::1", "fe80::2"))])


def test_a_tag_behind_the_tag(closed: TestRun) -> None:
    """The kernel takes off a second tag that names no VLAN, behind our back."""
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / Dot1Q(vlan=0) / ip(OUTSIDE[4], NODE[4]) / tcp(40000, 23)
    play(closed, [_refused(frame, "VLAN")])


def test_errors(testrun: TestRun, family: int) -> None:
    """About a connection of the host's they get in, whichever router says that a packet is too big; others do not."""
    guard(testrun, CLOSED)
    sent = _out(family, tcp(40000, 443))
    play(testrun, [_leaves(sent)])

    def error(port: int) -> Packet:
        inner = ip(NODE[family], OUTSIDE[family]) / tcp(port, 443)
        said = ICMP(type=3, code=4, nexthopmtu=1300) / inner if family == 4 else ICMPv6PacketTooBig(mtu=1300) / inner
        return _in(family, said, source=ROUTER_ON_THE_WAY[family])

    play(testrun, [_enters(error(40000)), _refused(error(40001))])


# -- who lies --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "reason"), [
    ({4: HERE.underlay, 6: NODE[6]}, "WRONG_NODE"),
    (HERE.routers, "WRONG_NODE"),
    (CLIENT.addresses, "WRONG_NODE"),
    (FAR.addresses, "AROUND_TUNNEL"),
    (THERE.routers, "AROUND_TUNNEL"),
], ids=["our address", "our router", "our pod", "their pod", "their router"])  # fmt: skip
def test_sources_that_can_not_be(testrun: TestRun, family: int, source: dict[int, str], reason: str) -> None:
    guard(testrun, Side(everybody=[Rule(1)]))
    play(testrun, [_refused(_in(family, tcp(40000, 22), source=source[family]), reason)])


def test_to_a_pods_address_is_not_to_the_host(testrun: TestRun, family: int) -> None:
    guard(testrun, Side(everybody=[Rule(1)]))
    play(testrun, [_refused(_in(family, tcp(40000, 22), to=WEB.address(family)), "AROUND_TUNNEL")])


# -- changes ---------------------------------------------------------------------------------------------------------------


def test_a_connection_ends_with_its_rule(closed: TestRun, family: int) -> None:
    """And one that is still allowed goes on, in both directions."""
    play(closed, [_enters(_in(family, tcp(40000, 22))), _leaves(_out(family, tcp(22, 40000, "SA")))])
    closed.node.policy(10, Side(everybody=[Rule(1, protocol=TCP_, port=22)]), OPEN)
    closed.node.host(policy=10, enforced=[INGRESS])
    closed.node.raise_slot(0)
    play(closed, [_leaves(_out(family, tcp(22, 40000, "A"))), _enters(_in(family, tcp(40000, 22, "A")))])
    closed.node.policy(11, CLOSED, OPEN)
    closed.node.host(policy=11, enforced=[INGRESS])
    closed.node.raise_slot(0)
    play(closed, [
        Step(ToOutside(), _out(family, tcp(22, 40000, "A")), Dropped("POLICY")), _refused(_in(family, tcp(40000, 22, "A"))),
    ])  # fmt: skip


def test_a_policy_that_is_not_there_whole_lets_nothing_in(closed: TestRun) -> None:
    closed.node.policy(9, SSH, OPEN, complete=False)
    play(closed, [_refused(_in(4, tcp(40000, 22)), "ENDPOINT_NOT_READY")])


def test_without_its_row_the_last_policy_has_gone(closed: TestRun, family: int) -> None:
    """The settings say so in the next moment; a node that lets in nobody meanwhile could not even be told."""
    closed.node.datapath.map("endpoints").delete({"family": 0, "address": bytes(16)})
    play(closed, [_enters(_in(family, tcp(40000, 23)))])


def test_audit(testrun: TestRun, family: int) -> None:
    """Nothing is refused; what would be is told, of the host's own and of what pods ask of it."""
    testrun.node.reset(policies={9: (SSH, CLOSED)})
    masquerading(testrun.node, flags=READY | MASQUERADE | TUNNEL | FIREWALL)
    testrun.node.host(audit=9)
    into, out = _in(family, tcp(40000, 23)), _out(family, tcp(40001, 443))
    asked = from_pod(CLIENT, HERE.routers[family], tcp(40000, 80))
    play(testrun, [
        Step(FromOutside(), into, ToHost(raw(into)), {"audited": 1, "policy": 9, "direction": INGRESS}),
        Step(ToOutside(), out, Sent(raw(out)), {"audited": 1, "policy": 9, "direction": EGRESS}),
        Step(FromPod(CLIENT), asked, ToHost(raw(asked)), {"audited": 1, "policy": 9, "direction": INGRESS}),
        Step(FromOutside(), _in(family, tcp(40000, 22)), ToHost(), {"audited": 0}),
    ])  # fmt: skip


def test_without_a_policy_nothing_is_remembered(testrun: TestRun, family: int) -> None:
    guard(testrun, SSH)
    masquerading(testrun.node)
    play(testrun, [_enters(_in(family, tcp(40000, 23))), _leaves(_out(family, tcp(40001, 443)))])
    assert not list(testrun.node.datapath.map("embryonic").items())
