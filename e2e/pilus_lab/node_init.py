"""Process 1 of a node: makes the namespace look like a machine, then starts what it is told to.

In: the lab's record and the node's number. Out: a /sys, cgroups, bpffs, /run, /etc, /var/lib and /opt of its own, an uplink
with addresses, and a socket for orders. What is changed here is seen in this node alone.
"""

import socket
import sys
import time
from pathlib import Path

from pyroute2 import IPRoute

from pilus_lab.cgroups import ROOT, UNIFIED, V1
from pilus_lab.mounts import mount
from pilus_lab.spec import UNDERLAY_IPV4, UNDERLAY_IPV6, Node, Spec
from pilus_lab.supervisor import Supervisor

# Machine-wide sysctls that a kubelet would rewrite: with these files over them it finds what it wants and lets be.
_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
# Folders that a node's programs write to: a thin layer over the machine's own, gone with the node.
_LAYERED = ("/etc", "/opt", "/var/lib", "/var/log")
# And those whose contents outlive a crash of the node, or are too big for memory.
_KEPT = ("/var/lib/kubelet", "/var/lib/containerd", "/var/lib/cni", "/var/log/pods", "/var/log/containers")


def _file_systems(folder: Path) -> None:
    mount("none", "/", None, "rprivate")
    mount("sysfs", "/sys", "sysfs")
    mount("tmpfs", str(ROOT), "tmpfs", options="mode=755")
    for hierarchy in V1:
        (ROOT / hierarchy).mkdir()
        mount(
            "cgroup",
            str(ROOT / hierarchy),
            "cgroup",
            options="none,name=systemd" if hierarchy == "systemd" else hierarchy,
        )
    (ROOT / UNIFIED).mkdir()
    mount("cgroup2", str(ROOT / UNIFIED), "cgroup2")
    mount("bpf", "/sys/fs/bpf", "bpf")
    mount("tmpfs", "/run", "tmpfs", options="mode=755")
    mount("tmpfs", "/var/tmp", "tmpfs", options="mode=1777")  # noqa: S108  # the node's own from here on
    for name in ("netns", "lock", "containerd"):
        Path("/run", name).mkdir()
    layers = Path("/run/layers")
    for place in _LAYERED:
        upper, work = (layers / place.strip("/").replace("/", "-") / part for part in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        mount("overlay", place, "overlay", options=f"lowerdir={place},upperdir={upper},workdir={work}")
    for place in _KEPT:
        kept = folder / place.strip("/").replace("/", "-")
        kept.mkdir(parents=True, exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        mount(str(kept), place, None, "bind")
    for place in ("/etc/cni/net.d", "/opt/cni/bin"):
        Path(place).mkdir(parents=True, exist_ok=True)
    for name, value in _SYSCTLS.items():
        shown = folder / f"sysctl-{name.replace('/', '-')}"
        shown.write_text(f"{value}\n")
        if Path("/proc/sys", name).exists():
            mount(str(shown), f"/proc/sys/{name}", None, "bind")
    # A peer group of the node's own: a mount that a pod propagates reaches its node, and nothing beyond.
    mount("none", "/", None, "rshared")


def _network(node: Node) -> None:
    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        deadline = time.monotonic() + 20
        while not (found := ip.link_lookup(ifname="eth0")):
            if time.monotonic() > deadline:
                raise RuntimeError("no eth0 appeared")
            time.sleep(0.005)
        Path("/proc/sys/net/ipv6/conf/eth0/accept_dad").write_text("0")
        ip.addr("add", index=found[0], address=str(node.ipv4), prefixlen=24)
        ip.addr("add", index=found[0], address=str(node.ipv6), prefixlen=64)
        ip.link("set", index=found[0], state="up")
        ip.route("add", dst="default", gateway=UNDERLAY_IPV4.format(host=1))
        ip.route("add", dst="::/0", gateway=UNDERLAY_IPV6.format(host=1))
    # As on any Kubernetes node.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


def main() -> None:
    spec = Spec.load(sys.argv[1])
    node = Node(int(sys.argv[2]))
    socket.sethostname(node.name)
    folder = spec.node_folder(node.name)
    folder.mkdir(parents=True, exist_ok=True)
    _file_systems(folder)
    _network(node)
    Supervisor(spec.socket(node.name)).serve()


if __name__ == "__main__":
    main()
