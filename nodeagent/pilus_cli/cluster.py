"""What a cluster has that policies are about, read once.

In: a connection, and the policies that somebody means to put there. Out: a Cluster. What may not be read is left out and noted.
Changes nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Final

from pilus_agent.desired.node_identities import NodeIdentities, all_labels, remote_labels
from pilus_agent.facts import Address, EndpointSlice, Node
from pilus_agent.sources.kubernetes import cidr_group_of, identity_of, node_labels_of, node_of, slice_of
from pilus_agent.sources.services import endpoint_slice_of
from pilus_api import settings as settings_of
from pilus_api.connection import Connection, Forbidden, NotFound, Object
from pilus_api.errors import InvalidError
from pilus_api.identities import HOST, KUBE_APISERVER, REMOTE_NODE, RESERVED, Identity, fixed_identities
from pilus_api.label_filters import NodeFilter
from pilus_api.labels import Labels
from pilus_api.policy_kinds import BY_NAME, POLICY_KINDS, PolicyKind, optional
from pilus_api.policy_modes import MODE_ANNOTATION
from pilus_api.rules import ApiServers, CidrGroup, GroupName, Network
from pilus_api.settings import Settings

Raw = Mapping[str, Any]
Name = tuple[str, str, str]  # kind, namespace, name
Ports = frozenset[tuple[str, int, int]]  # named ones: name, protocol, port

CONFIG: Final = "/api/v1/namespaces/kube-system/configmaps/pilus-config"
API_SERVERS: Final = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"


@dataclass(frozen=True, slots=True)
class Cluster:
    """`pods`: by identity, the pods that bear it, each with its named ports. `modes`: what namespaces say of their policies.
    `nodes`: the labels of Node objects; None: nobody has asked, or may. `groups`: of API servers those that are on no node.
    `places`: addresses of pods and nodes by identity; this node (HOST) may be any of them. `api_ports`: where all API servers
    listen. `notes`: what is not known, in words."""

    identities: Mapping[Identity, Labels]
    pods: Mapping[Identity, Mapping[str, Ports]]
    policies: Mapping[Name, Raw]
    groups: Mapping[GroupName, tuple[Network, ...]]
    modes: Mapping[str, str]
    settings: Settings = field(default_factory=Settings)
    nodes: Mapping[str, Labels] | None = None
    api_ports: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    places: Mapping[Identity, frozenset[Address]] = field(default_factory=dict)


def name_of(obj: Raw) -> Name:
    kind, metadata = str(obj["kind"]), obj["metadata"]
    return kind, str(metadata.get("namespace") or "default") if BY_NAME[kind].namespaced else "", str(metadata["name"])


def about_nodes(obj: Raw) -> bool:
    """Whether a policy speaks of nodes, and not of pods, as those that it governs."""
    specs = [obj.get("spec"), *(obj.get("specs") or ())] if isinstance(obj.get("specs") or (), list | tuple) else []
    return any(isinstance(spec, dict) and spec.get("nodeSelector") is not None for spec in specs)


async def read(connection: Connection, given: Iterable[Raw] = ()) -> Cluster:
    """`given`: policies that are to be compared. Raises ApiError."""
    notes: list[str] = []
    settings = await _settings(connection, notes)
    policies: dict[Name, Raw] = {}
    for kind in POLICY_KINDS:
        for raw in await _listed(connection, kind):
            obj = {**raw, "apiVersion": kind.version, "kind": kind.name}
            policies[name_of(obj)] = {key: value for key, value in obj.items() if key != "status"}
    found = [identity_of(raw) for raw in await connection.list_all("/apis/cilium.io/v2/ciliumidentities")]
    pods: dict[Identity, dict[str, Ports]] = {}
    places: dict[Identity, set[Address]] = {}
    for raw in await connection.list_all("/apis/cilium.io/v2alpha1/ciliumendpointslices"):
        for endpoint in slice_of(raw).endpoints:
            pods.setdefault(endpoint.identity, {})[endpoint.name] = endpoint.ports
            places.setdefault(endpoint.identity, set()).add(endpoint.address)
    groups: dict[GroupName, tuple[Network, ...]] = {}
    for raw in await connection.list_all("/apis/cilium.io/v2alpha1/ciliumcidrgroups"):
        try:
            groups[CidrGroup(raw["metadata"]["name"])] = cidr_group_of(raw)
        except InvalidError as error:
            notes.append(f"the CiliumCIDRGroup {raw['metadata']['name']} is as if it weren't there, as for agents: {error}")
    annotated = [raw["metadata"] for raw in await connection.list_all("/api/v1/namespaces")]
    modes = {one["name"]: str((one.get("annotations") or {}).get(MODE_ANNOTATION, "")) for one in annotated}

    nodes = None
    if settings.enable_node_selector_labels or any(map(about_nodes, (*policies.values(), *given))):
        nodes = await _node_labels(connection, notes)
    addresses = {node.name: {*node.addresses, *node.routers} for node in await _nodes(connection)}
    servers = await _api_servers(connection, notes)
    asked = {endpoint.address for endpoint in servers.endpoints} if servers else set()
    if servers is not None:
        groups[ApiServers()] = _networks(asked.difference(*addresses.values()))
    named = {name: not asked.isdisjoint(addresses.get(name, ())) for name in nodes or ()}
    labels = dict(RESERVED) | fixed_identities(settings.fixed_identity_mapping) | {held.number: held.labels for held in found}
    numbers: Mapping[str, Identity] = {}
    if settings.enable_node_selector_labels:
        numbered, numbers = _numbered(nodes or {}, named, settings)
        labels |= numbered
    for name, held in addresses.items():
        number = KUBE_APISERVER if not asked.isdisjoint(held) else REMOTE_NODE
        for each in (numbers.get(name, number), HOST):
            places.setdefault(each, set()).update(held)
    ports = frozenset(port.port for port in servers.ports) if servers else frozenset()
    found_at = {number: frozenset(held) for number, held in places.items()}
    return Cluster(labels, pods, policies, groups, modes, settings, nodes, ports, tuple(notes), found_at)


async def _listed(connection: Connection, kind: PolicyKind) -> list[Object]:
    try:
        return await connection.list_all(kind.path)
    except NotFound:
        if optional(kind):
            return []
        raise


async def _settings(connection: Connection, notes: list[str]) -> Settings:
    try:
        data = (await connection.get(CONFIG)).get("data") or {}
        return settings_of.parse({key: str(value).strip() for key, value in data.items()})
    except (NotFound, Forbidden, InvalidError) as error:
        notes.append(
            f"the ConfigMap kube-system/pilus-config can't be read, so that settings are taken to be the defaults: {error}"
        )
        return Settings()


async def _node_labels(connection: Connection, notes: list[str]) -> dict[str, Labels] | None:
    try:
        return {raw["metadata"]["name"]: all_labels(node_labels_of(raw)) for raw in await connection.list_all("/api/v1/nodes")}
    except Forbidden as error:
        notes.append(f"nodes are not compared, and have no labels here: {error}")
        return None


async def _nodes(connection: Connection) -> list[Node]:
    """For their addresses; without these an API server counts as one that is on no node."""
    try:
        return [node_of(raw) for raw in await connection.list_all("/apis/cilium.io/v2/ciliumnodes")]
    except (Forbidden, NotFound):
        return []


async def _api_servers(connection: Connection, notes: list[str]) -> EndpointSlice | None:
    """None: the cluster has no such slice, and nobody knows where they are."""
    try:
        return endpoint_slice_of(await connection.get(API_SERVERS))
    except NotFound:
        return None
    except Forbidden as error:
        notes.append(f"API servers that are on no node are not known: {error}")
        return EndpointSlice("")


def _networks(addresses: Iterable[Address]) -> tuple[Network, ...]:
    return tuple(sorted(map(ip_network, addresses), key=lambda network: (network.version, network)))


def _numbered(
    nodes: Mapping[str, Labels], api_server: Mapping[str, bool], settings: Settings
) -> tuple[dict[Identity, Labels], dict[str, Identity]]:
    """Nodes by their labels, with the numbers that agents give them where no two meet: labels by number, and numbers by name."""
    relevant = NodeFilter(settings.node_labels)
    wanted = {name: remote_labels(relevant(labels), api_server=api_server[name]) for name, labels in nodes.items()}
    fresh, _ = NodeIdentities().settle(dict.fromkeys(sorted(set(wanted.values())), frozenset()), clean=True)
    numbers = {labels: number for number, labels in fresh.items()}
    return fresh, {name: numbers[labels] for name, labels in wanted.items() if labels in numbers}
