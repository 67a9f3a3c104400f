"""Pods and a real outside: connections end to end, through masquerading and, without a tunnel, to other nodes directly."""

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from tests.packets.harness import netns
from tests.packets.harness.actors import CLIENT, FAR, HERE, OTHER, OUTSIDE, THERE, WEB
from tests.packets.harness.node import Node
from tests.packets.harness.world import (
    BEYOND,
    BEYOND_MTU,
    FIRST,
    GATEWAY,
    LAST,
    NODE,
    OTHER_NODE,
    ROUTER_MAC,
    VXLAN_PORT,
    World,
    echo_bytes,
)

from pilus_maps import Datapath

pytestmark = pytest.mark.kernel

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
_TTL = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
_PING = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
_ERRQUEUE = 0x2000


@pytest.fixture(scope="module")
def world_of(datapath: Datapath) -> Iterator[World]:
    with World(Node(datapath)) as built:
        yield built


@pytest.fixture
def world(world_of: World) -> World:
    world_of.reset()
    return world_of


def _from_node(world: World, family: int) -> None:
    """Everything that has left bears the node's address, and a port of the range where it has one."""
    left = world.left()
    assert left, "nothing has left the node"
    for one in left:
        packet = one[IP] if family == 4 else one[IPv6]
        assert packet.src == NODE[family], f"{packet.src} has left the node:\n{one.show(dump=True)}"
        for layer in (TCP, UDP):
            if packet.haslayer(layer) and not packet.haslayer(ICMP):
                assert FIRST <= packet[layer].sport <= LAST


@pytest.mark.parametrize("to", ["outside", "another node"])
def test_tcp(world: World, family: int, to: str) -> None:
    """A megabyte each way, and an orderly end."""
    address = {"outside": OUTSIDE, "another node": OTHER_NODE}[to][family]
    sent = os.urandom(1 << 20)
    with world.socket(world.outside, family, STREAM) as server, world.socket(world.pods["client"], family, STREAM) as client:
        server.bind((address, 0))
        server.listen()
        client.connect(server.getsockname()[:2])
        accepted, peer = server.accept()
        with accepted:
            accepted.settimeout(5)
            assert peer[0] == NODE[family]
            assert FIRST <= peer[1] <= LAST
            echoing = threading.Thread(target=_echo, args=(accepted,))
            sending = threading.Thread(target=client.sendall, args=(sent,))
            echoing.start()
            sending.start()
            got = bytearray()
            while len(got) < len(sent) and (part := client.recv(1 << 16)):
                got += part
            sending.join()
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            echoing.join()
        assert bytes(got) == sent
    ports = [(key["zone"], value["nat_port"]) for key, value in world.node.datapath.map("flows").items()]
    assert (1, peer[1]) in ports  # the forward direction's entry, past the LRU
    assert len(ports) == 2
    _from_node(world, family)


def _echo(end: socket.socket) -> None:
    while part := end.recv(1 << 16):
        end.sendall(part)
    end.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("size", [1, 1200, 4000], ids=["small", "one packet", "fragments"])
def test_udp(world: World, family: int, size: int) -> None:
    sent = os.urandom(size)
    with world.socket(world.outside, family, DGRAM) as server, world.socket(world.pods["client"], family, DGRAM) as client:
        server.bind((OUTSIDE[family], 0))
        for _ in range(3):
            client.sendto(sent, server.getsockname()[:2])
            got, peer = server.recvfrom(65535)
            assert got == sent
            assert peer[0] == NODE[family]
            server.sendto(got[::-1], peer)
            assert client.recvfrom(65535)[0] == sent[::-1]
        assert client.gettimeout()
    for one in world.left():
        assert (one[IP] if family == 4 else one[IPv6]).src == NODE[family]


def test_udp_without_a_checksum(world: World) -> None:
    """IPv4 allows it; it stays so."""
    with world.socket(world.outside, 4, DGRAM) as server, world.socket(world.pods["client"], 4, DGRAM) as client:
        server.bind((OUTSIDE[4], 0))
        client.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
        client.sendto(b"pilus", server.getsockname())
        assert server.recv(100) == b"pilus"
    assert [one[UDP].chksum for one in world.left() if one.haslayer(UDP)] == [0]


