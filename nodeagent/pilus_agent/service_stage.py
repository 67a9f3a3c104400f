"""Services, from objects to rows: what wiring asks about Services, it asks here.

In: Services and EndpointSlices as facts. Out: changes of the tables `backends` and `services`, and what there is, for `pilus`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog

from pilus_agent.bind.services import ServiceRows
from pilus_agent.desired.services import ServiceTable
from pilus_agent.facts import Address, EndpointSlice, Service
from pilus_agent.tables import Tables
from pilus_api.rules import Services

_log = structlog.get_logger(__name__)
Item = dict[str, Any]
Row = tuple[dict[str, Any], dict[str, Any]]

KINDS: Final = frozenset({"services", "endpointslices"})
TABLES: Final = ("backends", "services")
_PROTOCOLS: Final = {6: "TCP", 17: "UDP"}


class ServiceStage:
    """`node` is this node's name: some Services are served on their clients' nodes alone."""

    def __init__(self, node: str) -> None:
        self._table = ServiceTable(node)
        self._rows = ServiceRows()
        self._told: set[str] = set()

    def put(self, kind: str, key: str, fact: Service | EndpointSlice | None) -> None:
        """A Service or an EndpointSlice, or that it has gone. Raises KeyError for any other kind."""
        if kind not in KINDS:
            raise KeyError(kind)
        if kind == "services":
            assert fact is None or isinstance(fact, Service)  # noqa: S101  # for the type: the sink's facts are Any
            self._table.put_service(key, fact)
            if fact is not None and fact.affinity and key not in self._told:
                self._told.add(key)
                _log.warning("sessionAffinity: ClientIP is not kept: each connection may go to another backend", service=key)
        else:
            assert fact is None or isinstance(fact, EndpointSlice)  # noqa: S101
            self._table.put_slice(key, fact)

    def addresses(self, name: str) -> frozenset[Address] | None:
        """All that an EndpointSlice (namespace/name) lists; None: there is none."""
        return self._table.addresses(name)

    def ports(self, name: str) -> frozenset[int]:
        """Where those that an EndpointSlice lists can be reached."""
        return self._table.ports(name)

    def meant(self, wanted: Services) -> frozenset[Address] | None:
        """The addresses behind Services without a selector; None: there is no such Service."""
        return self._table.meant(wanted)

    def restore(self, held: Mapping[str, Mapping[bytes, bytes]], tables: Tables) -> None:
        """What the kernel holds from an earlier agent: `backends` of the two tables."""

        def decoded() -> Iterator[Row]:
            layout = tables.layouts["backends"]
            return ((layout.key.decode(key), layout.value.decode(value)) for key, value in held["backends"].items())

        self._rows.restore(decoded())

    def settle(self, tables: Tables) -> None:
        """Want what follows from the facts."""
        for change in self._rows.settle(self._table.take_changes()):
            tables.want(change.table, change.key, change.value)

    def swept(self) -> None:
        self._rows.swept()

    def rows(self) -> dict[str, list[Row]]:
        """Everything that is wanted, as of the last `settle`."""
        return self._rows.rows()

    def unenforced(self) -> list[str]:
        """Services of which a part is not kept, by name."""
        return sorted(key for key, service in self._table.services.items() if service.affinity)

    def views(self) -> list[Item]:
        """For `{"get": "services"}`, as of the last `settle`."""
        return [self._view(key, service) for key, service in sorted(self._table.services.items())]

    def _view(self, key: str, service: Service) -> Item:
        held = {frontend: backends for frontend, backends in self._table.of_service(key).items() if frontend.port}
        backends = {(str(one.address), one.port): one.state.name.lower() for found in held.values() for one in found}
        return {
            "namespace": service.namespace,
            "name": service.name,
            "type": service.kind,
            "frontends": [
                {"address": str(one.address), "port": one.port, "protocol": _PROTOCOLS[one.protocol]} for one in held
            ],
            "backends": [
                {"address": address, "port": port, "state": state} for (address, port), state in sorted(backends.items())
            ],
        }  # fmt: skip
