"""Rows of `endpoints`: this node's pods by address and by link, and the node itself. Pure.

In: endpoints, and the numbers of their policies. Out: rows as bytes; those of an endpoint that is what it was are not made again.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pilus_agent.desired.addresses import family, raw
from pilus_agent.desired.endpoints import READY, Endpoint, Governed, enforced_flags, mac
from pilus_agent.diff.generations import EVERYTHING, endpoint_slot
from pilus_agent.judgement import HOST_ROW
from pilus_agent.tables import Tables
from pilus_api.identities import HOST

Record = Mapping[str, Any]

# enum pilus_family: the row by which a pod is known by its link.
_FAMILY_LINK = 0

# An endpoint's rows, and what they are of: itself, and the numbers of its policies.
_Encoded = tuple[tuple[Endpoint, int, int], dict[bytes, bytes]]


def host_row(host: Governed, number: Callable[[bytes], int]) -> tuple[Record, Record]:
    value = {
        "identity": HOST,
        "policy": number(host.policy),
        "flags": READY | enforced_flags(host.ingress_enforced, host.egress_enforced),
        "slot": EVERYTHING,  # whichever of the host's addresses a flow has
        "audit": number(host.audit),
    }
    return HOST_ROW, value


def rows_of(endpoint: Endpoint, policy: int, audit: int) -> Iterable[tuple[Record, Record]]:
    """`policy` and `audit` are numbers, 0 for none."""
    attachment = endpoint.attachment
    value = {
        "ifindex": attachment.ifindex,
        "identity": endpoint.identity or 0,
        "policy": policy,
        "number": attachment.number,
        "flags": endpoint.flags,
        "slot": endpoint_slot(attachment.number),
        "mac": mac(attachment.mac),
        "gateway_mac": mac(attachment.gateway_mac),
        "audit": audit,
    }
    for address in attachment.addresses:
        yield {"family": family(address), "address": raw(address)}, value
    yield {"family": _FAMILY_LINK, "address": attachment.ifindex.to_bytes(4, sys.byteorder).ljust(16, b"\0")}, value


class EndpointRows:
    def __init__(self) -> None:
        self._encoded: dict[str, _Encoded] = {}

    def all(
        self, endpoints: Mapping[str, Endpoint], host: Governed | None, number: Callable[[bytes], int], tables: Tables
    ) -> dict[bytes, bytes]:
        """Every row; of two endpoints that claim an address the later has it. `number`: a policy's, by its name."""
        found = {} if host is None else tables.encode("endpoints", [host_row(host, number)])
        encoded: dict[str, _Encoded] = {}
        for key, endpoint in endpoints.items():
            of = (endpoint, number(endpoint.policy), number(endpoint.audit))
            held = self._encoded.get(key)
            if held is None or held[0] != of:
                held = of, tables.encode("endpoints", rows_of(*of))
            encoded[key] = held
            found |= held[1]
        self._encoded = encoded
        return found
