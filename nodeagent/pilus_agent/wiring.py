"""The agent, drawn in one place: sources -> desired -> bind -> diff -> datapath, and back.

In: facts, put by sources in any order. Out: the kernel's tables, and `until`, by which a source waits for what it has put.
Everything runs on one event loop; only `Kernel.call` leaves it. Each pass decides from all facts, writes the difference and
publishes what is realised, whatever has happened before.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from pilus_agent.attachments import key_of
from pilus_agent.datapath import cgroup
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.datapath.node import NodeLinks, NodePlan, Seen, attached_loads, audit, ensure_node, seen
from pilus_agent.datapath.programs import prune
from pilus_agent.decisions import Decisions
from pilus_agent.desired.addresses import family, raw
from pilus_agent.desired.endpoints import Endpoint
from pilus_agent.diff.order import WRITE_ORDER
from pilus_agent.facts import Attachment, Network, Node
from pilus_agent.sources.netlink import EVERY
from pilus_agent.tables import Tables
from pilus_agent.writer import Trouble, Troubles, Writer
from pilus_api.errors import PilusError
from pilus_api.label_filters import IdentityFilter
from pilus_api.labels import Labels
from pilus_api.policy_kinds import BY_SHORT
from pilus_api.settings import Settings

_log = structlog.get_logger(__name__)

# "attachments": what an earlier agent made. Without them every running pod's rows would be unwanted for the first pass.
NEEDED = frozenset({"nodes", "nodelabels", "pods", "namespaces", "identities", "slices", *BY_SHORT, "cidrgroups", "services",
                    "endpointslices", "attachments", "claims"})  # fmt: skip
# Trouble with these keeps policies from being realised; others are beside the point.
_DECIDING = frozenset({*WRITE_ORDER, "links", "generation"})

_AUDIT_SECONDS = 1.0
_RETRY_SECONDS = 1.0
# Every how many audits addresses and routes are looked at although nothing was told.
_WAYS_EVERY = 30


class Wiring:
    """A `Sink` for facts, and the loop that realises them. `relevant`: see Decisions."""

    def __init__(
        self,
        node: str,
        settings: Settings,
        kernel: Kernel,
        needed: frozenset[str] = NEEDED,
        api_server: str = "",
        relevant: IdentityFilter | None = None,
    ) -> None:
        self.node = node
        self.settings = settings
        self.kernel = kernel
        self.tables = Tables.of(kernel.datapath.description["maps"])
        self.desired = Decisions(node, settings, self.tables, "claims" in needed, api_server, relevant)
        self.facts = self.desired.facts
        self.identities = self.desired.identities
        self.ipcache = self.desired.ipcache
        self.policy = self.desired.policy
        self.services = self.desired.services
        self.links: NodeLinks | None = None
        self.troubles = Troubles()
        self.realised = 0
        self.passes = 0
        self._revision = 0
        self.needed = needed
        self._made: NodePlan | None = None  # the plan that `links` came from
        self._seen = Seen((), None)  # what they were like right afterwards
        self._moved = asyncio.Event()
        self._changed = asyncio.Event()
        self._writer = Writer(kernel, self.tables, self.troubles, self.desired.swept, self._changed.set)
        self._passed = asyncio.Condition()
        self._retry: asyncio.TimerHandle | None = None

    # -- facts in --------------------------------------------------------------------------------------------------------

    def put(self, kind: str, key: str, fact: Any) -> None:
        """See sources.kubernetes.Sink. Raises KeyError for a kind that nobody decides by."""
        self.desired.put(kind, key, fact)
        self._touch()

    def reconfigure(self, settings: Settings) -> None:
        """Other values of keys that may change while we run (`pilus_api.settings.LIVE`)."""
        self.settings = self.desired.settings = settings
        self._touch()

    def synced(self, kind: str) -> None:
        if kind not in self.facts.synced:
            self.facts.synced.add(kind)
            self._touch()

    def give_up(self, key: str) -> None:
        """No identity came in time: the endpoint starts as `reserved:init`."""
        self.desired.give_up(key)
        self._touch()

    def links_moved(self, links: frozenset[int]) -> None:
        """See sources.netlink.Sink."""
        held = self.links
        if held is None:
            return
        own = {EVERY, held.uplink_ifindex, held.router_ifindex, held.tunnel_ifindex}
        if links & own or any(end.attachment.ifindex in links for end in self.endpoints.values()):
            self._moved.set()

    def _touch(self) -> None:
        self._revision += 1
        self._changed.set()

    @property
    def trouble(self) -> Mapping[str, Trouble]:
        return self.troubles.held

    @property
    def unwritten(self) -> str:
        """Why the last pass could not write all it wanted, "" if it could."""
        return "; ".join(trouble.message for name, trouble in sorted(self.troubles.held.items()) if name in _DECIDING)

    @property
    def in_sync(self) -> bool:
        return self.needed <= self.facts.synced

    @property
    def own(self) -> Node | None:
        return self.desired.own

    @property
    def own_ranges(self) -> tuple[Network, ...]:
        return self.desired.own_ranges

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        return self.desired.endpoints

    @property
    def labels(self) -> Mapping[str, Labels]:
        return self.desired.labels

    @property
    def ready(self) -> bool:
        """Whether pods can be made: everything has been told, and this node has its ranges and links."""
        return self.in_sync and self.links is not None and self.realised > 0

    def labels_of(self, attachment: Attachment) -> Labels:
        return self.labels.get(key_of(attachment), ())

    def ports_of(self, attachment: Attachment) -> frozenset[tuple[str, int, int]]:
        """The named ports of its pod: name, protocol, port."""
        return self.desired.ports.get(key_of(attachment), frozenset())

    def settled(self, key: str) -> bool:
        """Whether an endpoint's own rows stand in the kernel as wanted."""
        endpoint = self.endpoints.get(key)
        if endpoint is None:
            return False
        tracker = self.tables.trackers["endpoints"]
        layout = self.tables.layouts["endpoints"].key
        keys = [layout.encode({"family": family(address), "address": raw(address)}) for address in endpoint.attachment.addresses]
        return all(row in tracker.held and row not in tracker.updates for row in keys)

    async def until(self, holds: Callable[[], bool], limit: float) -> bool:
        """Wait until a condition holds after a pass; whether it came in time."""
        try:
            async with asyncio.timeout(limit), self._passed:
                await self._passed.wait_for(holds)
        except TimeoutError:
            return holds()
        return True

    async def realise(self, limit: float = 10.0) -> bool:
        """Wait until everything put so far is in the kernel."""
        revision = self._revision
        return await self.until(lambda: self.realised >= revision, limit)

    # -- the loop --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever."""
        await self._writer.hold()
        held = {name: tracker.held for name, tracker in self.tables.trackers.items()}
        self.policy.restore(held, self.tables)
        self.services.restore(held, self.tables)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._passes(), name="reconcile")
            tasks.create_task(self._audits(), name="audit")

    async def _passes(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self.in_sync:
                continue
            revision = self._revision
            settled = await self._pass()
            if settled:
                self.policy.realised()
                if not self.realised:
                    # Not before: programs of a new load would drop everything as long as their tables are empty.
                    await self._attach()
                self.realised = revision
            elif self._retry is None or self._retry.cancelled() or self._retry.when() <= asyncio.get_running_loop().time():
                self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._changed.set)
            self.passes += 1
            async with self._passed:
                self._passed.notify_all()

    async def _pass(self) -> bool:
        self.desired.decide_nodes()
        made = await self._ensure_links()
        links = self.links
        if links is None:
            return False
        self.desired.decide_endpoints()
        self.desired.decide_addresses()
        self.desired.decide_settings(links)
        self.services.settle(self.tables)
        # Links that can't be made now (the uplink is down) keep nothing else from being enforced.
        return await self._writer.write() and made

    async def _ensure_links(self) -> bool:
        """Whether they are as planned."""
        plan = self.desired.plan
        if plan is None:
            self.troubles.report("links", "this node has no pod range yet: the operator gives it one in its CiliumNode")
            return False
        if plan == self._made:
            return True
        try:
            self.links, self._seen = await self.kernel.call(self._ensure, plan)
        except Exception as error:  # noqa: BLE001  # the reconcile loop: whatever netlink says, it is told and tried again
            self.troubles.report("links", f"this node's links can't be made: {error}")
            return False
        self._made = plan
        self.troubles.resolve("links")
        return True

    def _ensure(self, plan: NodePlan) -> tuple[NodeLinks, Seen]:
        netlink = self.kernel.netlink()
        links = ensure_node(netlink, plan)
        if self.realised:  # a link that was made anew is not left without programs until the next audit
            audit(netlink, self.kernel.datapath, links.uplink_ifindex)
        return links, seen(netlink, plan, ways=True)

    # -- audit -----------------------------------------------------------------------------------------------------------

    async def _attach(self) -> None:
        """Everything to its place, then away with what an earlier load has left."""
        try:
            await self.kernel.call(self._audit, False)
        except Exception as error:  # noqa: BLE001  # the reconcile loop: the audit tries again
            self.troubles.report("audit", f"programs can't be attached: {error}")
            return
        await self._attach_sockets()
        try:
            gone = await self.kernel.call(lambda: prune(self.kernel.datapath, attached_loads(self.kernel.netlink())))
        except (PilusError, OSError) as error:
            _log.warning("what earlier versions have left can't be removed", error=str(error))
            return
        if gone:
            _log.info("what earlier versions have left is removed", pins=gone)

    async def _audits(self) -> None:
        """Every second, and when the kernel tells of a change: is everything still attached, and every link as it was made? What is
        not comes back. Addresses and routes are looked at when something was told, and now and then."""
        looked = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AUDIT_SECONDS):
                    await self._moved.wait()
                    await asyncio.sleep(_AUDIT_SECONDS / 20)  # whatever happens beside us, we look no more often than this
            told = self._moved.is_set() or looked % _WAYS_EVERY == 0
            self._moved.clear()
            if self._made is None or not self.realised:
                continue
            looked += 1
            try:
                repaired, moved = await self.kernel.call(self._audit, told)
            except Exception as error:  # noqa: BLE001  # the guard of an eternal task
                self.troubles.report("audit", f"filters can't be looked at: {error}")
                self._make_again()
                continue
            self.troubles.resolve("audit")
            await self._attach_sockets()
            if repaired:
                _log.warning("filters were missing or old, put back", links=repaired)
            if moved:
                _log.warning("links or routes of this node are not as they were, made again")
                self._make_again()

    def _make_again(self) -> None:
        self._made = None
        self._changed.set()

    async def _attach_sockets(self) -> None:
        """The programs for Services: on the node's cgroup, where there is one."""
        try:
            await self.kernel.call(lambda: cgroup.attach(self.kernel.datapath, cgroup.node_folder()))
        except (PilusError, OSError) as error:
            self.troubles.report("cgroup", str(error))
            return
        self.troubles.resolve("cgroup")

    def _audit(self, ways: bool) -> tuple[list[str], bool]:
        """Which links had to get their programs back; whether links (with `ways`: addresses, routes) are other than made."""
        netlink = self.kernel.netlink()
        repaired = audit(netlink, self.kernel.datapath, self.links.uplink_ifindex if self.links else 0)
        if self._made is None:
            return repaired, False
        now = seen(netlink, self._made, ways=ways)
        return repaired, now.links != self._seen.links or (ways and now.ways != self._seen.ways)
