"""Round trips, connections and streams between pods, beside what else there is, all systems in turn; and eBPF's part of them.

In: labs with Pilus (tunnel and native routing) and with ptp and kube-proxy, and bare namespaces. Out: medians of rounds, over
loopback's of the same run. Client and server share the last CPU, everything else is on the others.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from bench.bench import Bench
from bench.clusters import Cluster, cluster, wait
from bench.figure import Figure, Samples, apart, measured
from bench.kernel import Pinned, Ran, compared, counting_run_times, nothing_ns
from bench.topologies import bare
from bench.traffic import CONNECTIONS, ROUNDS, SINK, Place, Traffic, compile_program

NATIVE = {"routing-mode": "native", "auto-direct-node-routes": "true"}
_TRIP, _CONNECT, _CLUSTER, _STREAM = (
    "request/response",
    "connect/request/response",
    "the same through a ClusterIP",
    "one TCP stream",
)
# Over loopback's of the same run; a stream's is 17 (11) of the 18.5 Gb/s that loopback had where the goals were set.
GOALS = {
    ("Pilus, same node", _TRIP): 1.15, ("Pilus, other node, tunnel", _TRIP): 1.95, ("Pilus, other node, native", _TRIP): 1.6,
    ("Pilus, same node", _CONNECT): 1.2, ("Pilus, other node, tunnel", _CONNECT): 2.0,
    ("Pilus, same node", _CLUSTER): 1.2, ("Pilus, other node, tunnel", _CLUSTER): 2.0,
    ("Pilus, same node", _STREAM): 17 / 18.5, ("Pilus, other node, tunnel", _STREAM): 11 / 18.5,
}  # fmt: skip
# ns of eBPF, as multiples of the 75 ns that an empty program read where the goals were set.
EMPTY = 75.0
BPF_GOALS = {
    ("same node", _TRIP): 700 / EMPTY, ("other node", _TRIP): 2400 / EMPTY,
    ("same node", _CONNECT): 6000 / EMPTY, ("other node", _CONNECT): 14000 / EMPTY,
}  # fmt: skip
HOOK_GOALS = {"no service": 200 / EMPTY, "a service": 1000 / EMPTY}
SAME = 0.03  # "no difference" with a policy: as weathers
POLICY = {
    "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "clients"},
    "spec": {"endpointSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["near", "far"]}]},
             "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "client"}}],
                          "toPorts": [{"ports": [{"port": "7000", "endPort": 7003, "protocol": "TCP"}]}]}]},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Path:
    """From a client to a server. `service`: the server's ClusterIP, "" if there is none."""

    name: str
    client: Place
    address: str
    service: str = ""


def paths_of(name: str, made: Cluster, suffix: str = "") -> list[Path]:
    client = made.place("client")
    return [
        Path(f"{name}, same node", client, made.address("near"), made.cluster_address("near")),
        Path(f"{name}, other node{suffix}", client, made.address("far"), made.cluster_address("far")),
    ]


def measure(bench: Bench) -> Iterator[Figure]:
    program = compile_program(bench.folder)
    with ExitStack() as stack:
        against = stack.enter_context(compared())
        traffic = stack.enter_context(Traffic(program))
        paths = [Path(way.name, way.client, way.address) for way in stack.enter_context(bare(traffic, against)).values()]
        bench.say("three clusters: Pilus with a tunnel, Pilus with native routing, ptp with kube-proxy")
        ours = stack.enter_context(cluster("tunnel"))
        native = stack.enter_context(cluster("native", settings=NATIVE))
        peer = stack.enter_context(cluster("ptp", cni="ptp"))
        for made in (ours, native, peer):
            made.pods(traffic)
        paths += [
            *paths_of("Pilus", ours, ", tunnel"),
            paths_of("Pilus", native, ", native")[1],
            *paths_of("ptp and kube-proxy", peer),
        ]
        yield from trips(bench, traffic, paths)
        yield from programs(bench, traffic, ours, nothing=lambda: nothing_ns(against))


