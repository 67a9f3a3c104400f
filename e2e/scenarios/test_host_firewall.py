"""The host firewall: a node's own stack gets and sends what policies about nodes say, v4 and v6, and the node stays in reach."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilus_lab import Lab, wait_for
from pilus_lab.probe import Prober, namespace_of_process, within

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

HTTP, KUBELET, API_SERVER = 9080, 10250, 6443
NODE = {"n1": ("172.30.0.11", "fd00:30::11"), "n2": ("172.30.0.12", "fd00:30::12")}
OUTSIDE = ("172.30.0.1", "fd00:30::1")  # the machine beside the nodes: the API server listens there, on IPv4
PODS = {"host": ("n1", True), "other": ("n2", True), "client": ("n1", False), "far": ("n2", False), "api": ("n1", False)}
READINESS = {"httpGet": {"path": "/hostname", "port": HTTP}, "periodSeconds": 1, "failureThreshold": 2}


def manifest(name: str) -> str:
    node, in_host = PODS[name]
    container = {
        "name": "main", "image": "lab.local/agnhost:1", "imagePullPolicy": "Never", "readinessProbe": READINESS,
        "args": ["netexec", f"--http-port={HTTP}", f"--udp-port={HTTP}"],
    }  # fmt: skip
    spec = {"nodeName": node, "terminationGracePeriodSeconds": 0, "hostNetwork": in_host, "containers": [container]}
    return yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec})


def about_n1(*, annotations: dict[str, str] | None = None, name: str = "host", **rules: Any) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumClusterwideNetworkPolicy",
            "metadata": {"name": name, "annotations": annotations or {}},
            "spec": {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n1"}}, **rules},
        }
    )


def ports(*numbers: int) -> list[dict[str, Any]]:
    return [{"ports": [{"port": str(number), "protocol": "TCP"} for number in numbers]}]


@dataclass
class World:
    lab: Lab
    prober: Prober
    web: list[str]  # of the pod `api`
    outside: int = 0  # a descriptor of its network namespace

    def namespace(self, who: str) -> int:
        if who != "outside":
            return self.prober.namespace_of(f"default/{who}")
        return self.outside or self._open()

    def _open(self) -> int:
        self.outside = namespace_of_process(self.lab.control.orders.first_process())
        return self.outside

    def reached(self, who: str, address: str, port: int = HTTP) -> bool:
        """A whole TCP handshake."""

        def connect() -> bool:
            try:
                with socket.create_connection((address, port), timeout=0.7):
                    return True
            except OSError as error:
                return isinstance(error, ConnectionRefusedError) and port != HTTP  # somebody has answered

        return within(self.namespace(who), connect)

    def table(self, expected: dict[str, bool], to: tuple[str, ...] = NODE["n1"], port: int = HTTP) -> None:
        """Who reaches `to`, every one of them; waits for it, and then it must be so."""

        wait_for(f"{expected}", lambda: not self.wrong(expected, to, port), 20)
        assert self.wrong(expected, to, port) == []

    def wrong(self, expected: dict[str, bool], to: tuple[str, ...], port: int) -> list[str]:
        """Who reaches `to` otherwise than expected, all asked at once."""
        asked = [(who, address) for who in expected for address in to]
        for who in expected:
            self.namespace(who)
        with ThreadPoolExecutor(len(asked)) as pool:
            found = pool.map(lambda one: self.reached(*one, port), asked)
        return [f"{who} {address}" for (who, address), yes in zip(asked, found, strict=True) if yes != expected[who]]

    def pilus(self, *arguments: str) -> Any:
        done = self.lab.node("n1").exec([str(Path(sys.executable).with_name("pilus")), "-o", "json", *arguments], check=False)
        return json.loads(done.stdout) if done.stdout else None

    def status(self, name: str = "host") -> dict[str, Any]:
        (held,) = self.lab.get("ciliumclusterwidenetworkpolicies", name)
        found: dict[str, Any] = held.get("status") or {}
        return found


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab("hostfirewall", nodes=2, cni="pilus", without=("observer",)) as lab:
        lab.apply("\n---\n".join(manifest(name) for name in PODS))
        lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        web = [held["ip"] for held in lab.get("pod", "api")[0]["status"]["podIPs"]]
        with Prober(lab) as prober:
            made = World(lab, prober, web)
            yield made
            os.close(made.outside)


@pytest.fixture(autouse=True)
def _clean(world: World) -> Iterator[None]:
    yield
    world.lab.kubectl("delete", "ciliumclusterwidenetworkpolicies", "--all", "--wait=true")
    world.table({"outside": True, "client": True, "far": True, "other": True})


def _node_is_well(world: World) -> None:
    """Its kubelet is heard of, is reached for `kubectl exec`, and its probes find its pods."""
    done = world.lab.kubectl("exec", "api", "--", "/agnhost", "help", check=False)
    assert done.returncode == 0, done.stderr
    ready = {one["metadata"]["name"]: one["status"]["conditions"] for one in world.lab.get("pod")}
    for name, (node, _) in PODS.items():
        if node == "n1":
            assert any(one["type"] == "Ready" and one["status"] == "True" for one in ready[name]), f"{name} is not ready"
    (node_,) = world.lab.get("node", "n1")
    assert any(one["type"] == "Ready" and one["status"] == "True" for one in node_["status"]["conditions"])


def test_who_reaches_a_node(world: World) -> None:
    """By entity, by label, by address; another node's host is not concerned, nor what pods say to each other."""
    world.table(dict.fromkeys(("outside", "client", "far", "other"), True))
    for peers, allowed in (
        ({"fromEntities": ["world"]}, {"outside"}),
        ({"fromEntities": ["remote-node"]}, {"other", "far"}),  # a pod of another node comes with that node's address
        ({"fromEndpoints": [{"matchLabels": {"app": "client"}}]}, {"client"}),
        ({"fromCIDR": [f"{OUTSIDE[0]}/32", f"{OUTSIDE[1]}/128"]}, {"outside"}),
    ):
        world.lab.apply(about_n1(ingress=[{**peers, "toPorts": ports(HTTP)}]))
        world.table({who: who in allowed for who in ("outside", "client", "far", "other")})
    world.table(dict.fromkeys(("outside", "client", "far", "host"), True), NODE["n2"])
    world.table(dict.fromkeys(("client", "far", "host"), True), tuple(world.web))
    wait_for("it to be acknowledged", lambda: world.status().get("enforced") == "2/2", 20)
    assert (world.status()["selected"], world.status()["mode"]) == (1, "enforce")
    _node_is_well(world)


