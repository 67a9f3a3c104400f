"""What a lab is made of, before any of it exists.

In: a name, a number of nodes, options. Out: every address, path and name that follows from them, and the file that records
them, so that `down` knows what `up` may have made even if `up` died on its first line. Never touches the machine.
"""

import json
import os
import re
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal

# "none": nodes without a network, for something that is installed afterwards.
Cni = Literal["pilus", "ptp", "none"]

# The same in every lab: each lives in namespaces of its own, so nothing meets.
UNDERLAY_IPV4 = "172.30.0.{host}"
UNDERLAY_IPV6 = "fd00:30::{host}"
API_PORT = 6443
SERVICE_RANGES = "10.96.0.0/16,fd00:96::/112"
DNS_ADDRESS = "10.96.0.10"
POD_RANGES = "10.44.0.0/16,fd00:44::/48"

_NAME = re.compile(r"^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$")
MOST_NODES = 9


def states() -> Path:
    """The folder that holds one folder per lab."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "pilus" / "labs"


def cache() -> Path:
    """The folder of what is built once: binaries and images."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pilus"


@dataclass(frozen=True, slots=True)
class Node:
    """One node: a network namespace with a kubelet in it."""

    index: int

    @property
    def name(self) -> str:
        return f"n{self.index}"

    @property
    def ipv4(self) -> IPv4Address:
        return IPv4Address(UNDERLAY_IPV4.format(host=f"1{self.index}"))

    @property
    def ipv6(self) -> IPv6Address:
        return IPv6Address(UNDERLAY_IPV6.format(host=f"1{self.index}"))

    @property
    def static_ranges(self) -> tuple[str, str]:
        """The pod ranges of a node whose plugin takes them from its configuration (ptp)."""
        return f"10.44.{self.index}.0/24", f"fd00:44:0:{self.index}::/64"


@dataclass(frozen=True, slots=True)
class Spec:
    """One lab. Raises ValueError for a name or a number of nodes that can't be."""

    name: str
    node_count: int = 2
    cni: Cni = "pilus"
    settings: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()  # absolute folders, one per hierarchy, written down before they are made

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name for a lab: at most 20 of a-z, 0-9 and '-', beginning with a letter")
        if not 0 <= self.node_count <= MOST_NODES:
            raise ValueError(f"a lab has 0 to {MOST_NODES} nodes, not {self.node_count}")

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(Node(index) for index in range(1, self.node_count + 1))

    @property
    def folder(self) -> Path:
        return states() / self.name

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def etcd(self) -> Path:
        """What the cluster knows: a file system in memory, which only the lab's first process and its children see."""
        return self.folder / "etcd"

    @property
    def overlay(self) -> Path:
        """The kustomization that installs Pilus here: manifests/ with this lab's settings."""
        return self.folder / "install"

    @property
    def kubeconfigs(self) -> Path:
        return self.folder / "kubeconfigs"

    @property
    def settings_file(self) -> Path:
        """The ConfigMap's keys, as a YAML mapping: what agent, observer and operator read."""
        return self.folder / "pilus-config.yaml"

    def node_folder(self, node: str) -> Path:
        return self.folder / "nodes" / node

    def socket(self, place: str) -> Path:
        """Where the first process of a place (``control`` or a node's name) takes orders."""
        return self.folder / f"{place}.sock"

    @property
    def api_address(self) -> str:
        return UNDERLAY_IPV4.format(host=1)

    @property
    def api_url(self) -> str:
        return f"https://{self.api_address}:{API_PORT}"

    def save(self) -> None:
        """Write the record, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self.folder / ".lab.json"
        scratch.write_text(json.dumps(asdict(self)))
        scratch.replace(self.folder / "lab.json")

    @classmethod
    def load(cls, name: str) -> "Spec":
        """The lab as recorded. Raises FileNotFoundError if none of that name was begun."""
        held = json.loads((states() / name / "lab.json").read_text())
        held["without"] = tuple(held["without"])
        held["cgroups"] = tuple(held["cgroups"])
        return cls(**held)
