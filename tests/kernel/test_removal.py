"""What is ours goes, known by its mark; what is somebody else's stays as it was."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pyroute2 import IPRoute
from tests.loaded import loaded
from tests.threads import in_own_namespace

from pilus_agent.datapath.changes import NAME, Ledger
from pilus_agent.datapath.links import Netlink
from pilus_agent.datapath.node import NodePlan, audit, ensure_node
from pilus_agent.datapath.removal import Removal
from pilus_cli.main import cli
from pilus_maps import Datapath

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

_RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
_PODS = ip_network("10.0.2.0/24")
_THERE = {
    "link plx0001", "link pilus_host", "link pilus_net", "clsact on eth0", "reserved ports 61000-65535", "/run/pilus",
    "/var/lib/pilus", "/opt/cni/bin/pilus-cni", "/etc/cni/net.d/05-pilus.conflist", "/sys/fs/bpf/pilus",
}  # fmt: skip


@pytest.fixture(scope="module")
def datapath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    with loaded("removal", tmp_path_factory.mktemp("datapath"), {}) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node's file system, as far as we touch it."""
    for folder in ("run/pilus/endpoints", "var/lib/pilus/cache", "opt/cni/bin", "etc/cni/net.d", "sys/fs/bpf/pilus/maps"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("opt/cni/bin/pilus-cni", "etc/cni/net.d/05-pilus.conflist", "etc/cni/net.d/.05-pilus.conflist.draft",
                 "opt/cni/bin/bridge", "etc/cni/net.d/10-other.conflist", "run/pilus/datapath.json"):  # fmt: skip
        (tmp_path / file).write_text("x")
    (tmp_path / "proc").symlink_to("/proc")
    return tmp_path


def in_a_node(test: Callable[[IPRoute, int], None]) -> None:
    """In a network namespace with an uplink, whose automatic ports meet those of masquerading; all ends with the thread."""

    def run() -> None:
        with IPRoute() as look:
            look.link("add", ifname="eth0", kind="veth", peer={"ifname": "other"})
            for name in ("lo", "other", "eth0"):
                look.link("set", index=look.link_lookup(ifname=name)[0], state="up")
            eth = int(look.link_lookup(ifname="eth0")[0])
            look.addr("add", index=eth, address="192.0.2.1", prefixlen=24)
            Path("/proc/thread-self/root/proc/sys/net/ipv4/ip_local_port_range").write_text("32768 65000")
            test(look, eth)

    in_own_namespace(run)


def made(datapath: Datapath, root: Path, **changed: Any) -> None:
    """A node as the agent makes it, with a pod's link."""
    held: dict[str, Any] = {
        "underlay": ip_address("192.0.2.1"), "routers": (ip_address("10.0.1.1"),), "remote": (_PODS,), "tunnel": True,
        "tunnel_port": 8472, "mtu": 0, "nat_ports": (61000, 65535),
    }  # fmt: skip
    netlink = Netlink(Ledger(root / "var/lib/pilus" / NAME))
    try:
        links = ensure_node(netlink, NodePlan(**(held | changed)))
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        netlink.create_pod_link("plx0001", "container/eth0", own, "inside", ("02:00:00:00:00:01", "02:00:00:00:00:02"), 1400)
        os.close(own)
        audit(netlink, datapath, links.uplink_ifindex)
    finally:
        netlink.close()


def seen(look: IPRoute) -> dict[str, list[str]]:
    links = {str(link.get("IFLA_IFNAME")): int(link["index"]) for link in look.get_links()}
    found: dict[str, list[str]] = {"links": sorted(links), "qdiscs": [], "filters": [], "reserved": [_RESERVED.read_text().strip()]}
    for name, index in links.items():
        found["qdiscs"] += [f"{name} {one.get('TCA_KIND')}" for one in look.get_qdiscs(index=index)]
        for parent in (0xFFFFFFF2, 0xFFFFFFF3):
            if f"{name} clsact" in found["qdiscs"]:
                found["filters"] += [
                    f"{name} {one['info']} {one['handle']}" for one in look.get_filters(index=index, parent=parent)
                ]
    found["routes"] = sorted(
        f"{one.get('RTA_DST')}/{one['dst_len']} {one['proto']} {one.get('RTA_OIF')}"
        for family in (socket.AF_INET, socket.AF_INET6)
        for one in look.get_routes(family=family)
        if family == socket.AF_INET or one["proto"] != 2  # an IPv6 link gets the kernel's own by and by
    )
    return {what: sorted(lines) for what, lines in found.items()}


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "direct routes"])
def test_a_node_is_as_it_was_and_so_is_what_others_have_on_it(datapath: Datapath, root: Path, tunnel: bool) -> None:
    def test(look: IPRoute, eth: int) -> None:
        # Others' things, some of them under names and numbers like ours.
        look.link("add", ifname="plxtheirs", kind="veth", peer={"ifname": "theirs"})
        look.route("add", dst="198.51.100.0/24", gateway="192.0.2.9", oif=eth, proto=4)
        other = int(look.link_lookup(ifname="other")[0])
        look.tc("add", "clsact", other)
        foreign = datapath.program("overlay_to").fd
        look.tc("add-filter", "bpf", other, parent="ffff:fff2", fd=foreign, name="theirs", direct_action=True, prio=20, handle=1)
        _RESERVED.write_text("8080")
        before = seen(look)
        direct = () if tunnel else ((_PODS, ip_address("192.0.2.2")),)
        made(datapath, root, tunnel=tunnel, direct=direct)
        with Removal(root) as removal:
            there = removal.found()
            wanted = _THERE | ({"link pilus_vxlan"} if tunnel else {f"route to {_PODS} on link {eth}"})
            assert set(there) >= wanted
            assert sum(line.startswith("filter uplink_") for line in there) == 2
            assert removal.remove() == there
            assert removal.found() == []
            assert removal.remove() == [], "again, and nothing is wrong with that"
        assert seen(look) == before
        left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "proc" not in path.parts)
        assert left == ["etc/cni/net.d/10-other.conflist", "opt/cni/bin/bridge"]

    in_a_node(test)


