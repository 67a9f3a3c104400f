"""A scenario: steps, each a frame at a place and what must become of it. Both harnesses play the same ones.

`Harness.send` puts a frame in and says what became of it; `play` compares, and shows both packets, decoded, where they differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from scapy.layers.l2 import Ether
from scapy.packet import Packet
from tests.packets.harness.actors import NodeActor, Pod
from tests.packets.harness.node import Node


@dataclass(frozen=True, slots=True)
class FromPod:
    pod: Pod


@dataclass(frozen=True, slots=True)
class FromHost:
    """This host's own stack sends it down the pod's link; with `forwarded` it came in by another link first."""

    pod: Pod
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class FromTunnel:
    """The other node's tunnel packet."""

    node: NodeActor
    vni: int


@dataclass(frozen=True, slots=True)
class FromStack:
    """This host's own stack sends it into the tunnel; with `forwarded` it came in by another link first."""

    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class FromOutside:
    """It comes in by the uplink."""


@dataclass(frozen=True, slots=True)
class ToOutside:
    """It leaves by the uplink: this host's own stack has sent it, or it came in by a pod's link, or (`forwarded`) another one."""

    pod: Pod | None = None
    forwarded: bool = False


Point = FromPod | FromHost | FromTunnel | FromStack | FromOutside | ToOutside
HOOKS: Final = {FromPod: "PILUS_HOOK_POD_FROM", FromHost: "PILUS_HOOK_POD_TO", FromTunnel: "PILUS_HOOK_OVERLAY_FROM",
                FromStack: "PILUS_HOOK_OVERLAY_TO", FromOutside: "PILUS_HOOK_UPLINK_FROM",
                ToOutside: "PILUS_HOOK_UPLINK_TO"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dropped:
    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    pod: Pod
    frame: bytes


@dataclass(frozen=True, slots=True)
class ToHost:
    frame: bytes | None = None


@dataclass(frozen=True, slots=True)
class Tunnelled:
    node: NodeActor
    vni: int
    frame: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """Out by the uplink; a test run can't tell that from the tunnel."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """Something comes back to the pod that sent; with a reason, its packet is counted as dropped all the same."""

    pod: Pod
    frame: bytes
    reason: str = ""


Expectation = Dropped | Delivered | ToHost | Tunnelled | Sent | Answered


@dataclass(frozen=True, slots=True)
class Step:
    at: Point
    frame: Packet | bytes
    expect: Expectation
    event: Mapping[str, Any] | None = None  # fields of the one event it makes; {}: none at all; None: not asked


@dataclass(slots=True)
class Outcome:
    """What became of a frame. `to` is a pod's name, `host`, a node's name, or empty; `vni` is None where it can't be seen."""

    verdict: str  # dropped, delivered, host, tunnelled (or sent by the uplink), answered
    reason: int = 0
    to: str = ""
    frame: bytes = b""
    vni: int | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


class Harness(Protocol):
    node: Node

    def send(self, at: Point, frame: bytes) -> Outcome: ...


def shown(frame: bytes) -> str:
    return str(Ether(frame).show(dump=True)) if frame else "(nothing)\n"


def _differs(step: Step, wanted: bytes, got: bytes) -> str:
    return f"{step.at}: another frame than expected\n--- expected\n{shown(wanted)}--- got\n{shown(got)}{wanted.hex()}\n{got.hex()}"


def check(node: Node, step: Step, out: Outcome) -> None:
    wanted = step.expect
    reasons = {number: name for name, number in node.drops.items()}
    got = f"{out.verdict} {out.to} {reasons.get(out.reason, '')}".strip()
    sent = f"\n--- sent\n{shown(bytes(step.frame))}--- came out\n{shown(out.frame)}"
    match wanted:
        case Dropped(reason):
            assert (out.verdict, out.reason) == ("dropped", node.reason(reason)), f"expected dropped {reason}, got {got}{sent}"
        case Delivered(pod, frame):
            assert (out.verdict, out.to) == ("delivered", pod.name), f"expected delivered {pod.name}, got {got}{sent}"
            assert out.frame == frame, _differs(step, frame, out.frame)
        case Answered(pod, frame, reason):
            assert out.reason == (node.reason(reason) if reason else 0), f"expected {reason or 'no reason'}, got {got}{sent}"
            assert (out.verdict, out.to) == ("answered", pod.name), f"expected an answer to {pod.name}, got {got}{sent}"
            assert out.frame == frame, _differs(step, frame, out.frame)
        case Tunnelled(to, vni, frame):
            assert out.verdict == "tunnelled", f"expected tunnelled, got {got}{sent}"
            assert out.to in (to.name, ""), f"expected to {to.name}, got {out.to}"
            assert out.vni in (vni, None), f"expected VNI {vni}, got {out.vni}"
            assert out.frame == frame, _differs(step, frame, out.frame)
        case Sent(frame):
            assert (out.verdict, out.to) == ("tunnelled", ""), f"expected to leave, got {got}{sent}"
            assert out.frame == frame, _differs(step, frame, out.frame)
        case ToHost(maybe):
            assert out.verdict == "host", f"expected to the host, got {got}{sent}"
            assert maybe is None or out.frame in (maybe, b""), _differs(step, maybe or b"", out.frame)
    if step.event is not None:
        if not step.event:
            assert not out.events, f"expected no event, got {out.events}"
        else:
            assert len(out.events) == 1, f"expected one event, got {len(out.events)}: {out.events}"
            named = {name: out.events[0][name] for name in step.event}
            assert named == dict(step.event), f"expected an event with {dict(step.event)}, got {out.events[0]}"


def play(harness: Harness, steps: Sequence[Step]) -> list[Outcome]:
    """Every step in order; the outcomes."""
    outcomes = []
    for number, step in enumerate(steps, 1):
        out = harness.send(step.at, bytes(step.frame))
        try:
            check(harness.node, step, out)
        except AssertionError as error:
            raise AssertionError(f"step {number} of {len(steps)}: {error}") from None
        outcomes.append(out)
    return outcomes