def test_a_closed_node_is_still_a_node(world: World) -> None:
    """Both directions closed, and everything denied besides: the kubelet, its probes and the agent go on; nothing else does."""
    world.lab.apply(
        about_n1(ingress=[{}], egress=[{}], ingressDeny=[{"fromEntities": ["all"]}], egressDeny=[{"toEntities": ["all"]}])
    )
    world.table(dict.fromkeys(("outside", "client", "far", "other"), False))
    world.table({"host": False}, NODE["n2"])
    world.table({"host": True}, OUTSIDE[:1], API_SERVER)
    world.table({"outside": True}, NODE["n1"][:1], KUBELET)
    world.table({"client": True, "far": True}, tuple(world.web))  # through the tunnel, whose packets are the host's
    lease = _lease(world)
    wait_for("the kubelet to be heard of again", lambda: _lease(world) != lease, 30)
    _node_is_well(world)
    # The agent hears of changes, and opens the node again.
    world.lab.apply(about_n1(ingress=[{"fromEntities": ["all"]}], egress=[{}]))
    world.table(dict.fromkeys(("outside", "client", "far", "other"), True))
    world.table({"host": False}, NODE["n2"])
    (check,) = [one for one in world.pilus("status")["checks"] if one["name"] == "host firewall"]
    assert check["message"] == "ingress and egress enforced; lifelines: kubelet, apiserver, etcd, ssh, tunnel, dhcp"
    way = world.pilus("why", "host", f"{NODE['n2'][0]}:{HTTP}/TCP")["ways"][0]
    assert (way["allowed"], way["steps"][0]["rule"]) == (False, "default deny of CiliumClusterwideNetworkPolicy host")
    way = world.pilus("why", "world", "host:22/TCP")["ways"][0]
    assert (way["allowed"], way["steps"][-1]["rule"]) == (True, "Lifeline ssh ingress")


def _lease(world: World) -> str:
    (held,) = world.lab.get("lease", "n1", "--namespace=kube-node-lease")
    return str(held["spec"]["renewTime"])


def test_a_lifeline_is_cut_by_saying_so(world: World) -> None:
    world.lab.apply(about_n1(ingress=[{}], annotations={"pilus.io/cut-lifelines": "kubelet"}))
    world.table({"outside": False}, NODE["n1"][:1], KUBELET)
    world.lab.apply(about_n1(ingress=[{}]))
    world.table({"outside": True}, NODE["n1"][:1], KUBELET)


