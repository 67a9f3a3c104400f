"""Services and who serves them, from the API server's objects.

In: raw JSON of Services and EndpointSlices. Out: facts, for `kubernetes.follow`. Never: decisions; a condition that is absent is
given the meaning that the API gives it, and no more.
"""

from typing import Final

from pilus_agent.facts import Address, EndpointSlice, Service, ServiceEndpoint, ServicePort
from pilus_agent.sources.kubernetes import Kind, Raw, address_of
from pilus_api.labels import SOURCE_KUBERNETES, Label, Labels

_PROTOCOLS: Final = {"TCP": 6, "UDP": 17, "SCTP": 132}
_SERVICE_NAME: Final = "kubernetes.io/service-name"
_LARGEST_PORT: Final = 65535
# A named target port that no pod of a slice has is given as this.
_NO_PORT: Final = 0


def _ports(entries: object) -> tuple[ServicePort, ...]:
    found = []
    for entry in entries if isinstance(entries, list) else ():
        protocol = _PROTOCOLS.get(entry.get("protocol") or "TCP")
        port = entry.get("port")
        if protocol is not None and isinstance(port, int) and _NO_PORT < port <= _LARGEST_PORT:
            found.append(ServicePort(str(entry.get("name") or ""), protocol, port))
    return tuple(found)


def _cluster_addresses(spec: Raw) -> tuple[Address, ...]:
    if spec.get("type") == "ExternalName":
        return ()
    texts = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    found = (address_of(text) for text in texts if text and text != "None")
    return tuple(address for address in found if address is not None)


def _labels(held: object) -> Labels:
    pairs = held.items() if isinstance(held, dict) else ()
    return tuple(sorted(Label(SOURCE_KUBERNETES, str(key), str(value)) for key, value in pairs))


def service_of(raw: Raw) -> Service:
    """A Service."""
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    return Service(
        namespace=metadata["namespace"],
        name=metadata["name"],
        kind=str(spec.get("type") or "ClusterIP"),
        addresses=_cluster_addresses(spec),
        ports=_ports(spec.get("ports")),
        local_only=spec.get("internalTrafficPolicy") == "Local",
        affinity=spec.get("sessionAffinity") == "ClientIP",
        selects=bool(spec.get("selector")),
        labels=_labels(metadata.get("labels")),
    )


def _endpoint(entry: Raw) -> ServiceEndpoint | None:
    # More than one address is the same endpoint again (API: clients may use only the first).
    texts = tuple(entry.get("addresses") or ())
    address = address_of(next(iter(texts), ""))
    if address is None:
        return None
    said = entry.get("conditions") or {}
    ready = said.get("ready") is not False
    serving = said.get("serving")
    return ServiceEndpoint(
        address=address,
        ready=ready,
        serving=ready if serving is None else bool(serving),
        terminating=bool(said.get("terminating")),
        node=str(entry.get("nodeName") or ""),
        others=tuple(found for found in map(address_of, texts[1:]) if found is not None),
    )


def endpoint_slice_of(raw: Raw) -> EndpointSlice:
    """An EndpointSlice of discovery.k8s.io/v1. One of names instead of addresses has no endpoints here."""
    metadata = raw["metadata"]
    name = (metadata.get("labels") or {}).get(_SERVICE_NAME) or ""
    endpoints = () if raw.get("addressType") == "FQDN" else tuple(raw.get("endpoints") or ())
    return EndpointSlice(
        service=f"{metadata['namespace']}/{name}" if name else "",
        ports=_ports(raw.get("ports")),
        endpoints=tuple(found for found in map(_endpoint, endpoints) if found is not None),
    )


KINDS: Final = (
    Kind("services", "/api/v1/services", service_of),
    Kind("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices", endpoint_slice_of),
)
