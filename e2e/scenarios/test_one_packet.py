"""Pods on two nodes reach each other through our programs, v4 and v6, with nothing but the agents: objects written by hand."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pilus_lab import Lab, byhand, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


def pod(name: str, node: str, *, app: str, serve: bool = False) -> str:
    arguments = "[netexec, --http-port=8080]" if serve else "[pause]"
    probe = "readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}" if serve else ""
    return f"""
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: lab.local/agnhost:1
    imagePullPolicy: Never
    args: {arguments}
    {probe}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("packet", nodes=2, cni="pilus", without=("operator", "agent", "observer")) as made:
        made.apply(byhand.nodes() + byhand.identity(1001, "web") + byhand.identity(1002, "client"))
        for node in ("n1", "n2"):
            made.start_agent(node)
        made.apply(
            pod("web1", "n1", app="web", serve=True) + pod("web2", "n2", app="web", serve=True) + pod("client", "n1", app="client")
        )
        wait_for("three ready pods", lambda: len(ready(made)) == 3, 60)
        yield made


def ready(lab: Lab) -> list[dict[str, Any]]:
    pods = json.loads(lab.kubectl("get", "pods", "-o", "json").stdout)["items"]
    return [
        one for one in pods
        if any(held["type"] == "Ready" and held["status"] == "True" for held in one["status"].get("conditions", []))
    ]  # fmt: skip


def addresses(lab: Lab, name: str) -> list[str]:
    return [held["ip"] for held in lab.get("pod", name)[0]["status"]["podIPs"]]


def connect(lab: Lab, pod_name: str, address: str, port: int = 8080) -> str:
    """ "" if a TCP connection came about; else what agnhost said."""
    host = f"[{address}]" if ":" in address else address
    done = lab.kubectl("exec", pod_name, "--", "/agnhost", "connect", f"{host}:{port}", "--timeout=3s", check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout)


def agent(lab: Lab, node: str, noun: str) -> list[dict[str, Any]]:
    done = lab.node(node).exec([str(Path(sys.executable).with_name("pilus")), noun, "list", "-o", "json"])
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("server", ["web1", "web2"], ids=["same node", "other node"])
def test_a_pod_reaches_a_pod(lab: Lab, server: str) -> None:
    found = addresses(lab, server)
    assert len(found) == 2
    for address in found:
        assert connect(lab, "client", address) == ""


def test_every_endpoint_has_the_identity_that_was_written(lab: Lab) -> None:
    held = {one["name"]: one["identity"] for node in ("n1", "n2") for one in agent(lab, node, "endpoint")}
    assert held == {"web1": 1001, "web2": 1001, "client": 1002}

    def told() -> dict[str, int]:
        states = lab.get("ciliumendpoints")
        return {one["metadata"]["name"]: one["status"].get("identity", {}).get("id", 0) for one in states}

    wait_for("the API server to be told", lambda: told() == held, 60)


def test_a_pod_that_ends_gives_everything_back(lab: Lab) -> None:
    lab.apply(pod("passing", "n1", app="client"))
    wait_for("the pod", lambda: any(one["metadata"]["name"] == "passing" for one in ready(lab)), 30)
    lab.kubectl("delete", "pod", "passing", "--wait=true")

    def gone() -> bool:
        links = lab.node("n1").exec(["ip", "-o", "link"]).stdout.count(": plx")
        return links == 2 and all(one["name"] != "passing" for one in agent(lab, "n1", "endpoint"))

    wait_for("its endpoint and link to go", gone, 20)


def test_without_an_agent_what_runs_goes_on_and_nothing_new_starts(lab: Lab) -> None:
    lab.node("n1").stop("agent")
    for server in ("web1", "web2"):
        assert connect(lab, "client", addresses(lab, server)[0]) == ""
    lab.apply(pod("late", "n1", app="client"))

    # Which of the two is met, the kubelet's clock says: it asks for the plugin's STATUS every five seconds, and after a refusal
    # does not come to ADD.
    away = "the Pilus agent of this node does not answer"
    refusals = {"FailedCreatePodSandBox": f"{away}: try again later", "NetworkNotReady": away}

    def refused() -> bool:
        events = lab.get("events", "--field-selector=involvedObject.name=late")
        return any(one["reason"] in refusals and refusals[one["reason"]] in one["message"] for one in events)

    wait_for("the runtime to be told that nobody answers", refused, 30)
    assert [one["status"].get("podIPs") for one in lab.get("pod", "late")] == [None]
    lab.start_agent("n1")
    wait_for("the pod to start after all", lambda: any(one["metadata"]["name"] == "late" for one in ready(lab)), 60)
    assert connect(lab, "late", addresses(lab, "web2")[0]) == ""
    lab.kubectl("delete", "pod", "late", "--wait=true")
