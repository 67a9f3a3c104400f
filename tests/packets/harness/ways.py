"""The ways on which a connection's first packet comes to a policy, in a drawn world: a frame, where it is put in, and who is asked.

In: a world that is in the tables, and chance. Out: trials. Never: what must become of them (verdicts.py).

Left out, for no policy decides on it:

- from the outside to a pod: where pods are behind the tunnel all that comes around it is refused (237), and without one whoever is
  no node and no pod (172). That is the way of answers alone, and those are asked as what they answer to;
- through the tunnel, what is not where its sender is: the wrong node, a reserved number (test_refusals.py);
- this host's stack as a pod sees it: `pod_to` does not ask the pod's policy, whatever that says (identity 1 is let in);
- protocols without ports from and to pods, which are refused unread;
- neighbour discovery and MLD, which are about one link, and what a pod sends to itself, which never leaves it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random
from typing import Final

from scapy.layers.l2 import Ether
from tests.packets.harness.actors import HERE, OUTSIDE, THERE, Pod, mac_bytes
from tests.packets.harness.drawn import HOST_NAME, IN_RANGES, NOT_COMPILED, Address, Drawn, Kind, Peer
from tests.packets.harness.frames import echo, ip, raw, tcp, udp
from tests.packets.harness.scenario import FromHost, FromOutside, FromPod, FromStack, FromTunnel, Point, ToOutside
from tests.packets.harness.world import NODE as NODES_OWN
from tests.packets.harness.world import ROUTER_MAC
from tests.properties.oracle import Probe

from pilus_api.identities import HOST, REMOTE_NODE, Identity
from pilus_api.rules import Direction

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
ICMP, TCP, UDP, GRE, ICMPV6, SCTP = 1, 6, 17, 47, 58, 132
ICMPS: Final = (ICMP, ICMPV6)
REQUESTS: Final = {ICMP: 8, ICMPV6: 128}
TYPES: Final = (0, 3, 8, 128, 129)  # of both kinds: an error, both echoes, and what the other kind calls so
SOURCES: Final = range(1024, 7024)  # of ports; none is one that packets are drawn for, so that none answers another
MARK: Final = b"pilus"
BEHIND_A_NODE: Final[tuple[Kind, ...]] = ("pod", "pod", "router", "router", "stranger")
MARK_LENGTH: Final = len(MARK) + 4
_SIZE: Final = {4: 4, 6: 16}
_PROTOCOL: Final = {4: 14 + 9, 6: 14 + 6}
_SOURCE: Final = {4: 14 + 12, 6: 14 + 8}
_L4: Final = {4: 14 + 20, 6: 14 + 40}


def _template(family: int, protocol: int) -> bytes:
    # An echo's header does for either kind; of SCTP and GRE nobody reads more than TCP's begins with.
    layers = udp(1, 2, b"") if protocol == UDP else echo(4) if protocol in ICMPS else tcp(1, 2)
    frame = bytearray(raw(Ether(src=ROUTER_MAC, dst=HERE.mac) / ip(OUTSIDE[family], OUTSIDE[family]) / layers / bytes(MARK_LENGTH)))
    frame[_PROTOCOL[family]] = protocol
    return bytes(frame)


TEMPLATES: Final = {
    (family, protocol): _template(family, protocol) for family in (4, 6) for protocol in (ICMP, TCP, UDP, GRE, ICMPV6, SCTP)
}


@dataclass(frozen=True, slots=True)
class What:
    """For ICMP the type stands where a port does."""

    protocol: int
    port: int

    @property
    def silent(self) -> bool:
        """Makes no entry, and so no event where it passes."""
        return self.protocol == GRE or REQUESTS.get(self.protocol, self.port) != self.port


@dataclass(frozen=True, slots=True)
class Question:
    """One endpoint's policy is asked; `name` is what the pod is called here, or the host."""

    name: str
    probe: Probe


@dataclass(frozen=True, slots=True)
class Trial:
    at: Point
    frame: bytes
    mark: bytes  # the frame's last bytes, and of no other
    source_port: int
    what: What
    questions: tuple[Question, ...]  # in the order in which they are asked
    to: str  # where it comes if nobody refuses: a pod, the host, the tunnel, the uplink
    refused: str = ""  # before anybody is asked
    barred: str = ""  # when all that were asked let it pass


