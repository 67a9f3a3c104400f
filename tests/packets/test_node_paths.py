"""Between a node's own stack and the pods of another: through the tunnel, from and to router addresses alone, as identity 6."""

import socket

import pytest
from tests.packets.harness import netns
from tests.packets.harness.actors import CLIENT, ELSEWHERE, FAR, HERE, THERE, WEB
from tests.packets.harness.frames import from_pod, raw, routed, router, tcp, tunnelled, udp
from tests.packets.harness.node import Rule, Side
from tests.packets.harness.scenario import (
    Delivered,
    Dropped,
    FromPod,
    FromStack,
    FromTunnel,
    Harness,
    Step,
    ToHost,
    Tunnelled,
    play,
)
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.wire import HOST_PORT, Wire

pytestmark = pytest.mark.kernel
NODE = 6
API_SERVER = 7


def _there(family: int) -> str:
    return THERE.routers[family]


def test_this_host_reaches_a_pod_of_another_node(harness: Harness, family: int) -> None:
    out = tunnelled(router(family), FAR.address(family), udp(HOST_PORT, 53), ttl=64)
    back = tunnelled(FAR.address(family), router(family), udp(53, HOST_PORT))
    asked = Step(FromStack(), out, Tunnelled(THERE, NODE, raw(out)), {"source_identity": 1, "destination_identity": FAR.identity})
    answered = Step(FromTunnel(THERE, FAR.identity), back, ToHost(), {})
    play(harness, [asked, answered, Step(asked.at, out, asked.expect, {}), answered])
    table, entry = harness.node.flow("HOST_OUT", router(family), FAR.address(family), 17, (HOST_PORT, 53))
    assert (table, entry["packets"]) == ("flows", 2)


def test_a_real_socket_reaches_a_pod_of_another_node(wire: Wire, family: int) -> None:
    """By the node's routes: the source is the router's address, and the stack takes the answer."""
    wire.node.reset()
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with netns.inside(wire.home), socket.socket(kind, socket.SOCK_DGRAM) as asking:
        asking.connect((FAR.address(family), 53))
        asking.settimeout(2)
        asking.send(b"question")
        own, port = asking.getsockname()[:2]
        assert own == router(family)
        back = tunnelled(FAR.address(family), own, udp(53, port, b"answer"))
        wire.inject(FromTunnel(THERE, FAR.identity), raw(back))
        assert asking.recv(100) == b"answer"


def test_this_host_sends_through_the_tunnel_as_its_router_alone(harness: Harness, family: int) -> None:
    """Nobody there would believe another address; and what the stack forwards carries nobody's identity."""
    if family == 4:
        frame = tunnelled(HERE.underlay, FAR.address(4), udp(1, 2))
        play(harness, [Step(FromStack(), frame, Dropped("INVALID_SOURCE_IP"))])
    play(
        harness,
        [Step(FromStack(), tunnelled(CLIENT.address(family), FAR.address(family), udp(1, 2)), Dropped("INVALID_SOURCE_IP"))],
    )


def test_the_stack_forwards_nothing_into_the_tunnel(testrun: TestRun, family: int) -> None:
    testrun.node.reset()
    frame = tunnelled(router(family), FAR.address(family), udp(1, 2))
    play(testrun, [Step(FromStack(forwarded=True), frame, Dropped("FORWARDED"))])


def test_another_node_reaches_a_pod(harness: Harness, family: int) -> None:
    """It is the identity 6 that policy sees, not 1: another node is not always let in."""
    harness.node.reset(policies={5: (Side(peers={NODE: [Rule(1, protocol=6, port=80)]}), Side(everybody=[]))}, pods={"web": 5})
    frame = tunnelled(_there(family), WEB.address(family), tcp(40000, 80))
    other = tunnelled(_there(family), WEB.address(family), tcp(40000, 81))
    back = from_pod(WEB, _there(family), tcp(80, 40000, "SA"))
    play(harness, [
        Step(FromTunnel(THERE, NODE), frame, Delivered(WEB, routed(frame, to=WEB)), {"source_identity": NODE, "rule": 1}),
        Step(FromPod(WEB), back, Tunnelled(THERE, WEB.identity, routed(back))),
        Step(FromTunnel(THERE, NODE), other, Dropped("POLICY"), {"source_identity": NODE}),
    ])  # fmt: skip


