"""What policies mean together that govern one endpoint: what one demands of the peers of all, and what closes though others allow.

In: resolved policies, in any order. Out: the same with rules that each stand alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Final

from pilus_api.errors import PilusError
from pilus_api.policy_groups import Groups, members
from pilus_api.policy_outside import with_addresses
from pilus_api.rules import AddressPeer, Closing, Demand, Direction, Peer, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import Operator, Requirement, selector

_OPPOSITE: Final = {
    Operator.IN: Operator.NOT_IN,
    Operator.NOT_IN: Operator.IN,
    Operator.EXISTS: Operator.DOES_NOT_EXIST,
    Operator.DOES_NOT_EXIST: Operator.EXISTS,
}

# Requirements in all selectors of peers that demands bind, and ports that are held against those of plain rules: anybody who may
# write policies may write thousands of either, and an agent would work at that for minutes, for each set of policies that meet.
MOST_REQUIREMENTS: Final = 50_000
MOST_PORTS: Final = 200_000

_Of = tuple[Direction, Peer | None]


class TooMuchTogetherError(PilusError):
    """So much that policies say of each other that their rules are not made."""


def together(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """The same policies in the same order, without demands and without rules that close. Raises TooMuchTogetherError."""
    held = tuple(policies)
    if any(policy.demands for policy in held):
        held = _demanded(held)
    if any(rule.closing for policy in held for rule in policy.rules):
        held = _closed(held)
    return held


def apart(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """What stands of policies that are too much together, of which no tables are made: nothing is demanded, and all that may be
    closed is."""
    return tuple(
        replace(policy, demands=(), rules=tuple(replace(rule, deny=rule.denies, closing=Closing.NOTHING) for rule in policy.rules))
        for policy in policies
    )


# -- demands -----------------------------------------------------------------------------------------------------------------


class _Demands:
    """What is demanded, by direction and whether of allowing or denying rules. `known`: addresses of groups."""

    def __init__(self, demands: Iterable[Demand], known: Groups) -> None:
        self._known = known
        self._wanted: dict[tuple[Direction, bool], set[Requirement]] = {}
        # What nobody meets makes an allowing rule allow nobody; what such a rule closes stays closed.
        self._met: dict[tuple[Direction, bool], set[Requirement]] = {}
        for demand in demands:
            of, requirements = (demand.direction, demand.deny), demand.peer.requirements
            self._wanted.setdefault(of, set()).update(requirements)
            if not _unmet(requirements):
                self._met.setdefault(of, set()).update(requirements)
        self._work = 0

    def bind(self, rule: Rule) -> Rule:
        wanted = (self._met if rule.closing else self._wanted).get((rule.direction, rule.deny))
        if not rule.endpoints or wanted is None:
            return rule
        self._work += sum(len(each.requirements) + len(wanted) for each in rule.endpoints)
        if self._work > MOST_REQUIREMENTS:
            raise TooMuchTogetherError(f"more than {MOST_REQUIREMENTS:,} requirements of endpoint peers (fromRequires, toRequires)")
        endpoints = tuple(dict.fromkeys(selector(*each.requirements, *wanted) for each in rule.endpoints))
        # An ipBlock is no endpoint; every other peer of such a rule is one.
        peers: dict[Peer, None] = dict.fromkeys(
            each for each in rule.peers or () if isinstance(each, AddressPeer) and each.scope is Scope.ANY
        )
        meant = dict.fromkeys(peer for each in endpoints for peer in with_addresses(each, rule.origin.path))
        peers |= dict.fromkeys(each for peer in meant for each in members(peer, self._known, rule.denies))
        return replace(rule, peers=tuple(peers), endpoints=endpoints)


def _unmet(held: Iterable[Requirement]) -> bool:
    """Whether nobody meets them for sure: a requirement beside its opposite."""
    wanted = set(held)
    return any(replace(each, operator=_OPPOSITE[each.operator]) in wanted for each in wanted)


def _demanded(held: Sequence[Policy]) -> tuple[Policy, ...]:
    known = dict(chain.from_iterable(policy.known for policy in held))
    demands = _Demands(dict.fromkeys(chain.from_iterable(policy.demands for policy in held)), known)
    return tuple(replace(policy, rules=tuple(map(demands.bind, policy.rules)), demands=(), known=()) for policy in held)


# -- closing -----------------------------------------------------------------------------------------------------------------


class _Plain:
    """Rules that allow ports without more, by each peer that a rule of layer 7 has too."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        asked = {of for rule in rules if rule.closing is Closing.UNLESS_PLAIN for of in _each(rule)}
        self._ports: list[frozenset[Ports]] = []
        self._of: dict[_Of, list[int]] = {}  # places in `_ports`
        self._work = 0
        for rule in rules:
            if rule.deny or rule.unenforced or rule.tier is not Tier.NETWORK_POLICY or not rule.ports:
                continue
            if both := asked.intersection(_each(rule)):
                for of in both:
                    self._of.setdefault(of, []).append(len(self._ports))
                self._ports.append(frozenset(rule.ports))

    def left(self, rule: Rule) -> dict[frozenset[Ports], list[Peer | None]]:
        """Of a rule of layer 7 what it closes: ports, and the peers for whom no plain rule has them."""
        alike: dict[tuple[int, ...], list[Peer | None]] = {}
        for of in _each(rule):
            alike.setdefault(tuple(self._of.get(of, ())), []).append(of[1])
        found: dict[frozenset[Ports], list[Peer | None]] = {}
        for places, peers in alike.items():
            self._work += len(rule.ports or ()) + sum(len(self._ports[place]) for place in places)
            if self._work > MOST_PORTS:
                raise TooMuchTogetherError(f"more than {MOST_PORTS:,} ports with and without rules of layer 7 for the same peers")
            ports = frozenset(rule.ports or ()).difference(*(self._ports[place] for place in places))
            found.setdefault(ports, []).extend(peers)
        return found


def _each(rule: Rule) -> list[_Of]:
    return [(rule.direction, peer) for peer in ((None,) if rule.peers is None else rule.peers)]


def _closed(held: Sequence[Policy]) -> tuple[Policy, ...]:
    plain = _Plain([rule for policy in held for rule in policy.rules])
    return tuple(replace(each, rules=tuple(chain.from_iterable(_denying(rule, plain) for rule in each.rules))) for each in held)


def _denying(rule: Rule, plain: _Plain) -> Iterator[Rule]:
    """What the rule closes, as rules that deny."""
    if rule.closing is Closing.NOTHING or rule.peers == ():
        yield rule
        return
    denies = replace(rule, deny=True, closing=Closing.NOTHING)
    if rule.closing is Closing.ALWAYS or rule.ports is None:
        yield denies
        return
    for ports, peers in plain.left(rule).items():
        yield replace(denies, peers=None if None in peers else tuple(filter(None, peers)), ports=tuple(sorted(ports)))
