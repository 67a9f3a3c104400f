"""What policies last said about this node, kept on its disk: so that it holds from the first packet after a boot, when nobody can
be asked yet.

In: decisions; a file. Out: the file, which root alone can read; and facts again. What decides about the node itself is kept, and
no pod: one of another node is nobody to a policy until the agent has started.
"""

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final

from pilus_agent.decisions import API_SERVER_SLICE, Decisions
from pilus_agent.facts import EndpointSlice, Node, ServiceEndpoint, ServicePort
from pilus_agent.sources.kubernetes import PolicyObject, policy_of
from pilus_api.errors import InvalidError
from pilus_api.labels import Labels
from pilus_api.settings import Settings, parse

NAME: Final = "host-policy.json"
_VERSION: Final = 1

Document = dict[str, Any]
Fact = tuple[str, str, Any]


@dataclass(frozen=True, slots=True)
class HostState:
    """`uplink`: the name of the link to the other nodes. `api_server`: the URL that the agent asked."""

    node: str
    uplink: str
    api_server: str
    settings: Settings
    facts: tuple[Fact, ...]


class HostStateFile:
    """The file's writer. It goes when no policy is about nodes any more."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said: tuple[object, ...] | None = None

    async def write(self, desired: Decisions, uplink: str) -> None:
        """What holds now, if it is other than what was written last. On the disk when this returns. Raises OSError."""
        policies = desired.policy.objects.about_nodes()
        wanted = bool(policies) or desired.host is not None
        said = (
            uplink, wanted, desired.settings, desired.nodes_decided, desired.facts.own_labels, tuple(policies.values()),
            tuple(desired.policy.objects.cidr_groups().items()), desired.services.addresses(API_SERVER_SLICE),
        )  # fmt: skip
        if said == self._said:
            return
        await asyncio.to_thread(self._put, json.dumps(_document(desired, uplink, policies)) if wanted else None)
        self._said = said

    def _put(self, text: str | None) -> None:
        """A machine that loses its power meanwhile has the old file or the new one, and never half of one."""
        if text is None:
            self._path.unlink(missing_ok=True)
            return self._sync()
        draft = self._path.with_name(f".{self._path.name}.draft")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as made:
            made.write(text)
            made.flush()
            os.fsync(made.fileno())
        draft.replace(self._path)
        return self._sync()

    def _sync(self) -> None:
        """The folder, which says what the file is called."""
        held = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(held)
        finally:
            os.close(held)


def _document(desired: Decisions, uplink: str, policies: Mapping[str, PolicyObject]) -> Document:
    nodes = desired.facts.nodes.values()
    believed = desired.ranges
    return {
        "version": _VERSION,
        "node": desired.node,
        "uplink": uplink,
        "settings": desired.settings.model_dump(mode="json", by_alias=True),
        "labels": _pairs(desired.facts.own_labels or ()),
        "api_server": desired.policy.host.api_server,
        "nodes": [
            {
                "name": node.name,
                "addresses": [str(address) for address in node.addresses],
                "routers": [str(address) for address in node.routers],
                "ranges": [str(network) for network in node.ranges if believed.get(network) == node.name],
                "labels": _pairs(desired.facts.node_labels.get(node.name, ())),
            }
            for node in nodes
        ],
        "policies": {name: held.raw for name, held in policies.items()},
        "groups": {name: [str(network) for network in held] for name, held in desired.policy.objects.cidr_groups().items()},
        "api_servers": [str(address) for address in sorted(desired.services.addresses(API_SERVER_SLICE) or (), key=str)],
        "api_ports": sorted(desired.services.ports(API_SERVER_SLICE)),
    }


def _pairs(labels: Labels) -> list[list[str]]:
    return [[label.key, label.value] for label in labels]


def read(path: Path) -> HostState | None:
    """None: no policy was about nodes. Raises InvalidError for what this release can't read."""
    try:
        held = json.loads(path.read_text())
        if held["version"] != _VERSION:
            raise InvalidError(f"{path} is of another release: {held['version']!r:.20}")
        settings, facts = parse(held["settings"]), tuple(_facts(held))
        return HostState(str(held["node"]), str(held["uplink"]), str(held["api_server"]), settings, facts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidError(f"{path} can't be read: {error!r}") from error


def _labels(pairs: list[list[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(key), str(value)) for key, value in pairs)


def _facts(held: Document) -> Iterator[Fact]:
    for one in held["nodes"]:
        addresses, routers = (tuple(ip_address(text) for text in one[field]) for field in ("addresses", "routers"))
        yield "nodes", one["name"], Node(one["name"], addresses, routers, tuple(ip_network(text) for text in one["ranges"]))
        if one["labels"] and one["name"] != held["node"]:
            yield "nodelabels", one["name"], _labels(one["labels"])
    yield "nodelabels", held["node"], _labels(held["labels"])
    for name, networks in held["groups"].items():
        yield "cidrgroups", name, tuple(ip_network(text) for text in networks)
    ports = tuple(ServicePort("", 6, int(port)) for port in held["api_ports"])
    servers = tuple(ServiceEndpoint(ip_address(text)) for text in held["api_servers"])
    yield "endpointslices", API_SERVER_SLICE, EndpointSlice(API_SERVER_SLICE, ports, servers)
    for name, raw in held["policies"].items():
        kind, _, key = name.partition("/")
        yield kind, key, policy_of(raw)
