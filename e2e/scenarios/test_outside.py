"""Pods reach what is outside the cluster and other nodes' addresses, v4 and v6; the node's own connections go on as they were."""

import json
from collections.abc import Iterator

import pytest

from pilus_lab import Lab, byhand, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

CLIENT = """
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  nodeName: n1
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: "lab.local/agnhost:1", imagePullPolicy: Never, args: [pause]}
"""
ONLY_NODES = """
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-nodes, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEntities: [remote-node]
"""
OUTSIDE = ("172.30.0.1", "fd00:30::1")  # the machine beside the nodes: the API server listens there
ONLY_OFFICES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-offices, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toCIDRSet: [{cidrGroupRef: offices}]
"""
API_SERVER, KUBELET = 6443, 10250


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("outside", nodes=2, cni="pilus", without=("operator", "agent", "observer")) as made:
        made.apply(byhand.nodes() + byhand.identity(1002, "client"))
        for node in ("n1", "n2"):
            made.start_agent(node)
        made.apply(CLIENT)
        wait_for("the pod", lambda: _running(made), 60)
        yield made


def _running(lab: Lab) -> bool:
    held = json.loads(lab.kubectl("get", "pods", "-o", "json").stdout)["items"]
    return bool(held) and all(one["status"]["phase"] == "Running" for one in held)


def _connect(lab: Lab, address: str, port: int) -> str:
    """ "" if a TCP connection came about; else what agnhost said."""
    host = f"[{address}]" if ":" in address else address
    done = lab.kubectl("exec", "client", "--", "/agnhost", "connect", f"{host}:{port}", "--timeout=2s", check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout)


@pytest.mark.parametrize("address", OUTSIDE)
def test_a_pod_reaches_the_outside(lab: Lab, address: str) -> None:
    """A connection where somebody listens (the API server does not, at its IPv6 address), else the answer that nobody does."""
    if ":" not in address:
        assert _connect(lab, address, API_SERVER) == ""
    assert "REFUSED" in _connect(lab, address, 9)


@pytest.mark.parametrize("address", ["172.30.0.12", "fd00:30::12"])
def test_a_pod_reaches_another_node(lab: Lab, address: str) -> None:
    if ":" not in address:
        assert _connect(lab, address, KUBELET) == ""
    assert "REFUSED" in _connect(lab, address, 9)


def test_policy_judges_where_it_goes(lab: Lab) -> None:
    """A node is a node, and the outside is the world, though both are reached with this node's address."""
    lab.apply(ONLY_NODES)
    try:
        wait_for("the policy", lambda: _connect(lab, OUTSIDE[0], API_SERVER) != "", 20)
        assert _connect(lab, "172.30.0.12", KUBELET) == ""
    finally:
        lab.kubectl("delete", "cnp", "only-nodes")
    wait_for("its end", lambda: _connect(lab, OUTSIDE[0], API_SERVER) == "", 20)


def test_a_group_of_prefixes_is_whom_a_policy_names(lab: Lab) -> None:
    """The policy stands; the group comes, changes and goes under it."""
    address = OUTSIDE[0]

    def group(prefix: str) -> str:
        held = {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumCIDRGroup", "metadata": {"name": "offices"}}
        return json.dumps({**held, "spec": {"externalCIDRs": [prefix]}})

    lab.apply(ONLY_OFFICES)
    try:
        wait_for("the policy", lambda: _connect(lab, address, API_SERVER) != "", 20)
        lab.apply(group(f"{address}/32"))
        wait_for("the group", lambda: _connect(lab, address, API_SERVER) == "", 20)
        lab.apply(group("192.0.2.0/24"))
        wait_for("another content", lambda: _connect(lab, address, API_SERVER) != "", 20)
    finally:
        lab.kubectl("delete", "cnp", "only-offices")
        lab.kubectl("delete", "ccg", "offices", "--ignore-not-found")
    wait_for("its end", lambda: _connect(lab, address, API_SERVER) == "", 20)


def test_filters_come_back(lab: Lab) -> None:
    """Within a second or two, whoever takes them away."""
    node = lab.node("n1")
    link = node.exec(["ip", "-o", "route", "get", OUTSIDE[0]]).stdout.split(" dev ")[1].split()[0]

    def attached() -> int:
        shown = [node.exec(["tc", "filter", "show", "dev", link, side]).stdout for side in ("ingress", "egress")]
        return sum("uplink_" in text for text in shown)

    assert attached() == 2
    node.exec(["tc", "qdisc", "del", "dev", link, "clsact"])
    wait_for("the filters", lambda: attached() == 2, 10)
    assert _connect(lab, OUTSIDE[0], API_SERVER) == ""


def test_the_nodes_own_go_on(lab: Lab) -> None:
    """The kubelet still speaks to the API server, and nothing of it was dropped."""
    lab.kubectl("wait", "--for=condition=Ready", "node/n1", "node/n2", "--timeout=20s")
