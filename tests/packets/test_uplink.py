"""The uplink, packet by packet: what masquerading does to the bytes and the tables, and what passes the node's stack untouched."""

from collections.abc import Sequence
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP, IPOption_RR, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, HERE, OTHER, OUTSIDE, STRANGER, THERE, WEB, Pod, packed
from tests.packets.harness.frames import echo, echo_reply, from_pod, ip, raw, routed, router, tcp, udp
from tests.packets.harness.node import DENY, Rule, Side
from tests.packets.harness.scenario import (
    Delivered,
    Dropped,
    FromOutside,
    FromPod,
    Outcome,
    Sent,
    Step,
    ToHost,
    ToOutside,
    Tunnelled,
    play,
)
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.world import FIRST, LAST, NODE, OTHER_NODE, ROUTER_MAC, VXLAN_PORT, masquerading

pytestmark = pytest.mark.kernel

ANYBODY = Side(everybody=[Rule(1)])
REDIRECTED = 7  # TC_ACT_REDIRECT
KINDS = ["tcp", "udp", "echo"]
NUMBER = {"tcp": 6, "udp": 17}


@pytest.fixture
def uplink(testrun: TestRun) -> TestRun:
    ready(testrun)
    return testrun


def ready(harness: TestRun, **changed: object) -> None:
    """The tables of a node that masquerades."""
    harness.node.reset(**changed)  # type: ignore[arg-type]
    masquerading(harness.node)
    harness.node.ipcache(NODE[6], 1, flags=2 | 8)
    harness.node.ipcache(OTHER_NODE[6], 6, flags=2)


def _moved(harness: TestRun, family: int, address: str) -> None:
    """This node has that address of the family now."""
    changed: dict[str, Any] = {f"node_ipv{family}": packed(address)}
    masquerading(harness.node, **changed)


def _number(family: int, kind: str) -> int:
    return NUMBER.get(kind, 1 if family == 4 else 58)


def _ask(family: int, kind: str, port: int, flags: str = "S") -> Packet:
    return {"tcp": tcp(port, 80, flags, b"" if flags == "S" else b"x" * 9), "udp": udp(port, 53), "echo": echo(family, port)}[kind]


def _answer(family: int, kind: str, port: int, flags: str = "SA") -> Packet:
    return {"tcp": tcp(80, port, flags), "udp": udp(53, port), "echo": echo_reply(family, port)}[kind]


def _ports(kind: str, port: int) -> tuple[int, int]:
    return port, {"tcp": 80, "udp": 53, "echo": 0}[kind]


def _asked(family: int, kind: str, port: int = 40000, pod: Pod = CLIENT, to: str = "", flags: str = "S", ttl: int = 64) -> Packet:
    return from_pod(pod, to or OUTSIDE[family], _ask(family, kind, port, flags), ttl)


def _masqueraded(family: int, kind: str, port: int, pod: Pod = CLIENT, to: str = "", flags: str = "S") -> bytes:
    """As it leaves, but for the MACs, which the kernel's neighbour table gives it."""
    layers = _ask(family, kind, port, flags)
    return raw(Ether(src=pod.mac, dst=pod.gateway_mac) / ip(NODE[family], to or OUTSIDE[family], 63) / layers)


def _in(family: int, layers: Packet, source: str = "", to: str = "", ttl: int = 60) -> Packet:
    """As it comes from the router."""
    return Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(source or OUTSIDE[family], to or NODE[family], ttl) / layers


def _given(harness: TestRun, family: int, kind: str, port: int = 40000, pod: Pod = CLIENT, to: str = "") -> int:
    """The port that the connection has got."""
    table, held = harness.node.flow(
        "POD_OUT", pod.address(family), to or OUTSIDE[family], _number(family, kind), _ports(kind, port)
    )
    assert table, "no entry"
    return int(held["nat_port"])


def _reverse(family: int, kind: str, port: int) -> tuple[str, str, str, int, tuple[int, int]]:
    return "UPLINK_IN", OUTSIDE[family], NODE[family], _number(family, kind), _ports(kind, port)[::-1]


