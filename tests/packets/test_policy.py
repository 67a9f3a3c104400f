"""Policy: who, where, and both; deny over allow; what is incomplete or unknown drops."""

import pytest
from tests.packets.harness.actors import CLIENT, FAR, OTHER, OUTSIDE, THERE, WEB
from tests.packets.harness.frames import echo, from_pod, raw, routed, router, tcp, to_pod, tunnelled, udp
from tests.packets.harness.node import ALLOW, DENY, INGRESS, Rule, Side
from tests.packets.harness.scenario import (
    Delivered,
    Dropped,
    FromHost,
    FromOutside,
    FromPod,
    FromTunnel,
    Harness,
    Point,
    Step,
    ToHost,
    Tunnelled,
    play,
)
from tests.packets.harness.testrun import TestRun
from tests.packets.harness.world import masquerading

pytestmark = pytest.mark.kernel
OPEN = Side()
TCP, UDP = 6, 17


def _ask(harness: Harness, family: int, port: int = 80, *, sender: object = CLIENT) -> Step:
    """A SYN from the client to the web pod, allowed."""
    frame = from_pod(sender, WEB.address(family), tcp(40000, port))  # type: ignore[arg-type]
    return Step(FromPod(sender), frame, Delivered(WEB, routed(frame, to=WEB)))  # type: ignore[arg-type]


def _refused(step: Step, reason: str, **event: object) -> Step:
    return Step(step.at, step.frame, Dropped(reason), event or None)


def test_who(harness: Harness, family: int) -> None:
    ingress = Side(peers={CLIENT.identity: [Rule(1, protocol=TCP, port=80)]})
    harness.node.reset(policies={5: (ingress, OPEN)}, pods={"web": 5})
    play(harness, [
        _ask(harness, family),
        _refused(_ask(harness, family, 81), "POLICY", source_identity=CLIENT.identity, destination_identity=WEB.identity, rule=0,
                 direction=INGRESS, endpoint=CLIENT.number),
        _refused(_ask(harness, family, sender=OTHER), "POLICY", source_identity=OTHER.identity),
    ])  # fmt: skip


def test_who_through_the_tunnel(harness: Harness, family: int) -> None:
    """The tunnel's number decides, not the address."""
    ingress = Side(peers={FAR.identity: [Rule(3, protocol=TCP)]})
    harness.node.reset(policies={5: (ingress, OPEN)}, pods={"web": 5})
    frame = tunnelled(FAR.address(family), WEB.address(family), tcp(40000, 80))
    play(harness, [
        Step(FromTunnel(THERE, 2002), frame, Dropped("POLICY"), {"source_identity": 2002, "endpoint": WEB.number}),
        Step(FromTunnel(THERE, FAR.identity), frame, Delivered(WEB, routed(frame, to=WEB))),
    ])  # fmt: skip


def test_everybody_and_protocols(harness: Harness, family: int) -> None:
    ingress = Side(
        everybody=[Rule(1, protocol=UDP, port=53), Rule(2, protocol=1 if family == 4 else 58, port=8 if family == 4 else 128)]
    )
    harness.node.reset(policies={5: (ingress, OPEN)}, pods={"web": 5})
    dns, ping = (from_pod(CLIENT, WEB.address(family), layers) for layers in (udp(40000, 53), echo(family)))
    play(harness, [
        Step(FromPod(CLIENT), dns, Delivered(WEB, routed(dns, to=WEB))),
        Step(FromPod(CLIENT), ping, Delivered(WEB, routed(ping, to=WEB))),
        _refused(_ask(harness, family, 53), "POLICY"),
    ])  # fmt: skip


