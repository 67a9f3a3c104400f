"""The flow table, rule by rule (docs/datapath.md). Whether a packet was replayed or decided on is seen by changing policy without
raising a generation: what is replayed does not notice."""

from dataclasses import dataclass, replace

import pytest
from scapy.layers.inet import ICMP as ICMP4
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, ELSEWHERE, FAR, NEAR_FAR, OTHER, THERE, WEB, Pod, packed
from tests.packets.harness.frames import echo, echo_reply, from_pod, raw, routed, router, tcp, to_pod, tunnelled, udp
from tests.packets.harness.node import DENY, Node, Rule, Side
from tests.packets.harness.scenario import (
    Delivered,
    Dropped,
    FromHost,
    FromPod,
    FromTunnel,
    Harness,
    Step,
    ToHost,
    Tunnelled,
    play,
)
from tests.packets.harness.testrun import TestRun

from pilus_agent.diff.generations import address_slot

pytestmark = pytest.mark.kernel
TCP, UDP = 6, 17
SYN, ESTABLISHED, CLOSING, OTHER_STATE = 0, 1, 2, 3
OPEN = Side()
NOBODY_IN = Side(everybody=[])
ALLOWED, REFUSED = 5, 6  # policy numbers: the client alone may enter, nobody may


@dataclass(frozen=True)
class Talk:
    """A connection between two pods of this node, from the client's port 40000 to the web pod's 80."""

    family: int
    client: Pod = CLIENT
    server: Pod = WEB
    ports: tuple[int, int] = (40000, 80)

    def ask(self, layers: Packet) -> Step:
        frame = from_pod(self.client, self.server.address(self.family), layers)
        return Step(FromPod(self.client), frame, Delivered(self.server, routed(frame, to=self.server)))

    def answer(self, layers: Packet) -> Step:
        return Talk(self.family, self.server, self.client).ask(layers)

    def tcp(self, flags: str, payload: bytes = b"") -> Step:
        return self.ask(tcp(*self.ports, flags, payload))

    def tcp_back(self, flags: str, payload: bytes = b"") -> Step:
        return self.answer(tcp(self.ports[1], self.ports[0], flags, payload))

    @property
    def forward(self) -> tuple[str, str, str, int, tuple[int, int]]:
        return ("POD_OUT", self.client.address(self.family), self.server.address(self.family), TCP, self.ports)

    @property
    def reply(self) -> tuple[str, str, str, int, tuple[int, int]]:
        return ("POD_OUT", self.server.address(self.family), self.client.address(self.family), TCP, (self.ports[1], self.ports[0]))

    def handshake(self) -> list[Step]:
        return [self.tcp("S"), self.tcp_back("SA"), self.tcp("A")]


def refused(step: Step, reason: str = "POLICY") -> Step:
    return replace(step, expect=Dropped(reason))


def silent(step: Step) -> Step:
    return replace(step, event={})


def guarded(node: Node) -> None:
    """The web pod lets in the client alone; the client lets in nobody."""
    node.reset(
        policies={ALLOWED: (Side(peers={CLIENT.identity: [Rule(1)], FAR.identity: [Rule(2)]}), OPEN), REFUSED: (NOBODY_IN, OPEN)},
        pods={"web": ALLOWED, "client": REFUSED},
    )


def shut(node: Node) -> None:
    """The web pod lets in nobody any more; no generation is raised."""
    node.endpoint(WEB, policy=REFUSED, enforced=[0])


def reopened(node: Node) -> None:
    node.endpoint(WEB, policy=ALLOWED, enforced=[0])


# -- 1: the key, and where it was decided ------------------------------------------------------------------------------


def test_1_a_packet_of_a_known_flow_is_replayed(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family)
    play(harness, [replace(talk.tcp("S"), event={"reason": 0, "rule": 1, "source_identity": CLIENT.identity}),
                   *map(silent, [talk.tcp_back("SA"), talk.tcp("A")])])  # fmt: skip
    shut(harness.node)
    play(harness, [silent(talk.tcp("PA", b"x")), silent(talk.tcp_back("PA", b"x"))])


