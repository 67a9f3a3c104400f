"""A pod asks again who its gateway is, as every kernel does once an answer has aged; and its node always answers in time.

The timers of that are shortened in the pods, so that an entry ages within a second what it ages in half a minute.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyroute2 import IPRoute
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from pilus_lab import Lab, wait_for
from pilus_lab.probe import Capture, Prober, drops, namespace_of_process, reaches, transmit, within

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PODS = {"client": "n1", "near": "n1", "far": "n2"}
SERVERS = ("near", "far")
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
TIMERS = {"base_reachable_time_ms": "500", "gc_stale_time": "1", "delay_first_probe_time": "1", "retrans_time_ms": "200"}

# A kernel asks about an aged entry from the link-local address, unless a packet waits for the answer (ndisc_send_ns). The pod's
# programs know no such address, and drop the question as a forgery.

# States of an entry: <linux/neighbour.h>. Incomplete (1) is one that has just been made.
REACHABLE, STALE, DELAY, PROBE, FAILED, PERMANENT = 0x02, 0x04, 0x08, 0x10, 0x20, 0x80
TENTATIVE, DAD_FAILED = 0x40, 0x08  # <linux/if_addr.h>


def manifest(name: str) -> dict[str, Any]:
    probe = {"readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": PODS[name], "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "lab.local/agnhost:1", "imagePullPolicy": "Never",
                "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
                **(probe if name in SERVERS else {}),  # the client's answers would tell it that its gateway is there
            }],
        },
    }  # fmt: skip


def _hurry() -> None:
    for family in ("ipv4", "ipv6"):
        for name, value in TIMERS.items():
            Path(f"/proc/sys/net/{family}/neigh/eth0/{name}").write_text(value)


@dataclass
class World:
    lab: Lab
    prober: Prober
    addresses: dict[str, dict[int, str]]  # pods, `node1`, `router1`, ...: by family
    nodes: dict[str, int]  # network namespaces

    def namespace(self, pod: str) -> int:
        return self.prober.namespace_of(f"default/{pod}")

    def router(self, pod: str, family: int) -> str:
        return self.addresses[f"router{PODS[pod][1:]}"][family]

    def state(self, pod: str, family: int) -> int:
        """Of the gateway's entry; 0 without one."""
        return neighbours(self.namespace(pod), family).get(self.router(pod, family), (0, ""))[0]

    def forget(self, pod: str, family: int) -> None:
        """As `ip neigh flush` does."""

        def flush() -> None:
            with IPRoute() as ip:
                index = ip.link_lookup(ifname="eth0")[0]
                ip.neigh("del", dst=self.router(pod, family), ifindex=index, family=_af(family))

        if self.state(pod, family):
            within(self.namespace(pod), flush)

    def reaches(self, pod: str, to: str, family: int) -> bool:
        address = self.addresses[to][family]
        return within(self.namespace(pod), lambda: reaches(address, 8080, limit=3) and reaches(address, 8081, "udp", limit=3))

    def everything_works(self) -> None:
        missing = [
            f"{source} > {to} IPv{family}"
            for family in (4, 6)
            for source in PODS
            for to in PODS
            if source != to and not self.reaches(source, to, family)
        ]
        missing += [f"{node} > {pod} IPv{family}" for node, namespace in self.nodes.items() for pod in PODS for family in (4, 6)
                    if not within(namespace, lambda to=self.addresses[pod][family]: reaches(to, 8080))]  # fmt: skip
        assert missing == []


def _af(family: int) -> int:
    return {4: socket.AF_INET, 6: socket.AF_INET6}[family]


def neighbours(namespace: int, family: int) -> dict[str, tuple[int, str]]:
    """Address -> state and MAC, in a network namespace."""

    def table() -> dict[str, tuple[int, str]]:
        with IPRoute() as ip:
            found = ip.get_neighbours(family=_af(family))
            return {str(one.get("NDA_DST")): (int(one["state"]), str(one.get("NDA_LLADDR"))) for one in found}

    return within(namespace, table)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab("neighbours", nodes=2, cni="pilus") as lab, Prober(lab) as prober, ExitStack() as held:
        wait_for("its service account", lambda: lab.get("serviceaccount", "default", check=False), 30)
        lab.apply("\n---\n".join(yaml.safe_dump(manifest(name)) for name in PODS))
        lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=80s")
        addresses = {name: by_family(one["ip"] for one in lab.get("pod", name)[0]["status"]["podIPs"]) for name in PODS}
        nodes = {}
        for node in lab.get("ciliumnodes"):
            name = node["metadata"]["name"]
            routers = (one["ip"] for one in node["spec"]["addresses"] if one["type"] == "CiliumInternalIP")
            addresses[f"router{name[1:]}"] = by_family(routers)
            nodes[name] = namespace_of_process(lab.node(name).orders.first_process())
            held.callback(os.close, nodes[name])
        made = World(lab, prober, addresses, nodes)
        for name in PODS:
            within(made.namespace(name), _hurry)
        for node in nodes:
            wait_for(f"the observer of {node}", lambda name=node: drops(lab, name), 30)
        yield made


