"""Other nodes as what this one calls them: an identity of their labels, and, if the settings say so, an address of the outside."""

import pytest
from scapy.layers.l2 import Ether
from tests.packets.harness.actors import CLIENT, ELSEWHERE, FAR, HERE, THERE, WEB
from tests.packets.harness.frames import from_pod, ip, raw, routed, router, tcp, tunnelled, udp
from tests.packets.harness.node import EGRESS, INGRESS, Rule, Side
from tests.packets.harness.scenario import (
    Delivered,
    Dropped,
    FromOutside,
    FromPod,
    FromTunnel,
    Harness,
    Step,
    Tunnelled,
    play,
)
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.world import MASQUERADE, NODE, OTHER_NODE, READY, ROUTER_MAC, TUNNEL, masquerading

pytestmark = pytest.mark.kernel
REMOTE = 6
# In the low bits, which are all that a tunnel's number has room for, it is a pod's.
BLUE, RED = 2 << 24 | FAR.identity, 2 << 24 | 9
CIDR_NODES = 16
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
OPEN = Side()


def _known(harness: Harness, family: int, number: int = BLUE) -> None:
    """The other node has labels."""
    for each in (BLUE, RED):
        harness.node.datapath.map("identities").update(each, {"cluster": 0})
    harness.node.ipcache(THERE.routers[family], number, flags=4, tunnel=THERE.underlay)
    harness.node.ipcache(OTHER_NODE[family], number, flags=2)


def test_another_node_is_judged_by_what_we_call_it(harness: Harness, family: int) -> None:
    """It sends as any node does, and is answered so."""
    harness.node.reset(policies={5: (Side(peers={BLUE: [Rule(1)]}), OPEN)}, pods={"web": 5})
    _known(harness, family)
    there, elsewhere = THERE.routers[family], ELSEWHERE.routers[family]
    ask = tunnelled(there, WEB.address(family), tcp(40000, 80))
    back = from_pod(WEB, there, tcp(80, 40000, "SA"))
    more = tunnelled(there, WEB.address(family), tcp(40000, 80, "A"))
    other = tunnelled(elsewhere, WEB.address(family), tcp(40000, 80))
    play(harness, [
        Step(FromTunnel(THERE, REMOTE), ask, Delivered(WEB, routed(ask, to=WEB)), {"source_identity": BLUE, "rule": 1}),
        Step(FromPod(WEB), back, Tunnelled(THERE, WEB.identity, routed(back))),
        Step(FromTunnel(THERE, REMOTE), more, Delivered(WEB, routed(more, to=WEB)), {}),
        Step(FromTunnel(ELSEWHERE, REMOTE), other, Dropped("POLICY"), {"source_identity": REMOTE}),
    ])  # fmt: skip
    held = harness.node.flow("OVERLAY_IN", there, WEB.address(family), 6, (40000, 80))[1]
    assert (held["packets"], held["vni"]) == (2, REMOTE), "what follows is known by the number that it bears"


def test_its_labels_change(harness: Harness, family: int) -> None:
    """An open connection is decided anew; who never was allowed is not let in by what it was."""
    harness.node.reset(policies={5: (Side(peers={BLUE: [Rule(1)]}), OPEN)}, pods={"web": 5})
    _known(harness, family)
    ask = tunnelled(THERE.routers[family], WEB.address(family), tcp(40000, 80))
    more = tunnelled(THERE.routers[family], WEB.address(family), tcp(40000, 80, "A"))
    play(harness, [Step(FromTunnel(THERE, REMOTE), ask, Delivered(WEB, routed(ask, to=WEB)))])
    _known(harness, family, RED)
    harness.node.raise_slot(WEB.slot)
    play(harness, [Step(FromTunnel(THERE, REMOTE), more, Dropped("POLICY"), {"source_identity": RED})])
    _known(harness, family)
    harness.node.raise_slot(WEB.slot)
    play(harness, [Step(FromTunnel(THERE, REMOTE), more, Delivered(WEB, routed(more, to=WEB)))])


