"""An address is given again: its new pod inherits nobody's connections, and has its own, also on a tuple that was used before."""

from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, FAR, HERE, OTHER, OUTSIDE, THERE, WEB, Pod, packed
from tests.packets.harness.frames import from_pod, ip, raw, routed, router, tcp, to_pod, tunnelled, udp
from tests.packets.harness.node import Node, Rule, Side
from tests.packets.harness.scenario import (
    Delivered,
    Dropped,
    FromHost,
    FromOutside,
    FromPod,
    FromTunnel,
    Harness,
    Sent,
    Step,
    ToHost,
    Tunnelled,
    play,
)
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.world import FIRST, NODE, ROUTER_MAC, masquerading

from pilus_agent.diff.generations import address_slot

pytestmark = pytest.mark.kernel
OPEN, SHUT = Side(), Side(everybody=[])
PORTS = (5060, 5061)
NUMBER = {"tcp": 6, "udp": 17}
ASKS, SERVES, MUTE, FREE = 5, 6, 7, 8  # policies: nobody enters; anybody enters, it sends nothing; neither; both
POLICIES = {ASKS: (SHUT, OPEN), SERVES: (Side(everybody=[Rule(3)]), SHUT), MUTE: (SHUT, SHUT), FREE: (OPEN, OPEN)}
ENFORCED = {ASKS: [0], SERVES: [0, 1], MUTE: [0, 1], FREE: []}


def _heir(of: Pod) -> Pod:
    """The new pod with its addresses: other link, MACs, identity, number, slot."""
    return replace(OTHER, addresses=of.addresses, number=40, slot=40)


def succeed(node: Node, former: Pod, policy: int) -> Pod:
    """The former pod ends, and its addresses are given to a new one."""
    heir = _heir(former)
    node.forget(former)
    for address in former.addresses.values():
        node.raise_slot(address_slot(packed(address)))
        node.ipcache(address, heir.identity, flags=1 | 8)
    node.endpoint(heir, policy=policy, enforced=ENFORCED[policy])
    node.raise_slot(former.slot)
    node.raise_slot(heir.slot)
    return heir


def _l4(kind: str, ports: tuple[int, int], flags: str) -> Packet:
    return tcp(*ports, flags, b"x" if "P" in flags else b"") if kind == "tcp" else udp(*ports)


@dataclass(frozen=True)
class Pair:
    """What one of our pods and a peer, here or on another node, say to each other from port 5060 to 5061 and back."""

    family: int
    kind: str
    peer: Pod

    def says(self, pod: Pod, flags: str = "PA") -> Step:
        frame = from_pod(pod, self.peer.address(self.family), _l4(self.kind, PORTS, flags))
        if self.peer is FAR:
            return Step(FromPod(pod), frame, Tunnelled(THERE, pod.identity, routed(frame)))
        return Step(FromPod(pod), frame, Delivered(self.peer, routed(frame, to=self.peer)))

    def hears(self, pod: Pod, flags: str = "PA") -> Step:
        layers = _l4(self.kind, PORTS[::-1], flags)
        if self.peer is FAR:
            frame = tunnelled(FAR.address(self.family), pod.address(self.family), layers)
            return Step(FromTunnel(THERE, FAR.identity), frame, Delivered(pod, routed(frame, to=pod)))
        frame = from_pod(self.peer, pod.address(self.family), layers)
        return Step(FromPod(self.peer), frame, Delivered(pod, routed(frame, to=pod)))

    def said(self, pod: Pod) -> tuple[str, str, str, int, tuple[int, int]]:
        return "POD_OUT", pod.address(self.family), self.peer.address(self.family), NUMBER[self.kind], PORTS

    def heard(self, pod: Pod) -> tuple[str, str, str, int, tuple[int, int]]:
        zone = "OVERLAY_IN" if self.peer is FAR else "POD_OUT"
        return zone, self.peer.address(self.family), pod.address(self.family), NUMBER[self.kind], PORTS[::-1]


