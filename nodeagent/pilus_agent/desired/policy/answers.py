"""Answers: what a port table says of one packet, and which of two answers holds.

In: nothing; these are the words of enum pilus_decision and struct pilus_verdict in bpf/abi.h. Never: why a rule answers so.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pilus_api.rules import PLACES, Rule, Tier


class Decision(IntEnum):
    """As in bpf/abi.h, enum pilus_decision."""

    DENY = 0
    ALLOW = 1
    PASS = 3  # of the admin tier: the tiers below decide


# A precedence is a level, and in its two lowest bits what is decided, so that among equals a denial is the higher one.
_RANKS: Final = {Decision.PASS: 1, Decision.ALLOW: 2, Decision.DENY: 3}
_DECISIONS: Final = {rank: decision for decision, rank in _RANKS.items()}
_BASELINE: Final = 1
_NETWORK_POLICY: Final = 1 << 18
_ADMIN: Final = 1 << 19


class Precedence(IntEnum):
    """Of two answers of one layer the higher holds."""

    NONE = 0  # no rule matched: the direction's default
    ALLOW = _NETWORK_POLICY << 2 | _RANKS[Decision.ALLOW]
    DENY = _NETWORK_POLICY << 2 | _RANKS[Decision.DENY]
    ABOVE = _ADMIN << 2  # from here on the admin tier: a layer of its own
    HOST = 0xFFFF_FFFE  # the node's own stack is let in, whatever a rule says: the kubelet's probes


def precedence(rule: Rule) -> int:
    """Of a rule's answers, from its tier, its place there, and what it decides."""
    # What the last tier passes comes to the default, which is to let pass: where it is another, that tier has no rules.
    passes = rule.passes and rule.tier is not Tier.BASELINE
    rank = _RANKS[Decision.PASS if passes else Decision.DENY if rule.deny else Decision.ALLOW]
    if rule.tier is Tier.NETWORK_POLICY:
        return _NETWORK_POLICY << 2 | rank
    return (_ADMIN if rule.tier is Tier.ADMIN else _BASELINE) + (PLACES - 1 - rule.place) << 2 | rank


def decision(precedence: int) -> Decision:
    """What a rule of this precedence decides."""
    return _DECISIONS[precedence & 3]


@dataclass(frozen=True, slots=True, order=True)
class Answer:
    """`rule` counts from 1 in the policy's origins; 0: no rule."""

    decision: Decision
    precedence: int
    rule: int


# What the kernel makes of a lookup that finds no row at all.
DEFAULT_DENY: Final = Answer(Decision.DENY, Precedence.NONE, 0)
DEFAULT_ALLOW: Final = Answer(Decision.ALLOW, Precedence.NONE, 0)
# Of the admin tier where no rule of it matched: as the kernel's rows have it, all zero.
NOTHING_ABOVE: Final = Answer(Decision.DENY, Precedence.NONE, 0)
HOST_LET_IN: Final = Answer(Decision.ALLOW, Precedence.HOST, 0)


@dataclass(frozen=True, slots=True)
class Layers:
    """What a table says of a packet: what the admin tier does, and what the others do if that one passes or has nothing to say."""

    below: Answer
    above: Answer = NOTHING_ABOVE

    @property
    def answer(self) -> Answer:
        decided = self.above.precedence != Precedence.NONE and self.above.decision is not Decision.PASS
        return self.above if decided else self.below


def _higher(who: Answer, where: Answer) -> Answer:
    """Equal precedence: deny; equal decision: `who`."""
    if who.precedence != where.precedence:
        return who if who.precedence > where.precedence else where
    return where if where.decision < who.decision else who


def combine(who: Layers, where: Layers | None) -> Answer:
    """The answer that holds, `where` None when no address row matched. Layer by layer: what passes above passes for both."""
    if where is None:
        return who.answer
    return Layers(_higher(who.below, where.below), _higher(who.above, where.above)).answer
