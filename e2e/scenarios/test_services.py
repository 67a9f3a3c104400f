"""A Service's address works in pods, TCP and UDP, v4 and v6, and policy sees who is behind it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilus_lab import Lab, wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

EXAMPLE = Path(__file__).parents[2] / "manifests" / "examples" / "demo"
MORE = """
apiVersion: v1
kind: Service
metadata: {name: web-udp}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: udp, port: 53, targetPort: 8081, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab("services", nodes=2, cni="pilus", without=("observer",)) as made:
        made.apply((EXAMPLE / "application.yaml").read_text())
        made.apply(MORE)
        made.kubectl("rollout", "status", "deployment/web", "deployment/client", "--timeout=60s")
        made.kubectl("wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s")
        yield made


def addresses(lab: Lab, name: str) -> list[str]:
    found: list[str] = lab.get("service", name)[0]["spec"]["clusterIPs"]
    return found


def clients(lab: Lab) -> list[str]:
    return [one["metadata"]["name"] for one in lab.get("pods", "--selector=app=client")]


def connect(lab: Lab, pod: str, address: str, port: int) -> str:
    """What agnhost said; "" if the connection came about."""
    host = f"[{address}]" if ":" in address else address
    done = lab.pod_exec(pod, "/agnhost", "connect", f"{host}:{port}", "--timeout=2s", check=False)
    return "" if done.returncode == 0 else done.stderr


def test_a_service_is_reached_from_every_node(lab: Lab) -> None:
    found = addresses(lab, "web")
    assert len(found) == 2, "one address of each family"
    for pod in clients(lab):
        for address in found:
            wait_for(f"{pod} to reach {address}", lambda pod=pod, address=address: connect(lab, pod, address, 80) == "", 20)  # type: ignore[misc]


def test_datagrams_too(lab: Lab) -> None:
    for address in addresses(lab, "web-udp"):
        host = f"[{address}]" if ":" in address else address

        def answered(host: str = host) -> bool:
            done = lab.pod_exec(clients(lab)[0], "/agnhost", "connect", "--protocol=udp", f"{host}:53", "--timeout=2s", check=False)
            return done.returncode == 0

        wait_for(f"an answer from {host}", answered, 20)


def test_a_service_without_backends_refuses_at_once(lab: Lab) -> None:
    wait_for("a refusal", lambda: "REFUSED" in connect(lab, clients(lab)[0], addresses(lab, "nobody")[0], 80), 20)


def test_a_port_that_the_service_does_not_have_is_refused(lab: Lab) -> None:
    assert "REFUSED" in connect(lab, clients(lab)[0], addresses(lab, "web")[0], 81)


def test_policy_sees_who_is_behind_a_service(lab: Lab) -> None:
    lab.apply((EXAMPLE / "policy.yaml").read_text())

    def enforced() -> bool:
        status = lab.get("ciliumnetworkpolicies", "web")[0].get("status") or {}
        return status.get("enforced") == "2/2"

    wait_for("the policy", enforced, 20)
    address = addresses(lab, "web")[0]
    assert connect(lab, clients(lab)[0], address, 80) == ""
    assert "TIMEOUT" in connect(lab, "stranger", address, 80)


def test_the_node_shows_its_services(lab: Lab) -> None:
    pilus = str(Path(sys.executable).with_name("pilus"))
    shown = json.loads(lab.node("n1").exec([pilus, "-o", "json", "service", "list"]).stdout)
    web = next(one for one in shown if one["name"] == "web")
    assert {one["address"] for one in web["frontends"]} == set(addresses(lab, "web"))
    assert len({one["address"] for one in web["backends"]}) == 4, "two pods, each with an address of each family"