def _begin(harness: TestRun, family: int, kind: str, port: int = 40000, pod: Pod = CLIENT) -> int:
    """The first packet of a connection; the port it has got."""
    frame = _asked(family, kind, port, pod)
    out = harness.send(FromPod(pod), raw(frame))
    given = _given(harness, family, kind, port, pod)
    assert FIRST <= given <= LAST
    assert (out.verdict, out.frame) == ("tunnelled", _masqueraded(family, kind, given, pod))
    return given


def _reply(family: int, kind: str, given: int, port: int = 40000, pod: Pod = CLIENT, flags: str = "SA") -> Step:
    """What the outside answers, and what the pod gets of it."""
    frame = _in(family, _answer(family, kind, given, flags))
    inside = ip(OUTSIDE[family], pod.address(family), 59) / _answer(family, kind, port, flags)
    return Step(FromOutside(), frame, Delivered(pod, raw(Ether(src=pod.gateway_mac, dst=pod.mac) / inside)))


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(uplink: TestRun, family: int, kind: str) -> None:
    """Addresses, port or identifier, TTL, every checksum: the first packet, and those that follow by the table."""
    given = _begin(uplink, family, kind)
    assert uplink.node.flow(*_reverse(family, kind, given))[0] == "embryonic"
    play(uplink, [_reply(family, kind, given)])
    assert uplink.node.flow(*_reverse(family, kind, given))[0] == "flows"
    for _ in range(3):
        play(uplink, [
            Step(FromPod(CLIENT), _asked(family, kind, flags="A"), Sent(_masqueraded(family, kind, given, flags="A")), {}),
            _reply(family, kind, given, flags="A"),
        ])  # fmt: skip
    _, forward = uplink.node.flow("POD_OUT", CLIENT.address(family), OUTSIDE[family], _number(family, kind), _ports(kind, 40000))
    _, back = uplink.node.flow(*_reverse(family, kind, given))
    assert (forward["packets"], back["packets"]) == (4, 4)
    assert (forward["state"], back["state"]) == ((1, 1) if kind == "tcp" else (3, 3))


def test_its_event(uplink: TestRun, family: int) -> None:
    """A flow to the outside is told as the pod's own, to the world."""
    frame = _asked(family, "udp")
    out = uplink.send(FromPod(CLIENT), raw(frame))
    assert [(one["source_identity"], one["destination_identity"], one["path"], one["source_port"]) for one in out.events] == [
        (CLIENT.identity, 2, 6, 40000)
    ]
    step = _reply(family, "udp", _given(uplink, family, "udp"))
    events = uplink.send(step.at, raw(step.frame)).events
    assert not events or events[0]["destination"] == packed(CLIENT.address(family))


def test_what_follows_is_replayed(uplink: TestRun, family: int) -> None:
    """Without a generation raised, a changed policy is not noticed: nothing was decided anew, in either direction."""
    ready(uplink, policies={1: (ANYBODY, ANYBODY), 2: (Side(everybody=[Rule(9, DENY)]),) * 2}, pods={"client": 1})
    given = _begin(uplink, family, "udp")
    play(uplink, [_reply(family, "udp", given), _reply(family, "udp", given)])
    uplink.node.endpoint(CLIENT, policy=2, enforced=[0, 1])
    again = Step(FromPod(CLIENT), _asked(family, "udp"), Sent(_masqueraded(family, "udp", given)), {})
    play(uplink, [again, _reply(family, "udp", given)])
    uplink.node.raise_slot(CLIENT.slot)
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp"), Dropped("POLICY_DENY"))])
    refused = _reply(family, "udp", given)
    play(uplink, [Step(refused.at, refused.frame, Dropped("POLICY_DENY"))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["the pod", "the outside"])
def test_decided_anew_the_port_stays(uplink: TestRun, family: int, kind: str, first: str) -> None:
    given = _begin(uplink, family, kind)
    play(uplink, [_reply(family, kind, given)])
    uplink.node.raise_slot(0)
    steps = [
        Step(FromPod(CLIENT), _asked(family, kind, flags="A"), Sent(_masqueraded(family, kind, given, flags="A"))),
        _reply(family, kind, given, flags="A"),
    ]
    play(uplink, steps if first == "the pod" else steps[::-1])


def test_both_directions_close_together(uplink: TestRun, family: int) -> None:
    """By the table alone: a FIN shortens both, data restores both."""
    given = _begin(uplink, family, "tcp")
    play(uplink, [_reply(family, "tcp", given), Step(FromPod(CLIENT), _asked(family, "tcp", flags="A"),
                                                     Sent(_masqueraded(family, "tcp", given, flags="A")))])  # fmt: skip
    forward = ("POD_OUT", CLIENT.address(family), OUTSIDE[family], 6, (40000, 80))

    def states() -> tuple[int, int]:
        return uplink.node.flow(*forward)[1]["state"], uplink.node.flow(*_reverse(family, "tcp", given))[1]["state"]

    assert states() == (1, 1)
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "tcp", flags="FA"), Sent(_masqueraded(family, "tcp", given, flags="FA")))])
    assert states() == (2, 2)
    data = _in(family, tcp(80, given, "A", b"more"))
    assert uplink.send(FromOutside(), raw(data)).verdict == "delivered"
    assert states() == (1, 1)
    play(uplink, [_reply(family, "tcp", given, flags="FA")])
    assert states() == (2, 2)