def test_ping(world: World, family: int) -> None:
    """Two pods with one identifier as well."""
    with ExitStack() as stack:
        ends = [stack.enter_context(world.socket(world.pods[pod.name], family, DGRAM, _PING[family])) for pod in (CLIENT, OTHER)]
        for end, pod in zip(ends, (CLIENT, OTHER), strict=True):
            end.bind((pod.address(family), 4711))
        for sequence in range(1, 4):
            for number, end in enumerate(ends):
                end.sendto(echo_bytes(family, sequence, b"pod %d" % number), (OUTSIDE[family], 0))
            for number, end in enumerate(ends):
                assert end.recv(100)[8:] == b"pod %d" % number
    identifiers = {key["source_port"]: None for key, _ in world.node.datapath.map("flows").items() if key["zone"] == 1}
    assert identifiers == {4711: None}
    _from_node(world, family)


def test_two_pods_with_one_source_port_to_one_destination(world: World, family: int) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(world.socket(world.outside, family, DGRAM))
        server.bind((OUTSIDE[family], 0))
        ends = [stack.enter_context(world.socket(world.pods[pod.name], family, DGRAM)) for pod in (CLIENT, OTHER, WEB)]
        for number, end in enumerate(ends):
            end.bind(("", 5353))
            end.sendto(b"%d" % number, server.getsockname()[:2])
        peers = {}
        for _ in ends:
            text, peer = server.recvfrom(100)
            peers[text] = peer
        assert len(set(peers.values())) == len(ends)
        for text, peer in peers.items():
            server.sendto(text, peer)
        assert [end.recv(100) for end in ends] == [b"0", b"1", b"2"]


def test_ports_run_out_and_come_back(world: World, family: int) -> None:
    """Four ports, of which a pod may use two: its third connection to one destination is refused by name; to another destination
    it is not."""
    world.reset(nat_first=FIRST, nat_last=FIRST + 3)
    with ExitStack() as stack:
        servers = [stack.enter_context(world.socket(world.outside, family, DGRAM)) for _ in range(2)]
        for server in servers:
            server.bind((OUTSIDE[family], 0))
        ends = [stack.enter_context(world.socket(world.pods["client"], family, DGRAM)) for _ in range(3)]
        before = world.node.counters()
        for end in ends:
            end.sendto(b"x", servers[0].getsockname()[:2])
        world.dropped("POD_FROM", "NAT_NO_MAPPING", before)
        first, second = sorted(servers[0].recvfrom(10)[1][1] for _ in range(2))
        assert (first in (FIRST, FIRST + 1), second in (FIRST + 2, FIRST + 3)) == (True, True)
        ends[2].sendto(b"x", servers[1].getsockname()[:2])
        assert servers[1].recv(10) == b"x"
        # Time passes: the others' entries expire, and make room.
        for name in ("flows", "embryonic"):
            held = world.node.datapath.map(name)
            for key, value in list(held.items()):
                held.update(key, value | {"last_seen": max(value["last_seen"] - 100, 0)})
        ends[2].sendto(b"y", servers[0].getsockname()[:2])
        assert servers[0].recv(10) == b"y"


def test_a_closed_port(world: World, family: int) -> None:
    """The outside's ICMP error reaches the socket that asked."""
    with world.socket(world.pods["client"], family, DGRAM) as client:
        client.connect((OUTSIDE[family], 9))
        client.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)
    with world.socket(world.pods["client"], family, STREAM) as client, pytest.raises(ConnectionRefusedError):
        client.connect((OUTSIDE[family], 9))


@pytest.mark.parametrize("kind", ["udp", "ping"])
def test_time_exceeded_on_the_way(world: World, family: int, kind: str) -> None:
    """One hop is ours, the next one the router's."""
    protocol = _PING[family] if kind == "ping" else 0
    with world.socket(world.pods["client"], family, DGRAM, protocol) as client:
        client.setsockopt(*_RECVERR[family], 1)
        client.setsockopt(*_TTL[family], 2)
        client.sendto(echo_bytes(family, 1), (BEYOND[family], 0 if kind == "ping" else 33434))
        _, ancillary, _, _ = _error(client)
        number, origin, kind_, code = struct.unpack_from("=IBBB", ancillary[0][2])
        assert (origin, kind_, code) == ((2, 11, 0) if family == 4 else (3, 3, 0))
        assert number in (errno.EHOSTUNREACH, errno.EPROTO)
        by = socket.inet_ntop(*_offender(family, ancillary[0][2]))
        assert by in (GATEWAY[family], OTHER_NODE[family])  # whichever of the router's own its stack picks


