"""The kernel's flow tables: what they hold, read by field names, so that a struct may grow and a table may be absent.

In: raw rows of `flows` and `embryonic`, and the layouts that the loader described. Out: rows with the few fields that the sweep
needs, and objects for the API. Never writes (sweep.py does).
"""

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pilus_maps import Datapath
from pilus_maps.layout import Layout
from pilus_observer import words
from pilus_observer.events import End, Item
from pilus_observer.words import Words

TABLES = ("flows", "embryonic")
CLOCK_MONOTONIC_COARSE = 6  # linux/time.h

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def picker(fields: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Callable[[bytes], tuple[int, ...]]:
    """A function from a record's bytes to these numbers, in this order; one that the struct lacks is 0.

    A tenth of what decoding the whole record costs: the sweep does it for every entry.
    """
    placed = {described["name"]: described for described in fields}
    found = sorted((placed[name]["offset"], name) for name in set(names) if name in placed)
    code, end = "=", 0
    for offset, name in found:
        size = placed[name]["size"]
        code += f"{offset - end}x{_CODES[size]}"
        end = offset + size
    packed = struct.Struct(code)
    order = [name for _, name in found]
    places = [order.index(name) if name in order else None for name in names]

    def pick(raw: bytes) -> tuple[int, ...]:
        values = packed.unpack_from(raw)
        return tuple(0 if place is None else values[place] for place in places)

    return pick


def clock() -> int:
    """Seconds of the clock that the programs write `last_seen` with (bpf_ktime_get_coarse_ns)."""
    return int(time.clock_gettime(CLOCK_MONOTONIC_COARSE))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One table as it was at `now`, in seconds of the programs' clock."""

    table: str
    now: int = 0
    rows: list[tuple[bytes, bytes]] = field(default_factory=list)
    key: Layout | None = None
    value: Layout | None = None
    states: Mapping[int, str] = field(default_factory=dict)
    zones: Mapping[int, str] = field(default_factory=dict)
    reply: int = 1  # the role of a flow's other direction
    denied: int = 1  # the flag of one that was refused since

    def items(self, start: int, end: int, name: Callable[[End], End]) -> list[Item]:
        """Rows as docs/observer-api.md states them."""
        if self.key is None or self.value is None:
            return []
        return [self._item(self.key.decode(key), self.value.decode(value), name) for key, value in self.rows[start:end]]

    def _item(self, key: Mapping[str, Any], value: Mapping[str, Any], name: Callable[[End], End]) -> Item:
        held = {**value, **key}  # where both have a field, the key's is the tuple
        family, protocol, zone = held.get("family", 0), held.get("protocol", 0), held.get("zone", 0)

        def end(side: str) -> Item:
            port = None if protocol in words.ICMP else held.get(f"{side}_port")
            address = words.address(family, held.get(side, bytes(16)))
            return name(End(address, port, held.get(f"{side}_identity", 0))).item()

        state = held.get("state", 0)
        return {
            "zone": self.zones.get(zone, str(zone)),
            "family": family or None,
            "protocol": words.protocol(protocol),
            "source": end("source"),
            "destination": end("destination"),
            "state": self.states.get(state, str(state)),
            "table": self.table,
            "packets": held.get("packets", 0),
            "bytes": held.get("bytes", 0),
            "last_seen_seconds": max(self.now - held.get("last_seen", self.now), 0),
            "verdict": words.DROPPED if held.get("flags", 0) & self.denied else words.FORWARDED,
            "reply": held.get("role") == self.reply,
        }


def snapshot(datapath: Datapath, table: str, now: int) -> Snapshot:
    """What `table` holds; nothing where this datapath has no such table. Raises KernelError."""
    if table not in datapath.description["maps"]:
        return Snapshot(table, now)
    held = datapath.map(table)
    enums, known = datapath.description["enums"], Words(datapath.description)
    return Snapshot(
        table, now, list(held.items_raw().items()), held.key, held.value,
        known.names("pilus_flow_state", "PILUS_FLOW_"), known.names("pilus_zone"),
        enums.get("pilus_flow_role", {}).get("PILUS_FLOW_REPLY", 1), enums.get("pilus_flow_flag", {}).get("PILUS_FLOW_DENIED", 1),
    )  # fmt: skip
