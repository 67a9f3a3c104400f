"""What people declare is what happens: policies applied by kubectl, connections between real pods on two nodes, v4 and v6."""

import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import pytest
import yaml
from scapy.layers.inet import ICMP, IP

from pilus_lab import Lab, components, wait_for
from pilus_lab.api import Api
from pilus_lab.probe import Probe, Prober, Protocol, within, within_process

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PODS = {  # name: namespace, node, labels
    "web1": ("a", "n1", {"app": "web", "tier": "front"}),
    "web2": ("a", "n2", {"app": "web", "tier": "back"}),
    "client": ("a", "n1", {"app": "client"}),
    "stranger": ("a", "n2", {"app": "stranger"}),
    "neighbour": ("b", "n1", {"app": "client"}),
}
NODES = ("n1", "n2")
ADMIN_KINDS = ("adminnetworkpolicies", "baselineadminnetworkpolicies", "clusternetworkpolicies.policy.networking.k8s.io")
SERVERS = ("web1", "web2")
CUTS = 10
METRICS = "http://127.0.0.1:9965/metrics"  # the observer's
EXISTENCE = ("Exists", "DoesNotExist")
SOURCES = ("client", "stranger", "neighbour")


def manifest(name: str) -> dict[str, Any]:
    namespace, node, labels = PODS[name]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": "lab.local/agnhost:1", "imagePullPolicy": "Never",
                "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
            }],
        },
    }  # fmt: skip


def addresses_of(lab: Lab, name: str) -> list[str]:
    return [held["ip"] for held in lab.get("pod", name, f"--namespace={PODS[name][0]}")[0]["status"]["podIPs"]]


