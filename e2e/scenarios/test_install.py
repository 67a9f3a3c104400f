"""Installed as people do it: nothing of ours runs on a host; the image, `kubectl apply -k manifests/`, and nothing left in the end.

The tests stand in the order of an installation's life, and share one lab: the last one takes Pilus off it.
"""

import asyncio
import json
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilus_api.connection import APPLY_PATCH, ApiError, Connection
from pilus_lab import Lab, components
from pilus_lab.binaries import built
from pilus_lab.demo import MANIFESTS, Demo
from pilus_lab.image import reference
from pilus_lab.lab import LabError, wait_for
from pilus_lab.pki import kubeconfig
from pilus_lab.probe import Probe, Prober, reaches, within

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NODES = ("n1", "n2")
NAMESPACE = "--namespace=kube-system"
HOST_POLICY = "/var/lib/pilus/host-policy.json"
UNINSTALL = components.REPOSITORY / "manifests" / "uninstall"
# Within the host's own automatic ports, so that a sysctl of the node has to be changed, and put back.
SETTINGS = {"masquerade-port-range": "50000-51000"}
AGENT = "system:serviceaccount:kube-system:pilus-agent"
_GROUPS = ("", "apps", "policy", "rbac.authorization.k8s.io", "apiextensions.k8s.io", "admissionregistration.k8s.io", "cilium.io",
           "networking.k8s.io", "certificates.k8s.io")  # fmt: skip
_CAPABILITIES = {"NET_ADMIN": 12, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}
# What a node is made of, as far as a network could change it. Run in the node; one text for each.
_SNAPSHOT = {
    "links": "ip -o link show | sed -E 's/ (mode|group|qlen) .*//; s/^[0-9]+: //'",
    "addresses": "ip -o address show | awk '{print $2, $3, $4}'",
    "routes": "ip route show table all; ip -6 route show table all | sed -E 's/ expires [0-9]+sec//'",
    "rules": "ip rule show; ip -6 rule show",
    "qdiscs": "tc qdisc show",
    "filters": "for link in $(ls /sys/class/net); do tc filter show dev $link ingress; tc filter show dev $link egress; done 2>&1",
    "sysctls": "cd /proc/sys/net && grep -rsH '' ipv4 ipv6 core | grep -v -e netdev_rss_key -e tcp_fastopen_key -e stable_secret",
    "files": "find /etc/cni /opt/cni /run/pilus /run/netns /var/lib/pilus -printf '%p %M %u %s\\n' 2>/dev/null; ls /run /var/lib",
    "bpffs": "find /sys/fs/bpf",
    "cgroup programs": "bpftool cgroup show /sys/fs/cgroup/unified | awk '{print $2, $4}'",
}


def snapshot(lab: Lab, node: str) -> dict[str, list[str]]:
    found = {}
    for what, command in _SNAPSHOT.items():
        found[what] = sorted(lab.node(node).exec(["sh", "-c", command], check=False).stdout.splitlines())
    (held,) = lab.get("node", node)
    # By key: the node lifecycle controller adds one effect after the other.
    found["taints"] = sorted({str(taint["key"]) for taint in held["spec"].get("taints") or []})
    return found


@dataclass
class Installed:
    """The lab, and its nodes as they were before anything of ours was there."""

    lab: Lab
    before: dict[str, dict[str, list[str]]]

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.lab.get("pods", NAMESPACE, f"--selector=app.kubernetes.io/name={name}")

    def agent(self, node: str) -> str:
        (name,) = [pod["metadata"]["name"] for pod in self.pods("pilus") if pod["spec"]["nodeName"] == node]
        return str(name)

    def run(self, pod: str, container: str, *command: str) -> str:
        return self.lab.kubectl("exec", NAMESPACE, pod, f"--container={container}", "--", *command).stdout

    def status(self, node: str) -> dict[str, Any]:
        """What `pilus status` says in an agent's container."""
        held: dict[str, Any] = json.loads(self.run(self.agent(node), "agent", "pilus", "-o", "json", "status"))
        return held

    def holder(self) -> str:
        (lease,) = self.lab.get("lease", "pilus-operator", NAMESPACE)
        return str(lease["spec"].get("holderIdentity") or "")

    def configure(self, **changed: str | None) -> str:
        """Change keys of the ConfigMap; "" if it was done, else why not."""
        data = {key.replace("_", "-"): value for key, value in changed.items()}
        patch = f"--patch={json.dumps({'data': data})}"
        done = self.lab.kubectl("patch", "configmap", "pilus-config", NAMESPACE, "--type=merge", patch, check=False)
        if done.returncode:
            return done.stderr
        # A kubelet looks at what is mounted when it looks at a pod: every minute, or when something of the pod changes.
        mark = ["--selector=app.kubernetes.io/part-of=pilus", "--overwrite", f"example.org/looked={time.monotonic_ns()}"]

        def marked() -> bool:
            """A pod that ends between the list and its turn fails the whole."""
            return self.lab.kubectl("annotate", "pods", NAMESPACE, *mark, check=False).returncode == 0

        wait_for("every pod is looked at", marked, 30)
        return ""


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with Lab("install", nodes=2, cni="none", settings=SETTINGS) as lab:
        lab.wait("nodes are tainted: they have no network", lambda: all(_tainted(lab, node) for node in NODES), 30)
        for node in NODES:  # a node's folders lie over the machine's, where others may have tried things out
            lab.node(node).exec(["rm", "-rf", "/var/lib/pilus"])
        before = {node: snapshot(lab, node) for node in NODES}
        lab.install()
        yield Installed(lab, before)