def test_1_the_same_tuple_from_elsewhere_is_forged(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    stolen = talk.tcp("PA", b"x")
    play(harness, [replace(stolen, at=FromPod(OTHER), expect=Dropped("INVALID_SOURCE_IP")), talk.tcp("PA", b"x")])


def test_1_the_same_tuple_through_the_tunnel_from_elsewhere_is_forged(harness: Harness, family: int) -> None:
    guarded(harness.node)
    frame = tunnelled(FAR.address(family), WEB.address(family), udp(1, 2))
    good = Step(FromTunnel(THERE, FAR.identity), frame, Delivered(WEB, routed(frame, to=WEB)))
    play(harness, [
        good,
        replace(good, at=FromTunnel(ELSEWHERE, FAR.identity), expect=Dropped("WRONG_NODE")),
        replace(good, at=FromTunnel(THERE, NEAR_FAR.identity), expect=Dropped("POLICY")),
        replace(good, at=FromTunnel(THERE, 1), expect=Dropped("INVALID_VNI")),
        good,
    ])  # fmt: skip


def test_1_one_tuple_at_two_hooks_is_two_entries(harness: Harness, family: int) -> None:
    frame = tunnelled(FAR.address(family), WEB.address(family), udp(1, 2))
    play(harness, [Step(FromTunnel(THERE, FAR.identity), frame, Delivered(WEB, routed(frame, to=WEB)))])
    source, destination = FAR.address(family), WEB.address(family)
    forward = harness.node.flow("OVERLAY_IN", source, destination, UDP, (1, 2))
    reply = harness.node.flow("POD_OUT", destination, source, UDP, (2, 1))
    assert (forward[0], reply[0]) == ("embryonic", "embryonic")
    assert (forward[1]["role"], reply[1]["role"]) == (0, 1)
    assert forward[1]["vni"] == FAR.identity
    assert reply[1]["tunnel_id"] == WEB.identity
    assert harness.node.flow("POD_OUT", source, destination, UDP, (1, 2))[0] == ""


# -- 2: refusals -------------------------------------------------------------------------------------------------------


def test_2_a_refusal_is_never_written(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family, OTHER)
    play(harness, [refused(talk.tcp("S"))])
    assert harness.node.flow(*talk.forward)[0] == ""
    assert harness.node.flow(*talk.reply)[0] == ""


def test_2_equal_ports_run_both_ways(harness: Harness, family: int) -> None:
    """Both sides send from 53 to 53 at once: neither is the other's reply, and neither entry replaces the other's."""
    there = from_pod(CLIENT, WEB.address(family), udp(53, 53))
    back = from_pod(WEB, CLIENT.address(family), udp(53, 53))
    play(harness, [
        Step(FromPod(CLIENT), there, Delivered(WEB, routed(there, to=WEB))),
        Step(FromPod(WEB), back, Delivered(CLIENT, routed(back, to=CLIENT))),
        Step(FromPod(CLIENT), there, Delivered(WEB, routed(there, to=WEB))),
    ])  # fmt: skip
    table, entry = harness.node.flow("POD_OUT", CLIENT.address(family), WEB.address(family), UDP, (53, 53))
    assert (table, entry["role"], entry["packets"]) == ("flows", 0, 2)


def test_2_a_reply_is_not_kept_out_by_its_receivers_policy(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family)
    play(harness, [refused(talk.tcp_back("SA")), talk.tcp("S"), talk.tcp_back("SA")])


# -- 3: two tables -----------------------------------------------------------------------------------------------------


def test_3_the_other_sides_first_packet_promotes(harness: Harness, family: int) -> None:
    talk = Talk(family)
    play(harness, [talk.tcp("S")])
    assert harness.node.flow(*talk.forward)[0] == "embryonic"
    assert harness.node.flow(*talk.reply)[0] == "embryonic"
    play(harness, [talk.tcp_back("SA"), talk.tcp("A"), talk.tcp("PA", b"x")])
    for key, packets in ((talk.forward, 3), (talk.reply, 1)):
        table, entry = harness.node.flow(*key)
        assert (table, entry["packets"]) == ("flows", packets)
        assert harness.node.datapath.map("embryonic").lookup(harness.node.flow_key(*key)) is None
    assert harness.node.datapath.map("quotas").lookup(CLIENT.number) == {"used": 2, "refused": 0}


def test_3_counts_are_exact(harness: Harness, family: int) -> None:
    talk = Talk(family)
    steps = [*talk.handshake(), talk.tcp("PA", b"xyz"), talk.tcp_back("A")]
    play(harness, steps)
    sent = [raw(step.frame) for step in steps if step.at == FromPod(CLIENT)]
    _, entry = harness.node.flow(*talk.forward)
    assert (entry["packets"], entry["bytes"]) == (len(sent), sum(map(len, sent)))


def test_3_beyond_the_quota_a_flow_stays_where_it_can_be_evicted(harness: Harness, family: int) -> None:
    harness.node.settings(flow_quota=2)
    first, second = Talk(family), Talk(family, ports=(40001, 80))
    play(harness, [*first.handshake(), *second.handshake(), second.tcp("PA", b"x"), second.tcp_back("PA", b"x")])
    assert harness.node.flow(*first.forward)[0] == "flows"
    assert harness.node.flow(*second.forward)[0] == "embryonic"
    held = harness.node.datapath.map("quotas").lookup(CLIENT.number)
    assert held["used"] == 2
    assert held["refused"] >= 1


def test_3_a_full_table_is_no_refusal(testrun: TestRun, family: int) -> None:
    testrun.node.reset()
    testrun.node.settings(flow_quota=100_000)
    flows = testrun.node.datapath.map("flows")
    rows = {(number).to_bytes(40, "big"): bytes(flows.value.size) for number in range(1, flows.max_entries + 1)}
    flows.update_raw(rows)
    talk = Talk(family)
    play(testrun, [*talk.handshake(), talk.tcp("PA", b"x")])
    assert testrun.node.flow(*talk.forward)[0] == "embryonic"
    assert testrun.node.datapath.map("quotas").lookup(CLIENT.number)["refused"] >= 1


def test_3_a_flood_evicts_no_connection(testrun: TestRun) -> None:
    """Three times the LRU's size of new flows by one pod: a connection of another, idle meanwhile, goes on."""
    testrun.node.reset(policies={ALLOWED: (Side(everybody=[Rule(1)]), OPEN), REFUSED: (NOBODY_IN, OPEN)}, pods={"web": ALLOWED})
    talk = Talk(4)
    play(testrun, talk.handshake())
    frame = bytearray(raw(from_pod(OTHER, WEB.address(4), udp(1, 2))))
    for number in range(3 * testrun.node.datapath.map("embryonic").max_entries):
        frame[34:38] = number.to_bytes(4, "big")
        testrun.run(FromPod(OTHER), bytes(frame))
    shut(testrun.node)
    play(testrun, [talk.tcp("PA", b"x"), talk.tcp_back("PA", b"x")])


# -- 4: time -----------------------------------------------------------------------------------------------------------


def test_4_the_packet_itself_sees_that_an_entry_has_expired(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    shut(harness.node)
    now = harness.node.seconds()
    harness.node.change_flow(*talk.forward, last_seen=harness.node.seconds(7990))
    play(harness, [talk.tcp("A")])
    assert now - 1 <= harness.node.flow(*talk.forward)[1]["last_seen"] <= now + 3  # the coarse clock lags by a tick
    harness.node.change_flow(*talk.forward, last_seen=harness.node.seconds(8010))
    play(harness, [refused(talk.tcp("A"))])


def test_4_time_outs_are_configured(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    harness.node.settings(timeout=(60, 100, 10, 60))
    shut(harness.node)
    harness.node.change_flow(*talk.forward, last_seen=harness.node.seconds(110))
    play(harness, [refused(talk.tcp("A"))])


def test_4_states(harness: Harness, family: int) -> None:
    """An end shortens the time and never deletes; data restores it, an empty acknowledgement does not."""
    talk = Talk(family)

    def states() -> tuple[int, int]:
        return harness.node.flow(*talk.forward)[1]["state"], harness.node.flow(*talk.reply)[1]["state"]

    play(harness, [talk.tcp("S")])
    assert states() == (SYN, SYN)
    play(harness, [talk.tcp_back("SA")])
    assert states() == (SYN, SYN)
    play(harness, [talk.tcp("A")])
    assert states() == (ESTABLISHED, ESTABLISHED)
    play(harness, [talk.tcp_back("R")])
    assert states() == (CLOSING, CLOSING)
    play(harness, [talk.tcp("A")])
    assert states() == (CLOSING, CLOSING)
    play(harness, [talk.tcp("PA", b"still here")])
    assert states() == (ESTABLISHED, ESTABLISHED)
    play(harness, [talk.tcp("FA"), talk.tcp_back("FA"), talk.tcp("A")])
    assert states() == (CLOSING, CLOSING)
    assert harness.node.flow(*talk.forward)[1]["tcp_flags"] == 0x01 | 0x02 | 0x08 | 0x10


def test_4_a_syn_decides_anew(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    shut(harness.node)
    play(harness, [talk.tcp("A"), refused(talk.tcp("S")), talk.tcp_back("SA"), talk.tcp_back("FA")])


def test_4_a_tuple_used_again(harness: Harness, family: int) -> None:
    talk = Talk(family)
    play(harness, [*talk.handshake(), talk.tcp("FA"), talk.tcp_back("FA"), talk.tcp("A"), talk.tcp("S")])
    table, entry = harness.node.flow(*talk.forward)
    assert (table, entry["state"]) == ("flows", SYN)
    play(harness, [talk.tcp_back("SA"), talk.tcp("A")])
    assert harness.node.flow(*talk.forward)[1]["state"] == ESTABLISHED


def _aged(node: Node, by: int, *keys: tuple[str, str, str, int, tuple[int, int]]) -> None:
    """That much time goes by, in which nothing is said."""
    for key in keys:
        node.change_flow(*key, last_seen=(node.flow(*key)[1]["last_seen"] - by) & 0xFFFFFFFF)


@pytest.mark.parametrize("peer", [WEB, FAR], ids=["local", "remote"])
@pytest.mark.parametrize("way", ["fast", "slow"])
@pytest.mark.parametrize("of", ["udp", "echo"])
def test_4_who_keeps_talking_is_answered_late(harness: Harness, family: int, peer: Pod, way: str, of: str) -> None:
    """Both directions age together, by the table and decided anew: an answer may come long after the first packet."""
    harness.node.reset(policies={REFUSED: (NOBODY_IN, OPEN)}, pods={"client": REFUSED})
    there, back = (udp(40000, 80), udp(80, 40000)) if of == "udp" else (echo(family), echo_reply(family))
    number = UDP if of == "udp" else 1 if family == 4 else 58
    ports = (40000, 80) if of == "udp" else (7, 0)
    own, other = CLIENT.address(family), peer.address(family)
    keys = [("POD_OUT", own, other, number, ports), ("POD_OUT" if peer is WEB else "OVERLAY_IN", other, own, number, ports[::-1])]
    frame = from_pod(CLIENT, other, there)
    if peer is WEB:
        ask = Step(FromPod(CLIENT), frame, Delivered(WEB, routed(frame, to=WEB)))
        answer = Talk(family).answer(back)
    else:
        ask = Step(FromPod(CLIENT), frame, Tunnelled(THERE, CLIENT.identity, routed(frame)))
        came = tunnelled(other, own, back)
        answer = Step(FromTunnel(THERE, FAR.identity), came, Delivered(CLIENT, routed(came, to=CLIENT)))
    play(harness, [ask])
    for _ in range(2):
        _aged(harness.node, 40, *keys)
        if way == "slow":
            harness.node.raise_slot(0)
        play(harness, [silent(ask)])
    _aged(harness.node, 40, *keys)
    play(harness, [silent(answer)])
    for _ in range(2):  # and the other way round, both promoted by now
        _aged(harness.node, 40, *keys)
        play(harness, [silent(answer)])
    assert all((harness.node.seconds() - harness.node.flow(*key)[1]["last_seen"]) & 0xFFFFFFFF <= 5 for key in keys)


def test_4_a_question_does_not_keep_its_answer_from_promotion(testrun: TestRun, family: int) -> None:
    """Where there was no room, an answer asks again, also one that comes in the same second as what it answers."""
    testrun.node.reset()
    testrun.node.settings(flow_quota=1)
    talk = Talk(family)
    forward, reply = ((*key[:3], UDP, key[4]) for key in (talk.forward, talk.reply))
    ask, answer = talk.ask(udp(40000, 80)), talk.answer(udp(80, 40000))
    play(testrun, [ask, answer])
    for _ in range(3):
        before = testrun.node.datapath.map("quotas").lookup(CLIENT.number)["refused"]
        _aged(testrun.node, 20, forward, reply)
        play(testrun, [ask, answer])
        assert testrun.node.datapath.map("quotas").lookup(CLIENT.number)["refused"] == before + 1


def test_4_an_end_after_a_long_one_way_transfer_is_answered(harness: Harness, family: int) -> None:
    """The state's shorter time begins for both directions with the packet that changes it."""
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    _aged(harness.node, 300, talk.reply)
    play(harness, [talk.tcp("FA"), silent(talk.tcp_back("FA")), talk.tcp("A")])


# -- 5 and 6: generations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slot", ["everything", "the sender's", "the receiver's"])
def test_5_a_raised_generation_decides_anew(harness: Harness, family: int, slot: str) -> None:
    """A refusal is told once, and the way back once more."""
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    number = {"everything": 0, "the sender's": CLIENT.slot, "the receiver's": WEB.slot}[slot]
    shut(harness.node)
    play(harness, [talk.tcp("A")])
    harness.node.raise_slot(number)
    play(harness, [
        replace(refused(talk.tcp("A")), event={"reason": 133, "source_identity": CLIENT.identity, "reply": 0}),
        silent(refused(talk.tcp("A"))),
    ])  # fmt: skip
    reopened(harness.node)
    play(harness, [replace(talk.tcp("A"), event={"reason": 0, "rule": 1}), silent(talk.tcp("A"))])


def test_5_what_an_entry_does_not_rest_on_changes_nothing(harness: Harness, family: int) -> None:
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    shut(harness.node)
    harness.node.raise_slot(OTHER.slot)
    play(harness, [talk.tcp("A")])


def test_5_one_addresss_change(harness: Harness, family: int) -> None:
    """The other side's slot is its address's, by the rule that user space knows too."""
    egress = Side(peers={FAR.identity: [Rule(1)]})
    harness.node.reset(policies={ALLOWED: (OPEN, egress)}, pods={"client": ALLOWED})
    frame = from_pod(CLIENT, FAR.address(family), udp(1, 2))
    step = Step(FromPod(CLIENT), frame, Tunnelled(THERE, CLIENT.identity, routed(frame)))
    play(harness, [step])
    harness.node.ipcache(FAR.address(family), NEAR_FAR.identity, flags=1, tunnel=THERE.underlay)
    play(harness, [silent(step)])
    harness.node.raise_slot(address_slot(packed(NEAR_FAR.address(family))))
    play(harness, [silent(step)])
    harness.node.raise_slot(address_slot(packed(FAR.address(family))))
    play(harness, [replace(refused(step), event={"destination_identity": NEAR_FAR.identity})])


def test_6_a_conclusion_is_stamped_with_what_was_read(harness: Harness, family: int) -> None:
    for slot in (0, CLIENT.slot, WEB.slot):
        harness.node.raise_slot(slot)
    talk = Talk(family)
    play(harness, [talk.tcp("S")])
    generation = harness.node.datapath.map("generation")
    for key in (talk.forward, talk.reply):
        _, entry = harness.node.flow(*key)
        assert entry["slot"] == (0, CLIENT.slot, WEB.slot)
        assert entry["generation"] == tuple(generation.lookup(slot) for slot in entry["slot"])


# -- 7: replies --------------------------------------------------------------------------------------------------------


def test_7_a_stale_reply_decides_the_forward_direction(harness: Harness, family: int) -> None:
    """Only the server talks: it survives every change, and ends when its policy goes."""
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    for _ in range(2):
        harness.node.raise_slot(0)
        play(harness, [silent(talk.tcp_back("PA", b"x"))])
    shut(harness.node)
    harness.node.raise_slot(WEB.slot)
    play(harness, [replace(refused(talk.tcp_back("PA", b"x")), event={"reply": 1, "source_identity": WEB.identity}),
                   silent(refused(talk.tcp_back("PA", b"x")))])  # fmt: skip
    reopened(harness.node)
    play(harness, [talk.tcp_back("PA", b"x")])


def test_7_through_the_tunnel(harness: Harness, family: int) -> None:
    """This node decided its own side alone, and decides that again."""
    egress = Side(peers={FAR.identity: [Rule(1, protocol=TCP, port=80)]})
    harness.node.reset(policies={ALLOWED: (NOBODY_IN, egress), REFUSED: (NOBODY_IN, Side(everybody=[]))}, pods={"client": ALLOWED})
    out = from_pod(CLIENT, FAR.address(family), tcp(40000, 80))
    back = tunnelled(FAR.address(family), CLIENT.address(family), tcp(80, 40000, "SA"))
    asked = Step(FromPod(CLIENT), out, Tunnelled(THERE, CLIENT.identity, routed(out)))
    answered = Step(FromTunnel(THERE, FAR.identity), back, Delivered(CLIENT, routed(back, to=CLIENT)))
    play(harness, [refused(answered), asked, answered])
    assert harness.node.flow("OVERLAY_IN", FAR.address(family), CLIENT.address(family), TCP, (80, 40000))[0] == "flows"
    harness.node.raise_slot(address_slot(packed(FAR.address(family))))
    play(harness, [silent(answered)])
    harness.node.endpoint(CLIENT, policy=REFUSED, enforced=[0, 1])
    harness.node.raise_slot(CLIENT.slot)
    play(harness, [refused(answered)])


def test_7_of_a_connection_that_came_through_the_tunnel(harness: Harness, family: int) -> None:
    """The pod may send nothing by itself, yet answers; and no longer once who began may not."""
    ingress = Side(peers={FAR.identity: [Rule(1)]})
    harness.node.reset(
        policies={ALLOWED: (ingress, Side(everybody=[])), REFUSED: (NOBODY_IN, Side(everybody=[]))}, pods={"web": ALLOWED}
    )
    there = tunnelled(FAR.address(family), WEB.address(family), tcp(40000, 80))
    back = from_pod(WEB, FAR.address(family), tcp(80, 40000, "SA"))
    answer = Step(FromPod(WEB), back, Tunnelled(THERE, WEB.identity, routed(back)))
    play(harness, [
        refused(answer),
        Step(FromTunnel(THERE, FAR.identity), there, Delivered(WEB, routed(there, to=WEB))),
        answer, silent(answer),
    ])  # fmt: skip
    harness.node.ipcache(FAR.address(family), NEAR_FAR.identity, flags=1, tunnel=THERE.underlay)
    harness.node.raise_slot(address_slot(packed(FAR.address(family))))
    play(harness, [replace(refused(answer), event={"reply": 1, "destination_identity": NEAR_FAR.identity})])


def test_7_this_host_is_answered(harness: Harness, family: int) -> None:
    """The kubelet probes a pod that may send nothing."""
    harness.node.reset(policies={REFUSED: (NOBODY_IN, Side(everybody=[]))}, pods={"web": REFUSED})
    probe = to_pod(router(family), WEB, tcp(40000, 80))
    back = from_pod(WEB, router(family), tcp(80, 40000, "SA"))
    answer = Step(FromPod(WEB), back, ToHost())
    asked = Step(FromHost(WEB), probe, Delivered(WEB, raw(probe)))
    harness.node.settings()
    play(harness, [refused(answer), asked])
    assert harness.send(FromPod(WEB), raw(back)).reason == 0
    assert harness.node.flow("HOST_OUT", router(family), WEB.address(family), TCP, (40000, 80))[0] == "flows"
    play(harness, [refused(Step(FromPod(WEB), from_pod(WEB, router(family), tcp(81, 40000, "SA")), ToHost()))])


def test_7_this_host_answers(harness: Harness, family: int) -> None:
    """A pod asked: what the host's stack sends back is the reply's entry, not a connection of the host's."""
    egress = Side(peers={1: [Rule(1)]})
    harness.node.reset(policies={ALLOWED: (NOBODY_IN, egress)}, pods={"client": ALLOWED})
    asked = from_pod(CLIENT, router(family), udp(40000, 9999))
    back = to_pod(router(family), CLIENT, udp(9999, 40000))
    play(harness, [Step(FromPod(CLIENT), asked, ToHost()), silent(Step(FromHost(CLIENT), back, Delivered(CLIENT, raw(back))))])
    table, entry = harness.node.flow("HOST_OUT", router(family), CLIENT.address(family), UDP, (9999, 40000))
    assert (table, entry["role"]) == ("flows", 1)


# -- 8: deciding anew keeps the record ---------------------------------------------------------------------------------


def test_8_the_record_survives(harness: Harness, family: int) -> None:
    talk = Talk(family)
    play(harness, talk.handshake())
    harness.node.change_flow(*talk.forward, created=7, cluster=3, backend=9, packets=100)
    harness.node.raise_slot(0)
    play(harness, [talk.tcp("PA", b"x")])
    _, entry = harness.node.flow(*talk.forward)
    kept = {name: entry[name] for name in ("created", "cluster", "backend", "packets", "state")}
    assert kept == {"created": 7, "cluster": 3, "backend": 9, "packets": 101, "state": ESTABLISHED}


# -- 9: paths ----------------------------------------------------------------------------------------------------------


def test_9_a_pod_that_has_moved_to_another_link(harness: Harness, family: int) -> None:
    talk = Talk(family)
    play(harness, talk.handshake())
    moved = {"ifindex": harness.node.links[OTHER.name], "mac": bytes.fromhex(OTHER.mac.replace(":", ""))}
    harness.node.endpoint(WEB, **moved)  # type: ignore[arg-type]
    play(harness, [talk.tcp("A")])
    harness.node.raise_slot(WEB.slot)
    out = harness.send(FromPod(CLIENT), raw(talk.tcp("A").frame))
    assert (out.verdict, out.to) == ("delivered", OTHER.name)


def test_9_a_replayed_packet_has_one_hop_less(harness: Harness, family: int) -> None:
    talk = Talk(family)
    play(harness, talk.handshake())
    last = from_pod(CLIENT, WEB.address(family), tcp(*talk.ports, "A"), ttl=1)
    two = from_pod(CLIENT, WEB.address(family), tcp(*talk.ports, "A"), ttl=2)
    play(
        harness,
        [Step(FromPod(CLIENT), last, Dropped("TTL_EXCEEDED")), Step(FromPod(CLIENT), two, Delivered(WEB, routed(two, to=WEB)))],
    )


# -- 10: ICMP ----------------------------------------------------------------------------------------------------------


def test_10_echo(harness: Harness, family: int) -> None:
    """By identifier; a reply that nobody asked for makes no entry."""
    guarded(harness.node)
    talk = Talk(family)
    play(harness, [
        refused(talk.answer(echo_reply(family))),
        talk.ask(echo(family)), talk.answer(echo_reply(family)), talk.answer(echo_reply(family, sequence=2)),
        refused(talk.answer(echo_reply(family, identifier=8))),
        refused(talk.answer(echo(family))),
    ])  # fmt: skip
    protocol = 1 if family == 4 else 58
    table, entry = harness.node.flow("POD_OUT", CLIENT.address(family), WEB.address(family), protocol, (7, 0))
    assert (table, entry["state"]) == ("flows", OTHER_STATE)
    assert harness.node.flow("POD_OUT", WEB.address(family), CLIENT.address(family), protocol, (7, 0))[0] == ""


def _unreachable(family: int, pod: Pod, about: Packet) -> Packet:
    """What a pod says of a packet that it got."""
    inner = about.payload
    layers = ICMP4(type=3, code=3) / inner if family == 4 else ICMPv6DestUnreach(code=4) / inner
    return from_pod(pod, inner.src, layers)


def test_10_an_error_about_a_known_connection_passes(harness: Harness, family: int) -> None:
    guarded(harness.node)
    asked = from_pod(CLIENT, WEB.address(family), udp(40000, 53))
    error = _unreachable(family, WEB, asked)
    passes = Step(FromPod(WEB), error, Delivered(CLIENT, routed(error, to=CLIENT)))
    before = len(harness.node.datapath.map("embryonic").items_raw())
    play(harness, [refused(passes), Step(FromPod(CLIENT), asked, Delivered(WEB, routed(asked, to=WEB))), silent(passes)])
    assert len(harness.node.datapath.map("embryonic").items_raw()) == before + 2
    other = _unreachable(family, WEB, from_pod(CLIENT, WEB.address(family), udp(40001, 53)))
    play(harness, [refused(replace(passes, frame=other))])


def test_10_an_error_in_anothers_name_or_to_another(harness: Harness, family: int) -> None:
    """Its receiver must be the one who sent the inner packet."""
    guarded(harness.node)
    harness.node.endpoint(OTHER, policy=REFUSED, enforced=[0])
    asked = from_pod(CLIENT, WEB.address(family), udp(40000, 53))
    error = _unreachable(family, WEB, asked)
    wrong = Ether(raw(error))
    wrong[IP if family == 4 else IPv6].dst = OTHER.address(family)
    play(harness, [Step(FromPod(CLIENT), asked, Delivered(WEB, routed(asked, to=WEB))),
                   Step(FromPod(WEB), wrong, Dropped("POLICY"))])  # fmt: skip


def test_10_an_error_from_a_third(harness: Harness, family: int) -> None:
    """A pod that has no part in a connection can't speak of it."""
    guarded(harness.node)
    asked = from_pod(CLIENT, WEB.address(family), udp(40000, 53))
    error = _unreachable(family, OTHER, asked)
    play(harness, [Step(FromPod(CLIENT), asked, Delivered(WEB, routed(asked, to=WEB))),
                   Step(FromPod(OTHER), error, Dropped("POLICY"))])  # fmt: skip


def test_10_an_error_through_the_tunnel(harness: Harness, family: int) -> None:
    harness.node.reset(policies={ALLOWED: (NOBODY_IN, OPEN)}, pods={"client": ALLOWED})
    asked = from_pod(CLIENT, FAR.address(family), udp(40000, 53))
    inner = asked.payload
    layers = ICMP4(type=3, code=3) / inner if family == 4 else ICMPv6DestUnreach(code=4) / inner
    error = tunnelled(FAR.address(family), CLIENT.address(family), layers)
    stranger = tunnelled(ELSEWHERE.routers[family], CLIENT.address(family), layers)
    play(harness, [
        Step(FromTunnel(THERE, FAR.identity), error, Dropped("POLICY")),
        Step(FromPod(CLIENT), asked, Tunnelled(THERE, CLIENT.identity, routed(asked))),
        silent(Step(FromTunnel(THERE, FAR.identity), error, Delivered(CLIENT, routed(error, to=CLIENT)))),
        Step(FromTunnel(ELSEWHERE, 6), stranger, Dropped("POLICY")),
    ])  # fmt: skip


def test_10_an_error_refreshes_nothing(harness: Harness, family: int) -> None:
    asked = from_pod(CLIENT, WEB.address(family), udp(40000, 53))
    play(harness, [Step(FromPod(CLIENT), asked, Delivered(WEB, routed(asked, to=WEB)))])
    key = ("POD_OUT", WEB.address(family), CLIENT.address(family), UDP, (53, 40000))
    harness.node.change_flow(*key, last_seen=harness.node.seconds(50))
    seen = harness.node.flow(*key)[1]["last_seen"]
    error = _unreachable(family, WEB, asked)
    play(harness, [Step(FromPod(WEB), error, Delivered(CLIENT, routed(error, to=CLIENT)))])
    assert harness.node.flow(*key)[1]["last_seen"] == seen


def test_deny_rules_hold_for_open_connections(harness: Harness, family: int) -> None:
    """The promise: a policy change also takes hold of what is already open."""
    guarded(harness.node)
    talk = Talk(family)
    play(harness, talk.handshake())
    harness.node.policy(ALLOWED, Side(everybody=[Rule(9, DENY)]), OPEN)
    harness.node.datapath.map("peers").clear()
    harness.node.raise_slot(WEB.slot)
    play(harness, [replace(refused(talk.tcp("A"), "POLICY_DENY"), event={"rule": 9})])
