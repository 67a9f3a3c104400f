"""Links, addresses, routes and filters of this node and its pods: everything that goes through rtnetlink.

In: names, numbers, addresses. Out: what was made, or LinkError. Every call is idempotent, deletes of the absent are no error,
and every call blocks: it runs in the driver's thread. A link is ours if its name begins with `plx` or `pilus_` and, for a
pod's, if its alias says for which container it was made.
"""

import ctypes
import errno
import functools
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from pilus_agent.datapath import ports
from pilus_agent.datapath.changes import Ledger, sysctls
from pilus_agent.facts import Address, Network
from pilus_api.errors import PilusError

ROUTER_LINK: Final = "pilus_host"
ROUTER_PEER: Final = "pilus_net"
TUNNEL_LINK: Final = "pilus_vxlan"
POD_LINKS: Final = "plx"
ALIAS: Final = "pilus:"
OURS: Final = (POD_LINKS, "pilus_")

_CLONE_NEWNET = 0x40000000
_INGRESS, _EGRESS = "ffff:fff2", "ffff:fff3"
_NO_DAD = 0x02
_PERMANENT = 0x80
_UP = 1  # IFF_UP
_LINK_LOCAL = 253  # a scope
_KERNELS_OWN = 2  # a route's origin
ROUTE_PROTOCOL: Final = (
    214  # another one, in the range that is free for everybody (linux/rtnetlink.h): by it our routes are known as ours
)
_libc = ctypes.CDLL(None, use_errno=True)


class LinkError(PilusError):
    """A link could not be made as wanted."""


_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")
_Method = Callable[Concatenate["Netlink", _Given], _Made]


def _or_else(what: str) -> Callable[[_Method[_Given, _Made]], _Method[_Given, _Made]]:
    """The kernel's refusal becomes LinkError, which says what could not be done."""

    def decorate(method: _Method[_Given, _Made]) -> _Method[_Given, _Made]:
        @functools.wraps(method)
        def explained(self: "Netlink", /, *given: _Given.args, **named: _Given.kwargs) -> _Made:
            try:
                return method(self, *given, **named)
            except NetlinkError as error:
                which = f" ({given[0]})" if given and isinstance(given[0], str | int) else ""
                raise LinkError(f"can't {what}{which}: {error.args[-1]}") from error

        return explained

    return decorate


@dataclass(frozen=True, slots=True)
class PodLink:
    """The host's side of a pod's veth."""

    name: str
    ifindex: int
    mac: str
    container: str  # container/interface, as its alias says