def test_the_other_directions_entry_was_evicted(uplink: TestRun, family: int) -> None:
    """It is made again, with the same port, before the packet leaves."""
    given = _begin(uplink, family, "udp")
    where = uplink.node.flow_key(*_reverse(family, "udp", given))
    uplink.node.datapath.map("embryonic").delete(where)
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp"), Sent(_masqueraded(family, "udp", given))),
                  _reply(family, "udp", given)])  # fmt: skip


def test_this_directions_entry_was_evicted(uplink: TestRun, family: int) -> None:
    """A reply still finds the pod, and the way out is known again."""
    given = _begin(uplink, family, "udp")
    where = uplink.node.flow_key("POD_OUT", CLIENT.address(family), OUTSIDE[family], 17, (40000, 53))
    uplink.node.datapath.map("embryonic").delete(where)
    play(
        uplink,
        [_reply(family, "udp", given), Step(FromPod(CLIENT), _asked(family, "udp"), Sent(_masqueraded(family, "udp", given)))],
    )


def test_the_port_went_to_another_meanwhile(uplink: TestRun, family: int) -> None:
    """Then the connection gets a new one: no pod's packet leaves under another's entry."""
    given = _begin(uplink, family, "udp")
    where = _reverse(family, "udp", given)
    uplink.node.change_flow(*where, nat=packed(OTHER.address(family)))
    uplink.send(FromPod(CLIENT), raw(_asked(family, "udp")))
    now = _given(uplink, family, "udp")
    assert now != given
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp"), Sent(_masqueraded(family, "udp", now)))])


def test_an_answer_to_a_port_that_was_given_up(uplink: TestRun, family: int) -> None:
    """The connection has another port by now: what comes to the old one is not its."""
    given = _begin(uplink, family, "udp")
    forward = ("POD_OUT", CLIENT.address(family), OUTSIDE[family], 17, (40000, 53))
    uplink.node.change_flow(*forward, nat_port=given - 1 if given > FIRST else given + 1)
    play(uplink, [Step(FromOutside(), _in(family, udp(53, given)), Dropped("NAT_NO_MAPPING"))])


def test_both_directions_age_together(uplink: TestRun, family: int) -> None:
    """One side alone talks: the other one's entry must be there when it is needed, and must not be swept."""
    given = _begin(uplink, family, "udp")
    play(uplink, [_reply(family, "udp", given)])
    forward = ("POD_OUT", CLIENT.address(family), OUTSIDE[family], 17, (40000, 53))
    old = uplink.node.seconds() - 50
    for where in (forward, _reverse(family, "udp", given)):
        uplink.node.change_flow(*where, last_seen=old)
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp"), Sent(_masqueraded(family, "udp", given)), {})])
    assert uplink.node.flow(*_reverse(family, "udp", given))[1]["last_seen"] > old + 40


