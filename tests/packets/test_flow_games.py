"""Odd tuples and odd beginnings: port 0, both sides at once, the one who was called."""

from collections.abc import Callable

import pytest
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, OTHER, WEB, Pod
from tests.packets.harness.frames import from_pod, routed, tcp, udp
from tests.packets.harness.node import DENY, Rule, Side
from tests.packets.harness.scenario import Delivered, Dropped, FromPod, Harness, Step, play

pytestmark = pytest.mark.kernel
OPEN, NOBODY_IN = Side(), Side(everybody=[])
KINDS: dict[str, Callable[[int, int], Packet]] = {"tcp": tcp, "udp": udp}


def _passes(sender: Pod, to: Pod, family: int, layers: Packet) -> Step:
    frame = from_pod(sender, to.address(family), layers)
    return Step(FromPod(sender), frame, Delivered(to, routed(frame, to=to)))


def _refused(step: Step, reason: str = "POLICY") -> Step:
    return Step(step.at, step.frame, Dropped(reason))


@pytest.mark.parametrize("kind", KINDS)
def test_port_0_is_a_port(harness: Harness, family: int, kind: str) -> None:
    """No row of any port's takes it for "every port", and no rule about another port lets it in; "every port" has it too."""
    number, made = 6 if kind == "tcp" else 17, KINDS[kind]
    web = {5: (Side(everybody=[Rule(1, protocol=number, port=80)]), OPEN)}
    harness.node.reset(policies=web, pods={"web": 5})
    play(harness, [_refused(_passes(CLIENT, WEB, family, made(1000, 0))), _refused(_passes(CLIENT, WEB, family, made(0, 0))),
                   _passes(CLIENT, WEB, family, made(0, 80))])  # fmt: skip
    harness.node.reset(policies={5: (Side(everybody=[Rule(1, protocol=number, port=0)]), OPEN)}, pods={"web": 5})
    play(harness, [_passes(CLIENT, WEB, family, made(1000, 0)), _refused(_passes(CLIENT, WEB, family, made(1000, 1)))])
    everything = {5: (Side(everybody=[Rule(1, protocol=number), Rule(2, DENY, protocol=number, port=0)]), OPEN)}
    harness.node.reset(policies=everything, pods={"web": 5})
    play(
        harness, [_refused(_passes(CLIENT, WEB, family, made(1000, 0)), "POLICY_DENY"), _passes(CLIENT, WEB, family, made(1000, 1))]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_who_was_called_may_not_call_back(harness: Harness, family: int, kind: str) -> None:
    """The client talks to the web pod, and lets nobody in: from its port the web pod reaches the client's port, and no other; from
    another port, or as another pod, not even that."""
    made = KINDS[kind]
    harness.node.reset(policies={5: (NOBODY_IN, OPEN)}, pods={"client": 5})
    play(harness, [_passes(CLIENT, WEB, family, made(40000, 80))])
    for ports in ((80, 40001), (81, 40000), (40000, 80), (80, 0), (0, 40000), (80, 80), (40000, 40000)):
        play(harness, [_refused(_passes(WEB, CLIENT, family, made(*ports)))])
    play(harness, [_refused(_passes(OTHER, CLIENT, family, made(80, 40000)))])
    # Both SYNs on one tuple are one connection (RFC 9293 3.5); it had been begun by who may.
    play(harness, [_passes(WEB, CLIENT, family, made(80, 40000))])


def test_a_closed_connections_tuple_is_no_way_back(harness: Harness, family: int) -> None:
    """After its end the one who was called begins again on it: that is a new connection, the other way round."""
    harness.node.reset(policies={5: (NOBODY_IN, OPEN)}, pods={"client": 5})
    for flags in ("S", "A", "FA"):
        play(harness, [_passes(CLIENT, WEB, family, tcp(40000, 80, flags))])
        if flags != "A":
            play(harness, [_passes(WEB, CLIENT, family, tcp(80, 40000, "SA" if flags == "S" else "FA"))])
    play(harness, [_refused(_passes(WEB, CLIENT, family, tcp(80, 40000, "S")))])


def test_flags_that_mean_nothing_open_nothing(harness: Harness, family: int) -> None:
    """Null, Christmas tree, SYN with FIN, answers to nothing: each is judged as a beginning is."""
    harness.node.reset(policies={5: (NOBODY_IN, OPEN)}, pods={"web": 5})
    for flags in ("", "FSRPAUEC", "SF", "SR", "SA", "A", "RA", "FA", "PA", "R"):
        play(harness, [_refused(_passes(CLIENT, WEB, family, tcp(40000, 80, flags)))])
