"""The sweep: expired flow entries go, and each endpoint's quota is counted anew.

In: the flow tables and the time-outs in `settings`. Out: deletions in batches, and the map `quotas`. The programs check time-outs
themselves, so an entry that stays too long costs room, never a wrong answer; one deleted too early costs a connection its state.
So an entry goes only with or after its other direction, and is looked at again right before.
"""

import errno
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilus_maps import Datapath, KernelError, TypedMap, syscall
from pilus_observer.flows import TABLES, clock, picker

EVERY = 10.0
# Seconds, by enum pilus_flow_state (bpf/abi.h, PILUS_TIMEOUT_*): SYN, established, closing, other.
TIMEOUTS = (60, 8000, 10, 60)
_BATCH = 1024


def timeouts(settings: Mapping[str, Any] | None) -> tuple[int, ...]:
    """By state, out of the row of `settings`; a time-out that is absent or 0 means the default."""
    given: Sequence[int] = (settings or {}).get("timeout", ())
    return tuple((given[state] if state < len(given) else 0) or default for state, default in enumerate(TIMEOUTS))


def expired(state: int, last_seen: int, limits: Sequence[int], now: int) -> bool:
    """Seconds. An entry written after `now` was read is young, not old; a state that nobody knows is the last one."""
    return now - last_seen > limits[min(state, len(limits) - 1)]


def other_direction(fields: Sequence[Mapping[str, Any]]) -> Callable[[bytes, int], bytes]:
    """By a key's layout: a function from a key and the other direction's zone to the other direction's key."""
    size = {field["name"]: field["size"] * max(field["count"], 1) for field in fields}
    place = {field["name"]: slice(field["offset"], field["offset"] + size[field["name"]]) for field in fields}
    swapped = [pair for pair in (("source", "destination"), ("source_port", "destination_port")) if place.keys() >= set(pair)]

    def other(key: bytes, zone: int) -> bytes:
        made = bytearray(key)
        for one, two in swapped:
            made[place[one]], made[place[two]] = key[place[two]], key[place[one]]
        if "zone" in place:
            made[place["zone"]] = zone.to_bytes(size["zone"], "little")
        return bytes(made)

    return other


def quota_writes(counted: Mapping[int, int], held: Mapping[int, int]) -> dict[int, int]:
    """What to write so that `quotas` says what was counted."""
    wanted = dict.fromkeys(held, 0) | dict(counted)
    return {endpoint: count for endpoint, count in wanted.items() if held.get(endpoint, 0) != count}


@dataclass(frozen=True, slots=True)
class Swept:
    """One table's sweep. `packets` and `bytes` are what the deleted entries had counted."""

    table: str
    entries: int = 0
    packets: int = 0
    bytes: int = 0


class _Table:
    """One flow table, and how to read of an entry what the sweep needs."""

    def __init__(self, datapath: Datapath, name: str, now: int) -> None:
        described = datapath.description["maps"][name]
        fields = described["value"]["fields"]
        self.map = datapath.map(name)
        self._now = now
        self._limits = timeouts(datapath.map("settings").lookup(0))
        self._age = picker(fields, ("state", "last_seen"))
        self._pair_zone = picker(fields, ("pair_zone",))
        self._endpoint = picker(fields, ("endpoint",))
        self._other = other_direction(described["key"]["fields"])
        self.counts = picker(fields, ("packets", "bytes"))

    def old(self, raw: bytes) -> bool:
        state, last_seen = self._age(raw)
        return expired(state, last_seen, self._limits, self._now)

    def void(self, key: bytes, raw: bytes) -> bool:
        """Old, and the other direction too: where one side alone talks, both are needed."""
        if not self.old(raw):
            return False
        other = self.map.lookup_raw(self._other(key, self._pair_zone(raw)[0]))
        return other is None or self.old(other)

    def endpoint(self, raw: bytes) -> int:
        return self._endpoint(raw)[0]


def _delete(table: TypedMap, keys: list[bytes]) -> int:
    """How many are gone through us: one that was not there any more is passed over."""
    gone = 0
    while keys:
        done, number = syscall.delete_batch(table.fd, keys[:_BATCH])
        if number not in (0, errno.ENOENT):
            raise KernelError(f"map {table.name}: {done} of {len(keys)} entries deleted", number)
        gone += done
        keys = keys[done + (1 if number else 0) :]
    return gone


def _sweep(table: _Table) -> tuple[Swept, Counter[int]]:
    """Delete what has expired, and count by endpoint what stays."""
    stays: Counter[int] = Counter()
    old: list[bytes] = []
    for key, raw in table.map.items_raw().items():
        if table.old(raw):
            old.append(key)
        else:
            stays[table.endpoint(raw)] += 1
    entries = packets = size = 0
    for start in range(0, len(old), _BATCH):
        chunk: list[bytes] = []
        for key in old[start : start + _BATCH]:
            latest = table.map.lookup_raw(key)
            if latest is None:
                continue
            if not table.void(key, latest):
                stays[table.endpoint(latest)] += 1
                continue
            counted = table.counts(latest)
            packets, size = packets + counted[0], size + counted[1]
            chunk.append(key)
        entries += _delete(table.map, chunk)
    return Swept(table.map.name, entries, packets, size), stays


def _recount(datapath: Datapath, counted: Mapping[int, int]) -> None:
    """`quotas`: endpoint -> how many entries of `flows` it has. Programs count up meanwhile; the next sweep puts that right."""
    table = datapath.map("quotas")
    if table.key is None:
        return
    held = {table.key.decode(key): table.value.decode(raw) for key, raw in table.items_raw().items() if raw.count(0) != len(raw)}
    for endpoint, used in quota_writes(counted, {number: row["used"] for number, row in held.items()}).items():
        table.update(endpoint, {**held.get(endpoint, {}), "used": used})  # what was refused stays


def sweep(datapath: Datapath, now: Callable[[], int] = clock) -> list[Swept]:
    """Both tables and the quotas, as far as this datapath has them. Raises KernelError."""
    maps = datapath.description["maps"]
    done: list[Swept] = []
    for name in TABLES:
        if name not in maps:
            continue
        swept, stays = _sweep(_Table(datapath, name, now()))
        done.append(swept)
        if name == "flows" and "quotas" in maps:
            _recount(datapath, stays)
    return done
