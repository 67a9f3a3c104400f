"""Kubernetes as a source: objects of the API server become facts.

In: raw JSON of pods of this node, namespaces, identities, nodes, slices and policies. Out: facts, put into a sink. What makes no
sense is left out and said once: one broken object never stops the others. Never: decisions.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

import structlog

from pilus_agent.facts import Address, AllocatedIdentity, Namespace, Network, Node, Pod, RemoteEndpoint, Slice
from pilus_api.addresses import parse_prefix
from pilus_api.connection import Connection
from pilus_api.errors import PilusError
from pilus_api.identities import LAST_OF_CLUSTERS, Identity
from pilus_api.labels import from_security_labels
from pilus_api.policy_kinds import POLICY_KINDS, optional
from pilus_api.policy_modes import MODE_ANNOTATION
from pilus_api.watch import Gone, InSync, Key, Upsert, watch

_log = structlog.get_logger(__name__)
Raw = Mapping[str, Any]

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_ENDED = {"Succeeded", "Failed"}
_SMALLEST = 4  # addresses of a pod range: its own, the router's, a pod's, the last


class Sink(Protocol):
    """Where facts go. `key` is the object's `namespace/name`, or its name; None says that it is gone."""

    def put(self, kind: str, key: str, fact: Any) -> None: ...
    def synced(self, kind: str) -> None: ...


@dataclass(frozen=True, slots=True)
class PolicyObject:
    """A policy as it was written, for whoever normalises it."""

    raw: Raw
    uid: str
    generation: int


def address_of(text: object) -> Address | None:
    try:
        return ip_address(text) if isinstance(text, str) and "%" not in text else None
    except ValueError:
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.100} is no text")
    return value


def _pairs(held: Mapping[str, object] | None) -> tuple[tuple[str, str], ...]:
    """Labels, sorted."""
    return tuple(sorted((_text(key), _text(value)) for key, value in (held or {}).items()))


def _identity(value: object, lowest: int) -> Identity:
    if type(value) is not int or not lowest <= value <= LAST_OF_CLUSTERS:  # above are those that a node gives itself
        raise ValueError(f"{value!r:.100} is no identity")
    return Identity(value)


def _port(value: object) -> int:
    if type(value) is not int or not 0 < value < 1 << 16:
        raise ValueError(f"{value!r:.100} is no port")
    return value


def _networks(texts: object) -> tuple[Network, ...]:
    found = []
    for text in texts if isinstance(texts, list) else ():
        try:
            network = ip_network(str(text), strict=False)
            if network.num_addresses < _SMALLEST:
                raise ValueError("too small")
            found.append(network)
        except ValueError:
            _log.warning("not an address range for pods, left out", range=str(text))
    return tuple(found)


def node_of(raw: Raw) -> Node:
    """A CiliumNode."""
    spec = raw.get("spec") or {}
    addresses, routers = [], []
    for entry in spec.get("addresses") or []:
        address = address_of(entry.get("ip"))
        if address is None:
            continue
        if entry.get("type") == "CiliumInternalIP":
            routers.append(address)
        elif entry.get("type") in ("InternalIP", "ExternalIP"):
            addresses.append(address)
    ranges = _networks((spec.get("ipam") or {}).get("podCIDRs"))
    return Node(raw["metadata"]["name"], tuple(addresses), tuple(routers), ranges)


def node_labels_of(raw: Raw) -> tuple[tuple[str, str], ...]:
    """A Node's labels, or a CiliumNode's where there is no Kubernetes that keeps who may write them apart."""
    return _pairs(raw["metadata"].get("labels"))


def _named_ports(held: Iterable[Raw], number: str) -> frozenset[tuple[str, int, int]]:
    """`number`: the field that has it."""
    return frozenset(
        (_text(port["name"]), _PROTOCOLS.get(port.get("protocol", "TCP"), 6), _port(port[number]))
        for port in held
        if port.get("name")
    )


def pod_of(raw: Raw) -> Pod:
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    # A container that is started first and stays (a sidecar) has ports as the others have.
    sidecars = (held for held in spec.get("initContainers") or [] if held.get("restartPolicy") == "Always")
    ports = (port for container in (*(spec.get("containers") or []), *sidecars) for port in container.get("ports") or [])
    return Pod(
        namespace=_text(metadata["namespace"]),
        name=_text(metadata["name"]),
        uid=_text(metadata["uid"]),
        labels=_pairs(metadata.get("labels")),
        service_account=_text(spec.get("serviceAccountName") or ""),
        host_network=bool(spec.get("hostNetwork")),
        ended=(raw.get("status") or {}).get("phase") in _ENDED,
        ports=_named_ports(ports, "containerPort"),
    )


def namespace_of(raw: Raw) -> Namespace:
    metadata = raw["metadata"]
    return Namespace(_pairs(metadata.get("labels")), _text((metadata.get("annotations") or {}).get(MODE_ANNOTATION, "")))


def identity_of(raw: Raw) -> AllocatedIdentity:
    name = raw["metadata"]["name"]
    number = _identity(int(name), 1)
    if name != str(number):
        raise ValueError(f"{name!r} is another writing of {number}")
    return AllocatedIdentity(number, from_security_labels(dict(_pairs(raw.get("security-labels")))))


