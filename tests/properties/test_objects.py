"""From objects to tables, against an evaluator that reads the objects themselves: policies of every kind and field."""

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.properties.conftest import WORLDS
from tests.properties.meaning import Cluster, Packet, decide
from tests.properties.objects import clusters, packet
from tests.properties.staged import staged
from tests.unit.agent.fakes import described

from pilus_agent.desired.policy.answers import Decision
from pilus_agent.desired.policy.explain import explain
from pilus_agent.policy_stage import PolicyStage
from pilus_agent.tables import Tables
from pilus_api.identities import Identity
from pilus_api.rules import Direction

PACKETS = 100
MAPS = described()["maps"]


def telling(cluster: Cluster, chance: random.Random) -> tuple[str, Packet]:
    """A packet, and rather one that some rule decides: most are nobody's."""
    for _ in range(chance.choice((0, 2, 4))):
        me, asked = packet(cluster, chance)
        if decide(cluster, me, asked, audited=chance.random() < 0.5)[1]:
            return me, asked
    return packet(cluster, chance)


@WORLDS
@given(cluster=clusters(), seed=st.integers(0, 2**16))
def test_the_tables_answer_as_the_objects_mean(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - packets, not a secret
    (stage, governed), tables = staged(cluster), Tables.of(MAPS)
    stage.settle(tables)
    for _ in range(PACKETS):
        me, asked = telling(cluster, chance)
        applied = governed.get(me)
        sides = (applied.ingress_enforced, applied.egress_enforced) if applied else (False, False)
        check(stage, applied.policy if applied else b"", asked, decide(cluster, me, asked), enforced=sides[asked.direction])
        if applied and applied.audit:
            check(stage, applied.audit, asked, decide(cluster, me, asked, audited=True), enforced=True)
        else:
            assert decide(cluster, me, asked, audited=True)[0] == decide(cluster, me, asked)[0]


def check(stage: PolicyStage, name: bytes, asked: Packet, expected: tuple[bool, frozenset[Any]], *, enforced: bool) -> None:
    allowed, reasons = expected
    policy = stage.numbered(stage.number(name)) if name else None
    if policy is None or not enforced:
        assert allowed, (asked, reasons)
        return
    found = explain(
        policy,
        Direction(asked.direction),
        Identity(asked.peer.identity),
        asked.address,
        not asked.outside,
        asked.protocol,
        asked.port,
    )
    assert (found.decision is Decision.ALLOW) == allowed, (asked, reasons, found)
    if reasons:
        assert found.rule is not None, (asked, reasons)
        assert (found.rule.kind, found.rule.namespace, found.rule.name, found.rule.path) in reasons, (asked, reasons, found)
    else:
        assert found.rule is None, (asked, found)
