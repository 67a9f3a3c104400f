"""Port tables: the longest match is the answer, and there are no more rows than that takes."""

import random

import pytest

from pilus_agent.desired.policy.answers import DEFAULT_DENY, Answer, Decision, Precedence
from pilus_agent.desired.policy.porttable import ANY_PORT, ANY_PROTOCOL, EVERY_PORT, Grant, PortRow, Span, build, port_table

TCP, UDP, ICMP = 6, 17, 1


def allow(rule: int, *spans: Span) -> Grant:
    return Grant(rule, Precedence.ALLOW, spans)


def deny(rule: int, *spans: Span) -> Grant:
    return Grant(rule, Precedence.DENY, spans)


def allowed(rule: int) -> Answer:
    return Answer(Decision.ALLOW, Precedence.ALLOW, rule)


def denied(rule: int) -> Answer:
    return Answer(Decision.DENY, Precedence.DENY, rule)


@pytest.mark.parametrize(
    ("grants", "rows"),
    [
        ([], []),
        ([allow(1, EVERY_PORT)], [PortRow(ANY_PROTOCOL, 0, 0, allowed(1))]),
        ([allow(1, Span(TCP, 80, 80))], [PortRow(64, TCP, 80, allowed(1))]),
        ([allow(1, Span(TCP, 0, 65535))], [PortRow(ANY_PORT, TCP, 0, allowed(1))]),
        ([allow(1, Span(ICMP, 8, 8))], [PortRow(64, ICMP, 8, allowed(1))]),
        (
            [allow(1, EVERY_PORT), deny(2, Span(TCP, 80, 80))],
            [PortRow(ANY_PROTOCOL, 0, 0, allowed(1)), PortRow(64, TCP, 80, denied(2))],
        ),
        # A deny of everything leaves no more specific allow behind.
        ([deny(1, EVERY_PORT), allow(2, Span(TCP, 80, 80))], [PortRow(ANY_PROTOCOL, 0, 0, denied(1))]),
        (
            [allow(1, EVERY_PORT), deny(2, Span(TCP, 0, 65535)), allow(3, Span(TCP, 80, 80))],
            [PortRow(ANY_PROTOCOL, 0, 0, allowed(1)), PortRow(ANY_PORT, TCP, 0, denied(2))],
        ),
        ([allow(1, Span(TCP, 8080, 8095))], [PortRow(ANY_PORT + 12, TCP, 8080, allowed(1))]),
        # All but one: two rows, not sixteen.
        (
            [allow(1, Span(TCP, 1, 65535))],
            [PortRow(ANY_PORT, TCP, 0, allowed(1)), PortRow(64, TCP, 0, DEFAULT_DENY)],
        ),
        # Among equals the first rule answers, however they come.
        ([allow(2, Span(TCP, 80, 80)), allow(1, Span(TCP, 80, 80))], [PortRow(64, TCP, 80, allowed(1))]),
        ([allow(1, EVERY_PORT), allow(2, Span(TCP, 80, 80))], [PortRow(ANY_PROTOCOL, 0, 0, allowed(1))]),
    ],
)
def test_rows(grants: list[Grant], rows: list[PortRow]) -> None:
    assert sorted(build(grants, default_deny=True).rows, key=repr) == sorted(rows, key=repr)


def test_without_default_deny_what_no_rule_matches_passes_and_yields_to_any_rule() -> None:
    table = build([deny(1, Span(TCP, 80, 80))], default_deny=False)
    assert table.answer(TCP, 80) == denied(1)
    assert table.answer(TCP, 81) == table.answer(UDP, 80) == Answer(Decision.ALLOW, Precedence.NONE, 0)


def test_the_same_answers_are_the_same_table_however_they_are_written() -> None:
    one = build([allow(1, Span(TCP, 80, 81))], default_deny=True)
    other = build([allow(1, Span(TCP, 81, 81), Span(TCP, 80, 80), Span(TCP, 80, 80))], default_deny=True)
    assert one == other
    assert one.name == other.name
    assert len(one.name) == 16
    assert port_table(reversed(one.rows)) == one
    assert build([allow(2, Span(TCP, 80, 81))], default_deny=True).name != one.name


def naive(grants: list[Grant], protocol: int, port: int) -> Answer:
    hits = [
        grant for grant in grants if any(span.protocol in (0, protocol) and span.low <= port <= span.high for span in grant.spans)
    ]
    if denying := [grant.rule for grant in hits if grant.precedence == Precedence.DENY]:
        return denied(min(denying))
    return allowed(min(grant.rule for grant in hits)) if hits else DEFAULT_DENY


@pytest.mark.parametrize("seed", range(40))
def test_every_edge_of_many_overlapping_ranges(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    grants = []
    for rule in range(1, chance.randrange(2, 30)):
        low = chance.choice((0, 1, 1023, 1024, chance.randrange(65536)))
        high = min(65535, low + chance.choice((0, 0, 1, 7, 100, 5000, 65535)))
        span = Span(chance.choice((TCP, UDP)), low, high) if chance.random() < 0.9 else EVERY_PORT
        grants.append(Grant(rule, Precedence.DENY if chance.random() < 0.3 else Precedence.ALLOW, (span,)))
    table = build(grants, default_deny=True)
    edges = {edge for grant in grants for span in grant.spans for edge in (span.low - 1, span.low, span.high, span.high + 1)}
    edges |= {chance.randrange(65536) for _ in range(50)}
    for port in edges & set(range(65536)):
        for protocol in (TCP, UDP, ICMP):
            assert table.answer(protocol, port) == naive(grants, protocol, port)


def test_a_range_takes_no_more_prefixes_than_it_must() -> None:
    # The worst range of n bits splits into 2n - 2 prefixes; allowing all and denying the two ends would take as many.
    assert len(build([allow(1, Span(TCP, 1, 65534))], default_deny=True).rows) == 3
    assert len(build([allow(1, Span(TCP, 1, 32766))], default_deny=True).rows) == 3
    assert len(build([allow(1, Span(TCP, 30000, 32767))], default_deny=True).rows) <= 6


def test_ports_beside_each_other_share_a_prefix() -> None:
    grants = [allow(1, Span(TCP, 80, 80), Span(TCP, 82, 82)), allow(2, Span(TCP, 81, 81)), allow(3, Span(TCP, 83, 83))]
    assert len(build(grants, default_deny=True).rows) == 3