def _tainted(lab: Lab, node: str) -> bool:
    held = lab.get("node", node, check=False)
    return any(taint["key"] == "node.kubernetes.io/not-ready" for one in held for taint in one["spec"].get("taints") or [])


@pytest.fixture(scope="module")
def application(installed: Installed) -> Demo:
    """The demo's application and policy, plain manifests."""
    demo = Demo(installed.lab)
    demo.start()
    return demo


# -- what apply -k brings ------------------------------------------------------------------------------------------------------


def test_apply_alone_brings_everything_and_nothing_of_it_runs_on_a_host(installed: Installed) -> None:
    lab = installed.lab
    for node in NODES:
        assert set(lab.node(node).components()) == {"containerd", "kubelet"}
    assert set(lab.control.components()) == {"etcd", "apiserver", "controller-manager", "scheduler"}
    assert sorted(pod["spec"]["nodeName"] for pod in installed.pods("pilus")) == list(NODES)
    assert sorted(pod["spec"]["nodeName"] for pod in installed.pods("pilus-operator")) == list(NODES)
    assert installed.holder().split("_")[0] in NODES, "one of the two is active"
    assert all(check["state"] == "ok" for node in NODES for check in installed.status(node)["checks"])
    for name in ("pilus-agent-ciliumnodes", "pilus-agent-ciliumendpoints", "pilus-agent-pilusnodestatuses", "pilus-operator-only",
                 "pilus-config"):  # fmt: skip
        assert lab.get("validatingadmissionpolicybinding", name)


def test_the_agent_has_four_capabilities_and_no_other_right(installed: Installed) -> None:
    """Of a container with these, `privileged` would be all 40, every device, and a writable /proc and /sys."""
    wanted = {"agent": ["BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"], "observer": ["BPF"]}
    for container, names in wanted.items():
        status = installed.run(installed.agent("n1"), container, "cat", "/proc/1/status")
        effective = re.search(r"^CapEff:\s+(\w+)", status, re.MULTILINE)
        bounding = re.search(r"^CapBnd:\s+(\w+)", status, re.MULTILINE)
        assert effective
        assert bounding
        assert int(effective[1], 16) == int(bounding[1], 16) == sum(1 << _CAPABILITIES[name] for name in names), container
    operator = installed.pods("pilus-operator")[0]["metadata"]["name"]
    status = installed.run(operator, "operator", "cat", "/proc/1/status")
    assert re.search(r"^CapEff:\s+0{16}$", status, re.MULTILINE)
    assert re.search(r"^Uid:\s+65534\s", status, re.MULTILINE)


def test_the_application_and_its_policy_work(installed: Installed, application: Demo) -> None:
    web = [held["ip"] for pod in application.pods("web") for held in pod["status"]["podIPs"]]
    clients = [f"default/{pod['metadata']['name']}" for pod in application.pods("client")]
    wanted = {Probe(source, address, 8080): source in clients for source in (*clients, "default/stranger") for address in web}
    assert len(wanted) == 12, "three pods to two servers, v4 and v6"
    with Prober(installed.lab) as prober:
        assert prober.table(wanted) == wanted
    for client in clients:
        installed.lab.pod_exec(client.partition("/")[2], "/agnhost", "connect", "web:80", "--timeout=3s")


# -- rights --------------------------------------------------------------------------------------------------------------------


NODE = "/apis/cilium.io/v2/ciliumnodes"
IDENTITY = "/apis/cilium.io/v2/ciliumidentities"
ENDPOINT = "/apis/cilium.io/v2/namespaces/default/ciliumendpoints"
SLICE = "/apis/cilium.io/v2alpha1/ciliumendpointslices"
STATUS = "/apis/pilus.io/v1alpha1/pilusnodestatuses"
CLAIM = "/apis/pilus.io/v1alpha1/pilusrangeclaims"
NOTE = {"metadata": {"annotations": {"example.org/thief": "was here"}}}


