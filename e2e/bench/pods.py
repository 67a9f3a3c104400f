"""How long a pod's network takes: CNI ADD one at a time, as the runtime calls it; and 50 pods at once on one node.

In: a lab with Pilus and one with ptp, portmap and kube-proxy, in turn. Out: milliseconds and seconds, the peer's as baseline.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from bench.bench import Bench
from bench.clusters import Cluster, cluster, pod, wait
from bench.figure import Figure, Samples, measured
from pilus_lab.lab import LabError

MEDIAN_GOAL, MOST_GOAL = 20.0, 100.0  # ms
TOGETHER_GOAL = 13.0  # s
TOGETHER = 50


def _one_family(plugin: dict[str, Any]) -> dict[str, Any]:
    """The peer's plugins wait 2 s for an IPv6 address to be found unique, which would hide all else: IPv4 alone, for these."""
    ipam = plugin.get("ipam")
    if not ipam:
        return plugin
    only = {"ranges": [held for held in ipam["ranges"] if ":" not in held[0]["subnet"]],
            "routes": [route for route in ipam["routes"] if ":" not in route["dst"]]}  # fmt: skip
    return {**plugin, "ipam": {**ipam, **only}}


class Runtime:
    """Calls a node's CNI plugins as containerd does, for pods that the API server knows and no kubelet starts."""

    def __init__(self, made: Cluster) -> None:
        self._node = made.lab.node("n1")
        listed = sorted((made.root("n1") / "etc/cni/net.d").glob("*.conflist"))
        held = json.loads(listed[0].read_text())
        self._plugins: list[dict[str, Any]] = [
            {**plugin, "cniVersion": held["cniVersion"], "name": held["name"], "runtimeConfig": {"portMappings": []}}
            if plugin.get("capabilities") else {**plugin, "cniVersion": held["cniVersion"], "name": held["name"]}
            for plugin in map(_one_family, held["plugins"])
        ]  # fmt: skip

    def namespace(self, name: str) -> str:
        """A network namespace at a path of the node, as runtimes make them."""
        self._node.exec(["ip", "netns", "add", name])
        return f"/run/netns/{name}"

    def forget(self, name: str) -> None:
        self._node.exec(["ip", "netns", "del", name], check=False)

    def call(self, command: str, name: str, uid: str, path: str) -> float:
        """All plugins of the list, one after the other. Milliseconds, of the plugins' processes alone. Raises LabError."""
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "CNI_COMMAND": command, "CNI_CONTAINERID": f"bench{uid}", "CNI_NETNS": path,
            "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name};K8S_POD_UID={uid}",
        }  # fmt: skip
        before: dict[str, Any] | None = None
        taken = 0.0
        for plugin in self._plugins if command == "ADD" else reversed(self._plugins):
            config = json.dumps({**plugin, **({"prevResult": before} if before else {})})
            words = [*self._node.entry(), "env", "-i", *(f"{key}={value}" for key, value in env.items()),
                     "/usr/bin/python3", "-c", _TIMED, f"/opt/cni/bin/{plugin['type']}"]  # fmt: skip
            done = subprocess.run(words, input=config, capture_output=True, text=True, check=False, timeout=60)
            answer = json.loads(done.stdout)
            if answer["status"]:
                raise LabError(f"CNI {command} by {plugin['type']}: {answer['out']} {answer['error']}")
            taken += answer["ms"]
            before = json.loads(answer["out"]) if answer["out"].strip() else before
        return taken


# Inside the node: what a runtime does, with two readings of the clock about it.
_TIMED = """
import json, subprocess, sys, time
config = sys.stdin.buffer.read()
began = time.perf_counter()
done = subprocess.run([sys.argv[1]], input=config, capture_output=True)
taken = time.perf_counter() - began
print(json.dumps({"ms": taken * 1000, "status": done.returncode, "out": done.stdout.decode(), "error": done.stderr.decode()}))
"""


def together(made: Cluster, number: int) -> float:
    """Seconds from the request to 50 pods Running on the first node. They are deleted again."""
    names = [f"crowd-{number}-{each}" for each in range(TOGETHER)]
    objects = [pod(name, "n1", crowd=str(number)) for name in names]
    began = time.monotonic()
    made.apply(*objects)

    def running() -> bool:
        found = made.lab.get("pods", f"--selector=crowd={number}")
        return [one["status"].get("phase") for one in found] == ["Running"] * TOGETHER

    wait("50 pods to run", running, 240, 0.2)
    taken = time.monotonic() - began
    made.lab.kubectl("delete", "pods", f"--selector=crowd={number}", "--grace-period=0", "--wait=true", timeout=180)
    return taken


def one_by_one(made: Cluster, count: int) -> list[float]:
    """Milliseconds of each ADD. The kubelet of the first node is away meanwhile: it would make these pods itself."""
    node = made.lab.node("n1")
    node.stop("kubelet")
    names = [f"single-{number}" for number in range(count)]
    made.apply(*(pod(name, "n1", single="yes") for name in names))
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in made.lab.get("pods", "--selector=single=yes")}
    time.sleep(1.0)  # the operator allocates their identities; in life a pod is scheduled and its images are looked at meanwhile
    runtime, taken = Runtime(made), []
    for name in names:
        path = runtime.namespace(name)
        taken.append(runtime.call("ADD", name, uids[name], path))
        runtime.call("DEL", name, uids[name], path)
        runtime.forget(name)
    made.lab.kubectl("delete", "pods", "--selector=single=yes", "--grace-period=0", "--force", "--wait=false")
    return taken


def measure(bench: Bench) -> Iterator[Figure]:
    with cluster("pods", nodes=1) as ours, cluster("pods-ptp", cni="ptp", nodes=1) as peer:
        bench.say("two clusters of one node, for pods")
        crowds: dict[str, list[float]] = {"ours": [], "peer": []}
        for number in range(bench.rounds(3, 1)):
            for name, made in (("ours", ours), ("peer", peer)):
                crowds[name].append(together(made, number))
                bench.say(f"50 pods at once, {name}: {crowds[name][-1]:.1f} s")
        yield measured("50 pods at once on one node, all Running", "s", Samples.of(crowds["ours"]), goal=TOGETHER_GOAL,
                       judged="value", baseline=Samples.of(crowds["peer"]).median, of="ptp, portmap and kube-proxy")  # fmt: skip
        count = bench.rounds(50, 20)
        bench.say(f"CNI ADD, {count} times one after the other")
        own, other = Samples.of(one_by_one(ours, count)), Samples.of(one_by_one(peer, count))
        for what, value, beside, goal in (
            ("p50", own.median, other.median, MEDIAN_GOAL),
            ("most", own.most, other.most, MOST_GOAL),
        ):
            yield Figure(f"CNI ADD, one at a time, {what} of {count}", "ms", value, spread=own.spread, goal=goal, judged="value",
                         baseline=beside, of="ptp and portmap, IPv4 alone")  # fmt: skip
