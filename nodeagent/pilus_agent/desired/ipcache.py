"""Who has which address: the rows of `ipcache`, each named by where it comes from, so that one pod more costs one row. Pure.

Of two origins for one address the stronger holds: this node's own pods, this node, other nodes, slices; of equals the lower name.
"""

from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

from pilus_agent.desired.addresses import host_prefix, raw
from pilus_agent.desired.nodes import LOCAL, POD, RangeIndex
from pilus_agent.facts import Attachment, Node, Slice
from pilus_api.identities import Identity

Record = dict[str, object]


class Strength(IntEnum):
    LOCAL_POD = 0
    OWN_NODE = 1  # another node's object can't take this node's address
    NODE = 2
    SLICE = 3


Origin = tuple[Strength, str]
Key = tuple[int, bytes]  # length, address


def _key(record: Mapping[str, Any]) -> Key:
    return record["length"], record["address"]


class IpCache:
    """`rows` is what holds; `changed` is what has moved since `take_changes`."""

    def __init__(self) -> None:
        self._by_origin: dict[Origin, dict[Key, tuple[Record, Record]]] = {}
        self._claims: dict[Key, dict[Origin, tuple[Record, Record]]] = {}
        self.rows: dict[Key, tuple[Record, Record]] = {}
        self._changed: set[Key] = set()

    def put(self, origin: Origin, rows: Iterable[tuple[Record, Record]]) -> None:
        """Everything this origin says; what it said before and does not say now is withdrawn."""
        now = {_key(key): (key, value) for key, value in rows}
        before = self._by_origin.get(origin, {})
        for key in before.keys() - now.keys():
            self._claims[key].pop(origin, None)
            self._settle(key)
        for key, row in now.items():
            if before.get(key) != row:
                self._claims.setdefault(key, {})[origin] = row
                self._settle(key)
        if now:
            self._by_origin[origin] = now
        else:
            self._by_origin.pop(origin, None)

    def withdraw(self, origin: Origin) -> None:
        self.put(origin, ())

    def origins(self, strength: Strength) -> set[str]:
        return {name for kind, name in self._by_origin if kind == strength}

    def _settle(self, key: Key) -> None:
        claims = self._claims.get(key)
        if not claims:
            self._claims.pop(key, None)
            if self.rows.pop(key, None) is not None:
                self._changed.add(key)
            return
        row = claims[min(claims)]
        if self.rows.get(key) != row:
            self.rows[key] = row
            self._changed.add(key)

    def take_changes(self) -> dict[Key, tuple[Record, Record] | None]:
        """What has moved, with its row, or None where there is none any more."""
        changed = {key: self.rows.get(key) for key in self._changed}
        self._changed = set()
        return changed


def local_rows(attachment: Attachment, identity: Identity) -> Iterable[tuple[Record, Record]]:
    for address in attachment.addresses:
        yield host_prefix(address), {"identity": identity, "flags": POD | LOCAL}


def slice_rows(slice_: Slice, ranges: RangeIndex, nodes: Mapping[str, Node], own: str) -> Iterable[tuple[Record, Record]]:
    """An address counts only inside the range of the node that the slice names, and never inside our own ranges."""
    for endpoint in slice_.endpoints:
        holder = ranges.holder(endpoint.address)
        if holder is None or holder == own:
            continue
        if endpoint.node is not None and endpoint.node not in nodes[holder].addresses:
            continue
        node = endpoint.node or next(iter(nodes[holder].addresses), None)
        if node is None:
            continue
        value = {"identity": endpoint.identity, "flags": POD, "tunnel_family": node.version, "tunnel": raw(node)}
        yield host_prefix(endpoint.address), value
