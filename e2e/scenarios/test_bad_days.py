"""Bad days in a cluster: processes killed, versions rolled, control plane away, underlay changed.

Throughout, open connections go on, what is denied stays denied at every instant (a datagram each millisecond along each
denied way), no address is given twice, and nothing is left behind. Stalls are printed; what is asserted is a generous limit.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.soak import longer

from pilus_cli.client import AskError, ask
from pilus_lab import Lab, components, wait_for
from pilus_lab.components import REPOSITORY, Component
from pilus_lab.probe import Prober, namespace_of_process
from pilus_lab.traffic import Told, Traffic, Way

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3600)]

PODS = {"server": "n1", "near": "n1", "far": "n2", "stranger": "n2"}
OUTSIDE = "198.51.100.9"  # on no link of a node: reached by the default route
LIMIT = 10.0  # seconds without an answer, after which a connection counts as lost
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: near}}, {matchLabels: {app: far}}]
    toPorts: [{ports: [{port: "7000", endPort: 7099, protocol: TCP}, {port: "7100", endPort: 7109, protocol: UDP}]}]
"""


def manifest(name: str, node: str) -> dict[str, Any]:
    container = {"name": "main", "image": "lab.local/agnhost:1", "imagePullPolicy": "Never", "args": ["pause"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [container]}}  # fmt: skip


def root_of(lab: Lab, node: str) -> Path:
    return Path("/proc") / str(lab.node(node).orders.first_process()) / "root"


