"""Answers: what a port table says of one packet, and which of two answers holds.

In: nothing; these are the words of enum pilus_decision and struct pilus_verdict in bpf/abi.h. Never: why a rule answers so.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Decision(IntEnum):
    """As in bpf/abi.h, enum pilus_decision."""

    DENY = 0
    ALLOW = 1


class Precedence(IntEnum):
    """Of two answers the higher holds. The gaps are for tiers and priorities to come."""

    NONE = 0  # no rule matched: the direction's default
    ALLOW = 0x100
    DENY = 0x200
    HOST = 0xFFFF_FFFF  # the node's own stack is let in, whatever a rule says: the kubelet's probes


@dataclass(frozen=True, slots=True, order=True)
class Answer:
    """`rule` counts from 1 in the policy's origins; 0: no rule."""

    decision: Decision
    precedence: int
    rule: int


# What the kernel makes of a lookup that finds no row at all.
DEFAULT_DENY: Final = Answer(Decision.DENY, Precedence.NONE, 0)
DEFAULT_ALLOW: Final = Answer(Decision.ALLOW, Precedence.NONE, 0)
HOST_LET_IN: Final = Answer(Decision.ALLOW, Precedence.HOST, 0)


def combine(who: Answer, where: Answer | None) -> Answer:
    """The answer that holds, `where` None when no address row matched. Equal precedence: deny; equal decision: `who`."""
    if where is None or who.precedence > where.precedence:
        return who
    if where.precedence > who.precedence:
        return where
    return where if where.decision < who.decision else who