class Thief:
    """Who has the token of one node's agent, and nothing else."""

    def __init__(self, lab: Lab, token: str, config: Path | None = None) -> None:
        self._config = config or kubeconfig(lab.spec, "stolen", token.strip())
        self._network = Path(f"/proc/{lab.control.orders.first_process()}/ns/net")

    def may(self, asked: Iterable[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
        """Which of (verb, group, resource, subresource) an agent may do, anywhere; whoever asks has to be an admin."""
        found = []

        async def review(api: Connection, asked: tuple[str, str, str, str], namespace: str) -> None:
            attributes = dict(zip(("verb", "group", "resource", "subresource"), asked, strict=True)) | {"namespace": namespace}
            spec = {"user": AGENT, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes}
            body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
            if (await api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", body))["status"]["allowed"]:
                found.append(asked)

        async def ask(api: Connection) -> None:
            await asyncio.gather(*(review(api, one, namespace) for one in asked for namespace in ("", "kube-system")))

        assert self._try(ask) == ""
        return found

    def _try(self, ask: Callable[[Connection], Awaitable[object]]) -> str:
        """ "" if it was done, else why not."""

        async def asked() -> str:
            async with Connection.from_kubeconfig(self._config) as connection:
                try:
                    await ask(connection)
                except ApiError as error:
                    return str(error)
            return ""

        namespace = os.open(self._network, os.O_RDONLY)
        try:
            return within(namespace, lambda: asyncio.run(asked()))
        finally:
            os.close(namespace)

    def get(self, path: str) -> str:
        return self._try(lambda api: api.get(path))

    def patch(self, path: str, body: dict[str, Any]) -> str:
        return self._try(lambda api: api.patch(path, body))

    def create(self, path: str, body: dict[str, Any]) -> str:
        return self._try(lambda api: api.post(path, body))

    def apply(self, path: str, body: dict[str, Any]) -> str:
        parameters = {"fieldManager": "pilus-agent", "force": "true"}
        return self._try(lambda api: api.patch(path, body, params=parameters, content=APPLY_PATCH))

    def delete(self, path: str) -> str:
        return self._try(lambda api: api.delete(path))


def _token(installed: Installed, node: str) -> str:
    return installed.run(installed.agent(node), "agent", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")


def _endpoint(name: str, node: str, owner: str) -> dict[str, Any]:
    owners = [{"apiVersion": "v1", "kind": "Pod", "name": owner, "uid": "11111111-1111-1111-1111-111111111111"}]
    metadata = {"name": name, "namespace": "default", "annotations": {"pilus.io/node": node}, "ownerReferences": owners}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", "metadata": metadata}


def _foreign_writes(lab: Lab, thief: Thief) -> Iterator[tuple[str, str]]:
    """Everything that the agent of n1 must not be able to write, and what the API server said."""
    elsewhere = next(
        f"{ENDPOINT}/{endpoint['metadata']['name']}" for endpoint in lab.get("ciliumendpoints")
        if endpoint["metadata"]["annotations"]["pilus.io/node"] == "n2"
    )  # fmt: skip
    identity = f"{IDENTITY}/{lab.get('ciliumidentities')[0]['metadata']['name']}"
    claim = f"{CLAIM}/{lab.get('pilusrangeclaims')[0]['metadata']['name']}"
    slice_ = f"{SLICE}/{lab.get('ciliumendpointslices')[0]['metadata']['name']}"
    node = {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": "n9"}, "spec": {"addresses": []}}
    label_set = {"apiVersion": "cilium.io/v2", "kind": "CiliumIdentity", "metadata": {"name": "999"},
                 "security-labels": {"k8s:app": "web"}}  # fmt: skip
    range_ = {"apiVersion": "pilus.io/v1alpha1", "kind": "PilusRangeClaim", "metadata": {"name": "10-44-99-0-24"},
              "spec": {"node": "n1", "range": "10.44.99.0/24"}}  # fmt: skip
    yield "another node", thief.patch(f"{NODE}/n2", {"spec": {"addresses": [{"type": "InternalIP", "ip": "172.30.0.11"}]}})
    yield "another node, applied", thief.apply(f"{NODE}/n2", {**node, "metadata": {"name": "n2"}})
    yield "another node, deleted", thief.delete(f"{NODE}/n2")
    yield "a node that is not there", thief.apply(f"{NODE}/n9", node)
    yield "a node that is not there, created", thief.create(NODE, node)
    yield "its own node's ranges", thief.patch(f"{NODE}/n1", {"spec": {"ipam": {"podCIDRs": ["10.44.1.0/24"]}}})
    yield "another node's endpoint", thief.patch(elsewhere, {"status": {"networking": {"node": "172.30.0.11"}}})
    yield "another node's endpoint, taken over", thief.patch(elsewhere, {"metadata": {"annotations": {"pilus.io/node": "n1"}}})
    yield "another node's endpoint, deleted", thief.delete(elsewhere)
    yield "an endpoint in another node's name", thief.apply(f"{ENDPOINT}/thief", _endpoint("thief", "n2", "thief"))
    yield "an endpoint that is no pod's", thief.apply(f"{ENDPOINT}/thief", _endpoint("thief", "n1", "somebody"))
    yield "another node's state", thief.patch(f"{STATUS}/n2", {"status": {"policies": []}})
    yield "another node's state, deleted", thief.delete(f"{STATUS}/n2")
    yield "an identity", thief.patch(identity, {"security-labels": {"k8s:app": "web"}})
    yield "an identity, deleted", thief.delete(identity)
    yield "an identity of its own", thief.create(IDENTITY, label_set)
    yield "a claim", thief.patch(claim, NOTE)
    yield "a claim, deleted", thief.delete(claim)
    yield "a claim of its own", thief.create(CLAIM, range_)
    yield "a slice", thief.patch(slice_, {"endpoints": []})
    yield "a slice, deleted", thief.delete(slice_)


def test_a_stolen_token_speaks_for_its_own_node_alone(installed: Installed, application: Demo) -> None:
    lab, thief = installed.lab, Thief(installed.lab, _token(installed, "n1"))
    assert thief.patch(f"{NODE}/n1", NOTE) == ""
    assert thief.patch(f"{STATUS}/n1", NOTE) == ""
    for what, said in _foreign_writes(lab, thief):
        assert "forbidden" in said.lower(), f"{what}: {said or 'was written'}"
    # The same with all rights there are: it is admission that holds, not only RBAC.
    lab.kubectl(
        "create", "clusterrolebinding", "everything", "--clusterrole=cluster-admin", "--serviceaccount=kube-system:pilus-agent"
    )
    try:
        lab.wait("the rights are there", lambda: thief.get("/api/v1/secrets") == "", 10)
        for what, said in _foreign_writes(lab, thief):
            assert "ValidatingAdmissionPolicy" in said, f"{what}: {said or 'was written'}"
    finally:
        lab.kubectl("delete", "clusterrolebinding", "everything")
    assert {node["metadata"]["name"] for node in lab.get("ciliumnodes")} == set(NODES)


def test_a_token_that_names_no_node_speaks_for_none(installed: Installed) -> None:
    thief = Thief(installed.lab, installed.lab.kubectl("create", "token", "pilus-agent", NAMESPACE).stdout)
    assert 'the agent of node "" may not write' in thief.patch(f"{NODE}/n1", NOTE)


def test_cve_2022_29179_an_agent_can_not_take_over_the_cluster(installed: Installed) -> None:
    asked = [
        ("get", "secrets"), ("list", "secrets"), ("get", "configmaps"), ("create", "pods"), ("delete", "pods"), ("patch", "pods"),
        ("patch", "pods/status"), ("create", "pods/exec"), ("create", "pods/eviction"), ("delete", "nodes"), ("patch", "nodes"),
        ("patch", "nodes/status"), ("create", "serviceaccounts/token"), ("escalate", "clusterroles"), ("bind", "clusterroles"),
        ("create", "clusterrolebindings"), ("impersonate", "users"), ("patch", "customresourcedefinitions"), ("patch", "services"),
        ("delete", "ciliumnodes"), ("delete", "ciliumendpoints"), ("patch", "ciliumnetworkpolicies"), ("delete", "networkpolicies"),
        ("patch", "ciliumidentities"), ("create", "ciliumendpointslices"), ("deletecollection", "ciliumnodes"), ("get", "*"),
        ("patch", "validatingadmissionpolicies"), ("create", "certificatesigningrequests"),
    ]  # fmt: skip
    admin = Thief(installed.lab, "", installed.lab.spec.kubeconfigs / "admin")
    known = ("patch", "pilus.io", "pilusnodestatuses", "")
    assert admin.may([known]) == [known] * 2, "the question is understood"
    assert admin.may((verb, group, *resource.partition("/")[::2]) for verb, resource in asked for group in _GROUPS) == []


# -- files and sockets ---------------------------------------------------------------------------------------------------------

_CONNECT = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))
try:
    socket.socket(socket.AF_UNIX).connect(sys.argv[3])
except PermissionError:
    sys.exit(13)
"""


@pytest.mark.parametrize("name", ["agent.sock", "observer.sock"])
def test_cve_2022_29178_sockets_are_for_root_alone(installed: Installed, application: Demo, name: str) -> None:
    lab, path = installed.lab, f"/run/pilus/{name}"
    for node in NODES:
        assert lab.node(node).exec(["stat", "-c", "%a %u %g", path]).stdout.split() == ["600", "0", "0"]
        mode = int(lab.node(node).exec(["stat", "-c", "%a", "/run/pilus"]).stdout, 8)
        assert not mode & 0o022, "only root may put something in its place"
        for user, group in ((65534, 65534), (65534, 0), (1000, 0)):
            done = lab.node(node).exec(["python3", "-c", _CONNECT, str(user), str(group), path], check=False)
            assert done.returncode == 13, f"user {user} of group {group} reaches {path}"
    for pod in application.pods("client"):
        roots = _roots_of(pod["metadata"]["uid"])
        assert roots, "there is a process of the pod"
        assert not any((root / path.lstrip("/")).exists() for root in roots)


def _roots_of(uid: str) -> list[Path]:
    """The file systems that a pod's processes see."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"pod{uid}" in (process / "cgroup").read_text():
                found.append(process / "root")
        except OSError:
            continue  # ended while we looked
    return found


def test_cve_2024_33522_nothing_that_is_installed_lends_rights(installed: Installed) -> None:
    places = ["/opt/cni/bin/pilus-cni", "/etc/cni/net.d/05-pilus.conflist", "/run/pilus", "/var/lib/pilus"]
    for node in NODES:
        lines = installed.lab.node(node).exec(["find", *places, "!", "-type", "l", "-printf", "%m %u %p\n"]).stdout.splitlines()
        assert len(lines) > len(places)
        for line in lines:
            mode, owner, path = line.split(" ", 2)
            assert not int(mode, 8) & 0o6022, f"{path} has mode {mode}"
            assert owner == "root", f"{path} belongs to {owner}"


# -- settings ------------------------------------------------------------------------------------------------------------------

_SETTINGS_ROW = (
    "import json; from pilus_maps import Datapath; print(json.dumps(Datapath.open().map('settings').lookup(0)['timeout']))"
)


def test_what_can_change_while_it_runs_does_and_the_rest_is_named(installed: Installed) -> None:
    lab = installed.lab
    before = {pod["metadata"]["uid"] for pod in installed.pods("pilus")}

    def timeouts(node: str) -> list[int]:
        python = str(Path(sys.executable))
        return list(json.loads(lab.node(node).exec([python, "-c", _SETTINGS_ROW]).stdout))

    assert timeouts("n1") == [60, 8000, 10, 60]
    said = installed.configure(debug="true", bpf_ct_timeout_regular_tcp_syn="30s", bpf_events_default_rate_limit="50", mtu="1400",
                               hubble_metrics_server=":9966")  # fmt: skip
    assert said == ""
    lab.wait("the kernel has the new time-outs", lambda: all(timeouts(node)[0] == 30 for node in NODES), 60)

    def waiting(node: str) -> str:
        return next((check["message"] for check in installed.status(node)["checks"] if check["name"] == "settings"), "")

    wanted = "changed, and waiting for a restart: hubble-metrics-server, mtu"
    lab.wait("the others are named", lambda: all(waiting(node) == wanted for node in NODES), 20)
    assert {pod["metadata"]["uid"] for pod in installed.pods("pilus")} == before
    assert all(status["restartCount"] == 0 for pod in installed.pods("pilus") for status in pod["status"]["containerStatuses"])
    assert installed.configure(mtu=None, hubble_metrics_server=None) == ""
    lab.wait("nothing waits any more", lambda: all(waiting(node) == "as the ConfigMap has them" for node in NODES), 60)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("enable-ipv6-masquerad", "true", "enable-ipv6-masquerade"),
        ("debgu", "true", "debgu: there is no such setting; near are: debug"),
        ("routing-mode", "teleport", "routing-mode: teleport is not tunnel or native"),
        ("tunnel-port", "99999", "tunnel-port: 99999 is not a number from 1 to 65535"),
        ("cluster-pool-ipv4-cidr", "10.0.0.0/40", "cluster-pool-ipv4-cidr: 10.0.0.0/40 is not IPv4 ranges"),
        ("identity-gc-interval", "soon", "identity-gc-interval: soon is not a duration"),
    ],
)
def test_a_setting_that_can_not_be_is_refused_at_apply(installed: Installed, key: str, value: str, said: str) -> None:
    assert said in installed.configure(**{key: value})


def test_processes_refuse_an_unknown_setting_and_one_operator_takes_over_from_the_other(installed: Installed) -> None:
    """Where admission did not hold it off (it was not there yet, or somebody took it away), the processes do."""
    lab = installed.lab
    lab.kubectl("delete", "validatingadmissionpolicybinding", "pilus-config")
    lab.wait("admission is away", lambda: installed.configure(enable_policyy="always") == "", 20)
    said = "enable-policyy: there is no such setting; the nearest is 'enable-policy'"

    def complains(node: str) -> bool:
        return any(said in check["message"] for check in installed.status(node)["checks"] if check["name"] == "settings")

    lab.wait("agents say so, and go on as they were", lambda: all(complains(node) for node in NODES), 60)
    former = installed.holder()
    (active,) = [pod for pod in installed.pods("pilus-operator") if pod["spec"]["nodeName"] == former.split("_")[0]]
    lab.kubectl("delete", "pod", NAMESPACE, active["metadata"]["name"], "--wait=false")
    lab.wait("the other operator is active", lambda: installed.holder() not in ("", former), 20)
    assert installed.holder().split("_")[0] != former.split("_")[0]

    def ended() -> str:
        for pod in installed.pods("pilus-operator"):
            for status in pod["status"].get("containerStatuses") or []:
                for state in (status.get("state") or {}, status.get("lastState") or {}):
                    if said in (state.get("terminated") or {}).get("message", ""):
                        return str(pod["metadata"]["name"])
        return ""

    refused = lab.wait("the new one ends with what is wrong", ended, 60)
    lab.kubectl("apply", f"--kustomize={lab.spec.overlay}")
    assert installed.configure(enable_policyy=None) == ""
    lab.kubectl("delete", "pod", NAMESPACE, refused, "--timeout=60s")
    lab.kubectl("rollout", "status", "deployment/pilus-operator", NAMESPACE, "--timeout=60s", timeout=90)
    lab.apply(json.dumps(_pod("newcomer")))
    lab.wait("a pod with new labels gets its identity", lambda: lab.identity_of("newcomer"), 30)


def _pod(name: str) -> dict[str, Any]:
    container = {"name": "c", "image": "lab.local/pause:1", "imagePullPolicy": "Never"}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


# -- logs ----------------------------------------------------------------------------------------------------------------------


_DEBUG = ("cat", "/etc/pilus/config/debug")
_SAID = (["status"], ["-o", "json", "status"], ["endpoint", "list"], ["node", "list"])


def test_cve_2026_41184_41185_6720_and_cve_2023_29002_logs_hold_no_secret(installed: Installed, application: Demo) -> None:
    lab = installed.lab
    assert installed.configure(debug="true") == ""
    secrets: set[str] = set()
    for container, name in (("agent", "pilus"), ("operator", "pilus-operator")):
        for pod in (pod["metadata"]["name"] for pod in installed.pods(name)):
            lab.wait(f"{pod} is told to tell all", lambda p=pod, c=container: installed.run(p, c, *_DEBUG) == "true", 60)  # type: ignore[misc]
            token = installed.run(pod, container, "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token").strip()
            secrets |= {token, token.rpartition(".")[2]}
    lab.apply(json.dumps(_pod("logged")))
    lab.wait("a pod got its network meanwhile", lambda: lab.identity_of("logged"), 30)
    lab.kubectl("delete", "pod", "logged", "--force")
    spoken = {}
    for node in NODES:
        for words in _SAID:
            spoken[f"pilus {' '.join(words)} on {node}"] = lab.node(node).exec(["pilus", *words], check=False).stdout
    for pod in (*installed.pods("pilus"), *installed.pods("pilus-operator")):
        spoken[pod["metadata"]["name"]] = lab.kubectl("logs", NAMESPACE, pod["metadata"]["name"], "--all-containers").stdout
    for node in NODES:
        # What the runtime and the kubelet tell of CNI, in their own logs.
        for name in ("containerd", "kubelet"):
            spoken[f"{name} on {node}"] = (lab.spec.logs / f"{node}-{name}.log").read_text(errors="replace")
        spoken[f"CNI configuration on {node}"] = lab.node(node).exec(["sh", "-c", "cat /etc/cni/net.d/*"]).stdout
    assert all(spoken.values()), "there is nothing to look at"
    for who, text in spoken.items():
        assert not any(secret in text for secret in secrets), f"{who} tells a token"
        assert not re.search(r"eyJhbGciOi[\w-]+\.[\w-]{20,}|PRIVATE KEY|client-key-data|[Bb]earer [\w-]{8,}", text), (
            f"{who} tells a secret"
        )


# -- a new version -------------------------------------------------------------------------------------------------------------


@dataclass
class Talk:
    """One connection with requests all the time, and new ones beside it. Times in seconds."""

    answers: int = 0
    longest: float = 0.0
    retransmitted: int = 0  # segments of that connection: what was lost, as against waited for a CPU
    ended: str = ""
    opened: int = 0
    refused: list[str] = field(default_factory=list)
    leaked: int = 0
    denied: int = 0


@contextmanager
def talking(client: int, stranger: int, address: str) -> Iterator[Talk]:
    """From two pods' network namespaces to port 8080 of a third's, until the end."""
    talk, stop = Talk(), threading.Event()

    def converse() -> None:
        with socket.create_connection((address, 8080), 5) as made:
            made.settimeout(10)
            while not stop.is_set():
                began = time.monotonic()
                made.sendall(b"GET /hostname HTTP/1.1\r\nHost: web\r\n\r\n")
                if not made.recv(4096):
                    talk.ended = "the server closed it"
                    return
                talk.longest = max(talk.longest, time.monotonic() - began)
                talk.answers += 1
                talk.retransmitted = struct.unpack_from("=I", made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 100)[0]
                time.sleep(0.002)

    def knock() -> None:
        while not stop.is_set():
            try:
                socket.create_connection((address, 8080), 5).close()
                talk.opened += 1
            except OSError as error:
                talk.refused.append(repr(error))
            time.sleep(0.02)

    def intrude() -> None:
        while not stop.is_set():
            if reaches(address, 8080, limit=0.2):
                talk.leaked += 1
            talk.denied += 1

    def guarded(namespace: int, work: Callable[[], None]) -> None:
        try:
            within(namespace, work)
        except OSError as error:
            talk.ended = repr(error)

    threads = [threading.Thread(target=guarded, args=pair) for pair in ((client, converse), (client, knock), (stranger, intrude))]
    for thread in threads:
        thread.start()
    try:
        yield talk
    finally:
        stop.set()
        for thread in threads:
            thread.join(15)


def test_a_new_version_loses_no_connection(installed: Installed, application: Demo) -> None:
    lab = installed.lab
    tag = reference().rpartition(":")[0] + ":next"
    for node in NODES:
        lab.node(node).exec([str(built("ctr")), "--namespace", "k8s.io", "images", "tag", reference(), tag])
    old = {pod["metadata"]["uid"] for name in ("pilus", "pilus-operator") for pod in installed.pods(name)}
    server = application.pods("web")[0]
    client = next(pod for pod in application.pods("client") if pod["spec"]["nodeName"] != server["spec"]["nodeName"])
    with Prober(lab) as prober:
        namespaces = [prober.namespace_of(f"default/{name}") for name in (client["metadata"]["name"], "stranger")]
        with talking(namespaces[0], namespaces[1], server["status"]["podIP"]) as talk:
            lab.wait("the connection talks", lambda: talk.answers > 10, 10)
            for what in ("daemonset/pilus", "deployment/pilus-operator"):
                lab.kubectl("set", "image", NAMESPACE, what, f"*={tag}")
                lab.kubectl("set", "env", NAMESPACE, what, "PILUS_ROLLOUT=1")
            lab.rolled_out()
            answers = talk.answers
            lab.wait("it still talks", lambda: talk.answers > answers + 10, 10)
    print(f"{talk.answers} answers, longest wait {talk.longest * 1000:.1f} ms, {talk.retransmitted} segments sent again")
    print(f"{talk.opened} new connections, {talk.denied} denied")
    now = [pod for name in ("pilus", "pilus-operator") for pod in installed.pods(name)]
    assert not old & {pod["metadata"]["uid"] for pod in now if "deletionTimestamp" not in pod["metadata"]}
    assert all(container["image"] == tag for pod in now for container in pod["spec"]["containers"])
    assert talk.ended == ""
    assert talk.refused == []
    assert talk.leaked == 0
    assert min(talk.opened, talk.denied) > 10


def _documented(section: str) -> tuple[str, ...]:
    """The blocks of code in a section of docs/install.md."""
    text = (components.REPOSITORY / "docs" / "install.md").read_text().partition(f"\n### {section}\n")[2].partition("\n## ")[0]
    return tuple(re.findall(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))


def test_a_file_says_which_labels_make_an_identity(installed: Installed) -> None:
    """As documented: a kustomization of one's own over ours, whose ConfigMap operators and agents mount."""
    lab = installed.lab
    labels, addition = _documented("Which labels make an identity")
    mine = lab.spec.folder / "my-cluster"
    mine.mkdir()
    (mine / "labels.json").write_text(labels)
    (mine / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [f"../{lab.spec.overlay.name}"]}) + addition)

    def installs(folder: Path) -> None:
        lab.kubectl("apply", f"--kustomize={folder}")
        lab.rolled_out()

    def keys_of(name: str) -> set[str]:
        """Of a new pod's identity."""
        held = _pod(name)
        held["metadata"]["labels"] |= {"app-hash": "1", "team": "red"}
        lab.apply(json.dumps(held))
        number = lab.wait("its identity", lambda: lab.identity_of(name), 30)
        lab.kubectl("delete", "pod", name, "--wait=false")
        return {key.removeprefix("k8s:") for key in lab.get("ciliumidentity", str(number))[0]["security-labels"]}

    derived = {"io.kubernetes.pod.namespace", "io.cilium.k8s.policy.cluster", "io.cilium.k8s.policy.serviceaccount",
               "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"}  # fmt: skip
    installs(mine)
    assert keys_of("listed") == {"app"} | derived
    installs(lab.spec.overlay)
    assert keys_of("unlisted") == {"app", "app-hash", "team"} | derived


