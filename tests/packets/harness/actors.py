"""Who plays: two nodes, their pods, the outside. Defined once; every packet test speaks of them by name."""

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Final


@dataclass(frozen=True, slots=True)
class NodeActor:
    name: str
    underlay: str
    mac: str  # of its underlay link
    ranges: dict[int, str] = field(hash=False)
    routers: dict[int, str] = field(hash=False)
    local: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    node: NodeActor
    identity: int
    number: int
    addresses: dict[int, str] = field(hash=False)
    mac: str = ""
    gateway_mac: str = ""
    slot: int = 0

    def address(self, family: int) -> str:
        return self.addresses[family]

    @property
    def link(self) -> str:
        return f"plx{self.name}"


def _node(name: str, number: int, local: bool = False) -> NodeActor:
    return NodeActor(
        name=name,
        underlay=f"192.0.2.{number}",
        mac=f"02:00:00:00:01:{number:02x}",
        ranges={4: f"10.0.{number}.0/24", 6: f"fd00:10:{number}::/64"},
        routers={4: f"10.0.{number}.1", 6: f"fd00:10:{number}::1"},
        local=local,
    )


def _pod(name: str, node: NodeActor, last: int, identity: int) -> Pod:
    number = int(node.name[-1])
    return Pod(name, node, identity, last, {4: f"10.0.{number}.{last}", 6: f"fd00:10:{number}::{last:x}"},
               f"02:00:00:00:0a:{last:02x}", f"02:00:00:00:0b:{last:02x}", last)  # fmt: skip


HERE: Final = _node("node1", 1, local=True)
THERE: Final = _node("node2", 2)
ELSEWHERE: Final = _node("node3", 3)
NODES: Final = (HERE, THERE, ELSEWHERE)

WEB: Final = _pod("web", HERE, 10, 1001)
CLIENT: Final = _pod("client", HERE, 20, 1002)
OTHER: Final = _pod("other", HERE, 30, 1003)
LOCAL_PODS: Final = (WEB, CLIENT, OTHER)
FAR: Final = _pod("far", THERE, 10, 2001)
NEAR_FAR: Final = _pod("nearfar", THERE, 20, 2002)
REMOTE_PODS: Final = (FAR, NEAR_FAR)

OUTSIDE: Final = {4: "198.51.100.7", 6: "2001:db8:51::7"}
NOBODY: Final = {4: "10.0.1.77", 6: "fd00:10:1::77"}  # in this node's range, no pod
STRANGER: Final = {4: "10.0.2.99", 6: "fd00:10:2::99"}  # in the other node's range, no ipcache row

HOST_IDENTITY: Final = 1
WORLD_IDENTITY: Final = 2
REMOTE_NODE_IDENTITY: Final = 6


def packed(address: str) -> bytes:
    """As struct pilus_address: 16 bytes, an IPv4 address first."""
    return ip_address(address).packed.ljust(16, b"\0")


def family_of(address: str) -> int:
    return ip_address(address).version


def prefix_length(network: str) -> int:
    return ip_network(network).prefixlen


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