def _error(end: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
    until = time.monotonic() + 2
    while True:
        try:
            return end.recvmsg(2000, 2000, _ERRQUEUE)
        except BlockingIOError:
            if time.monotonic() > until:
                raise AssertionError("no error has come") from None
            time.sleep(0.01)


def _offender(family: int, raw: bytes) -> tuple[int, bytes]:
    """struct sock_extended_err has 16 bytes; then a sockaddr."""
    return (socket.AF_INET, raw[20:24]) if family == 4 else (socket.AF_INET6, raw[24:40])


def test_a_narrow_link_on_the_way(world: World, family: int) -> None:
    """Fragmentation needed: the pod learns the path's MTU."""
    with world.socket(world.pods["client"], family, DGRAM) as client:
        client.setsockopt(*_MTU_DISCOVER[family], 2)
        client.connect((BEYOND[family], 9))
        client.send(b"x" * 1400)
        level, option = (socket.IPPROTO_IP, 14) if family == 4 else (socket.IPPROTO_IPV6, 24)
        until = time.monotonic() + 2
        while (mtu := client.getsockopt(level, option)) != BEYOND_MTU and time.monotonic() < until:
            time.sleep(0.01)
        assert mtu == BEYOND_MTU
    assert world.left()


def test_a_pods_own_error_about_the_outside(world: World, family: int) -> None:
    """A late answer finds the pod's socket closed: its "port unreachable" goes back translated, and the server hears it."""
    with world.socket(world.outside, family, DGRAM) as server:
        server.bind((OUTSIDE[family], 0))
        with world.socket(world.pods["client"], family, DGRAM) as client:
            client.sendto(b"x", server.getsockname()[:2])
            _, peer = server.recvfrom(10)
        server.connect(peer[:2])
        world.captured()
        server.send(b"late")
        with pytest.raises(ConnectionRefusedError):
            server.recv(10)
    for one in world.left():
        assert (one[IP] if family == 4 else one[IPv6]).src == NODE[family]


def test_a_packet_too_big_for_the_uplink_is_answered(world: World, family: int) -> None:
    world.reset(uplink_mtu=1400)
    with world.socket(world.pods["client"], family, DGRAM) as client:
        client.setsockopt(*_MTU_DISCOVER[family], 2)
        client.connect((OUTSIDE[family], 9))
        client.send(b"x" * 1450)
        level, option = (socket.IPPROTO_IP, 14) if family == 4 else (socket.IPPROTO_IPV6, 24)
        until = time.monotonic() + 2
        while (mtu := client.getsockopt(level, option)) != 1400 and time.monotonic() < until:
            time.sleep(0.01)
        assert mtu == 1400
    assert not [one for one in world.left() if one.haslayer(UDP)]


# -- the node's own ----------------------------------------------------------------------------------------------------


def test_the_nodes_own_traffic_passes(world: World, family: int) -> None:
    """Both ways, also from and to ports of masquerading's range."""
    for port in (0, FIRST + 5):
        with (
            world.socket(world.home, family, STREAM) as server,
            world.socket(world.outside, family, STREAM) as client,
            world.socket(world.outside, family, DGRAM) as far,
            world.socket(world.home, family, DGRAM) as near,
        ):
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((NODE[family], port))
            server.listen()
            client.connect(server.getsockname()[:2])
            with server.accept()[0] as accepted:
                accepted.sendall(b"x" * 5000)
                got = 0
                while got < 5000:
                    got += len(client.recv(5000))
            far.bind((OUTSIDE[family], 0))
            near.bind(("", port))
            near.sendto(b"y" * 4000, far.getsockname()[:2])
            text, peer = far.recvfrom(5000)
            far.sendto(text, peer)
            assert near.recv(5000) == text
    with world.socket(world.home, family, DGRAM, _PING[family]) as ping:
        ping.sendto(echo_bytes(family, 1), (OUTSIDE[family], 0))
        assert ping.recv(100)[8:] == b"pilus"
        ping.sendto(echo_bytes(family, 1, b"z" * 4000), (OUTSIDE[family], 0))
        assert ping.recv(5000)[8:] == b"z" * 4000


def test_the_node_hears_of_its_own_closed_ports(world: World, family: int) -> None:
    with world.socket(world.home, family, DGRAM) as near:
        near.connect((OUTSIDE[family], 9))
        near.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            near.recv(10)


def test_without_settings_the_nodes_own_traffic_passes(world: World, family: int) -> None:
    world.node.settings(flags=0)
    with world.socket(world.home, family, DGRAM, _PING[family]) as ping:
        ping.sendto(echo_bytes(family, 1), (OUTSIDE[family], 0))
        assert ping.recv(100)[8:] == b"pilus"


# -- what must not pass ------------------------------------------------------------------------------------------------


def _packet(family: int, source: str, destination: str) -> IP | IPv6:
    frame = Ether(src=ROUTER_MAC, dst=HERE.mac)
    return frame / (IP(src=source, dst=destination) if family == 4 else IPv6(src=source, dst=destination))


def test_a_reply_that_nobody_asked_for(world: World, family: int) -> None:
    """Right port, wrong sender; right sender, wrong port: the pod sees neither."""
    with world.socket(world.outside, family, DGRAM) as server, world.socket(world.pods["client"], family, DGRAM) as client:
        server.bind((OUTSIDE[family], 0))
        client.sendto(b"x", server.getsockname()[:2])
        _, peer = server.recvfrom(10)
        asked = server.getsockname()[1]
        with world.sniffing() as seen:
            for source, sport, dport in (
                (BEYOND[family], asked, peer[1]),
                (OUTSIDE[family], asked + 1, peer[1]),
                (OUTSIDE[family], asked, peer[1] - 1 if peer[1] > FIRST else peer[1] + 1),
            ):
                world.inject(_packet(family, source, NODE[family]) / UDP(sport=sport, dport=dport) / b"forged")
        assert not [frame for frame in seen if b"forged" in frame]
        with world.sniffing() as seen:
            world.inject(_packet(family, OUTSIDE[family], NODE[family]) / UDP(sport=asked, dport=peer[1]) / b"right")
        assert [frame for frame in seen if b"right" in frame]


def test_to_a_pods_address_around_the_tunnel(world: World, family: int) -> None:
    before = world.node.counters()
    with world.sniffing() as seen:
        for source in (OUTSIDE[family], OTHER_NODE[family], FAR.address(family), OTHER.address(family)):
            world.inject(_packet(family, source, CLIENT.address(family)) / UDP(sport=1, dport=2) / b"forged")
    world.dropped("UPLINK_FROM", "AROUND_TUNNEL", before, 4)
    assert not [frame for frame in seen if b"forged" in frame]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "in fragments"])
