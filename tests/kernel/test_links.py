"""Links, addresses and routes, each test in a network namespace of its own that ends with the test's thread."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from tests.packets.harness import netns
from tests.threads import in_own_namespace

from pilus_agent.datapath.links import ALIAS, ROUTER_LINK, ROUTER_PEER, TUNNEL_LINK, LinkError, Netlink
from pilus_agent.facts import Address

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
ROUTERS: dict[int, Address] = {4: ip_address("10.0.1.1"), 6: ip_address("fd00::1")}
POD: tuple[Address, ...] = (ip_address("10.0.1.5"), ip_address("fd00::5"))


def alone(test: Callable[[Netlink, IPRoute], None]) -> Callable[[], None]:
    """Gives the test what it tests and an independent look at the same namespace."""

    @functools.wraps(test)
    def outer() -> None:
        def run() -> None:
            netlink, look = Netlink(), IPRoute()
            try:
                look.link("set", index=look.link_lookup(ifname="lo")[0], state="up")
                test(netlink, look)
            finally:
                netlink.close()
                look.close()

        in_own_namespace(run)

    del outer.__wrapped__  # or pytest takes its parameters for fixtures
    return outer


@contextmanager
def pod_namespace() -> Iterator[int]:
    opened: list[int] = []
    in_own_namespace(lambda: opened.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY)))
    try:
        yield opened[0]
    finally:
        os.close(opened[0])


def inside(namespace: int, run: Callable[[IPRoute], None]) -> None:
    with netns.inside(namespace), IPRoute() as look:
        run(look)


def link(look: IPRoute, name: str) -> Any:
    (found,) = look.get_links(ifname=name)
    return found


def addresses(look: IPRoute, index: int) -> set[str]:
    held = look.get_addr(index=index)
    return {f"{one.get('IFA_ADDRESS')}/{one['prefixlen']}" for one in held if one["scope"] != 253}


def routes(look: IPRoute, index: int) -> dict[str, tuple[str | None, str | None]]:
    """By destination: gateway and preferred source, of the main table and without the kernel's own for link-local."""
    found = {}
    for family, default in ((2, "0.0.0.0"), (10, "::")):
        for one in look.get_routes(family=family, table=254):
            to = f"{one.get('RTA_DST') or default}/{one['dst_len']}"
            if one.get("RTA_OIF") == index and not to.startswith(("fe80:", "ff00:")):
                assert to not in found
                found[to] = (one.get("RTA_GATEWAY"), one.get("RTA_PREFSRC"))
    return found


def sysctl(name: str, family: str, setting: str) -> str:
    return Path(f"/proc/sys/net/{family}/conf/{name}/{setting}").read_text().strip()


def assert_hardened(name: str) -> None:
    for setting in ("forwarding", "rp_filter", "proxy_arp", "accept_redirects", "send_redirects"):
        assert sysctl(name, "ipv4", setting) == "0", setting
    for setting, value in (("forwarding", "0"), ("accept_ra", "0"), ("accept_redirects", "0"), ("addr_gen_mode", "1")):
        assert sysctl(name, "ipv6", setting) == value, setting


def soften(name: str) -> None:
    for setting in ("forwarding", "proxy_arp", "accept_redirects"):
        Path(f"/proc/sys/net/ipv4/conf/{name}/{setting}").write_text("1")
    with suppress(FileNotFoundError):  # a link with an MTU below 1280 has none
        Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra").write_text("2")


# -- pods ----------------------------------------------------------------------------------------------------------------------


