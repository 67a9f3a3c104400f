"""This node's own links as wanted, and every filter in its place.

In: a plan. Out: what is there now (indices, MTU). Blocks: call it in the driver's thread. Idempotent, and asked again every
second: a link or filter that somebody took away is back by then, and meanwhile the host's stack forwards nothing for pods.
"""

from dataclasses import dataclass
from typing import Final

from pilus_agent.datapath.links import ROUTER_LINK, ROUTER_PEER, TUNNEL_LINK, Netlink, PodLink
from pilus_agent.facts import Address, Network
from pilus_maps import Datapath

# VXLAN over IPv4: outer Ethernet is not counted, IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14. Over IPv6 20 more.
_OVERHEAD = {4: 50, 6: 70}
# The uplink is everybody's: ours stand behind what others attach at the usual 1, and pass on what is not ours.
UPLINK_PRIORITY: Final = 20


@dataclass(frozen=True, slots=True)
class NodePlan:
    """`underlay` is this node's address that other nodes reach."""

    underlay: Address
    routers: tuple[Address, ...]
    remote: tuple[Network, ...]
    tunnel: bool
    tunnel_port: int
    mtu: int  # 0: that of the uplink
    direct: tuple[tuple[Network, Address], ...] = ()  # other nodes' ranges by the node's address, without a tunnel
    nat_ports: tuple[int, int] | None = None  # what masquerading gives out; None: nothing is masqueraded


@dataclass(frozen=True, slots=True)
class NodeLinks:
    uplink_ifindex: int
    router_ifindex: int
    tunnel_ifindex: int
    pod_mtu: int
    uplink_mtu: int


def ensure_node(netlink: Netlink, plan: NodePlan) -> NodeLinks:
    """Links and routes; no programs, which are attached when their tables are filled (`audit`). Raises LinkError, and
    NetlinkError where the kernel refuses."""
    uplink = netlink.uplink_of(plan.underlay)
    uplink_mtu = mtu = plan.mtu or netlink.mtu(uplink)
    if plan.tunnel:
        mtu -= _OVERHEAD[plan.underlay.version]
    router = netlink.ensure_router(plan.routers, mtu)
    tunnel = 0
    if plan.tunnel:
        tunnel = netlink.ensure_tunnel(plan.tunnel_port, mtu)
        netlink.ensure_routes(tunnel, plan.remote, {address.version: address for address in plan.routers})
    else:
        netlink.delete(TUNNEL_LINK)  # of a time with a tunnel: nobody shall be listened to there
    if plan.nat_ports is not None:
        netlink.reserve_ports(*plan.nat_ports)
    netlink.ensure_direct_routes(uplink, dict(plan.direct))
    return NodeLinks(uplink, router, tunnel, mtu, uplink_mtu)


@dataclass(frozen=True, slots=True)
class Seen:
    """What `ensure_node` has made or gone by, as it is at one moment. Only to be compared."""

    links: tuple[object, ...]
    ways: tuple[object, ...] | None  # addresses and routes; None: not looked at


def seen(netlink: Netlink, plan: NodePlan, *, ways: bool) -> Seen:
    """Another result than right after `ensure_node`: somebody has changed something, and it is to be asked again. Changes nothing,
    and so tells itself nothing. `ways` costs a dump of the node's routes. Raises LinkError."""
    uplink = netlink.uplink_of(plan.underlay)
    links = tuple(netlink.state(link) for link in (uplink, ROUTER_LINK, ROUTER_PEER, TUNNEL_LINK))
    if not ways:
        return Seen(links, None)
    made = tuple(netlink.ways(index) for index in map(netlink.index, (ROUTER_LINK, TUNNEL_LINK)) if index)
    return Seen(links, (*made, netlink.ways(uplink, ours=True) if plan.direct else ()))


def attach(netlink: Netlink, datapath: Datapath, ifindex: int, place: str, priority: int = 1) -> bool:
    """`pod`, `overlay` or `uplink`: both of its programs, where they are not yet. Whether something had to be done.

    A filter bears the program's name and the load's hash: so a filter of an older load is known without asking the kernel for
    the program behind it.
    """
    ingress, egress = datapath.program(f"{place}_from"), datapath.program(f"{place}_to")
    wanted = {"ingress": f"{ingress.name}-{datapath.hash}", "egress": f"{egress.name}-{datapath.hash}"}
    if netlink.attached(ifindex, priority=priority) == wanted:
        return False
    netlink.attach(ifindex, (wanted["ingress"], ingress.fd), (wanted["egress"], egress.fd), priority=priority)
    return True


def audit(netlink: Netlink, datapath: Datapath, uplink: int = 0) -> list[str]:
    """Every pod's link, the tunnel and the uplink: which had lost a filter, or had one of an older load."""
    repaired = [link.name for link in netlink.pod_links() if attach(netlink, datapath, link.ifindex, "pod")]
    tunnel = netlink.index(TUNNEL_LINK)
    if tunnel and attach(netlink, datapath, tunnel, "overlay"):
        repaired.append(TUNNEL_LINK)
    if uplink and attach(netlink, datapath, uplink, "uplink", UPLINK_PRIORITY):
        repaired.append("uplink")
    return repaired


def attached_loads(netlink: Netlink) -> set[str]:
    """The hashes of the loads whose programs are attached to some link: ours are named by `attach`."""
    return {name.rpartition("-")[2] for name in netlink.filter_names() if "-" in name}


def strangers(links: list[PodLink], containers: set[str]) -> list[PodLink]:
    """Links of ours whose pod nobody knows any more."""
    return [link for link in links if link.container not in containers]
