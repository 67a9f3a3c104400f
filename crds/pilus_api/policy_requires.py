"""Drafts -> policies: what fromRequires and toRequires of one policy demand of the endpoint peers of all others.

In: drafts of every policy in force, and the addresses of groups. Out: policies that each stand alone. A requirement binds an
endpoint's other rules only if the policy that has it governs that endpoint. So a policy that overlaps with one that requires is
cut along the other's subject: into the part that both govern, with the requirement in its peers, and the parts that only the
first governs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Final

from pilus_api.policy_outside import with_addresses
from pilus_api.rules import (
    OUTSIDE,
    AddressGroup,
    AddressPeer,
    CidrGroup,
    Direction,
    GroupName,
    Network,
    OtherNodes,
    Peer,
    Policy,
    Rule,
    Scope,
)
from pilus_api.selectors import EVERYTHING, Operator, Requirement, Selector, selector

_OPPOSITE: Final = {
    Operator.IN: Operator.NOT_IN,
    Operator.NOT_IN: Operator.IN,
    Operator.EXISTS: Operator.DOES_NOT_EXIST,
    Operator.DOES_NOT_EXIST: Operator.EXISTS,
}


# Addresses by the name of their group.
Groups = Mapping[GroupName, tuple[Network, ...]]
_NO_GROUPS: Final[Groups] = {}


@dataclass(frozen=True, slots=True)
class Demand:
    """What every endpoint peer of a direction's allowing, or denying, rules must be as well."""

    direction: Direction
    deny: bool
    peer: Selector


@dataclass(frozen=True, slots=True)
class Draft:
    """A policy whose demands reach others yet. `endpoints`: by the index of each rule that speaks of endpoints, its peers as they
    are written, None for anybody. The rule itself has them with the addresses that they mean (`with_addresses`).
    """

    policy: Policy
    endpoints: Mapping[int, tuple[Peer, ...] | None] = field(default_factory=dict)
    demands: tuple[Demand, ...] = ()

    def audited(self) -> "Draft":
        """The same in audit mode."""
        return replace(self, policy=replace(self.policy, audit=True))


def _not(held: Requirement) -> Requirement:
    return replace(held, operator=_OPPOSITE[held.operator])


def _empty(held: Selector) -> bool:
    """Whether it certainly selects nothing: a requirement beside its opposite, or two values for one label."""
    wanted = set(held.requirements)
    # Of a source and key there is one label; of a key in any source there may be two.
    values: dict[tuple[str, str], set[str]] = {}
    for each in held.requirements:
        if _not(each) in wanted:
            return True
        if each.operator is Operator.IN and each.source != "any":
            name = (each.source, each.key)
            values[name] = values[name] & set(each.values) if name in values else set(each.values)
    return any(not left for left in values.values())


def _without(subject: Selector, other: Selector) -> list[Selector]:
    """`subject` and not `other`, as selectors of which no two select the same."""
    parts = []
    before: list[Requirement] = []
    for each in other.requirements:
        part = selector(*subject.requirements, *before, _not(each))
        if not _empty(part):
            parts.append(part)
        before.append(each)
    return parts


def _demanded(draft: Draft, demands: Iterable[Demand]) -> tuple[Rule, ...]:
    rules = list(draft.policy.rules)
    for index, written in draft.endpoints.items():
        rule = rules[index]
        wanted = [demand.peer for demand in demands if (demand.direction, demand.deny) == (rule.direction, rule.deny)]
        if not wanted:
            continue
        peers: list[Peer] = []
        for peer in (EVERYTHING,) if written is None else written:
            if isinstance(peer, Selector):
                both = selector(*chain(peer.requirements, *(each.requirements for each in wanted)))
                peers += with_addresses(both, rule.origin.path)
            else:  # an ipBlock is no endpoint
                peers.append(peer)
        rules[index] = replace(rule, peers=tuple(dict.fromkeys(peers)))
    return tuple(rules)


def _concerns(draft: Draft, demand: Demand) -> bool:
    return any(
        (draft.policy.rules[index].direction, draft.policy.rules[index].deny) == (demand.direction, demand.deny)
        for index in draft.endpoints
    )