def test_cve_2024_42488_it_holds_while_its_agent_is_away_and_starts_anew(world: World) -> None:
    """Asked all the while, without a pause: who is out stays out, who is in stays in, and a connection goes on."""
    world.lab.apply(about_n1(ingress=[{"fromEntities": ["world"], "toPorts": ports(HTTP)}]))
    world.table({"outside": True, "client": False, "far": False, "other": False})
    with _asking(world, {"client": False, "other": False, "outside": True}) as asked, _talking(world, "outside") as talk:
        world.lab.node("n1").stop("agent")
        _more(asked, 5)
        _start_agent(world)
        _more(asked, 5)
        assert talk.alive()
    assert asked.wrong == []


def test_an_open_connection_ends_with_its_rule(world: World) -> None:
    """And another one, that is still allowed, is not disturbed."""
    world.lab.apply(about_n1(ingress=[{"fromEntities": ["world"]}, {"fromEndpoints": [{"matchLabels": {"app": "client"}}]}]))
    world.table({"outside": True, "client": True, "other": False})
    with _talking(world, "outside") as out, _talking(world, "client") as inside:
        world.lab.apply(about_n1(ingress=[{"fromEndpoints": [{"matchLabels": {"app": "client"}}]}]))
        wait_for("the outside to be cut off", lambda: not out.alive(), 20)
        assert inside.alive()
        assert inside.longest < 0.5


