"""Groups of addresses in policies: which they speak of, and the addresses that they have now.

In: policies as they are written, and the addresses of groups by their names. Out: policies without groups.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from pilus_api.rules import (
    OUTSIDE,
    AddressGroup,
    AddressPeer,
    ApiServers,
    CidrGroup,
    GroupName,
    Network,
    OtherNodes,
    Peer,
    Policy,
    Scope,
)
from pilus_api.selectors import Selector

# Addresses by the name of their group.
Groups = Mapping[GroupName, tuple[Network, ...]]
_NO_GROUPS: Final[Groups] = {}

# Those that a demand brings in, if it tells one of those outside from another.
_DEMANDED: Final = (ApiServers(), OtherNodes())


def members(peer: Peer, groups: Groups, deny: bool) -> Iterable[Peer]:
    """A group that nobody knows is nobody where it would be allowed, and all that it could be where it is denied."""
    if isinstance(peer, Selector):
        return (peer,)
    nodes = groups.get(OtherNodes(), ()) if peer.by_label else ()
    if isinstance(peer, AddressPeer):
        return (_without_these(peer, nodes) if nodes else peer,)
    known = groups.get(peer.name)
    if known is None:
        return (_without_these(each, peer.excepted) for each in OUTSIDE) if deny else ()
    if peer.others:
        meant = (each for each in OUTSIDE if each.prefix not in peer.excepted)
        return (_without_these(each, (*peer.excepted, *known, *nodes)) for each in meant)
    # An API server is the same peer for everybody who calls it that, and another one than its address is.
    by_label = peer.by_label or isinstance(peer.name, ApiServers)
    meant = (AddressPeer(network, (), Scope.OUTSIDE, by_label) for network in known)
    return (_without_these(each, (*peer.excepted, *nodes)) for each in meant)


def _without_these(peer: AddressPeer, networks: Iterable[Network]) -> AddressPeer:
    more = (each for each in networks if each.version == peer.prefix.version)
    return replace(peer, excepted=(*peer.excepted, *more))


def _absence(name: GroupName) -> str:
    """One of whose prefixes one can't be read is not told of either, so that a denial never means less than is written."""
    return f"there is no {name}" + (", or it can't be read" if isinstance(name, CidrGroup) else "")


def groups_of(policies: Iterable[Policy]) -> set[GroupName]:
    """The groups that the policies speak of, or may bring in."""
    held = tuple(policies)
    peers = [peer for policy in held for rule in policy.rules for peer in rule.peers or ()]
    found = {peer.name for peer in peers if isinstance(peer, AddressGroup)}
    if any(policy.demands for policy in held):
        found.update(_DEMANDED)
    by_label = any(not isinstance(peer, Selector) and peer.by_label for peer in peers)
    return found | {OtherNodes()} if by_label else found


def _grouped(policy: Policy, groups: Groups) -> Policy:
    """With the addresses that groups have now. A group without any is nobody, as an empty list of peers is."""
    if policy.demands:
        policy = replace(policy, known=tuple((name, groups[name]) for name in _DEMANDED if name in groups))
    held = [peer for rule in policy.rules for peer in rule.peers or () if not isinstance(peer, Selector)]
    named = [peer for peer in held if isinstance(peer, AddressGroup)]
    if not named and not any(peer.by_label for peer in held):
        return policy
    rules = (
        rule
        if rule.peers is None
        else replace(rule, peers=tuple(dict.fromkeys(each for peer in rule.peers for each in members(peer, groups, rule.denies))))
        for rule in policy.rules
    )
    unknown = [f"{peer.path} ({_absence(peer.name)})" for peer in named if peer.name not in groups]
    return replace(policy, rules=tuple(rules), unenforced=(*policy.unenforced, *dict.fromkeys(unknown)))


def resolve(policies: Iterable[Policy], groups: Groups = _NO_GROUPS) -> tuple[Policy, ...]:
    """The same with the addresses of each AddressGroup, by its name. One that is not there is told in the policy's `unenforced`."""
    return tuple(_grouped(policy, groups) for policy in policies)
