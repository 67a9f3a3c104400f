"""The kernel's own answer: drawn worlds of rules and clusters of objects, compiled and written as the agent does it, and packets
judged by the programs.

What they mean say the evaluators of the property tests, which know no tables. What is asked: whether a connection's first
packet may pass, on every way on which policies decide (harness/ways.py), and whether the rule that the kernel names has decided.
"""

from itertools import count
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.packets.harness.actors import mac_bytes
from tests.packets.harness.drawn import Drawn
from tests.packets.harness.drawn_cluster import DrawnCluster
from tests.packets.harness.drawn_world import DrawnWorld
from tests.packets.harness.scenario import HOOKS, FromHost
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.verdicts import Verdict, agrees, verdict
from tests.packets.harness.ways import Trial, Ways
from tests.properties.conftest import WORLDS
from tests.properties.meaning import Cluster
from tests.properties.objects import clusters
from tests.properties.oracle import World
from tests.properties.worlds import worlds

pytestmark = pytest.mark.kernel

PROBES: Final = 60  # of a world; of a cluster, where each costs more, half as many
SHOT, REDIRECT = 2, 7  # TC_ACT_*


def _try(testrun: TestRun, drawn: Drawn, trial: Trial, expected: Verdict) -> None:
    node = testrun.node
    hook = HOOKS[type(trial.at)]
    before = node.audited(hook) if trial.what.silent else 0
    action, frame, _ = testrun.run(trial.at, trial.frame)
    assert (action == SHOT) == bool(expected.reason), (trial, action, node.events(), expected)
    for pod in drawn.pods:
        if trial.to == pod.name and not expected.reason and not isinstance(trial.at, FromHost):
            assert (action, frame[:6]) == (REDIRECT, mac_bytes(pod.mac)), trial
    events = node.events()
    if trial.what.silent and not expected.reason:
        assert not events, (trial, events)
        assert node.audited(hook) - before == expected.audited, (trial, expected)
        return
    assert len(events) == 1, (trial, events, expected)
    agrees(drawn, trial, expected, events[0])


def _judge(testrun: TestRun, drawn: Drawn, chance: Random, probes: int, *tries: int) -> None:
    """`tries`: how often another packet is drawn, for one that some rule decides."""
    drawn.write()
    ways = Ways(drawn, chance, count())

    def draw() -> tuple[Trial, Verdict]:
        trial = ways.draw()
        return trial, verdict(drawn, trial)

    for _ in range(probes):
        trial, expected = draw()
        for _ in range(chance.choice(tries) if tries else 0):
            if expected.said.reasons:
                break
            trial, expected = draw()
        _try(testrun, drawn, trial, expected)


@WORLDS
@given(world=worlds(), seed=st.integers(0, 2**16))
def test_the_programs_answer_as_the_rules_mean(testrun: TestRun, world: World, seed: int) -> None:
    chance = Random(seed)  # noqa: S311 - probes, not a secret
    _judge(testrun, DrawnWorld(testrun.node, world, chance), chance, PROBES)


@WORLDS
@given(cluster=clusters(), seed=st.integers(0, 2**16))
def test_the_programs_answer_as_the_objects_mean(testrun: TestRun, cluster: Cluster, seed: int) -> None:
    """From policies as people write them to what becomes of a packet: most packets would be nobody's."""
    chance = Random(seed)  # noqa: S311 - probes, not a secret
    _judge(testrun, DrawnCluster(testrun.node, cluster, chance), chance, PROBES // 2, 0, 2, 4)