def test_cve_2024_42488_a_label_makes_a_node_one_that_is_meant(world: World) -> None:
    """At once, and without an agent's restart; and takes it away again."""
    spec = {"nodeSelector": {"matchLabels": {"role": "edge"}}, "ingress": [{}]}
    held = {"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "edge"}, "spec": spec}
    world.lab.apply(yaml.safe_dump(held))
    wait_for("it to be acknowledged", lambda: world.status("edge").get("enforced") == "2/2", 20)
    world.table({"outside": True, "client": True})
    for change, reached in (("role=edge", False), ("role-", True)):
        world.lab.kubectl("label", "node", "n1", "--overwrite", change)
        world.table({"outside": reached, "client": reached})


def test_audit(world: World) -> None:
    """Nothing is refused, and what would be is counted."""
    world.lab.apply(about_n1(ingress=[{}], annotations={"pilus.io/mode": "audit"}))
    wait_for("the mode to be acknowledged", lambda: world.status().get("mode") == "audit", 20)
    world.table(dict.fromkeys(("outside", "client", "far", "other"), True))
    step = world.pilus("why", "world", f"host:{HTTP}/TCP")["ways"][0]["steps"][-1]
    assert (step["verdict"], step["audit"]["verdict"]) == ("allow", "deny")


def test_it_holds_from_the_boot_on(world: World) -> None:
    """The node loses its programs, its tables and its links, as by a reboot. What `pilus install --early` starts has them back
    before the link to the others carries anything, and no agent is needed for it."""
    node = world.lab.node("n1")
    assert "pilus-early.service" in node.exec(["pilus", "install", "--early"]).stdout
    world.lab.apply(about_n1(ingress=[{"fromEntities": ["world"], "toPorts": ports(HTTP)}]))
    world.table({"outside": True, "other": False})
    (held,) = world.lab.get("ciliumclusterwidenetworkpolicies", "host")

    def kept() -> bool:
        done = node.exec(["cat", "/var/lib/pilus/host-policy.json"], check=False)
        return done.returncode == 0 and [one["spec"] for one in json.loads(done.stdout)["policies"].values()] == [held["spec"]]

    wait_for("it to be kept", kept, 10)
    mac = node.exec(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    node.stop("agent")
    node.exec(
        ["sh", "-c", "rm -rf /sys/fs/bpf/pilus /run/pilus; cd /sys/class/net; for l in plx* pilus_* eth0; do ip link del $l; done"]
    )
    first = {place.name: place.orders.first_process() for place in (world.lab.control, node)}
    started = subprocess.Popen([*node.entry(), str(Path(sys.executable).with_name("pilus-early"))])
    try:
        wait_for("the tables", lambda: node.exec(["test", "-e", "/run/pilus/datapath.json"], check=False).returncode == 0, 30)
        outside = ["nsenter", f"--net=/proc/{first['control']}/ns/net", "ip", "link"]
        peer = ["peer", "name", "eth0", "address", mac, "netns", str(first["n1"])]
        subprocess.run([*outside, "add", "n1again", "master", "br0", "type", "veth", *peer], check=True)
        subprocess.run([*outside, "set", "n1again", "up"], check=True)
        assert started.wait(30) == 0
    finally:
        started.kill()
        started.wait()
    link = node.exec(["ip", "link", "show", "eth0"]).stdout
    assert "DOWN" in link
    assert _guarded(world)
    node.exec(["sh", "-c", f"""
        echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
        ip addr add {NODE["n1"][0]}/24 dev eth0; ip addr add {NODE["n1"][1]}/64 dev eth0; ip link set eth0 up
        ip route add default via {OUTSIDE[0]}; ip route add default via {OUTSIDE[1]}
    """])  # fmt: skip
    world.table({"outside": True, "other": False})
    assert node.components()["agent"]["status"] is not None, "no agent was needed for it"
    _start_agent(world)
    world.table({"outside": True, "other": False})
    _new_pods(world)


def test_a_first_agent_guards_with_its_first_program(world: World) -> None:
    """On a node that has nothing of ours, asked all the while: nobody who is refused gets in once a program is there, and who is
    let in is so all along."""
    node = world.lab.node("n1")
    world.lab.apply(about_n1(ingress=[{"fromEntities": ["world"], "toPorts": ports(HTTP)}]))
    world.table({"outside": True, "other": False})
    node.stop("agent")
    node.exec(["sh", "-ec", """
        rm -rf /sys/fs/bpf/pilus /run/pilus /var/lib/pilus
        tc qdisc del dev eth0 clsact
        cd /sys/class/net; for link in plx* pilus_*; do ip link del $link || true; done  # a pair goes with one end
    """])  # fmt: skip
    world.table({"outside": True, "other": True})
    asked: list[tuple[bool, bool]] = []  # whether a program was there, and then whether `other` got in
    with _asking(world, {"outside": True}) as let_in, _repeated(lambda: asked.append((_guarded(world), _gets_in(world)))):
        wait_for("it to be asked without a program", lambda: (False, True) in asked, 20)
        _start_agent(world)
        since = len(asked) + 1  # whoever is being asked may have begun before
        wait_for("more to be asked", lambda: len(asked) >= since + 5, 20)
    assert asked[since:] == [(True, False)] * len(asked[since:])
    assert (True, True) not in asked
    assert let_in.wrong == []
    _new_pods(world)


def _gets_in(world: World) -> bool:
    return any(world.reached("other", address) for address in NODE["n1"])


def _guarded(world: World) -> bool:
    """Whether anything of ours looks at what comes in by the node's link to the others."""
    return "uplink_from" in world.lab.node("n1").exec(["tc", "filter", "show", "dev", "eth0", "ingress"]).stdout


def _start_agent(world: World) -> None:
    world.lab.start_agent("n1")
    wait_for("the new agent", lambda: (world.pilus("policy", "list") or [{}])[0].get("realised"), 30)


def _new_pods(world: World) -> None:
    """For those of a node that has lost their links."""
    for name in ("client", "api"):
        world.lab.kubectl("delete", "pod", name, "--now")
    world.lab.apply("\n---\n".join(manifest(name) for name in ("client", "api")))
    world.lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
    world.prober.forget("default/client")


# -- while something happens ---------------------------------------------------------------------------------------------------


@dataclass
class Asked:
    """Who was asked how often, and who answered otherwise than expected."""

    count: int = 0
    wrong: list[str] = field(default_factory=list)


def _more(asked: Asked, rounds: int) -> None:
    before = asked.count
    wait_for(f"{rounds} more rounds", lambda: asked.count >= before + rounds, 60)


@contextmanager
def _repeated(ask: Callable[[], None]) -> Iterator[None]:
    """Beside what is done within, without a pause."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            ask()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def _asking(world: World, expected: dict[str, bool]) -> Iterator[Asked]:
    asked = Asked()

    def ask() -> None:
        asked.wrong += world.wrong(expected, NODE["n1"], HTTP)
        asked.count += 1

    with _repeated(ask):
        yield asked


@dataclass
class Talk:
    """A connection that is asked for something again and again. `longest`: seconds without an answer."""

    ask: Callable[[float], bool]
    longest: float = 0.0

    def alive(self) -> bool:
        began = time.monotonic()
        answered = self.ask(3.0)
        self.longest = max(self.longest, time.monotonic() - began)
        return answered


@contextmanager
def _talking(world: World, who: str) -> Iterator[Talk]:
    """One HTTP connection, kept open."""
    connection = within(world.namespace(who), lambda: socket.create_connection((NODE["n1"][0], HTTP), timeout=3))
    with connection:

        def ask(limit: float) -> bool:
            connection.settimeout(limit)
            try:
                connection.sendall(b"GET /hostname HTTP/1.1\r\nHost: x\r\n\r\n")
                return b"200 OK" in connection.recv(65536)
            except OSError:
                return False

        talk = Talk(ask)
        assert talk.alive()
        yield talk
