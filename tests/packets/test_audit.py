"""Policies in audit mode: what they would refuse passes, is counted and told."""

import pytest
from tests.packets.harness.actors import CLIENT, FAR, OTHER, THERE, WEB
from tests.packets.harness.frames import from_pod, raw, routed, tcp, tunnelled
from tests.packets.harness.node import DENY, EGRESS, INGRESS, Rule, Side
from tests.packets.harness.scenario import Delivered, Dropped, FromPod, FromTunnel, Harness, Step, play

pytestmark = pytest.mark.kernel
OPEN = Side()
TCP = 6


def _ask(family: int, port: int = 80, **event: object) -> Step:
    """A SYN from the client to the web pod, delivered."""
    frame = from_pod(CLIENT, WEB.address(family), tcp(40000, port))
    return Step(FromPod(CLIENT), frame, Delivered(WEB, routed(frame, to=WEB)), event or None)


def _counted(harness: Harness) -> int:
    return sum(harness.node.counters(audited=True).values())


@pytest.mark.parametrize(
    ("audited", "rule"),
    [(Side(everybody=[]), 0), (Side(everybody=[Rule(3, DENY)]), 3), (Side(peers={OTHER.identity: [Rule(1)]}), 0)],
)
def test_what_would_be_refused_passes_and_is_told(harness: Harness, family: int, audited: Side, rule: int) -> None:
    harness.node.reset(policies={5: (audited, OPEN)})
    harness.node.endpoint(WEB, audit=5)
    before = _counted(harness)
    play(harness, [_ask(family, reason=0, audited=1, rule=rule, policy=5, direction=INGRESS)])
    assert _counted(harness) == before + 1


def test_what_would_pass_is_not_told_as_audited(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (Side(peers={CLIENT.identity: [Rule(1, protocol=TCP, port=80)]}), OPEN)})
    harness.node.endpoint(WEB, audit=5)
    before = _counted(harness)
    play(harness, [_ask(family, reason=0, audited=0, rule=0), _ask(family, 81, reason=0, audited=1)])
    assert _counted(harness) == before + 1


def test_egress(harness: Harness, family: int) -> None:
    closed, web = Side(everybody=[]), Side(peers={WEB.identity: [Rule(1)]})
    harness.node.reset(policies={5: (OPEN, closed), 6: (closed, web)})
    harness.node.endpoint(CLIENT, audit=5)
    play(harness, [_ask(family, reason=0, audited=1, policy=5, direction=EGRESS)])
    harness.node.endpoint(CLIENT, audit=6)
    harness.node.endpoint(WEB, audit=6)
    play(harness, [_ask(family, 81, reason=0, audited=1, policy=6, direction=INGRESS)])


def test_an_enforced_policy_beside_it_is_enforced(harness: Harness, family: int) -> None:
    """And the rule that let a packet pass is told where the audited policies would let it pass too."""
    enforced = Side(peers={CLIENT.identity: [Rule(7, protocol=TCP, port=80)]})
    harness.node.reset(policies={5: (enforced, OPEN), 6: (Side(everybody=[]), OPEN), 8: (Side(everybody=[Rule(2)]), OPEN)})
    harness.node.endpoint(WEB, policy=5, enforced=[INGRESS], audit=6)
    refused = from_pod(CLIENT, WEB.address(family), tcp(40000, 81))
    play(harness, [
        _ask(family, reason=0, audited=1, policy=6, rule=0),
        Step(FromPod(CLIENT), refused, Dropped("POLICY"), {"audited": 0, "policy": 5}),
    ])  # fmt: skip
    harness.node.reset(policies={5: (enforced, OPEN), 8: (Side(everybody=[Rule(2)]), OPEN)})
    harness.node.endpoint(WEB, policy=5, enforced=[INGRESS], audit=8)
    play(harness, [_ask(family, reason=0, audited=0, policy=5, rule=7, direction=INGRESS)])


def test_of_a_connection_it_is_told_once(harness: Harness, family: int) -> None:
    """And again when it is so again: a repeated SYN, an answer and a decision anew are no news."""
    closed, opened = (Side(everybody=[]), OPEN), (Side(everybody=[Rule(1)]), OPEN)
    harness.node.reset(policies={5: closed, 6: opened})
    harness.node.endpoint(WEB, audit=5)
    before = _counted(harness)
    play(harness, [_ask(family, audited=1)])
    again = raw(from_pod(CLIENT, WEB.address(family), tcp(40000, 80)))
    answer = raw(from_pod(WEB, CLIENT.address(family), tcp(80, 40000, "SA")))
    assert harness.send(FromPod(CLIENT), again).events == []
    assert harness.send(FromPod(WEB), answer).events == []
    harness.node.raise_slot(WEB.slot)
    assert harness.send(FromPod(CLIENT), again).events == []
    assert _counted(harness) == before + 1
    for audit, told in ((6, []), (5, [1])):
        harness.node.endpoint(WEB, audit=audit)
        harness.node.raise_slot(WEB.slot)
        assert [event["audited"] for event in harness.send(FromPod(CLIENT), again).events] == told
    assert _counted(harness) == before + 2


def test_an_audited_policy_that_is_not_there_whole_refuses_nothing_and_tells_nothing(harness: Harness, family: int) -> None:
    harness.node.reset()
    harness.node.endpoint(WEB, audit=9)
    play(harness, [_ask(family, audited=0)])


def test_through_the_tunnel(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (Side(everybody=[]), OPEN)})
    harness.node.endpoint(WEB, audit=5)
    frame = tunnelled(FAR.address(family), WEB.address(family), tcp(40000, 80))
    told = {"audited": 1, "source_identity": FAR.identity, "policy": 5}
    play(harness, [Step(FromTunnel(THERE, FAR.identity), frame, Delivered(WEB, routed(frame, to=WEB)), told)])