def test_the_nodes_address_changes(uplink: TestRun, family: int) -> None:
    """What goes out goes out with the new one; what comes to the old one is the stack's."""
    given = _begin(uplink, family, "udp")
    new = {4: "192.0.2.77", 6: "2001:db8:1::77"}[family]
    _moved(uplink, family, new)
    uplink.node.raise_slot(0)
    out = uplink.send(FromPod(CLIENT), raw(_asked(family, "udp")))
    assert (Ether(out.frame)[IP if family == 4 else IPv6]).src == new
    old = _reply(family, "udp", given)
    play(uplink, [Step(old.at, old.frame, ToHost(raw(old.frame)))])


# -- ports -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_one_port_is_nobodys_twice(uplink: TestRun, family: int, kind: str) -> None:
    """A range of one: another pod with the same port has to wait, another destination has not."""
    masquerading(uplink.node, nat_first=FIRST, nat_last=FIRST)
    assert _begin(uplink, family, kind) == FIRST
    frame = _asked(family, kind, pod=OTHER)
    play(uplink, [
        Step(FromPod(OTHER), frame, Dropped("NAT_NO_MAPPING"), {"source_identity": OTHER.identity, "destination_identity": 2}),
        _reply(family, kind, FIRST),
        Step(FromPod(OTHER), frame, Dropped("NAT_NO_MAPPING")),
        Step(FromPod(OTHER), _asked(family, kind, pod=OTHER, to=OTHER_NODE[family]),
             Sent(_masqueraded(family, kind, FIRST, OTHER, OTHER_NODE[family]))),
    ])  # fmt: skip
    uplink.node.change_flow(*_reverse(family, kind, FIRST), state=3, last_seen=uplink.node.seconds(100))
    play(uplink, [Step(FromPod(OTHER), frame, Sent(_masqueraded(family, kind, FIRST, OTHER)))])
    assert uplink.node.flow(*_reverse(family, kind, FIRST))[1]["nat"] == packed(OTHER.address(family))


def test_ports_are_chosen_by_chance(uplink: TestRun, family: int) -> None:
    given = [_begin(uplink, family, "udp", 40000 + number) for number in range(20)]
    assert len(set(given)) == 20
    assert sorted(given) != given


def test_a_full_range_is_used_up(uplink: TestRun) -> None:
    """Thirty-two ports, half of them for one pod and destination: what chance does not find, the search does."""
    masquerading(uplink.node, nat_first=FIRST, nat_last=FIRST + 31)
    for port in range(1, 25):
        for number in range(16):
            frame = from_pod(CLIENT, OUTSIDE[4], udp(40000 + number, port))
            assert uplink.run(FromPod(CLIENT), raw(frame))[0] == REDIRECTED, f"connection {number} to port {port}"
    one_more = from_pod(CLIENT, OUTSIDE[4], udp(41000, port))
    play(uplink, [Step(FromPod(CLIENT), one_more, Dropped("NAT_NO_MAPPING"))])


# -- who may ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "passes"), [
    (Side(peers={2: [Rule(1)]}), True),
    (Side(peers={6: [Rule(1)]}), False),
    (Side(everybody=[Rule(1)], peers={2: [Rule(2, DENY)]}), False),
    (Side(outside={"198.51.100.0/24": [Rule(1)], "2001:db8:51::/48": [Rule(1)]}), True),
    (Side(outside={"203.0.113.0/24": [Rule(1)], "2001:db8:71::/48": [Rule(1)]}), False),
    (Side(networks={"198.51.100.0/24": [Rule(1)], "2001:db8:51::/48": [Rule(1)]}), False),  # compiled into the other scope
], ids=["world", "nodes", "world denied", "its network", "another network", "the any scope"])  # fmt: skip
def test_the_outside_by_policy(uplink: TestRun, family: int, side: Side, passes: bool) -> None:
    ready(uplink, policies={1: (ANYBODY, side)}, pods={"client": 1})
    if passes:
        _begin(uplink, family, "udp")
    else:
        out = uplink.send(FromPod(CLIENT), raw(_asked(family, "udp")))
        assert out.verdict == "dropped"
        assert out.reason in (uplink.node.reason("POLICY"), uplink.node.reason("POLICY_DENY"))
        assert not list(uplink.node.datapath.map("embryonic").items())


