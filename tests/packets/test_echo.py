"""Echo by policy. GHSA-c66w-hq56-4q97: where policy speaks of ports alone, an echo is not let in, whatever its identifier."""

from dataclasses import replace

import pytest
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, OTHER, WEB, Pod
from tests.packets.harness.frames import echo, echo_reply, from_pod, routed, tcp, udp
from tests.packets.harness.node import Rule, Side
from tests.packets.harness.scenario import Delivered, Dropped, FromPod, Harness, Step, play

pytestmark = pytest.mark.kernel
OPEN = Side()
PORTS = Side(peers={CLIENT.identity: [Rule(1, protocol=6), Rule(2, protocol=17)]})  # every port, and nothing but ports
NOBODY_IN = Side(everybody=[])
IDENTIFIERS = [0, 1, 7, 80, 0xFFFF]


def _passes(sender: Pod, to: Pod, family: int, layers: Packet) -> Step:
    frame = from_pod(sender, to.address(family), layers)
    return Step(FromPod(sender), frame, Delivered(to, routed(frame, to=to)))


def _refused(step: Step) -> Step:
    return replace(step, expect=Dropped("POLICY"))


@pytest.mark.parametrize("identifier", IDENTIFIERS)
def test_ghsa_c66w_hq56_4q97_ports_are_no_echo(harness: Harness, family: int, identifier: int) -> None:
    """Nor is it one of a connection with the identifier's number as a port, to or from."""
    harness.node.reset(policies={5: (PORTS, OPEN)}, pods={"web": 5})
    for kind in (tcp, udp):
        play(harness, [_passes(CLIENT, WEB, family, kind(identifier, 0)), _passes(CLIENT, WEB, family, kind(0, identifier))])
    play(harness, [_refused(_passes(CLIENT, WEB, family, echo(family, identifier)))])
    play(harness, [_refused(_passes(CLIENT, WEB, family, echo_reply(family, identifier)))])


@pytest.mark.parametrize("identifier", IDENTIFIERS)
def test_ghsa_c66w_hq56_4q97_who_answers_may_not_ask(harness: Harness, family: int, identifier: int) -> None:
    """The client asks, and may not be asked: an answer passes, a question with its identifier does not, nor does an answer to a
    third. With identifier 0 both have one key."""
    harness.node.reset(policies={5: (NOBODY_IN, OPEN)}, pods={"client": 5})
    ask, answer = (
        _passes(CLIENT, WEB, family, echo(family, identifier)),
        _passes(WEB, CLIENT, family, echo_reply(family, identifier)),
    )
    question = _refused(_passes(WEB, CLIENT, family, echo(family, identifier)))
    third = _refused(_passes(OTHER, CLIENT, family, echo_reply(family, identifier)))
    play(harness, [_refused(answer), ask, answer, question, third, ask, answer, question, answer])


def test_both_ask_with_identifier_0(harness: Harness, family: int) -> None:
    """Where both may, both are answered."""
    for one, two in ((CLIENT, WEB), (WEB, CLIENT)):
        play(harness, [_passes(one, two, family, echo(family, 0)), _passes(two, one, family, echo_reply(family, 0))])
