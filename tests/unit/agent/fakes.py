"""A node's kernel without a kernel: tables with the real layouts, links as entries of a dict, and every write recorded.

It may be full, refuse, stop in the middle of a batch, or let a write wait for as long as a test wants.
"""

# ruff: noqa: ARG002  (they take what the real ones take)

import asyncio
import errno
import importlib.util
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

import pytest

from pilus_agent import wiring, writer
from pilus_agent.attachments import key_of
from pilus_agent.datapath import cgroup
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.datapath.links import LinkError, Netlink, PodLink
from pilus_agent.desired.identities import labels_of
from pilus_agent.diff.order import WRITE_ORDER
from pilus_agent.facts import Address, AllocatedIdentity, Attachment, Namespace, Network, Node, Pod, RemoteEndpoint, Slice
from pilus_agent.sources.kubernetes import PolicyObject
from pilus_agent.tables import Tables
from pilus_agent.wiring import NEEDED, Wiring
from pilus_api.identities import Identity
from pilus_api.label_filters import IdentityFilter
from pilus_api.labels import Labels
from pilus_api.settings import Settings
from pilus_maps import Datapath, KernelError, Program
from pilus_maps.layout import Layout

P = ParamSpec("P")

# Most tests are not about who has claimed which range.
UNCLAIMED = NEEDED - {"claims"}
T = TypeVar("T")
ROOT = Path(__file__).parents[3]
PATIENCE = 5.0
Rows = dict[str, dict[bytes, bytes]]


