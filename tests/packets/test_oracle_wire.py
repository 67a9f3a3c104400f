"""A sample of drawn worlds on real links: whether a packet arrives is what the evaluator says, and the event agrees.

`test_oracle.py` has more worlds and ways, and sees what a program returns; here is what the kernel makes of it. Every end listens:
each pod, the other side of the tunnel or of the uplink, and this host by raw sockets, which get what its stack takes in. So a
packet that arrives although somebody refuses it, or at another place than it should, is seen by its mark.
"""

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import count
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers import inet
from scapy.layers.inet6 import IPv6
from tests.packets.harness import netns
from tests.packets.harness.drawn import HOST_NAME, Drawn
from tests.packets.harness.drawn_cluster import DrawnCluster
from tests.packets.harness.drawn_world import DrawnWorld
from tests.packets.harness.node import Node
from tests.packets.harness.scenario import FromOutside, FromPod, Point
from tests.packets.harness.verdicts import Verdict, agrees, verdict
from tests.packets.harness.ways import BEHIND_A_NODE, ICMPS, MARK, MARK_LENGTH, TCP, UDP, Trial, Ways
from tests.packets.harness.wire import VXLAN_PORT, Wire, heard, listener
from tests.packets.harness.world import World as Uplink
from tests.properties.conftest import WORLDS
from tests.properties.meaning import Cluster
from tests.properties.objects import clusters
from tests.properties.oracle import World
from tests.properties.worlds import worlds
from tests.soak import longer

from pilus_maps import Datapath

pytestmark = pytest.mark.kernel

SAMPLE: Final = settings(WORLDS, max_examples=longer(100, 5))
SEEDS: Final = st.integers(0, 2**16)
PROBES: Final = 16
PATIENCE: Final = 2.0
NUMBERS: Final = count()  # what comes late is no other world's
_OUTER: Final = 14 + 20 + 8 + 8  # what a tunnel has put before a frame
_VXLAN: Final = VXLAN_PORT.to_bytes(2)


class Net:
    """One of the harnesses of namespaces, and what has arrived at its ends: where, and how often."""

    def __init__(self, node: Node, home: int, ends: Mapping[str, socket.socket], inject: Callable[[Point, bytes], None]) -> None:
        self.node, self.inject = node, inject
        self.arrived: Counter[tuple[str, bytes]] = Counter()
        self.events: list[dict[str, Any]] = []
        self._ends, self._stack = ends, ExitStack()
        self._host = [self._raw(home, family, protocol) for family in (socket.AF_INET, socket.AF_INET6) for protocol in (TCP, UDP)]

    def _raw(self, home: int, family: int, protocol: int) -> socket.socket:
        with netns.inside(home):
            made = self._stack.enter_context(socket.socket(family, socket.SOCK_RAW, protocol))
        made.setblocking(False)
        return made

    def close(self) -> None:
        self._stack.close()

    def listen(self) -> None:
        for name, end in self._ends.items():
            for frame in heard(end):
                tunnelled = name == "tunnel" and frame[36:38] == _VXLAN
                inner = frame[_OUTER:] if tunnelled else frame
                # An error that a stack sends about a packet has the mark, too.
                if _mark(inner) and inner[23 if inner[12:14] == b"\x08\x00" else 20] not in ICMPS:
                    self.arrived["underlay" if name == "tunnel" and not tunnelled else name, _mark(inner)] += 1
        for end in self._host:
            while packet := _received(end):
                if _mark(packet) and packet[22:24] != _VXLAN:  # what is in a tunnel's packet is heard where it comes out
                    self.arrived[HOST_NAME, _mark(packet)] += 1
        self.events += self.node.events()

    def until(self, condition: Callable[[], bool]) -> bool:
        """Whether it has come true. An arrival wakes; nobody does for an event."""
        deadline = time.monotonic() + PATIENCE
        self.listen()
        while not condition() and time.monotonic() < deadline:
            select.select([*self._ends.values(), *self._host], [], [], 0.001)
            self.listen()
        return condition()


def _mark(packet: bytes) -> bytes:
    return packet[-MARK_LENGTH:] if packet[-MARK_LENGTH:].startswith(MARK) else b""


def _received(end: socket.socket) -> bytes:
    try:
        return end.recv(65535)
    except BlockingIOError:
        return b""


def _summed(frame: bytes) -> bytes:
    """With the checksums that a stack asks for."""
    ipv4 = frame[12:14] == b"\x08\x00"
    l4 = 34 if ipv4 else 54
    ip = inet.IP(frame[14:l4]) if ipv4 else IPv6(frame[14:l4])
    tcp = frame[23 if ipv4 else 20] == TCP
    payload = l4 + (20 if tcp else 8)
    header = (inet.TCP if tcp else inet.UDP)(frame[l4:payload])
    del header.chksum
    if ipv4:
        del ip.chksum
    return frame[:14] + bytes(ip / header / frame[payload:])


