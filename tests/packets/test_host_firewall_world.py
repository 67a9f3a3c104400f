"""The host firewall with stacks on both sides: what a socket of the node gets, whatever a sender does to its frames."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from scapy.layers.l2 import Dot1Q, Ether
from tests.packets.harness import netns
from tests.packets.harness.actors import HERE, OUTSIDE
from tests.packets.harness.frames import ip, udp
from tests.packets.harness.node import Node, Rule, Side
from tests.packets.harness.world import NODE, ROUTER_MAC, World, echo_bytes

from pilus_maps import Datapath

pytestmark = pytest.mark.kernel

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
FLAGS = 1 | 2 | 4 | 8 | 32
OPEN, CLOSED = Side(), Side(everybody=[])
_ETH_P_ARP = 0x0806


@pytest.fixture(scope="module")
def world_of(datapath: Datapath) -> Iterator[World]:
    with World(Node(datapath)) as built:
        yield built


def guard(world: World, ingress: Side, egress: Side = OPEN) -> None:
    world.reset(flags=FLAGS)
    world.node.policy(9, ingress, egress)
    world.node.host(policy=9, enforced=[i for i, side in enumerate((ingress, egress)) if side != OPEN])


def _port(protocol: int, port: int) -> Side:
    return Side(everybody=[Rule(1, protocol=protocol, port=port)])


def _send(end: socket.socket, data: bytes) -> None:
    end.sendall(data)
    end.shutdown(socket.SHUT_WR)


def _all(end: socket.socket) -> bytes:
    got = bytearray()
    while part := end.recv(1 << 16):
        got += part
    return bytes(got)


@pytest.mark.parametrize("began", ["outside", "node"])
def test_a_megabyte_each_way(world_of: World, family: int, began: str) -> None:
    """Where one side alone may begin: offloads, checksums and an orderly end are as without us."""
    where = {"outside": (world_of.home, NODE), "node": (world_of.outside, OUTSIDE)}[began]
    sent = os.urandom(1 << 20)
    with world_of.socket(where[0], family, STREAM) as server:
        server.bind((where[1][family], 0))
        server.listen()
        port = _port(6, server.getsockname()[1])
        guard(world_of, *((port, CLOSED) if began == "outside" else (CLOSED, port)))
        with world_of.socket(world_of.outside if began == "outside" else world_of.home, family, STREAM) as client:
            client.connect(server.getsockname()[:2])
            accepted, _ = server.accept()
            with accepted:
                accepted.settimeout(5)
                ends = (client, accepted)
                sending = [threading.Thread(target=_send, args=(end, sent)) for end in ends]
                for each in sending:
                    each.start()
                assert [_all(end) == sent for end in ends] == [True, True]
                for each in sending:
                    each.join()


@pytest.mark.parametrize(("began", "ingress", "egress", "reached"), [
    ("node", "closed", "open", True),  # an answer, although nobody has seen what it answers to
    ("node", "closed", "its port", True),
    ("node", "open", "closed", False),
    ("outside", "its port", "closed", True),
    ("outside", "closed", "open", False),
    ("outside", "open", "closed", True),
])  # fmt: skip
@pytest.mark.parametrize("talks", ["node", "outside"])
def test_a_connection_that_was_open_before(
    world_of: World, family: int, began: str, ingress: str, egress: str, reached: bool, talks: str
) -> None:
    """Nothing is known of it, and one side alone talks: it goes on if the side that began it may begin one, and not otherwise."""
    ends = {"node": (world_of.home, NODE), "outside": (world_of.outside, OUTSIDE)}
    other = "outside" if began == "node" else "node"
    with world_of.socket(ends[other][0], family, STREAM) as server, world_of.socket(ends[began][0], family, STREAM) as client:
        server.bind((ends[other][1][family], 0))
        server.listen()
        world_of.reset()  # no policy, and so no entries
        client.connect(server.getsockname()[:2])
        accepted, _ = server.accept()
        with accepted:
            sides = {"open": OPEN, "closed": CLOSED, "its port": _port(6, server.getsockname()[1])}
            guard(world_of, sides[ingress], sides[egress])
            speaker, listener = (client, accepted) if talks == began else (accepted, client)
            speaker.sendall(b"still there?")
            listener.settimeout(2 if reached else 0.3)
            if reached:
                assert listener.recv(100) == b"still there?"
            else:
                with pytest.raises(TimeoutError):
                    listener.recv(100)


def test_other_ports_are_closed(world_of: World, family: int) -> None:
    with world_of.socket(world_of.home, family, STREAM) as server, world_of.socket(world_of.outside, family, STREAM) as client:
        server.bind((NODE[family], 0))
        server.listen()
        guard(world_of, _port(6, 22))
        before = world_of.node.counters()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.connect(server.getsockname()[:2])
        world_of.dropped("UPLINK_FROM", "POLICY", before)


def test_a_ping_is_answered_to_who_asked(world_of: World, family: int) -> None:
    guard(world_of, CLOSED)
    protocol = socket.IPPROTO_ICMP if family == 4 else socket.IPPROTO_ICMPV6
    with world_of.socket(world_of.home, family, DGRAM, protocol) as asking:
        asking.connect((OUTSIDE[family], 0))
        asking.send(echo_bytes(family, 1))
        assert asking.recv(100)[8:] == b"pilus"


@pytest.mark.parametrize("tags", [(), (0,), (0, 0)], ids=["no tag", "a priority tag", "two of them"])
@pytest.mark.parametrize("port", ["open", "closed"])
def test_a_tag_is_no_way_around(world_of: World, family: int, tags: tuple[int, ...], port: str) -> None:
    """A tag for VLAN 0 leaves a packet the stack's own, and so it is for us. A second one hides it from us, not from the stack."""
    with world_of.socket(world_of.home, family, DGRAM) as listening, world_of.socket(world_of.home, family, DGRAM) as marker:
        for one in (listening, marker):
            one.bind((NODE[family], 0))
        number, last = (one.getsockname()[1] for one in (listening, marker))
        allowed = [Rule(1, protocol=17, port=last), *([Rule(2, protocol=17, port=number)] if port == "open" else [])]
        guard(world_of, Side(everybody=allowed))
        frame = Ether(src=ROUTER_MAC, dst=HERE.mac)
        for tag in tags:
            frame /= Dot1Q(vlan=tag, prio=5)
        world_of.inject(frame / ip(OUTSIDE[family], NODE[family]) / udp(4000, number, b"around"))
        world_of.inject(Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OUTSIDE[family], NODE[family]) / udp(4000, last, b"last"))
        assert marker.recv(100) == b"last"  # what was sent before it has come by now, or never will
        listening.setblocking(False)
        if port == "open" and len(tags) < 2:
            assert listening.recv(100) == b"around"
        else:
            with pytest.raises(BlockingIOError):
                listening.recv(100)


def test_a_frame_that_is_said_to_hold_something_else(world_of: World, family: int) -> None:
    """Who sends frames as they are says what they hold; who gets them looks. Without a policy on what leaves, it goes as ever."""
    frame = bytes(Ether(src=HERE.mac, dst=ROUTER_MAC) / ip(NODE[family], OUTSIDE[family]) / udp(4000, 443, b"told otherwise"))
    for egress in (CLOSED, OPEN):
        guard(world_of, CLOSED, egress)
        before = world_of.node.counters()
        # Its sender is told that it was dropped.
        with netns.inside(world_of.home), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end, suppress(OSError):
            end.sendto(frame, ("eth0", _ETH_P_ARP))
        if egress == CLOSED:
            world_of.dropped("UPLINK_TO", "INVALID", before)
        assert any(bytes(one) == frame for one in world_of.captured()) == (egress == OPEN)
