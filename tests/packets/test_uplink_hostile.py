"""What a hostile pod, and what somebody outside who knows its tuple, can do to masqueraded connections and to those of other
nodes' pods. Everything here passed once."""

import pytest
from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, HERE, NEAR_FAR, OTHER, OUTSIDE, THERE, WEB, Pod
from tests.packets.harness.frames import from_pod, ip, raw, routed, udp
from tests.packets.harness.node import Node, Side
from tests.packets.harness.scenario import Delivered, Dropped, FromOutside, FromPod, Sent, Step, play
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.world import FIRST, NODE, OTHER_NODE, ROUTER_MAC, VXLAN_PORT, masquerading

pytestmark = pytest.mark.kernel
ESTABLISHED, CLOSING = 1, 2
HALF = 32
REDIRECTED = 7  # TC_ACT_REDIRECT


@pytest.fixture
def uplink(testrun: TestRun) -> TestRun:
    testrun.node.reset()
    masquerading(testrun.node)
    testrun.node.ipcache(NODE[6], 1, flags=2 | 8)
    testrun.node.ipcache(OTHER_NODE[6], 6, flags=2)
    return testrun


# -- ports are shared --------------------------------------------------------------------------------------------------


def _took(uplink: TestRun, pod: Pod, family: int, first: int, count: int) -> int:
    """How many of so many flows of a pod, from so many ports of its own to one port outside, get a port of the node's."""
    return sum(
        uplink.run(FromPod(pod), raw(from_pod(pod, OUTSIDE[family], udp(first + number, 53))))[0] == REDIRECTED
        for number in range(count)
    )


def test_one_pod_takes_no_more_than_half_of_the_nodes_ports(uplink: TestRun, family: int) -> None:
    """Sixty-four ports, and a pod that asks for ten times as many to one destination: others still get there."""
    masquerading(uplink.node, nat_first=FIRST, nat_last=FIRST + 2 * HALF - 1)
    assert _took(uplink, CLIENT, family, 1000, 640) == HALF
    assert _took(uplink, CLIENT, family, 2000, 50) == 0
    for other in (OTHER, WEB):
        assert _took(uplink, other, family, 1000, 4) == 4, f"nothing is left for {other.name}"
    # Nor do two of them together: seven ports are neither's, and four at most of these are in use. Where so few are left a flow
    # may not find one by chance, so there are many.
    _took(uplink, OTHER, family, 3000, 640)
    assert 3 <= _took(uplink, WEB, family, 3000, 640) <= 7


# -- ends that nobody meant --------------------------------------------------------------------------------------------


def _pods(family: int, flags: str, seq: int, ack: int) -> Packet:
    return from_pod(CLIENT, OUTSIDE[family], TCP(sport=40000, dport=443, flags=flags, seq=seq, ack=ack))


def _outsides(family: int, given: int, flags: str, seq: int) -> bytes:
    layers = TCP(sport=443, dport=given, flags=flags, seq=seq & 0xFFFFFFFF, ack=1001)
    return raw(Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OUTSIDE[family], NODE[family], 60) / layers)


def _states(node: Node, family: int, given: int) -> tuple[int, int]:
    forward = node.flow("POD_OUT", CLIENT.address(family), OUTSIDE[family], 6, (40000, 443))[1]["state"]
    return forward, node.flow("UPLINK_IN", OUTSIDE[family], NODE[family], 6, (443, given))[1]["state"]


def _established(uplink: TestRun, family: int, heard: int) -> int:
    """A masqueraded connection whose pod has acknowledged so much; the node's port."""
    uplink.send(FromPod(CLIENT), raw(_pods(family, "S", 1000, 0)))
    given = int(uplink.node.flow("POD_OUT", CLIENT.address(family), OUTSIDE[family], 6, (40000, 443))[1]["nat_port"])
    uplink.send(FromOutside(), _outsides(family, given, "SA", heard - 1))
    uplink.send(FromPod(CLIENT), raw(_pods(family, "A", 1001, heard)))
    assert _states(uplink.node, family, given) == (ESTABLISHED, ESTABLISHED)
    return given


@pytest.mark.parametrize("flags", ["R", "RA", "FA"])
@pytest.mark.parametrize("way", ["fast", "slow"])
@pytest.mark.parametrize("heard", [7_000_000, 5, 0xFFFFFFFF], ids=["anywhere", "at the wrap", "before the wrap"])
def test_a_blind_reset_from_the_outside_ends_no_record(uplink: TestRun, family: int, flags: str, way: str, heard: int) -> None:
    """Whoever bears the server's address and guesses the port, but not the sequence: the pod gets it and knows better; an idle
    connection in which the server speaks next is still there after the time that a closing one has."""
    given = _established(uplink, family, heard)
    for away in (1 << 17, 1 << 31, -(1 << 17)):
        if way == "slow":
            uplink.node.raise_slot(0)
        assert uplink.send(FromOutside(), _outsides(family, given, flags, heard + away)).verdict == "delivered"
        assert _states(uplink.node, family, given) == (ESTABLISHED, ESTABLISHED)
    for key in (("POD_OUT", CLIENT.address(family), OUTSIDE[family], 6, (40000, 443)),
                ("UPLINK_IN", OUTSIDE[family], NODE[family], 6, (443, given))):  # fmt: skip
        uplink.node.change_flow(*key, last_seen=uplink.node.seconds(600))
    assert uplink.send(FromOutside(), _outsides(family, given, "PA", heard)).to == CLIENT.name


