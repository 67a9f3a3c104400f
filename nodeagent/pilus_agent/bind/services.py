"""Numbers for sets of backends, and the rows of services and backends. Pure.

In: changed frontends, and what the kernel holds after a restart. Out: changes of the tables `backends` and `services`. A set
keeps its number as long as the kernel has it; several frontends with the same backends share one set.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pilus_agent.bind.policy import number
from pilus_agent.bind.policy_rows import Change
from pilus_agent.desired.addresses import family, raw
from pilus_agent.desired.services import Backend, BackendSet, Frontend, State, set_name

Record = dict[str, Any]


def frontend_key(frontend: Frontend) -> Record:
    """The record of a struct pilus_service_key."""
    address = frontend.address
    return {"family": family(address), "address": raw(address), "port": frontend.port, "protocol": frontend.protocol}


def service_row(frontend: Frontend, set_number: int, count: int) -> tuple[Record, Record]:
    key = frontend_key(frontend)
    return key, {"own": key, "set": set_number, "count": count}


def backend_rows(set_number: int, backends: BackendSet) -> Iterator[tuple[Record, Record]]:
    for slot, backend in enumerate(backends):
        key = {"set": set_number, "slot": slot}
        address = backend.address
        where = {"address": raw(address), "port": backend.port, "family": family(address)}
        yield key, {"own": key, "state": int(backend.state), **where}


def _backend(row: Record) -> Backend:
    packed: bytes = row["address"]
    return Backend(IPv4Address(packed[:4]) if row["family"] == 4 else IPv6Address(packed), row["port"], State(row["state"]))


def recognise_sets(rows: Iterable[tuple[Record, Record]]) -> dict[bytes, int]:
    """The sets that the kernel holds, by name, from rows of `backends`; of two that are equal the later number holds.

    A set that was never finished has another name than the one meant, and so is nobody's.
    """
    slots: dict[int, dict[int, Record]] = {}
    for key, value in rows:
        slots.setdefault(key["set"], {})[key["slot"]] = value
    found: dict[bytes, int] = {}
    for held in sorted(slots):
        ordered = [slots[held][slot] for slot in sorted(slots[held])]
        if max(slots[held]) == len(ordered) - 1:
            found[set_name(tuple(map(_backend, ordered)))] = held
    return found


class ServiceRows:
    """What is wanted of both tables, and the numbers in it."""

    def __init__(self) -> None:
        self._sets: dict[bytes, BackendSet] = {}  # in use
        self._users: dict[bytes, set[Frontend]] = {}
        self._frontends: dict[Frontend, bytes] = {}  # its set's name
        self._numbers: dict[bytes, int] = {}  # all that the kernel may hold, sets on their way out included
        self._last = 0

    def restore(self, backends: Iterable[tuple[Record, Record]]) -> None:
        """What the kernel holds from an earlier agent."""
        rows = list(backends)
        self._numbers = recognise_sets(rows)
        self._last = max((key["set"] for key, _ in rows), default=0)

    def settle(self, changes: Mapping[Frontend, BackendSet | None]) -> Iterator[Change]:
        """The rows that follow from changed frontends; those of a new set come before those that name it."""
        names = {frontend: None if backends is None else set_name(backends) for frontend, backends in changes.items()}
        fresh: dict[bytes, BackendSet] = {}
        for frontend, backends in changes.items():
            name = names[frontend]
            if backends and name is not None and name not in self._sets:
                fresh[name] = backends
        given = number(fresh, self._numbers, self._last)
        self._last = given.last
        self._numbers |= given.by_name
        self._sets |= fresh
        for name, backends in fresh.items():
            for key, value in backend_rows(self._numbers[name], backends):
                yield Change("backends", key, value)
        touched = set()
        for frontend, backends in changes.items():
            before, name = self._frontends.pop(frontend, None), names[frontend]
            if before in self._users:
                self._users[before].discard(frontend)
                touched.add(before)
            if backends is None or name is None:
                yield Change("services", frontend_key(frontend), None)
                continue
            self._frontends[frontend] = name
            if backends:
                self._users.setdefault(name, set()).add(frontend)
            yield Change("services", *service_row(frontend, self._numbers[name] if backends else 0, len(backends)))
        for name in touched:
            if not self._users[name]:
                del self._users[name]
                for key, _ in backend_rows(self._numbers[name], self._sets.pop(name)):
                    yield Change("backends", key, None)

    def swept(self) -> None:
        """Sets that nobody uses have gone from the kernel: their numbers mean nothing any more."""
        self._numbers = {name: held for name, held in self._numbers.items() if name in self._sets}

    def rows(self) -> dict[str, list[tuple[Record, Record]]]:
        """Everything that is wanted."""
        wanted: dict[str, list[tuple[Record, Record]]] = {"backends": [], "services": []}
        for name, backends in self._sets.items():
            wanted["backends"] += backend_rows(self._numbers[name], backends)
        for frontend, name in self._frontends.items():
            count = len(self._sets.get(name, ()))
            wanted["services"].append(service_row(frontend, self._numbers[name] if count else 0, count))
        return wanted