def test_cve_2025_30163_a_pod_on_the_node_is_not_the_node(harness: Harness, family: int) -> None:
    """By its own number, by the one that looks like the node's, by any that a node has."""
    harness.node.reset(policies={5: (Side(peers={BLUE: [Rule(1)], REMOTE: [Rule(2)]}), OPEN)}, pods={"web": 5})
    _known(harness, family)
    frame = tunnelled(FAR.address(family), WEB.address(family), tcp(40000, 80))
    play(harness, [
        Step(FromTunnel(THERE, FAR.identity), frame, Dropped("POLICY"), {"source_identity": FAR.identity}),
        Step(FromTunnel(THERE, REMOTE), frame, Dropped("INVALID_VNI")),
        Step(FromTunnel(THERE, RED & 0xFFFFFF), frame, Dropped("INVALID_VNI")),
    ])  # fmt: skip


def test_the_nodes_number_is_on_no_wire(harness: Harness, family: int) -> None:
    """Its low bits are another's; only as a node does its router speak."""
    harness.node.reset(policies={5: (Side(peers={BLUE: [Rule(1)]}), OPEN)}, pods={"web": 5})
    _known(harness, family)
    frame = tunnelled(THERE.routers[family], WEB.address(family), tcp(40000, 80))
    for vni, reason in ((BLUE & 0xFFFFFF, "POLICY"), (RED & 0xFFFFFF, "INVALID_VNI"), (77777, "UNKNOWN_IDENTITY")):
        play(harness, [Step(FromTunnel(THERE, vni), frame, Dropped(reason))])


def test_a_number_that_is_not_known_yet(harness: Harness, family: int) -> None:
    harness.node.reset()
    harness.node.ipcache(THERE.routers[family], BLUE, flags=4, tunnel=THERE.underlay)
    frame = tunnelled(THERE.routers[family], WEB.address(family), tcp(40000, 80))
    play(harness, [Step(FromTunnel(THERE, REMOTE), frame, Dropped("UNKNOWN_IDENTITY"))])


def test_a_pod_asks_the_nodes_router(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (OPEN, Side(peers={BLUE: [Rule(1)]}))}, pods={"client": 5})
    _known(harness, family)
    there, elsewhere = THERE.routers[family], ELSEWHERE.routers[family]
    out = from_pod(CLIENT, there, tcp(40000, 4240))
    back = tunnelled(there, CLIENT.address(family), tcp(4240, 40000, "SA"), ttl=64)
    play(harness, [Step(FromPod(CLIENT), out, Tunnelled(THERE, CLIENT.identity, routed(out)), {"destination_identity": BLUE})])
    assert harness.node.flow("OVERLAY_IN", there, CLIENT.address(family), 6, (4240, 40000))[1]["vni"] == REMOTE
    play(harness, [
        Step(FromTunnel(THERE, REMOTE), back, Delivered(CLIENT, routed(back, to=CLIENT))),
        Step(FromPod(CLIENT), from_pod(CLIENT, elsewhere, tcp(40000, 4240)), Dropped("POLICY"), {"destination_identity": REMOTE}),
        Step(FromPod(CLIENT), from_pod(CLIENT, FAR.address(family), tcp(1, 2)), Dropped("POLICY")),
    ])  # fmt: skip


@pytest.mark.parametrize(("number", "passes"), [(BLUE, True), (RED, False)])
def test_a_pod_asks_the_nodes_own_address(testrun: TestRun, family: int, number: int, passes: bool) -> None:
    testrun.node.reset(policies={5: (OPEN, Side(peers={BLUE: [Rule(1)]}))}, pods={"client": 5})
    masquerading(testrun.node)
    _known(testrun, family, number)
    out = testrun.send(FromPod(CLIENT), raw(from_pod(CLIENT, OTHER_NODE[family], udp(40000, 53))))
    assert out.verdict == ("tunnelled" if passes else "dropped")
    assert [event["destination_identity"] for event in out.events] == [number]


@pytest.mark.parametrize(("number", "passes"), [(BLUE, True), (RED, False)])
def test_without_a_tunnel_its_address_says_who_it_is(testrun: TestRun, family: int, number: int, passes: bool) -> None:
    testrun.node.reset(policies={5: (Side(peers={BLUE: [Rule(1)]}), OPEN)}, pods={"web": 5})
    masquerading(testrun.node, tunnel=False)
    _known(testrun, family, number)
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OTHER_NODE[family], WEB.address(family)) / tcp(40000, 80)
    met = Delivered(WEB, routed(frame, to=WEB)) if passes else Dropped("POLICY")
    play(testrun, [Step(FromOutside(), frame, met, {"source_identity": number})])