@dataclass
class World:
    """The lab, its pods' addresses, and a prober."""

    lab: Lab
    prober: Prober
    addresses: dict[str, list[str]]

    def reached(self, port: int = 8080, protocol: Protocol = "tcp") -> set[str]:
        """`source>server` for every pair in which each address of the server answered; asserts that families agree."""
        pairs = self._answers(port, protocol)
        assert all(len(answers) == 1 for answers in pairs.values()), f"IPv4 and IPv6 differ: {pairs}"
        return {pair for pair, answers in pairs.items() if answers == {True}}

    def until(self, what: str, expected: set[str], limit: float = 10) -> None:
        """Wait for these to be reached and no others. While policy changes, one family may be a moment behind the other."""
        every = {pair: {pair in expected} for pair in self._answers(8080, "tcp")}
        wait_for(what, lambda: self._answers(8080, "tcp") == every, limit)

    def _answers(self, port: int, protocol: Protocol) -> dict[str, set[bool]]:
        """By pair what each address of the server answered."""
        probes = {
            Probe(f"{PODS[source][0]}/{source}", address, port, protocol): f"{source}>{server}"
            for source in SOURCES
            for server in SERVERS
            for address in self.addresses[server]
        }
        found = self.prober.table(probes, limit=0.7)
        pairs: dict[str, set[bool]] = {}
        for probe, reached in found.items():
            pairs.setdefault(probes[probe], set()).add(reached)
        return pairs

    def apply(self, policy: str) -> None:
        """And wait until both nodes enforce it."""
        self.lab.apply(policy)
        held = yaml.safe_load(policy)
        kind, name = held["kind"].lower(), held["metadata"]["name"]
        if not held["apiVersion"].startswith("cilium.io/"):
            collection = "networkpolicies.networking.k8s.io" if kind == "networkpolicy" else f"{kind}.policy.networking.k8s.io"
            uid = self.lab.get(collection, name, *(["--namespace=a"] if kind == "networkpolicy" else []))[0]["metadata"]["uid"]
            # The kind may have been defined just now, and agents look for it every ten seconds.
            wait_for(f"{name} on both nodes", lambda: self._realised(uid), 20)
            return
        place = ["--namespace=a"] if kind == "ciliumnetworkpolicy" else []

        def enforced() -> bool:
            found = self.lab.get(kind, name, *place)[0]
            return str((found.get("status") or {}).get("enforced")) == "2/2"

        wait_for(f"{name} on both nodes", enforced, 10)

    def pilus(self, node: str, *words: str) -> Any:
        """What `pilus` says there."""
        return json.loads(self.lab.node(node).exec(["pilus", "-o", "json", *words]).stdout)

    def audited(self) -> set[str]:
        """Rules for whose sake connections showed as AUDIT in the events of both nodes."""
        return {event["rule"] for event in self.events() if event["verdict"] == "AUDIT"}

    def events(self) -> list[dict[str, Any]]:
        """The last ones of both nodes."""
        lines = [self.lab.node(node).exec(["pilus", "-o", "json", "monitor", "--last=500", "--no-follow"]).stdout for node in NODES]
        return [json.loads(line) for held in lines for line in held.splitlines()]

    def shown(self, name: str) -> dict[str, str]:
        """What `kubectl get cnp` says of a policy, but for its age."""
        header, row = self.lab.kubectl("get", "cnp", name, "--namespace=a").stdout.splitlines()
        found = dict(zip(header.split(), row.split(), strict=True))
        return {column: found[column] for column in ("VALID", "SELECTED", "ENFORCED", "MODE")}

    def metric(self, node: str, name: str) -> float:
        """What the node's observer counts; 0 for what it has not counted yet."""
        process = self.lab.node(node).orders.first_process()
        text: str = within_process(process, lambda: urlopen(METRICS, timeout=5).read().decode())
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))

    def _realised(self, uid: str) -> bool:
        nodes = self.lab.get("pilusnodestatuses")
        return len(nodes) == 2 and all(
            any(one["uid"] == uid and one["realised"] for one in node["status"].get("policies") or []) for node in nodes
        )

    def clear(self) -> None:
        for kind in ("ciliumnetworkpolicies", "networkpolicies"):
            self.lab.kubectl("delete", kind, "--all", "--namespace=a", "--wait=true")
        for kind in ADMIN_KINDS:
            self.lab.kubectl("delete", kind, "--all", "--wait=true", check=False)  # where they are defined
        self.lab.kubectl("delete", "ciliumclusterwidenetworkpolicies", "--all", "--wait=true")
        everything = {f"{source}>{server}" for source in SOURCES for server in SERVERS}
        wait_for("everything to be open again", lambda: self.reached() == everything, 15)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab("policy", nodes=2, cni="pilus") as lab:
        for namespace in ("a", "b"):
            lab.kubectl("create", "namespace", namespace)
        for namespace in ("a", "b"):
            place = f"--namespace={namespace}"
            wait_for("its service account", partial(lab.get, "serviceaccount", "default", place, check=False), 20)
        lab.apply("\n---\n".join(yaml.safe_dump(manifest(name)) for name in PODS))
        for namespace in ("a", "b"):
            lab.kubectl("wait", f"--namespace={namespace}", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        addresses = {
            name: [held["ip"] for held in lab.get("pod", name, f"--namespace={PODS[name][0]}")[0]["status"]["podIPs"]]
            for name in PODS
        }
        with Prober(lab) as prober:
            made = World(lab, prober, addresses)
            made.clear()
            yield made


@pytest.fixture(autouse=True)
def _clean(world: World) -> Iterator[None]:
    yield
    world.clear()


def cnp(spec: str, name: str = "tested") -> str:
    return f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: a}}\nspec: {spec}\n"


def ccnp(spec: str) -> str:
    return f"apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: tested}}\nspec: {spec}\n"


def knp(spec: str, more: str = "") -> str:
    return f"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: tested, namespace: a{more}}}\nspec: {spec}\n"


ALL = {f"{source}>{server}" for source in SOURCES for server in SERVERS}
WEB = "endpointSelector: {matchLabels: {app: web}}"
CLIENT = "matchLabels: {app: client}"
STRANGER = "matchLabels: {app: stranger}"

