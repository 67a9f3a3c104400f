"""Labs to measure in: two nodes, a server on each, a client on the first; everything of theirs kept off the measured CPU.

In: a name and settings. Out: places and addresses. The pods only hold their network namespaces: what runs in these is traffic.c.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bench.traffic import PORT, Place, Traffic, other_cpus
from pilus_cli.client import AskError, item
from pilus_lab import Lab, cgroups
from pilus_lab.lab import LabError
from pilus_lab.probe import network_namespace
from pilus_lab.spec import Cni, states

T = TypeVar("T")
NAMES = "bench"
PODS = {"client": "n1", "near": "n1", "far": "n2", "stranger": "n1"}


def wait(what: str, found: Callable[[], T | None], limit: float = 60.0, pause: float = 0.05) -> T:
    """Ask until something true comes back. Raises LabError after `limit` seconds."""
    until = time.monotonic() + limit
    while not (answer := found()):
        if time.monotonic() > until:
            raise LabError(f"{what}: not within {limit:.0f} s")
        time.sleep(pause)
    return answer


def pod(name: str, node: str, image: str = "pause:1", **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name, **labels}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
                 "containers": [{"name": "main", "image": f"lab.local/{image}", "imagePullPolicy": "Never"}]},
    }  # fmt: skip


def service(name: str) -> dict[str, Any]:
    """A ClusterIP for the ping-pong ports of the pod of this name."""
    ports = [{"name": f"p{offset}", "port": PORT + offset} for offset in range(4)]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}}


class Cluster:
    """A lab that is up, with its pods' places."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._namespaces: dict[str, int] = {}
        self._roots: dict[str, Path] = {}

    def close(self) -> None:
        for fd in self._namespaces.values():
            os.close(fd)
        self._namespaces.clear()

    def pods(self, traffic: Traffic) -> None:
        """Bring the pods of PODS up, serve in them, and put everything else on the other CPUs."""
        self.apply(*(pod(name, node) for name, node in PODS.items()), service("near"), service("far"))
        wait("the pods of the benchmark", self._running, 90)
        for name in ("near", "far"):
            traffic.serve(self.place(name))
        self.keep_off()

    def _running(self) -> bool:
        found = {one["metadata"]["name"]: one["status"] for one in self.lab.get("pods")}
        return all(found.get(name, {}).get("phase") == "Running" and found[name].get("podIP") for name in PODS)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.lab.apply("".join(f"---\n{_yaml(one)}" for one in objects))

    def place(self, name: str) -> Place:
        found = self.lab.get("pod", name)[0]
        if name not in self._namespaces:
            self._namespaces[name] = network_namespace(found["metadata"]["uid"])
        return Place(self._namespaces[name], self.lab.spec.cgroups, found["spec"]["nodeName"])

    def address(self, name: str) -> str:
        return str(self.lab.get("pod", name)[0]["status"]["podIP"])

    def cluster_address(self, name: str) -> str:
        return str(self.lab.get("service", name)[0]["spec"]["clusterIP"])

    def keep_off(self) -> None:
        """Every thread of the lab to the other CPUs; what they start inherits it. Traffic pins itself."""
        self._allow(other_cpus())

    def spread(self) -> None:
        """To all CPUs again, where no traffic is measured."""
        self._allow(os.sched_getaffinity(1))

    def _allow(self, cpus: set[int]) -> None:
        for process in cgroups.processes(self.lab.spec.cgroups) - {os.getpid()}:
            if _comm(process) == "traffic":
                continue
            for thread in _threads(process):
                try:
                    os.sched_setaffinity(thread, cpus)
                except OSError:
                    continue  # ended, or a kernel thread

    def process(self, node: str, component: str) -> int:
        """A component's pid, in our numbers."""
        own = set(cgroups.processes((f"{self.lab.spec.cgroups[0]}/{node}" if node != "control" else self.lab.spec.cgroups[0],)))
        for process in own:
            try:
                words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.endswith(f"/pilus-{component}".encode()) for word in words[:2]):
                return process
        raise LabError(f"no {component} runs on {node}")

    def root(self, node: str) -> Path:
        """A node's file system. Its first process is asked for once: it takes few callers at a time."""
        if node not in self._roots:
            self._roots[node] = Path("/proc") / str(self.lab.node(node).orders.first_process()) / "root"
        return self._roots[node]

    def ready(self, node: str) -> bool:
        """Whether the agent says that all is well."""
        try:
            held = item(self.root(node) / "run/pilus/agent.sock", {"get": "status"})
        except AskError:
            return False
        checks = held["checks"]
        return isinstance(checks, list) and all(isinstance(one, dict) and one.get("state") == "ok" for one in checks)


@contextmanager
def cluster(name: str, cni: Cni = "pilus", settings: dict[str, str] | None = None, nodes: int = 2) -> Iterator[Cluster]:
    """A lab of this name, up inside, and gone afterwards."""
    full = f"{NAMES}-{name}"
    remove(full)
    with Lab(full, nodes=nodes, cni=cni, settings=settings, say=lambda _: None) as lab:
        made = Cluster(lab)
        try:
            wait("the default service account", lambda: lab.get("serviceaccount", "default", check=False))
            yield made
        finally:
            made.close()


def remove(name: str) -> None:
    """A lab that an interrupted run has left."""
    if (states() / name / "lab.json").exists():
        Lab.existing(name).down()


def remove_all() -> None:
    """Every lab of the benchmark."""
    for path in states().glob(f"{NAMES}-*/lab.json"):
        remove(path.parent.name)


def _threads(process: int) -> list[int]:
    try:
        return [int(path.name) for path in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return []


def _comm(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""


def _yaml(held: dict[str, Any]) -> str:
    import json  # noqa: PLC0415

    return json.dumps(held) + "\n"
