"""Facts: what the sources have seen, as values. The words between SOURCES and DESIRED.

Nothing here has been decided on, and nothing is complete: a fact may come twice, late, out of order or never.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from pilus_api.identities import Identity
from pilus_api.labels import Labels

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Node:
    """A node, from its CiliumNode. `routers` are its addresses out of its own pod ranges (CiliumInternalIP)."""

    name: str
    addresses: tuple[Address, ...] = ()
    routers: tuple[Address, ...] = ()
    ranges: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of this node, from its Pod object. `labels` are those that make its identity."""

    namespace: str
    name: str
    uid: str
    labels: tuple[tuple[str, str], ...] = ()  # as written, unfiltered
    service_account: str = ""
    host_network: bool = False
    ended: bool = False  # phase Succeeded or Failed: its address may be another's by now
    ports: frozenset[tuple[str, int, int]] = frozenset()  # named container ports: name, protocol, port


@dataclass(frozen=True, slots=True)
class Attachment:
    """What CNI ADD made: a pod's link and addresses. Kept on disk, so that a new agent knows what the old one made."""

    container: str
    interface: str  # inside the pod
    namespace: str
    pod: str
    uid: str
    netns: str
    link: str  # the host's side
    ifindex: int
    mac: str
    gateway_mac: str
    addresses: tuple[Address, ...]
    number: int  # the endpoint's, 1 to 65535


@dataclass(frozen=True, slots=True)
class RemoteEndpoint:
    """One address of a pod that a slice names."""

    address: Address
    identity: Identity
    node: Address | None  # the underlay address of its node
    name: str  # namespace/pod
    ports: frozenset[tuple[str, int, int]] = frozenset()  # as a Pod's


@dataclass(frozen=True, slots=True)
class Slice:
    """A CiliumEndpointSlice."""

    name: str
    endpoints: tuple[RemoteEndpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class AllocatedIdentity:
    number: Identity
    labels: Labels


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service, or of the endpoints behind it; they belong together by name and protocol."""

    name: str
    protocol: int
    port: int


@dataclass(frozen=True, slots=True)
class Service:
    """A Service. `addresses` are its ClusterIPs: none if it is headless or a name for something outside."""

    namespace: str
    name: str
    kind: str = "ClusterIP"
    addresses: tuple[Address, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    local_only: bool = False  # internalTrafficPolicy: Local
    affinity: bool = False  # sessionAffinity: ClientIP
    selects: bool = True  # pods; else somebody writes its endpoints by hand
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class ServiceEndpoint:
    """One endpoint of an EndpointSlice, with what its absent conditions mean already said."""

    address: Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    others: tuple[Address, ...] = ()  # that somebody has written beside it: no packet is sent there, and a rule means them too


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """A part of a Service's endpoints. `service` is namespace/name; empty if it belongs to none."""

    service: str
    ports: tuple[ServicePort, ...] = ()
    endpoints: tuple[ServiceEndpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    """`mode`: what its annotation says of the policies in it, as it is written there; "": nothing."""

    labels: tuple[tuple[str, str], ...]
    mode: str = ""


@dataclass(slots=True)
class Facts:
    """All of them, by what names them. DESIRED reads it; only `wiring` writes."""

    nodes: dict[str, Node] = field(default_factory=dict)
    node_labels: dict[str, Labels] = field(default_factory=dict)  # those that count, by the node's name
    own_labels: Labels | None = None  # all of this node's; None: nobody has told of its Node object yet
    pods: dict[str, Pod] = field(default_factory=dict)  # namespace/name
    namespaces: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    attachments: dict[str, Attachment] = field(default_factory=dict)  # container/interface
    slices: dict[str, Slice] = field(default_factory=dict)
    claims: dict[str, str] = field(default_factory=dict)  # a range's text -> the node that claimed it
    synced: set[str] = field(default_factory=set)  # sources that have said everything once