def refused(step: Step, reason: str = "POLICY") -> Step:
    return replace(step, expect=Dropped(reason))


@pytest.fixture(params=["tcp", "udp"])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(params=[FAR, WEB], ids=["remote", "local"])
def pair(request: pytest.FixtureRequest, family: int, kind: str) -> Pair:
    return Pair(family, kind, request.param)


@pytest.fixture
def home(harness: Harness) -> Harness:
    harness.node.reset(policies=POLICIES, pods={"client": ASKS})
    return harness


def _client_asked(harness: Harness, pair: Pair, answered: bool = True) -> None:
    play(harness, [pair.says(CLIENT, "S"), *([pair.hears(CLIENT, "SA"), pair.says(CLIENT)] if answered else [])])


# -- who asked is gone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "not yet"])
def test_an_answer_to_who_had_the_address_before(home: Harness, pair: Pair, answered: bool) -> None:
    """Its heir is asked, whatever that one may send. It is a new connection each time, and told so."""
    _client_asked(home, pair, answered)
    heir = succeed(home.node, CLIENT, ASKS)
    told = {"reason": home.node.reason("POLICY"), "reply": 0, "destination_identity": heir.identity}
    play(home, [replace(refused(pair.hears(heir)), event=told)] * 3)


def test_its_heir_asks_on_the_same_tuple(home: Harness, pair: Pair) -> None:
    _client_asked(home, pair)
    heir = succeed(home.node, CLIENT, ASKS)
    play(home, [
        refused(pair.hears(heir)),
        replace(pair.says(heir, "S"), event={"reason": 0, "reply": 0, "source_identity": heir.identity}),
        pair.hears(heir, "SA"), pair.says(heir), pair.hears(heir),
    ])  # fmt: skip
    home.node.raise_slot(0)
    play(home, [pair.hears(heir), pair.says(heir)])
    entry = home.node.flow(*pair.said(heir))[1]
    assert (entry["role"], entry["endpoint"]) == (0, heir.number)


@pytest.mark.parametrize("lost", ["said", "heard"])
def test_half_of_what_was_left_is_gone(home: Harness, pair: Pair, lost: str) -> None:
    _client_asked(home, pair, answered=False)
    home.node.datapath.map("embryonic").delete(home.node.flow_key(*(pair.said if lost == "said" else pair.heard)(CLIENT)))
    heir = succeed(home.node, CLIENT, ASKS)
    play(home, [refused(pair.hears(heir)), pair.says(heir, "S"), pair.hears(heir, "SA"), pair.says(heir), pair.hears(heir)])


def test_its_heir_is_asked_on_the_same_tuple(home: Harness, pair: Pair) -> None:
    """It takes the record over: the heir, who may say nothing by itself, answers."""
    _client_asked(home, pair)
    heir = succeed(home.node, CLIENT, SERVES)
    play(home, [
        refused(pair.says(heir)),
        replace(pair.hears(heir, "S"), event={"reason": 0, "reply": 0, "rule": 3}),
        pair.says(heir, "SA"), pair.hears(heir), pair.says(heir),
    ])  # fmt: skip
    assert home.node.flow(*pair.heard(heir))[1]["role"] == 0
    assert home.node.flow(*pair.said(heir))[1]["role"] == 1
    home.node.raise_slot(0)
    play(home, [pair.says(heir), pair.hears(heir)])


# -- who was asked is gone ---------------------------------------------------------------------------------------------


def test_an_heir_answers_for_nobody(home: Harness, pair: Pair) -> None:
    home.node.endpoint(CLIENT, policy=SERVES, enforced=ENFORCED[SERVES])
    play(home, [pair.hears(CLIENT, "S"), pair.says(CLIENT, "SA"), pair.hears(CLIENT)])
    heir = succeed(home.node, CLIENT, SERVES)
    play(home, [refused(pair.says(heir)), pair.hears(heir), pair.says(heir), pair.hears(heir)])
    home.node.raise_slot(0)
    play(home, [pair.says(heir), pair.hears(heir)])


