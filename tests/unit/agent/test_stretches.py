"""Stretches: of every port what both tables say of it, and no two beside each other that say the same."""

import random
from itertools import pairwise

import pytest

from pilus_agent.desired.policy.answers import Precedence, combine
from pilus_agent.desired.policy.porttable import EVERY_PORT, PORTS, Grant, PortTable, Span, build
from pilus_agent.stretches import stretches

TCP, UDP, SCTP = 6, 17, 132
EMPTY = build([], default_deny=True)


def table(seed: int) -> PortTable:
    chance = random.Random(seed)  # noqa: S311 - rules, not a secret
    grants = []
    for rule in range(1, chance.randrange(2, 9)):
        spans = []
        for _ in range(chance.randrange(1, 4)):
            low, high = sorted(chance.choices((*range(40), 65500, 65535), k=2))
            spans.append(EVERY_PORT if chance.random() < 0.05 else Span(chance.choice((TCP, TCP, UDP)), low, high))
        ranks = (Precedence.ALLOW, Precedence.ALLOW, Precedence.DENY, *(Precedence.ABOVE + rule * 4 + rank for rank in (1, 2, 3)))
        grants.append(Grant(rule, chance.choice(ranks), tuple(spans)))
    return build(grants, default_deny=True)


@pytest.mark.parametrize("seed", range(60))
def test_every_port_is_in_one_and_answered_as_the_tables_do(seed: int) -> None:
    who, where = table(seed), None if seed % 3 == 0 else table(-1 - seed)
    found = list(stretches(who, where))
    for protocol in {one.protocol for one in found}:
        held = [one for one in found if one.protocol == protocol]
        assert [one.low for one in held] == [0, *(one.high + 1 for one in held[:-1])]
        assert held[-1].high == PORTS - 1
        assert all(one.answer != other.answer for one, other in pairwise(held))
        for one in held:
            for port in {one.low, one.high, *(port for port in range(42) if one.low <= port <= one.high)}:
                assert one.answer == combine(who.layers(protocol, port), where.layers(protocol, port) if where else None)


def test_protocols_are_those_that_a_row_of_either_names() -> None:
    tcp, udp = (build([Grant(1, Precedence.ALLOW, (Span(protocol, 80, 80),))], default_deny=True) for protocol in (TCP, UDP))
    every = build([Grant(1, Precedence.ALLOW, (EVERY_PORT,))], default_deny=True)
    assert [one.protocol for one in stretches(tcp, udp)] == [TCP] * 3 + [UDP] * 3
    assert list(stretches(EMPTY, every)) == []
    assert [(one.protocol, one.low, one.high) for one in stretches(tcp, every)] == [(TCP, 0, PORTS - 1)]