def _family(address: Address | Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def write_sysctl(link: str, names: dict[str, str], family: str) -> None:
    for name, value in names.items():
        with suppress(FileNotFoundError):  # a kernel without IPv6
            (sysctls() / "net" / family / "conf" / link / name).write_text(value)


def harden(link: str) -> None:
    """The host's stack forwards nothing from or to this link, believes no advertisement on it, answers for nobody."""
    write_sysctl(
        link, {"forwarding": "0", "rp_filter": "0", "proxy_arp": "0", "accept_redirects": "0", "send_redirects": "0"}, "ipv4"
    )
    write_sysctl(
        link, {"forwarding": "0", "accept_ra": "0", "accept_redirects": "0", "addr_gen_mode": "1", "accept_dad": "0"}, "ipv6"
    )


class Netlink:
    """One rtnetlink socket in this node's network namespace. Not thread-safe: its thread is the driver's."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ip = IPRoute()
        self._ledger = ledger or Ledger()

    def close(self) -> None:
        self._ip.close()

    # -- looking ---------------------------------------------------------------------------------------------------------

    def index(self, name: str) -> int:
        """0 if there is none."""
        found = self._ip.link_lookup(ifname=name)
        return int(found[0]) if found else 0

    @_or_else("look at a link")
    def mac(self, ifindex: int) -> str:
        return str(self._ip.link("get", index=ifindex)[0].get("IFLA_ADDRESS"))

    @_or_else("look at a link")
    def mtu(self, ifindex: int) -> int:
        return int(self._ip.link("get", index=ifindex)[0].get("IFLA_MTU"))

    def pod_links(self) -> list[PodLink]:
        """Every pod's link that is ours."""
        found = []
        for link in self._ip.get_links():
            name, alias = str(link.get("IFLA_IFNAME")), str(link.get("IFLA_IFALIAS") or "")
            if name.startswith(POD_LINKS) and alias.startswith(ALIAS):
                found.append(PodLink(name, int(link["index"]), str(link.get("IFLA_ADDRESS")), alias.removeprefix(ALIAS)))
        return found

    @_or_else("look at a link")
    def state(self, link: str | int) -> tuple[int, int, bool]:
        """Index, MTU, and whether it is up; zeros without one."""
        index = self.index(link) if isinstance(link, str) else link
        if index:
            with _suppress(errno.ENODEV):  # gone meanwhile
                held = self._ip.link("get", index=index)[0]
                return index, int(held.get("IFLA_MTU")), bool(held["flags"] & _UP)
        return 0, 0, False

    @_or_else("look at the addresses and routes of a link")
    def ways(self, index: int, *, ours: bool = False) -> frozenset[tuple[object, ...]]:
        """Its addresses and the routes by it; with `ours` only routes that bear our mark. Reads the whole table of routes."""
        found: set[tuple[object, ...]] = set()
        if not ours:
            found |= {(str(one.get("IFA_ADDRESS")), int(one["prefixlen"])) for one in self._ip.get_addr(index=index)}
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in self._ip.get_routes(family=family, oif=index, table=254):
                if not ours or route["proto"] == ROUTE_PROTOCOL:
                    gateway, source = str(route.get("RTA_GATEWAY")), str(route.get("RTA_PREFSRC"))
                    found.add((family, str(route.get("RTA_DST")), int(route["dst_len"]), gateway, source))
        return frozenset(found)

    def uplink_of(self, address: Address) -> int:
        """The link that has one of this node's own addresses. Raises LinkError if none has."""
        for found in self._ip.get_addr(family=_family(address)):
            if found.get("IFA_ADDRESS") == str(address) or found.get("IFA_LOCAL") == str(address):
                return int(found["index"])
        raise LinkError(f"no link of this node has the address {address}: does the CiliumNode name another machine's?")

    # -- the node's own links --------------------------------------------------------------------------------------------

    def reserve_ports(self, first: int, last: int) -> bool:
        """Ports for masquerading, kept from this node's own sockets. Raises PilusError."""
        return ports.reserve(first, last, ledger=self._ledger)

    @_or_else("make the node's router link")
    def ensure_router(self, addresses: Iterable[Address], mtu: int) -> int:
        """The permanent link that holds the node's addresses out of its pod ranges. Returns its index."""
        if not self._router_is_whole():
            for name in (ROUTER_LINK, ROUTER_PEER):
                self.delete(name)
            self._ip.link("add", ifname=ROUTER_LINK, kind="veth", mtu=mtu, peer={"ifname": ROUTER_PEER, "mtu": mtu})
        for name in (ROUTER_LINK, ROUTER_PEER):
            self._settle(name, mtu)
        index = self.index(ROUTER_LINK)
        self._addresses(index, set(addresses))
        return index

    def _router_is_whole(self) -> bool:
        index, peer = self.index(ROUTER_LINK), self.index(ROUTER_PEER)
        if not index or not peer:
            return False
        held = self._ip.link("get", index=index)[0]
        return bool(_kind(held) == "veth" and held.get("IFLA_LINK") == peer)

    def _settle(self, name: str, mtu: int) -> None:
        # The MTU first: below 1280 a link has no IPv6, and nothing there to harden.
        self._ip.link("set", index=self.index(name), mtu=mtu)
        harden(name)
        self._ip.link("set", index=self.index(name), state="up", arp=False)

    def _addresses(self, index: int, wanted: set[Address]) -> None:
        """Exactly these, each alone: a longer network would bring a route."""
        hosts = {(str(address), address.max_prefixlen): address for address in wanted}
        held = {
            (str(found.get("IFA_ADDRESS")), int(found["prefixlen"]))
            for found in self._ip.get_addr(index=index)
            if found["scope"] != _LINK_LOCAL  # the kernel's own
        }
        for text, length in held - hosts.keys():
            self._ip.addr("del", index=index, address=text, prefixlen=length)
        for text, length in hosts.keys() - held:
            flags = {"flags": _NO_DAD} if hosts[text, length].version == 6 else {}
            self._ip.addr("add", index=index, address=text, prefixlen=length, **flags)

    @_or_else("make the tunnel link")
    def ensure_tunnel(self, port: int, mtu: int) -> int:
        """The tunnel link; its number and its far end come with each packet. Returns its index."""
        if self.index(TUNNEL_LINK) and not self._tunnel_is(port):
            self.delete(TUNNEL_LINK)
        if not self.index(TUNNEL_LINK):
            self._ip.link("add", ifname=TUNNEL_LINK, kind="vxlan", mtu=mtu, vxlan_collect_metadata=True, vxlan_port=port,
                          vxlan_learning=False)  # fmt: skip
        self._settle(TUNNEL_LINK, mtu)
        return self.index(TUNNEL_LINK)

    def _tunnel_is(self, port: int) -> bool:
        held = self._ip.link("get", index=self.index(TUNNEL_LINK))[0]
        if _kind(held) != "vxlan":
            return False
        data = held.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        return (data.get("IFLA_VXLAN_PORT"), data.get("IFLA_VXLAN_COLLECT_METADATA")) == (port, 1)

    @_or_else("set the routes behind a link")
    def ensure_routes(self, index: int, ranges: Iterable[Network], source: dict[int, Address]) -> None:
        """Exactly these ranges are behind the link; `source` by IP version is what this host itself sends from."""
        wanted = {str(network): network for network in ranges}
        for family, everything in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104  # not bound to
            for route in self._ip.get_routes(family=family, oif=index, table=254):
                text = f"{route.get('RTA_DST') or everything}/{route['dst_len']}"
                if route["proto"] != _KERNELS_OWN and text not in wanted:
                    self._ip.route("del", dst=text, oif=index, family=family)
        for text, network in wanted.items():
            more = {"prefsrc": str(source[network.version])} if network.version in source else {}
            self._ip.route("replace", dst=text, oif=index, family=_family(network), **more)

    @_or_else("set the routes to other nodes' pods")
    def ensure_direct_routes(self, index: int, wanted: Mapping[Network, Address]) -> None:
        """Exactly these ranges by these nodes' addresses, among what else a link has; only routes that bear our mark are removed.
        Raises LinkError, also where a node is not on the link: then somebody else has to route to it."""
        gateways = {str(network): (network, str(gateway)) for network, gateway in wanted.items()}
        held = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            for route in self._ip.get_routes(family=family, oif=index, table=254):
                text = f"{route.get('RTA_DST')}/{route['dst_len']}"
                if route["proto"] != ROUTE_PROTOCOL:
                    continue
                if text not in gateways:
                    self._ip.route("del", dst=text, oif=index, family=family, proto=ROUTE_PROTOCOL)
                elif route.get("RTA_GATEWAY") == gateways[text][1]:
                    held.add(text)
        for text, (network, gateway) in gateways.items():
            if text not in held:
                self._ip.route("replace", dst=text, gateway=gateway, oif=index, family=_family(network), proto=ROUTE_PROTOCOL)

    # -- pods ------------------------------------------------------------------------------------------------------------

    @_or_else("make the link of a pod")
    def create_pod_link(self, name: str, container: str, netns: int, inside: str, macs: tuple[str, str], mtu: int) -> int:
        """A veth whose other end is born in the pod's namespace (moving it later costs 18 ms). `macs`: host's, pod's. The host's
        side stays down. Returns its index; raises LinkError."""
        self._ip.link("add", ifname=name, kind="veth", mtu=mtu, address=macs[0],
                      peer={"ifname": inside, "net_ns_fd": netns, "address": macs[1], "mtu": mtu})  # fmt: skip
        index = self.index(name)
        self._ip.link("set", index=index, ifalias=ALIAS + container)
        harden(name)
        return index

    @_or_else("configure the link in a pod")
    def configure_pod(self, netns: int, inside: str, addresses: Iterable[Address], routers: dict[int, Address]) -> None:
        """Inside the pod: addresses, the gateway of each family, link and loopback up."""
        with _within(netns) as ip:
            found = ip.link_lookup(ifname=inside)
            if not found:
                raise LinkError(f"the pod has no interface {inside}: did something in it remove it?")
            index = int(found[0])
            ip.link("set", index=ip.link_lookup(ifname="lo")[0], state="up")
            ip.link("set", index=index, state="up")
            for address in addresses:
                router = routers[address.version]
                flags = {"flags": _NO_DAD} if address.version == 6 else {}
                with _suppress(errno.EEXIST):
                    ip.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen, **flags)
                scope = {"scope": "link"} if address.version == 4 else {}
                ip.route("replace", dst=f"{router}/{router.max_prefixlen}", oif=index, family=_family(router), **scope)
                default = "0.0.0.0/0" if address.version == 4 else "::/0"
                ip.route("replace", dst=default, gateway=str(router), oif=index, family=_family(router))

    @_or_else("connect a pod")
    def connect_pod(self, ifindex: int, mac: str, addresses: Iterable[Address], routers: dict[int, Address]) -> None:
        """The host's side: up, with a route and a permanent neighbour entry for each address (a resolved one would age)."""
        self._ip.link("set", index=ifindex, state="up")
        for address in addresses:
            family = _family(address)
            self._ip.neigh("replace", dst=str(address), lladdr=mac, ifindex=ifindex, family=family, state=_PERMANENT)
            source = {"prefsrc": str(routers[address.version])} if address.version in routers else {}
            scope = {"scope": "link"} if address.version == 4 else {}
            self._ip.route("replace", dst=f"{address}/{address.max_prefixlen}", oif=ifindex, family=family, **scope, **source)

    @_or_else("delete a link")
    def delete(self, name: str) -> bool:
        """Whether it was there."""
        index = self.index(name)
        if index:
            with _suppress(errno.ENODEV):  # gone meanwhile, with the pod's namespace
                self._ip.link("del", index=index)
        return bool(index)

    @_or_else("set a link down")
    def set_down(self, name: str) -> None:
        index = self.index(name)
        if index:
            with _suppress(errno.ENODEV):
                self._ip.link("set", index=index, state="down")

    # -- filters ---------------------------------------------------------------------------------------------------------

    @_or_else("attach programs to a link")
    def attach(self, ifindex: int, ingress: tuple[str, int], egress: tuple[str, int], *, priority: int = 1) -> None:
        """Both programs, each a name and a descriptor, on clsact, in place of what was there under our handle. Filters of other
        priorities stay."""
        if not self._has_clsact(ifindex):
            name = str(self._ip.link("get", index=ifindex)[0].get("IFLA_IFNAME"))
            if not name.startswith(OURS):
                self._ledger.clsact(name)
            with _suppress(errno.EEXIST):
                self._ip.tc("add", "clsact", ifindex)
        for parent, (name, fd) in ((_INGRESS, ingress), (_EGRESS, egress)):
            self._ip.tc("replace-filter", "bpf", ifindex, parent=parent, fd=fd, name=name, direct_action=True,
                        prio=priority, handle=1)  # fmt: skip

    def _has_clsact(self, ifindex: int) -> bool:
        return any(one.get("TCA_KIND") == "clsact" for one in self._ip.get_qdiscs(index=ifindex))

    def attached(self, ifindex: int, *, priority: int = 1) -> dict[str, str]:
        """The filters' names by where they are: {"ingress": name, "egress": name}; only what is there under our handle."""
        found = {}
        for side, parent in (("ingress", 0xFFFFFFF2), ("egress", 0xFFFFFFF3)):
            try:
                filters = self._ip.get_filters(index=ifindex, parent=parent)
            except NetlinkError:
                continue
            for one in filters:
                options: Any = one.get("TCA_OPTIONS")
                name = options.get("TCA_BPF_NAME") if options else None
                if name and one["handle"] == 1 and one["info"] >> 16 == priority:
                    found[side] = str(name)
        return found

    def filter_names(self) -> set[str]:
        """Of every eBPF filter on any link of this node, whoever attached it."""
        found = set()
        for link in self._ip.get_links():
            for parent in (0xFFFFFFF2, 0xFFFFFFF3):
                with suppress(NetlinkError):  # a link without clsact, or one that has gone
                    for one in self._ip.get_filters(index=int(link["index"]), parent=parent):
                        options: Any = one.get("TCA_OPTIONS")
                        name = options.get("TCA_BPF_NAME") if options else None
                        if name:
                            found.add(str(name))
        return found


def _kind(link: Any) -> str:
    info = link.get("IFLA_LINKINFO")
    return str(info.get("IFLA_INFO_KIND")) if info else ""


@contextmanager
def _suppress(number: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != number:
            raise


@contextmanager
def _within(netns: int) -> Iterator[IPRoute]:
    """A socket in another network namespace. A socket keeps the namespace it was made in, so the thread leaves at once."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(netns)
        try:
            ip = IPRoute()
        finally:
            _setns(own)
    finally:
        os.close(own)
    try:
        yield ip
    finally:
        ip.close()


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise LinkError(f"can't enter the pod's network namespace: {os.strerror(ctypes.get_errno())}")
