"""Counters, summed."""

import struct
from typing import Any

from pilus_maps.layout import Layout
from pilus_observer.counters import Count, counts, item, totals
from pilus_observer.words import Words

from .make import layout

KEY, VALUE = Layout(layout(("", 4))), Layout(layout(("packets", 8), ("bytes", 8)))


def row(*cpus: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("=QQ", *cpu) for cpu in cpus)


def key(number: int) -> bytes:
    return struct.pack("=I", number)


def test_totals_are_over_all_cpus() -> None:
    rows = {key(0): row((1, 10), (2, 20), (0, 0)), key(5): row((0, 0), (0, 0), (0, 0)), key(389): row((0, 0), (0, 0), (7, 70))}
    assert totals(rows, KEY, VALUE) == {0: (3, 30), 389: (7, 70)}


def test_a_value_that_is_no_multiple_of_eight_bytes() -> None:
    odd = Layout(layout(("packets", 8), ("bytes", 4)))
    raw = struct.pack("=QI4xQI4x", 1, 2, 10, 20)
    assert totals({key(0): raw}, KEY, odd) == {0: (11, 22)}


def test_counts_in_words_and_as_the_api_shows_them(description: dict[str, Any]) -> None:
    found = counts({256 * 2: (1, 100), 133: (2, 200), 256 + 203: (3, 300), 256 * 5 + 255: (4, 400)}, Words(description), 256)
    assert found == [
        Count("pod_from", "egress", 133, "Policy denied", 2, 200),
        Count("pod_to", "ingress", 203, "Endpoint policy program not available", 3, 300),
        Count("overlay_from", "ingress", 0, None, 1, 100),
        Count("uplink_to", "egress", 255, "reason 255", 4, 400),
    ]
    shown = item(found, 9)
    assert shown["lost"] == 9
    assert shown["forwards"] == [{"hook": "overlay_from", "direction": "ingress", "packets": 1, "bytes": 100}]
    assert shown["drops"][0] == {
        "reason": "Policy denied", "number": 133, "hook": "pod_from", "direction": "egress", "packets": 2, "bytes": 200,
    }  # fmt: skip