def _members(peer: Peer, groups: Groups, deny: bool) -> Iterable[Peer]:
    """A group that nobody knows is nobody where it would be allowed, and all that it could be where it is denied."""
    if isinstance(peer, Selector):
        return (peer,)
    nodes = groups.get(OtherNodes(), ()) if peer.by_label else ()
    if isinstance(peer, AddressPeer):
        return (_without_these(peer, nodes) if nodes else peer,)
    known = groups.get(peer.name)
    if known is None:
        return OUTSIDE if deny else ()
    if peer.others:
        meant = (each for each in OUTSIDE if each.prefix not in peer.excepted)
        return (_without_these(each, (*peer.excepted, *known, *nodes)) for each in meant)
    return (_without_these(AddressPeer(network, (), Scope.OUTSIDE), (*peer.excepted, *nodes)) for network in known)


def _without_these(peer: AddressPeer, networks: Iterable[Network]) -> AddressPeer:
    more = (each for each in networks if each.version == peer.prefix.version)
    return replace(peer, excepted=(*peer.excepted, *more))


def _absence(name: GroupName) -> str:
    """One of whose prefixes one can't be read is not told of either, so that a denial never means less than is written."""
    return f"there is no {name}" + (", or it can't be read" if isinstance(name, CidrGroup) else "")


def groups_of(drafts: Iterable[Draft]) -> set[GroupName]:
    """The groups that the drafts speak of."""
    peers = [peer for draft in drafts for rule in draft.policy.rules for peer in rule.peers or ()]
    found = {peer.name for peer in peers if isinstance(peer, AddressGroup)}
    by_label = any(not isinstance(peer, Selector) and peer.by_label for peer in peers)
    return found | {OtherNodes()} if by_label else found


def _grouped(policy: Policy, groups: Groups) -> Policy:
    """With the addresses that groups have now. A group without any is nobody, as an empty list of peers is."""
    held = [peer for rule in policy.rules for peer in rule.peers or () if not isinstance(peer, Selector)]
    named = [peer for peer in held if isinstance(peer, AddressGroup)]
    if not named and not any(peer.by_label for peer in held):
        return policy
    rules = (
        rule
        if rule.peers is None
        else replace(rule, peers=tuple(dict.fromkeys(each for peer in rule.peers for each in _members(peer, groups, rule.deny))))
        for rule in policy.rules
    )
    unknown = [f"{peer.path} ({_absence(peer.name)})" for peer in named if peer.name not in groups]
    return replace(policy, rules=tuple(rules), unenforced=(*policy.unenforced, *dict.fromkeys(unknown)))


def resolve(drafts: Iterable[Draft], groups: Groups = _NO_GROUPS) -> tuple[Policy, ...]:
    """The policies that the drafts mean together. Parts of one policy have one origin, and no endpoint in common. What a policy
    in audit mode demands binds others in audit mode alone: it decides nothing.

    `groups`: the addresses of each AddressGroup, by its name. One that is not there is told in the policy's `unenforced`.
    """
    held = tuple(drafts)
    demanding = [draft for draft in held if draft.demands]
    policies: list[Policy] = []
    for draft in held:
        parts: list[tuple[Selector, tuple[Demand, ...]]] = [(draft.policy.subject, ())]
        for other in demanding:
            demands = tuple(demand for demand in other.demands if _concerns(draft, demand))
            if not demands or other.policy.host != draft.policy.host or (other.policy.audit and not draft.policy.audit):
                continue
            cut: list[tuple[Selector, tuple[Demand, ...]]] = []
            for subject, already in parts:
                both = subject.and_(other.policy.subject)
                if _empty(both):
                    cut.append((subject, already))
                    continue
                cut.append((both, already + demands))
                cut += [(part, already) for part in _without(subject, other.policy.subject)]
            parts = cut
        for subject, demands in parts:
            rules = _demanded(draft, demands) if demands else draft.policy.rules
            policies.append(_grouped(replace(draft.policy, subject=subject, rules=rules), groups))
    return tuple(policies)
