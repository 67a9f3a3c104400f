"""Address rules to rows of `cidrs`: a row's class is the set of all address rules that contain its prefix.

In: address peers with their rules. Out: (scope, prefix) -> set of rules, such that the longest prefix that contains an address
has exactly the rules that mean it. Never: identities, ports.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pilus_agent.desired.policy.tables import MOST_RULES, CidrKey, TooMuchError
from pilus_agent.desired.selectors import bits_of
from pilus_api.rules import AddressPeer, Network, Scope

# A set of rules, bit n for rule n.
RuleBits = int


@dataclass(frozen=True, slots=True)
class _Inside:
    """What holds within a prefix: bit sets of peers. An address that was excepted from a peer stays so further down."""

    network: Network
    contained: int
    excepted: int
    rules: RuleBits


def address_rows(peers: Iterable[tuple[AddressPeer, int]]) -> dict[CidrKey, RuleBits]:
    """The rows for pairs of a peer and the number of the rule that has it.

    Rules for any address are in both scopes; those for the outside in that scope alone. A prefix that changes nothing has no row.
    Raises TooMuchError.
    """
    pairs = list(peers)
    found: dict[CidrKey, RuleBits] = {}
    for scope in Scope:
        visible = [(peer, rule) for peer, rule in pairs if peer.scope in (Scope.ANY, scope)]
        for version in (4, 6):
            for network, rules in _rows([pair for pair in visible if pair[0].prefix.version == version]).items():
                found[CidrKey(scope, network)] = rules
    return found


def _rows(pairs: list[tuple[AddressPeer, int]]) -> dict[Network, RuleBits]:
    begins: dict[Network, int] = {}
    excepts: dict[Network, int] = {}
    for index, (peer, _) in enumerate(pairs):
        begins[peer.prefix] = begins.get(peer.prefix, 0) | 1 << index
        for network in peer.excepted:
            if network.version == peer.prefix.version:
                excepts[network] = excepts.get(network, 0) | 1 << index

    found: dict[Network, RuleBits] = {}
    around: list[_Inside] = []
    looked = 0
    # In this order a prefix comes after all that contain it, and those that do are what is left of the stack.
    for network in sorted({*begins, *excepts}, key=lambda network: (int(network.network_address), network.prefixlen)):
        while around and not _contains(around[-1].network, network):
            around.pop()
        outer = around[-1] if around else None
        contained = begins.get(network, 0) | (outer.contained if outer else 0)
        excepted = excepts.get(network, 0) | (outer.excepted if outer else 0)
        if excepted == (outer.excepted if outer else 0):  # then what holds around it holds inside
            fresh, rules = begins.get(network, 0) & ~excepted, outer.rules if outer else 0
        else:
            fresh, rules = contained & ~excepted, 0
        looked += fresh.bit_count()
        if looked > MOST_RULES:
            raise TooMuchError
        for index in bits_of(fresh):
            rules |= 1 << pairs[index][1]
        if rules != (outer.rules if outer else 0):
            found[network] = rules
        around.append(_Inside(network, contained, excepted, rules))
    return found


def _contains(outer: Network, inner: Network) -> bool:
    shift = outer.max_prefixlen - outer.prefixlen
    return outer.prefixlen <= inner.prefixlen and int(outer.network_address) >> shift == int(inner.network_address) >> shift


def longest(rows: Mapping[CidrKey, object], scope: Scope, version: int, address: int) -> CidrKey | None:
    """The row that the kernel finds for an address given as a number."""
    found: CidrKey | None = None
    for key in rows:
        network = key.network
        if key.scope is not scope or network.version != version or (found and found.network.prefixlen > network.prefixlen):
            continue
        if (int(network.network_address) ^ address) >> (network.max_prefixlen - network.prefixlen) == 0:
            found = key
    return found
