"""A flood from one pod, with real sockets at the ends of those that it must not harm."""

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tests.loaded import loaded
from tests.packets.harness import netns
from tests.packets.harness.actors import CLIENT, OTHER, WEB
from tests.packets.harness.frames import from_pod, raw, udp
from tests.packets.harness.node import Node, Rule, Side
from tests.packets.harness.wire import Wire

from pilus_maps import Datapath

pytestmark = pytest.mark.kernel
CONNECTIONS = 1000
ALLOWED, REFUSED = 8080, 9999
PORTS = 10  # from ALLOWED on
PATIENCE = 60
OPEN, NOBODY_IN = Side(), Side(everybody=[])


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    """Tables of the sizes that a node has."""
    with loaded("flood", tmp_path_factory.mktemp("datapath"), {}) as made:
        yield made


@pytest.fixture
def stacks(real: Datapath) -> Iterator[Wire]:
    with Wire(Node(real), stacks=True) as harness:
        yield harness


def _connected(harness: Wire, stack: ExitStack, family: int) -> list[tuple[socket.socket, socket.socket]]:
    """Pairs of ends: the client's, the server's."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with netns.inside(harness.pods[WEB.name]):
        listening = stack.enter_context(socket.socket(kind))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((WEB.address(family), ALLOWED))
        listening.listen(CONNECTIONS)
    listening.settimeout(PATIENCE)
    pairs = []
    for _ in range(CONNECTIONS):
        with netns.inside(harness.pods[CLIENT.name]):
            client = stack.enter_context(socket.socket(kind))
        client.settimeout(PATIENCE)
        client.connect((WEB.address(family), ALLOWED))
        server = stack.enter_context(listening.accept()[0])
        pairs.append((client, server))
    return pairs


def _flood(harness: Wire, family: int, frames: int) -> int:
    """New tuples of one pod, to the allowed port and to the refused one by turns; how many of the latter."""
    # The payload is the ports' complement, so that one checksum is right for all of them.
    frame = bytearray(raw(from_pod(OTHER, WEB.address(family), udp(0, 0, b"\xff" * 4))))
    at = 34 if family == 4 else 54
    with netns.inside(harness.pods[OTHER.name]), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
        end.bind(("eth0", 0))
        for number in range(frames):
            mine, round_ = 1 + number // 2 % 65535, number // 2 // 65535
            ports = mine << 16 | (REFUSED if number % 2 else ALLOWED + round_ % PORTS)
            frame[at : at + 4], frame[at + 8 : at + 12] = ports.to_bytes(4, "big"), (ports ^ 0xFFFFFFFF).to_bytes(4, "big")
            end.send(bytes(frame))
    return frames // 2


def test_a_flood_of_ten_tables_costs_no_connection_and_lets_nothing_through(stacks: Wire, family: int) -> None:
    """A thousand idle connections of others, in which the server speaks next, and the client lets nobody in: each byte arrives. Of
    the flood's denied half, none does."""
    node = stacks.node
    open_ports = [Rule(2, protocol=17, port=port) for port in range(ALLOWED, ALLOWED + PORTS)]
    web = Side(peers={CLIENT.identity: [Rule(1, protocol=6, port=ALLOWED)], OTHER.identity: open_ports})
    node.reset(policies={5: (web, NOBODY_IN), 6: (NOBODY_IN, OPEN)}, pods={"web": 5, "client": 6})
    node.settings(event_rate=0)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    with ExitStack() as stack:
        with netns.inside(stacks.pods[WEB.name]):
            heard = {port: stack.enter_context(socket.socket(kind, socket.SOCK_DGRAM)) for port in (ALLOWED, REFUSED)}
        for port, one in heard.items():
            one.bind((WEB.address(family), port))
            one.setblocking(False)
        pairs = _connected(stacks, stack, family)
        begun = time.monotonic()
        size = node.datapath.map("embryonic").max_entries
        assert size == 65536
        # Half of the frames are allowed, and make two entries each.
        denied = _flood(stacks, family, 10 * size)
        print(f"flooded in {time.monotonic() - begun:.1f} s, {denied} of them denied")
        for _, server in pairs:
            server.sendall(b"!")
        missing = {client.fileno(): client for client, _ in pairs}
        until = time.monotonic() + PATIENCE
        poll = select.poll()
        for number in missing:
            poll.register(number, select.POLLIN)
        while missing and time.monotonic() < until:
            for number, _ in poll.poll(1000):
                assert missing.pop(number).recv(10) == b"!"
                poll.unregister(number)
        assert not missing, f"{len(missing)} of {CONNECTIONS} connections are lost"
        assert heard[ALLOWED].recv(10), "the allowed half of the flood was to arrive: nothing is proved"
        with pytest.raises(BlockingIOError):
            heard[REFUSED].recv(10)
    counted = node.counters()
    assert counted[(0, node.reason("POLICY"))] >= denied