CASES = [
    ("a label", cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}"), {"client>web1", "client>web2"}),
    (
        "a port",
        cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}], toPorts: [{{ports: [{{port: '8080', protocol: TCP}}]}}]}}]}}"),
        {"client>web1", "client>web2"},
    ),
    (
        "another port",
        cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}], toPorts: [{{ports: [{{port: '8081', protocol: TCP}}]}}]}}]}}"),
        set(),
    ),
    (
        "a range of ports",
        cnp(f"{{{WEB}, ingress: [{{toPorts: [{{ports: [{{port: '8000', endPort: 8100, protocol: TCP}}]}}]}}]}}"),
        ALL,
    ),
    ("a named port", cnp(f"{{{WEB}, ingress: [{{toPorts: [{{ports: [{{port: http}}]}}]}}]}}"), ALL),
    ("nobody", cnp(f"{{{WEB}, ingress: [{{}}]}}"), set()),
    ("an empty list of peers", cnp(f"{{{WEB}, ingress: [{{fromEndpoints: []}}]}}"), set()),
    (
        "everybody of the namespace",
        cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{}}]}}]}}"),
        ALL - {"neighbour>web1", "neighbour>web2"},
    ),
    (
        "another namespace",
        cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{matchLabels: {{'k8s:io.kubernetes.pod.namespace': b}}}}]}}]}}"),
        {"neighbour>web1", "neighbour>web2"},
    ),
    (
        "an expression",
        cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{matchExpressions: [{{key: app, operator: NotIn, values: [client]}}]}}]}}]}}"),
        {"stranger>web1", "stranger>web2"},
    ),
    (
        "a deny over an allow",
        cnp(f"{{{WEB}, ingress: [{{fromEntities: [all]}}], ingressDeny: [{{fromEndpoints: [{{{STRANGER}}}]}}]}}"),
        ALL - {"stranger>web1", "stranger>web2"},
    ),
    ("a deny alone closes the direction", cnp(f"{{{WEB}, ingressDeny: [{{fromEndpoints: [{{{STRANGER}}}]}}]}}"), set()),
    (
        "a deny without default deny",
        cnp(f"{{{WEB}, enableDefaultDeny: {{ingress: false}}, ingressDeny: [{{fromEndpoints: [{{{STRANGER}}}]}}]}}"),
        ALL - {"stranger>web1", "stranger>web2"},
    ),
    ("the cluster", cnp(f"{{{WEB}, ingress: [{{fromEntities: [cluster]}}]}}"), ALL),
    ("the world, which no pod is", cnp(f"{{{WEB}, ingress: [{{fromEntities: [world]}}]}}"), set()),
    ("an address range, which does not mean pods", cnp(f"{{{WEB}, ingress: [{{fromCIDR: [0.0.0.0/0, '::/0']}}]}}"), set()),
    (
        "a subject by one label",
        cnp("{endpointSelector: {matchLabels: {tier: front}}, ingress: [{}]}"),
        {"client>web2", "stranger>web2", "neighbour>web2"},
    ),
    (
        "egress",
        cnp("{endpointSelector: {matchLabels: {app: stranger}}, egress: [{toEndpoints: [{matchLabels: {tier: front}}]}]}"),
        ALL - {"stranger>web2"},
    ),
    (
        "a field that is not in force yet",
        cnp(f"{{{WEB}, ingress: [{{toPorts: [{{ports: [{{port: '8080', protocol: TCP}}], rules: {{http: [{{}}]}}}}]}}]}}"),
        set(),
    ),
    (
        "the whole cluster",
        ccnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}"),
        {"client>web1", "client>web2", "neighbour>web1", "neighbour>web2"},
    ),
    (
        "Kubernetes' own",
        knp("{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}"),
        {"client>web1", "client>web2"},
    ),
    (
        "Kubernetes' own, a namespace",
        knp(
            "{podSelector: {}, policyTypes: [Ingress], ingress: [{from: ["
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: b}}}]}]}"
        ),
        {"neighbour>web1", "neighbour>web2"},
    ),
    ("Kubernetes' own, closed", knp("{podSelector: {}, policyTypes: [Ingress]}"), set()),
]