def slice_of(raw: Raw) -> Slice:
    endpoints = []
    for entry in raw.get("endpoints") or []:
        networking = entry.get("networking") or {}
        node = address_of(networking.get("node")) if networking.get("node") else None
        ports = _named_ports(entry.get("named-ports") or [], "port")
        for pair in networking.get("addressing") or []:
            for text in (pair.get("ipv4"), pair.get("ipv6")):
                address = address_of(text) if text else None
                if address is not None:
                    name = f"{raw.get('namespace', '')}/{entry.get('name', '')}"
                    endpoints.append(RemoteEndpoint(address, _identity(entry.get("id") or 0, 0), node, name, ports))
    return Slice(raw["metadata"]["name"], tuple(endpoints))


def claim_of(raw: Raw) -> tuple[str, str]:
    """A PilusRangeClaim: the range's canonical text, and the node that has it."""
    spec = raw["spec"]
    return str(ip_network(_text(spec["range"]))), _text(spec["node"])


def cidr_group_of(raw: Raw) -> tuple[Network, ...]:
    """A CiliumCIDRGroup's prefixes. Raises InvalidError for one that can't be read: without it a rule that denies the group would
    deny less than is written, so the group is then as if it weren't there."""
    texts = raw["spec"]["externalCIDRs"]
    if not isinstance(texts, list):  # not those of an empty text or map: there are none
        raise TypeError(f"{texts!r:.100} is no list of prefixes")
    found = {parse_prefix(_text(text)) for text in texts}
    return tuple(sorted(found, key=lambda network: (network.version, network)))


_OF_A_POLICY = ("apiVersion", "kind", "spec", "specs")
_OF_ITS_METADATA = ("name", "namespace", "uid", "generation", "annotations")


def policy_of(raw: Raw) -> PolicyObject:
    """What it says; what is said about it (its status, who wrote it last) changes every second, and is left out."""
    metadata = {key: raw["metadata"][key] for key in _OF_ITS_METADATA if key in raw["metadata"]}
    kept = {"metadata": metadata, **{key: raw[key] for key in _OF_A_POLICY if key in raw}}
    return PolicyObject(kept, _text(metadata["uid"]), int(metadata.get("generation") or 0))


@dataclass(frozen=True, slots=True)
class Kind:
    """One collection to watch. `field_selector` may name the node as {node}."""

    name: str
    path: str
    read: Callable[[Raw], Any]
    field_selector: str = ""
    optional: bool = False  # its definition need not be there
    metadata_only: bool = False


KINDS = (
    Kind("nodes", "/apis/cilium.io/v2/ciliumnodes", node_of),
    # Labels are a Node's, which no agent may write, and not its CiliumNode's, which it may.
    Kind("nodelabels", "/api/v1/nodes", node_labels_of, metadata_only=True),
    Kind("pods", "/api/v1/pods", pod_of, "spec.nodeName={node}"),
    Kind("namespaces", "/api/v1/namespaces", namespace_of),
    Kind("identities", "/apis/cilium.io/v2/ciliumidentities", identity_of),
    Kind("slices", "/apis/cilium.io/v2alpha1/ciliumendpointslices", slice_of),
    Kind("claims", "/apis/pilus.io/v1alpha1/pilusrangeclaims", claim_of),
    Kind("cidrgroups", "/apis/cilium.io/v2alpha1/ciliumcidrgroups", cidr_group_of),
    *(Kind(kind.short, kind.path, policy_of, optional=optional(kind)) for kind in POLICY_KINDS),
)

# Of this node alone: which policies govern it.
OWN_LABELS = Kind("nodelabels", "/api/v1/nodes", node_labels_of, "metadata.name={node}", metadata_only=True)


def _key(key: Key) -> str:
    return f"{key.namespace}/{key.name}" if key.namespace else key.name


async def follow(connection: Connection, kind: Kind, node: str, sink: Sink) -> None:
    """Everything of one kind into the sink, for ever."""

    def prune(raw: Raw) -> Any:
        try:
            return kind.read(raw)
        except (PilusError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            name = (raw.get("metadata") or {}).get("name", "?")
            _log.warning("object makes no sense, left out", kind=kind.name, name=name, error=repr(error))
            return None

    selector = kind.field_selector.format(node=node)
    events = watch(
        connection, kind.path, prune=prune, field_selector=selector, optional=kind.optional, metadata_only=kind.metadata_only
    )
    told: dict[Key, Any] = {}  # of objects that change with every heartbeat, and in what we read seldom
    async for event in events:
        match event:
            case Upsert(key, fact):
                if kind.metadata_only:
                    if key in told and told[key] == fact:
                        continue
                    told[key] = fact
                sink.put(kind.name, _key(key), fact)
            case Gone(key):
                told.pop(key, None)
                sink.put(kind.name, _key(key), None)
            case InSync():
                sink.synced(kind.name)


async def follow_all(connection: Connection, node: str, sink: Sink, kinds: Iterable[Kind] = KINDS) -> None:
    async with asyncio.TaskGroup() as tasks:
        for kind in kinds:
            tasks.create_task(follow(connection, kind, node, sink), name=f"watch {kind.name}")
