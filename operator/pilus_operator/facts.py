"""Facts: what the operator keeps of the API server's objects.

In: raw JSON, as the lister-watcher brings it. Out: frozen dataclasses with what decisions need, a few hundred bytes each. Never
raises for an object that somebody with the right to write it has filled with nonsense: what can't be read is absent.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from sys import intern
from typing import Any

from pilus_api.connection import Object
from pilus_api.resources import pilusrangeclaim

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What the operator writes into an identity that nobody uses: since when. Cilium's own mark, so that its tools see it.
UNUSED_SINCE = "io.cilium.heartbeat"
KEEP_NODE = "cilium.io/do-not-gc"


@dataclass(frozen=True, slots=True)
class Pod:
    uid: str
    labels: tuple[tuple[str, str], ...]
    service_account: str
    node: str  # "" before it is scheduled
    host_network: bool
    finished: bool


@dataclass(frozen=True, slots=True)
class Node:
    uid: str
    address: str  # the internal address that tunnels end at: IPv4 if there is one


@dataclass(frozen=True, slots=True)
class IdentityObject:
    """A CiliumIdentity; `labels` is its `security-labels` as sorted pairs."""

    labels: tuple[tuple[str, str], ...]
    uid: str
    version: str
    unused_since: str


@dataclass(frozen=True, slots=True)
class NodeObject:
    """A CiliumNode. `owner` is the uid of the Node object with which it ends, "" if it is nobody's (a virtual machine)."""

    uid: str
    version: str
    ranges: tuple[Network, ...]
    owner: str
    kept: bool  # whatever happens to its owner


@dataclass(frozen=True, slots=True)
class Claim:
    """A PilusRangeClaim: `range` is `node`'s, whatever CiliumNode says."""

    node: str
    range: Network
    uid: str
    version: str


@dataclass(frozen=True, slots=True)
class EndpointObject:
    """A CiliumEndpoint: what a node's agent says about a pod."""

    identity: int  # 0: none yet
    pod_uid: str
    addresses: tuple[Address, ...]
    ports: tuple[tuple[str, int, str], ...]
    encryption_key: int