@pytest.mark.parametrize(("side", "passes"), [(Side(peers={6: [Rule(1)]}), True), (Side(peers={2: [Rule(1)]}), False)],
                         ids=["nodes", "world"])  # fmt: skip
def test_another_nodes_address_by_policy(uplink: TestRun, family: int, side: Side, passes: bool) -> None:
    """Reached like the outside, judged as a node."""
    ready(uplink, policies={1: (ANYBODY, side)}, pods={"client": 1})
    frame = _asked(family, "udp", to=OTHER_NODE[family])
    out = uplink.send(FromPod(CLIENT), raw(frame))
    assert (out.verdict == "tunnelled") == passes
    if passes:
        given = _given(uplink, family, "udp", to=OTHER_NODE[family])
        assert out.frame == _masqueraded(family, "udp", given, to=OTHER_NODE[family])


def test_this_node_is_never_masqueraded_for(uplink: TestRun, family: int) -> None:
    for address in (NODE[family], router(family)):
        frame = from_pod(CLIENT, address, udp(1, 9999))
        play(uplink, [Step(FromPod(CLIENT), frame, ToHost(raw(frame)))])


def test_another_address_of_this_node(uplink: TestRun, family: int) -> None:
    """One that only a row names."""
    address = {4: "192.0.2.200", 6: "2001:db8:1::200"}[family]
    uplink.node.ipcache(address, 1, flags=2 | 8)
    frame = from_pod(CLIENT, address, udp(1, 9999))
    play(uplink, [Step(FromPod(CLIENT), frame, ToHost(raw(frame)))])


def test_a_pod_range_is_never_the_outside(uplink: TestRun, family: int) -> None:
    """Known or not: a pod's address goes to its node."""
    for address in (FAR.address(family), STRANGER[family]):
        frame = from_pod(CLIENT, address, udp(1, 2))
        play(uplink, [Step(FromPod(CLIENT), frame, Tunnelled(THERE, CLIENT.identity, routed(frame)))])


def test_without_masquerading(uplink: TestRun, family: int) -> None:
    masquerading(uplink.node, flags=3)
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp"), Dropped("OUTSIDE"), {"destination_identity": 2})])
    _moved(uplink, family, "0.0.0.0")
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp"), Dropped("OUTSIDE"))])
    masquerading(uplink.node, uplink_ifindex=0)
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp"), Dropped("OUTSIDE"))])


@pytest.mark.parametrize("address", ["0.0.0.1", "127.0.0.1", "224.0.0.251", "255.255.255.255", "::1", "::", "fe80::1", "ff02::fb",
                                     "::ffff:192.0.2.1"])  # fmt: skip
def test_where_no_packet_is_routed(uplink: TestRun, address: str) -> None:
    play(uplink, [Step(FromPod(CLIENT), from_pod(CLIENT, address, udp(1, 2)), Dropped("UNROUTABLE"))])


def test_protocols_that_can_not_be_told_apart(uplink: TestRun, family: int) -> None:
    """SCTP's checksum has no helper; an echo reply nobody asked for, and ICMP's other questions, would find no way back."""
    frames: list[Packet] = [from_pod(CLIENT, OUTSIDE[family], SCTP(sport=1, dport=2) / (b"x" * 8)),
                            from_pod(CLIENT, OUTSIDE[family], echo_reply(family))]  # fmt: skip
    if family == 4:
        frames.append(from_pod(CLIENT, OUTSIDE[4], ICMP(type=13)))
    play(uplink, [Step(FromPod(CLIENT), frame, Dropped("NAT_PROTOCOL")) for frame in frames])


def test_the_last_hop(uplink: TestRun, family: int) -> None:
    given = _begin(uplink, family, "udp")
    play(uplink, [Step(FromPod(CLIENT), _asked(family, "udp", ttl=1), Dropped("TTL_EXCEEDED")),
                  Step(FromOutside(), _in(family, udp(53, given), ttl=1), Dropped("TTL_EXCEEDED"))])  # fmt: skip


