"""From desired rows to the kernel's bytes, and the difference to what it holds: one tracker for each table. Pure but for layouts.

`Tables` is BIND's and DIFF's meeting point: rows come in as records by field name, go out as bytes in the order of writing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilus_agent.diff.delta import DeltaTracker
from pilus_agent.diff.order import WRITE_ORDER
from pilus_maps.layout import Layout

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TableLayout:
    key: Layout
    value: Layout
    max_entries: int


@dataclass(slots=True)
class Tables:
    layouts: dict[str, TableLayout]
    trackers: dict[str, DeltaTracker] = field(init=False)

    def __post_init__(self) -> None:
        self.trackers = {name: DeltaTracker() for name in WRITE_ORDER}

    @classmethod
    def of(cls, maps: Mapping[str, Any]) -> "Tables":
        """From the `maps` of the loader's description."""
        return cls({
            name: TableLayout(Layout(maps[name]["key"]), Layout(maps[name]["value"]), maps[name]["max_entries"])
            for name in WRITE_ORDER
        })  # fmt: skip

    def encode(self, table: str, rows: Iterable[tuple[Record | int, Record | int]]) -> dict[bytes, bytes]:
        layout = self.layouts[table]
        return {layout.key.encode(key): layout.value.encode(value) for key, value in rows}

    def want_all(self, table: str, rows: Iterable[tuple[Record | int, Record | int]]) -> None:
        self.trackers[table].want_all(self.encode(table, rows))

    def want(self, table: str, key: Record | int, value: Record | int | None) -> None:
        layout = self.layouts[table]
        self.trackers[table].want(layout.key.encode(key), None if value is None else layout.value.encode(value))

    @property
    def full(self) -> dict[str, tuple[int, int]]:
        """Tables that can't hold what is wanted: wanted rows and room."""
        return {
            name: (len(tracker.wanted), self.layouts[name].max_entries)
            for name, tracker in self.trackers.items()
            if len(tracker.wanted) > self.layouts[name].max_entries
        }