@cache
def _describe() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("loader", ROOT / "nodeagent/pilus_agent/datapath/loader.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.describe(ROOT / "bpf", Path("/nowhere"), {})[1]
    return found


def described() -> dict[str, Any]:
    """What the loader says of bpf/, without loading it."""
    return deepcopy(_describe())


class FakeProgram(Program):
    def __init__(self, name: str) -> None:
        self.name, self.pin, self.fd = name, "", -1


class FakeDatapath(Datapath):
    def program(self, name: str) -> Program:
        return FakeProgram(name)


# -- links ---------------------------------------------------------------------------------------------------------------------


@dataclass
class FakeLink:
    name: str
    index: int
    container: str = ""
    mac: str = ""
    up: bool = False
    netns: int = -1
    configured: tuple[Address, ...] = ()
    filters: dict[str, str] = field(default_factory=dict)


class FakeNetlink(Netlink):
    """`fail` maps a method's name to what it raises, once each time it is set."""

    def __init__(self) -> None:
        self.links: dict[str, FakeLink] = {}
        self.fail: dict[str, Exception] = {}
        self.events: list[tuple[str, object]] = []
        self.routes: set[Network] = set()
        self.direct_routes: dict[Network, Address] = {}
        self.reserved: tuple[int, int] | None = None
        self.uplink = FakeLink("eth0", 1)
        self._last = 1

    def _maybe(self, what: str, of: object = "") -> None:
        self.events.append((what, of))
        if what in self.fail:
            raise self.fail.pop(what)

    def _new(self, name: str) -> FakeLink:
        self._last += 1
        self.links[name] = FakeLink(name, self._last)
        return self.links[name]

    def _at(self, index: int) -> FakeLink:
        return next(link for link in (self.uplink, *self.links.values()) if link.index == index)

    def close(self) -> None: ...

    def index(self, name: str) -> int:
        return self.links[name].index if name in self.links else 0

    def mac(self, ifindex: int) -> str:
        return self._at(ifindex).mac

    def mtu(self, ifindex: int) -> int:
        return 1500

    def pod_links(self) -> list[PodLink]:
        return [PodLink(one.name, one.index, one.mac, one.container) for one in self.links.values() if one.container]

    def uplink_of(self, address: Address) -> int:
        self._maybe("uplink_of", address)
        return 1

    def state(self, link: str | int) -> tuple[int, int, bool]:
        index = self.index(link) if isinstance(link, str) else link
        return (index, self.mtu(index), True) if index else (0, 0, False)

    def ways(self, index: int, *, ours: bool = False) -> frozenset[tuple[object, ...]]:
        return frozenset(self.direct_routes.items() if ours else ((one,) for one in self.routes))

    def ensure_router(self, addresses: Iterable[Address], mtu: int) -> int:
        return self.index("pilus_host") or self._new("pilus_host").index

    def ensure_tunnel(self, port: int, mtu: int) -> int:
        return self.index("pilus_vxlan") or self._new("pilus_vxlan").index

    def ensure_routes(self, index: int, ranges: Iterable[Network], source: dict[int, Address]) -> None:
        self.routes = set(ranges)

    def ensure_direct_routes(self, index: int, wanted: Mapping[Network, Address]) -> None:
        self.direct_routes = dict(wanted)

    def reserve_ports(self, first: int, last: int) -> bool:
        self.reserved = (first, last)
        return True

    def create_pod_link(self, name: str, container: str, netns: int, inside: str, macs: tuple[str, str], mtu: int) -> int:
        self._maybe("create_pod_link", name)
        if name in self.links:
            raise LinkError("File exists")
        link = self._new(name)
        link.container, link.mac, link.netns = container, macs[0], netns
        return link.index

    def configure_pod(self, netns: int, inside: str, addresses: Iterable[Address], routers: dict[int, Address]) -> None:
        self._maybe("configure_pod", netns)
        next(one for one in self.links.values() if one.netns == netns).configured = tuple(addresses)

    def connect_pod(self, ifindex: int, mac: str, addresses: Iterable[Address], routers: dict[int, Address]) -> None:
        self._maybe("connect_pod", ifindex)
        self._at(ifindex).up = True

    def delete(self, name: str) -> bool:
        self._maybe("delete", name)
        return self.links.pop(name, None) is not None

    def set_down(self, name: str) -> None:
        self._maybe("set_down", name)
        if name in self.links:
            self.links[name].up = False

    def attach(self, ifindex: int, ingress: tuple[str, int], egress: tuple[str, int], *, priority: int = 1) -> None:
        self._maybe("attach", ifindex)
        self._at(ifindex).filters = {"ingress": ingress[0], "egress": egress[0]}

    def attached(self, ifindex: int, *, priority: int = 1) -> dict[str, str]:
        return dict(self._at(ifindex).filters)

    def filter_names(self) -> set[str]:
        return {name for link in self.links.values() for name in link.filters.values()}


# -- tables --------------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The agent dies here."""


@dataclass(frozen=True)
class Write:
    """One row; `value` None: removed."""

    table: str
    key: bytes
    value: bytes | None


def _agree(one: bytes, other: bytes, bits: int) -> bool:
    """Whether two LPM keys have the same first bits behind their lengths."""
    shift = (len(one) - 4) * 8 - bits
    return int.from_bytes(one[4:], "big") >> shift == int.from_bytes(other[4:], "big") >> shift


class FakeKernel(Kernel):
    """`room`: rows a table has place for. `refuse`: the errno with which a table refuses everything. `wait`: tables whose next
    write waits for its event. `lives`: how many rows are written before the agent dies."""

    def __init__(self, datapath: Datapath, rows: Rows | None = None, links: FakeNetlink | None = None) -> None:
        self.datapath = datapath
        self.rows: Rows = rows if rows is not None else {table: {} for table in WRITE_ORDER}
        self.rows["settings"].setdefault(bytes(4), bytes(datapath.description["maps"]["settings"]["value"]["size"]))  # an array
        self.links = links or FakeNetlink()
        self.log: list[Write] = []
        self.generations: dict[int, int] = {}
        self.room: dict[str, int] = {}
        self.refuse: dict[str, int] = {}
        self.wait: dict[str, asyncio.Event] = {}
        self.waiting: set[str] = set()
        self.lives: int | None = None
        self.few = 0  # so that something else may happen between any two writes

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if function == self.write and str(args[0]) in self.wait:
            self.waiting.add(str(args[0]))
            await self.wait[str(args[0])].wait()
            self.waiting.discard(str(args[0]))
        await asyncio.sleep(0)  # another thread does it: everything else goes on meanwhile
        return function(*args, **kwargs)

    def netlink(self) -> Netlink:
        return self.links

    async def close(self) -> None: ...

    def read(self, table: str) -> dict[bytes, bytes]:
        return dict(self.rows[table])

    def lookup(self, table: str, key: Mapping[str, Any] | int) -> Mapping[str, Any] | None:
        """As the kernel does it: of an LPM table the longest row that agrees in as many bits as it has."""
        described = self.datapath.description["maps"][table]
        asked = Layout(described["key"]).encode(key)
        if described["type"] == "lpm_trie":
            size = int.from_bytes(asked[:4], sys.byteorder)
            found = [
                raw
                for raw in self.rows[table]
                if (bits := int.from_bytes(raw[:4], sys.byteorder)) <= size and _agree(raw, asked, bits)
            ]
            asked = max(found, key=lambda raw: int.from_bytes(raw[:4], sys.byteorder), default=b"")
        held = self.rows[table].get(asked)
        return Layout(described["value"]).decode(held) if held is not None else None

    def _live(self) -> None:
        if self.lives is not None:
            if self.lives == 0:
                raise Killed
            self.lives -= 1

    def write(self, table: str, rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        if table in self.refuse:
            raise KernelError(f"map {table}", self.refuse[table])
        held = self.rows[table]
        for key, value in rows.items():
            if key not in held and len(held) >= self.room.get(table, 1 << 30):
                raise KernelError(f"map {table}: full", errno.E2BIG)
            self._live()
            held[key] = value
            self.log.append(Write(table, key, value))
        return dict(rows)

    def remove(self, table: str, keys: Iterable[bytes]) -> None:
        if table in self.refuse:
            raise KernelError(f"map {table}", self.refuse[table])
        for key in keys:
            self._live()
            if self.rows[table].pop(key, None) is not None:
                self.log.append(Write(table, key, None))

    def raise_generations(self, slots: Iterable[int]) -> None:
        if "generation" in self.refuse:
            raise KernelError("map generation", self.refuse["generation"])
        for slot in slots:
            self.generations[slot] = self.generations.get(slot, 0) + 1


def decoded(tables: Tables, rows: Rows, table: str) -> list[tuple[Any, Any]]:
    layout = tables.layouts[table]
    return [(layout.key.decode(key), layout.value.decode(value)) for key, value in rows[table].items()]


# -- a small world -------------------------------------------------------------------------------------------------------------

OWN = Node("n1", (ip_address("192.0.2.1"),), (), (ip_network("10.0.1.0/24"),))
OTHER = Node("n2", (ip_address("192.0.2.2"),), (ip_address("10.0.2.1"),), (ip_network("10.0.2.0/24"),))
NAMESPACE = "default"
NAMESPACE_LABELS = (("kubernetes.io/metadata.name", NAMESPACE),)


def pod(name: str, **labels: str) -> Pod:
    return Pod(NAMESPACE, name, f"uid-{name}", tuple(sorted(labels.items())))


def labels(of: Pod) -> Labels:
    """Those that make its identity."""
    found = labels_of(of, {NAMESPACE: NAMESPACE_LABELS}, IdentityFilter(), "default")
    assert found is not None
    return found


def attachment(name: str, number: int, *, ifindex: int = 0) -> Attachment:
    macs = (f"02:00:00:00:00:{number:02x}", f"02:00:00:00:01:{number:02x}")
    return Attachment(
        f"c-{name}", "eth0", NAMESPACE, name, f"uid-{name}", f"/run/netns/{name}", f"plx{number}", ifindex or 100 + number, *macs,
        (ip_address(f"10.0.1.{10 + number}"),), number,
    )  # fmt: skip


def remote(name: str, identity: int, *addresses: str, node: str | None = "192.0.2.2") -> Slice:
    where = ip_address(node) if node else None
    found = (RemoteEndpoint(ip_address(one), Identity(identity), where, f"default/{name}") for one in addresses)
    return Slice(name, tuple(found))


def policy(name: str, spec: Mapping[str, Any], generation: int = 1) -> PolicyObject:
    metadata = {"name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "generation": generation}
    return PolicyObject({"metadata": metadata, "spec": dict(spec)}, f"uid-{name}", generation)


def allow_from(subject: str, *peers: str, port: int = 80) -> dict[str, Any]:
    """Pods with app=subject take TCP from pods with app=peer, and nothing else."""
    return {
        "endpointSelector": {"matchLabels": {"app": subject}},
        "ingress": [
            {
                "fromEndpoints": [{"matchLabels": {"app": peer}} for peer in peers],
                "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}],
            }
        ],
    }


@contextmanager
def no_cgroup() -> Iterator[None]:
    """Nothing is attached to this machine's own cgroups."""
    with patch.object(cgroup, "node_folder", return_value=Path("/nowhere")), patch.object(cgroup, "attach", return_value=[]):
        yield


class World:
    """One agent's wiring on a fake kernel."""

    def __init__(self, kernel: FakeKernel, needed: frozenset[str] = UNCLAIMED, **settings: Any) -> None:
        self.kernel = kernel
        self.wiring = Wiring("n1", Settings(**settings), kernel, needed)
        self.tables = self.wiring.tables
        self.task: asyncio.Task[None] | None = None

    def begin(self, *nodes: Node) -> None:
        for node in nodes or (OWN, OTHER):
            self.wiring.put("nodes", node.name, node)
        self.wiring.put("namespaces", NAMESPACE, Namespace(NAMESPACE_LABELS))

    def identity(self, number: int, of: Pod) -> None:
        self.wiring.put("identities", str(number), AllocatedIdentity(Identity(number), labels(of)))

    def pod(self, number: int, of: Pod, made: Attachment | None = None) -> None:
        made = made or attachment(of.name, number)
        self.wiring.put("pods", f"{of.namespace}/{of.name}", of)
        self.wiring.put("attachments", key_of(made), made)

    def sync(self) -> None:
        for kind in sorted(self.wiring.needed | {"attachments"}):
            self.wiring.synced(kind)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        with no_cgroup():
            task = self.task = asyncio.create_task(self.wiring.run(), name="wiring")
            try:
                yield
                if task.done():
                    task.result()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def realise(self) -> None:
        if not await self.wiring.realise(PATIENCE):
            if self.task is not None and self.task.done():
                self.task.result()
            raise AssertionError(f"not within {PATIENCE:.0f} s: {self.wiring.trouble}")

    def rows(self, table: str) -> list[tuple[Any, Any]]:
        return decoded(self.tables, self.kernel.rows, table)

    def endpoint(self, address: str) -> dict[str, Any] | None:
        """The row of a local address."""
        packed = ip_address(address).packed.ljust(16, b"\0")
        found: list[dict[str, Any]] = [value for key, value in self.rows("endpoints") if key["address"] == packed]
        return found[0] if found else None

    def known(self, address: str) -> dict[str, Any] | None:
        """The row of an address in ipcache."""
        packed = ip_address(address).packed.ljust(16, b"\0")
        found: list[dict[str, Any]] = [value for key, value in self.rows("ipcache") if key["address"] == packed]
        return found[0] if found else None


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the agent does every second it does a hundred times a second."""
    monkeypatch.setattr(writer, "_LINGER_SECONDS", 0.01)
    monkeypatch.setattr(wiring, "_AUDIT_SECONDS", 0.01)
    monkeypatch.setattr(wiring, "_RETRY_SECONDS", 0.01)


async def eventually(condition: Callable[[], object], what: str) -> None:
    """Lets everything else run until it holds."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.001)  # what is waited for is not ours to signal
    except TimeoutError:
        raise AssertionError(f"not within {PATIENCE:.0f} s: {what}") from None
