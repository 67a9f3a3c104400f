"""Process 1 of a lab: its network namespace is the underlay, its pid namespace holds everything that the lab runs.

In: the lab's record. Out: a bridge with a link to every node, the nodes' first processes, and a socket for orders. When it is
killed, the kernel ends all of it: processes, namespaces, links and mounts.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from pyroute2 import IPRoute

from pilus_lab import cgroups
from pilus_lab.mounts import mount
from pilus_lab.spec import UNDERLAY_IPV4, UNDERLAY_IPV6, Node, Spec
from pilus_lab.supervisor import Supervisor

_BRIDGE = "br0"


def _start_node(spec: Spec, node: Node) -> subprocess.Popen[bytes]:
    """A child that has left every namespace of ours, in its own folder of every cgroup hierarchy."""
    spec.logs.mkdir(parents=True, exist_ok=True)
    with (spec.logs / f"{node.name}-init.log").open("ab") as log:
        return subprocess.Popen(
            [
                "unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child",
                "--mount-proc", sys.executable, "-m", "pilus_lab.node_init", spec.name, str(node.index),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: cgroups.join(spec.cgroups, node.name),  # noqa: PLW1509  # one thread; before unshare
        )  # fmt: skip


def _has_own_network(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino != Path("/proc/self/ns/net").stat().st_ino


def _connect(ip: IPRoute, bridge: int, node: Node, process: subprocess.Popen[bytes]) -> None:
    """Join a node to the bridge: its eth0 is made inside its namespace, since moving a link costs 18 ms more."""
    deadline = time.monotonic() + 10
    while not _has_own_network(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"node {node.name} did not start: see its init log")
        time.sleep(0.002)
    namespace = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
    try:
        link = f"v-{node.name}"
        ip.link("add", ifname=link, kind="veth", peer={"ifname": "eth0", "net_ns_fd": namespace})
        index = ip.link_lookup(ifname=link)[0]
        ip.link("set", index=index, master=bridge, state="up")
    finally:
        os.close(namespace)


def _underlay(spec: Spec) -> None:
    nodes = [(node, _start_node(spec, node)) for node in spec.nodes]
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        ip.link("add", ifname=_BRIDGE, kind="bridge")
        bridge = ip.link_lookup(ifname=_BRIDGE)[0]
        # No spanning tree, and no duplicate address detection: both would cost seconds of every start.
        Path(f"/proc/sys/net/ipv6/conf/{_BRIDGE}/accept_dad").write_text("0")
        ip.addr("add", index=bridge, address=UNDERLAY_IPV4.format(host=1), prefixlen=24)
        ip.addr("add", index=bridge, address=UNDERLAY_IPV6.format(host=1), prefixlen=64)
        ip.link("set", index=bridge, state="up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        for node, process in nodes:
            _connect(ip, bridge, node, process)
        if spec.cni == "ptp":
            for node in spec.nodes:
                for static, gateway in zip(node.static_ranges, (node.ipv4, node.ipv6), strict=True):
                    ip.route("add", dst=static, gateway=str(gateway))


def main() -> None:
    spec = Spec.load(sys.argv[1])
    mount("none", "/", None, "rprivate")
    mount("tmpfs", "/run", "tmpfs")
    _underlay(spec)
    # No lab outlives this process, so that nothing is gained by waiting for a disk at every write: 0.7 ms, and often ten.
    spec.etcd.mkdir(exist_ok=True)
    mount("tmpfs", str(spec.etcd), "tmpfs")
    Supervisor(spec.socket("control")).serve()


if __name__ == "__main__":
    main()
