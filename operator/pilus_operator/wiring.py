"""One term as the active operator: sources -> cores -> writers, drawn and built here.

    pods, namespaces ----> identities ----> CiliumIdentity
                               |  \\
    CiliumEndpoint ------------+---+------> CiliumEndpointSlice
                                   |
    nodes ----------------> ranges +------> PilusRangeClaim, CiliumNode
      |
    policies, PilusNodeStatus (kopf) -----> conditions, `enforced`, Events

Nothing outlives the term: the next leader begins with what the API server holds.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

from pilus_api.connection import Connection, Object
from pilus_api.label_filters import IdentityFilter
from pilus_api.policy_kinds import POLICY_KINDS, optional
from pilus_api.settings import Settings
from pilus_api.watch import Gone, InSync, Key, Upsert, watch
from pilus_operator import facts, handlers, range_writer
from pilus_operator.checks import check_policy
from pilus_operator.identity_writer import IDENTITIES, IdentityWriter
from pilus_operator.metrics import Metrics
from pilus_operator.policy_writer import PolicyWriter
from pilus_operator.range_writer import RangeWriter
from pilus_operator.reconcile import Loop
from pilus_operator.slice_writer import SLICES, SliceWriter

PODS: Final = "/api/v1/pods"
NAMESPACES: Final = "/api/v1/namespaces"
ENDPOINTS: Final = "/apis/cilium.io/v2/ciliumendpoints"
# Watched for definitions that may come.
_MISSING: Final = frozenset(kind.path for kind in POLICY_KINDS if optional(kind))

# What of each term's leader is told to the next.
CURSOR: Final = "pilus.io/next-identity"


def _whole(raw: Object) -> Object:
    return raw


class Term:
    """Everything that the active operator does, from gaining the Lease to losing it. `relevant`: see IdentityWriter."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        metrics: Metrics,
        kubeconfig: Path | None,
        notes: dict[str, str],
        relevant: IdentityFilter | None = None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._kubeconfig = kubeconfig
        cursor = notes.get(CURSOR, "")
        number = int(cursor) if cursor.isdecimal() else 0
        self._identities = IdentityWriter(connection, settings, metrics, number, relevant=relevant)
        self._ranges = RangeWriter(connection, settings, metrics)
        self._slices = SliceWriter(connection, self._identities, self._ranges.ranges, metrics)
        self._policies = PolicyWriter(connection, partial(check_policy, cluster=settings.cluster_name))
        self._in_sync: set[str] = set()
        self._nodes_heard: set[str] = set()
        self._nodes_asked = False
        self._allocation = Loop("identities", self._allocate, metrics)
        self._collection = Loop("identity collection", self._collect, metrics)
        self._ranging = Loop("ranges", self._range, metrics)
        self._slicing = Loop("endpoint slices", self._slice, metrics)
        self._judging = Loop("policies", self._judge, metrics)
        # What the nodes don't read is not in force, and nobody expects it to be.
        self._kinds = tuple(kind for kind in POLICY_KINDS if settings.enable_k8s_networkpolicy or not kind.builtin)
        self._loops = (self._allocation, self._collection, self._ranging, self._slicing, self._judging)

    def reconfigure(self, settings: Settings) -> None:
        """Other values of keys that may change while we run."""
        self._settings = settings
        self._identities.reconfigure(settings)
        self._collection.poke()

    def notes(self) -> dict[str, str]:
        return {CURSOR: str(self._identities.numbers.cursor)}

    async def run(self) -> None:
        """Until cancelled."""
        identities, slices, ranges, policies = self._allocation, self._slicing, self._ranging, self._judging
        sources: tuple[tuple[str, Callable[[Object], Any], Callable[[Key, Any], object], tuple[Loop, ...]], ...] = (
            (PODS, facts.pod, self._pod, (identities, slices)),
            (NAMESPACES, facts.namespace, self._namespace, (identities, slices)),
            (IDENTITIES, facts.identity, self._identity, (identities, slices)),
            (ENDPOINTS, facts.endpoint, self._slices.endpoint, (slices,)),
            (SLICES, facts.endpoint_slice, self._endpoint_slice, (slices,)),
            (range_writer.NODES, facts.node, self._node, (ranges, slices)),
            (range_writer.CILIUM_NODES, facts.cilium_node, self._cilium_node, (ranges, policies)),
            (range_writer.CLAIMS, facts.claim, self._claim, (ranges, slices)),
            *((kind.path, _whole, partial(self._policies.policy, kind.path), (policies,)) for kind in self._kinds),
        )
        async with asyncio.TaskGroup() as group:
            for path, prune, receive, woken in sources:
                group.create_task(self._follow(path, prune, receive, woken), name=f"watch {path}")
            for loop in self._loops:
                group.create_task(loop.run(), name=loop.name)
            server = self._connection.access.server
            group.create_task(handlers.serve_always(self._node_status, self._kubeconfig, server), name="kopf")

    async def _follow(
        self, path: str, prune: Callable[[Object], Any], receive: Callable[[Key, Any], object], woken: tuple[Loop, ...]
    ) -> None:
        stream = watch(self._connection, path, prune=prune, optional=path in _MISSING)
        async with contextlib.aclosing(stream):
            async for event in stream:
                match event:
                    case Upsert(key, found):
                        receive(key, found)
                    case Gone(key):
                        receive(key, None)
                    case InSync():
                        self._in_sync.add(path)
                        self._identities.in_sync = IDENTITIES in self._in_sync
                for loop in self._loops if isinstance(event, InSync) else woken:
                    loop.poke()

    def _synced(self, *paths: str) -> bool:
        return self._in_sync.issuperset(paths)

    # -- events ----------------------------------------------------------------------------------------------------------------

    def _pod(self, key: Key, found: facts.Pod | None) -> None:
        self._slices.changed(self._identities.pod(key, found))

    def _namespace(self, key: Key, labels: tuple[tuple[str, str], ...] | None) -> None:
        self._slices.changed(self._identities.namespace(key.name, labels))

    def _identity(self, key: Key, found: facts.IdentityObject | None) -> None:
        self._slices.changed(self._identities.identity(key.name, found))

    def _node(self, key: Key, found: facts.Node | None) -> None:
        former = self._ranges.ranges.nodes.get(key.name)
        self._ranges.node(key.name, found)
        # A kubelet writes its Node every few seconds; few of these writes mean anything here.
        if former is None or found is None or former.address != found.address:
            self._slices.node_changed(key.name)

    def _cilium_node(self, key: Key, found: facts.NodeObject | None) -> None:
        self._ranges.cilium_node(key.name, found)
        self._policies.node(key.name, found is not None)

    def _claim(self, key: Key, found: facts.Claim | None) -> None:
        former = self._ranges.ranges.claims.get(key.name)
        self._ranges.claim(key.name, found)
        for claim in (former, found):
            if claim is not None:
                self._slices.node_changed(claim.node)

    def _endpoint_slice(self, key: Key, found: facts.SliceObject | None) -> None:
        self._slices.slice(key.name, found)

    def _node_status(self, name: str, raw: Object | None) -> None:
        self._nodes_heard.add(name)
        self._policies.said(name, facts.node_status(raw) if raw else {})
        self._judging.poke()

    # -- steps -------------------------------------------------------------------------------------------------------------------

    async def _allocate(self) -> float | None:
        if self._synced(IDENTITIES):
            await self._identities.allocate(self._changed)
        return None

    def _changed(self, keys: Iterable[Key]) -> None:
        self._slices.changed(keys)
        self._slicing.poke()

    async def _collect(self) -> float | None:
        if not self._synced(PODS, NAMESPACES, IDENTITIES, ENDPOINTS):
            return None
        await self._identities.collect(self._slices.carried())
        return self._settings.identity_gc_interval

    async def _range(self) -> float | None:
        if not self._synced(range_writer.NODES, range_writer.CILIUM_NODES, range_writer.CLAIMS):
            return None
        return await self._ranges.write()

    async def _slice(self) -> float | None:
        needed = (PODS, NAMESPACES, IDENTITIES, ENDPOINTS, SLICES, range_writer.NODES, range_writer.CLAIMS)
        return await self._slices.write() if self._synced(*needed) else None

    async def _judge(self) -> float | None:
        if not self._synced(range_writer.CILIUM_NODES):
            return None
        if not self._nodes_asked:  # kopf never says that it has told everything, and a node not heard of enforces nothing
            for raw in await self._connection.list_all(handlers.NODE_STATUSES_PATH):
                name = str(raw["metadata"]["name"])
                if name not in self._nodes_heard:
                    self._policies.said(name, facts.node_status(raw))
            self._nodes_asked = True
        return await self._policies.write()
