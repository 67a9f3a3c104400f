"""What clients may ask for, and who serves it: Services and EndpointSlices -> frontends with their backends. Pure.

In: facts, in any order. Out: for each frontend its backends, in one order, so that equal backends are an equal set. The result
follows from the facts that are there, not from the way there.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pilus_agent.facts import Address, EndpointSlice, Service, ServiceEndpoint, ServicePort
from pilus_api.rules import Services

TCP: Final = 6
UDP: Final = 17


class State(IntEnum):
    """enum pilus_backend_state."""

    ACTIVE = 1
    TERMINATING = 2


@dataclass(frozen=True, slots=True)
class Frontend:
    """What clients ask for. Port and protocol 0: every port of the address that has no frontend of its own."""

    address: Address
    port: int = 0
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class Backend:
    address: Address
    port: int
    state: State = State.ACTIVE


BackendSet = tuple[Backend, ...]


def ordered(backends: Iterable[Backend]) -> BackendSet:
    """Each address and port once, active where anybody says so: a pod may stand in two slices while it moves."""
    best: dict[tuple[Address, int], State] = {}
    for backend in backends:
        place = (backend.address, backend.port)
        best[place] = min(best.get(place, backend.state), backend.state)
    order = sorted(best, key=lambda place: (place[0].version, int(place[0]), place[1]))
    return tuple(Backend(address, port, best[address, port]) for address, port in order)


def set_name(backends: BackendSet) -> bytes:
    """A set's name: the same for the same backends."""
    digest = hashlib.sha256()
    for backend in backends:
        digest.update(bytes((backend.address.version, backend.state)) + backend.address.packed + backend.port.to_bytes(2))
    return digest.digest()[:16]


def _chosen(endpoints: Iterable[ServiceEndpoint], service: Service, node: str) -> Iterator[tuple[ServiceEndpoint, State]]:
    """Who takes new clients: those that are ready; where there is none, those that still serve while they end.

    Ready alone decides, not serving: a Service that publishes addresses before they are ready says ready of all of them.
    """
    near = [endpoint for endpoint in endpoints if not service.local_only or endpoint.node == node]
    active = [(endpoint, State.ACTIVE) for endpoint in near if endpoint.ready]
    yield from active or [(endpoint, State.TERMINATING) for endpoint in near if endpoint.serving and endpoint.terminating]


def _behind(port: ServicePort, slices: Iterable[EndpointSlice], version: int) -> Iterator[tuple[ServiceEndpoint, int]]:
    """Every endpoint of one family, with the number that the port has there: two slices may differ in it."""
    for held in slices:
        for offered in held.ports:
            if (offered.name, offered.protocol) == (port.name, port.protocol):
                yield from ((endpoint, offered.port) for endpoint in held.endpoints if endpoint.address.version == version)


def frontends_of(service: Service, slices: Iterable[EndpointSlice], node: str) -> dict[Frontend, BackendSet]:
    """A Service's frontends on this node. One without backends refuses; so does every other port of its addresses."""
    held = tuple(slices)
    found: dict[Frontend, BackendSet] = {}
    for address in service.addresses:
        found[Frontend(address)] = ()
        for port in service.ports:
            if port.protocol not in (TCP, UDP):
                continue
            behind = list(_behind(port, held, address.version))
            states = dict(_chosen((endpoint for endpoint, _ in behind), service, node))
            found[Frontend(address, port.port, port.protocol)] = ordered(
                Backend(endpoint.address, number, states[endpoint]) for endpoint, number in behind if endpoint in states
            )
    return found


class ServiceTable:
    """All of them. Each change costs work in proportion to the Services that it concerns."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.services: dict[str, Service] = {}  # namespace/name
        self._slices: dict[str, EndpointSlice] = {}  # namespace/name
        self._of: dict[str, set[str]] = {}  # a Service's slices
        self._dirty: set[str] = set()
        self._own: dict[str, dict[Frontend, BackendSet]] = {}  # what each Service would have
        self._claims: dict[Frontend, set[str]] = {}
        self._shown: dict[Frontend, BackendSet] = {}
        self._changed: set[Frontend] = set()

    # -- facts -------------------------------------------------------------------------------------------------------------

    def put_service(self, key: str, service: Service | None) -> None:
        if service is None:
            self.services.pop(key, None)
        else:
            self.services[key] = service
        self._dirty.add(key)

    def put_slice(self, key: str, held: EndpointSlice | None) -> None:
        before = self._slices.pop(key, None)
        if before is not None:
            self._dirty.add(before.service)
            names = self._of.get(before.service, set())
            names.discard(key)
            if not names:
                self._of.pop(before.service, None)
        if held is not None:
            self._slices[key] = held
            self._of.setdefault(held.service, set()).add(key)
            self._dirty.add(held.service)

    def addresses(self, key: str) -> frozenset[Address] | None:
        held = self._slices.get(key)
        return frozenset(endpoint.address for endpoint in held.endpoints) if held else None

    def ports(self, key: str) -> frozenset[int]:
        held = self._slices.get(key)
        return frozenset(port.port for port in held.ports) if held else frozenset()

    def meant(self, wanted: Services) -> frozenset[Address] | None:
        """The addresses behind Services without a selector; None: there is no such Service."""
        keys = [
            key
            for key, service in self.services.items()
            if not service.selects
            and wanted.namespace in ("", service.namespace)
            and wanted.name in ("", service.name)
            and (wanted.labels is None or wanted.labels.matches(service.labels))
        ]
        if not keys:
            return None
        slices = (self._slices[name] for key in keys for name in self._of.get(key, ()))
        return frozenset(
            address for held in slices for endpoint in held.endpoints for address in (endpoint.address, *endpoint.others)
        )

    # -- deciding ----------------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        for key in self._dirty:
            service = self.services.get(key)
            slices = (self._slices[name] for name in self._of.get(key, ()))
            now = frontends_of(service, slices, self._node) if service else {}
            before = self._own.pop(key, {})
            if now:
                self._own[key] = now
            for frontend in before.keys() - now.keys():
                self._claims[frontend].discard(key)
                if not self._claims[frontend]:
                    del self._claims[frontend]
            for frontend in now.keys() - before.keys():
                self._claims.setdefault(frontend, set()).add(key)
            self._changed |= {one for one in before.keys() | now.keys() if before.get(one) != now.get(one)}
        self._dirty.clear()

    def _backends(self, frontend: Frontend) -> BackendSet | None:
        """Two Services with one address are between two moments of the API server; the first by name has it."""
        claimants = self._claims.get(frontend)
        return self._own[min(claimants)][frontend] if claimants else None

    def take_changes(self) -> dict[Frontend, BackendSet | None]:
        """What has changed since the last call; None: the frontend is no more."""
        self._decide()
        found: dict[Frontend, BackendSet | None] = {}
        for frontend in self._changed:
            backends = self._backends(frontend)
            if backends == self._shown.get(frontend):
                continue
            found[frontend] = backends
            if backends is None:
                del self._shown[frontend]
            else:
                self._shown[frontend] = backends
        self._changed.clear()
        return found

    @property
    def frontends(self) -> Mapping[Frontend, BackendSet]:
        """All, as of the last `take_changes`."""
        return self._shown

    def of_service(self, key: str) -> Mapping[Frontend, BackendSet]:
        """One Service's, as of the last `take_changes`."""
        return self._own.get(key, {})