@pytest.mark.parametrize("to", ["this node", "its router", "another node", "another's router", "a node not heard of yet"])
def test_cve_2019_13119_a_nodes_tunnel_port(uplink: TestRun, family: int, to: str) -> None:
    address = {"this node": NODE[family], "its router": router(family), "another node": OTHER_NODE[family],
               "another's router": THERE.routers[family], "a node not heard of yet": OUTSIDE[family]}[to]  # fmt: skip
    play(uplink, [Step(FromPod(CLIENT), from_pod(CLIENT, address, udp(1, VXLAN_PORT)), Dropped("TUNNEL_PORT"))])
    assert uplink.send(FromPod(CLIENT), raw(from_pod(CLIENT, address, udp(1, VXLAN_PORT + 1)))).verdict != "dropped"
    assert uplink.send(FromPod(CLIENT), raw(from_pod(CLIENT, address, tcp(1, VXLAN_PORT)))).verdict != "dropped"


def test_a_pods_own_port_with_that_number(uplink: TestRun, family: int) -> None:
    """A pod is no node: it may have any port."""
    near, far = from_pod(CLIENT, WEB.address(family), udp(1, VXLAN_PORT)), from_pod(CLIENT, FAR.address(family), udp(1, VXLAN_PORT))
    play(uplink, [Step(FromPod(CLIENT), near, Delivered(WEB, routed(near, to=WEB))),
                  Step(FromPod(CLIENT), far, Tunnelled(THERE, CLIENT.identity, routed(far)))])  # fmt: skip


# -- the node's own ----------------------------------------------------------------------------------------------------


def _own(family: int) -> Sequence[Packet]:
    """What a node's uplink sees all day."""
    own, group = NODE[family], {4: "224.0.0.251", 6: "ff02::fb"}[family]
    inner = Ether() / IP(src=FAR.address(4), dst=WEB.address(4)) / UDP()
    frames = [
        _in(family, tcp(40000, 22)), _in(family, tcp(40000, 22, "A", b"x")), _in(family, tcp(6443, 50000, "SA")),
        _in(family, udp(53, 50000)), _in(family, echo(family)), _in(family, echo_reply(family)),
        _in(family, udp(40000, VXLAN_PORT, bytes.fromhex("0800000000000100") + raw(inner))),
        _in(family, udp(53, FIRST + 3)), _in(family, tcp(80, FIRST + 3, "SA")), _in(family, tcp(80, FIRST + 3, "S")),
        _in(family, echo_reply(family, FIRST + 3)), _in(family, udp(5353, 5353), to=group),
        _in(family, udp(1, 2), to={4: "192.0.2.99", 6: "2001:db8:1::99"}[family]), _in(family, SCTP(sport=1, dport=2)),
        Ether(src=ROUTER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=NODE[4]),
        Ether(src=ROUTER_MAC, dst=HERE.mac, type=0x88CC) / (b"x" * 40),
        Ether(src=ROUTER_MAC, dst=HERE.mac) / Dot1Q(vlan=7) / ip(OUTSIDE[family], own) / udp(1, 2),
    ]  # fmt: skip
    if family == 4:
        parts = fragment(IP(src=OUTSIDE[4], dst=own, id=9) / UDP(sport=53, dport=FIRST + 3) / (b"x" * 3000), 1480)
        frames += [Ether(src=ROUTER_MAC, dst=HERE.mac) / part for part in parts]
        frames += [Ether(src=ROUTER_MAC, dst=HERE.mac) / IP(src=OUTSIDE[4], dst=own, options=[IPOption_RR()]) / tcp(1, FIRST + 3),
                   Ether(src=ROUTER_MAC, dst=HERE.mac) / IP(src=OUTSIDE[4], dst=own, proto=47) / (b"x" * 40),
                   _in(4, ICMP(type=3, code=1) / IP(src=own, dst=OUTSIDE[4]) / UDP(sport=50000, dport=53))]  # fmt: skip
    else:
        frames += [_in(6, ICMPv6DestUnreach() / IPv6(src=own, dst=OUTSIDE[6]) / UDP(sport=50000, dport=53))]
    return frames


