"""Flow tables, read by field names."""

import struct
from typing import Any

import pytest

from pilus_maps.layout import Layout
from pilus_observer.events import End
from pilus_observer.flows import Snapshot, picker

from .make import fields, layout

FIELDS = fields(("packets", 8), ("state", 1), ("pad", 1), ("zone", 2), ("last_seen", 4))
RAW = struct.pack("=QBBHI", 7, 3, 0, 5, 1000)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("packets",), (7,)),
        (("last_seen", "state"), (1000, 3)),
        (("state", "absent", "packets"), (3, 0, 7)),
        (("absent",), (0,)),
        (("zone", "zone"), (5, 5)),
        ((), ()),
    ],
)
def test_picker(names: tuple[str, ...], expected: tuple[int, ...]) -> None:
    assert picker(FIELDS, names)(RAW) == expected


def address(*named: int) -> bytes:
    return bytes(named) + bytes(16 - len(named))


def described(*named: tuple[str, int]) -> dict[str, Any]:
    held = layout(*named)
    for field in held["fields"]:
        if field["name"] in {"source", "destination"}:
            field |= {"size": 4, "count": 4, "fields": []}
    return held


KEY = Layout(
    described(
        ("zone", 4),
        ("family", 4),
        ("source", 16),
        ("destination", 16),
        ("source_port", 2),
        ("destination_port", 2),
        ("protocol", 4),
    )
)
IDENTITIES = (("source_identity", 4), ("destination_identity", 4))
VALUE = Layout(described(("packets", 8), ("bytes", 8), ("last_seen", 4), ("flags", 2), ("role", 2), *IDENTITIES, ("state", 4)))
HELD: dict[str, dict[str, Any]] = {
    "key": {
        "zone": 1, "family": 4, "source": address(10, 0, 0, 1), "destination": address(10, 0, 0, 2), "source_port": 4000,
        "destination_port": 80, "protocol": 6,
    },
    "value": {
        "packets": 3, "bytes": 300, "last_seen": 90, "flags": 0, "role": 1, "state": 2,
        "source_identity": 300, "destination_identity": 301,
    },
}  # fmt: skip


def shown(value: dict[str, Any] | None = None, **key: Any) -> dict[str, Any]:
    rows = [(KEY.encode(HELD["key"] | key), VALUE.encode(HELD["value"] | (value or {})))]
    snapshot = Snapshot("flows", 100, rows, KEY, VALUE, {2: "established"}, {1: "pod_out"})
    [item] = snapshot.items(0, 10, lambda end: End(end.address, end.port, end.identity, (), "d/p"))
    return item


def test_a_flow_as_the_api_shows_it() -> None:
    end = {"labels": [], "name": "d/p"}
    assert shown() == {
        "zone": "pod_out", "family": 4, "protocol": "TCP",
        "source": {"address": "10.0.0.1", "port": 4000, "identity": 300, **end},
        "destination": {"address": "10.0.0.2", "port": 80, "identity": 301, **end},
        "state": "established", "table": "flows", "packets": 3, "bytes": 300, "last_seen_seconds": 10,
        "verdict": "FORWARDED", "reply": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "key", "expected"),
    [
        ({"role": 0}, {}, {"reply": False, "verdict": "FORWARDED"}),
        ({"flags": 1}, {}, {"reply": True, "verdict": "DROPPED"}),
        ({"last_seen": 105}, {}, {"last_seen_seconds": 0}),
        ({"state": 9}, {"zone": 8}, {"state": "9", "zone": "8"}),
    ],
)
def test_fields(value: dict[str, Any], key: dict[str, Any], expected: dict[str, Any]) -> None:
    item = shown(value, **key)
    assert {name: item[name] for name in expected} == expected


def test_ports_of_icmp_are_none() -> None:
    assert shown(protocol=1)["source"]["port"] is None


def test_structs_without_these_fields_are_no_error() -> None:
    bare = Layout(layout(("", 4)))
    small = Layout(layout(("last_seen", 4)))
    [item] = Snapshot("flows", 9, [(b"\1\0\0\0", b"\2\0\0\0")], Layout(layout(("zone", 4))), small).items(0, 1, lambda end: end)
    assert (item["zone"], item["last_seen_seconds"], item["packets"], item["source"]["address"]) == ("1", 7, 0, None)
    assert bare.bare


def test_a_table_that_is_not_there() -> None:
    assert Snapshot("embryonic").items(0, 10, lambda end: end) == []