@dataclass
class World:
    lab: Lab
    prober: Prober
    addresses: dict[str, dict[int, str]]
    outside: int  # the namespace beside the nodes
    given: dict[str, list[tuple[str, float]]] = field(default_factory=dict)  # address -> who had it, until when
    ports: Iterator[int] = field(default_factory=lambda: iter(range(7000, 7100)))

    def namespace(self, pod: str) -> int:
        return self.prober.namespace_of(f"default/{pod}")

    def talks(self) -> list[Way]:
        """A pod of the node, one of another in both families, and, masqueraded, somebody outside."""
        server = self.namespace("server")
        ways = [
            Way(f"{source} IPv{family}", self.namespace(source), server, self.addresses["server"][family], next(self.ports))
            for source, family in (("near", 4), ("far", 4), ("far", 6))
        ]
        return [*ways, Way("outside", self.namespace("near"), self.outside, OUTSIDE, next(self.ports))]

    def datagrams(self) -> list[Way]:
        server, address = self.namespace("server"), self.addresses["server"]
        wanted = {
            "near, allowed": ("near", 7100, 4), "far, allowed": ("far", 7101, 6), "near, denied port": ("near", 7200, 4),
            "far, denied port": ("far", 7201, 4), "stranger": ("stranger", 7102, 4), "stranger IPv6": ("stranger", 7103, 6),
        }  # fmt: skip
        return [Way(name, self.namespace(pod), server, address[family], port) for name, (pod, port, family) in wanted.items()]

    def traffic(self) -> Traffic:
        return Traffic(self.talks(), self.datagrams())

    # -- nodes -----------------------------------------------------------------------------------------------------------

    def status(self, node: str) -> dict[str, Any] | None:
        try:
            answer = ask(root_of(self.lab, node) / "run/pilus/agent.sock", {"get": "status"}, "agent")
        except AskError:
            return None
        item = answer["item"]
        return dict(item) if isinstance(item, dict) else None

    def serves(self, node: str) -> bool:
        held = self.status(node)
        return held is not None and all(check["state"] == "ok" for check in held["checks"])

    def wait_served(self, *nodes: str, limit: float = 60) -> None:
        for node in nodes or ("n1", "n2"):
            wait_for(f"the agent of {node} serves", lambda node=node: self.serves(node), limit, 0.02)  # type: ignore[misc]

    def knows_all(self, node: str) -> bool:
        """Whether a node has heard of every pod's addresses: before, there is less than there will be."""
        shown = json.loads(self.lab.node(node).exec(["pilus", "ipcache", "list", "-o", "json"]).stdout)
        held = {one["prefix"].partition("/")[0] for one in shown}
        return held >= {address for addresses in self.addresses.values() for address in addresses.values()}

    def left(self, node: str) -> dict[str, Any]:
        """What could leak on a node: pins, links, rows of every table, descriptors of the processes."""
        place = self.lab.node(node)
        pins = place.exec(["sh", "-c", "cd /sys/fs/bpf/pilus && find . -type f | sort"]).stdout.split()
        links = sorted(one["ifname"] for one in json.loads(place.exec(["ip", "-j", "link"]).stdout))
        status = self.status(node) or {"maps": []}
        # An identity outlives its pods (identity-gc-interval), and what knows of it with it.
        rows = {one["name"]: one["entries"] for one in status["maps"] if one["name"] not in ("identities", "peers")}
        return {"pins": pins, "links": links, "rows": rows}

    def descriptors(self, node: str, component: str) -> int:
        """But for connections to the API server, of which a pool keeps as many as were used at once, and no more; and but for one
        of each eBPF map and program, which are opened when they are needed first."""
        process = root_of(self.lab, node) / "proc" / str(self.lab.node(node).components()[component]["pid"])
        tables = (process / "net" / table for table in ("tcp", "tcp6"))
        pooled = {f"socket:[{line.split()[9]}]" for table in tables for line in table.read_text().splitlines()[1:]}
        known: set[str] = set()
        count = 0
        for fd in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                link, told = str(fd.readlink()), (process / "fdinfo" / fd.name).read_text()
                found = re.search(r"^(?:map|prog)_id:\s*\d+$", told, flags=re.MULTILINE)
                if link in pooled or (found is not None and found[0] not in known):
                    known |= {found[0]} if found is not None else set()
                    continue
                count += 1
        return count

    # -- pods ------------------------------------------------------------------------------------------------------------

    def pod(self, name: str, node: str, limit: float = 60) -> str:
        """A pod that comes; its IPv4 address, which nobody has and nobody had within the last half minute."""
        self.lab.apply(yaml.safe_dump(manifest(name, node)))

        def address() -> str | None:
            return str(self.lab.get("pod", name)[0]["status"].get("podIP") or "") or None

        found = wait_for(f"pod {name}", address, limit)
        for who, until in self.given.get(found, []):
            assert time.monotonic() - until >= 30, f"{found} is given to {name} {time.monotonic() - until:.1f} s after {who} had it"
        assert found not in {held[4] for held in self.addresses.values()}
        return found

    def gone(self, name: str, address: str) -> None:
        """Deletes a pod. Its address is free when the kubelet is done, so it is counted from the order on: earlier."""
        self.lab.kubectl("delete", "pod", name, "--wait=true")
        self.given.setdefault(address, []).append((name, time.monotonic()))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab("bad-days", nodes=2, cni="pilus") as lab:
        wait_for("the service account", lambda: lab.get("serviceaccount", "default", check=False), 30)
        lab.apply("\n---\n".join(yaml.safe_dump(manifest(name, node)) for name, node in PODS.items()))
        lab.apply(POLICY)

        def running() -> dict[str, dict[int, str]] | None:
            found = {one["metadata"]["name"]: one for one in lab.get("pods")}
            if not all(name in found and found[name]["status"]["phase"] == "Running" for name in PODS):
                return None
            return {name: {6 if ":" in ip["ip"] else 4: ip["ip"] for ip in found[name]["status"]["podIPs"]} for name in PODS}

        addresses = wait_for("the pods", running, 90)
        wait_for(
            "the policy on both nodes", lambda: str((lab.get("cnp", "server")[0].get("status") or {}).get("enforced")) == "2/2", 30
        )
        lab.control.exec(["ip", "address", "add", f"{OUTSIDE}/32", "dev", "lo"])
        outside = namespace_of_process(lab.control.orders.first_process())
        with Prober(lab) as prober:
            made = World(lab, prober, addresses, outside)
            made.wait_served()
            wait_for("every node to know every pod", lambda: all(map(made.knows_all, ("n1", "n2"))), 30)
            yield made
        os.close(outside)