def test_what_comes_for_the_node_passes_untouched(uplink: TestRun, family: int) -> None:
    _begin(uplink, family, "udp")
    for frame in _own(family):
        play(uplink, [Step(FromOutside(), frame, ToHost(raw(frame)), {})])


def test_without_settings_everything_passes(uplink: TestRun, family: int) -> None:
    uplink.node.settings(flags=0)
    for frame in _own(family):
        play(uplink, [Step(FromOutside(), frame, ToHost(raw(frame)), {}), Step(ToOutside(), frame, Sent(raw(frame)), {})])


def test_what_the_node_sends_passes_untouched(uplink: TestRun, family: int) -> None:
    for frame in _own(family):
        turned = frame.copy()
        turned.src, turned.dst = HERE.mac, ROUTER_MAC
        play(uplink, [Step(ToOutside(), turned, Sent(raw(turned)), {})])


def test_a_new_connection_to_a_port_of_the_range(uplink: TestRun, family: int) -> None:
    """Also where a closing record has it: the stack refuses it."""
    given = _begin(uplink, family, "tcp")
    play(uplink, [_reply(family, "tcp", given), _reply(family, "tcp", given, flags="R")])
    frame = _in(family, tcp(80, given, "S"))
    play(uplink, [Step(FromOutside(), frame, ToHost(raw(frame)))])


def test_an_expired_record_leads_nowhere(uplink: TestRun, family: int) -> None:
    given = _begin(uplink, family, "udp")
    uplink.node.change_flow(*_reverse(family, "udp", given), last_seen=uplink.node.seconds(100))
    frame = _in(family, udp(53, given))
    play(uplink, [Step(FromOutside(), frame, ToHost(raw(frame)))])


@pytest.mark.parametrize("source", ["outside", "another node", "another node's pod", "a pod of ours"])
def test_to_a_pods_address_around_the_tunnel(uplink: TestRun, family: int, source: str) -> None:
    address = {"outside": OUTSIDE[family], "another node": OTHER_NODE[family], "another node's pod": FAR.address(family),
               "a pod of ours": OTHER.address(family)}[source]  # fmt: skip
    for to in (CLIENT.address(family), router(family), FAR.address(family), STRANGER[family]):
        for layers in (udp(1, 2), tcp(1, 2), echo(family), SCTP()):
            play(uplink, [Step(FromOutside(), _in(family, layers, address, to), Dropped("AROUND_TUNNEL"))])


def test_with_options_around_the_tunnel(uplink: TestRun) -> None:
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / IP(src=OUTSIDE[4], dst=CLIENT.address(4), options=[IPOption_RR()]) / tcp(1, 2)
    play(uplink, [Step(FromOutside(), frame, Dropped("AROUND_TUNNEL"))])


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "direct"])
def test_an_untranslated_leak(uplink: TestRun, family: int, tunnel: bool) -> None:
    masquerading(uplink.node, tunnel=tunnel)
    for pod in (CLIENT.address(family), FAR.address(family), router(family)):
        for to in (OUTSIDE[family], FAR.address(family), OTHER_NODE[family]):
            frame = Ether(src=HERE.mac, dst=ROUTER_MAC) / ip(pod, to) / udp(1, 2)
            may = not tunnel and to != OUTSIDE[family]
            expected = Sent(raw(frame)) if may else Dropped("UNTRANSLATED")
            play(uplink, [Step(ToOutside(), frame, expected, {} if may else {"source": packed(pod), "destination": packed(to)})])


# -- errors about masqueraded packets ----------------------------------------------------------------------------------


def _error(family: int, kind: str, inner: bytes) -> bytes:
    if family == 4:
        made = {"unreachable": ICMP(type=3, code=3), "too big": ICMP(type=3, code=4, nexthopmtu=1300), "time": ICMP(type=11)}[kind]
    else:
        made = {"unreachable": ICMPv6DestUnreach(code=4), "too big": ICMPv6PacketTooBig(mtu=1300), "time": ICMPv6TimeExceeded()}[
            kind
        ]
    return raw(_in(family, made / inner, {4: "192.0.2.254", 6: "2001:db8:1::fe"}[family]))


