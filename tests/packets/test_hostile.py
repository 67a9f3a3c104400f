"""Whatever bytes a pod or another node sends: each is counted once, and none is delivered in another's name."""

import random

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness.actors import CLIENT, ELSEWHERE, FAR, NODES, OTHER, OUTSIDE, THERE, WEB
from tests.packets.harness.frames import echo, from_pod, ip, raw, tcp, tunnelled, udp
from tests.packets.harness.scenario import FromPod, FromTunnel
from tests.packets.harness.testrun import TestRun

pytestmark = pytest.mark.kernel


def _source(frame: bytes) -> str:
    decoded = Ether(frame)
    for layer in (IP, IPv6):
        if decoded.haslayer(layer):
            return str(decoded[layer].src)
    return ""


def _mangled(dice: random.Random, frame: bytes) -> bytes:
    changed = bytearray(frame)
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(12, len(changed))] = dice.randrange(256)
    if dice.random() < 0.3:
        changed = changed[: dice.randrange(34, len(changed) + 1)]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(2))
def test_mangled_frames_of_a_pod(testrun: TestRun, family: int, seed: int) -> None:
    """Of 200 a seed, those that are delivered bear the pod's own address."""
    testrun.node.reset()
    testrun.node.settings(event_rate=0)
    dice = random.Random(seed * 2 + family)  # noqa: S311  # repeatable on purpose
    frames = [raw(from_pod(CLIENT, to, layers)) for to in (WEB.address(family), FAR.address(family), OUTSIDE[family])
              for layers in (tcp(1, 80), udp(1, 53), echo(family))]  # fmt: skip
    for _ in range(200):
        frame = _mangled(dice, dice.choice(frames))
        try:
            out = testrun.send(FromPod(CLIENT), frame)
        except OSError:
            continue
        except Exception as error:
            if "Invalid argument" in str(error):  # a test run refuses a frame without a whole IP header
                continue
            raise
        if out.verdict == "delivered":
            assert _source(out.frame) in CLIENT.addresses.values()


@pytest.mark.parametrize("seed", range(2))
def test_any_tunnel_packet(testrun: TestRun, family: int, seed: int) -> None:
    """Whatever source, number and node: what is delivered is from a pod or the router of the node that sent it, and never
    with this host's identity."""
    testrun.node.reset()
    testrun.node.settings(event_rate=0)
    dice = random.Random(seed * 2 + family)  # noqa: S311  # repeatable on purpose
    sources = [FAR.address(family), CLIENT.address(family), OTHER.address(family), OUTSIDE[family],
               *(node.routers[family] for node in NODES), *(node.underlay for node in NODES if family == 4)]  # fmt: skip
    for _ in range(200):
        node, vni = dice.choice((THERE, ELSEWHERE)), dice.choice((0, 1, 2, 6, 7, 8, 9, 255, 256, 1002, 2001, 2002, 9999))
        source = dice.choice(sources)
        layers: Packet = dice.choice((tcp(dice.randrange(65536), 80), udp(1, dice.randrange(65536)), echo(family)))
        out = testrun.send(FromTunnel(node, vni), raw(tunnelled(source, WEB.address(family), layers)))
        if out.verdict == "delivered":
            assert node is THERE or source in ELSEWHERE.routers.values()
            assert source in (FAR.address(family), *THERE.routers.values(), *ELSEWHERE.routers.values())
            assert vni in (6, 1002, 2001, 2002)
            assert vni != 6 or source in node.routers.values()


def test_ip_and_its_helper_agree(family: int) -> None:
    assert _source(raw(Ether() / ip(WEB.address(family), FAR.address(family)))) == WEB.address(family)