@alone
def test_a_pod_from_nothing_to_connected(netlink: Netlink, look: IPRoute) -> None:
    netlink.ensure_router(ROUTERS.values(), 1450)
    with pod_namespace() as netns:
        index = netlink.create_pod_link("plx1", "0f9a/eth0", netns, "eth0", MACS, 1450)
        host = link(look, "plx1")
        assert (host["index"], host.get("IFLA_MTU"), host.get("IFLA_ADDRESS")) == (index, 1450, MACS[0])
        assert host.get("IFLA_IFALIAS") == f"{ALIAS}0f9a/eth0"
        assert host["state"] == "down"
        assert_hardened("plx1")

        for _ in range(2):  # idempotent
            netlink.configure_pod(netns, "eth0", POD, ROUTERS)
            netlink.connect_pod(index, MACS[1], POD, ROUTERS)

        assert link(look, "plx1")["state"] == "up"
        assert addresses(look, index) == set()
        assert not look.get_addr(index=index)  # no link-local one either
        assert routes(look, index) == {"10.0.1.5/32": (None, "10.0.1.1"), "fd00::5/128": (None, "fd00::1")}
        neighbours = {
            one.get("NDA_DST"): (one.get("NDA_LLADDR"), one["state"])
            for family in (2, 10)
            for one in look.get_neighbours(family=family, ifindex=index)
            if one["state"] & 0x80
        }
        assert neighbours == {"10.0.1.5": (MACS[1], 0x80), "fd00::5": (MACS[1], 0x80)}
        assert [(one.name, one.ifindex, one.mac, one.container) for one in netlink.pod_links()] == [
            ("plx1", index, MACS[0], "0f9a/eth0")
        ]
        assert (netlink.index("plx1"), netlink.mac(index), netlink.mtu(index)) == (index, MACS[0], 1450)

        def check(pod: IPRoute) -> None:
            eth0 = link(pod, "eth0")
            assert (eth0.get("IFLA_ADDRESS"), eth0.get("IFLA_MTU"), eth0["state"]) == (MACS[1], 1450, "up")
            assert link(pod, "lo")["state"] == "up"
            assert addresses(pod, eth0["index"]) == {"10.0.1.5/32", "fd00::5/128"}
            (six,) = [one for one in pod.get_addr(index=eth0["index"], family=10) if one["scope"] == 0]
            assert six["flags"] & 0x40 == 0  # usable at once: not tentative
            assert routes(pod, eth0["index"]) == {
                "10.0.1.1/32": (None, None),
                "0.0.0.0/0": ("10.0.1.1", None),
                "fd00::1/128": (None, None),
                "fd00::5/128": (None, None),  # the kernel's own
                "::/0": ("fd00::1", None),
            }

        inside(netns, check)


@alone
def test_one_family(netlink: Netlink, look: IPRoute) -> None:
    with pod_namespace() as netns:
        index = netlink.create_pod_link("plx1", "a/eth0", netns, "eth0", MACS, 1500)
        netlink.configure_pod(netns, "eth0", POD[1:], ROUTERS)
        netlink.connect_pod(index, MACS[1], POD[1:], {})
        assert routes(look, index) == {"fd00::5/128": (None, None)}


@alone
def test_a_link_that_cant_be_made(netlink: Netlink, look: IPRoute) -> None:
    with pod_namespace() as netns:
        netlink.create_pod_link("plx1", "a/eth0", netns, "eth0", MACS, 1500)
        for name, interface in (("plx1", "eth1"), ("plx2", "eth0")):
            with pytest.raises(LinkError, match=rf"can't make the link of a pod \({name}\): File exists"):
                netlink.create_pod_link(name, "b/eth0", netns, interface, MACS, 1500)
        assert netlink.index("plx2") == 0
        assert [one.container for one in netlink.pod_links()] == ["a/eth0"]
    with Path("/dev/null").open() as other, pytest.raises(LinkError):
        netlink.create_pod_link("plx3", "c/eth0", other.fileno(), "eth0", MACS, 1500)
    with Path("/dev/null").open() as other, pytest.raises(LinkError, match="namespace"):
        netlink.configure_pod(other.fileno(), "eth0", POD, ROUTERS)


@alone
def test_an_interface_that_is_gone(netlink: Netlink, look: IPRoute) -> None:
    with pod_namespace() as netns, pytest.raises(LinkError):
        netlink.configure_pod(netns, "eth0", POD, ROUTERS)
    with pytest.raises(LinkError):
        netlink.connect_pod(4711, MACS[1], POD, {})
    with pytest.raises(LinkError):
        netlink.mac(4711)


@alone
def test_the_thread_stays_where_it_was(netlink: Netlink, look: IPRoute) -> None:
    before = Path("/proc/thread-self/ns/net").readlink()
    with pod_namespace() as netns:
        netlink.create_pod_link("plx1", "a/eth0", netns, "eth0", MACS, 1500)
        netlink.configure_pod(netns, "eth0", POD, ROUTERS)
        with pytest.raises(LinkError):
            netlink.configure_pod(netns, "eth9", POD, ROUTERS)
    assert Path("/proc/thread-self/ns/net").readlink() == before
    assert netlink.index("eth0") == 0


@alone
def test_only_links_of_ours_are_pods(netlink: Netlink, look: IPRoute) -> None:
    look.link("add", ifname="plx7", kind="veth", peer={"ifname": "other"})
    look.link("set", index=look.link_lookup(ifname="other")[0], ifalias=f"{ALIAS}a/eth0")
    assert netlink.pod_links() == []


@alone
def test_delete(netlink: Netlink, look: IPRoute) -> None:
    with pod_namespace() as netns:
        netlink.create_pod_link("plx1", "a/eth0", netns, "eth0", MACS, 1500)
        assert netlink.delete("plx1")
        assert not netlink.delete("plx1")
        assert not netlink.delete("never")
        assert netlink.index("plx1") == 0
        inside(netns, lambda pod: _absent(pod, "eth0"))
    netlink.set_down("never")


def _absent(look: IPRoute, name: str) -> None:
    assert not look.link_lookup(ifname=name)