@pytest.mark.parametrize(("policy", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_policy_means_what_it_says(world: World, policy: str, expected: set[str]) -> None:
    world.apply(policy)
    assert world.reached() == expected


def admin(kind: str, spec: str, version: str = "v1alpha1") -> str:
    name = "default" if kind == "BaselineAdminNetworkPolicy" else "first"
    return f"apiVersion: policy.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"


def test_the_tiers_of_cluster_administrators(world: World) -> None:
    """The admin tier goes before a namespace's policies, or passes; the baseline holds where none of those speaks."""
    world.lab.kubectl("apply", "--server-side", "--kustomize", str(components.REPOSITORY / "crds/network-policy-api"))
    subject = "subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: a}}}"
    stranger = "pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: stranger}}}"
    of_strangers = {"stranger>web1", "stranger>web2"}
    everybody = "namespaces: {}"

    def first(action: str, peer: str = stranger) -> str:
        return admin("AdminNetworkPolicy", f"{{priority: 10, {subject}, ingress: [{{action: {action}, from: [{{{peer}}}]}}]}}")

    world.apply(cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}"))
    allowed = {"client>web1", "client>web2"}
    assert world.reached() == allowed
    for policy, expected in (
        (first("Allow"), allowed | of_strangers),
        (first("Deny", everybody), set()),
        (first("Pass"), allowed),
        # By one port of a cluster's policy, before the one of higher priority that is Pass.
        (
            admin("ClusterNetworkPolicy", f"{{tier: Admin, priority: 5, {subject}, ingress: [{{action: Accept,"
                  f" from: [{{{stranger}}}], protocols: [{{tcp: {{destinationPort: {{number: 8080}}}}}}]}}]}}", "v1beta1"),
            allowed | of_strangers,
        ),
    ):  # fmt: skip
        world.apply(policy)
        world.until("the table", expected)
    assert world.reached(8081, "udp") == allowed

    def told() -> bool:
        held = world.lab.get("adminnetworkpolicies", "first")[0].get("status") or {}
        return any(one["type"] == "InForce" and one["message"] == "On 2/2 nodes" for one in held.get("conditions") or [])

    wait_for("its condition", told, 20)
    world.clear()
    world.apply(admin("BaselineAdminNetworkPolicy", f"{{{subject}, ingress: [{{action: Deny, from: [{{{everybody}}}]}}]}}"))
    assert world.reached() == set()
    world.apply(cnp(f"{{endpointSelector: {{matchLabels: {{tier: front}}}}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}"))
    assert world.reached() == {"client>web1"}


def test_audit_mode_changes_nothing_and_tells_what_it_would(world: World) -> None:
    """On a policy, or on its namespace; and it goes over to enforcing with the annotation."""
    world.apply(
        cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}").replace(
            "namespace: a}", "namespace: a, annotations: {pilus.io/mode: audit}}"
        )
    )
    assert world.reached() == ALL
    owner = "default deny of CiliumNetworkPolicy a/tested"
    wait_for("AUDIT in the events", lambda: world.audited() == {owner}, 10)
    assert world.shown("tested") == {"VALID": "True", "SELECTED": "2", "ENFORCED": "2/2", "MODE": "audit"}
    wait_for(
        "connections to be counted", lambda: world.metric("n1", 'pilus_audited_connections_total{direction="INGRESS"}') >= 1, 10
    )
    (way,) = world.pilus("n1", "why", "b/neighbour", "a/web1:8080")["ways"]
    assert way["allowed"]
    assert way["steps"][1]["audit"]["rule"] == owner
    world.lab.kubectl("annotate", "cnp", "tested", "--namespace=a", "pilus.io/mode-")
    world.until("it is enforced", {"client>web1", "client>web2"})
    wait_for("it to be shown", lambda: world.shown("tested")["MODE"] == "enforce", 10)
    world.lab.kubectl("annotate", "namespace", "a", "pilus.io/mode=audit")
    world.until("its namespace is in audit mode", ALL)
    world.lab.kubectl("annotate", "cnp", "tested", "--namespace=a", "pilus.io/mode=enforce")
    world.until("the policy's own word", {"client>web1", "client>web2"})
    world.lab.kubectl("annotate", "namespace", "a", "pilus.io/mode-")


