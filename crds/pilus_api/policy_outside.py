"""Selectors of endpoints -> selectors and addresses.

In: a selector that may mean somebody outside the cluster. Out: peers. The outside has one identity, whichever its family and
whoever is there; of whom a selector means a part only, he is known by his address.
"""

from dataclasses import replace
from typing import Final

from pilus_api.identities import RESERVED, WORLD
from pilus_api.labels import SOURCE_RESERVED, Labels, reserved_labels
from pilus_api.rules import OUTSIDE, AddressGroup, ApiServers, Peer
from pilus_api.selectors import Operator, Requirement, Selector, selector

_NAMES: Final = {f"world-ipv{peer.prefix.version}": peer for peer in OUTSIDE}
_OF_WORLD: Final = frozenset({"world", *_NAMES})
_TELLING: Final = frozenset({*_NAMES, "kube-apiserver"})  # one outside from another

# By family, who is there: an API server, and anybody else.
_API_SERVER: Final = {peer: reserved_labels("world", name, "kube-apiserver") for name, peer in _NAMES.items()}
_ANYBODY: Final = {peer: reserved_labels("world", name) for name, peer in _NAMES.items()}
_KNOWN_AS: Final[tuple[Labels, ...]] = (RESERVED[WORLD], *_ANYBODY.values(), *_API_SERVER.values())

_NOT_OUTSIDE: Final = Requirement(SOURCE_RESERVED, "world", Operator.DOES_NOT_EXIST)


def with_addresses(held: Selector, path: str) -> tuple[Peer, ...]:
    """Whom a selector means, those outside by their addresses if it tells one of them from another. `path` speaks of him."""
    if not any(each.key in _TELLING for each in held.requirements):  # nearly every one: the next question costs more
        return (held,)
    if len({held.matches(labels) for labels in _KNOWN_AS}) == 1:
        return (held,)
    found: list[Peer] = []
    if not held.names(SOURCE_RESERVED, _OF_WORLD):
        found.append(selector(*held.requirements, _NOT_OUTSIDE) if held.matches(RESERVED[WORLD]) else held)
    api_servers, others = ({peer for peer, labels in known.items() if held.matches(labels)} for known in (_API_SERVER, _ANYBODY))
    found += (replace(peer, by_label=True) for peer in OUTSIDE if peer in api_servers & others)
    for those, rest in ((api_servers - others, False), (others - api_servers, True)):
        if those:
            excepted = tuple(peer.prefix for peer in OUTSIDE if peer not in those)
            found.append(AddressGroup(ApiServers(), path, excepted, rest, by_label=True))
    return tuple(found)
