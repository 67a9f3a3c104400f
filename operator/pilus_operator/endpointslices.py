"""Slices: what every node has to know of every pod, in pieces of at most a hundred.

In: entries (one per endpoint, already judged) and the slices that exist. Out: which endpoint stands in which slice, and which
slices are to be written when. Pure: no clock, no network, names from outside.

Membership is stable: an endpoint stays where it is until it is gone, whatever else happens, because moving one costs every node
two updates. The first change in an idle slice is due at once; what follows within half a second is written together.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pilus_api.connection import Object
from pilus_api.identities import Identity
from pilus_api.watch import Key
from pilus_operator.facts import Address, EndpointObject, Pod

MOST = 100
PAUSE_SECONDS = 0.5
UNSEEN: Final = float("-inf")


def accepted(
    endpoint: EndpointObject, pod: Pod | None, identity: Identity | None, node_address: str, owns: Callable[[str, Address], bool]
) -> tuple[Object | None, list[Address]]:
    """The entry for an endpoint, without its name, and the addresses that were refused.

    An agent can write any endpoint of its node. So the identity is ours, the node is the one that the pod was scheduled to, and an
    address counts only inside a range of that node. None: there is nothing yet that other nodes could use.
    """
    if pod is None or not pod.node or pod.host_network or pod.finished or identity is None or not node_address:
        return None, []
    if endpoint.pod_uid != pod.uid:
        return None, []  # left over from an earlier pod of this name, or written by nobody's agent
    refused = [address for address in endpoint.addresses if not owns(pod.node, address)]
    addressing: dict[int, str] = {}
    for address in endpoint.addresses:
        if address not in refused:
            addressing.setdefault(address.version, str(address))
    if not addressing:
        return None, refused
    pair = {f"ipv{family}": text for family, text in sorted(addressing.items())}
    entry: Object = {
        "id": int(identity),
        "networking": {"addressing": [pair], "node": node_address},
        "encryption": {"key": endpoint.encryption_key} if endpoint.encryption_key else {},
    }
    if endpoint.ports:
        entry["named-ports"] = [{"name": name, "port": port, "protocol": protocol} for name, port, protocol in endpoint.ports]
    return entry, refused


@dataclass(slots=True)
class Slice:
    """`members` is what we want in it; `written` what stands there (None: it does not exist)."""

    namespace: str
    members: dict[str, Object] = field(default_factory=dict)
    written: dict[str, Object] | None = None
    version: str = ""
    last_write: float = UNSEEN

    @property
    def dirty(self) -> bool:
        return self.members != (self.written or {})

    def due(self) -> float:
        return self.last_write + PAUSE_SECONDS


class Slices:
    """All slices. `new_name` makes a name that no slice has."""

    def __init__(self, new_name: Callable[[], str]) -> None:
        self._new_name = new_name
        self.slices: dict[str, Slice] = {}
        self._where: dict[Key, str] = {}
        self._by_namespace: dict[str, set[str]] = {}
        self._dirty: set[str] = set()

    def adopt(self, name: str, namespace: str, entries: Iterable[Object], version: str) -> None:
        """A slice as the API server has it. Its endpoints stay in it; of an endpoint in two slices, the first seen counts."""
        entries = list(entries)
        held = self.slices.get(name)
        if held is None:
            held = self._add(name, namespace)
            for entry in entries:
                key = Key(namespace, entry["name"])
                if key not in self._where and len(held.members) < MOST:
                    self._where[key] = name
                    held.members[entry["name"]] = _unnamed(entry)
        held.written = {entry["name"]: _unnamed(entry) for entry in entries}
        held.version = version
        self._note(name)

    def vanished(self, name: str) -> None:
        """A slice is not there any more: either we deleted it, or it has to be made again."""
        held = self.slices.get(name)
        if held is None:
            return
        held.written, held.version = None, ""
        self._note(name)

    def set(self, key: Key, entry: Object | None) -> None:
        """What an endpoint's entry is to be; None: there is none."""
        name = self._where.get(key)
        if entry is None:
            if name is None:
                return
            del self._where[key]
            del self.slices[name].members[key.name]
        else:
            if name is None:
                name = self._where[key] = self._place(key.namespace)
            if self.slices[name].members.get(key.name) == entry:
                return
            self.slices[name].members[key.name] = entry
        self._note(name)

    def members(self) -> list[Key]:
        return list(self._where)

    def _place(self, namespace: str) -> str:
        """The fullest slice with room, so that few are needed; slices that were never written come last."""
        best, most = "", -1
        for name in self._by_namespace.get(namespace, ()):
            size = len(self.slices[name].members)
            if most < size < MOST:
                best, most = name, size
        if most >= 0:
            return best
        name = self._new_name()
        self._add(name, namespace)
        return name

    def _add(self, name: str, namespace: str) -> Slice:
        made = self.slices[name] = Slice(namespace)
        self._by_namespace.setdefault(namespace, set()).add(name)
        return made

    def _note(self, name: str) -> None:
        held = self.slices[name]
        if held.dirty or (not held.members and held.written is not None):
            self._dirty.add(name)
            return
        self._dirty.discard(name)
        if not held.members and held.written is None:
            self._forget(name)

    def _forget(self, name: str) -> None:
        names = self._by_namespace[self.slices[name].namespace]
        names.discard(name)
        if not names:
            del self._by_namespace[self.slices[name].namespace]
        del self.slices[name]

    def due(self, now: float) -> list[str]:
        """The slices to write now, longest unwritten first."""
        found = [name for name in self._dirty if self.slices[name].due() <= now]
        return sorted(found, key=lambda name: (self.slices[name].last_write, name))

    def next_due(self) -> float | None:
        return min((self.slices[name].due() for name in self._dirty), default=None)

    def begin(self, name: str, now: float) -> tuple[Slice, dict[str, Object]]:
        """A write begins: what is to be written."""
        held = self.slices[name]
        held.last_write = now
        return held, dict(held.members)

    def wrote(self, name: str, members: Mapping[str, Object] | None, version: str) -> None:
        """A write has succeeded; None: the slice was deleted."""
        held = self.slices[name]
        held.written, held.version = (dict(members), version) if members is not None else (None, "")
        self._note(name)


def _unnamed(entry: Object) -> Object:
    return {key: value for key, value in entry.items() if key != "name"}


def slice_object(name: str, namespace: str, members: Mapping[str, Object], version: str) -> Object:
    metadata = {"name": name} | ({"resourceVersion": version} if version else {})
    return {
        "apiVersion": "cilium.io/v2alpha1",
        "kind": "CiliumEndpointSlice",
        "metadata": metadata,
        "namespace": namespace,
        "endpoints": [{"name": endpoint, **entry} for endpoint, entry in sorted(members.items())],
    }