def test_why_names_the_rule_and_the_nearest_miss(world: World) -> None:
    world.apply(
        cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}], toPorts: [{{ports: [{{port: '8080', protocol: TCP}}]}}]}}]}}")
    )
    (way,) = world.pilus("n1", "why", "a/client", "a/web1:8080")["ways"]
    assert [(step["verdict"], step["rule"]) for step in way["steps"]] == [
        ("allow", None),
        ("allow", "CiliumNetworkPolicy a/tested spec.ingress[0]"),
    ]
    (way,) = world.pilus("n1", "why", "a/client", "a/web1:9090/TCP")["ways"]
    step = way["steps"][1]
    assert (step["verdict"], step["rule"]) == ("deny", "default deny of CiliumNetworkPolicy a/tested")
    near = "TCP 8080 is allowed by CiliumNetworkPolicy a/tested spec.ingress[0]; this is TCP 9090"
    assert step["nearest"] == near
    world.reached(9090)
    wait_for("it in the events as well", lambda: near in {event["nearest"] for event in world.events()}, 10)
    (way,) = world.pilus("n1", "why", "a/client", "a/web1:8/ICMP")["ways"]
    near = "TCP 8080 is allowed by CiliumNetworkPolicy a/tested spec.ingress[0]; this is ICMP type 8"
    assert way["steps"][1]["nearest"] == near
    within(world.prober.namespace_of("a/client"), partial(ping, world.addresses["web1"][0]))
    wait_for("that of a ping too", lambda: near in {event["nearest"] for event in world.events()}, 10)
    (way,) = world.pilus("n1", "why", "b/neighbour", f"[{world.addresses['web1'][1]}]:8080")["ways"]
    assert "a/tested spec.ingress[0] allows it from identity" in way["steps"][1]["nearest"]
    (way,) = world.pilus("n1", "why", "a/client", "a/web2:8080")["ways"]
    assert [step["verdict"] for step in way["steps"]] == ["allow", "elsewhere"]
    words = world.lab.node("n1").exec(["pilus", "why", "world", "a/web1:8080"]).stdout
    assert "ingress of a/web1: deny, no rule means it" in words


def ping(address: str) -> None:
    """Ask once, and wait for nothing: this answer is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as made:
        made.sendto(bytes(IP() / ICMP())[20:], (address, 0))


class Stream:
    """A connection over which requests go on, each with its answer, until none comes any more."""

    def __init__(self, namespace: int, address: str) -> None:
        self.answered: list[float] = []  # when the last ones were
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(namespace, address))
        self._thread.start()
        wait_for("the first answer", lambda: bool(self.answered), 10)

    def _run(self, namespace: int, address: str) -> None:
        with within(namespace, lambda: socket.create_connection((address, 8080), 10)) as made:
            made.settimeout(0.5)
            while not self._ended.is_set():
                try:
                    made.sendall(b"GET /healthz HTTP/1.1\r\nHost: it\r\n\r\n")
                    if not made.recv(4096):
                        return
                except OSError:
                    return
                self.answered.append(time.monotonic())

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)


def seconds_until_cut(world: World, address: str, request: Callable[[], object]) -> float:
    """From a request to the last answer over a stream of the stranger's that it cuts."""
    with Stream(world.prober.namespace_of("a/stranger"), address) as stream:
        asked = time.monotonic()
        request()
        wait_for("the stranger's stream to be cut", lambda: not stream.alive, 10)
    return stream.answered[-1] - asked


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("server", SERVERS)
def test_an_open_stream_is_cut_when_its_policy_goes_and_one_still_allowed_is_not_disturbed(
    world: World, server: str, family: int
) -> None:
    """Decided anew while it runs: no new connection is needed to find out. How long each cut took is printed."""
    wide = cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}, {{{STRANGER}}}]}}]}}")
    both, one = yaml.safe_load(wide), yaml.safe_load(cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}"))
    world.apply(wide)
    address = world.addresses[server][family]
    with Api(world.lab) as api, Stream(world.prober.namespace_of("a/client"), address) as undisturbed:
        taken = []
        for _ in range(CUTS):
            wait_for("the stranger to be let in", lambda: world.prober.reaches(Probe("a/stranger", address, 8080), 0.1), 10)
            taken.append(1000 * seconds_until_cut(world, address, lambda: api.apply(one)))
            api.apply(both)
        before = len(undisturbed.answered)
        wait_for("the client's stream to go on", lambda: len(undisturbed.answered) > before + 100, 10)
        assert undisturbed.alive
    stall = 1000 * max(later - earlier for earlier, later in pairwise(undisturbed.answered))
    print(
        f"{server}: cut {statistics.median(taken):.0f} ms after the API request (median of {CUTS}), {max(taken):.0f} at most; "
        f"the other's longest pause {stall:.0f} ms"
    )


