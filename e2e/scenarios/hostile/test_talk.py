"""Another's connection."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from e2e.scenarios.hostile.world import (
    FAMILIES,
    SOURCE,
    World,
    policy,
    probes_of,
)
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from pilus_lab import wait_for
from pilus_lab.probe import drops, within

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@dataclass
class Talk:
    """A connection between two pods, and every frame of it that each side got."""

    world: World
    server: str
    family: int
    connection: socket.socket

    def ask(self) -> bytes:
        """An answer to one more request on the same connection."""
        self.connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: it\r\n\r\n")
        found = b""
        while self.server.encode() not in found:
            more = self.connection.recv(4096)
            assert more, "the connection ended"
            found += more
        return found

    def frames(self) -> dict[str, list[Packet]]:
        return {pod: [Ether(one) for one in self.world.captures[pod].frames()] for pod in ("client", self.server)}


@pytest.fixture(params=["server1", "server2"], ids=["same node", "other node"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def talk(world: World, server: str, family: int) -> Iterator[Talk]:
    address = world.addresses[server][family]
    connection = within(world.namespace("client"), lambda: socket.create_connection((address, 8080), 10))
    with connection:
        yield Talk(world, server, family, connection)


@FAMILIES
def test_anothers_connection_is_not_ridden_on(world: World, talk: Talk) -> None:
    """Its very frames, both directions', byte for byte and with the attacker's own MACs; a reset of the right sequence number."""
    talk.frames()
    talk.ask()
    taken = talk.frames()
    frames: list[Packet] = []
    for receiver, sender in ((talk.server, "client"), ("client", talk.server)):
        ip = IP if talk.family == 4 else IPv6
        found = [one for one in taken[receiver] if TCP in one and one[ip].src == world.addresses[sender][talk.family]]
        assert found
        last = found[-1].copy()
        last[TCP].flags = "R"
        last[TCP].seq += len(last[TCP].payload)
        for layer in (last[TCP], last[ip]):
            if "chksum" in layer.fields:
                del layer.chksum
        for one in (*found, Ether(bytes(last))):
            frames += [one, Ether(src=world.mac, dst=world.gateway_mac) / one.payload]
    world.refused(SOURCE, *frames)
    for pod, seen in talk.frames().items():
        assert [one for one in seen if TCP in one and one[TCP].sport != 8081] == [], pod
    talk.ask()


@FAMILIES
@pytest.mark.parametrize(
    ("teller", "server"),
    [
        ("attacker", "server1"),
        ("attacker", "server2"),
        ("far", "server2"),
    ],
    indirect=["server"],
    ids=["all on one node", "beside the client", "beside the server"],
)
def test_news_of_anothers_connection(world: World, talk: Talk, teller: str) -> None:
    """An ICMP error tells of a connection. From a pod that has no part in it, it is subject to policy as anything else is."""
    talk.frames()
    talk.ask()
    sent = next(one for one in talk.frames()[talk.server] if TCP in one)
    error = ICMP(type=3, code=1) if talk.family == 4 else ICMPv6DestUnreach(code=3)
    with policy(world, "client", "ingress: [{fromEndpoints: [{matchLabels: {app: server}}]}]"):
        world.captures["client"].frames()
        before = drops(world.lab, "n1").get("Policy denied", 0)
        frame = world.frame(talk.family, "client", pod=teller)
        world.send(frame / error / Raw(bytes(sent.payload)[:60]), frame / probes_of(talk.family)[1], pod=teller)
        # Others may be refused beside these two.
        wait_for("the refusal of both", lambda: drops(world.lab, "n1").get("Policy denied", 0) >= before + 2, 10)
        talk.ask()
        assert [one for one in talk.frames()["client"] if type(error) in one] == []