class Ways:
    def __init__(self, drawn: Drawn, chance: Random, numbers: Iterator[int], protocols: Sequence[int] = ()) -> None:
        """`numbers` tell the probes apart. `protocols`: these alone; else every one that is judged."""
        self._drawn, self._chance, self._numbers, self._protocols = drawn, chance, numbers, protocols

    def draw(self) -> Trial:
        """On one of the ways that there are in this world."""
        return self._chance.choice(self.everywhere() + (self.through_the_tunnel() if self._drawn.tunnel else self.around_it()))()

    def everywhere(self) -> list[Callable[[], Trial]]:
        return [self.pod_away, self.pod_away, self.pod_to_pod, self.pod_to_pod, self.pod_to_host, self.host_to_pod,
                self.uplink_to_host, self.host_to_uplink]  # fmt: skip

    def through_the_tunnel(self) -> list[Callable[[], Trial]]:
        return [self.tunnel_to_pod, self.tunnel_to_pod, self.tunnel_to_host, self.host_to_tunnel, self.host_to_tunnel]

    def around_it(self) -> list[Callable[[], Trial]]:
        return [self.uplink_to_pod, self.uplink_to_pod]

    # -- from a pod --------------------------------------------------------------------------------------------------------

    def pod_away(self, kinds: Sequence[Kind] = (*BEHIND_A_NODE, "node", "world", "world")) -> Trial:
        pod, peer = self._chance.choice(self._drawn.pods), self._drawn.somebody(kinds)
        what, tunnel = self._what(peer.address), self._drawn.tunnel
        barred = ""
        if peer.kind == "world" or (tunnel and peer.kind == "node"):  # it leaves with this node's address
            barred = "" if what.protocol in (TCP, UDP) or (what.protocol in ICMPS and not what.silent) else "NAT_PROTOCOL"
            barred = barred if self._drawn.masquerades else "OUTSIDE"
        to = "tunnel" if tunnel and peer.kind in IN_RANGES else "uplink"
        return self._trial(FromPod(pod), _own(pod, peer.address), peer.address, what, to, _ask(pod.name, EGRESS, peer, what),
                           barred=barred)  # fmt: skip

    def pod_to_pod(self) -> Trial:
        family = self._chance.choice((4, 6))
        sender, receiver = self._chance.sample(self._drawn.pods, 2)
        here, there = _as_peer(sender, family), _as_peer(receiver, family)
        what = self._what(there.address)
        return self._trial(FromPod(sender), here.address, there.address, what, receiver.name,
                           _ask(sender.name, EGRESS, there, what), _ask(receiver.name, INGRESS, here, what))  # fmt: skip

    def pod_to_host(self, *, alias: bool = True) -> Trial:
        """`alias`: to an address of the host's that its stack does not know, too."""
        pod, family = self._chance.choice(self._drawn.pods), self._chance.choice((4, 6))
        if alias and self._chance.random() < 0.5:
            address = self._drawn.alias()
        else:
            address = ip_address(self._chance.choice((HERE.routers[family], NODES_OWN[family])) if alias else HERE.routers[family])
        what = self._what(address)
        here, there = _as_peer(pod, address.version), Peer("node", address, HOST, inside=True)
        return self._trial(FromPod(pod), here.address, address, what, HOST_NAME, _ask(pod.name, EGRESS, there, what),
                           _ask(HOST_NAME, INGRESS, here, what))  # fmt: skip

    # -- from another node -------------------------------------------------------------------------------------------------

    def tunnel_to_pod(self) -> Trial:
        peer = self._drawn.somebody(BEHIND_A_NODE)
        pod = self._chance.choice(self._drawn.pods)
        return self._from_tunnel(peer, _own(pod, peer.address), pod.name)

    def tunnel_to_host(self) -> Trial:
        peer = self._drawn.somebody(BEHIND_A_NODE)
        return self._from_tunnel(peer, ip_address(HERE.routers[peer.address.version]), HOST_NAME)

    def _from_tunnel(self, peer: Peer, destination: Address, to: str) -> Trial:
        number, what = peer.identity, self._what(peer.address)
        if peer.kind == "router":  # a node sends as a node, whatever we call it
            number = REMOTE_NODE
        elif peer.kind == "stranger":  # who that is, the tunnel says and no address
            number = NOT_COMPILED
        return self._trial(FromTunnel(THERE, int(number)), peer.address, destination, what, to, _ask(to, INGRESS, peer, what),
                           refused="UNKNOWN_IDENTITY" if peer.kind == "stranger" else "")  # fmt: skip

    def uplink_to_pod(self) -> Trial:
        peer = self._drawn.somebody((*BEHIND_A_NODE, "node", "node"))
        pod, what = self._chance.choice(self._drawn.pods), self._what(peer.address)
        return self._trial(FromOutside(), peer.address, _own(pod, peer.address), what, pod.name,
                           _ask(pod.name, INGRESS, peer, what))  # fmt: skip

    # -- the host's own ----------------------------------------------------------------------------------------------------

    def _at_uplink(self) -> Sequence[Kind]:
        return ("world", "node") if self._drawn.tunnel else ("world", "world", "node", *BEHIND_A_NODE)

    def uplink_to_host(self) -> Trial:
        peer = self._drawn.somebody(self._at_uplink())
        what = self._what(peer.address, GRE)
        return self._trial(FromOutside(), peer.address, ip_address(NODES_OWN[peer.address.version]), what, HOST_NAME,
                           _ask(HOST_NAME, INGRESS, peer, what))  # fmt: skip

    def host_to_uplink(self) -> Trial:
        peer = self._drawn.somebody(self._at_uplink())
        what = self._what(peer.address, GRE)
        return self._trial(ToOutside(), ip_address(NODES_OWN[peer.address.version]), peer.address, what, "uplink",
                           _ask(HOST_NAME, EGRESS, peer, what))  # fmt: skip

    def host_to_tunnel(self) -> Trial:
        peer = self._drawn.somebody(BEHIND_A_NODE)
        what = self._what(peer.address)
        return self._trial(FromStack(), ip_address(HERE.routers[peer.address.version]), peer.address, what, "tunnel",
                           _ask(HOST_NAME, EGRESS, peer, what))  # fmt: skip

    def host_to_pod(self) -> Trial:
        pod, family = self._chance.choice(self._drawn.pods), self._chance.choice((4, 6))
        there = _as_peer(pod, family)
        what = self._what(there.address)
        questions = () if self._drawn.probes_pass else (_ask(HOST_NAME, EGRESS, there, what),)
        return self._trial(FromHost(pod), ip_address(HERE.routers[family]), there.address, what, pod.name, *questions)

    # -- packets -----------------------------------------------------------------------------------------------------------

    def _what(self, address: Address, *more: int) -> What:
        """`more`: protocols that are judged on this way alone."""
        icmps = (ICMP, ICMPV6) if address.version == 4 else (ICMPV6, ICMP)
        protocol = self._chance.choice(self._protocols or (TCP, TCP, TCP, UDP, UDP, SCTP, icmps[0], icmps[0], icmps[1], *more))
        if protocol == GRE:
            return What(protocol, 0)
        return What(protocol, self._chance.choice(TYPES if protocol in ICMPS else self._drawn.ports))

    def _trial(self, at: Point, source: Address, destination: Address, what: What, to: str, *questions: Question,
               refused: str = "", barred: str = "") -> Trial:  # fmt: skip
        number = next(self._numbers)
        source_port, mark = SOURCES[number % len(SOURCES)], MARK + (number & 0xFFFFFFFF).to_bytes(4)
        family = source.version
        frame = bytearray(TEMPLATES[family, what.protocol])
        frame[:12] = _macs(at)
        start, size, l4 = _SOURCE[family], _SIZE[family], _L4[family]
        frame[start : start + 2 * size] = source.packed + destination.packed
        if what.protocol in ICMPS:
            frame[l4] = what.port
            frame[l4 + 4 : l4 + 6] = source_port.to_bytes(2)  # the identifier
        elif what.protocol != GRE:
            frame[l4 : l4 + 4] = source_port.to_bytes(2) + what.port.to_bytes(2)
        frame[-len(mark) :] = mark
        return Trial(at, bytes(frame), mark, source_port, what, questions, to, refused, barred)


def _own(pod: Pod, address: Address) -> Address:
    """The pod's, of the family of that one."""
    return ip_address(pod.addresses[address.version])


def _as_peer(pod: Pod, family: int) -> Peer:
    return Peer("pod", ip_address(pod.addresses[family]), Identity(pod.identity), inside=True)


def _ask(name: str, direction: Direction, peer: Peer, what: What) -> Question:
    return Question(name, Probe(direction, peer.identity, peer.address, peer.inside, what.protocol, what.port))


def _macs(at: Point) -> bytes:
    """Destination and source. In a tunnel they mean nothing, and what the host's stack sends into one has not yet got them."""
    match at:
        case FromPod(pod):
            return mac_bytes(pod.gateway_mac) + mac_bytes(pod.mac)
        case FromHost(pod):
            return mac_bytes(pod.mac) + mac_bytes(pod.gateway_mac)
        case FromOutside():
            return mac_bytes(HERE.mac) + mac_bytes(ROUTER_MAC)
        case ToOutside():
            return mac_bytes(ROUTER_MAC) + mac_bytes(HERE.mac)
        case _:
            return bytes.fromhex("02000000 0e02 02000000 0e01")