def judged(told: Told, what: str, *, lost: float = 0.01, ended: frozenset[str] = frozenset()) -> None:
    """Connections went on (but `ended`), denied datagrams did not arrive, and permitted ones did (but for the part `lost`)."""
    stalls = ", ".join(f"{name} {stall * 1000:.0f} ms" for name, stall in sorted(told.stalls.items()))
    denied = [name for name in told.sent if "allowed" not in name]
    print(
        f"{what}: {told.seconds:.1f} s; longest stalls: {stalls} (of the prober itself: {told.pause * 1000:.0f} ms); "
        f"{sum(told.answers.values())} answers; of {sum(told.sent[name] for name in denied)} denied datagrams "
        f"{sum(told.arrived[name] for name in denied)} arrived"
    )
    assert set(told.broken) <= ended, told.broken
    assert set(told.answers) == set(told.stalls)
    assert all(stall < LIMIT for name, stall in told.stalls.items() if name not in ended)
    for name, sent in told.sent.items():
        assert sent > 0
        if "allowed" in name:
            assert told.arrived[name] >= sent * (1 - lost), f"{name}: {told.arrived[name]} of {sent}"
        else:
            assert told.arrived[name] == 0, f"{name}: {told.arrived[name]} denied datagrams arrived"


def killed(world: World, node: str, *names: str) -> None:
    """And started again."""
    for name in names:
        world.lab.node(node).stop(name, signal.SIGKILL)
    for name in names:
        if name == "agent":
            world.lab.start_agent(node)
        else:
            world.lab.start_observer(node)


# -- 1: processes ----------------------------------------------------------------------------------------------------------------


def test_a_quiet_while(world: World) -> None:
    """What the longest stall is when nothing happens: to compare with."""
    with world.traffic() as traffic:
        time.sleep(longer(30, 3))
    judged(traffic.told, "nothing happened")


def test_agents_and_observers_killed_again_and_again(world: World) -> None:
    before = {node: world.left(node) for node in ("n1", "n2")}
    with world.traffic() as traffic:
        for number in range(longer(60, 3)):
            node = ("n1", "n2")[number % 2]
            address = world.pod(f"guest{number}", node)
            killed(world, node, "agent", "observer")
            world.wait_served(node)
            world.gone(f"guest{number}", address)
    judged(traffic.told, "agent and observer killed")
    for node in ("n1", "n2"):
        deadline = time.monotonic() + 30
        while (left := world.left(node)) != before[node] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left == before[node]


def test_cve_2023_27595_nothing_denied_passes_while_the_agent_restarts(world: World) -> None:
    """1,000 denied packets a second along each of four ways, agents killed on both sides, away for a while, and back: 0 arrive."""
    with Traffic((), world.datagrams()) as traffic:
        for node in ("n1", "n2"):
            world.lab.node(node).stop("agent", signal.SIGKILL)
        time.sleep(longer(10, 1))
        for node in ("n1", "n2"):
            world.lab.start_agent(node)
        world.wait_served()
    judged(traffic.told, "no agent")


def test_an_agent_that_works_long_leaks_no_descriptor(world: World) -> None:
    def descriptors() -> dict[str, int]:
        return {name: world.descriptors("n1", name) for name in ("agent", "observer")}

    world.gone("warm", world.pod("warm", "n1"))
    before = descriptors()
    for number in range(longer(30, 3)):
        world.gone(f"brief{number}", world.pod(f"brief{number}", "n1"))
    wait_for("as many descriptors as before", lambda: all(now <= before[name] for name, now in descriptors().items()), 30)


# -- 3: versions -----------------------------------------------------------------------------------------------------------------


def version(folder: Path, changes: Mapping[str, str]) -> None:
    """An agent of another release: its own copy of the sources. `changes` in abi.h."""
    shutil.copytree(REPOSITORY / "nodeagent/pilus_agent", folder / "pilus_agent", ignore=shutil.ignore_patterns("__pycache__"))
    sources = folder / "pilus_agent/datapath/bpf"
    shutil.copytree(REPOSITORY / "bpf", sources)
    text = (sources / "abi.h").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (sources / "abi.h").write_text(text)


GROWN = {"u32 backend;\n};\n\n/* quotas": "u32 worker;\n};\n\n/* quotas"}
OTHER = {
    "u64 packets;\t\t\t/* of this direction; bytes with Ethernet headers */\n\tu64 bytes;": "u64 bytes;\n\tu64 packets;",
    "#define PILUS_FLOW_LAYOUT 1": "#define PILUS_FLOW_LAYOUT 2",
}