def test_egress(harness: Harness, family: int) -> None:
    egress = Side(peers={WEB.identity: [Rule(1, protocol=TCP, port=80)], FAR.identity: [Rule(2)]})
    harness.node.reset(policies={5: (OPEN, egress)}, pods={"client": 5})
    far = from_pod(CLIENT, FAR.address(family), udp(1, 2))
    host = from_pod(CLIENT, router(family), udp(1, 9999))
    play(harness, [
        _ask(harness, family),
        _refused(_ask(harness, family, 81), "POLICY", direction=1),
        Step(FromPod(CLIENT), far, Tunnelled(THERE, CLIENT.identity, routed(far))),
        Step(FromPod(CLIENT), host, Dropped("POLICY"), {"destination_identity": 1}),
    ])  # fmt: skip


def test_egress_to_this_host(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (OPEN, Side(peers={1: [Rule(1)]}))}, pods={"client": 5})
    host = from_pod(CLIENT, router(family), udp(1, 9999))
    play(harness, [Step(FromPod(CLIENT), host, ToHost()), _refused(_ask(harness, family), "POLICY")])


def test_where(harness: Harness, family: int) -> None:
    """An ipBlock matches any address, pods included; a CIDR rule only what is outside the cluster."""
    block = f"{CLIENT.address(family)}/{32 if family == 4 else 128}"
    world = "0.0.0.0/0" if family == 4 else "::/0"
    harness.node.reset(policies={5: (Side(networks={block: [Rule(1)]}, outside={world: [Rule(2)]}), OPEN)}, pods={"web": 5})
    play(harness, [_ask(harness, family), _refused(_ask(harness, family, sender=OTHER), "POLICY")])


def test_where_outside(harness: Harness, family: int) -> None:
    """Allowed, so what stops it is that there is no way yet."""
    world = "0.0.0.0/0" if family == 4 else "::/0"
    harness.node.reset(policies={5: (OPEN, Side(outside={world: [Rule(2, protocol=TCP, port=443)]}))}, pods={"client": 5})
    https, http = (from_pod(CLIENT, OUTSIDE[family], tcp(1, port)) for port in (443, 80))
    out = harness.send(FromPod(CLIENT), bytes(https))
    assert out.reason != harness.node.reason("POLICY")
    play(harness, [Step(FromPod(CLIENT), http, Dropped("POLICY"), {"destination_identity": 2})])


@pytest.mark.parametrize(("who", "where", "passes"), [
    (Rule(1), Rule(2, DENY), False),
    (Rule(1, DENY), Rule(2), False),
    (Rule(1, precedence=20), Rule(2, DENY), True),
    (Rule(1, DENY, precedence=20), Rule(2), False),
    (Rule(1, DENY), Rule(2, precedence=20), True),
    (Rule(1), Rule(2), True),
])  # fmt: skip
def test_two_questions_one_answer(harness: Harness, family: int, who: Rule, where: Rule, passes: bool) -> None:
    """The higher precedence holds; among equals the denial."""
    block = f"{CLIENT.address(family)}/{32 if family == 4 else 128}"
    ingress = Side(peers={CLIENT.identity: [who]}, networks={block: [where]})
    harness.node.reset(policies={5: (ingress, OPEN)}, pods={"web": 5})
    step = _ask(harness, family)
    play(harness, [step if passes else _refused(step, "POLICY_DENY", rule=who.number if who.decision == DENY else where.number)])


PASS = 3