# -- address rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, CIDR_NODES])
def test_an_address_rule_and_another_node_that_sends(harness: Harness, family: int, flags: int) -> None:
    """It means the node's own stack if the settings say so, and a pod never."""
    harness.node.reset(policies={5: (Side(outside={EVERYWHERE[family]: [Rule(1)]}), OPEN)}, pods={"web": 5})
    harness.node.settings(flags=READY | TUNNEL | flags)
    node = tunnelled(THERE.routers[family], WEB.address(family), tcp(40000, 80))
    pod = tunnelled(FAR.address(family), WEB.address(family), tcp(40000, 80))
    back = from_pod(WEB, THERE.routers[family], tcp(80, 40000, "SA"))
    met = Delivered(WEB, routed(node, to=WEB)) if flags else Dropped("POLICY")
    play(harness, [Step(FromTunnel(THERE, REMOTE), node, met, {"source_identity": REMOTE})])
    play(harness, [Step(FromTunnel(THERE, FAR.identity), pod, Dropped("POLICY"))])
    if flags:  # a reply decides it anew as it was decided
        harness.node.raise_slot(WEB.slot)
        play(harness, [Step(FromPod(WEB), back, Tunnelled(THERE, WEB.identity, routed(back)))])


@pytest.mark.parametrize("flags", [0, CIDR_NODES])
def test_an_address_rule_and_another_node_that_is_asked(testrun: TestRun, family: int, flags: int) -> None:
    testrun.node.reset(policies={5: (OPEN, Side(outside={EVERYWHERE[family]: [Rule(1)]}))}, pods={"client": 5})
    masquerading(testrun.node, flags=READY | TUNNEL | MASQUERADE | flags)
    testrun.node.ipcache(OTHER_NODE[family], REMOTE, flags=2)
    testrun.node.ipcache(NODE[family], 1, flags=2 | 8)
    for address in (OTHER_NODE[family], THERE.routers[family]):
        out = testrun.send(FromPod(CLIENT), raw(from_pod(CLIENT, address, udp(40000, 53))))
        assert out.verdict == ("tunnelled" if flags else "dropped"), address
    for address in (NODE[family], router(family), FAR.address(family)):
        play(testrun, [Step(FromPod(CLIENT), from_pod(CLIENT, address, udp(1, 9999)), Dropped("POLICY"))])


@pytest.mark.parametrize("flags", [0, CIDR_NODES])
def test_an_address_rule_without_a_tunnel(testrun: TestRun, family: int, flags: int) -> None:
    testrun.node.reset(policies={5: (Side(outside={EVERYWHERE[family]: [Rule(1)]}), OPEN)}, pods={"web": 5})
    masquerading(testrun.node, flags=READY | MASQUERADE | flags)
    testrun.node.ipcache(OTHER_NODE[family], REMOTE, flags=2)
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OTHER_NODE[family], WEB.address(family)) / tcp(40000, 80)
    met = Delivered(WEB, routed(frame, to=WEB)) if flags else Dropped("POLICY")
    play(testrun, [Step(FromOutside(), frame, met)])
    pod = Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(FAR.address(family), WEB.address(family)) / tcp(40000, 80)
    play(testrun, [Step(FromOutside(), pod, Dropped("POLICY"))])


@pytest.mark.parametrize("flags", [0, CIDR_NODES])
def test_an_address_rule_in_audit_mode(harness: Harness, family: int, flags: int) -> None:
    harness.node.reset(policies={5: (Side(outside={EVERYWHERE[family]: [Rule(1)]}),) * 2})
    harness.node.settings(flags=READY | TUNNEL | flags)
    harness.node.endpoint(WEB, audit=5)
    frame = tunnelled(THERE.routers[family], WEB.address(family), tcp(40000, 80))
    delivered = Delivered(WEB, routed(frame, to=WEB))
    play(harness, [Step(FromTunnel(THERE, REMOTE), frame, delivered, {"audited": 0 if flags else 1, "direction": INGRESS})])
    out = from_pod(WEB, THERE.routers[family], udp(1, 9))
    sent = Tunnelled(THERE, WEB.identity, routed(out))
    play(harness, [Step(FromPod(WEB), out, sent, {"audited": 0} if flags else {"audited": 1, "direction": EGRESS})])
