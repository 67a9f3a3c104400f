"""Ranges, written: claims first, then CiliumNodes.

In: events of nodes, CiliumNodes and claims. Out: creates, writes and deletes, each of which fails harmlessly if somebody else was
there before.
"""

import time
from typing import Final, TypeVar

import structlog

from pilus_api.connection import AlreadyExists, Conflict, Connection, NotFound
from pilus_api.settings import Settings
from pilus_operator import facts
from pilus_operator.identity_writer import Clock
from pilus_operator.metrics import Metrics
from pilus_operator.ranges import (
    Action,
    CreateClaim,
    CreateNode,
    DeleteClaim,
    DeleteNode,
    Ranges,
    WriteNode,
    claim_object,
    node_object,
    node_patch,
)
from pilus_operator.reconcile import each

CLAIMS: Final = "/apis/pilus.io/v1alpha1/pilusrangeclaims"
CILIUM_NODES: Final = "/apis/cilium.io/v2/ciliumnodes"
NODES: Final = "/api/v1/nodes"

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class RangeWriter:
    def __init__(self, connection: Connection, settings: Settings, metrics: Metrics, clock: Clock = time.monotonic) -> None:
        self._connection = connection
        self._metrics = metrics
        self._clock = clock
        self._full: list[int] = []
        self.ranges = Ranges(settings)

    def node(self, name: str, found: facts.Node | None) -> None:
        _keep(self.ranges.nodes, name, found)

    def cilium_node(self, name: str, found: facts.NodeObject | None) -> None:
        _keep(self.ranges.cilium_nodes, name, found)

    def claim(self, name: str, found: facts.Claim | None) -> None:
        # The name is what can't exist twice: a claim of another name claims nothing.
        if found is None or name != facts.claim_name(found.range):
            self.ranges.remove_claim(name)
        else:
            self.ranges.set_claim(name, found)
        for family in (4, 6):
            held = sum(claim.range.version == family for claim in self.ranges.claims.values())
            self._metrics.ranges.labels(f"ipv{family}").set(held)

    async def write(self) -> float | None:
        """Act until there is nothing to do; only to be called when nodes, CiliumNodes and claims are all in sync."""
        # Claim, write, give back: three rounds, and one that finds nothing. More means that somebody writes against us.
        for _ in range(5):
            plan = list(self.ranges.plan(self._clock()))
            if not plan:
                break
            await each(plan, self._act)
        else:
            return 1.0
        self._complain()
        return self.ranges.waits(self._clock())

    def _complain(self) -> None:
        full = self.ranges.full()
        if full and full != self._full:
            names = [f"cluster-pool-ipv{family}-cidr" for family in full]
            _log.error("no pod range is left for a node; make the pool larger", pools=names)
        self._full = full

    async def _act(self, action: Action) -> None:
        try:
            match action:
                case CreateClaim():
                    made = await self._connection.post(CLAIMS, claim_object(action))
                    self.claim(made["metadata"]["name"], facts.claim(made))
                    _log.info("range claimed", node=action.node, range=str(action.range))
                case CreateNode():
                    self.cilium_node(action.node, facts.cilium_node(await self._connection.post(CILIUM_NODES, node_object(action))))
                case WriteNode(node=node):
                    held = await self._connection.patch(f"{CILIUM_NODES}/{node}", node_patch(action))
                    self.cilium_node(node, facts.cilium_node(held))
                case DeleteNode(node, uid):
                    if await self._gone(node):
                        await self._connection.delete(f"{CILIUM_NODES}/{node}", uid=uid)
                        self.cilium_node(node, None)
                case DeleteClaim(name, uid, version):
                    node = self.ranges.claims[name].node
                    if node in self.ranges.nodes or await self._gone(node):
                        await self._connection.delete(f"{CLAIMS}/{name}", uid=uid, resource_version=version)
                        _log.info("range released", node=node, claim=name)
                        self.claim(name, None)
        except (AlreadyExists, Conflict, NotFound, KeyError) as error:
            # The watch brings what is so; until then this very plan would come again.
            await self._read(action, error)

    async def _gone(self, node: str) -> bool:
        """Whether the Node is really gone: the watch may be behind."""
        try:
            await self._connection.get(f"{NODES}/{node}")
        except NotFound:
            return True
        return False

    async def _read(self, action: Action, error: Exception) -> None:
        """Take what the action met into account, without waiting for the watch."""
        match action:
            case CreateClaim(range=wanted):
                name, path = facts.claim_name(wanted), f"{CLAIMS}/{facts.claim_name(wanted)}"
            case DeleteClaim(name=name):
                path = f"{CLAIMS}/{name}"
            case _:
                name, path = action.node, f"{CILIUM_NODES}/{action.node}"
        if isinstance(error, NotFound) and isinstance(action, CreateClaim | CreateNode):
            raise error  # the kind itself is not there
        try:
            raw = await self._connection.get(path)
        except NotFound:
            raw = None
        if path.startswith(CLAIMS):
            self.claim(name, facts.claim(raw) if raw else None)
        else:
            self.cilium_node(name, facts.cilium_node(raw) if raw else None)


def _keep(held: dict[str, T], name: str, found: T | None) -> None:
    if found is None:
        held.pop(name, None)
    else:
        held[name] = found
