"""Counters: packets and bytes by hook and reason, summed over the CPUs. Exact: nothing is sampled or suppressed.

In: the map `counters`. Out: drops and forwards with words. Never: a reset; programs count from the load of the map on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pilus_maps import Datapath
from pilus_maps.layout import Layout
from pilus_observer.words import Words


@dataclass(frozen=True, slots=True)
class Count:
    """`number` 0 and `reason` None: what passed. `audited`: of that, what a policy in audit mode would refuse."""

    hook: str
    direction: str | None
    number: int
    reason: str | None
    packets: int
    bytes: int
    audited: bool = False


def totals(rows: Mapping[bytes, bytes], key: Layout, value: Layout) -> dict[int, tuple[int, int]]:
    """Index -> packets and bytes over all CPUs, of the rows that have any. A CPU's value starts at a multiple of 8 bytes."""
    stride = (value.size + 7) // 8 * 8
    found: dict[int, tuple[int, int]] = {}
    for raw_key, raw in rows.items():
        if raw.count(0) == len(raw):  # most of them, and far cheaper than to decode 64 CPUs of each
            continue
        parts = [value.decode(raw[start : start + value.size]) for start in range(0, len(raw), stride)]
        found[key.decode(raw_key)] = (sum(part["packets"] for part in parts), sum(part["bytes"] for part in parts))
    return found


def counts(summed: Mapping[int, tuple[int, int]], words: Words, reasons: int) -> list[Count]:
    """`reasons`: how many a hook has (PILUS_REASONS)."""
    found = []
    for index, (packets, size) in sorted(summed.items()):
        hook, number = divmod(index, reasons)
        if number == words.audited:
            found.append(Count(words.hook(hook), words.hook_direction(hook), 0, None, packets, size, audited=True))
            continue
        text = words.reason(number) if number else None
        found.append(Count(words.hook(hook), words.hook_direction(hook), number, text, packets, size))
    return found


def read(datapath: Datapath) -> list[Count]:
    """Everything that was counted. Raises KernelError."""
    held = datapath.map("counters")
    if held.key is None:
        return []
    words = Words(datapath.description)
    return counts(totals(held.items_raw(), held.key, held.value), words, held.max_entries // max(words.hook_count, 1))


def item(found: list[Count], lost: int) -> dict[str, Any]:
    """As docs/observer-api.md states it."""

    def shown(count: Count) -> dict[str, Any]:
        return {"hook": count.hook, "direction": count.direction, "packets": count.packets, "bytes": count.bytes}

    return {
        "drops": [{"reason": count.reason, "number": count.number, **shown(count)} for count in found if count.number],
        "forwards": [shown(count) for count in found if not count.number and not count.audited],
        "audited": [shown(count) for count in found if count.audited],
        "lost": lost,
    }