def trips(bench: Bench, traffic: Traffic, paths: list[Path]) -> Iterator[Figure]:
    rounds, seconds = bench.rounds(10), 0.3 if bench.quick else 0.5
    found: dict[tuple[str, str], list[float]] = {}

    def keep(path: Path, what: str, value: float) -> None:
        found.setdefault((path.name, what), []).append(value)

    for number in range(rounds):
        bench.say(f"round trips, round {number + 1} of {rounds}")
        for path in (*paths[number % len(paths) :], *paths[: number % len(paths)]):
            keep(path, _TRIP, traffic.run(path.client, "rr", path.address, ROUNDS, seconds)["p50"] / 1000)
            keep(path, _CONNECT, traffic.run(path.client, "crr", path.address, CONNECTIONS, seconds)["p50"] / 1000)
            if path.service:
                keep(path, _CLUSTER, traffic.run(path.client, "crr", path.service, CONNECTIONS, seconds)["p50"] / 1000)
            stream = traffic.run(path.client, "stream", path.address, SINK, seconds)
            keep(path, _STREAM, stream["bytes"] * 8 / stream["seconds"] / 1e9)
    for what in (_TRIP, _CONNECT, _CLUSTER, _STREAM):
        base = Samples.of(found["loopback", _CONNECT if what == _CLUSTER else what]).median
        for path in paths:
            if (path.name, what) not in found:
                continue
            unit, sense = ("Gb/s", "at least") if what == _STREAM else ("us p50", "at most")
            yield measured(f"{what}: {path.name}", unit, Samples.of(found[path.name, what]), baseline=base, of="loopback",
                           goal=GOALS.get((path.name, what)), sense=sense)  # fmt: skip


class Counted:
    """What the programs of both nodes of a cluster ran."""

    def __init__(self, nodes: list[Pinned]) -> None:
        self._nodes = nodes

    def ran(self, *names: str) -> Ran:
        held = [node.ran(*names) for node in self._nodes]
        return Ran(sum(one.nanoseconds for one in held), sum(one.runs for one in held))


def programs(bench: Bench, traffic: Traffic, made: Cluster, nothing: Callable[[], float]) -> Iterator[Figure]:
    """eBPF's time, both nodes: without a policy and with one that allows, in turn; and the connect hook's."""
    client = made.place("client")
    where = {"same node": "near", "other node": "far"}
    addresses = {name: made.address(pod) for name, pod in where.items()}
    service = made.cluster_address("near")
    spent: dict[tuple[str, str, bool], list[float]] = {}
    hook: dict[str, list[float]] = {}
    empty: list[float] = []
    with ExitStack() as stack:
        nodes = [stack.enter_context(Pinned(int(made.root(node).parent.name))) for node in ("n1", "n2")]
        counted = Counted(nodes)
        for number in range(bench.rounds(5)):
            bench.say(f"eBPF's part, round {number + 1} of {bench.rounds(5)}")
            for policy in (False, True):
                _switch(made, policy)
                with counting_run_times():
                    empty.append(nothing())
                    for name, address in addresses.items():
                        for what, mode, kind in ((_TRIP, "rr", ROUNDS), (_CONNECT, "crr", CONNECTIONS)):
                            before = counted.ran()
                            done = traffic.run(client, mode, address, kind, 0.4)["count"]
                            spent.setdefault((name, what, policy), []).append(counted.ran().since(before).nanoseconds / done)
                    for name, address in (("no service", addresses["same node"]), ("a service", service)):
                        before = counted.ran("socket_connect4")
                        traffic.run(client, "crr", address, CONNECTIONS, 0.3)
                        done_hook = counted.ran("socket_connect4").since(before)
                        hook.setdefault(name, []).append(done_hook.nanoseconds / max(done_hook.runs, 1))
        _switch(made, False)
    base = Samples.of(empty)
    yield measured("empty program, run times counted", "ns", base)
    for (name, what, policy), values in spent.items():
        if policy:
            continue
        found, ruled = Samples.of(values), Samples.of(spent[name, what, True])
        yield measured(f"eBPF time of one {what}, {name}", "ns", found, baseline=base.median, of="empty program",
                       goal=BPF_GOALS[name, what])  # fmt: skip
        title = f"eBPF time of one {what}, {name}, with an allowing policy"
        yield apart(title, "ns", ruled, found, "quiet", SAME, of="without a policy")
    for name, values in hook.items():
        yield measured(f"connect hook, {name}", "ns", Samples.of(values), baseline=base.median, of="empty program",
                       goal=HOOK_GOALS[name])  # fmt: skip


def _switch(made: Cluster, policy: bool) -> None:
    if policy:
        made.apply(POLICY)
        wait("the policy to be enforced", lambda: _enforced(made), 30)
    else:
        made.lab.kubectl("delete", "ciliumnetworkpolicies", "--all", "--wait=true")
        wait("the policy to go", lambda: not made.lab.get("ciliumnetworkpolicies"), 30)


def _enforced(made: Cluster) -> bool:
    return any((one.get("status") or {}).get("enforced") == "2/2" for one in made.lab.get("ciliumnetworkpolicies"))