@alone
def test_set_down(netlink: Netlink, look: IPRoute) -> None:
    look.link("add", ifname="plx1", kind="veth", peer={"ifname": "other"})
    look.link("set", index=look.link_lookup(ifname="plx1")[0], state="up")
    netlink.set_down("plx1")
    assert link(look, "plx1")["state"] == "down"


# -- the node's own ------------------------------------------------------------------------------------------------------------


@alone
def test_router(netlink: Netlink, look: IPRoute) -> None:
    index = netlink.ensure_router(ROUTERS.values(), 1450)
    for _ in range(2):
        for name in (ROUTER_LINK, ROUTER_PEER):
            found = link(look, name)
            assert (found["state"], found.get("IFLA_MTU")) == ("up", 1450)
            assert found["flags"] & 0x80  # IFF_NOARP
            assert_hardened(name)
        assert addresses(look, index) == {"10.0.1.1/32", "fd00::1/128"}
        assert netlink.ensure_router(ROUTERS.values(), 1450) == index
    assert netlink.uplink_of(ip_address("10.0.1.1")) == netlink.uplink_of(ip_address("fd00::1")) == index
    with pytest.raises(LinkError, match="no link of this node"):
        netlink.uplink_of(ip_address("10.0.1.2"))


def _tamper_addresses(look: IPRoute, index: int) -> None:
    look.addr("del", index=index, address="10.0.1.1", prefixlen=32)
    look.addr("add", index=index, address="10.9.0.1", prefixlen=24)
    look.addr("add", index=index, address="fd09::1", prefixlen=64)


def _tamper_length(look: IPRoute, index: int) -> None:
    look.addr("del", index=index, address="10.0.1.1", prefixlen=32)
    look.addr("add", index=index, address="10.0.1.1", prefixlen=24)
    look.addr("del", index=index, address="fd00::1", prefixlen=128)
    look.addr("add", index=index, address="fd00::1", prefixlen=64)


def _tamper_twice(look: IPRoute, index: int) -> None:
    look.addr("add", index=index, address="10.0.1.1", prefixlen=24)


def _tamper_links(look: IPRoute, index: int) -> None:
    look.link("set", index=index, mtu=1000, state="down", arp=True)
    look.link("set", index=look.link_lookup(ifname=ROUTER_PEER)[0], mtu=9000, state="down", arp=True)
    soften(ROUTER_LINK)
    soften(ROUTER_PEER)


def _tamper_remove(look: IPRoute, index: int) -> None:
    look.link("del", index=index)


def _tamper_kind(look: IPRoute, index: int) -> None:
    look.link("del", index=index)
    look.link("add", ifname=ROUTER_LINK, kind="vxlan", vxlan_id=7)


def _tamper_peer(look: IPRoute, index: int) -> None:
    look.link("set", index=look.link_lookup(ifname=ROUTER_PEER)[0], state="down")
    look.link("set", index=look.link_lookup(ifname=ROUTER_PEER)[0], ifname="renamed")


@pytest.mark.parametrize(
    "tamper",
    [_tamper_addresses, _tamper_length, _tamper_twice, _tamper_links, _tamper_remove, _tamper_kind, _tamper_peer],
    ids=lambda tamper: tamper.__name__,
)
def test_router_is_corrected(tamper: Callable[[IPRoute, int], None]) -> None:
    @alone
    def run(netlink: Netlink, look: IPRoute) -> None:
        tamper(look, netlink.ensure_router(ROUTERS.values(), 1450))
        index = netlink.ensure_router(ROUTERS.values(), 1450)
        assert addresses(look, index) == {"10.0.1.1/32", "fd00::1/128"}
        for name in (ROUTER_LINK, ROUTER_PEER):
            found = link(look, name)
            assert (found["state"], found.get("IFLA_MTU")) == ("up", 1450)
            assert found["flags"] & 0x80
            assert found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"
            assert_hardened(name)

    run()


@alone
def test_router_moves_to_other_addresses(netlink: Netlink, look: IPRoute) -> None:
    index = netlink.ensure_router(ROUTERS.values(), 1450)
    netlink.ensure_router([ip_address("10.0.2.1"), ip_address("fd02::1")], 1400)
    assert addresses(look, index) == {"10.0.2.1/32", "fd02::1/128"}
    assert netlink.mtu(index) == 1400


@alone
def test_tunnel(netlink: Netlink, look: IPRoute) -> None:
    index = netlink.ensure_tunnel(8472, 1450)
    assert netlink.ensure_tunnel(8472, 1450) == index
    found = link(look, TUNNEL_LINK)
    data = found.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    assert (data.get("IFLA_VXLAN_PORT"), data.get("IFLA_VXLAN_COLLECT_METADATA")) == (8472, 1)
    assert data.get("IFLA_VXLAN_LEARNING") == 0
    assert (found["state"], found.get("IFLA_MTU")) == ("up", 1450)
    assert_hardened(TUNNEL_LINK)

    look.link("set", index=index, state="down", mtu=1000)
    soften(TUNNEL_LINK)
    assert netlink.ensure_tunnel(8472, 1450) == index
    assert (link(look, TUNNEL_LINK)["state"], netlink.mtu(index)) == ("up", 1450)
    assert_hardened(TUNNEL_LINK)