def test_an_heir_asks_who_asked_the_former(home: Harness, pair: Pair) -> None:
    home.node.endpoint(CLIENT, policy=SERVES, enforced=ENFORCED[SERVES])
    play(home, [pair.hears(CLIENT, "S"), pair.says(CLIENT, "SA"), pair.hears(CLIENT)])
    heir = succeed(home.node, CLIENT, ASKS)
    play(home, [refused(pair.hears(heir)), pair.says(heir, "S"), pair.hears(heir, "SA"), pair.says(heir)])
    assert home.node.flow(*pair.said(heir))[1]["role"] == 0


@pytest.mark.parametrize("first", ["the client", "the heir"])
def test_the_peers_address_is_given_again(home: Harness, family: int, kind: str, first: str) -> None:
    """The client admits nobody: what has the server's address now is no server of its until it is asked."""
    talk = Pair(family, kind, WEB)
    _client_asked(home, talk)
    heir = succeed(home.node, WEB, SERVES if first == "the client" else FREE)
    again = Pair(family, kind, heir)
    if first == "the heir":
        play(home, [refused(again.hears(CLIENT)), refused(again.hears(CLIENT)), again.says(CLIENT), again.hears(CLIENT)])
    else:
        play(home, [again.says(CLIENT), again.hears(CLIENT), again.says(CLIENT), again.hears(CLIENT)])


# -- this host as the peer ---------------------------------------------------------------------------------------------


def test_this_host_answers_an_heir(testrun: TestRun, family: int, kind: str) -> None:
    """It may always: then as a connection of its own, in which the heir may answer. (A real stack would answer by itself.)"""
    testrun.node.reset(policies=POLICIES, pods={"client": ASKS})
    asked = from_pod(CLIENT, router(family), _l4(kind, PORTS, "S"))
    play(testrun, [Step(FromPod(CLIENT), asked, ToHost())])
    heir = succeed(testrun.node, CLIENT, MUTE)
    back = to_pod(router(family), heir, _l4(kind, PORTS[::-1], "PA"))
    play(testrun, [Step(FromHost(heir), back, Delivered(heir, raw(back)), {"reply": 0})])
    assert testrun.node.flow("HOST_OUT", router(family), heir.address(family), NUMBER[kind], PORTS[::-1])[1]["role"] == 0
    assert testrun.send(FromPod(heir), raw(from_pod(heir, router(family), _l4(kind, PORTS, "PA")))).reason == 0


def test_an_heir_answers_this_host(home: Harness, family: int, kind: str) -> None:
    probe = to_pod(router(family), CLIENT, _l4(kind, PORTS[::-1], "S"))
    play(home, [Step(FromHost(CLIENT), probe, Delivered(CLIENT, raw(probe)))])
    heir = succeed(home.node, CLIENT, MUTE)
    back = from_pod(heir, router(family), _l4(kind, PORTS, "PA"))
    again = to_pod(router(family), heir, _l4(kind, PORTS[::-1], "S"))
    play(home, [refused(Step(FromPod(heir), back, ToHost())), Step(FromHost(heir), again, Delivered(heir, raw(again)))])
    assert home.send(FromPod(heir), raw(back)).reason == 0


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_error_about_the_formers_packet(home: Harness, pair: Pair) -> None:
    _client_asked(home, pair, answered=False)
    heir = succeed(home.node, CLIENT, ASKS)
    inner = from_pod(CLIENT, pair.peer.address(pair.family), _l4(pair.kind, PORTS, "S")).payload
    made = ICMP(type=3, code=3) if pair.family == 4 else ICMPv6DestUnreach(code=4)
    if pair.peer is FAR:
        frame = tunnelled(FAR.address(pair.family), heir.address(pair.family), made / inner)
    else:
        frame = from_pod(WEB, heir.address(pair.family), made / inner)
    step = Step(pair.hears(heir).at, frame, Delivered(heir, routed(frame, to=heir)))
    play(home, [refused(step), pair.says(heir, "S"), step])


