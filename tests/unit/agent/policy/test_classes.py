"""Parting identities by their rules, and the words of two answers."""

import random

import pytest

from pilus_agent.desired.policy.answers import DEFAULT_ALLOW, DEFAULT_DENY, HOST_LET_IN, Answer, Decision, Layers, combine
from pilus_agent.desired.policy.classes import partition


@pytest.mark.parametrize("seed", range(60))
def test_a_member_has_the_rules_of_every_set_it_is_in(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    members = chance.choice((3, 8, 40))
    selected = [
        (1 << chance.randrange(5) | 1 << chance.randrange(5), chance.getrandbits(members) & chance.getrandbits(members))
        for _ in range(chance.randrange(12))
    ]
    expected = dict.fromkeys(range(members), 0)
    for rules, bits in selected:
        for member in range(members):
            if bits >> member & 1:
                expected[member] |= rules
    assert partition(selected) == {member: rules for member, rules in expected.items() if rules}


ALLOW, DENY = Answer(Decision.ALLOW, 7, 1), Answer(Decision.DENY, 7, 2)


@pytest.mark.parametrize(
    ("who", "where", "holds"),
    [
        (ALLOW, None, ALLOW),
        (DEFAULT_DENY, ALLOW, ALLOW),
        (ALLOW, DEFAULT_DENY, ALLOW),
        (ALLOW, DENY, DENY),
        (DENY, ALLOW, DENY),
        (ALLOW, Answer(Decision.ALLOW, 7, 9), ALLOW),
        (HOST_LET_IN, DENY, HOST_LET_IN),
        (DEFAULT_ALLOW, DEFAULT_DENY, DEFAULT_DENY),
    ],
)
def test_the_higher_precedence_holds_and_among_equals_the_deny(who: Answer, where: Answer | None, holds: Answer) -> None:
    assert combine(Layers(who), Layers(where) if where else None) == holds
    above = combine(Layers(DEFAULT_DENY, who), Layers(DEFAULT_DENY, where) if where else None)
    assert above == (holds if holds.precedence else DEFAULT_DENY)


PASS = Answer(Decision.PASS, 9, 3)


@pytest.mark.parametrize(
    ("who", "where", "holds"),
    [
        (Layers(DENY, ALLOW), None, ALLOW),
        (Layers(DENY, PASS), None, DENY),
        # What one passes is passed for the other as well, if it comes first; else that one's answer stands.
        (Layers(ALLOW, PASS), Layers(DEFAULT_DENY, DENY), ALLOW),
        (Layers(ALLOW, Answer(Decision.PASS, 5, 3)), Layers(DEFAULT_DENY, DENY), DENY),
        (Layers(ALLOW), Layers(DENY, PASS), DENY),
        (Layers(DEFAULT_DENY, DENY), Layers(ALLOW, PASS), ALLOW),
    ],
)
def test_what_is_passed_above_is_decided_below(who: Layers, where: Layers | None, holds: Answer) -> None:
    assert combine(who, where) == holds