@pytest.mark.parametrize("to", ["this node", "another node", "a node not heard of yet"])
def test_a_forged_tunnel_packet(world: World, to: str, whole: bool) -> None:
    """What would reach a tunnel's port with this node's address would be believed: as identity 1, say, and from any pod of ours."""
    address = {"this node": NODE, "another node": OTHER_NODE, "a node not heard of yet": OUTSIDE}[to][4]
    load = b"x" * (10 if whole else 3000)
    inner = bytes(Ether() / IP(src=CLIENT.address(4), dst=FAR.address(4)) / UDP(sport=1, dport=2) / load)
    forged = bytes.fromhex("0800000000000100") + inner
    before = world.node.counters()
    with world.socket(world.pods["client"], 4, DGRAM) as client:
        client.setsockopt(*_MTU_DISCOVER[4], 0)
        client.sendto(forged, (address, VXLAN_PORT))
    parts = len(fragment(IP() / UDP() / forged, 1480))
    world.dropped("POD_FROM", "TUNNEL_PORT", before, 1 if whole else parts)
    assert not world.left()


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "direct"])
def test_an_untranslated_leak(world: World, family: int, tunnel: bool) -> None:
    """Whoever sends it down the uplink, a pod's address does not leave for the outside."""
    world.reset(tunnel=tunnel)
    before = world.node.counters()
    with netns.inside(world.home), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind(("eth0", 0))
        for source in (CLIENT.address(family), FAR.address(family), HERE.routers[family]):
            frame = _packet(family, source, OUTSIDE[family]) / UDP(sport=1, dport=2)
            frame.src, frame.dst = HERE.mac, ROUTER_MAC
            with pytest.raises(OSError, match="buffer"):
                end.send(bytes(frame))
    world.dropped("UPLINK_TO", "UNTRANSLATED", before, 3)
    assert not world.left()