@pytest.mark.parametrize("kind", ["unreachable", "too big", "time"])
@pytest.mark.parametrize("about", KINDS)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "the least"])
def test_an_error_comes_back(uplink: TestRun, family: int, kind: str, about: str, whole: bool) -> None:
    """Outer and inner packet are the pod's again, and every checksum is right, those of the inner packet too."""
    given = _begin(uplink, family, about)
    head = (20 if family == 4 else 40) + 8
    sent, known = _masqueraded(family, about, given)[14:], routed(_asked(family, about))[14:]
    frame = _error(family, kind, sent if whole else sent[:head])
    out = uplink.send(FromOutside(), frame)
    expected = Ether(_error(family, kind, known if whole else known[:head]))
    layer = expected[IP] if family == 4 else expected[IPv6]
    layer.dst = CLIENT.address(family)
    expected.src, expected.dst = CLIENT.gateway_mac, CLIENT.mac
    if family == 4:
        layer.ttl = 59
        del layer.chksum
    else:
        layer.hlim = 59
        del layer.payload.cksum
    wanted = raw(expected)
    assert (out.verdict, out.to) == ("delivered", "client"), out
    assert not out.events
    assert out.frame == wanted, f"{Ether(wanted).show(dump=True)}{Ether(out.frame).show(dump=True)}"


def test_an_error_about_nothing_we_know(uplink: TestRun, family: int) -> None:
    """The stack's: also one about a masqueraded flow's port, but another destination, or from before it was ours."""
    given = _begin(uplink, family, "udp")
    for inner in (
        ip(NODE[family], OTHER_NODE[family]) / udp(given, 53),
        ip(NODE[family], OUTSIDE[family]) / udp(given, 54),
        ip(OUTSIDE[family], NODE[family]) / udp(53, given),
        ip(CLIENT.address(family), OUTSIDE[family]) / udp(40000, 53),
    ):
        frame = _error(family, "unreachable", raw(inner))
        play(uplink, [Step(FromOutside(), frame, ToHost(frame))])  # fmt: skip
    uplink.node.change_flow(*_reverse(family, "udp", given), last_seen=uplink.node.seconds(100))
    frame = _error(family, "unreachable", _masqueraded(family, "udp", given)[14:])
    play(uplink, [Step(FromOutside(), frame, ToHost(frame))])


def test_an_error_for_a_pod_that_is_gone(uplink: TestRun, family: int) -> None:
    given = _begin(uplink, family, "udp")
    uplink.node.forget(CLIENT)
    frame = _error(family, "unreachable", _masqueraded(family, "udp", given)[14:])
    play(uplink, [Step(FromOutside(), frame, Dropped("NO_LOCAL_ENDPOINT"))])


def test_a_pods_error_about_what_came_back(uplink: TestRun, family: int) -> None:
    given = _begin(uplink, family, "udp")
    step = _reply(family, "udp", given)
    came = play(uplink, [step])[0].frame[14:]
    made = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    out = uplink.send(FromPod(CLIENT), raw(from_pod(CLIENT, OUTSIDE[family], made / came)))
    inner = routed(step.frame)[14:]
    expected = Ether(src=CLIENT.mac, dst=CLIENT.gateway_mac) / ip(NODE[family], OUTSIDE[family], 63) / made / inner
    assert (out.verdict, out.frame) == ("tunnelled", raw(expected))


def test_a_pods_error_about_anothers_flow(uplink: TestRun, family: int) -> None:
    _begin(uplink, family, "udp")
    about = raw(ip(OUTSIDE[family], CLIENT.address(family)) / udp(53, 40000))
    made = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    out: Outcome = uplink.send(FromPod(OTHER), raw(from_pod(OTHER, OUTSIDE[family], made / about)))
    assert (out.verdict, out.reason) == ("dropped", uplink.node.reason("NAT_PROTOCOL"))
