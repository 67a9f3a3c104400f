"""Lifelines: what no policy of a node cuts unless it says so, for whoever locks a node up must still be able to reach it.

In: names, as settings and annotations have them, and where the cluster's own services are. Out: policies of the admin tier that
allow these in both directions. They govern nodes that have a policy, and by themselves restrict nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

from pilus_api.policy_selectors import API_SERVER, NODES
from pilus_api.protocols import SCTP, TCP, UDP
from pilus_api.rules import AddressGroup, AddressPeer, ApiServers, Direction, Origin, Peer, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import EVERYTHING

# On a clusterwide policy with a nodeSelector: which lifelines it cuts on the nodes that it selects; `all` cuts every one.
CUT_ANNOTATION: Final = "pilus.io/cut-lifelines"
LIFELINES: Final = ("kubelet", "apiserver", "etcd", "ssh", "tunnel", "dhcp")
KIND: Final = "Lifeline"
# A name, or a port of the node's own that everybody may reach.
PATTERN: Final = f"^({'|'.join(LIFELINES)}|(tcp|udp|sctp)/[0-9]{{1,5}}(-[0-9]{{1,5}})?)$"

_PROTOCOLS: Final = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
_API_SERVER_PORT: Final = 6443
_IN, _OUT = Direction.INGRESS, Direction.EGRESS
# Also those that are on no node; and whoever else runs the cluster.
_API_SERVERS: Final[tuple[Peer, ...]] = (API_SERVER, AddressGroup(ApiServers(), KIND))
_CLUSTER: Final[tuple[Peer, ...]] = (*NODES, *_API_SERVERS)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a cluster's own services are. `tunnel_port` 0: there is no tunnel. `api_servers`: URLs that this node asks."""

    tunnel_port: int = 0
    api_ports: frozenset[int] = frozenset()
    api_servers: frozenset[str] = frozenset()


def custom(name: str) -> Ports | None:
    """`tcp/2222`, `udp/9000-9010`; None for what is none of these."""
    word, _, numbers = name.partition("/")
    low, dash, high = numbers.partition("-")
    high = high if dash else low
    if word not in _PROTOCOLS or not low.isdecimal() or not high.isdecimal():
        return None
    found = Ports(_PROTOCOLS[word], int(low), int(high))
    return found if 0 < found.low <= found.high < 1 << 16 else None


def is_lifeline(name: str) -> bool:
    return name in LIFELINES or custom(name) is not None


def cut_by(policy: Mapping[str, Any]) -> tuple[frozenset[str], str]:
    """The names that a policy's annotation cuts (`all` among them for every one), and what is wrong with it, "" if nothing is."""
    annotations = policy["metadata"].get("annotations") or {}
    said = annotations.get(CUT_ANNOTATION, "") if isinstance(annotations, Mapping) else ""
    words = said.replace(",", " ").split() if isinstance(said, str) else [repr(said)]
    wrong = [word for word in words if word != "all" and not is_lifeline(word)]
    trouble = f"annotation {CUT_ANNOTATION} names {wrong[0]!r:.100}, which is no lifeline" if wrong else ""
    return frozenset(words).difference(wrong), trouble


# Direction, peers (None: anybody), ports.
_Line = tuple[Direction, tuple[Peer, ...] | None, tuple[Ports, ...]]


def _lines(name: str, around: Surroundings) -> Iterable[_Line]:  # noqa: PLR0911  # one a name

    def tcp(*numbers: int) -> tuple[Ports, ...]:
        return tuple(Ports(TCP, number, number) for number in numbers)

    match name:
        case "kubelet":  # its probes of this node's pods are let through by the programs, which know whose they are
            return ((_IN, _CLUSTER, tcp(10250)), (_OUT, _CLUSTER, tcp(10250)))
        case "apiserver":
            ports = tcp(*sorted({_API_SERVER_PORT} | around.api_ports))
            lines: list[_Line] = [(_IN, None, ports), (_OUT, _API_SERVERS, (Ports(TCP, 0, 65535),))]
            for url in sorted(around.api_servers):
                lines += _asked(url)
            return lines
        case "etcd":
            return ((_IN, _CLUSTER, tcp(2379, 2380)), (_OUT, None, tcp(2379, 2380)))
        case "ssh":
            return ((_IN, None, tcp(22)),)
        case "tunnel":
            port = (Ports(UDP, around.tunnel_port, around.tunnel_port),)
            return ((_IN, NODES, port), (_OUT, NODES, port)) if around.tunnel_port else ()
        case "dhcp":  # an answer to everybody belongs to no connection
            clients, servers = (tuple(Ports(UDP, port, port) for port in pair) for pair in ((68, 546), (67, 547)))
            return ((_IN, None, clients), (_OUT, None, servers))
        case _:
            found = custom(name)
            return ((_IN, None, (found,)),) if found else ()


def _asked(url: str) -> Iterable[_Line]:
    """To the API server with this URL. By a name it may be at any address, and somebody has to be asked which."""
    parts = urlsplit(url)
    port = parts.port or 443
    ports = (Ports(TCP, port, port),)
    try:
        return ((_OUT, (AddressPeer(ip_network(ip_address(parts.hostname or "")), (), Scope.ANY),), ports),)
    except ValueError:
        return ((_OUT, None, ports), (_OUT, None, (Ports(TCP, 53, 53), Ports(UDP, 53, 53))))


def lifeline(name: str, around: Surroundings) -> Policy:
    """What holds for this one."""
    origin = Origin(KIND, "", name, KIND)
    rules = tuple(
        Rule(Origin(KIND, "", name, KIND, direction.name.lower()), direction, False, peers, ports, tier=Tier.ADMIN)
        for direction, peers, ports in _lines(name, around)
    )
    return Policy(origin, EVERYTHING, (False, False), rules, host=True)