@pytest.mark.parametrize("flags", ["R", "FA"])
@pytest.mark.parametrize("way", ["fast", "slow"])
def test_an_end_that_the_outside_meant_is_believed(uplink: TestRun, family: int, flags: str, way: str) -> None:
    """Some data that the pod has not acknowledged yet may lie between."""
    for ahead in (0, 20_000):
        uplink.node.reset()
        masquerading(uplink.node)
        given = _established(uplink, family, 7_000_000)
        if way == "slow":
            uplink.node.raise_slot(0)
        assert uplink.send(FromOutside(), _outsides(family, given, flags, 7_000_000 + ahead)).verdict == "delivered"
        assert _states(uplink.node, family, given) == (CLOSING, CLOSING)


def test_a_refused_connection_ends_at_once(uplink: TestRun, family: int) -> None:
    """Its reset answers a SYN: nothing has been acknowledged."""
    uplink.send(FromPod(CLIENT), raw(_pods(family, "S", 1000, 0)))
    given = int(uplink.node.flow("POD_OUT", CLIENT.address(family), OUTSIDE[family], 6, (40000, 443))[1]["nat_port"])
    uplink.send(FromOutside(), _outsides(family, given, "RA", 0))
    assert _states(uplink.node, family, given) == (CLOSING, CLOSING)


# -- news from a third, without a tunnel -------------------------------------------------------------------------------


def _about(family: int, kind: str, asked: Packet) -> Packet:
    quoted = asked.payload.copy()
    if kind == "too big":
        return ICMP(type=3, code=4, nexthopmtu=68) / quoted if family == 4 else ICMPv6PacketTooBig(mtu=1280) / quoted
    return ICMP(type=3, code=1) / quoted if family == 4 else ICMPv6DestUnreach(code=3) / quoted


@pytest.mark.parametrize("kind", ["unreachable", "too big"])
def test_an_error_from_a_third_by_the_uplink(testrun: TestRun, family: int, kind: str) -> None:
    """Another node's pod, which the client's policy keeps out, can't speak of its connection with that node's other pod; that pod
    and the nodes can."""
    testrun.node.reset(policies={5: (Side(everybody=[]), Side())}, pods={"client": 5})
    masquerading(testrun.node, tunnel=False)
    testrun.node.ipcache(NODE[6], 1, flags=2 | 8)
    testrun.node.ipcache(OTHER_NODE[6], 6, flags=2)
    asked = from_pod(CLIENT, FAR.address(family), udp(40000, 53))

    def tells(source: str, passes: bool) -> Step:
        frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(source, CLIENT.address(family), 60) / _about(family, kind, asked)
        return Step(FromOutside(), frame, Delivered(CLIENT, routed(frame, to=CLIENT)) if passes else Dropped("POLICY"))

    play(testrun, [
        tells(FAR.address(family), False),
        Step(FromPod(CLIENT), asked, Sent(routed(asked))),
        tells(FAR.address(family), True),
        tells(OTHER_NODE[family], True),
        tells(THERE.routers[family], True),
        tells(NEAR_FAR.address(family), False),
    ])  # fmt: skip
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OUTSIDE[family], CLIENT.address(family), 60) / _about(family, kind, asked)
    play(testrun, [Step(FromOutside(), frame, Dropped("UNKNOWN_SENDER"))])


# -- a tunnel of one's own ---------------------------------------------------------------------------------------------

GENEVE = 6081


@pytest.mark.parametrize("port", [VXLAN_PORT, GENEVE], ids=["VXLAN", "Geneve"])
@pytest.mark.parametrize("to", ["this node", "another node", "a node that nobody has heard of"])
def test_cve_2019_13119_whichever_port_the_tunnel_has(uplink: TestRun, family: int, port: int, to: str) -> None:
    """The configured one is refused to every address that may be a node's, whatever the bytes are; the other one is a port."""
    address = {"this node": NODE, "another node": OTHER_NODE, "a node that nobody has heard of": OUTSIDE}[to][family]
    frame = from_pod(CLIENT, address, udp(6666, port, bytes.fromhex("0000655800000100") + b"x" * 60))
    for configured in (VXLAN_PORT, GENEVE):
        uplink.node.datapath.map("embryonic").clear()
        masquerading(uplink.node, tunnel_port=configured)
        out = uplink.send(FromPod(CLIENT), raw(frame))
        if port == configured:
            assert (out.verdict, out.reason) == ("dropped", uplink.node.reason("TUNNEL_PORT"))
        else:
            assert out.verdict != "dropped"
