"""Real stacks at both ends: addresses resolved through our answers, checksums and segments as a kernel makes and checks them."""

import errno
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness import netns
from tests.packets.harness.actors import CLIENT, FAR, THERE, WEB
from tests.packets.harness.frames import raw, router, tunnelled
from tests.packets.harness.node import Node, Rule, Side
from tests.packets.harness.scenario import FromTunnel
from tests.packets.harness.wire import Wire

from pilus_maps import Datapath

pytestmark = pytest.mark.kernel
OPEN = Side()
CLOSED = Side(everybody=[])
SIZE = 4 << 20
PATIENCE = 10
IP_MTU, IP_MTU_DISCOVER, PMTUDISC_DO, IPV6_MTU, IPV6_MTU_DISCOVER = 14, 10, 2, 24, 23  # linux/in.h, linux/in6.h


@pytest.fixture(scope="module")
def stacks(datapath: Datapath) -> Iterator[Wire]:
    with Wire(Node(datapath), stacks=True) as harness:
        yield harness


def _socket(namespace: int, family: int, kind: socket.SocketKind) -> socket.socket:
    with netns.inside(namespace):
        made = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    made.settimeout(PATIENCE)
    return made


def _transfer(family: int, client: int, server: int, address: str, port: int) -> int:
    """How many bytes come back of those that the client sends; the server returns what it gets."""
    listening = _socket(server, family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    listening.listen()

    def serve() -> None:
        with listening:
            peer, _ = listening.accept()
            with peer:
                peer.settimeout(PATIENCE)
                while data := peer.recv(1 << 16):
                    peer.sendall(data)

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    got = 0
    with _socket(client, family, socket.SOCK_STREAM) as asking:
        asking.connect((address, port))

        def send() -> None:
            asking.sendall(b"x" * SIZE)
            asking.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        while data := asking.recv(1 << 16):
            got += len(data)
        sending.join(PATIENCE)
    serving.join(PATIENCE)
    return got


def test_between_pods(stacks: Wire, family: int) -> None:
    """The server's pod lets in the client alone and may begin nothing itself."""
    stacks.node.reset(policies={5: (Side(peers={CLIENT.identity: [Rule(1, protocol=6, port=8080)]}), CLOSED)}, pods={"web": 5})
    assert _transfer(family, stacks.pods["client"], stacks.pods["web"], WEB.address(family), 8080) == SIZE
    with _socket(stacks.pods["other"], family, socket.SOCK_STREAM) as refused:
        refused.settimeout(0.3)
        with pytest.raises(TimeoutError):
            refused.connect((WEB.address(family), 8080))


def test_this_host_to_a_pod_that_may_do_nothing(stacks: Wire, family: int) -> None:
    """The kubelet's probe."""
    stacks.node.reset(policies={5: (CLOSED, CLOSED)}, pods={"web": 5})
    assert _transfer(family, stacks.home, stacks.pods["web"], WEB.address(family), 8081) == SIZE


def test_a_pod_to_this_host(stacks: Wire, family: int) -> None:
    stacks.node.reset(policies={5: (CLOSED, Side(peers={1: [Rule(1)]}))}, pods={"client": 5})
    assert _transfer(family, stacks.pods["client"], stacks.home, router(family), 8082) == SIZE


def test_a_pod_learns_the_tunnels_mtu(stacks: Wire, family: int) -> None:
    """What we answer is what its stack believes."""
    stacks.node.reset(mtu=1400)
    level, discover, mtu = (
        (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_MTU) if family == 4 else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_MTU)
    )
    with _socket(stacks.pods["client"], family, socket.SOCK_DGRAM) as sending:
        sending.setsockopt(level, discover, PMTUDISC_DO)
        sending.connect((FAR.address(family), 53))
        sending.send(b"x" * 1420)
        time.sleep(0.05)
        with pytest.raises(OSError) as refused:  # errno says which
            sending.send(b"x" * 1420)
        assert refused.value.errno == errno.EMSGSIZE
        assert sending.getsockopt(level, mtu) == 1400


def test_tcp_learns_the_tunnels_mtu(stacks: Wire, family: int) -> None:
    """Segments as its stack hands them over: many in one buffer, their checksums not filled in yet."""
    stacks.node.reset(mtu=1400)
    head = 20 if family == 4 else 40

    def tunnelled_out(least: int) -> Packet:
        """The next TCP packet into the tunnel with as much payload."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for frame in stacks.taken().get("underlay", []):
                inner = Ether(frame[14 + 20 + 8 + 8 :])
                if inner.haslayer(TCP) and len(bytes(inner[TCP].payload)) >= least:
                    return inner
            time.sleep(0.01)
        raise AssertionError("nothing came")

    stacks.taken()
    with _socket(stacks.pods["client"], family, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        asking.connect_ex((FAR.address(family), 80))
        first = tunnelled_out(0)[TCP]
        accepted = TCP(sport=80, dport=first.sport, flags="SA", seq=9, ack=first.seq + 1, window=65535, options=[("MSS", 1460)])
        stacks.inject(FromTunnel(THERE, FAR.identity), raw(tunnelled(FAR.address(family), CLIENT.address(family), accepted)))
        assert select.select([], [asking], [], PATIENCE)[1]
        asking.send(b"x" * 8000)
        segment = tunnelled_out(1000)
        assert segment[TCP].seq == first.seq + 1
        assert len(bytes(segment[TCP].payload)) % (1400 - head - 20) == 0  # a veth carries them in one buffer still


def test_a_large_datagram_between_pods(stacks: Wire, family: int) -> None:
    """In parts, which pass as their first one."""
    stacks.node.reset(policies={5: (Side(everybody=[Rule(1, protocol=17, port=5353)]), CLOSED)}, pods={"web": 5})
    with (
        _socket(stacks.pods["web"], family, socket.SOCK_DGRAM) as hearing,
        _socket(stacks.pods["client"], family, socket.SOCK_DGRAM) as one,
    ):
        hearing.bind((WEB.address(family), 5353))
        one.sendto(b"x" * 5000, (WEB.address(family), 5353))
        data, sender = hearing.recvfrom(10000)
        assert len(data) == 5000
        hearing.sendto(b"y" * 4000, sender)
        assert len(one.recv(10000)) == 4000
