"""What policies mean together that govern one endpoint: what one demands of the peers of all, and what closes though others allow.

In: resolved policies, in any order. Out: the same with rules that each stand alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from pilus_api.errors import PilusError
from pilus_api.policy_groups import Groups, members
from pilus_api.policy_outside import with_addresses
from pilus_api.rules import AddressPeer, Closing, Direction, Peer, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import Requirement, selector

# Requirements in all selectors of peers that demands bind. Each of thousands of peers gets all that is demanded, and anybody who
# may write policies could have an agent work at that for minutes.
MOST_REQUIREMENTS: Final = 100_000

_Peers = tuple[Peer, ...] | None


class TooManyDemandsError(PilusError):
    """So many requirements of so many peers that their rules are not made."""


def together(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """The same policies in the same order, without demands and without rules that close. Raises TooManyDemandsError."""
    held = tuple(policies)
    if any(policy.demands for policy in held):
        held = _demanded(held)
    if any(rule.closing for policy in held for rule in policy.rules):
        held = _closed(held)
    return held


# -- demands -----------------------------------------------------------------------------------------------------------------


def _demanded(held: Sequence[Policy]) -> tuple[Policy, ...]:
    wanted: dict[tuple[Direction, bool], set[Requirement]] = {}
    groups: Groups = dict(chain.from_iterable(policy.known for policy in held))
    for demand in dict.fromkeys(chain.from_iterable(policy.demands for policy in held)):
        wanted.setdefault((demand.direction, demand.deny), set()).update(demand.peer.requirements)
    work = 0

    def bound(rule: Rule) -> Rule:
        nonlocal work
        of = wanted.get((rule.direction, rule.deny))
        if not rule.endpoints or of is None:
            return rule
        work += sum(len(each.requirements) + len(of) for each in rule.endpoints)
        if work > MOST_REQUIREMENTS:
            raise TooManyDemandsError(f"more than {MOST_REQUIREMENTS:,} requirements of endpoint peers (fromRequires, toRequires)")
        endpoints = tuple(dict.fromkeys(selector(*each.requirements, *of) for each in rule.endpoints))
        # An ipBlock is no endpoint; every other peer of such a rule is one.
        peers: list[Peer] = [each for each in rule.peers or () if isinstance(each, AddressPeer) and each.scope is Scope.ANY]
        for each in endpoints:
            for peer in with_addresses(each, rule.origin.path):
                peers += members(peer, groups, rule.deny)
        return replace(rule, peers=tuple(dict.fromkeys(peers)), endpoints=endpoints)

    return tuple(replace(policy, rules=tuple(map(bound, policy.rules)), demands=(), known=()) for policy in held)


# -- closing -----------------------------------------------------------------------------------------------------------------


def _closed(held: Sequence[Policy]) -> tuple[Policy, ...]:
    rules = [rule for policy in held for rule in policy.rules]
    asked = {(rule.direction, peer) for rule in rules if rule.closing is Closing.UNLESS_PLAIN for peer in _each(rule.peers)}
    plain: dict[tuple[Direction, Peer | None], list[frozenset[Ports]]] = {}
    for rule in rules:
        if rule.deny or rule.unenforced or rule.tier is not Tier.NETWORK_POLICY or not rule.ports:
            continue
        ports = frozenset(rule.ports)
        for peer in _each(rule.peers):
            if (rule.direction, peer) in asked:
                plain.setdefault((rule.direction, peer), []).append(ports)
    return tuple(
        replace(policy, rules=tuple(chain.from_iterable(_denying(rule, plain) for rule in policy.rules))) for policy in held
    )


def _each(peers: _Peers) -> tuple[Peer | None, ...]:
    return (None,) if peers is None else peers


def _denying(rule: Rule, plain: Mapping[tuple[Direction, Peer | None], list[frozenset[Ports]]]) -> Iterator[Rule]:
    """What the rule closes, as rules that deny."""
    if rule.closing is Closing.NOTHING or rule.peers == ():
        yield rule
        return
    denies = replace(rule, deny=True, closing=Closing.NOTHING)
    if rule.closing is Closing.ALWAYS or rule.ports is None:
        yield denies
        return
    left: dict[frozenset[Ports], list[Peer | None]] = {}
    for peer in _each(rule.peers):
        ports = frozenset(rule.ports).difference(*plain.get((rule.direction, peer), ()))
        left.setdefault(ports, []).append(peer)
    for ports, peers in left.items():
        yield replace(denies, peers=None if None in peers else tuple(filter(None, peers)), ports=tuple(sorted(ports)))
