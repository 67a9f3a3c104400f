"""A third harness: our node with its uplink, pods with stacks of their own, and a real host on the outside, each in a namespace.

What it is for: connections that have to work end to end (handshakes, checksums, errors that a socket hears of), which frames made
by hand can't show. The outside plays the router, another node and every address behind it. Everything that leaves the node is
captured.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Final

from pyroute2 import IPRoute
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from tests.packets.harness import netns
from tests.packets.harness.actors import CLIENT, HERE, LOCAL_PODS, OUTSIDE, THERE, Pod, packed
from tests.packets.harness.node import Node

READY, TUNNEL, MASQUERADE = 1, 2, 4 | 8
FIRST, LAST = 61000, 65535
VXLAN_PORT: Final = 8472
NODE: Final = {4: HERE.underlay, 6: "2001:db8:1::1"}
OTHER_NODE: Final = {4: THERE.underlay, 6: "2001:db8:1::2"}
GATEWAY: Final = {4: "192.0.2.254", 6: "2001:db8:1::fe"}
BEYOND: Final = {4: "203.0.113.9", 6: "2001:db8:71::9"}  # behind a link of the outside that takes 1300 bytes, and nobody there
BEYOND_MTU: Final = 1300
ROUTER_MAC: Final = "02:00:00:00:01:fe"
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_ETH_P_ALL, _PERMANENT, _NO_DAD = 3, 0x80, 0x02
_HOST = {4: 32, 6: 128}


def masquerading(node: Node, *, tunnel: bool = True, **changed: Any) -> None:
    """The settings of a node that masquerades."""
    values: dict[str, Any] = {
        "flags": READY | MASQUERADE | TUNNEL * tunnel, "node_ipv6": packed(NODE[6]), "tunnel_port": VXLAN_PORT,
        "nat_first": FIRST, "nat_last": LAST, "uplink_mtu": 1500,
    }  # fmt: skip
    node.settings(**(values | changed))


def _is_link_message(packet: IPv6) -> bool:
    return bool(packet.nh == 58 and packet.payload.type in range(133, 138))


class World:
    def __init__(self, node: Node) -> None:
        self.node = node
        self._stack = ExitStack()
        self.home = self.outside = 0
        self.pods: dict[str, int] = {}
        self.wire: socket.socket

    def __enter__(self) -> "World":
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.node.close()
        if self.home:
            netns.empty(self.home)
        self._stack.close()

    def _namespace(self) -> int:
        namespace = netns.fresh()
        self._stack.callback(os.close, namespace)
        with netns.inside(namespace), IPRoute() as ip:
            netns.sysctl("ipv6/conf/default/accept_dad", "0")
            netns.sysctl("ipv6/conf/all/accept_dad", "0")
            netns.sysctl("ipv6/conf/default/addr_gen_mode", "1")
            netns.sysctl("ipv4/ping_group_range", "0 0")
            ip.link("set", index=1, state="up")
        return namespace

    @staticmethod
    def _address(ip: Any, index: int, address: str, length: int = 0) -> None:
        family = 6 if ":" in address else 4
        flags = {"flags": _NO_DAD} if family == 6 else {}
        ip.addr("add", index=index, address=address, prefixlen=length or _HOST[family], **flags)

    @staticmethod
    def _neighbour(ip: Any, index: int, address: str, mac: str) -> None:
        """A stack asks for the next hop of others' packets by its link's own address, which none has here."""
        ip.neigh("replace", dst=address, lladdr=mac, ifindex=index, family=FAMILIES[6], state=_PERMANENT)

    def _build(self) -> None:
        self.outside, self.home = self._namespace(), self._namespace()
        self.pods = {pod.name: self._namespace() for pod in LOCAL_PODS}
        with netns.inside(self.home), IPRoute() as ip:
            ip.link("add", ifname="eth0", kind="veth", address=HERE.mac,
                    peer={"ifname": "eth0", "net_ns_fd": self.outside, "address": ROUTER_MAC})  # fmt: skip
            eth = self.node.uplink_ifindex = int(ip.link_lookup(ifname="eth0")[0])
            ip.link("set", index=eth, state="up")
            self._attach(ip, eth, "uplink")
            self._address(ip, eth, NODE[4], 24)
            self._address(ip, eth, NODE[6], 64)
            self._neighbour(ip, eth, GATEWAY[6], ROUTER_MAC)
            for pod in LOCAL_PODS:
                self._pod(ip, pod)
        with netns.inside(self.outside), IPRoute() as ip:
            for name in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
                netns.sysctl(name, "1")
            # Errors come as often as a test asks for them.
            netns.sysctl("ipv4/icmp_ratelimit", "0")
            netns.sysctl("ipv6/icmp/ratelimit", "0")
            eth = int(ip.link_lookup(ifname="eth0")[0])
            ip.link("set", index=eth, state="up")
            for family, length in ((4, 24), (6, 64)):
                self._address(ip, eth, GATEWAY[family], length)
                self._address(ip, eth, OTHER_NODE[family], length)
                self._address(ip, 1, OUTSIDE[family])
            self._neighbour(ip, eth, NODE[6], HERE.mac)
            ip.link("add", ifname="narrow", kind="veth", mtu=BEYOND_MTU, peer={"ifname": "narrow_", "mtu": BEYOND_MTU})
            narrow = int(ip.link_lookup(ifname="narrow")[0])
            for index in (narrow, int(ip.link_lookup(ifname="narrow_")[0])):
                ip.link("set", index=index, state="up")
            ip.route("add", dst="203.0.113.0/24", oif=narrow)
            ip.route("add", dst="2001:db8:71::/64", oif=narrow, family=socket.AF_INET6)
            self.wire = self._stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)))
            self.wire.bind(("eth0", _ETH_P_ALL))
            self.wire.setblocking(False)
        with netns.inside(self.home), IPRoute() as ip:
            for family in (4, 6):
                everything = "0.0.0.0/0" if family == 4 else "::/0"
                ip.route("add", dst=everything, gateway=GATEWAY[family], family=FAMILIES[family])

    def _attach(self, ip: Any, index: int, place: str) -> None:
        ip.tc("add", "clsact", index)
        for parent, side in (("ffff:fff2", "from"), ("ffff:fff3", "to")):
            name = f"{place}_{side}"
            fd = self.node.datapath.program(name).fd
            ip.tc("replace-filter", "bpf", index, parent=parent, fd=fd, name=name, direct_action=True, prio=1, handle=1)

    def _pod(self, ip: Any, pod: Pod) -> None:
        namespace = self.pods[pod.name]
        ip.link("add", ifname=pod.link, kind="veth", address=pod.gateway_mac,
                peer={"ifname": "eth0", "net_ns_fd": namespace, "address": pod.mac})  # fmt: skip
        index = self.node.links[pod.name] = int(ip.link_lookup(ifname=pod.link)[0])
        ip.link("set", index=index, state="up")
        self._attach(ip, index, "pod")
        with netns.inside(namespace), IPRoute() as inner:
            eth = int(inner.link_lookup(ifname="eth0")[0])
            inner.link("set", index=eth, state="up")
            for family, address in pod.addresses.items():
                self._address(inner, eth, address)
                gateway = HERE.routers[family]
                inner.neigh("replace", dst=gateway, lladdr=pod.gateway_mac, ifindex=eth, family=FAMILIES[family], state=_PERMANENT)
                scope = {"scope": "link"} if family == 4 else {}
                inner.route("add", dst=f"{gateway}/{_HOST[family]}", oif=eth, family=FAMILIES[family], **scope)
                everything = "0.0.0.0/0" if family == 4 else "::/0"
                inner.route("add", dst=everything, gateway=gateway, oif=eth, family=FAMILIES[family])

    # -- tables ----------------------------------------------------------------------------------------------------------

    def reset(self, *, tunnel: bool = True, **changed: Any) -> None:
        self.node.reset()
        masquerading(self.node, tunnel=tunnel, **changed)
        self.node.ipcache(NODE[6], 1, flags=2 | 8)
        self.node.ipcache(OTHER_NODE[6], 6, flags=2)
        self.captured()

    # -- talking ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def socket(self, where: int, family: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
        with netns.inside(where):
            made = socket.socket(FAMILIES[family], kind, protocol)
        made.settimeout(2)
        with made:
            yield made

    def captured(self) -> list[Ether]:
        """Every IP packet that has left the node's uplink, or come to it, since the last call."""
        found = []
        while True:
            try:
                frame, _ = self.wire.recvfrom(65535)
            except BlockingIOError:
                break
            decoded = Ether(frame)
            if decoded.haslayer(IP) or decoded.haslayer(IPv6):
                found.append(decoded)
        return found

    def left(self) -> list[Ether]:
        """Those that have left, but for what a stack tells its link: neighbour discovery, group memberships."""
        found = [one for one in self.captured() if one.src == HERE.mac]
        return [one for one in found if not (one.haslayer(IPv6) and (one.dst.startswith("33:33:") or _is_link_message(one[IPv6])))]

    def inject(self, frame: Any) -> None:
        """From the outside, as it is."""
        with netns.inside(self.outside), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
            end.bind(("eth0", 0))
            end.send(bytes(frame))

    def dropped(self, hook: str, reason: str, before: dict[tuple[int, int], int], count: int = 1) -> None:
        """That many more drops with this reason, within a second."""
        key = self.node.hooks[f"PILUS_HOOK_{hook}"], self.node.reason(reason)
        until = time.monotonic() + 1
        while (got := self.node.counters().get(key, 0) - before.get(key, 0)) < count and time.monotonic() < until:
            time.sleep(0.002)
        assert got == count, f"{got} drops for {reason} at {hook}, not {count}: {self.node.counters()}"

    @contextmanager
    def sniffing(self, pod: Pod = CLIENT) -> Iterator[list[bytes]]:
        """What comes into a pod meanwhile, by whatever way."""
        found: list[bytes] = []
        with netns.inside(self.pods[pod.name]):
            end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        with end:
            end.bind(("eth0", _ETH_P_ALL))
            end.setblocking(False)
            yield found
            time.sleep(0.05)
            while True:
                try:
                    frame, sender = end.recvfrom(65535)
                except BlockingIOError:
                    return
                if sender[2] != socket.PACKET_OUTGOING:
                    found.append(frame)


def echo_bytes(family: int, sequence: int, payload: bytes = b"pilus") -> bytes:
    """For a ping socket: the kernel fills in identifier and checksum."""
    return struct.pack("!BBHHH", 8 if family == 4 else 128, 0, 0, 0, sequence) + payload
