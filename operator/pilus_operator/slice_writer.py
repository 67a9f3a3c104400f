"""Slices, written: CiliumEndpointSlice objects, from what agents say of their pods and what we know of them ourselves.

In: events of endpoints and slices; changes of pods, identities, nodes and claims, by key. Out: creates, replacements, deletes,
under a budget: each write goes out to every node.
"""

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from pilus_api.connection import AlreadyExists, Conflict, Connection, NotFound, Object
from pilus_api.watch import Key
from pilus_operator import facts
from pilus_operator.endpointslices import Slices, accepted, slice_object
from pilus_operator.identity_writer import Clock, IdentityWriter
from pilus_operator.metrics import Metrics
from pilus_operator.ranges import Ranges
from pilus_operator.reconcile import each

SLICES: Final = "/apis/cilium.io/v2alpha1/ciliumendpointslices"

# A write is delivered to every node. This many deliveries a second leave an API server most of its time.
_DELIVERIES = 5000.0

_log = structlog.get_logger(__name__)


def slice_name() -> str:
    return f"ces-{secrets.token_hex(5)}"


class Budget:
    """How many slices may be written now: `rate` a second, which shrinks with the number of nodes; a second's worth at once."""

    def __init__(self, now: float) -> None:
        self._left = 0.0
        self._at = now
        self._fresh = True

    def take(self, wanted: int, nodes: int, now: float) -> int:
        rate = min(200.0, max(2.0, _DELIVERIES / max(nodes, 1)))
        self._left = rate if self._fresh else min(rate, self._left + (now - self._at) * rate)
        self._at, self._fresh = now, False
        given = min(wanted, int(self._left))
        self._left -= given
        return given


class SliceWriter:
    def __init__(
        self, connection: Connection, identities: IdentityWriter, ranges: Ranges, metrics: Metrics,
        clock: Clock = time.monotonic, new_name: Callable[[], str] = slice_name,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._identities = identities
        self._ranges = ranges
        self._metrics = metrics
        self._clock = clock
        self._slices = Slices(new_name)
        self._endpoints: dict[Key, facts.EndpointObject] = {}
        self._refused: dict[Key, list[facts.Address]] = {}
        self._stale: set[Key] = set()
        self._stale_nodes: set[str] = set()
        self._budget = Budget(clock())
        self._first = True

    # -- events --------------------------------------------------------------------------------------------------------------

    def endpoint(self, key: Key, found: facts.EndpointObject | None) -> None:
        if found is None:
            self._endpoints.pop(key, None)
        else:
            self._endpoints[key] = found
        self._stale.add(key)

    def slice(self, name: str, found: facts.SliceObject | None) -> None:
        if found is None:
            self._slices.vanished(name)
        else:
            self._slices.adopt(name, found.namespace, found.endpoints, found.version)

    def changed(self, keys: Iterable[Key]) -> None:
        """Pods, or their identities, have changed."""
        self._stale.update(keys)

    def node_changed(self, name: str) -> None:
        """A node's address or claims have changed."""
        self._stale_nodes.add(name)

    def carried(self) -> frozenset[int]:
        """The identities that agents still say their endpoints have."""
        return frozenset(endpoint.identity for endpoint in self._endpoints.values())

    # -- writes --------------------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        pods = self._identities.pods
        if self._first:
            # What an earlier leader wrote may be about endpoints that are gone.
            self._first = False
            self._stale.update(self._slices.members())
            self._stale.update(self._endpoints)
        if self._stale_nodes:
            on_node = {key for key in self._endpoints if (pod := pods.pod(key)) is not None and pod.node in self._stale_nodes}
            self._stale |= on_node
            self._stale_nodes.clear()
        for key in self._stale:
            self._judge(key)
        self._stale.clear()
        self._metrics.refused_addresses.set(sum(len(addresses) for addresses in self._refused.values()))

    def _judge(self, key: Key) -> None:
        endpoint, pod = self._endpoints.get(key), self._identities.pods.pod(key)
        entry: Object | None = None
        refused: list[facts.Address] = []
        if endpoint is not None and pod is not None:
            node = self._ranges.nodes.get(pod.node)
            identity = self._identities.identity_of(key)
            entry, refused = accepted(endpoint, pod, identity, node.address if node else "", self._ranges.owns)
        self._slices.set(key, entry)
        if refused and pod is not None and self._refused.get(key) != refused:
            said = [str(address) for address in refused]
            _log.warning("address outside the node's ranges refused", endpoint=str(key), node=pod.node, addresses=said)
        if refused:
            self._refused[key] = refused
        else:
            self._refused.pop(key, None)

    async def write(self) -> float | None:
        """Write what is due; only to be called when everything is in sync. Returns when to come again."""
        self._refresh()
        now = self._clock()
        due = self._slices.due(now)
        allowed = self._budget.take(len(due), len(self._ranges.nodes), now)
        await each(due[:allowed], self._write)
        if allowed < len(due):
            return 0.1
        next_due = self._slices.next_due()
        return max(0.0, next_due - self._clock()) if next_due is not None else None

    async def _write(self, name: str) -> None:
        held, members = self._slices.begin(name, self._clock())
        path, existing = f"{SLICES}/{name}", held.written is not None
        try:
            if not members:
                await self._connection.delete(path, resource_version=held.version)
                self._slices.wrote(name, None, "")
            else:
                body = slice_object(name, held.namespace, members, held.version if existing else "")
                made = await (self._connection.put(path, body) if existing else self._connection.post(SLICES, body))
                self._slices.wrote(name, members, made["metadata"]["resourceVersion"])
                self._metrics.slice_sizes.observe(len(members))
        except (Conflict, AlreadyExists, NotFound) as error:
            self._metrics.slice_writes.labels("fail").inc()
            if isinstance(error, NotFound) and not existing:
                raise  # the kind itself is not there
            await self._read(name)
        else:
            self._metrics.slice_writes.labels("success").inc()

    async def _read(self, name: str) -> None:
        """Somebody else wrote it: what stands there is to be written over, in its new version."""
        try:
            raw = await self._connection.get(f"{SLICES}/{name}")
        except NotFound:
            self.slice(name, None)
        else:
            self.slice(name, facts.endpoint_slice(raw))