@pytest.mark.parametrize(("who", "where", "reason", "rule"), [
    (Rule(1, DENY, above=(ALLOW, 5, 7)), None, "", 7),
    (Rule(1, above=(DENY, 5, 7)), None, "POLICY_DENY", 7),
    (Rule(1, above=(PASS, 5, 7)), None, "", 1),
    (Rule(1, DENY, above=(PASS, 5, 7)), None, "POLICY_DENY", 1),
    (Rule(0, DENY, precedence=0, above=(PASS, 5, 7)), None, "POLICY", 0),
    # Layer by layer: what one question passes, it passes for the other too, if it comes first.
    (Rule(1, above=(PASS, 9, 7)), Rule(0, DENY, precedence=0, above=(DENY, 8, 6)), "", 1),
    (Rule(1, above=(PASS, 7, 7)), Rule(0, DENY, precedence=0, above=(DENY, 8, 6)), "POLICY_DENY", 6),
    (Rule(1, above=(PASS, 9, 7)), Rule(2, DENY, above=(ALLOW, 8, 6)), "POLICY_DENY", 2),
    (Rule(1, DENY, above=(ALLOW, 9, 7)), Rule(2, above=(DENY, 8, 6)), "", 7),
    (Rule(1, DENY), Rule(2, above=(ALLOW, 1, 6)), "", 6),
])  # fmt: skip
def test_the_admin_tier_is_a_layer_of_its_own(
    harness: Harness, family: int, who: Rule, where: Rule | None, reason: str, rule: int
) -> None:
    block = f"{CLIENT.address(family)}/{32 if family == 4 else 128}"
    ingress = Side(peers={CLIENT.identity: [who]}, networks={block: [where]} if where else None)
    harness.node.reset(policies={5: (ingress, OPEN)}, pods={"web": 5})
    step = _ask(harness, family)
    play(harness, [_refused(step, reason, rule=rule) if reason else Step(step.at, step.frame, step.expect, {"rule": rule})])


def test_deny_over_allow_in_a_port_table(harness: Harness, family: int) -> None:
    """As the compiler writes it: the longer match is the denial."""
    ingress = Side(everybody=[Rule(1), Rule(2, DENY, TCP, 80)])
    harness.node.reset(policies={5: (ingress, OPEN)}, pods={"web": 5})
    play(harness, [_refused(_ask(harness, family), "POLICY_DENY", rule=2), _ask(harness, family, 81)])


def test_an_incomplete_policy_drops(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (Side(everybody=[Rule(1)]), OPEN)}, pods={"web": 5})
    harness.node.policy(5, Side(everybody=[Rule(1)]), OPEN, complete=False)
    play(harness, [_refused(_ask(harness, family), "ENDPOINT_NOT_READY")])
    harness.node.datapath.map("policies").delete(5)
    play(harness, [_refused(_ask(harness, family), "ENDPOINT_NOT_READY")])


def test_an_unknown_identity_drops(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (Side(everybody=[Rule(1)]), OPEN)}, pods={"web": 5})
    harness.node.datapath.map("identities").delete(CLIENT.identity)
    play(harness, [_refused(_ask(harness, family), "UNKNOWN_IDENTITY", source_identity=CLIENT.identity)])


def test_this_host_is_always_let_in(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (Side(everybody=[Rule(1, DENY)]), Side(everybody=[Rule(1, DENY)]))}, pods={"web": 5})
    frame = to_pod(router(family), WEB, tcp(40000, 80))
    play(harness, [Step(FromHost(WEB), frame, Delivered(WEB, bytes(frame)))])


def test_sides_are_independent(harness: Harness, family: int) -> None:
    harness.node.reset(policies={5: (OPEN, Side(everybody=[]))}, pods={"web": 5})
    play(harness, [_ask(harness, family)])


@pytest.mark.parametrize("sender", ["a pod here", "another node's pod", "another node's pod by the uplink"])
def test_cve_2023_27594_both_families_by_every_path(testrun: TestRun, family: int, sender: str) -> None:
    """Whichever way it comes, IPv6 is judged as IPv4 is: refused without a rule, let in with one, refused again without."""
    far = sender != "a pod here"
    frame = from_pod(CLIENT, WEB.address(family), tcp(1000, 80))
    at: Point = FromPod(CLIENT)
    if far:
        frame, at = tunnelled(FAR.address(family), WEB.address(family), tcp(1000, 80)), FromTunnel(THERE, FAR.identity)
    for rules, verdict in (([], "dropped"), ([Rule(1)], "delivered"), ([Rule(1, DENY)], "dropped"), ([], "dropped")):
        testrun.node.reset(policies={5: (Side(everybody=rules), Side())}, pods={"web": 5})
        if sender.endswith("uplink"):
            masquerading(testrun.node, tunnel=False)
            at = FromOutside()
        assert testrun.send(at, raw(frame)).verdict == verdict
