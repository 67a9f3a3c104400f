"""Policies about nodes by the labels of their Node objects: they mean a node's own stack, and never a pod on it, v4 and v6.

And rules by address that mean other nodes too.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilus_lab import Lab, wait_for
from pilus_lab.probe import Probe, Prober

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

PORT, NODE_PORT, KUBELET = 8080, 9080, 10250
PODS = {"web": ("n1", PORT), "client": ("n1", PORT), "there": ("n2", PORT), "node": ("n2", NODE_PORT)}  # `node`: in its network
SETTINGS = {"enable-node-selector-labels": "true", "policy-cidr-match-mode": "nodes"}
BLUE = {"matchLabels": {"rack": "blue"}}
ADDRESSES = {"n2": ("172.30.0.12", "fd00:30::12"), "n1": ("172.30.0.11", "fd00:30::11")}
ALL_PODS = ["10.44.0.0/16", "fd00:44::/48"]


def manifest(name: str) -> dict[str, Any]:
    """Every pod bears the label that a node may bear."""
    node, port = PODS[name]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name, "rack": "blue"}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0, "hostNetwork": name == "node",
            "containers": [{
                "name": "main", "image": "lab.local/agnhost:1", "imagePullPolicy": "Never",
                "args": ["netexec", f"--http-port={port}", f"--udp-port={port}"],
            }],
        },
    }  # fmt: skip


def policy(subject: str, **rules: Any) -> str:
    spec = {"endpointSelector": {"matchLabels": {"app": subject}}, **rules}
    return yaml.safe_dump(
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": subject, "namespace": "default"},
            "spec": spec,
        }
    )


@dataclass
class World:
    lab: Lab
    prober: Prober
    web: list[str]

    def reached(self, source: str, addresses: list[str] | tuple[str, ...], port: int) -> bool:
        """Whether every address answers; asserts that families agree."""
        found = self.prober.table([Probe(f"default/{source}", address, port) for address in addresses], limit=0.7)
        assert len(found) == 2
        assert len(set(found.values())) == 1, f"IPv4 and IPv6 differ: {found}"
        return all(found.values())

    def until(self, source: str, addresses: list[str] | tuple[str, ...], port: int, reached: bool) -> None:
        """A change comes to one family a moment before the other."""

        def settled() -> bool:
            found = self.prober.table([Probe(f"default/{source}", address, port) for address in addresses], limit=0.7)
            return set(found.values()) == {reached}

        wait_for(f"{source} {'to reach' if reached else 'not to reach'} {addresses}", settled, 20)

    def label(self, node: str, rack: str) -> None:
        self.lab.kubectl("label", "node", node, "--overwrite", f"rack={rack}")

    def in_force(self, policy: str) -> bool:
        """Every node enforces it, and none misses anything of it."""
        (held,) = self.lab.get("ciliumnetworkpolicies", policy)
        status = held.get("status") or {}
        missing = [one for one in status.get("conditions") or [] if one["type"] == "InForce" and one["status"] == "False"]
        return status.get("enforced") == "2/2" and not missing

    def pilus(self, *arguments: str) -> Any:
        """None while there is no agent that could answer."""
        done = self.lab.node("n1").exec([str(Path(sys.executable).with_name("pilus")), "-o", "json", *arguments], check=False)
        return json.loads(done.stdout) if done.stdout else None


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with Lab("nodes", nodes=2, cni="pilus", settings=SETTINGS, without=("observer",)) as lab:
        lab.apply("\n---\n".join(yaml.safe_dump(manifest(name)) for name in PODS))
        lab.kubectl("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
        web = [held["ip"] for held in lab.get("pod", "web")[0]["status"]["podIPs"]]
        with Prober(lab) as prober:
            yield World(lab, prober, web)


@pytest.fixture(autouse=True)
def _clean(world: World) -> Iterator[None]:
    yield
    world.lab.kubectl("delete", "ciliumnetworkpolicies", "--all", "--wait=true")
    for node in ("n1", "n2"):
        world.lab.kubectl("label", "node", node, "rack-")
    for source in ("there", "node", "client"):
        world.until(source, world.web, PORT, True)


def test_a_node_is_let_in_by_its_label(world: World) -> None:
    """And is out again when its label is another; a pod on it that bears the same label is out all the while."""
    world.lab.apply(policy("web", ingress=[{"fromNodes": [BLUE]}]))
    world.until("there", world.web, PORT, False)
    world.until("node", world.web, PORT, False)
    for rack, reached in (("blue", True), ("red", False), ("blue", True)):
        world.label("n2", rack)
        world.until("node", world.web, PORT, reached)
        assert not world.reached("there", world.web, PORT), "a pod on the node is not the node (CVE-2025-30163)"
        assert not world.reached("client", world.web, PORT)
    wait_for("it to be said to be in force", lambda: world.in_force("web"), 20)


def test_a_node_is_kept_out_by_its_label(world: World) -> None:
    world.lab.apply(policy("web", ingress=[{"fromEntities": ["all"]}], ingressDeny=[{"fromNodes": [BLUE]}]))
    world.label("n2", "blue")
    world.until("node", world.web, PORT, False)
    assert world.reached("there", world.web, PORT)
    assert world.reached("client", world.web, PORT)
    world.label("n2", "red")
    world.until("node", world.web, PORT, True)


def test_a_pod_asks_a_node_by_its_label(world: World) -> None:
    """Another node; never its own, as in Cilium, nor a pod that bears the label. `pilus why` says the same."""
    own = Probe("default/client", ADDRESSES["n1"][0], KUBELET)
    world.label("n1", "blue")
    world.lab.apply(policy("client", egress=[{"toNodes": [BLUE]}]))
    world.until("client", ADDRESSES["n2"], NODE_PORT, False)
    for rack, reached in (("blue", True), ("red", False), ("blue", True)):
        world.label("n2", rack)
        world.until("client", ADDRESSES["n2"], NODE_PORT, reached)
        assert not world.reached("client", world.web, PORT)
        assert not world.prober.reaches(own)
        for address in ADDRESSES["n2"]:
            way = world.pilus("why", "default/client", f"{_host(address)}:{NODE_PORT}/TCP")["ways"][0]
            assert way["allowed"] == reached
            assert f"node:rack={rack}" in way["destination"]["labels"]


def test_an_address_rule_means_another_node(world: World) -> None:
    """Not this one, and no pod: neither where it is asked nor where it asks."""
    nodes = ["172.30.0.0/24", "fd00:30::/64"]
    world.lab.apply(policy("client", egress=[{"toCIDR": [*nodes, *ALL_PODS]}]))
    world.until("client", world.web, PORT, False)
    world.until("client", ADDRESSES["n2"], NODE_PORT, True)
    assert not world.prober.reaches(Probe("default/client", ADDRESSES["n1"][0], KUBELET))
    world.lab.apply(policy("web", ingress=[{"fromCIDR": ALL_PODS}]))
    world.until("there", world.web, PORT, False)
    world.until("node", world.web, PORT, True)  # by its router's address, which is one of its pod range
    world.lab.apply(policy("web", ingress=[{"fromCIDR": nodes}]))
    world.until("node", world.web, PORT, False)


def test_an_agent_that_starts_anew_calls_nodes_the_same(world: World) -> None:
    world.lab.apply(policy("web", ingress=[{"fromNodes": [BLUE]}]))
    world.label("n2", "blue")
    world.until("node", world.web, PORT, True)
    world.until("there", world.web, PORT, False)

    def numbers() -> dict[str, int]:
        return {one["prefix"]: one["identity"] for one in world.pilus("ipcache", "list") or () if one["identity"] >> 24}

    before = numbers()
    assert len(before) == 4, "addresses and routers of the other node, of both families"
    world.lab.node("n1").stop("agent")
    assert world.reached("node", world.web, PORT)
    assert not world.reached("there", world.web, PORT)
    world.lab.start_agent("n1")
    wait_for("the new agent", lambda: numbers() == before, 20)
    world.until("node", world.web, PORT, True)
    assert not world.reached("there", world.web, PORT)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