@dataclass(frozen=True, slots=True)
class SliceObject:
    """A CiliumEndpointSlice; `endpoints` as it stands there, in order."""

    namespace: str
    endpoints: tuple[Object, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Realised:
    """One policy on one node: whether this generation is in the kernel, and if not, why. `unenforced`: fields not in force.

    `audited`: it is in audit mode there. `selected`: pods that it governs there. `notes`: what may not be meant as it is written.
    `pods`: namespace, name and uid of some that it governs, where not all of it is in force.
    """

    generation: int
    realised: bool
    error: str
    unenforced: tuple[str, ...] = ()
    audited: bool = False
    selected: int = 0
    notes: tuple[str, ...] = ()
    pods: tuple[tuple[str, str, str], ...] = ()


def _map(held: Any) -> dict[str, Any]:
    return held if isinstance(held, dict) else {}


def _list(held: Any) -> list[Any]:
    return held if isinstance(held, list) else []


def _pairs(held: Any) -> tuple[tuple[str, str], ...]:
    # A cluster's labels are few words in many pods: interned, they are kept once.
    return tuple(sorted((intern(key), intern(value)) for key, value in _map(held).items() if isinstance(value, str)))


def _text(held: Any) -> str:
    """A number is an address to the library. Raises ValueError."""
    if not isinstance(held, str):
        raise ValueError(f"a {type(held).__name__} is no text")
    return held


def _count(held: Any) -> int:
    return held if isinstance(held, int) and held > 0 else 0


def _addresses(texts: list[Any]) -> tuple[Address, ...]:
    found = []
    for text in texts:
        try:
            found.append(ip_address(_text(text)))
        except ValueError:
            continue
    return tuple(found)


def _networks(texts: list[Any]) -> tuple[Network, ...]:
    found = []
    for text in texts:
        try:
            found.append(ip_network(_text(text)))
        except ValueError:
            continue
    return tuple(found)


def pod(raw: Object) -> Pod:
    metadata, spec, status = raw["metadata"], _map(raw.get("spec")), _map(raw.get("status"))
    return Pod(
        uid=metadata.get("uid", ""),
        labels=_pairs(metadata.get("labels")),
        service_account=intern(spec.get("serviceAccountName") or ""),
        node=intern(spec.get("nodeName") or ""),
        host_network=bool(spec.get("hostNetwork")),
        finished=status.get("phase") in ("Succeeded", "Failed"),
    )


def namespace(raw: Object) -> tuple[tuple[str, str], ...]:
    """A namespace's labels, sorted."""
    return _pairs(raw["metadata"].get("labels"))


def node(raw: Object) -> Node:
    held = _list(_map(raw.get("status")).get("addresses"))
    internal = _addresses([_map(entry).get("address") for entry in held if _map(entry).get("type") == "InternalIP"])
    first = min(internal, key=lambda address: address.version, default=None)
    return Node(raw["metadata"].get("uid", ""), str(first) if first else "")


def identity(raw: Object) -> IdentityObject:
    metadata = raw["metadata"]
    return IdentityObject(
        labels=_pairs(raw.get("security-labels")),
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
        unused_since=str(_map(metadata.get("annotations")).get(UNUSED_SINCE, "")),
    )


def cilium_node(raw: Object) -> NodeObject:
    metadata, spec = raw["metadata"], _map(raw.get("spec"))
    owners = [_map(owner) for owner in _list(metadata.get("ownerReferences"))]
    return NodeObject(
        uid=metadata.get("uid", ""),
        version=metadata.get("resourceVersion", ""),
        ranges=_networks(_list(_map(spec.get("ipam")).get("podCIDRs"))),
        owner=next((str(owner.get("uid", "")) for owner in owners if owner.get("kind") == "Node"), ""),
        kept=KEEP_NODE in _map(metadata.get("annotations")),
    )


def claim(raw: Object) -> Claim | None:
    metadata, spec = raw["metadata"], _map(raw.get("spec"))
    found = _networks([spec.get("range")])
    if not found or not isinstance(spec.get("node"), str):
        return None
    return Claim(spec["node"], found[0], metadata.get("uid", ""), metadata.get("resourceVersion", ""))


def endpoint(raw: Object) -> EndpointObject:
    status = _map(raw.get("status"))
    networking = _map(status.get("networking"))
    texts = [_map(pair).get(family) for pair in _list(networking.get("addressing")) for family in ("ipv4", "ipv6")]
    owners = [_map(owner) for owner in _list(raw["metadata"].get("ownerReferences"))]
    ports = [_map(port) for port in _list(status.get("named-ports"))]
    number, key = _map(status.get("identity")).get("id"), _map(status.get("encryption")).get("key")
    return EndpointObject(
        identity=number if isinstance(number, int) else 0,
        pod_uid=next((str(owner.get("uid", "")) for owner in owners if owner.get("kind") == "Pod"), ""),
        addresses=_addresses([text for text in texts if text]),
        ports=tuple(
            (str(port["name"]), int(port["port"]), str(port.get("protocol", "TCP")))
            for port in ports
            if "name" in port and isinstance(port.get("port"), int)
        ),
        encryption_key=key if isinstance(key, int) else 0,
    )


def endpoint_slice(raw: Object) -> SliceObject:
    entries = tuple(
        entry for entry in _list(raw.get("endpoints")) if isinstance(entry, dict) and isinstance(entry.get("name"), str)
    )
    return SliceObject(str(raw.get("namespace", "")), entries, raw["metadata"].get("resourceVersion", ""))


def node_status(raw: Object) -> dict[str, Realised]:
    """A PilusNodeStatus: policy uid -> what the node says."""
    found = {}
    for entry in _list(_map(raw.get("status")).get("policies")):
        held = _map(entry)
        if isinstance(held.get("uid"), str) and isinstance(held.get("generation"), int):
            found[intern(held["uid"])] = Realised(
                generation=held["generation"],
                realised=held.get("realised") is True,
                error=str(held.get("error") or ""),
                unenforced=tuple(str(path) for path in _list(held.get("unenforced"))),
                audited=held.get("audited") is True,
                selected=_count(held.get("selected")),
                notes=tuple(str(note) for note in _list(held.get("notes"))),
                pods=tuple(_pod(_map(pod)) for pod in _list(held.get("pods"))),
            )
    return found


def _pod(held: dict[str, Any]) -> tuple[str, str, str]:
    return str(held.get("namespace")), str(held.get("name")), str(held.get("uid"))


def claim_name(network: Network) -> str:
    """The name of a range's claim: two claims of one range can't both exist."""
    return pilusrangeclaim.claim_name(str(network))
