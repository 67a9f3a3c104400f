"""What the kernel itself can take away: a tail call that is not there, a tunnel packet without its key. Both drop, with a name."""

from pathlib import Path

import pytest
from tests.loaded import loaded
from tests.packets.harness.actors import CLIENT, FAR, WEB
from tests.packets.harness.frames import from_pod, tcp, tunnelled
from tests.packets.harness.node import Node
from tests.packets.harness.scenario import Dropped, FromPod, Step, play
from tests.packets.harness.testrun import TestRun

pytestmark = pytest.mark.kernel


def test_a_tail_call_that_is_not_there_drops(tmp_path: Path, family: int) -> None:
    """A program array that was emptied must not let anything through; of a load of its own, since it is never filled again."""
    with loaded("broken", tmp_path, {}) as datapath, TestRun(Node(datapath)) as harness:
        harness.node.reset()
        calls, last = datapath.map("calls"), datapath.enum("pilus_call")["PILUS_CALL_DROP"]
        for slot in set(range(calls.max_entries)) - {last}:
            calls.delete(slot)
        frame = from_pod(CLIENT, WEB.address(family), tcp(1, 80))
        play(harness, [Step(FromPod(CLIENT), frame, Dropped("MISSED_TAIL_CALL"))])
        calls.delete(last)
        verdict, _, _ = harness.run(FromPod(CLIENT), bytes(frame))
        assert verdict == 2, "what can't even be counted drops all the same"


def test_a_packet_without_a_tunnel_key_drops(testrun: TestRun, family: int) -> None:
    """A test run has none to give: what comes to the tunnel's link without one was not sent by a tunnel."""
    testrun.node.reset()
    hook, reason = testrun.node.hooks["PILUS_HOOK_OVERLAY_FROM"], testrun.node.reason("NO_TUNNEL_KEY")
    before = testrun.node.counters().get((hook, reason), 0)
    frame = bytes(tunnelled(FAR.address(family), CLIENT.address(family), tcp(1, 80)))
    verdict, _, _ = testrun.node.datapath.program("overlay_from").test_run(frame)
    assert verdict == 2, "TC_ACT_SHOT"
    assert testrun.node.counters()[hook, reason] == before + 1