# -- by the uplink -----------------------------------------------------------------------------------------------------


def _masquerades(harness: TestRun) -> None:
    """One port for everything: which one a connection gets is known."""
    harness.node.reset(policies=POLICIES, pods={"client": ASKS})
    masquerading(harness.node, nat_first=FIRST, nat_last=FIRST)


def _out(family: int, kind: str, pod: Pod, flags: str = "S") -> Step:
    frame = from_pod(pod, OUTSIDE[family], _l4(kind, PORTS, flags))
    sent = ip(NODE[family], OUTSIDE[family], 63) / _l4(kind, (FIRST, PORTS[1]), flags)
    return Step(FromPod(pod), frame, Sent(raw(Ether(src=pod.mac, dst=pod.gateway_mac) / sent)))


def _back(family: int, kind: str, pod: Pod, flags: str = "SA") -> Step:
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OUTSIDE[family], NODE[family], 60) / _l4(kind, (PORTS[1], FIRST), flags)
    inside = ip(OUTSIDE[family], pod.address(family), 59) / _l4(kind, PORTS[::-1], flags)
    return Step(FromOutside(), frame, Delivered(pod, raw(Ether(src=pod.gateway_mac, dst=pod.mac) / inside)))


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "not yet"])
def test_the_outside_answers_the_former(testrun: TestRun, family: int, kind: str, answered: bool) -> None:
    """And nobody begins a connection from there: it is dropped. What the heir says itself is answered, also with that port."""
    _masquerades(testrun)
    asked = [_out(family, kind, CLIENT), *([_back(family, kind, CLIENT), _out(family, kind, CLIENT, "PA")] if answered else [])]
    play(testrun, asked)
    heir = succeed(testrun.node, CLIENT, ASKS)
    late = refused(_back(family, kind, heir, "PA"), "NO_LOCAL_ENDPOINT")
    play(testrun, [replace(late, event={"source_identity": 2}), late])
    play(testrun, [replace(_out(family, kind, heir), event={"reason": 0, "source_identity": heir.identity}),
                   _back(family, kind, heir), _out(family, kind, heir, "PA"), _back(family, kind, heir, "PA")])  # fmt: skip
    testrun.node.raise_slot(0)
    play(testrun, [_back(family, kind, heir, "PA"), _out(family, kind, heir, "PA")])


def test_an_error_from_outside_about_the_formers_packet(testrun: TestRun, family: int, kind: str) -> None:
    _masquerades(testrun)
    play(testrun, [_out(family, kind, CLIENT)])
    heir = succeed(testrun.node, CLIENT, ASKS)
    inner = ip(NODE[family], OUTSIDE[family], 63) / _l4(kind, (FIRST, PORTS[1]), "S")
    made = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OUTSIDE[family], NODE[family], 60) / made / inner
    play(testrun, [Step(FromOutside(), frame, Dropped("NO_LOCAL_ENDPOINT"))])
    play(testrun, [_out(family, kind, heir)])
    assert testrun.send(FromOutside(), raw(frame)).to == heir.name


def test_another_nodes_pod_answers_the_former_directly(testrun: TestRun, family: int, kind: str) -> None:
    """Without a tunnel."""
    testrun.node.reset(policies=POLICIES, pods={"client": ASKS})
    masquerading(testrun.node, tunnel=False)

    def says(pod: Pod) -> Step:
        frame = from_pod(pod, FAR.address(family), _l4(kind, PORTS, "PA"))
        return Step(FromPod(pod), frame, Sent(routed(frame)))

    def hears(pod: Pod) -> Step:
        layers = _l4(kind, PORTS[::-1], "PA")
        frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(FAR.address(family), pod.address(family), 60) / layers
        return Step(FromOutside(), frame, Delivered(pod, routed(frame, to=pod)))

    play(testrun, [says(CLIENT), hears(CLIENT), says(CLIENT)])
    heir = succeed(testrun.node, CLIENT, ASKS)
    play(testrun, [refused(hears(heir)), says(heir), hears(heir), says(heir)])