EARLY_IN_ITS_TREE = """
set -e
tree=/var/lib/pilus/early
mount -t proc proc $tree/proc
mount -t sysfs sysfs $tree/sys
for place in /dev /sys/fs/bpf /run/pilus /var/lib/pilus; do mount --bind $place $tree$place; done
mount -t tmpfs tmpfs $tree/tmp
exec chroot $tree /usr/local/bin/pilus-early --wait 1
"""


def test_what_runs_before_the_network_needs_no_container(installed: Installed) -> None:
    """A copy of the image is beside it, and its program runs there, as systemd has it by the unit's RootDirectory."""
    lab = installed.lab
    lab.kubectl("apply", f"--kustomize={components.REPOSITORY / 'manifests' / 'early'}")
    lab.kubectl("rollout", "status", "daemonset/pilus-early", NAMESPACE, "--timeout=90s", timeout=120)
    lab.kubectl("delete", f"--kustomize={components.REPOSITORY / 'manifests' / 'early'}")
    spec = {"nodeSelector": {}, "ingress": [{"fromEntities": ["all"]}]}
    held = {"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "nodes"}, "spec": spec}
    lab.apply(json.dumps(held))
    for node in NODES:
        place = lab.node(node)
        lab.wait("it to be kept", lambda place=place: not place.exec(["test", "-s", HOST_POLICY], check=False).returncode, 20)  # type: ignore[misc]
        assert "RootDirectory=/var/lib/pilus/early" in place.exec(["cat", "/etc/systemd/system/pilus-early.service"]).stdout
        done = place.exec(["unshare", "--mount", "sh", "-c", EARLY_IN_ITS_TREE], check=False)
        assert done.stdout.endswith("an agent has run since the machine started: the tables stay\n"), done.stderr
    lab.kubectl("delete", "ciliumclusterwidenetworkpolicies", "nodes")
    for node in NODES:
        place = lab.node(node)
        lab.wait("it to go", lambda place=place: place.exec(["test", "-e", HOST_POLICY], check=False).returncode == 1, 20)  # type: ignore[misc]


# -- and off again -------------------------------------------------------------------------------------------------------------


def test_delete_and_uninstall_leave_the_nodes_as_they_were(installed: Installed, application: Demo) -> None:
    lab = installed.lab
    lab.wait("nodes are Ready", lambda: not any(_tainted(lab, node) for node in NODES), 60)
    for node in NODES:
        now = snapshot(lab, node)
        different = {what for what, lines in installed.before[node].items() if now[what] != lines}
        assert different == set(_SNAPSHOT) - {"rules"} | {"taints"}, "all of it can tell a node with Pilus from one without"
        done = lab.node(node).exec(["pilus", "uninstall", "--check"], check=False)
        assert done.returncode == 1
        shown = {"link pilus_host", "clsact on eth0", "reserved ports 50000-51000", "/sys/fs/bpf/pilus", "/opt/cni/bin/pilus-cni"}
        assert shown <= set(done.stdout.splitlines())
        refused = lab.node(node).exec(["pilus", "uninstall", "--yes"], check=False)
        assert refused.returncode == 1
        assert "the agent" in refused.stderr, "what an agent would make again is not taken away under it"
    lab.kubectl("delete", "--ignore-not-found", "--wait=false", "pod/newcomer", "pod/logged")
    lab.kubectl("delete", f"--filename={MANIFESTS / 'application.yaml'}")
    lab.kubectl("delete", NAMESPACE, "deployment/coredns")
    lab.wait("no pod has a network of ours", lambda: all(not _pod_links(lab, node) for node in NODES), 60)

    lab.kubectl("delete", f"--kustomize={lab.spec.overlay}")
    lab.kubectl("apply", f"--kustomize={UNINSTALL}")
    lab.kubectl("rollout", "status", "daemonset/pilus-uninstall", NAMESPACE, "--timeout=90s", timeout=120)
    lab.kubectl("delete", f"--kustomize={UNINSTALL}")
    for node in NODES:
        done = lab.node(node).exec(["pilus", "uninstall", "--check"], check=False)
        assert (done.returncode, done.stdout.strip()) == (0, "nothing of Pilus is on this node")
    lab.wait("nodes are tainted again", lambda: all(_tainted(lab, node) for node in NODES), 60)
    for node in NODES:
        after = snapshot(lab, node)
        for what, lines in installed.before[node].items():
            assert after[what] == lines, f"{what} of {node}"
    left = lab.kubectl("get", "crds,clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings",
                       "--output=name").stdout.splitlines()  # fmt: skip
    assert [name for name in left if "pilus" in name or "cilium" in name] == []
    with pytest.raises(LabError, match="NotFound"):
        installed.holder()


def _pod_links(lab: Lab, node: str) -> list[str]:
    links = lab.node(node).exec(["ip", "-o", "link", "show"]).stdout.splitlines()
    return [line for line in links if ": plx" in line]
