"""What the agent wants of the kernel, decided from all facts: DESIRED and BIND, drawn together.

In: facts, in any order, doubled or late. Out: wanted rows, and the plan for this node's links. Pure but for its memory of what was
told: no kernel, no loop, no clock. Each `decide_…` may be called at any time and gives the same for the same facts.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import structlog

from pilus_agent.bind.endpoints import EndpointRows
from pilus_agent.datapath.node import NodeLinks, NodePlan
from pilus_agent.desired.addresses import host_prefix, raw
from pilus_agent.desired.endpoints import Endpoint, Governed
from pilus_agent.desired.identities import IdentityIndex, labels_of
from pilus_agent.desired.ipcache import IpCache, Strength, local_rows, slice_rows
from pilus_agent.desired.node_identities import NodeIdentities, all_labels, node_labels, remote_labels
from pilus_agent.desired.nodes import (
    CIDR_NODES,
    NodeNumbers,
    RangeIndex,
    address_rows,
    believed_ranges,
    direct_routes,
    pod_range_rows,
    remote_ranges,
    tunnel_of,
)
from pilus_agent.facts import Address, AllocatedIdentity, Attachment, Facts, Network, Node, Pod
from pilus_agent.host_policy import HOST as HOST_KEY
from pilus_agent.judgement import HOST_FIREWALL, HOST_PROBES, HOST_ROW, HOST_TUNNEL
from pilus_agent.objects import routers_of
from pilus_agent.policy_stage import PolicyStage
from pilus_agent.service_stage import ServiceStage
from pilus_agent.tables import Tables
from pilus_api.identities import (
    HOST,
    INIT,
    KUBE_APISERVER,
    LAST_OF_CLUSTERS,
    RESERVED,
    Identity,
    fixed_identities,
    is_fixed,
)
from pilus_api.label_filters import IdentityFilter, NodeFilter
from pilus_api.labels import SOURCE_RESERVED, Label, Labels
from pilus_api.policy_kinds import BY_SHORT
from pilus_api.rules import ApiServers, OtherNodes, Services
from pilus_api.settings import Settings

_log = structlog.get_logger(__name__)

# Where the API servers themselves say at which addresses they are.
API_SERVER_SLICE = "default/kubernetes"

INIT_LABELS: Labels = (Label(SOURCE_RESERVED, "init", ""),)

# enum pilus_setting
_READY, _TUNNEL, _MASQUERADE_IPV4, _MASQUERADE_IPV6 = 1, 2, 4, 8


class Decisions:
    """`claimed`: whether a pod range counts only if its node has claimed it. `api_server`: the URL that this agent asks, if any.
    `relevant`: which labels make a pod's identity; without it as the setting `labels` alone has it."""

    def __init__(
        self,
        node: str,
        settings: Settings,
        tables: Tables,
        claimed: bool,
        api_server: str = "",
        relevant: IdentityFilter | None = None,
    ) -> None:
        self.node = node
        self.settings = settings
        self.tables = tables
        self.facts = Facts()
        fixed = fixed_identities(settings.fixed_identity_mapping)
        self.identities = IdentityIndex(fixed)
        self.ipcache = IpCache()
        self.policy = PolicyStage(settings, api_server)
        for number, labels in fixed.items():
            self.policy.identity(number, labels)
        self.services = ServiceStage(node)
        self.endpoints: dict[str, Endpoint] = {}
        self.host: Governed | None = None  # this node itself, if a policy restricts it
        self.labels: dict[str, Labels] = {}
        self.ports: dict[str, frozenset[tuple[str, int, int]]] = {}  # named ones: name, protocol, port
        self.plan: NodePlan | None = None
        self.ranges: Mapping[Network, str] = {}  # those that are believed, each with its node
        self.nodes_decided = 0  # how often
        self._claimed = claimed
        self._ranges = RangeIndex({})
        self._believed: set[Network] = set()
        self._claims: dict[str, tuple[str, str]] = {}
        self._given_up: set[str] = set()
        self._nodes_changed = True
        self._ranges_moved = True
        self._services_changed = True
        self._identities_moved: set[Identity] = set()
        self._frozen: bool | None = None
        self._slices_changed: set[str] = set()
        self._relevant = IdentityFilter(settings.labels) if relevant is None else relevant
        self._node_filter = NodeFilter(settings.node_labels)
        self._node_identities = NodeIdentities()
        # By endpoint, what was last made of what: most of them are not what has changed.
        self._read: dict[str, tuple[tuple[Pod, object], Labels | None]] = {}
        self._endpoint_rows = EndpointRows()
        self._located: dict[str, tuple[Attachment, Identity | None]] = {}

    # -- facts -----------------------------------------------------------------------------------------------------------

    def put(self, kind: str, key: str, fact: Any) -> None:
        match kind:
            case "nodes" | "nodelabels":
                self._node(kind, key, fact)
            case "pods":
                _put(self.facts.pods, key, fact)
            case "namespaces":
                _put(self.facts.namespaces, key, fact and fact.labels)
                self.policy.objects.namespace(key, fact.mode if fact else "")
            case "identities":
                self._identity(key, fact)
            case "slices":
                _put(self.facts.slices, key, fact)
                self._slices_changed.add(key)
                self.policy.elsewhere(key, fact.endpoints if fact else ())
            case _ if kind in BY_SHORT or kind == "cidrgroups":
                self.policy.objects.put(kind, key, fact)
                self._services_changed = True  # it may speak of other ones
            case "services" | "endpointslices":
                self.services.put(kind, key, fact)
                self._services_changed = True
                if kind == "endpointslices" and key == API_SERVER_SLICE:
                    self._nodes_changed = True
            case "claims":
                self._claim(key, fact)
            case "attachments":
                _put(self.facts.attachments, key, fact)
                if fact is None:
                    self._given_up.discard(key)
            case _:
                raise KeyError(kind)

    def _node(self, kind: str, key: str, fact: Any) -> None:
        """A node, or the labels of its Node object."""
        if kind == "nodes":
            _put(self.facts.nodes, key, fact)
        else:
            _put(self.facts.node_labels, key, None if fact is None else node_labels(fact, self._node_filter))
            if key == self.node and fact is not None:  # a Node object that goes leaves its node what it was
                self.facts.own_labels = all_labels(fact)
        self._nodes_changed = True

    def _claim(self, key: str, fact: tuple[str, str] | None) -> None:
        before = self._claims.pop(key, None)
        if before is not None:
            self.facts.claims.pop(before[0], None)
        if fact is not None:
            self._claims[key] = fact
            self.facts.claims[fact[0]] = fact[1]
        self._nodes_changed = True

    def _identity(self, key: str, fact: AllocatedIdentity | None) -> None:
        if not key.isdigit() or int(key) > LAST_OF_CLUSTERS:  # an object's name takes away nothing that we gave ourselves
            return
        number = Identity(int(key))
        self._identities_moved.add(number)
        if fact is None:
            self.identities.gone(number)
        else:
            self.identities.upsert(number, fact.labels)
        self.policy.identity(number, self.identities.labels.get(number))

    def give_up(self, key: str) -> None:
        """No identity came in time: the endpoint starts as `reserved:init`. It gets its own when there is one."""
        self._given_up.add(key)

    @property
    def own(self) -> Node | None:
        return self.facts.nodes.get(self.node)

    @property
    def own_ranges(self) -> tuple[Network, ...]:
        """This node's pod ranges, those alone that it has claimed, in the order of its object."""
        own = self.own
        return tuple(network for network in own.ranges if network in self._believed) if own else ()

    def swept(self) -> None:
        self.policy.swept()
        self.services.swept()

    # -- wanted ----------------------------------------------------------------------------------------------------------

    def decide_nodes(self) -> None:
        if not self._nodes_changed:
            return
        self._nodes_changed = False
        self._ranges_moved = True
        held, refused = believed_ranges(self.facts.nodes, self.node, self.facts.claims if self._claimed else None)
        for one in refused:
            _log.warning(
                "a node's pod range is another's or nobody's, not believed",
                range=str(one.network),
                node=one.node,
                holder=one.holder,
            )
        self._ranges = RangeIndex(held)
        self.ranges = held
        self.nodes_decided += 1
        self.policy.pod_ranges(held)
        self._believed = {network for network, name in held.items() if name == self.node}
        self.tables.want_all("pod_ranges", pod_range_rows(held, self.facts.nodes, self.node))
        for strength, names in ((Strength.OWN_NODE, {self.node}), (Strength.NODE, self.facts.nodes.keys() - {self.node})):
            for name in self.ipcache.origins(strength) - (names & self.facts.nodes.keys()):
                self.ipcache.withdraw((strength, name))
        api_servers = self._place_api_servers()
        numbers = self._number_nodes(api_servers)
        for name, node in self.facts.nodes.items():
            known = node if name != self.node else replace(node, routers=routers_of(self.own_ranges))
            strength = Strength.OWN_NODE if name == self.node else Strength.NODE
            self.ipcache.put(
                (strength, name), address_rows(known, self.node, self._ranges, api_servers, numbers.get(name, NodeNumbers()))
            )
        self.policy.objects.group(OtherNodes(), self._nodes_by_address())
        own = self.own
        underlay = tunnel_of(own) if own else None
        if own is None or underlay is None or not self.own_ranges:
            self.plan = None
        else:
            tunnel = self.settings.routing_mode == "tunnel"
            direct = () if tunnel or not self.settings.auto_direct_node_routes else direct_routes(held, self.facts.nodes, self.node)
            self.plan = NodePlan(underlay, routers_of(self.own_ranges), tuple(remote_ranges(held, self.node)), tunnel,
                                  self.settings.tunnel_port, self.settings.mtu, tuple(direct),
                                  self.settings.masquerade_port_range if self._masqueraded() else None)  # fmt: skip

    def _nodes_by_address(self) -> tuple[Network, ...] | None:
        """Other nodes, whom rules by address mean here although they are known; None: no rule does."""
        if not self._cidr_nodes():
            return None
        others = (node for name, node in self.facts.nodes.items() if name != self.node)
        return _networks({address for node in others for address in (*node.addresses, *node.routers)})

    def _place_api_servers(self) -> frozenset[Address]:
        """Outside the cluster they are known by address; on another node by identity 7; on this one by its own identity."""
        said = self.services.addresses(API_SERVER_SLICE)
        addresses = said or frozenset()
        self.policy.place_host(self.facts.own_labels, self.services.ports(API_SERVER_SLICE))
        # Without Kubernetes, where nothing is claimed, it is certain that there is none.
        self.policy.objects.group(ApiServers(), None if said is None and self._claimed else _networks(addresses))
        own = self.own
        here = own is not None and not addresses.isdisjoint(own.addresses)
        named = self.facts.node_labels.get(self.node, ()) if self.settings.enable_node_selector_labels else ()
        labels = tuple(sorted({*RESERVED[HOST], *(RESERVED[KUBE_APISERVER][:1] if here else ()), *named}))
        if self.identities.labels[HOST] != labels:
            self.identities.relabel(HOST, labels)
            self.policy.identity(HOST, labels)
        return addresses

    def _number_nodes(self, api_servers: frozenset[Address]) -> dict[str, NodeNumbers]:
        """What other nodes are by their labels, if policies may ask for these; a node whose labels nobody has told is a node."""
        if not self.settings.enable_node_selector_labels:
            return {}
        found: dict[str, tuple[Labels, Labels]] = {}
        wanted: dict[Labels, list[Node]] = {}
        for name in self.facts.nodes.keys() & self.facts.node_labels.keys() - {self.node}:
            node, labels = self.facts.nodes[name], self.facts.node_labels[name]
            plain = asked = remote_labels(labels, api_server=False)
            if not api_servers.isdisjoint(node.addresses):
                asked = remote_labels(labels, api_server=True)
            found[name] = plain, asked
            for each in {plain, asked}:
                wanted.setdefault(each, []).append(node)
        fresh, gone = self._node_identities.settle(
            {labels: frozenset() if labels in self._node_identities else self._held(nodes) for labels, nodes in wanted.items()},
            clean=all(self.tables.trackers[table].settled for table in ("peers", "identities", "ipcache")),
        )
        for number in gone:
            self.identities.gone(number)
            self.policy.identity(number, None)
        for number, meant in fresh.items():
            self.identities.upsert(number, meant)
            self.policy.identity(number, meant)
        self._identities_moved |= fresh.keys() | set(gone)
        return {
            name: NodeNumbers(self._node_identities[plain], self._node_identities[asked]) for name, (plain, asked) in found.items()
        }

    def _held(self, nodes: Iterable[Node]) -> frozenset[Identity]:
        """The numbers that the kernel has for the addresses of these."""
        layout, held = self.tables.layouts["ipcache"], self.tables.trackers["ipcache"].held
        keys = {layout.key.encode(host_prefix(address)) for node in nodes for address in (*node.addresses, *node.routers)}
        return frozenset(Identity(layout.value.decode(held[key])["identity"]) for key in keys & held.keys())

    def _place_services(self) -> None:
        """Policies may mean the addresses behind a Service that selects no pods."""
        if not self._services_changed:
            return
        self._services_changed = False

        def meant(wanted: Services) -> tuple[Network, ...] | None:
            found = self.services.meant(wanted)
            return None if found is None else _networks(found)

        self.policy.objects.place_services(meant)

    def decide_endpoints(self) -> None:
        self._place_services()
        labels: dict[str, Labels] = {}
        ports: dict[str, frozenset[tuple[str, int, int]]] = {}
        self._read = {key: held for key, held in self._read.items() if key in self.facts.attachments}
        for key, attachment in self.facts.attachments.items():
            pod = self._pod_of(attachment)
            found = self._labels_of(key, pod) if pod else None
            # A pod whose object has gone keeps what it was until its DEL comes.
            labels[key] = found or self.labels.get(key) or INIT_LABELS
            ports[key] = pod.ports if pod else self.ports.get(key, frozenset())
        self.labels, self.ports = labels, ports
        identities: dict[str, Identity | None] = {}
        for key, held in labels.items():
            number: Identity | None = INIT if held == INIT_LABELS and key in self._given_up else self.identities.number_of(held)
            if number is None:
                # New labels whose number is not allocated yet: the old identity goes on, as upstream's grace period has it.
                before = self.endpoints.get(key)
                number = before.identity if before else None
            if number is None and key in self._given_up and not is_fixed(held):
                number = INIT
            identities[key] = number
        governed = {
            key: (self.identities.labels.get(number, labels[key]) if number else labels[key]) for key, number in identities.items()
        }
        verdicts = self.policy.decide(governed, ports, identities)
        self.policy.settle(self.tables)
        endpoints: dict[str, Endpoint] = {}
        for key, attachment in self.facts.attachments.items():
            by = verdicts[key]
            now = Endpoint(attachment, identities[key], by.policy, by.ingress_enforced, by.egress_enforced, by.audit)
            before = self.endpoints.get(key)
            endpoints[key] = now if before != now or before is None else before  # whoever has read it knows it again
        self.endpoints = endpoints
        self.host = verdicts.get(HOST_KEY)
        self._want_identities()
        rows = self._endpoint_rows.all(self.endpoints, self.host, self.policy.number, self.tables)
        self.tables.trackers["endpoints"].want_all(rows)

    def _want_identities(self) -> None:
        """Of all tables' the most rows, and seldom many others than before."""
        moved, self._identities_moved = self._identities_moved, set()
        row = {"cluster": self.settings.cluster_id}
        if self.policy.frozen != self._frozen or (self.policy.frozen and moved):
            self._frozen = self.policy.frozen
            self.tables.want_all("identities", ((number, row) for number in self._known()))
            return
        for number in moved:
            self.tables.want("identities", number, row if number in self.identities.labels else None)

    def _known(self) -> Iterable[Identity]:
        """Identities that every policy's rows account for. While a policy stands as it last fitted, no new one: it would get that
        policy's default class, which may be open."""
        if not self.policy.frozen:
            return self.identities.labels
        held, layout = self.tables.trackers["identities"].held, self.tables.layouts["identities"].key
        return [number for number in self.identities.labels if layout.encode(int(number)) in held]

    def _pod_of(self, attachment: Attachment) -> Pod | None:
        """Of the pod that the attachment was made for, not of another with its name."""
        pod = self.facts.pods.get(f"{attachment.namespace}/{attachment.pod}")
        return pod if pod is not None and pod.uid == attachment.uid else None

    def _labels_of(self, key: str, pod: Pod) -> Labels | None:
        """As identities.labels_of has it, for what has changed since it was asked last."""
        of = (pod, self.facts.namespaces.get(pod.namespace))
        held = self._read.get(key)
        if held is None or held[0] != of:
            held = of, labels_of(pod, self.facts.namespaces, self._relevant, self.settings.cluster_name)
            self._read[key] = held
        return held[1]

    def decide_addresses(self) -> None:
        keys = set(self.endpoints)
        for key in self.ipcache.origins(Strength.LOCAL_POD) - keys:
            self.ipcache.withdraw((Strength.LOCAL_POD, key))
        located: dict[str, tuple[Attachment, Identity | None]] = {}
        for key, endpoint in self.endpoints.items():
            located[key] = endpoint.attachment, endpoint.identity
            if self._located.get(key) != located[key]:
                rows = local_rows(endpoint.attachment, endpoint.identity) if endpoint.identity else ()
                self.ipcache.put((Strength.LOCAL_POD, key), rows)
        self._located = located
        names = self._slices_changed | (set(self.facts.slices) if self._ranges_moved else set())
        self._ranges_moved = False
        for name in names:
            held = self.facts.slices.get(name)
            rows = slice_rows(held, self._ranges, self.facts.nodes, self.node) if held else ()
            self.ipcache.put((Strength.SLICE, name), rows)
        self._slices_changed = set()
        for row_key, row in self.ipcache.take_changes().items():
            length, address = row_key
            version = 4 if length == 32 + 32 else 6
            where = {"length": length, "family": version, "address": address}
            self.tables.want("ipcache", where, row[1] if row else None)

    def decide_settings(self, links: NodeLinks) -> None:
        own = self.own
        if own is None:
            return
        tunnel = self.settings.routing_mode == "tunnel"
        first, last = self.settings.masquerade_port_range
        value: dict[str, Any] = {
            "flags": _READY | (_TUNNEL if tunnel else 0) | self._masqueraded() | self._cidr_nodes() | self._guarded(),
            "tunnel_ifindex": links.tunnel_ifindex,
            "tunnel_mtu": links.pod_mtu if tunnel else 0,
            "tunnel_port": self.settings.tunnel_port if tunnel else 0,
            "uplink_ifindex": links.uplink_ifindex,
            "uplink_mtu": links.uplink_mtu,
            "nat_first": first,
            "nat_last": last,
            "cluster": self.settings.cluster_id,
            "event_rate": self.settings.bpf_events_default_rate_limit,
            "event_burst": self.settings.bpf_events_default_burst_limit,
            "timeout": self._timeouts(),
            "flow_quota": self.settings.flow_quota_per_endpoint,
        }
        for name, addresses in (("node", own.addresses), ("router", routers_of(self.own_ranges))):
            for address in addresses:
                value.setdefault(f"{name}_ipv{address.version}", raw(address))
        self.tables.want("settings", 0, value)

    def _timeouts(self) -> tuple[int, ...]:
        """By enum pilus_flow_state, in whole seconds, never 0: that would be the default."""
        held = self.settings
        seconds = (held.bpf_ct_timeout_regular_tcp_syn, held.bpf_ct_timeout_regular_tcp, held.bpf_ct_timeout_regular_tcp_fin,
                   held.bpf_ct_timeout_regular_any)  # fmt: skip
        return tuple(math.ceil(value) for value in seconds)

    def _cidr_nodes(self) -> int:
        return CIDR_NODES if "nodes" in self.settings.policy_cidr_match_mode else 0

    def _guarded(self) -> int:
        """The host firewall, as enum pilus_setting. Settings are written after the host's row, and before that goes."""
        if self.host is None:
            return 0
        lifelines = self.policy.host.lifelines
        return HOST_FIREWALL | (HOST_PROBES if "kubelet" in lifelines else 0) | (HOST_TUNNEL if "tunnel" in lifelines else 0)

    @property
    def host_held(self) -> bool:
        """Whether this host has a policy, and the kernel its row."""
        layout, held = self.tables.layouts["endpoints"].key, self.tables.trackers["endpoints"].held
        return self.host is not None and layout.encode(HOST_ROW) in held

    def _masqueraded(self) -> int:
        """The families that pods reach the outside with, as enum pilus_setting."""
        held = self.settings
        return (_MASQUERADE_IPV4 if held.enable_ipv4 and held.enable_ipv4_masquerade else 0) | (
            _MASQUERADE_IPV6 if held.enable_ipv6 and held.enable_ipv6_masquerade else 0
        )


def _networks(addresses: Iterable[Address]) -> tuple[Network, ...]:
    return tuple(sorted(map(ip_network, addresses), key=lambda network: (network.version, network)))


def _put(held: dict[str, Any], key: str, fact: Any) -> None:
    if fact is None:
        held.pop(key, None)
    else:
        held[key] = fact
