"""Who may say what through the tunnel. CVE-2019-13119: anybody on the underlay can write a VNI and an inner packet."""

import pytest
from tests.packets.harness.actors import CLIENT, ELSEWHERE, FAR, NEAR_FAR, NOBODY, OUTSIDE, STRANGER, THERE, WEB, NodeActor
from tests.packets.harness.frames import from_pod, routed, tcp, tunnelled, udp
from tests.packets.harness.node import Rule, Side
from tests.packets.harness.scenario import Delivered, Dropped, FromPod, FromTunnel, Harness, Step, Tunnelled, play
from tests.packets.harness.testrun import TestRun

pytestmark = pytest.mark.kernel
NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
    127,
    128,
    255,
    256,
    1001,
    FAR.identity,
    NEAR_FAR.identity,
    4242,
    1 << 16,
    (1 << 24) - 1,
)
KNOWN = {1001, 1002, 1003, FAR.identity, NEAR_FAR.identity}


def _expected(node: NodeActor, source: str, number: int, family: int) -> str:
    """ "": it is delivered. From the sentences in docs/datapath.md, and from nothing else."""
    of = {FAR.address(family): THERE, STRANGER[family]: THERE, THERE.routers[family]: THERE, ELSEWHERE.routers[family]: ELSEWHERE}
    if source == OUTSIDE[family]:
        return "UNKNOWN_SENDER"
    if of.get(source) is not node:
        return "WRONG_NODE"
    if number < 128:
        return "" if number == 6 and source == node.routers[family] else "INVALID_VNI"
    return "" if number in KNOWN else "UNKNOWN_IDENTITY"


@pytest.mark.parametrize("node", [THERE, ELSEWHERE], ids=["its node", "another node"])
def test_cve_2019_13119_every_number_from_every_node(harness: Harness, family: int, node: NodeActor) -> None:
    """Outer source by inner source by VNI, against what is written about them."""
    harness.node.settings(event_rate=0)
    sources = (FAR.address(family), STRANGER[family], THERE.routers[family], ELSEWHERE.routers[family], CLIENT.address(family),
               NOBODY[family], OUTSIDE[family])  # fmt: skip
    passed = 0
    for source in sources:
        for number in NUMBERS:
            frame = tunnelled(source, WEB.address(family), tcp(1000 + number % 60000, 80))
            why = _expected(node, source, number, family)
            passed += not why
            play(harness, [Step(FromTunnel(node, number), frame, Dropped(why) if why else Delivered(WEB, routed(frame, to=WEB)))])
    known = len(KNOWN & set(NUMBERS))
    assert passed == (known * 3 + 1 if node is THERE else known + 1)


def test_what_a_replayed_number_is_worth(harness: Harness, family: int) -> None:
    """A connection through the tunnel is open: the same tuple with another number, or from another node, is judged as its own."""
    harness.node.reset(policies={5: (Side(peers={FAR.identity: [Rule(1)]}), Side())}, pods={"web": 5})
    frame = tunnelled(FAR.address(family), WEB.address(family), udp(4000, 53))
    passes = Step(FromTunnel(THERE, FAR.identity), frame, Delivered(WEB, routed(frame, to=WEB)))
    play(harness, [
        passes,
        Step(FromTunnel(THERE, NEAR_FAR.identity), frame, Dropped("POLICY")),
        Step(FromTunnel(THERE, 1), frame, Dropped("INVALID_VNI")),
        Step(FromTunnel(ELSEWHERE, FAR.identity), frame, Dropped("WRONG_NODE")),
        passes,
    ])  # fmt: skip


def test_an_address_that_is_another_nodes_now(testrun: TestRun, family: int) -> None:
    """The range of one node is given to another: who had it is not believed any more, not even in a connection that is open, and
    what goes there goes to the new one."""
    testrun.node.reset(policies={5: (Side(peers={FAR.identity: [Rule(1)]}), Side())}, pods={"web": 5})
    came = tunnelled(FAR.address(family), WEB.address(family), udp(4000, 53))
    answer = from_pod(WEB, FAR.address(family), udp(53, 4000))
    passes = Delivered(WEB, routed(came, to=WEB))
    play(testrun, [Step(FromTunnel(THERE, FAR.identity), came, passes),
                   Step(FromPod(WEB), answer, Tunnelled(THERE, WEB.identity, routed(answer)))])  # fmt: skip
    testrun.node.range(family, THERE.ranges[family], ELSEWHERE)
    testrun.node.ipcache(FAR.address(family), FAR.identity, flags=1, tunnel=ELSEWHERE.underlay)
    testrun.node.raise_slot(0)
    play(testrun, [Step(FromTunnel(THERE, FAR.identity), came, Dropped("WRONG_NODE")),
                   Step(FromPod(WEB), answer, Tunnelled(ELSEWHERE, WEB.identity, routed(answer))),
                   Step(FromTunnel(ELSEWHERE, FAR.identity), came, passes)])  # fmt: skip
    for key in (("POD_OUT", WEB.address(family), FAR.address(family), 17, (53, 4000)),):
        assert testrun.node.flow(*key)[0]
