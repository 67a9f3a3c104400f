"""The kubelet's way into a closed pod is the kubelet's alone."""

import pytest
from e2e.scenarios.hostile.world import (
    FAMILIES,
    SOURCE,
    World,
    is_ready,
    policy,
)
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pilus_lab import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@FAMILIES
def test_the_kubelets_way_in_is_the_kubelets_alone(world: World, family: int) -> None:
    """A closed pod lets its node in, because the node's probes ask it how it is. Nobody else passes for the node."""
    capture = world.captures["probed"]
    with policy(world, "probed", "ingress: [{}]"):
        capture.frames()
        asked: list[Packet] = []

        def probed() -> bool:
            asked.extend(one for one in map(Ether, capture.frames()) if TCP in one and one[TCP].dport == 8080)
            return bool(asked)

        wait_for("a probe of the kubelet", probed, 20)
        syn = TCP(sport=6666, dport=8080, flags="S", seq=1)
        world.refused("Policy denied", world.frame(family, "probed") / syn)
        forged = [world.frame(family, "probed", name) / syn for name in ("node1", "router1", "node2", "router2")]
        replayed = [Ether(src=world.mac, dst=world.gateway_mac) / one.payload for one in asked]
        # And the answer to a probe, in the closed pod's name.
        answered = world.frame(family, "router1", "probed") / TCP(sport=8080, dport=asked[-1][TCP].sport, flags="R", seq=1)
        world.refused(SOURCE, *forged, *replayed, answered)
        seen = [Ether(frame) for frame in capture.frames()]
        assert [one for one in seen if TCP in one and one[TCP].sport == 6666] == []
        assert is_ready(world.lab, "probed")