def test_an_api_servers_node_is_an_api_server(harness: Harness, family: int) -> None:
    """It sends as any node does; its router's row says what it is. Replies know it too, and so does what a pod asks of it."""
    let = Side(peers={API_SERVER: [Rule(1)]})
    harness.node.reset(policies={5: (let, let)}, pods={"web": 5})
    harness.node.ipcache(_there(family), API_SERVER, flags=4, tunnel=THERE.underlay)
    hook = tunnelled(_there(family), WEB.address(family), tcp(40000, 443))
    back = from_pod(WEB, _there(family), tcp(443, 40000, "SA"))
    more = tunnelled(_there(family), WEB.address(family), tcp(40000, 443, "A"))
    other = tunnelled(ELSEWHERE.routers[family], WEB.address(family), tcp(40000, 443))
    play(harness, [
        Step(FromTunnel(THERE, NODE), hook, Delivered(WEB, routed(hook, to=WEB)), {"source_identity": API_SERVER, "rule": 1}),
        Step(FromPod(WEB), back, Tunnelled(THERE, WEB.identity, routed(back))),
        Step(FromTunnel(THERE, NODE), more, Delivered(WEB, routed(more, to=WEB))),
        Step(FromTunnel(ELSEWHERE, NODE), other, Dropped("POLICY"), {"source_identity": NODE}),
        Step(FromTunnel(THERE, API_SERVER), hook, Dropped("INVALID_VNI")),
    ])  # fmt: skip
    assert harness.node.flow("OVERLAY_IN", _there(family), WEB.address(family), 6, (40000, 443))[1]["packets"] == 2
    asked = from_pod(WEB, _there(family), tcp(41000, 6443))
    answer = tunnelled(_there(family), WEB.address(family), tcp(6443, 41000, "SA"), ttl=64)
    play(harness, [
        Step(FromPod(WEB), asked, Tunnelled(THERE, WEB.identity, routed(asked)), {"destination_identity": API_SERVER}),
        Step(FromTunnel(THERE, NODE), answer, Delivered(WEB, routed(answer, to=WEB))),
    ])  # fmt: skip


def test_the_identity_of_a_node_is_its_routers_alone(harness: Harness, family: int) -> None:
    cases = [
        (FAR.address(family), THERE, "INVALID_VNI"),
        (_there(family), ELSEWHERE, "WRONG_NODE"),
        (ELSEWHERE.routers[family], THERE, "WRONG_NODE"),
        (router(family), THERE, "WRONG_NODE"),
    ]
    for address, node, reason in cases:
        frame = tunnelled(address, WEB.address(family), tcp(40000, 80))
        play(harness, [Step(FromTunnel(node, NODE), frame, Dropped(reason))])
    for vni in (1, 2, 8):
        play(
            harness,
            [Step(FromTunnel(THERE, vni), tunnelled(_there(family), WEB.address(family), tcp(1, 80)), Dropped("INVALID_VNI"))],
        )


def test_a_pod_reaches_another_nodes_router(harness: Harness, family: int) -> None:
    """And is answered, as by anybody it may ask."""
    egress = Side(peers={NODE: [Rule(1)]})
    harness.node.reset(policies={5: (Side(everybody=[]), egress)}, pods={"client": 5})
    out = from_pod(CLIENT, _there(family), tcp(40000, 4240))
    back = tunnelled(_there(family), CLIENT.address(family), tcp(4240, 40000, "SA"), ttl=64)
    answered = Step(FromTunnel(THERE, NODE), back, Delivered(CLIENT, routed(back, to=CLIENT)))
    play(harness, [
        Step(answered.at, back, Dropped("POLICY")),
        Step(FromPod(CLIENT), out, Tunnelled(THERE, CLIENT.identity, routed(out))),
        answered,
    ])  # fmt: skip


def test_another_nodes_pod_reaches_this_host(harness: Harness, family: int) -> None:
    into = tunnelled(FAR.address(family), router(family), udp(40000, HOST_PORT))
    back = tunnelled(router(family), FAR.address(family), udp(HOST_PORT, 40000), ttl=64)
    play(harness, [
        Step(FromTunnel(THERE, FAR.identity), into, ToHost(), {"destination_identity": 1}),
        Step(FromStack(), back, Tunnelled(THERE, NODE, raw(back)), {}),
    ])  # fmt: skip
    assert harness.node.flow("HOST_OUT", router(family), FAR.address(family), 17, (HOST_PORT, 40000))[0] == "flows"
    play(harness, [Step(FromTunnel(THERE, FAR.identity), tunnelled(FAR.address(family), HERE.underlay, udp(1, 2)),
                        Dropped("NO_LOCAL_ENDPOINT"))] if family == 4 else [])  # fmt: skip