def rolled(world: World, node: str, folder: Path | None) -> None:
    """The node's agent ends, and one of another version begins. None: the one of this checkout."""
    place = world.lab.node(node)
    place.stop("agent")
    if folder is None:
        world.lab.start_agent(node)
    else:
        token = world.lab.kubectl("create", "token", "pilus-agent", "--namespace=kube-system", "--bound-object-kind=Node",
                                  f"--bound-object-name={node}").stdout.strip()  # fmt: skip
        made = components.agent(world.lab.spec, world.lab._node(node), token)
        place.start(Component(made.name, made.argv, made.env | {"PYTHONPATH": str(folder)}))
    world.wait_served(node)


@pytest.mark.parametrize(("name", "changes"), [("grown into reserved room", GROWN), ("of another layout", OTHER)])
def test_an_upgrade_and_back(world: World, tmp_path: Path, name: str, changes: dict[str, str]) -> None:
    """Flows of the layout that has only grown are gone on with; of another one they are decided anew."""
    version(tmp_path, changes)
    pins = {node: world.left(node)["pins"] for node in ("n1", "n2")[: longer(2, 1)]}
    with world.traffic() as traffic:
        for folder in (tmp_path, None):
            for node in pins:
                rolled(world, node, folder)
            now = {node: world.left(node)["pins"] for node in pins}
            if folder is not None:
                assert now != pins, "no other version has been loaded"
                flows = [pin for pin in now["n1"] if "/flows-" in pin]
                assert (flows == [pin for pin in pins["n1"] if "/flows-" in pin]) == (changes is GROWN)
            else:
                wait_for("what the other version had pinned is gone", lambda: {n: world.left(n)["pins"] for n in pins} == pins, 20)
    # Which port a masqueraded connection had, is written in its flow and nowhere else.
    judged(traffic.told, f"rolled to a flow {name} and back", ended=frozenset({"outside"} if changes is OTHER else ()))


# -- 5: the control plane --------------------------------------------------------------------------------------------------------


def ready(world: World) -> bool:
    return world.lab.kubectl("get", "--raw", "/readyz", check=False).returncode == 0


def knows(world: World, node: str, address: str) -> bool:
    answer = ask(root_of(world.lab, node) / "run/pilus/agent.sock", {"get": "ipcache"}, "agent")
    items = answer["items"]
    assert isinstance(items, list)
    return any(isinstance(one, dict) and one["prefix"] == f"{address}/32" for one in items)


def test_the_api_server_is_away(world: World) -> None:
    """Everything goes on; a pod that goes in the gap of everybody's watches is noticed; its address is given to nobody early."""
    lab = world.lab
    address = world.pod("leaver", "n2")
    wait_for("n1 knows the pod", lambda: knows(world, "n1", address), 20)
    with world.traffic() as traffic:
        lab.control.stop("apiserver", signal.SIGKILL)
        time.sleep(longer(60, 3))
        lab.node("n1").send("agent", signal.SIGSTOP)
        lab.control.start(components.apiserver(lab.spec))
        wait_for("the API server", lambda: ready(world), 60)
        world.gone("leaver", address)
        lab.node("n1").send("agent", signal.SIGCONT)
        wait_for("n1 knows it no more", lambda: not knows(world, "n1", address), 60)
        heir = world.pod("heir", "n2")
        assert heir != address
        world.gone("heir", heir)
        world.wait_served()
    judged(traffic.told, "no API server")


def test_etcd_restarts(world: World) -> None:
    lab = world.lab
    with world.traffic() as traffic:
        lab.control.stop("etcd", signal.SIGKILL)
        time.sleep(longer(20, 2))
        lab.control.start(components.etcd(lab.spec))
        wait_for("the API server", lambda: ready(world), 60)
        address = world.pod("after-etcd", "n1")
        world.gone("after-etcd", address)
        world.wait_served()
    judged(traffic.told, "etcd restarted")


# -- 6: the underlay -------------------------------------------------------------------------------------------------------------


def link(world: World, node: str, *arguments: str) -> None:
    world.lab.node(node).exec(["ip", *arguments])