# -- without a tunnel --------------------------------------------------------------------------------------------------


@pytest.fixture
def direct(world_of: World) -> Iterator[World]:
    """The outside has the other node's range and a pod in it; routes as the agents install them."""
    with netns.inside(world_of.outside), IPRoute() as ip:
        for family, address in FAR.addresses.items():
            World._address(ip, 1, address)
            ip.route("add", dst=HERE.ranges[family], gateway=NODE[family], family=2 if family == 4 else 10)
    with netns.inside(world_of.home), IPRoute() as ip:
        for family, network in THERE.ranges.items():
            ip.route("add", dst=network, gateway=OTHER_NODE[family], family=2 if family == 4 else 10)
    world_of.reset(tunnel=False)
    try:
        yield world_of
    finally:
        with netns.inside(world_of.outside), IPRoute() as ip:
            for family, address in FAR.addresses.items():
                ip.addr("del", index=1, address=address, prefixlen=32 if family == 4 else 128)
                ip.route("del", dst=HERE.ranges[family], family=2 if family == 4 else 10)
        with netns.inside(world_of.home), IPRoute() as ip:
            for family, network in THERE.ranges.items():
                ip.route("del", dst=network, family=2 if family == 4 else 10)


@pytest.mark.parametrize("way", ["there", "here", "a node's own address", "from a node", "outside"])
def test_direct_tcp(direct: World, family: int, way: str) -> None:
    """Addresses stay as they are, but for the outside's."""
    pod, far = CLIENT.address(family), FAR.address(family)
    one, other, source, destination, seen = {
        "there": (direct.pods["client"], direct.outside, pod, far, pod),
        "here": (direct.outside, direct.pods["client"], far, pod, far),
        "a node's own address": (direct.pods["client"], direct.outside, pod, OTHER_NODE[family], pod),
        "from a node": (direct.outside, direct.pods["client"], OTHER_NODE[family], pod, OTHER_NODE[family]),
        "outside": (direct.pods["client"], direct.outside, pod, OUTSIDE[family], NODE[family]),
    }[way]
    with direct.socket(other, family, STREAM) as server, direct.socket(one, family, STREAM) as client:
        server.bind((destination, 0))
        server.listen()
        client.bind((source, 0))
        client.connect(server.getsockname()[:2])
        accepted, peer = server.accept()
        with accepted:
            accepted.settimeout(5)
            assert peer[0] == seen
            echoing = threading.Thread(target=_echo, args=(accepted,))
            echoing.start()
            client.sendall(b"x" * 100_000)
            got = 0
            while got < 100_000:
                got += len(client.recv(1 << 16))
            client.shutdown(socket.SHUT_WR)
            echoing.join()


def test_direct_from_this_host(direct: World, family: int) -> None:
    with direct.socket(direct.outside, family, DGRAM) as server, direct.socket(direct.home, family, DGRAM) as host:
        server.bind((FAR.address(family), 0))
        host.sendto(b"x", server.getsockname()[:2])
        text, peer = server.recvfrom(10)
        assert peer[0] == NODE[family]
        server.sendto(text, peer)
        assert host.recv(10) == b"x"


def test_direct_from_nobody(direct: World, family: int) -> None:
    """The outside has no way to a pod, and nobody comes with an address of ours."""
    before = direct.node.counters()
    with direct.sniffing() as seen:
        direct.inject(_packet(family, OUTSIDE[family], CLIENT.address(family)) / UDP(sport=1, dport=2) / b"forged")
        direct.inject(_packet(family, OTHER.address(family), CLIENT.address(family)) / UDP(sport=1, dport=2) / b"forged")
        direct.inject(_packet(family, OUTSIDE[family], FAR.address(family)) / UDP(sport=1, dport=2) / b"forged")
    direct.dropped("UPLINK_FROM", "UNKNOWN_SENDER", before)
    direct.dropped("UPLINK_FROM", "WRONG_NODE", before)
    direct.dropped("UPLINK_FROM", "UNROUTABLE", before)
    assert not [frame for frame in seen if b"forged" in frame]
