"""What there is without any network of Kubernetes: loopback, bare redirect_peer, the kernel's routing, plain VXLAN.

In: nothing. Out: for each, where a client is, and where it finds its server. Namespaces are unnamed and go with their descriptors.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pyroute2 import IPRoute
from tests.packets.harness import netns

from bench.traffic import Place, Traffic
from pilus_maps import Datapath

_MTU = 1450  # of pods behind a tunnel: the same everywhere, so that nothing but the way differs


@dataclass(frozen=True, slots=True)
class Way:
    """From a client to a server. `alone`: the client must be there, too."""

    name: str
    client: Place
    address: str


def _namespace(stack: ExitStack) -> int:
    made = netns.fresh()
    stack.callback(os.close, made)
    with netns.inside(made), IPRoute() as ip:
        ip.link("set", index=1, state="up")
    return made


def _veth(ip: IPRoute, name: str, index: int, pod: int, address: str) -> None:
    """A pod's link: this end here, the other as eth0 with `address` in `pod`."""
    ip.link("add", ifname=name, index=index, kind="veth", peer={"ifname": "eth0", "net_ns_fd": pod})
    ip.link("set", index=index, state="up")
    with netns.inside(pod), IPRoute() as inner:
        link = inner.link_lookup(ifname="eth0")[0]
        inner.link("set", index=link, mtu=_MTU)
        inner.addr("add", index=link, address=address, prefixlen=24)
        inner.link("set", index=link, state="up")


def _mac(pod: int) -> str:
    with netns.inside(pod), IPRoute() as ip:
        return str(ip.get_links(ifname="eth0")[0].get_attr("IFLA_ADDRESS"))


def _route(namespace: int, gateway: str) -> None:
    with netns.inside(namespace), IPRoute() as ip:
        ip.route("add", dst="default", gateway=gateway)


def loopback(stack: ExitStack, _: Datapath) -> tuple[int, int, str]:
    here = _namespace(stack)
    return here, here, "127.0.0.1"


def redirect_peer(stack: ExitStack, datapath: Datapath) -> tuple[int, int, str]:
    """Two pods of one node; a program that only redirects at each one's link."""
    root, client, server = (_namespace(stack) for _ in range(3))
    program = datapath.program("to_the_other")
    with netns.inside(root), IPRoute() as ip:
        for name, index, pod, address in (("a", 1000, client, "10.9.0.1"), ("b", 1001, server, "10.9.0.2")):
            _veth(ip, name, index, pod, address)
            ip.tc("add", "clsact", index)
            ip.tc("add-filter", "bpf", index, parent="ffff:fff2", fd=program.fd, name="to_the_other", direct_action=True,
                  prio=1, handle=1)  # fmt: skip
    for pod, other, address in ((client, server, "10.9.0.2"), (server, client, "10.9.0.1")):
        mac = _mac(other)
        with netns.inside(pod), IPRoute() as ip:  # nobody answers ARP here
            ip.neigh("add", ifindex=ip.link_lookup(ifname="eth0")[0], dst=address, lladdr=mac, state="permanent")
    return client, server, "10.9.0.2"


def routing(stack: ExitStack, _: Datapath) -> tuple[int, int, str]:
    """Two pods of one node, and its kernel forwards."""
    root, client, server = (_namespace(stack) for _ in range(3))
    with netns.inside(root), IPRoute() as ip:
        for name, index, pod, subnet in (("a", 1000, client, 1), ("b", 1001, server, 2)):
            _veth(ip, name, index, pod, f"10.9.{subnet}.2")
            ip.addr("add", index=index, address=f"10.9.{subnet}.1", prefixlen=24)
        netns.sysctl("ipv4/ip_forward", "1")
    _route(client, "10.9.1.1")
    _route(server, "10.9.2.1")
    return client, server, "10.9.2.2"


def vxlan(stack: ExitStack, _: Datapath) -> tuple[int, int, str]:
    """A pod on each of two nodes; the nodes are joined by a bridge, as those of the lab, and by a VXLAN link over it."""
    under, first, second, client, server = (_namespace(stack) for _ in range(5))
    nodes = ((1, first, client), (2, second, server))
    with netns.inside(under), IPRoute() as ip:
        ip.link("add", ifname="br0", kind="bridge")
        bridge = ip.link_lookup(ifname="br0")[0]
        ip.link("set", index=bridge, state="up")
        for number, node, _pod in nodes:
            ip.link("add", ifname=f"v{number}", kind="veth", peer={"ifname": "uplink", "net_ns_fd": node})
            ip.link("set", index=ip.link_lookup(ifname=f"v{number}")[0], master=bridge, state="up")
    for number, node, pod in nodes:
        other = 3 - number
        with netns.inside(node), IPRoute() as ip:
            uplink = ip.link_lookup(ifname="uplink")[0]
            ip.addr("add", index=uplink, address=f"172.31.0.{number}", prefixlen=24)
            ip.link("set", index=uplink, state="up")
            ip.link("add", ifname="vxlan", kind="vxlan", vxlan_id=7, vxlan_group=f"172.31.0.{other}", vxlan_link=uplink,
                    vxlan_port=8472, vxlan_learning=False, vxlan_ttl=64)  # fmt: skip
            link = ip.link_lookup(ifname="vxlan")[0]
            ip.addr("add", index=link, address=f"10.8.0.{number}", prefixlen=24)
            ip.link("set", index=link, state="up")
            _veth(ip, "pod", 1000, pod, f"10.9.{number}.2")
            ip.addr("add", index=1000, address=f"10.9.{number}.1", prefixlen=24)
            ip.route("add", dst=f"10.9.{other}.0/24", gateway=f"10.8.0.{other}")
            netns.sysctl("ipv4/ip_forward", "1")
        _route(pod, f"10.9.{number}.1")
    return client, server, "10.9.2.2"


WAYS: dict[str, Callable[[ExitStack, Datapath], tuple[int, int, str]]] = {
    "loopback": loopback,
    "bare redirect_peer": redirect_peer,
    "kernel routing": routing,
    "plain VXLAN": vxlan,
}


@contextmanager
def bare(traffic: Traffic, datapath: Datapath) -> Iterator[dict[str, Way]]:
    """All of them, each with its server started."""
    with ExitStack() as stack:
        found = {}
        for name, make in WAYS.items():
            client, server, address = make(stack, datapath)
            traffic.serve(Place(server))
            found[name] = Way(name, Place(client), address)
        yield found
