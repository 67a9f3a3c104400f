"""Weathers: what else goes on while packets are measured.

quiet: nothing. churn: 40 pods a second come and go elsewhere in the cluster, told to agents as the operator tells it
(CiliumIdentity, CiliumEndpointSlice), while policies select them; how many there were is counted, since the API server may be
slower than that. flood: a pod sends 10,000 datagrams a second that policy denies, each of a new tuple.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from ipaddress import IPv4Network, ip_network
from threading import Event

from bench.api import Api
from bench.clusters import Cluster
from bench.figure import Weather
from bench.traffic import Traffic, other_cpus
from pilus_api.connection import Connection, NotFound, Object

PODS_A_SECOND = 40
FLOOD_RATE = 10_000
_TURNS = 2  # writes of the slice a second: the operator coalesces to half a second
_LIFE = 4  # turns that a pod stays
_STEADY = 30.0  # s that it may take until pods go as well as come
_APPS = 20
_FIRST = 40_000  # identities
_NEW_IDENTITIES = 2  # a turn: most pods come back with the labels of others
_SLICES = "/apis/cilium.io/v2alpha1/ciliumendpointslices"
_IDENTITIES = "/apis/cilium.io/v2/ciliumidentities"
_FLOOD_PORT = 20_000

# The servers accept the client, and what comes and goes; never `stranger`, whom the flood comes from.
POLICIES: tuple[Object, ...] = tuple(
    {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": f"churn-{number}"},
        "spec": {"endpointSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["near", "far"]}]},
                 "ingress": [{"fromEndpoints": [{"matchLabels": {"app": f"churn-{number}"}}, {"matchLabels": {"app": "client"}}]}]},
    }
    for number in range(_APPS)
)  # fmt: skip


def identity(number: int) -> Object:
    labels = {"k8s:app": f"churn-{number % _APPS}", "k8s:version": f"v{number}",
              "k8s:io.kubernetes.pod.namespace": "default", "k8s:io.cilium.k8s.policy.cluster": "default",
              "k8s:io.cilium.k8s.policy.serviceaccount": "default",
              "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "default"}  # fmt: skip
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumIdentity", "metadata": {"name": str(_FIRST + number)},
            "security-labels": labels}  # fmt: skip


def slice_of(name: str, pods: list[tuple[int, int]], range_: IPv4Network, node: str) -> Object:
    """`pods`: (number, identity). Addresses are the last of the node's range, over and over."""
    endpoints = [{"name": f"churn-{number}", "id": _FIRST + held,
                  "networking": {"addressing": [{"ipv4": str(range_[120 + number % 120])}], "node": node}}
                 for number, held in pods]  # fmt: skip
    return {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumEndpointSlice", "namespace": "default",
            "metadata": {"name": name}, "endpoints": endpoints}  # fmt: skip


class Churn:
    """What came and went of one run. One thread counts; another waits until it is `steady`, and says when it is `enough`."""

    def __init__(self) -> None:
        self.steady = Event()  # pods go as well as come: from here on they are counted
        self.enough = Event()
        self.pods, self.seconds = 0, 0.0
        self._since = 0.0

    def turned(self, gone: int, now: float) -> None:
        """At the end of a turn, in which so many went, and as many came. Of whole turns alone a rate can be said."""
        if self.steady.is_set():
            self.pods, self.seconds = self.pods + gone, now - self._since
        elif gone:
            self._since = now
            self.steady.set()


def reached(churns: Iterable[Churn]) -> str:
    """The rate of all of them together, for a figure's note."""
    held = list(churns)
    return f"{sum(one.pods for one in held) / sum(one.seconds for one in held):.1f} pods a second came and went"


async def come_and_go(connection: Connection, range_: IPv4Network, node: str, first: int, unique: bool, churn: Churn) -> None:
    """Until it is enough, or cancelled: 40 pods a second, each with labels of its own if they are `unique`. Then everything of it
    is taken away."""
    new = PODS_A_SECOND // _TURNS if unique else _NEW_IDENTITIES
    number, highest = first, first + _APPS
    path = f"{_SLICES}/bench-churn-{first}"
    alive: deque[list[tuple[int, int]]] = deque()
    held: deque[int] = deque()
    for fresh in range(first, highest):
        await connection.post(_IDENTITIES, identity(fresh))
        held.append(fresh)
    made = await connection.post(_SLICES, slice_of(path.rpartition("/")[2], [], range_, node))
    began, turn = time.monotonic(), 0
    try:
        while not churn.enough.is_set():
            for _ in range(new):
                await connection.post(_IDENTITIES, identity(highest))
                held.append(highest)
                highest += 1
            fresh_pods = [(number + each, held[-1 - each % len(held)]) for each in range(PODS_A_SECOND // _TURNS)]
            number += len(fresh_pods)
            alive.append(fresh_pods)
            gone = len(alive.popleft()) if len(alive) > _LIFE else 0
            body = slice_of(path.rpartition("/")[2], [pod for pods in alive for pod in pods], range_, node)
            body["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
            made = await connection.put(path, body)
            used = {each for pods in alive for _, each in pods}
            while len(held) > _APPS and held[0] not in used:
                await connection.delete(f"{_IDENTITIES}/{_FIRST + held.popleft()}")
            turn += 1
            await asyncio.sleep(max(0.0, began + turn / _TURNS - time.monotonic()))
            churn.turned(gone, time.monotonic())
    finally:
        with contextlib.suppress(NotFound):
            await connection.delete(path)
        for each in held:
            with contextlib.suppress(NotFound):
                await connection.delete(f"{_IDENTITIES}/{_FIRST + each}")


class Weathers:
    """Makes weather in a cluster whose operator is away: it would take away what it has not written."""

    def __init__(self, cluster: Cluster, api: Api, traffic: Traffic) -> None:
        self._cluster, self._api, self._traffic = cluster, api, traffic
        node = cluster.lab.get("ciliumnode", "n2")[0]["spec"]
        ranges = [ip_network(text) for text in node["ipam"]["podCIDRs"]]
        self._range = next(network for network in ranges if isinstance(network, IPv4Network))
        self._node = str(cluster.lab.spec.nodes[1].ipv4)
        self._stranger = cluster.place("stranger")
        self._near = cluster.address("near")
        self._number = 0
        self.churns: list[Churn] = []

    @contextmanager
    def weather(self, name: Weather, *, unique: bool = False) -> Iterator[None]:
        """`unique`: pods that come and go have labels that nobody had."""
        if name == "churn":
            self._number += 1000
            first, churn = self._number, Churn()
            self.churns.append(churn)
            running = self._api.start(lambda connection: come_and_go(connection, self._range, self._node, first, unique, churn))
            try:
                if not churn.steady.wait(_STEADY):
                    running.result(0)  # raises what ended it, or TimeoutError
                yield
                churn.enough.set()
                running.result(30)  # raises what ended it
            finally:
                running.cancel()
                with contextlib.suppress(CancelledError):
                    running.result(30)
        elif name == "flood":
            cpu = min(other_cpus())
            words = ("flood", self._near, _FLOOD_PORT, 3600, FLOOD_RATE)
            with self._traffic.beside(self._stranger, *words, cpu=cpu) as process:
                time.sleep(0.2)
                yield
                if process.poll() is not None:
                    raise RuntimeError("the flood ended by itself")
        else:
            yield