@pytest.fixture(autouse=True)
def _afresh(world: World) -> None:
    """Each scenario begins without entries."""
    for pod in PODS:
        world.forget(pod, 6)


def by_family(addresses: Iterator[str]) -> dict[int, str]:
    return {6 if ":" in address else 4: address for address in addresses}


@dataclass
class Ageing:
    """What happened while datagrams were exchanged."""

    asked: int
    answered: int
    states: list[int]  # of the gateway's entry, each as long as it lasted


def exchange(world: World, family: int, rounds: int = 3) -> Ageing:
    """Datagrams to both servers and their answers, which confirm no neighbour, until the entry has aged so many times."""
    seen = Ageing(0, 0, [])
    with ExitStack() as held:
        sockets = []
        for server in SERVERS:
            made = within(world.namespace("client"), lambda: socket.socket(_af(family), socket.SOCK_DGRAM))
            made.settimeout(5)
            made.connect((world.addresses[server][family], 8081))
            sockets.append(held.enter_context(made))

        def aged() -> bool:
            state = world.state("client", family)
            if not seen.states or seen.states[-1] != state:
                seen.states.append(state)
            for one in sockets:
                seen.asked += 1
                one.send(b"hostname")
                try:
                    seen.answered += bool(one.recv(100))
                except TimeoutError:
                    continue
            return seen.states.count(DELAY) > rounds

        wait_for(f"{rounds} rounds of an entry's life", aged, 60, 0.02)
    print(f"{seen.asked} datagrams, {seen.answered} answers, states {seen.states}")
    return seen


@FAMILIES
def test_no_datagram_is_lost_while_entries_age(world: World, family: int) -> None:
    seen = exchange(world, family)
    assert seen.answered == seen.asked


@FAMILIES
def test_an_entry_is_confirmed_before_it_fails(world: World, family: int) -> None:
    seen = exchange(world, family)
    assert FAILED not in seen.states


def test_who_asks_for_its_gateway_is_no_forger(world: World) -> None:
    before = drops(world.lab, "n1").get("Invalid source ip", 0)
    exchange(world, 6)
    assert drops(world.lab, "n1").get("Invalid source ip", 0) == before


@FAMILIES
@pytest.mark.parametrize("server", SERVERS, ids=["same node", "other node"])
def test_a_connection_goes_on_when_entries_are_old_or_gone(world: World, family: int, server: str) -> None:
    address = world.addresses[server][family]
    connection = within(world.namespace("client"), lambda: socket.create_connection((address, 8080), 10))
    with connection:

        def asks() -> None:
            connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: it\r\n\r\n")
            found = b""
            while server.encode() not in found:
                more = connection.recv(4096)
                assert more, "the connection ended"
                found += more

        asks()
        # Both sides' entries: the server's answers need the server's.
        for pod in ("client", server):
            if pod == "client":  # nothing asks the client, but the kubelet, over IPv4
                wait_for(
                    f"an old entry at {pod}", lambda: world.state("client", family) in (0, STALE, FAILED, DELAY, PROBE), 30, 0.02
                )
            asks()
            world.forget(pod, family)
            asks()
        for pod in ("client", server):
            world.forget(pod, family)
        assert world.reaches("client", server, family)


