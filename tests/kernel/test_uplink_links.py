"""The uplink as the agent keeps it: our filters beside others', the routes to other nodes' pods, the ports of masquerading."""

import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute
from tests.loaded import loaded
from tests.threads import in_own_namespace

from pilus_agent.datapath.links import ROUTER_LINK, TUNNEL_LINK, LinkError, Netlink
from pilus_agent.datapath.node import NodePlan, audit, ensure_node
from pilus_agent.facts import Address, Network
from pilus_maps import Datapath

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FAR: dict[Network, Address] = {
    ip_network("10.0.2.0/24"): ip_address("192.0.2.2"),
    ip_network("fd00:2::/64"): ip_address("2001:db8::2"),
}
PROGRAMS = {"ingress": "uplink_from", "egress": "uplink_to"}


@pytest.fixture(scope="module")
def datapath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    with loaded("uplink", tmp_path_factory.mktemp("datapath"), {}) as made:
        yield made


def in_a_node(test: Callable[[Netlink, IPRoute, int], None]) -> None:
    """In a network namespace with an uplink; both end with the thread."""

    def run() -> None:
        netlink, look = Netlink(), IPRoute()
        try:
            look.link("add", ifname="eth0", kind="veth", peer={"ifname": "other"})
            for name in ("lo", "other", "eth0"):
                look.link("set", index=look.link_lookup(ifname=name)[0], state="up")
            eth = int(look.link_lookup(ifname="eth0")[0])
            look.addr("add", index=eth, address="192.0.2.1", prefixlen=24)
            look.addr("add", index=eth, address="2001:db8::1", prefixlen=64, flags=0x02)
            test(netlink, look, eth)
        finally:
            netlink.close()
            look.close()

    in_own_namespace(run)


def plan(**changed: Any) -> NodePlan:
    held: dict[str, Any] = {
        "underlay": ip_address("192.0.2.1"), "routers": (ip_address("10.0.1.1"), ip_address("fd00:1::1")), "remote": tuple(FAR),
        "tunnel": True, "tunnel_port": 8472, "mtu": 0, "nat_ports": (61000, 65535),
    }  # fmt: skip
    return NodePlan(**(held | changed))


def filters(look: IPRoute, index: int) -> list[tuple[int, int, str]]:
    """(priority, handle, name) of each, both sides."""
    found = []
    for parent in (0xFFFFFFF2, 0xFFFFFFF3):
        for one in look.get_filters(index=index, parent=parent):
            options: Any = one.get("TCA_OPTIONS")
            if options and options.get("TCA_BPF_NAME"):
                found.append((one["info"] >> 16, one["handle"], str(options.get("TCA_BPF_NAME"))))
    return found


def routes(look: IPRoute, index: int) -> dict[str, str | None]:
    found = {}
    for family in (2, 10):
        for one in look.get_routes(family=family, table=254):
            if one.get("RTA_OIF") == index and one["proto"] != 2:
                found[f"{one.get('RTA_DST')}/{one['dst_len']}"] = one.get("RTA_GATEWAY")
    return found


def test_filters_of_others_stay(datapath: Datapath) -> None:
    """Ours come beside them, are not made twice, and come back when somebody takes them away."""

    def test(netlink: Netlink, look: IPRoute, eth: int) -> None:
        look.tc("add", "clsact", eth)
        theirs = datapath.program("overlay_to")
        look.tc("add-filter", "bpf", eth, parent="ffff:fff2", fd=theirs.fd, name="theirs", direct_action=True, prio=1, handle=1)
        made = ensure_node(netlink, plan())
        assert (made.uplink_ifindex, made.uplink_mtu, made.pod_mtu) == (eth, 1500, 1450)
        assert filters(look, eth) == [(1, 1, "theirs")], "programs come when their tables are filled"
        assert audit(netlink, datapath, eth) == [TUNNEL_LINK, "uplink"]
        ours = [(20, 1, f"{name}-{datapath.hash}") for name in PROGRAMS.values()]
        assert sorted(filters(look, eth)) == sorted([(1, 1, "theirs"), *ours])
        assert ensure_node(netlink, plan()) == made
        assert len(filters(look, eth)) == 3
        assert audit(netlink, datapath, eth) == []
        look.tc("del-filter", "bpf", eth, parent="ffff:fff2", prio=20, handle=1)
        assert len(filters(look, eth)) == 2
        assert audit(netlink, datapath, eth) == ["uplink"]
        assert sorted(filters(look, eth)) == sorted([(1, 1, "theirs"), *ours])
        look.tc("del", "clsact", eth)
        assert audit(netlink, datapath, eth) == ["uplink"]
        assert sorted(filters(look, eth)) == sorted(ours)

    in_a_node(test)