def _send(net: Net, drawn: Drawn, trial: Trial, expected: Verdict) -> None:
    """Until a program has decided: the next one's rows are others."""
    net.inject(trial.at, _summed(trial.frame))
    mine: list[dict[str, Any]] = []

    def decided() -> bool:
        mine[:] = [event for event in net.events if event["source_port"] == trial.source_port]
        return bool(mine)

    assert net.until(decided), f"nobody decides: {trial}"
    assert len(mine) == 1, mine
    agrees(drawn, trial, expected, mine[0])


def _ask(
    net: Net, drawn_of: Callable[[Random], Drawn], seed: int, ways_of: Callable[[Ways, Drawn], list[Callable[[], Trial]]]
) -> None:
    chance = Random(seed)  # noqa: S311 - probes, not a secret
    drawn = drawn_of(chance)
    drawn.write()
    net.listen()
    net.arrived.clear()
    ways, trials = Ways(drawn, chance, NUMBERS, (TCP, UDP)), dict[bytes, Trial]()
    expected = Counter[tuple[str, bytes]]()
    for _ in range(PROBES):
        net.events.clear()
        trial = chance.choice(ways_of(ways, drawn))()
        trials[trial.mark] = trial
        becomes = verdict(drawn, trial)
        if not becomes.reason:
            expected[trial.to, trial.mark] = 1
        _send(net, drawn, trial, becomes)
    net.until(lambda: expected <= net.arrived)
    missing, unexpected = expected - net.arrived, net.arrived - expected
    assert not missing, [trials[mark] for _, mark in missing]
    assert not unexpected, [(name, trials.get(mark)) for name, mark in unexpected]


# -- the node with its tunnel ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tunnel(wire: Wire) -> Iterator[Net]:
    net = Net(wire.node, wire.home, {"tunnel" if name == "underlay" else name: end for name, end in wire.ends.items()}, wire.inject)
    yield net
    net.close()


def _with_tunnel(ways: Ways, _: Drawn) -> list[Callable[[], Trial]]:
    """The host's stack is asked by an address that it has; to the outside there is no way."""
    return [ways.pod_to_pod, ways.pod_to_pod, lambda: ways.pod_away(BEHIND_A_NODE), lambda: ways.pod_to_host(alias=False),
            ways.host_to_pod, *ways.through_the_tunnel()]  # fmt: skip


@SAMPLE
@given(world=worlds(), seed=SEEDS)
def test_what_arrives_in_the_node_and_through_the_tunnel(tunnel: Net, world: World, seed: int) -> None:
    _ask(tunnel, lambda chance: DrawnWorld(tunnel.node, world, chance, tunnel=True), seed, _with_tunnel)


@SAMPLE
@given(cluster=clusters(), seed=SEEDS)
def test_what_objects_let_arrive_in_the_node_and_through_the_tunnel(tunnel: Net, cluster: Cluster, seed: int) -> None:
    _ask(tunnel, lambda chance: DrawnCluster(tunnel.node, cluster, chance, tunnel=True), seed, _with_tunnel)


# -- the node with its uplink ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uplink(datapath: Datapath) -> Iterator[Net]:
    with Uplink(Node(datapath)) as built, ExitStack() as stack:
        ends = {name: stack.enter_context(listener(namespace, "eth0")) for name, namespace in built.pods.items()}
        ends["uplink"] = stack.enter_context(listener(built.outside, "eth0"))
        own = stack.enter_context(listener(built.home, "eth0"))

        def inject(at: Point, frame: bytes) -> None:
            end = ends[at.pod.name] if isinstance(at, FromPod) else ends["uplink"] if isinstance(at, FromOutside) else own
            with suppress(OSError):  # ENOBUFS: dropped at the link's egress
                end.send(frame)

        net = Net(built.node, built.home, ends, inject)
        yield net
        net.close()


def _with_uplink(ways: Ways, drawn: Drawn) -> list[Callable[[], Trial]]:
    """Masqueraded where the world has it so; to other nodes directly, or, for pods behind a tunnel, not at all."""
    away = (lambda: ways.pod_away(("node", "world"))) if drawn.tunnel else ways.pod_away
    return [ways.pod_to_pod, away, away, ways.uplink_to_host, ways.host_to_uplink, *([] if drawn.tunnel else ways.around_it())]


@SAMPLE
@given(world=worlds(), seed=SEEDS)
def test_what_arrives_by_the_uplink(uplink: Net, world: World, seed: int) -> None:
    _ask(uplink, lambda chance: DrawnWorld(uplink.node, world, chance, tunnel=None), seed, _with_uplink)


@SAMPLE
@given(cluster=clusters(), seed=SEEDS)
def test_what_objects_let_arrive_by_the_uplink(uplink: Net, cluster: Cluster, seed: int) -> None:
    _ask(uplink, lambda chance: DrawnCluster(uplink.node, cluster, chance), seed, _with_uplink)
