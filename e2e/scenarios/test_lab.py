"""The lab is a cluster, several of them stand side by side, and none leaves a trace."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilus_lab import Lab, LabError, wait_for
from pilus_lab.spec import states

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: web}}
      containers:
      - name: web
        image: lab.local/agnhost:1
        imagePullPolicy: Never
        args: [netexec, --http-port=8080]
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
"""


def traces(name: str) -> list[str]:
    """Everything on this machine that bears a lab's name, or is in one of its folders."""
    found = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/pilus-lab-{name}")]
    found += [str(path) for path in states().glob(name)]
    found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"/labs/{name}/" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            groups, command = (process / "cgroup").read_text(), (process / "cmdline").read_text()
        except OSError:
            continue  # ended while we looked
        if f"pilus-lab-{name}" in groups or f"/labs/{name}/" in command:
            found.append(f"process {process.name} {command[:80]}")
    return found


@pytest.fixture
def machine() -> Iterator[None]:
    """What a lab must not change: machine-wide sysctls and the machine's own links."""

    def seen() -> dict[str, str]:
        sysctls = (
            "vm/overcommit_memory",
            "kernel/panic",
            "kernel/panic_on_oops",
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
        )
        links = " ".join(sorted(path.name for path in Path("/sys/class/net").iterdir()))
        return {name: Path("/proc/sys", name).read_text() for name in sysctls} | {"links": links}

    before = seen()
    yield
    assert seen() == before


def ready_addresses(lab: Lab) -> list[list[str]]:
    """The addresses of every ready web pod."""
    return [
        [address["ip"] for address in pod["status"]["podIPs"]]
        for pod in lab.get("pods", "-l", "app=web")
        if any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]


def test_pods_on_two_nodes_talk_and_down_leaves_nothing(machine: None) -> None:
    with Lab("t-ptp", nodes=2, cni="ptp") as lab:
        lab.apply(WEB)
        lab.wait("two pods ready", lambda: len(ready_addresses(lab)) == 2, 60)
        pods = lab.get("pods", "-l", "app=web")
        assert {pod["spec"]["nodeName"] for pod in pods} == {"n1", "n2"}
        first, second = pods
        for address in (a["ip"] for a in second["status"]["podIPs"]):
            target = f"[{address}]:8080" if ":" in address else f"{address}:8080"
            lab.pod_exec(first["metadata"]["name"], "/agnhost", "connect", target, "--timeout=3s")
    wait_for("nothing is left", lambda: traces("t-ptp") == [], 10)


def test_two_labs_with_the_same_addresses_stand_side_by_side() -> None:
    with Lab("t-one", nodes=0, cni="ptp") as one, Lab("t-two", nodes=0, cni="ptp") as two:
        one.kubectl("create", "namespace", "only-in-one")
        assert one.get("namespace", "only-in-one")
        assert not two.get("namespace", "only-in-one", check=False)
        one.down()
        assert two.get("namespaces")
    wait_for("nothing is left", lambda: traces("t-one") + traces("t-two") == [], 10)


def test_a_lab_that_is_in_use_is_not_taken_down_by_who_wants_its_name() -> None:
    with Lab("t-held", nodes=0, cni="ptp") as one:
        with pytest.raises(LabError, match="is up"), Lab("t-held", nodes=0, cni="ptp"):
            pass
        assert one.get("namespaces")
    wait_for("nothing is left", lambda: traces("t-held") == [], 10)
    started = [sys.executable, "-m", "pilus_lab", "up", "--name", "t-held", "--nodes", "0", "--cni", "ptp"]
    subprocess.run(started, check=True, capture_output=True)
    with pytest.raises(LabError, match="is up"), Lab("t-held", nodes=0, cni="ptp"):
        pass
    Lab.existing("t-held").down()
    wait_for("nothing is left", lambda: traces("t-held") == [], 10)


def test_a_lab_whose_test_was_killed_is_made_anew() -> None:
    inside = "from pilus_lab import Lab\nwith Lab('t-left', nodes=0, cni='ptp'): print('inside', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", inside], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"inside\n"
        process.kill()
    assert traces("t-left")
    with Lab("t-left", nodes=0, cni="ptp") as lab:
        assert lab.get("namespaces")
    wait_for("nothing is left", lambda: traces("t-left") == [], 10)


@pytest.mark.parametrize("reached", ["lab.json", "control.sock", "n1.sock", "nodes/n1/containerd.toml", "logs/n1-kubelet.log"])
def test_a_lab_interrupted_on_its_way_up_is_taken_down_without_a_trace(machine: None, reached: str) -> None:
    up = [sys.executable, "-m", "pilus_lab", "up", "--name", "t-cut", "--nodes", "1", "--cni", "ptp"]
    process = subprocess.Popen(up, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not (states() / "t-cut" / reached).exists() and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it was interrupted"
            time.sleep(0.001)
        assert (states() / "t-cut" / reached).exists()
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(10)
        subprocess.run([sys.executable, "-m", "pilus_lab", "down", "--name", "t-cut"], check=True, timeout=60)
    wait_for("nothing is left", lambda: traces("t-cut") == [], 10)


def test_a_second_up_of_the_same_lab_is_refused_and_says_what_to_do() -> None:
    with Lab("t-again", nodes=0, cni="ptp"):
        again = subprocess.run(
            [sys.executable, "-m", "pilus_lab", "up", "--name", "t-again", "--nodes", "0"],
            capture_output=True,
            text=True,
            check=False,
        )
    assert again.returncode == 1
    assert "pilus lab down --name t-again" in again.stderr