def test_an_older_loads_filters_are_replaced(datapath: Datapath) -> None:
    def test(netlink: Netlink, look: IPRoute, eth: int) -> None:
        old = [(f"{name}-0000", datapath.program(name).fd) for name in PROGRAMS.values()]
        netlink.attach(eth, old[0], old[1], priority=20)
        assert audit(netlink, datapath, eth) == ["uplink"]
        assert sorted(filters(look, eth)) == sorted((20, 1, f"{name}-{datapath.hash}") for name in PROGRAMS.values())

    in_a_node(test)


def test_routes_to_other_nodes_pods() -> None:
    """Exactly those wanted, each by its node; what somebody else has routed by the link stays."""

    def test(netlink: Netlink, look: IPRoute, eth: int) -> None:
        look.route("add", dst="203.0.113.0/24", gateway="192.0.2.9", oif=eth)
        others = {"203.0.113.0/24": "192.0.2.9"}
        wanted = {str(network): str(gateway) for network, gateway in FAR.items()}
        for _ in range(2):
            netlink.ensure_direct_routes(eth, FAR)
            assert routes(look, eth) == others | wanted
        moved = {ip_network("10.0.2.0/24"): ip_address("192.0.2.3"), ip_network("10.0.3.0/24"): ip_address("192.0.2.3")}
        netlink.ensure_direct_routes(eth, moved)
        assert routes(look, eth) == others | {"10.0.2.0/24": "192.0.2.3", "10.0.3.0/24": "192.0.2.3"}
        look.route("del", dst="10.0.3.0/24", oif=eth)
        netlink.ensure_direct_routes(eth, moved)
        assert routes(look, eth) == others | {"10.0.2.0/24": "192.0.2.3", "10.0.3.0/24": "192.0.2.3"}
        netlink.ensure_direct_routes(eth, {})
        assert routes(look, eth) == others

    in_a_node(test)


def test_a_node_that_is_not_on_the_link() -> None:
    def test(netlink: Netlink, look: IPRoute, eth: int) -> None:
        with pytest.raises(LinkError, match="routes to other nodes"):
            netlink.ensure_direct_routes(eth, {ip_network("10.0.2.0/24"): ip_address("198.51.100.1")})

    in_a_node(test)


def test_from_a_tunnel_to_direct_and_back() -> None:
    """Each mode leaves its own routes alone behind."""

    def test(netlink: Netlink, look: IPRoute, eth: int) -> None:
        direct = {str(network): str(gateway) for network, gateway in FAR.items()}
        for _ in range(2):
            ensure_node(netlink, plan())
            assert (routes(look, eth), routes(look, netlink.index(TUNNEL_LINK))) == ({}, dict.fromkeys(direct))
            made = ensure_node(netlink, plan(tunnel=False, direct=tuple(FAR.items())))
            assert (made.tunnel_ifindex, made.pod_mtu) == (0, 1500)
            assert routes(look, eth) == direct
            assert not netlink.index(TUNNEL_LINK)
        assert netlink.index(ROUTER_LINK)

    in_a_node(test)


def test_ports_the_host_could_choose_are_kept_from_it() -> None:
    def test(netlink: Netlink, look: IPRoute, eth: int) -> None:
        sysctls = Path("/proc/sys/net/ipv4")
        reserved = sysctls / "ip_local_reserved_ports"
        assert not netlink.reserve_ports(61000, 65535)
        assert reserved.read_text().strip() == ""
        (sysctls / "ip_local_port_range").write_text("32768 62000")
        reserved.write_text("8080,9000-9010")
        assert netlink.reserve_ports(61000, 65535)
        assert reserved.read_text().strip() == "8080,9000-9010,61000-65535"
        assert not netlink.reserve_ports(61000, 65535)

    in_a_node(test)
