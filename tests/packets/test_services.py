"""A Service's clients and policy: pods' own stacks, the socket programs on a cgroup of the test's own, and the tables of both.

What a client's policy is asked about is the backend that the Service gave it; the Service's own address is nobody.
"""

import os
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.l2 import Ether
from tests.packets.harness import cgroups, netns
from tests.packets.harness.actors import CLIENT, FAR, OTHER, WEB, Pod
from tests.packets.harness.node import DENY, Node, Rule, Side
from tests.packets.harness.wire import Wire

from pilus_agent.bind.services import ServiceRows
from pilus_agent.datapath import cgroup
from pilus_agent.desired.services import ServiceTable
from pilus_agent.facts import EndpointSlice, Service, ServiceEndpoint, ServicePort
from pilus_maps import Datapath

pytestmark = pytest.mark.kernel
PORT, TARGET = 80, 8080
BACKENDS = {pod.name: pod for pod in (WEB, OTHER, FAR)}
OPEN = Side()
PROTOCOLS = {"TCP": (6, socket.SOCK_STREAM, TCP), "UDP": (17, socket.SOCK_DGRAM, UDP)}
OUTER = 14 + 20 + 8 + 8  # of a tunnel packet, before the frame in it
PATIENCE = 2


def frontend(pod: Pod, family: int) -> str:
    """Of the Service that this pod alone stands behind."""
    last = 1 + list(BACKENDS).index(pod.name)
    return f"10.96.0.{last}" if family == 4 else f"fd00:96::{last}"


def _serve(datapath: Datapath) -> None:
    table, rows = ServiceTable("node1"), ServiceRows()
    for name, pod in BACKENDS.items():
        for family in (4, 6):
            key, address = f"default/{name}{family}", ip_address(frontend(pod, family))
            ports = tuple(ServicePort(called, number, PORT) for called, (number, _, _) in PROTOCOLS.items())
            targets = tuple(ServicePort(port.name, port.protocol, TARGET) for port in ports)
            ends = (ServiceEndpoint(ip_address(pod.address(family))),)
            table.put_service(key, Service("default", f"{name}{family}", "ClusterIP", (address,), ports))
            table.put_slice(f"{key}-1", EndpointSlice(key, targets, ends))
    for change in rows.settle(table.take_changes()):
        assert change.value is not None
        datapath.map(change.table).update(change.key, change.value)


@pytest.fixture(scope="module")
def stacks(datapath: Datapath) -> Iterator[Wire]:
    with cgroups.inside(f"pilus-services-{os.getpid()}") as folder, Wire(Node(datapath), stacks=True) as harness:
        try:
            cgroup.attach(datapath, folder)
            _serve(datapath)
            yield harness
        finally:
            cgroup.detach(cgroup.links_folder(datapath))
            for name in ("services", "backends", "reverse"):
                datapath.map(name).clear()


def asked(stacks: Wire, family: int, protocol: str, server: Pod) -> str:
    """Where the client's first packet comes to, of those that it sends to the Service: a pod's name, or why it was dropped."""
    _, kind, layer = PROTOCOLS[protocol]
    hook = stacks.node.hooks["PILUS_HOOK_POD_FROM"]
    reasons = {(hook, stacks.node.reason(name)): name for name in ("POLICY", "POLICY_DENY")}
    stacks.taken()
    before = stacks.node.counters()
    with netns.inside(stacks.pods[CLIENT.name]):
        client = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, kind)
    with client:
        client.setblocking(False)
        client.connect_ex((frontend(server, family), PORT))
        if protocol == "UDP":
            client.send(b"x")
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            for end, frames in stacks.taken().items():
                for frame in map(Ether, (frame[OUTER:] if end == "underlay" else frame for frame in frames)):
                    if frame.haslayer(layer) and frame[layer].dport == TARGET:
                        assert frame.payload.dst == server.address(family)
                        return server.name if end in (server.name, "underlay") else f"wrongly {end}"
            now = stacks.node.counters()
            if found := [name for key, name in reasons.items() if now.get(key, 0) > before.get(key, 0)]:
                return found[0]
            time.sleep(0.002)
    return "nowhere"


def may(stacks: Wire, egress: Side) -> None:
    stacks.node.reset(policies={5: (OPEN, egress)}, pods={CLIENT.name: 5})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("server", [WEB, FAR], ids=["a pod here", "another node's pod"])
def test_cve_2025_30162_a_clients_policy_is_asked_about_the_backend(stacks: Wire, family: int, server: Pod, protocol: str) -> None:
    """By identity and by address, at the backend's port and never the Service's, allowed and denied."""
    number, block = PROTOCOLS[protocol][0], 32 if family == 4 else 128
    backend, service = f"{server.address(family)}/{block}", f"{frontend(server, family)}/{block}"
    target, port = [Rule(1, protocol=number, port=TARGET)], [Rule(1, protocol=number, port=PORT)]

    def ask(pod: Pod = server) -> str:
        return asked(stacks, family, protocol, pod)

    may(stacks, Side(peers={server.identity: target}))
    assert (ask(), ask(OTHER)) == (server.name, "POLICY")
    may(stacks, Side(networks={backend: target}))
    assert (ask(), ask(OTHER)) == (server.name, "POLICY")
    may(stacks, Side(everybody=[Rule(1)], peers={server.identity: [Rule(2, DENY)]}))
    assert (ask(), ask(OTHER)) == ("POLICY_DENY", OTHER.name)
    for closed in (Side(peers={server.identity: port}), Side(networks={service: [Rule(1)]}), Side(everybody=[])):
        may(stacks, closed)
        assert ask() == "POLICY"
    may(stacks, Side(everybody=[Rule(1)], networks={service: [Rule(2, DENY)]}))
    assert ask() == server.name
