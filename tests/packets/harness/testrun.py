"""Harness A: BPF_PROG_TEST_RUN. Sees what a program returns and what it did to the bytes; can't see where a redirect went but
by the MACs, nor tunnel keys: the overlay's body is entered behind its key reader, with scratch filled by hand.
"""

import os
from types import TracebackType

from pyroute2 import IPRoute
from tests.packets.harness import netns
from tests.packets.harness.actors import LOCAL_PODS, mac_bytes, packed
from tests.packets.harness.node import Node
from tests.packets.harness.scenario import HOOKS, FromHost, FromOutside, FromPod, FromStack, Outcome, Point, ToOutside

_OK, _SHOT, _PIPE, _REDIRECT = 0, 2, 3, 7
OVERLAY_BODY = "overlay_body"


class TestRun:
    __test__ = False  # pytest takes every Test* for a test

    def __init__(self, node: Node) -> None:
        self.node = node
        self._namespace = netns.fresh()

    def __enter__(self) -> "TestRun":
        with netns.inside(self._namespace), IPRoute() as ip:
            for name in (*(pod.link for pod in LOCAL_PODS), "tunnel", "uplink"):
                ip.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}_"})
                ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
            self.node.links = {pod.name: ip.link_lookup(ifname=pod.link)[0] for pod in LOCAL_PODS}
            self.node.tunnel_ifindex = ip.link_lookup(ifname="tunnel")[0]
            self.node.uplink_ifindex = ip.link_lookup(ifname="uplink")[0]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.node.close()
        os.close(self._namespace)

    def run(self, at: Point, frame: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
        datapath = self.node.datapath
        with netns.inside(self._namespace):
            if isinstance(at, FromPod):
                return datapath.program("pod_from").test_run(frame, ifindex=self.node.links[at.pod.name], repeat=repeat)
            if isinstance(at, FromHost):
                came = self.node.uplink_ifindex if at.forwarded else 0
                program = datapath.program("pod_to")
                return program.test_run(frame, ifindex=self.node.links[at.pod.name], ingress_ifindex=came, repeat=repeat)
            if isinstance(at, FromStack):
                came = self.node.uplink_ifindex if at.forwarded else 0
                program = datapath.program("overlay_to")
                return program.test_run(frame, ifindex=self.node.tunnel_ifindex, ingress_ifindex=came, repeat=repeat)
            if isinstance(at, FromOutside):
                return datapath.program("uplink_from").test_run(frame, ifindex=self.node.uplink_ifindex, repeat=repeat)
            if isinstance(at, ToOutside):
                came = self.node.links[at.pod.name] if at.pod else self.node.tunnel_ifindex if at.forwarded else 0
                program = datapath.program("uplink_to")
                return program.test_run(frame, ifindex=self.node.uplink_ifindex, ingress_ifindex=came, repeat=repeat)
            key = {"hook": self.node.hooks["PILUS_HOOK_OVERLAY_FROM"], "vni": at.vni, "outer": packed(at.node.underlay)}
            datapath.map("scratch").update(0, key)
            return datapath.program(OVERLAY_BODY).test_run(frame, ifindex=self.node.tunnel_ifindex, repeat=repeat)

    def send(self, at: Point, frame: bytes) -> Outcome:
        hook = self.node.hooks[HOOKS[type(at)]]
        before = self.node.counters()
        self.node.events()
        verdict, after, _ = self.run(at, frame)
        counted = {key: value - before.get(key, 0) for key, value in self.node.counters().items() if value != before.get(key, 0)}
        assert list(counted.values()) == [1], f"one packet, counted {counted}"
        (where, reason) = next(iter(counted))
        assert where == hook, f"counted at hook {where}, not {hook}"
        too_big = reason == self.node.reason("TOO_BIG")
        assert (verdict == _SHOT) == (bool(reason) and not too_big), f"action {verdict} with reason {reason}"
        events = self.node.events()
        if verdict == _SHOT:
            return Outcome("dropped", reason, "", after, None, events)
        if verdict == _PIPE:
            assert isinstance(at, FromOutside | ToOutside), "only the uplink has filters of others behind ours"
            verdict = _OK
        if verdict == _OK:
            if isinstance(at, FromHost):
                return Outcome("delivered", 0, at.pod.name, after, None, events)
            if isinstance(at, FromStack | ToOutside):
                return Outcome("tunnelled", 0, "", after, None, events)
            return Outcome("host", 0, "host", after, None, events)
        assert verdict == _REDIRECT, f"action {verdict}"
        for pod in LOCAL_PODS:
            if after[:6] == mac_bytes(pod.mac):
                same = isinstance(at, FromPod) and at.pod is pod
                return Outcome("answered" if same else "delivered", reason, pod.name, after, None, events)
        return Outcome("tunnelled", 0, "", after, None, events)
