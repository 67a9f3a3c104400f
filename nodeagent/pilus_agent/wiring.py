"""The agent, drawn in one place: sources -> desired -> bind -> diff -> datapath, and back.

In: facts, put by sources in any order. Out: the kernel's tables, and `until`, by which a source waits for what it has put.
Everything runs on one event loop; only `Kernel.call` leaves it. Each pass decides from all facts, writes the difference and
publishes what is realised, whatever has happened before.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from pilus_agent.attachments import key_of
from pilus_agent.datapath import cgroup
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.datapath.links import ROUTER_LINK, TUNNEL_LINK
from pilus_agent.datapath.node import NodeLinks, NodePlan, audit, ensure_node
from pilus_agent.desired.addresses import family, raw
from pilus_agent.desired.endpoints import Endpoint, mac
from pilus_agent.desired.identities import IdentityIndex, labels_of
from pilus_agent.desired.ipcache import IpCache, Strength, local_rows, slice_rows
from pilus_agent.desired.nodes import (
    RangeIndex,
    address_rows,
    believed_ranges,
    direct_routes,
    pod_range_rows,
    remote_ranges,
    tunnel_of,
)
from pilus_agent.diff.generations import endpoint_slot
from pilus_agent.diff.order import WRITE_ORDER
from pilus_agent.facts import AllocatedIdentity, Attachment, Facts, Network, Node, Pod
from pilus_agent.objects import routers_of
from pilus_agent.policy_stage import PolicyStage
from pilus_agent.service_stage import ServiceStage
from pilus_agent.tables import Tables
from pilus_agent.writer import Trouble, Troubles, Writer
from pilus_api.errors import PilusError
from pilus_api.identities import INIT, Identity
from pilus_api.labels import SOURCE_RESERVED, IdentityFilter, Label, Labels
from pilus_api.settings import Settings

_log = structlog.get_logger(__name__)

# "attachments": what an earlier agent made. Without them every running pod's rows would be unwanted for the first pass.
NEEDED = frozenset({"nodes", "pods", "namespaces", "identities", "slices", "cnp", "ccnp", "knp", "services", "endpointslices",
                    "attachments", "claims"})  # fmt: skip
# Trouble with these keeps policies from being realised; others are beside the point.
_DECIDING = frozenset({*WRITE_ORDER, "links", "generation"})
INIT_LABELS: Labels = (Label(SOURCE_RESERVED, "init", ""),)

# enum pilus_family: the row by which a pod is known by its link.
_FAMILY_LINK = 0
# enum pilus_setting
_READY, _TUNNEL, _MASQUERADE_IPV4, _MASQUERADE_IPV6 = 1, 2, 4, 8
_AUDIT_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class Wiring:
    """A `Sink` for facts, and the loop that realises them."""

    def __init__(self, node: str, settings: Settings, kernel: Kernel, needed: frozenset[str] = NEEDED) -> None:
        self.node = node
        self.settings = settings
        self.kernel = kernel
        self.facts = Facts()
        self.tables = Tables.of(kernel.datapath.description["maps"])
        self.identities = IdentityIndex()
        self.ipcache = IpCache()
        self.policy = PolicyStage(settings)
        self.services = ServiceStage(node)
        self.endpoints: dict[str, Endpoint] = {}
        self.labels: dict[str, Labels] = {}
        self.ranges = RangeIndex({})
        self.links: NodeLinks | None = None
        self.troubles = Troubles()
        self.realised = 0
        self.passes = 0
        self._revision = 0
        self.needed = needed
        self._given_up: set[str] = set()
        self._claims: dict[str, tuple[str, str]] = {}
        self._believed: set[Network] = set()
        self._plan: NodePlan | None = None
        self._made: NodePlan | None = None  # the plan that `links` came from
        self._nodes_changed = True
        self._ranges_moved = True
        self._slices_changed: set[str] = set()
        self._relevant = IdentityFilter(settings.labels)
        self._changed = asyncio.Event()
        self._writer = Writer(kernel, self.tables, self.troubles, self._swept, self._changed.set)
        self._passed = asyncio.Condition()
        self._retry: asyncio.TimerHandle | None = None

    # -- facts in --------------------------------------------------------------------------------------------------------

    def put(self, kind: str, key: str, fact: Any) -> None:
        match kind:
            case "nodes":
                _put(self.facts.nodes, key, fact)
                self._nodes_changed = True
            case "pods":
                _put(self.facts.pods, key, fact)
            case "namespaces":
                _put(self.facts.namespaces, key, fact)
            case "identities":
                self._identity(key, fact)
            case "slices":
                _put(self.facts.slices, key, fact)
                self._slices_changed.add(key)
            case "cnp" | "ccnp" | "knp":
                self.policy.put(kind, key, fact)
            case "services" | "endpointslices":
                self.services.put(kind, key, fact)
            case "claims":
                self._claim(key, fact)
            case "attachments":
                _put(self.facts.attachments, key, fact)
                if fact is None:
                    self._given_up.discard(key)
            case _:
                raise KeyError(kind)
        self._touch()

    def _claim(self, key: str, fact: tuple[str, str] | None) -> None:
        before = self._claims.pop(key, None)
        if before is not None:
            self.facts.claims.pop(before[0], None)
        if fact is not None:
            self._claims[key] = fact
            self.facts.claims[fact[0]] = fact[1]
        self._nodes_changed = True

    def _identity(self, key: str, fact: AllocatedIdentity | None) -> None:
        if not key.isdigit():
            return
        number = Identity(int(key))
        if fact is None:
            self.identities.gone(number)
            self.facts.identities.pop(number, None)
        else:
            self.identities.upsert(number, fact.labels)
            self.facts.identities[number] = fact.labels
        self.policy.identity(number, self.identities.labels.get(number))

    def synced(self, kind: str) -> None:
        if kind not in self.facts.synced:
            self.facts.synced.add(kind)
            self._touch()

    def give_up(self, key: str) -> None:
        """No identity came in time: the endpoint starts as `reserved:init`. It gets its own when there is one."""
        self._given_up.add(key)
        self._touch()

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
        return self.facts.nodes.get(self.node)

    @property
    def own_ranges(self) -> tuple[Network, ...]:
        """This node's pod ranges, those alone that it has claimed, in the order of its object."""
        own = self.own
        return tuple(network for network in own.ranges if network in self._believed) if own else ()

    @property
    def ready(self) -> bool:
        """Whether pods can be made: everything has been told, and this node has its ranges and links."""
        return self.in_sync and self.links is not None and self.realised > 0

    def labels_of(self, attachment: Attachment) -> Labels:
        return self.labels.get(key_of(attachment), ())

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
        self._decide_nodes()
        if not await self._ensure_links():
            return False
        self._decide_endpoints()
        self._decide_addresses()
        self._decide_settings()
        self.services.settle(self.tables)
        return await self._writer.write()

    def _swept(self) -> None:
        self.policy.swept()
        self.services.swept()

    # -- desired ---------------------------------------------------------------------------------------------------------

    def _decide_nodes(self) -> None:
        if not self._nodes_changed:
            return
        self._nodes_changed = False
        self._ranges_moved = True
        held, refused = believed_ranges(self.facts.nodes, self.node, self.facts.claims if "claims" in self.needed else None)
        for one in refused:
            _log.warning(
                "a node's pod range is another's or nobody's, not believed",
                range=str(one.network),
                node=one.node,
                holder=one.holder,
            )
        self.ranges = RangeIndex(held)
        self._believed = {network for network, name in held.items() if name == self.node}
        self.tables.want_all("pod_ranges", pod_range_rows(held, self.facts.nodes, self.node))
        for strength, names in ((Strength.OWN_NODE, {self.node}), (Strength.NODE, self.facts.nodes.keys() - {self.node})):
            for name in self.ipcache.origins(strength) - (names & self.facts.nodes.keys()):
                self.ipcache.withdraw((strength, name))
        for name, node in self.facts.nodes.items():
            known = node if name != self.node else replace(node, routers=routers_of(self.own_ranges))
            strength = Strength.OWN_NODE if name == self.node else Strength.NODE
            self.ipcache.put((strength, name), address_rows(known, self.node, self.ranges))
        own = self.own
        underlay = tunnel_of(own) if own else None
        if own is None or underlay is None or not self.own_ranges:
            self._plan = None
        else:
            tunnel = self.settings.routing_mode == "tunnel"
            direct = () if tunnel or not self.settings.auto_direct_node_routes else direct_routes(held, self.facts.nodes, self.node)
            self._plan = NodePlan(underlay, routers_of(self.own_ranges), tuple(remote_ranges(held, self.node)), tunnel,
                                  self.settings.tunnel_port, self.settings.mtu, tuple(direct),
                                  self.settings.masquerade_port_range if self._masqueraded() else None)  # fmt: skip

    async def _ensure_links(self) -> bool:
        plan = self._plan
        if plan is None:
            self.troubles.report("links", "this node has no pod range yet: the operator gives it one in its CiliumNode")
            return False
        if plan == self._made:
            return True
        try:
            self.links = await self.kernel.call(lambda: ensure_node(self.kernel.netlink(), plan))
        except Exception as error:  # noqa: BLE001  # the reconcile loop: whatever netlink says, it is told and tried again
            self.troubles.report("links", f"this node's links can't be made: {error}")
            return False
        self._made = plan
        self.troubles.resolve("links")
        await self._attach_sockets()
        return True

    def _decide_endpoints(self) -> None:
        labels: dict[str, Labels] = {}
        for key, attachment in self.facts.attachments.items():
            pod = self._pod_of(attachment)
            found = labels_of(pod, self.facts.namespaces, self._relevant, self.settings.cluster_name) if pod else None
            # A pod whose object has gone keeps what it was until its DEL comes.
            labels[key] = found or self.labels.get(key) or INIT_LABELS
        self.labels = labels
        identities: dict[str, Identity | None] = {}
        for key, held in labels.items():
            number: Identity | None = INIT if held == INIT_LABELS and key in self._given_up else self.identities.number_of(held)
            if number is None:
                # New labels whose number is not allocated yet: the old identity goes on, as upstream's grace period has it.
                before = self.endpoints.get(key)
                number = before.identity if before else None
            if number is None and key in self._given_up:
                number = INIT
            identities[key] = number
        governed = {
            key: (self.identities.labels.get(number, labels[key]) if number else labels[key]) for key, number in identities.items()
        }
        ports = {key: self._ports(self.facts.attachments[key]) for key in governed}
        verdicts = self.policy.decide(governed, ports, identities)
        self.policy.settle(self.tables)
        self.endpoints = {
            key: Endpoint(
                attachment, identities[key], verdicts[key].policy, verdicts[key].ingress_enforced, verdicts[key].egress_enforced
            )
            for key, attachment in self.facts.attachments.items()
        }
        self.tables.want_all("identities", ((number, {"cluster": self.settings.cluster_id}) for number in self._known()))
        self.tables.want_all("endpoints", self._endpoint_rows())

    def _known(self) -> Iterable[Identity]:
        """Identities that every policy's rows account for. While a policy stands as it last fitted, no new one: it would get that
        policy's default class, which may be open."""
        if not self.policy.frozen:
            return self.identities.labels
        held, layout = self.tables.trackers["identities"].held, self.tables.layouts["identities"].key
        return [number for number in self.identities.labels if layout.encode(int(number)) in held]

    def _ports(self, attachment: Attachment) -> frozenset[tuple[str, int, int]]:
        pod = self._pod_of(attachment)
        return pod.ports if pod else frozenset()

    def _pod_of(self, attachment: Attachment) -> Pod | None:
        """Of the pod that the attachment was made for, not of another with its name."""
        pod = self.facts.pods.get(f"{attachment.namespace}/{attachment.pod}")
        return pod if pod is not None and pod.uid == attachment.uid else None

    def _endpoint_rows(self) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        for endpoint in self.endpoints.values():
            attachment = endpoint.attachment
            value = {
                "ifindex": attachment.ifindex,
                "identity": endpoint.identity or 0,
                "policy": self.policy.number(endpoint.policy),
                "number": attachment.number,
                "flags": endpoint.flags,
                "slot": endpoint_slot(attachment.number),
                "mac": mac(attachment.mac),
                "gateway_mac": mac(attachment.gateway_mac),
            }
            for address in attachment.addresses:
                yield {"family": family(address), "address": raw(address)}, value
            yield {"family": _FAMILY_LINK, "address": attachment.ifindex.to_bytes(4, sys.byteorder).ljust(16, b"\0")}, value

    def _decide_addresses(self) -> None:
        keys = set(self.endpoints)
        for key in self.ipcache.origins(Strength.LOCAL_POD) - keys:
            self.ipcache.withdraw((Strength.LOCAL_POD, key))
        for key, endpoint in self.endpoints.items():
            rows = local_rows(endpoint.attachment, endpoint.identity) if endpoint.identity else ()
            self.ipcache.put((Strength.LOCAL_POD, key), rows)
        names = self._slices_changed | (set(self.facts.slices) if self._ranges_moved else set())
        self._ranges_moved = False
        for name in names:
            held = self.facts.slices.get(name)
            rows = slice_rows(held, self.ranges, self.facts.nodes, self.node) if held else ()
            self.ipcache.put((Strength.SLICE, name), rows)
        self._slices_changed = set()
        for row_key, row in self.ipcache.take_changes().items():
            length, address = row_key
            version = 4 if length == 32 + 32 else 6
            where = {"length": length, "family": version, "address": address}
            self.tables.want("ipcache", where, row[1] if row else None)

    def _decide_settings(self) -> None:
        own, links = self.own, self.links
        if own is None or links is None:
            return
        tunnel = self.settings.routing_mode == "tunnel"
        first, last = self.settings.masquerade_port_range
        value: dict[str, Any] = {
            "flags": _READY | (_TUNNEL if tunnel else 0) | self._masqueraded(),
            "tunnel_ifindex": links.tunnel_ifindex,
            "tunnel_mtu": links.pod_mtu if tunnel else 0,
            "tunnel_port": self.settings.tunnel_port if tunnel else 0,
            "uplink_ifindex": links.uplink_ifindex,
            "uplink_mtu": links.uplink_mtu,
            "nat_first": first,
            "nat_last": last,
            "cluster": self.settings.cluster_id,
            "event_rate": 100,
            "event_burst": 200,
        }
        for name, addresses in (("node", own.addresses), ("router", routers_of(self.own_ranges))):
            for address in addresses:
                value.setdefault(f"{name}_ipv{address.version}", raw(address))
        self.tables.want("settings", 0, value)

    def _masqueraded(self) -> int:
        """The families that pods reach the outside with, as enum pilus_setting."""
        held = self.settings
        return (_MASQUERADE_IPV4 if held.enable_ipv4 and held.enable_ipv4_masquerade else 0) | (
            _MASQUERADE_IPV6 if held.enable_ipv6 and held.enable_ipv6_masquerade else 0
        )

    # -- audit -----------------------------------------------------------------------------------------------------------

    async def _attach(self) -> None:
        try:
            await self.kernel.call(self._audit)
        except Exception as error:  # noqa: BLE001  # the reconcile loop: the audit tries again
            self.troubles.report("audit", f"programs can't be attached: {error}")

    async def _audits(self) -> None:
        """Every second: is everything still attached, and every link there? What is not comes back."""
        while True:
            await asyncio.sleep(_AUDIT_SECONDS)
            if self._made is None or not self.realised:
                continue
            try:
                repaired, missing = await self.kernel.call(self._audit)
            except Exception as error:  # noqa: BLE001  # the guard of an eternal task
                self.troubles.report("audit", f"filters can't be looked at: {error}")
                continue
            self.troubles.resolve("audit")
            await self._attach_sockets()
            if repaired:
                _log.warning("filters were missing or old, put back", links=repaired)
            if missing:
                _log.warning("links of this node were missing, made again", links=missing)
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

    def _audit(self) -> tuple[list[str], list[str]]:
        netlink = self.kernel.netlink()
        wanted = [ROUTER_LINK, TUNNEL_LINK] if self.settings.routing_mode == "tunnel" else [ROUTER_LINK]
        missing = [name for name in wanted if not netlink.index(name)]
        uplink = self.links.uplink_ifindex if self.links else 0
        if self._made and netlink.uplink_of(self._made.underlay) != uplink:  # made anew, or its address moved to another
            missing.append("uplink")
            uplink = 0
        return audit(netlink, self.kernel.datapath, uplink), missing


def _put(held: dict[str, Any], key: str, fact: Any) -> None:
    if fact is None:
        held.pop(key, None)
    else:
        held[key] = fact