def test_the_underlay_goes_down_and_comes_back(world: World) -> None:
    address = str(next(one.ipv6 for one in world.lab.spec.nodes if one.name == "n2"))
    with world.traffic() as traffic:
        for _ in range(longer(10, 1)):
            link(world, "n2", "link", "set", "eth0", "down")
            time.sleep(0.5)
            link(world, "n2", "link", "set", "eth0", "up")
            # Whoever has configured the link, does it again: the kernel drops IPv6 addresses and all routes of one that is down.
            link(world, "n2", "-6", "address", "replace", f"{address}/64", "dev", "eth0", "nodad")
            link(world, "n2", "route", "replace", "default", "via", "172.30.0.1")
            link(world, "n2", "-6", "route", "replace", "default", "via", "fd00:30::1")
            time.sleep(2)
        world.wait_served()
    judged(traffic.told, "the underlay's link went down for 0.5 s", lost=0.6)


def test_the_default_route_moves_and_a_neighbour_gets_another_mac(world: World) -> None:
    place = world.lab.node("n2")
    with world.traffic() as traffic:
        world.lab.control.exec(["ip", "address", "add", "172.30.0.2/24", "dev", "br0"])
        link(world, "n1", "route", "replace", "default", "via", "172.30.0.2")
        time.sleep(0.5)
        for name in ("ipv4/conf/eth0/arp_notify", "ipv6/conf/eth0/ndisc_notify"):
            place.exec(["sh", "-c", f"echo 1 >/proc/sys/net/{name}"])
        link(world, "n2", "link", "set", "eth0", "address", "02:00:00:00:77:02")
        time.sleep(2)
        link(world, "n1", "route", "replace", "default", "via", "172.30.0.1")
        world.wait_served()
    judged(traffic.told, "default route moved, MAC changed", lost=0.5)


def test_the_underlays_mtu_shrinks(world: World) -> None:
    """Settings follow at once; open connections go on; what is too large for it is answered."""

    def tunnel_mtu() -> int:
        status = world.lab.node("n1").exec(["ip", "-j", "link", "show", "pilus_vxlan"]).stdout
        return int(json.loads(status)[0]["mtu"])

    with world.traffic() as traffic:
        for size in (1400, 1500):
            link(world, "n1", "link", "set", "eth0", "mtu", str(size))
            wait_for(f"MTU {size}", lambda size=size: tunnel_mtu() == size - 50, 10, 0.01)  # type: ignore[misc]
            time.sleep(0.5)
        world.wait_served()
    judged(traffic.told, "MTU changed")


# -- 7: links --------------------------------------------------------------------------------------------------------------------


def test_links_and_filters_of_ours_are_deleted(world: World) -> None:
    """Nothing denied passes meanwhile; connections through the tunnel go on when it is back."""
    with world.traffic() as traffic:
        for node in ("n1", "n2"):
            for command in (["ip", "link", "del", "pilus_vxlan"], ["ip", "link", "del", "pilus_host"],
                            ["tc", "qdisc", "del", "dev", "pilus_vxlan", "clsact"]):  # fmt: skip
                world.lab.node(node).exec(command)
                started = time.monotonic()
                wait_for(" ".join(command), lambda node=node: _attached(world, node), 10, 0.02)  # type: ignore[misc]
                assert time.monotonic() - started < LIMIT
            for pod in world.lab.node(node).exec(["sh", "-c", "ls /sys/class/net | grep plx"]).stdout.split():
                world.lab.node(node).exec(["tc", "qdisc", "del", "dev", pod, "clsact"])
            wait_for(f"the pods' filters on {node}", lambda node=node: _attached(world, node), 10, 0.02)  # type: ignore[misc]
        world.wait_served()
    judged(traffic.told, "links and filters deleted", lost=0.6)


def _attached(world: World, node: str) -> bool:
    script = """for one in pilus_vxlan pilus_host $(ls /sys/class/net | grep plx); do
        test -e /sys/class/net/$one || exit 1
        case $one in pilus_host) ip address show dev $one | grep -q inet || exit 1;; *)
            tc filter show dev $one ingress | grep -q _from- && tc filter show dev $one egress | grep -q _to- || exit 1;; esac
    done"""
    return world.lab.node(node).exec(["sh", "-c", script], check=False).returncode == 0
