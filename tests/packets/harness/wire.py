"""Harness B: network namespaces with real veths and a real tunnel. Frames go in by AF_PACKET, and every pod's end and the
underlay are listened at, so that a packet that comes out anywhere else than expected is seen.
"""

import os
import socket
import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Final

from pyroute2 import IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from tests.packets.harness import netns
from tests.packets.harness.actors import HERE, LOCAL_PODS, NODES, Pod
from tests.packets.harness.node import Node
from tests.packets.harness.scenario import HOOKS, FromHost, FromOutside, FromPod, FromStack, Outcome, Point, ToOutside

_ETH_P_ALL: Final = 3
_OUTGOING: Final = 4
_INGRESS, _EGRESS = "ffff:fff2", "ffff:fff3"
_PERMANENT: Final = 0x80
VXLAN_PORT: Final = 8472
HOST_PORT: Final = 9999
HOUSEKEEPING: Final = 232
PATIENCE: Final = 1.0


def listener(namespace: int, link: str) -> socket.socket:
    """It hears, and may send, whole frames."""
    with netns.inside(namespace):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    end.bind((link, _ETH_P_ALL))
    end.setblocking(False)
    return end


def heard(end: socket.socket) -> list[bytes]:
    """What has come in since the last call; what the end itself sent is left out."""
    found: list[bytes] = []
    while True:
        try:
            frame, sender = end.recvfrom(65535)
        except BlockingIOError:
            return found
        if sender[2] != _OUTGOING:
            found.append(frame)