def test_a_difference_is_told_before_it_is_made(world: World, tmp_path: Path) -> None:
    """`pilus policy diff` from anywhere with a kubeconfig; and what it said is what comes."""
    world.apply(cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}"))
    wanted = cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{STRANGER}}}]}}]}}")
    file = tmp_path / "wanted.yaml"
    file.write_text(wanted)
    command = ["pilus", "-o", "json", "policy", "diff", "--kubeconfig", str(world.lab.spec.kubeconfigs / "admin"), "-f", str(file)]
    found = json.loads(world.lab.control.exec(command).stdout)
    told = {
        (pod, peer.split()[1], change["allowed"])
        for one in found for pod in one["pods"] for peer in one["peers"] for change in one["changes"]
    }  # fmt: skip
    assert told == {
        (f"a/{server}", f"k8s:app={app}", allowed) for server in SERVERS for app, allowed in (("client", False), ("stranger", True))
    }
    world.apply(wanted)
    assert world.reached() == {"stranger>web1", "stranger>web2"}


def test_a_policy_on_one_protocol_leaves_the_other_closed(world: World) -> None:
    world.apply(cnp(f"{{{WEB}, ingress: [{{toPorts: [{{ports: [{{port: '8081', protocol: UDP}}]}}]}}]}}"))
    assert world.reached(8081, "udp") == ALL
    assert world.reached() == set()


def test_the_api_server_is_whom_a_pod_may_reach(world: World) -> None:
    """The lab's is outside the cluster, known by address alone; by the Service's address too, and nothing beside it."""
    server = world.lab.get("endpointslices.discovery.k8s.io", "kubernetes")[0]
    (address,), port = server["endpoints"][0]["addresses"], server["ports"][0]["port"]
    asked = [Probe("a/stranger", address, port), Probe("a/stranger", world.addresses["web1"][0], 8080)]

    def reached() -> list[bool]:
        found = world.prober.table(asked, limit=0.7)
        return [found[probe] for probe in asked]

    assert reached() == [True, True]
    world.apply(cnp("{endpointSelector: {matchLabels: {app: stranger}}, egress: [{toEntities: [kube-apiserver]}]}"))
    assert reached() == [True, False]
    told = world.lab.get("ciliumnetworkpolicies", "tested", "--namespace=a")[0]["status"]["conditions"]
    assert [one["type"] for one in told if one["status"] == "False"] == [], "nothing of it is without effect"
    world.apply(cnp("{endpointSelector: {matchLabels: {app: stranger}}, egress: [{toEntities: [remote-node]}]}"))
    assert reached() == [False, False]
    server_by, all_but = (f"{{matchExpressions: [{{key: 'reserved:kube-apiserver', operator: {word}}}]}}" for word in EXISTENCE)
    for spec in (
        f"egress: [{{toEntities: [all]}}], egressDeny: [{{toEndpoints: [{server_by}]}}]",
        f"egress: [{{toEndpoints: [{all_but}]}}]",
    ):
        world.apply(cnp(f"{{endpointSelector: {{matchLabels: {{app: stranger}}}}, {spec}}}"))
        assert reached() == [False, True], spec


def told_of(world: World, reason: str) -> set[tuple[str, str]]:
    """Names of objects with what Events say of them."""
    events = world.lab.get("events", "--namespace=a", f"--field-selector=reason={reason}")
    return {(event["involvedObject"]["name"], event["message"]) for event in events}