@FAMILIES
def test_probes_of_the_kubelet_go_on(world: World, family: int) -> None:
    """The pod answers its node, and for that it needs to know its gateway. Over IPv6 this test asks in the kubelet's place."""
    pod, node = "near", world.nodes["n1"]
    states: set[int] = set()
    asked = 0
    since = [one["lastTransitionTime"] for one in world.lab.get("pod", pod)[0]["status"]["conditions"] if one["type"] == "Ready"]
    with Capture(world.namespace(pod)) as capture:

        def enough() -> bool:
            nonlocal asked
            state = world.state(pod, family)
            if family == 6 and state != REACHABLE:
                assert within(node, lambda: reaches(world.addresses[pod][6], 8080))
            found = [Ether(frame) for frame in capture.frames()]
            asked += sum(TCP in one and one[TCP].flags == "S" for one in found)
            states.add(state)
            return asked >= 4 and bool(states - {0, REACHABLE})

        wait_for("four probes, and an entry that has aged", enough, 60, 0.05)
        world.forget(pod, family)
        asked = 0
        wait_for("four more", enough, 60, 0.05)
    ready = [one for one in world.lab.get("pod", pod)[0]["status"]["conditions"] if one["type"] == "Ready"]
    assert [(one["status"], one["lastTransitionTime"]) for one in ready] == [("True", since[0])]


def test_the_node_knows_its_pods_for_good(world: World) -> None:
    """Nobody asks a pod who it is, so nothing a pod says can matter."""
    for pod, node in PODS.items():
        for family in (4, 6):
            with Capture(world.namespace(pod)) as capture:
                held = neighbours(world.nodes[node], family)
                assert held[world.addresses[pod][family]] == (PERMANENT, capture.mac)


def test_an_address_added_again_is_no_duplicate(world: World) -> None:
    own = world.addresses["client"][6]

    def flags() -> int:
        with IPRoute() as ip:
            index = ip.link_lookup(ifname="eth0")[0]
            [found] = [one for one in ip.get_addr(family=socket.AF_INET6, index=index) if one.get("IFA_ADDRESS") == own]
            return int(found.get("IFA_FLAGS"))

    def again() -> int:
        with IPRoute() as ip:
            index = ip.link_lookup(ifname="eth0")[0]
            ip.addr("del", index=index, address=own, prefixlen=128)
            ip.addr("add", index=index, address=own, prefixlen=128)
        return flags()

    assert within(world.namespace("client"), again) & TENTATIVE, "the kernel asks nobody whether the address is taken"
    wait_for("the address", lambda: not within(world.namespace("client"), flags) & TENTATIVE, 30)
    assert not within(world.namespace("client"), flags) & DAD_FAILED
    for server in SERVERS:
        assert world.reaches("client", server, 6)
        assert world.reaches(server, "client", 6)


def test_what_a_pod_says_of_its_own_address_harms_nothing(world: World) -> None:
    """Gratuitous ARP (RFC 5944 4.6: both kinds) and unsolicited advertisements."""
    namespace, own = world.namespace("client"), world.addresses["client"]
    with Capture(namespace) as held:
        mac = held.mac
    before = {(node, family): neighbours(of, family) for node, of in world.nodes.items() for family in (4, 6)}
    counted = sum(drops(world.lab, "n1").values())
    everybody = Ether(src=mac, dst="ff:ff:ff:ff:ff:ff")
    advertisement = (
        IPv6(src=own[6], dst="ff02::1", hlim=255) / ICMPv6ND_NA(tgt=own[6], R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )
    frames = [
        everybody / ARP(op=1, hwsrc=mac, psrc=own[4], pdst=own[4]),
        everybody / ARP(op=2, hwsrc=mac, psrc=own[4], hwdst="ff:ff:ff:ff:ff:ff", pdst=own[4]),
        Ether(src=mac, dst="33:33:00:00:00:01") / advertisement,
    ]
    with ExitStack() as stack:
        others = {pod: stack.enter_context(Capture(world.namespace(pod))) for pod in SERVERS}
        transmit(namespace, [bytes(frame) for frame in frames * 20])
        wait_for("all of them to be dropped", lambda: sum(drops(world.lab, "n1").values()) >= counted + 60, 10)
        world.everything_works()
        for pod, capture in others.items():
            heard = [Ether(frame) for frame in capture.frames()]
            assert [
                one
                for one in heard
                if (ARP in one and one[ARP].psrc == own[4]) or (ICMPv6ND_NA in one and one[ICMPv6ND_NA].tgt == own[6])
            ] == [], pod
    after = {(node, family): neighbours(of, family) for node, of in world.nodes.items() for family in (4, 6)}
    for pod, node in PODS.items():
        for family in (4, 6):
            address = world.addresses[pod][family]
            assert after[node, family][address] == before[node, family][address]


def test_everybody_talks_as_before(world: World) -> None:
    world.everything_works()
    assert {held["restartCount"] for pod in world.lab.get("pods") for held in pod["status"]["containerStatuses"]} == {0}