def test_a_clsact_that_others_use_by_now_or_had_before_stays(datapath: Datapath, root: Path) -> None:
    def test(look: IPRoute, eth: int) -> None:
        made(datapath, root)
        foreign = datapath.program("overlay_to").fd
        look.tc("add-filter", "bpf", eth, parent="ffff:fff3", fd=foreign, name="theirs", direct_action=True, prio=1, handle=1)
        with Removal(root) as removal:
            removal.remove()
            assert removal.found() == []
        assert [line for line in seen(look)["filters"] if line.startswith("eth0")] != []

    in_a_node(test)


def test_nothing_is_taken_from_under_processes_that_run(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(root / "run/pilus/agent.sock"))
        agent.listen()
        done = CliRunner().invoke(cli, ["uninstall", f"--root={root}", "--yes"])
    assert done.exit_code == 1
    assert "the agent still runs" in done.output
    assert (root / "run/pilus/datapath.json").exists()


def test_check_tells_by_its_status(root: Path) -> None:
    def test(look: IPRoute, eth: int) -> None:
        found = CliRunner().invoke(cli, ["-o", "json", "uninstall", "--check", f"--root={root}"])
        assert found.exit_code == 1
        assert "/run/pilus" in json.loads(found.output)["left"]
        assert CliRunner().invoke(cli, ["uninstall", f"--root={root}", "--yes"]).exit_code == 0
        clean = CliRunner().invoke(cli, ["-o", "json", "uninstall", "--check", f"--root={root}"])
        assert (clean.exit_code, json.loads(clean.output)) == (0, {"clean": True, "left": []})

    in_a_node(test)
