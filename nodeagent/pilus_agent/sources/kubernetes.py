"""Kubernetes as a source: objects of the API server become facts.

In: raw JSON of pods of this node, namespaces, identities, nodes, slices and policies. Out: facts, put into a sink. What makes no
sense is left out and said once: one broken object never stops the others. Never: decisions.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Protocol

import structlog

from pilus_agent.facts import Address, AllocatedIdentity, Network, Node, Pod, RemoteEndpoint, Slice
from pilus_api.connection import Connection
from pilus_api.errors import PilusError
from pilus_api.identities import Identity
from pilus_api.labels import from_security_labels
from pilus_api.watch import Gone, InSync, Key, Upsert, watch

_log = structlog.get_logger(__name__)
Raw = Mapping[str, Any]

_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_ENDED = {"Succeeded", "Failed"}


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
        return ip_address(str(text))
    except ValueError:
        return None


def _networks(texts: object) -> tuple[Network, ...]:
    found = []
    for text in texts if isinstance(texts, list) else ():
        try:
            found.append(ip_network(str(text), strict=False))
        except ValueError:
            _log.warning("not an address range, left out", range=str(text))
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


def pod_of(raw: Raw) -> Pod:
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    ports = {
        (str(port["name"]), _PROTOCOLS.get(port.get("protocol", "TCP"), 6), int(port["containerPort"]))
        for container in spec.get("containers") or []
        for port in container.get("ports") or []
        if port.get("name")
    }
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        labels=tuple(sorted((metadata.get("labels") or {}).items())),
        service_account=spec.get("serviceAccountName") or "",
        host_network=bool(spec.get("hostNetwork")),
        ended=(raw.get("status") or {}).get("phase") in _ENDED,
        ports=frozenset(ports),
    )


def namespace_of(raw: Raw) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((raw["metadata"].get("labels") or {}).items()))


def identity_of(raw: Raw) -> AllocatedIdentity:
    return AllocatedIdentity(Identity(int(raw["metadata"]["name"])), from_security_labels(raw.get("security-labels") or {}))


def slice_of(raw: Raw) -> Slice:
    endpoints = []
    for entry in raw.get("endpoints") or []:
        networking = entry.get("networking") or {}
        node = address_of(networking.get("node")) if networking.get("node") else None
        for pair in networking.get("addressing") or []:
            for text in (pair.get("ipv4"), pair.get("ipv6")):
                address = address_of(text) if text else None
                if address is not None:
                    name = f"{raw.get('namespace', '')}/{entry.get('name', '')}"
                    endpoints.append(RemoteEndpoint(address, Identity(int(entry.get("id") or 0)), node, name))
    return Slice(raw["metadata"]["name"], tuple(endpoints))


def policy_of(raw: Raw) -> PolicyObject:
    metadata = raw["metadata"]
    return PolicyObject(raw, metadata["uid"], int(metadata.get("generation") or 0))


@dataclass(frozen=True, slots=True)
class Kind:
    """One collection to watch. `field_selector` may name the node as {node}."""

    name: str
    path: str
    read: Callable[[Raw], Any]
    field_selector: str = ""


KINDS = (
    Kind("nodes", "/apis/cilium.io/v2/ciliumnodes", node_of),
    Kind("pods", "/api/v1/pods", pod_of, "spec.nodeName={node}"),
    Kind("namespaces", "/api/v1/namespaces", namespace_of),
    Kind("identities", "/apis/cilium.io/v2/ciliumidentities", identity_of),
    Kind("slices", "/apis/cilium.io/v2alpha1/ciliumendpointslices", slice_of),
    Kind("cnp", "/apis/cilium.io/v2/ciliumnetworkpolicies", policy_of),
    Kind("ccnp", "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies", policy_of),
    Kind("knp", "/apis/networking.k8s.io/v1/networkpolicies", policy_of),
)


def _key(key: Key) -> str:
    return f"{key.namespace}/{key.name}" if key.namespace else key.name


async def follow(connection: Connection, kind: Kind, node: str, sink: Sink) -> None:
    """Everything of one kind into the sink, for ever."""

    def prune(raw: Raw) -> Any:
        try:
            return kind.read(raw)
        except (PilusError, KeyError, TypeError, ValueError, AttributeError) as error:
            name = (raw.get("metadata") or {}).get("name", "?")
            _log.warning("object makes no sense, left out", kind=kind.name, name=name, error=repr(error))
            return None

    events = watch(connection, kind.path, prune=prune, field_selector=kind.field_selector.format(node=node))
    async for event in events:
        match event:
            case Upsert(key, fact):
                sink.put(kind.name, _key(key), fact)
            case Gone(key):
                sink.put(kind.name, _key(key), None)
            case InSync():
                sink.synced(kind.name)


async def follow_all(connection: Connection, node: str, sink: Sink) -> None:
    async with asyncio.TaskGroup() as tasks:
        for kind in KINDS:
            tasks.create_task(follow(connection, kind, node, sink), name=f"watch {kind.name}")