def test_the_condition_names_what_is_not_in_force(world: World) -> None:
    world.apply(cnp(f"{{{WEB}, ingress: [{{toPorts: [{{ports: [{{port: '8080', protocol: TCP}}], rules: {{http: [{{}}]}}}}]}}]}}"))

    def told() -> bool:
        conditions = world.lab.get("ciliumnetworkpolicies", "tested", "--namespace=a")[0]["status"]["conditions"]
        return any("spec.ingress[0].toPorts[0].rules" in (one.get("message") or "") for one in conditions)

    wait_for("a condition that names the field", told, 10)
    field = "spec.ingress[0].toPorts[0].rules"
    wait_for("an Event that names the field", lambda: any(field in message for _, message in told_of(world, "NotInForce")), 10)
    owner = "CiliumNetworkPolicy a/tested, which governs this pod: "

    def pods_told() -> set[str]:
        return {name for name, message in told_of(world, "PolicyNotInForce") if message.startswith(owner)}

    wait_for("Events on the pods that it governs", lambda: pods_told() == {"web1", "web2"}, 10)


def test_events_name_what_is_not_in_force_of_a_network_policy(world: World) -> None:
    """Which has no condition that could. It is enforced, and nobody writes into it."""
    world.lab.apply(knp("{podSelector: {matchLabels: {app: web}}}", more=", annotations: {pilus.io/mode: adit}"))
    word = "annotation pilus.io/mode is 'adit', and not enforce or audit: it is enforced"
    wait_for("an Event that says so", lambda: ("tested", word) in told_of(world, "NotInForce"), 10)
    owner = "NetworkPolicy a/tested, which governs this pod: "
    expected = {("web1", owner + word), ("web2", owner + word)}
    wait_for("Events on the pods that it governs", lambda: expected <= told_of(world, "PolicyNotInForce"), 10)
    world.until("it is enforced", set())
    (held,) = world.lab.get("networkpolicies.networking.k8s.io", "tested", "--namespace=a")
    assert held["metadata"]["generation"] == 1
    assert not held.get("status")


def test_the_condition_notes_addresses_of_pods(world: World) -> None:
    """The policy is in force as it is written, and reaches no pod by it; once it names them no more the note goes."""

    def conditions() -> dict[str, tuple[str, str]]:
        held = world.lab.get("ciliumnetworkpolicies", "tested", "--namespace=a")[0]["status"]["conditions"]
        return {one["type"]: (one["status"], one.get("message") or "") for one in held}

    address = world.addresses["client"][0]
    world.apply(cnp(f"{{{WEB}, ingress: [{{fromCIDR: [0.0.0.0/0]}}, {{fromCIDR: [{address}]}}]}}"))
    wait_for("a note", lambda: conditions().get("Notes", ("", ""))[0] == "True", 10)
    assert conditions()["Notes"][1].startswith(f"spec.ingress[1]: {address}/32 covers pods' addresses")
    assert "InForce" not in conditions()
    assert world.reached() == set()
    world.apply(cnp(f"{{{WEB}, ingress: [{{fromEndpoints: [{{{CLIENT}}}]}}]}}"))
    wait_for("no note any more", lambda: conditions()["Notes"][0] == "False", 10)
    assert world.reached() == {"client>web1", "client>web2"}


def test_the_api_server_refuses_what_makes_no_sense(world: World) -> None:
    done = world.lab.kubectl("apply", "--filename=-", stdin=cnp("{ingress: [{}]}"), check=False)
    assert done.returncode
    assert "endpointSelector" in done.stderr


def test_probes_of_the_kubelet_pass_whatever_the_policy(world: World) -> None:
    world.apply(knp("{podSelector: {}, policyTypes: [Ingress, Egress]}"))
    assert world.reached() == set()
    world.lab.kubectl("annotate", "pod", "--namespace=a", "web1", "touched=1", "--overwrite")
    before = world.lab.get("pod", "web1", "--namespace=a")[0]["status"]
    assert all(held["ready"] for held in before["containerStatuses"])
    world.lab.kubectl("delete", "pod", "--namespace=a", "web1", "--wait=true")
    world.lab.apply(yaml.safe_dump(manifest("web1")))
    world.lab.kubectl("wait", "--namespace=a", "--for=condition=Ready", "pod/web1", "--timeout=30s")
    world.addresses["web1"] = addresses_of(world.lab, "web1")