@alone
def test_tunnel_with_another_port_is_made_anew(netlink: Netlink, look: IPRoute) -> None:
    netlink.ensure_tunnel(8472, 1450)
    netlink.ensure_tunnel(4789, 1450)
    data = link(look, TUNNEL_LINK).get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    assert data.get("IFLA_VXLAN_PORT") == 4789


@pytest.mark.parametrize(
    "other",
    [{"kind": "veth", "peer": {"ifname": "other"}}, {"kind": "vxlan", "vxlan_id": 7, "vxlan_port": 8472}],
    ids=["no tunnel", "with a number of its own"],
)
def test_tunnel_of_another_kind_is_made_anew(other: dict[str, Any]) -> None:
    @alone
    def run(netlink: Netlink, look: IPRoute) -> None:
        look.link("add", ifname=TUNNEL_LINK, **other)
        netlink.ensure_tunnel(8472, 1450)
        data = link(look, TUNNEL_LINK).get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
        assert (data.get("IFLA_VXLAN_PORT"), data.get("IFLA_VXLAN_COLLECT_METADATA")) == (8472, 1)

    run()


RANGES = [ip_network("10.0.2.0/24"), ip_network("10.0.3.0/24"), ip_network("fd02::/64")]
WANTED = {
    "10.0.2.0/24": (None, "10.0.1.1"),
    "10.0.3.0/24": (None, "10.0.1.1"),
    "fd02::/64": (None, "fd00::1"),
}


def _own(found: dict[str, Any]) -> dict[str, Any]:
    """Without the kernel's own for the router's address."""
    return {to: more for to, more in found.items() if to != "fd00::1/128"}


@alone
def test_routes(netlink: Netlink, look: IPRoute) -> None:
    index = netlink.ensure_router(ROUTERS.values(), 1450)
    for _ in range(2):
        netlink.ensure_routes(index, RANGES, ROUTERS)
        assert _own(routes(look, index)) == WANTED
    netlink.ensure_routes(index, RANGES[1:2], {})
    assert _own(routes(look, index)) == {"10.0.3.0/24": (None, None)}
    netlink.ensure_routes(index, [], {})
    assert _own(routes(look, index)) == {}
    assert addresses(look, index) == {"10.0.1.1/32", "fd00::1/128"}


@alone
def test_routes_are_corrected(netlink: Netlink, look: IPRoute) -> None:
    index = netlink.ensure_router(ROUTERS.values(), 1450)
    netlink.ensure_routes(index, RANGES, ROUTERS)
    look.route("del", dst="10.0.2.0/24", oif=index)
    look.route("del", dst="fd02::/64", oif=index, family=10)
    look.route("replace", dst="10.0.3.0/24", oif=index)  # without a source
    look.route("add", dst="10.0.9.0/24", oif=index)
    look.route("add", dst="10.0.10.0/24", oif=index, proto=3)  # as `ip route` does
    look.route("add", dst="fd09::/64", oif=index, family=10)
    look.link("add", ifname="other", kind="veth", peer={"ifname": "more"})
    other = look.link_lookup(ifname="other")[0]
    for name in ("other", "more"):
        look.link("set", index=look.link_lookup(ifname=name)[0], state="up")
    look.route("add", dst="10.0.2.0/24", oif=other)
    look.route("add", dst="192.168.7.0/24", oif=other)
    netlink.ensure_routes(index, RANGES, ROUTERS)
    assert _own(routes(look, index)) == WANTED
    assert routes(look, other) == {"192.168.7.0/24": (None, None)}  # what is not ours stays


@alone
def test_routes_come_back_with_the_link(netlink: Netlink, look: IPRoute) -> None:
    index = netlink.ensure_router(ROUTERS.values(), 1450)
    netlink.ensure_routes(index, RANGES, ROUTERS)
    look.link("set", index=index, state="down")
    netlink.ensure_router(ROUTERS.values(), 1450)
    netlink.ensure_routes(index, RANGES, ROUTERS)
    assert _own(routes(look, index)) == WANTED


@alone
def test_the_default_route_behind_a_link(netlink: Netlink, look: IPRoute) -> None:
    index = netlink.ensure_router(ROUTERS.values(), 1450)
    look.route("add", dst="0.0.0.0/0", oif=index)
    look.route("add", dst="::/0", oif=index, family=10)
    netlink.ensure_routes(index, RANGES, ROUTERS)
    assert _own(routes(look, index)) == WANTED