class Wire:
    """Our node in one namespace, each of its pods in one, and the rest of the underlay in one."""

    def __init__(self, node: Node, *, stacks: bool = False) -> None:
        """With `stacks` the pods have their addresses and their own stacks speak; else the test speaks for them."""
        self.node = node
        self._stacks = stacks
        self.pods: dict[str, int] = {}
        self._stack = ExitStack()
        self.ends: dict[str, socket.socket] = {}
        self.home = 0

    def _namespace(self) -> int:
        namespace = netns.fresh()
        self._stack.callback(os.close, namespace)
        return namespace

    def __enter__(self) -> "Wire":
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.node.close()
        if self.home:
            netns.empty(self.home)
        self._stack.close()

    def _build(self) -> None:
        self.home = self._namespace()
        underlay = self._namespace()
        pods = self.pods = {pod.name: self._namespace() for pod in LOCAL_PODS}
        with netns.inside(underlay):
            netns.sysctl("ipv6/conf/default/disable_ipv6", "1")
        with netns.inside(self.home), IPRoute() as ip:
            netns.sysctl("ipv6/conf/default/addr_gen_mode", "1")
            netns.sysctl("ipv6/conf/default/accept_dad", "0")
            netns.sysctl("ipv6/conf/all/forwarding", "0")
            ip.link("set", index=1, state="up")
            ip.link("add", ifname="eth0", kind="veth", address=HERE.mac, peer={"ifname": "eth0", "net_ns_fd": underlay})
            eth = self._up(ip, "eth0")
            ip.addr("add", index=eth, address=HERE.underlay, prefixlen=24)
            for node in NODES:
                if not node.local:
                    ip.neigh("replace", dst=node.underlay, lladdr=node.mac, ifindex=eth, state=_PERMANENT)
            ip.link("add", ifname="router", kind="veth", peer={"ifname": "router_"})
            self._up(ip, "router_")
            router = self._up(ip, "router")
            ip.addr("add", index=router, address=HERE.routers[4], prefixlen=32)
            ip.addr("add", index=router, address=HERE.routers[6], prefixlen=128, flags=0x02)
            ip.link("add", ifname="tunnel", kind="vxlan", mtu=1450, vxlan_collect_metadata=True, vxlan_port=VXLAN_PORT,
                    vxlan_learning=False)  # fmt: skip
            ip.link("set", index=ip.link_lookup(ifname="tunnel")[0], arp=False)
            tunnel = self._up(ip, "tunnel")
            self.node.tunnel_ifindex, self.node.uplink_ifindex = tunnel, eth
            self._attach(ip, tunnel, "overlay_from", "overlay_to")
            for node in NODES:
                if not node.local:
                    ip.route("add", dst=node.ranges[4], oif=tunnel, prefsrc=HERE.routers[4], scope="link")
                    ip.route("add", dst=node.ranges[6], oif=tunnel, prefsrc=HERE.routers[6], family=socket.AF_INET6)
            for pod in LOCAL_PODS:
                self._pod(ip, pod, pods[pod.name])
            ears = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)  # so that the stack does not answer "port unreachable"
            self._stack.callback(ears.close)
            ears.bind(("::", HOST_PORT))
        with netns.inside(underlay), IPRoute() as ip:
            self._up(ip, "eth0")
        self.ends = {name: self._stack.enter_context(listener(namespace, "eth0")) for name, namespace in pods.items()}
        self.ends["underlay"] = self._stack.enter_context(listener(underlay, "eth0"))

    @staticmethod
    def _up(ip: Any, name: str) -> int:
        index = int(ip.link_lookup(ifname=name)[0])
        ip.link("set", index=index, state="up")
        return index

    def _attach(self, ip: Any, index: int, ingress: str, egress: str) -> None:
        ip.tc("add", "clsact", index)
        for parent, name in ((_INGRESS, ingress), (_EGRESS, egress)):
            fd = self.node.datapath.program(name).fd
            ip.tc("replace-filter", "bpf", index, parent=parent, fd=fd, name=name, direct_action=True, prio=1, handle=1)

    def _pod(self, ip: Any, pod: Pod, namespace: int) -> None:
        with netns.inside(namespace):
            netns.sysctl("ipv6/conf/default/disable_ipv6", "0" if self._stacks else "1")
            netns.sysctl("ipv6/conf/default/accept_dad", "0")
        ip.link("add", ifname=pod.link, kind="veth", address=pod.gateway_mac,
                peer={"ifname": "eth0", "net_ns_fd": namespace, "address": pod.mac})  # fmt: skip
        index = self._up(ip, pod.link)
        with netns.inside(namespace), IPRoute() as inner:
            eth = self._up(inner, "eth0")
            for family, address in pod.addresses.items() if self._stacks else ():
                kernel, most = (socket.AF_INET, 32) if family == 4 else (socket.AF_INET6, 128)
                flags = {} if family == 4 else {"flags": 0x02}
                scope = {"scope": "link"} if family == 4 else {}
                inner.addr("add", index=eth, address=address, prefixlen=most, **flags)
                inner.route("add", dst=f"{HERE.routers[family]}/{most}", oif=eth, family=kernel, **scope)
                inner.route("add", dst="default", gateway=HERE.routers[family], oif=eth, family=kernel)
        self.node.links[pod.name] = index
        for family, address in pod.addresses.items():
            kernel = socket.AF_INET if family == 4 else socket.AF_INET6
            ip.neigh("replace", dst=address, lladdr=pod.mac, ifindex=index, family=kernel, state=_PERMANENT)
            scope = {"scope": "link"} if family == 4 else {}
            ip.route("replace", dst=f"{address}/{32 if family == 4 else 128}", oif=index, family=kernel,
                     prefsrc=HERE.routers[family], **scope)  # fmt: skip
        self._attach(ip, index, "pod_from", "pod_to")

    # -- playing -------------------------------------------------------------------------------------------------------

    def taken(self) -> dict[str, list[bytes]]:
        """What has come in at every end since the last call."""
        return {name: frames for name, end in self.ends.items() if (frames := heard(end))}

    def inject(self, at: Point, frame: bytes) -> None:
        if isinstance(at, FromPod):
            self.ends[at.pod.name].send(frame)
        elif isinstance(at, FromHost | FromStack):
            with netns.inside(self.home), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as own:
                own.bind((at.pod.link if isinstance(at, FromHost) else "tunnel", 0))
                with suppress(OSError):  # ENOBUFS: dropped at the link's egress
                    own.send(frame)
        elif isinstance(at, FromOutside | ToOutside):
            raise TypeError("the wire has no uplink programs: see world.py")
        else:
            outer = Ether(src=at.node.mac, dst=HERE.mac) / IP(src=at.node.underlay, dst=HERE.underlay)
            vxlan = bytes.fromhex("08000000") + at.vni.to_bytes(3, "big") + b"\0"
            self.ends["underlay"].send(bytes(outer / UDP(sport=40000, dport=VXLAN_PORT, chksum=0) / (vxlan + frame)))

    def _counted(self, hook: int, before: dict[tuple[int, int], int]) -> int:
        """The reason of the one packet more at this hook."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            now = self.node.counters()
            changed = [key for key, value in now.items() if key[0] == hook and value != before.get(key, 0)]
            if len(changed) > 1:
                changed = [key for key in changed if key[1] != HOUSEKEEPING]
            if changed:
                return changed[0][1]
            time.sleep(0.002)
        raise AssertionError("no program saw the packet")

    def send(self, at: Point, frame: bytes) -> Outcome:
        hook = self.node.hooks[HOOKS[type(at)]]
        self.taken()
        self.node.events()
        before = self.node.counters()
        self.inject(at, frame)
        reason = self._counted(hook, before)
        time.sleep(0.005)  # a wrong copy elsewhere comes as fast as the right one
        taken = self.taken()
        events = [event for event in self.node.events() if event["hook"] == hook]
        if reason and reason != self.node.reason("TOO_BIG"):
            assert not taken, f"dropped with {reason}, yet seen at {', '.join(taken)}"
            return Outcome("dropped", reason, "", b"", None, events)
        assert sum(len(frames) for frames in taken.values()) <= 1, f"one packet in, several out: {taken.keys()}"
        for name, frames in taken.items():
            if name == "underlay":
                return self._outer(frames[0], events)
            same = isinstance(at, FromPod) and at.pod.name == name
            return Outcome("answered" if same else "delivered", reason, name, frames[0], None, events)
        return Outcome("host", 0, "host", b"", None, events)

    @staticmethod
    def _outer(frame: bytes, events: list[dict[str, Any]]) -> Outcome:
        outer = Ether(frame)
        assert outer.haslayer(UDP), f"not a tunnel packet:\n{outer.show(dump=True)}"
        assert outer[UDP].dport == VXLAN_PORT, f"not a tunnel packet:\n{outer.show(dump=True)}"
        payload = frame[14 + 20 + 8 :]
        to = next((node.name for node in NODES if node.underlay == outer[IP].dst), "?")
        return Outcome("tunnelled", 0, to, payload[8:], int.from_bytes(payload[4:7], "big"), events)
