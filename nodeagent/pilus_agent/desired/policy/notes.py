"""What is in force as it is written and may not be what its author meant: address rules that cover pods' addresses. Pure.

A rule of cilium.io by address means what is outside the cluster (`Scope.OUTSIDE`), so it never means a pod, whatever its address.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from pilus_api.rules import AddressPeer, Network, Policy, Scope

# Of one object; the rest is counted.
_MOST = 10


def _merged(networks: Iterable[Network]) -> list[Network]:
    """In order; of neighbours and halves one is made."""
    held = list(networks)
    return [
        *collapse_addresses(one for one in held if isinstance(one, IPv4Network)),
        *collapse_addresses(one for one in held if isinstance(one, IPv6Network)),
    ]


def _within(inner: Network, outer: Network) -> bool:
    return inner.prefixlen >= outer.prefixlen and inner.network_address in outer


class PodRanges:
    """The cluster's pod ranges, of which neighbours are one."""

    def __init__(self, ranges: Iterable[Network] = ()) -> None:
        merged = _merged(ranges)
        self._held = {version: [one for one in merged if one.version == version] for version in (4, 6)}
        self._ends = {version: [int(one.broadcast_address) for one in found] for version, found in self._held.items()}

    def covered(self, peer: AddressPeer) -> Network | None:
        """A range of which the peer's prefix has a part that it does not except."""
        first, last = int(peer.prefix.network_address), int(peer.prefix.broadcast_address)
        excepted = _merged(peer.excepted)
        held = self._held[peer.prefix.version]
        for found in held[bisect_left(self._ends[peer.prefix.version], first) :]:
            if int(found.network_address) > last:
                return None
            # Of two prefixes with anything in common one lies in the other.
            part = found if found.prefixlen > peer.prefix.prefixlen else peer.prefix
            if not any(_within(part, one) for one in excepted):
                return found
        return None


def _elements(policies: Iterable[Policy], ranges: PodRanges) -> Iterator[tuple[str, str]]:
    """Each element's path, and what it covers. Of 0.0.0.0/0 and ::/0 everybody knows that they mean the outside."""
    for policy in policies:
        for rule in policy.rules:
            for peer in rule.peers or ():
                if not isinstance(peer, AddressPeer) or peer.scope is not Scope.OUTSIDE or not peer.prefix.prefixlen:
                    continue
                if (found := ranges.covered(peer)) is not None:
                    yield rule.origin.path, f"{peer.prefix} covers pods' addresses ({found})"
                    break


def notes(policies: Iterable[Policy], ranges: PodRanges) -> tuple[str, ...]:
    """One for each element that has something to note, some at most."""
    found = dict(_elements(policies, ranges))
    told = [f"{path}: {what}, and means no pod by them: name pods by labels" for path, what in found.items()]
    return tuple(told) if len(told) <= _MOST else (*told[:_MOST], f"and {len(told) - _MOST} more elements like these")
