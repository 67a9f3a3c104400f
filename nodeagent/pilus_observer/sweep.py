"""The sweep: expired flow entries go, and each endpoint's quota is counted anew.

In: the flow tables and the time-outs in `settings`. Out: deletions in batches, and the map `quotas`. The programs check time-outs
themselves, so an entry that stays too long costs room, never a wrong answer; who deletes too early costs a connection its state,
so each entry is looked at again right before it goes.
"""

import errno
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pilus_maps import Datapath, KernelError, TypedMap, syscall
from pilus_observer.flows import TABLES, picker
from pilus_observer.words import Words

EVERY = 10.0
_BATCH = 1024


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds without a packet after which an entry is void, by the state's name."""

    syn: int = 60
    established: int = 8000
    closing: int = 10
    other: int = 60

    def of(self, state: str) -> int:
        return int(getattr(self, state, self.other)) if state in self.__slots__ else self.other


def timeouts(settings: Mapping[str, Any] | None) -> Timeouts:
    """Out of the row of `settings`; a field that is absent or 0 means the default."""
    held = settings or {}
    given = {name: held[f"timeout_{name}"] for name in Timeouts.__slots__ if held.get(f"timeout_{name}")}
    return Timeouts(**given)


def expired(last_seen: int, timeout: int, now: int) -> bool:
    """Seconds. An entry written after `now` was read is young, not old."""
    return now - last_seen > timeout


def quota_writes(counted: Mapping[int, int], held: Mapping[int, int]) -> tuple[dict[int, int], list[int]]:
    """What to write, and what to delete, so that `quotas` says what was counted."""
    writes = {endpoint: count for endpoint, count in counted.items() if held.get(endpoint) != count}
    return writes, sorted(endpoint for endpoint in held if endpoint not in counted)


@dataclass(frozen=True, slots=True)
class Swept:
    """One table's sweep. `packets` and `bytes` are what the deleted entries had counted."""

    table: str
    entries: int = 0
    packets: int = 0
    bytes: int = 0


class _Fields:
    """The numbers of an entry that the sweep needs."""

    def __init__(self, datapath: Datapath, table: str) -> None:
        described = datapath.description["maps"][table]["value"]["fields"]
        names = Words(datapath.description).names("pilus_flow_state")
        limits = timeouts(datapath.map("settings").lookup(0))
        self._limits = {number: limits.of(name) for number, name in names.items()}
        self._other = limits.other
        self._age = picker(described, ("state", "last_seen"))
        self.counts = picker(described, ("packets", "bytes"))
        self._endpoint = picker(described, ("endpoint",))

    def void(self, raw: bytes, now: int) -> bool:
        state, last_seen = self._age(raw)
        return expired(last_seen, self._limits.get(state, self._other), now)

    def endpoint(self, raw: bytes) -> int:
        return self._endpoint(raw)[0]


def boot_seconds() -> int:
    """The programs' clock (bpf_ktime_get_boot_ns) in whole seconds."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


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


def _sweep(datapath: Datapath, name: str, clock: Callable[[], int]) -> tuple[Swept, Counter[int]]:
    """Delete what has expired, and count by endpoint what stays."""
    table, fields, now = datapath.map(name), _Fields(datapath, name), clock()
    stays: Counter[int] = Counter()
    void: list[bytes] = []
    for key, raw in table.items_raw().items():
        if fields.void(raw, now):
            void.append(key)
        else:
            stays[fields.endpoint(raw)] += 1
    entries = packets = size = 0
    for start in range(0, len(void), _BATCH):
        chunk: list[bytes] = []
        for key in void[start : start + _BATCH]:
            latest = table.lookup_raw(key)
            if latest is None:
                continue
            if not fields.void(latest, now):  # a packet came meanwhile
                stays[fields.endpoint(latest)] += 1
                continue
            counted = fields.counts(latest)
            packets, size = packets + counted[0], size + counted[1]
            chunk.append(key)
        entries += _delete(table, chunk)
    return Swept(name, entries, packets, size), stays


def _recount(datapath: Datapath, counted: Mapping[int, int]) -> None:
    """`quotas`: endpoint -> how many entries of `flows` it has. Programs count up meanwhile; the next sweep puts that right."""
    table = datapath.map("quotas")
    field = table.value.names[0]
    held = {key: value if table.value.bare else value[field] for key, value in table.items()}
    writes, gone = quota_writes({endpoint: count for endpoint, count in counted.items() if endpoint}, held)
    if table.kind == "array":  # its rows stay for ever
        writes |= {endpoint: 0 for endpoint in gone if held[endpoint]}
        gone = []
    for endpoint, count in writes.items():
        table.update(endpoint, count if table.value.bare else {field: count})
    for endpoint in gone:
        table.delete(endpoint)


def sweep(datapath: Datapath, clock: Callable[[], int] = boot_seconds) -> list[Swept]:
    """Both tables and the quotas, as far as this datapath has them. Raises KernelError."""
    maps = datapath.description["maps"]
    done: list[Swept] = []
    for name in TABLES:
        if name not in maps:
            continue
        swept, stays = _sweep(datapath, name, clock)
        done.append(swept)
        if name == "flows" and "quotas" in maps:
            _recount(datapath, stays)
    return done
