"""An agent ends and another begins, on the real kernel: nothing is detached, no row moves, no packet is lost.

Our node is a network namespace that ends with the test's thread; two pods are another each. Pins are in a folder of their own.
"""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from pyroute2 import IPRoute

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.packets.harness import netns
from tests.threads import in_own_thread
from tests.unit.agent.fakes import NAMESPACE, NAMESPACE_LABELS, allow_from, labels, no_cgroup, pod, policy

from pilus_agent.attachments import AttachmentFiles
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.datapath.programs import ensure_loaded
from pilus_agent.diff.order import WRITE_ORDER
from pilus_agent.endpoints import Endpoints
from pilus_agent.facts import Address, AllocatedIdentity, Attachment, Namespace, Node
from pilus_agent.ipam import Allocator
from pilus_agent.wiring import NEEDED, Wiring
from pilus_api.identities import Identity
from pilus_api.settings import Settings
from pilus_maps import Datapath

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OPEN, CLOSED = 5000, 5001
RANGE = ip_network("10.0.1.0/24")
ROUTERS: dict[int, Address] = {4: ip_address("10.0.1.1")}
PODS = (pod("web", app="web"), pod("api", app="api"))
PATIENCE = 20.0


class RecordingKernel(Kernel):
    """What is written and removed, by table."""

    def __init__(self, datapath: Datapath) -> None:
        super().__init__(datapath)
        self.log: list[tuple[str, int]] = []

    def write(self, table: str, rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        self.log.append((f"write {table}", len(rows)))
        return super().write(table, rows)

    def remove(self, table: str, keys: Iterable[bytes]) -> None:
        held = list(keys)
        self.log.append((f"remove {table}", len(held)))
        super().remove(table, held)


class Agent:
    """The parts of an agent between its sources and the kernel."""

    def __init__(self, description: Path, files: Path) -> None:
        self.kernel = RecordingKernel(Datapath.open(description))
        self.wiring = Wiring("n1", Settings(), self.kernel, NEEDED - {"claims"})
        self.endpoints = Endpoints(self.kernel, AttachmentFiles(files), Allocator([RANGE]))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.endpoints.restore()
        for key, attachment in self.endpoints.attachments.items():
            self.wiring.put("attachments", key, attachment)
        self.wiring.put("nodes", "n1", Node("n1", (ip_address("192.0.2.1"),), (), (RANGE,)))
        self.wiring.put("namespaces", NAMESPACE, Namespace(NAMESPACE_LABELS))
        for number, one in enumerate(PODS, 300):
            self.wiring.put("identities", str(number), AllocatedIdentity(Identity(number), labels(one)))
            self.wiring.put("pods", f"{NAMESPACE}/{one.name}", one)
        spec = allow_from("web", "api", port=OPEN)
        spec["ingress"][0]["toPorts"][0]["ports"][0]["protocol"] = "UDP"
        self.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", spec))
        for kind in self.wiring.needed | {"attachments"}:
            self.wiring.synced(kind)
        task = asyncio.create_task(self.wiring.run(), name="wiring")
        try:
            assert await self.wiring.realise(PATIENCE), self.wiring.trouble
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.kernel.close()

    async def add(self, name: str, place: str) -> Attachment:
        made = await self.endpoints.prepare(f"c-{name}/eth0", (NAMESPACE, name, f"uid-{name}"), place, 1450, ROUTERS)
        self.wiring.put("attachments", f"c-{name}/eth0", made)
        assert await self.wiring.realise(PATIENCE), self.wiring.trouble
        await self.endpoints.connect(made, ROUTERS)
        # The kernel tells the other end by a work of its own, which waits for whoever else changes links on this machine.
        await until(lambda: asyncio.to_thread(_is_up, place), "the pod's link up")
        return made

    async def rows(self) -> dict[str, dict[bytes, bytes]]:
        return {table: await self.kernel.call(self.kernel.read, table) for table in WRITE_ORDER}

    async def filters(self) -> dict[str, tuple[str, int]]:
        """Every program that is attached, by link and side: the filter's name, the program's number in the kernel."""

        def look() -> dict[str, tuple[str, int]]:
            done = subprocess.run(["bpftool", "-j", "net", "show"], capture_output=True, text=True, check=True)
            found = (entry for part in json.loads(done.stdout) for entry in part["tc"])
            return {f"{one['devname']} {one['kind']}": (one["name"], one["id"]) for one in found}

        return await self.kernel.call(look)


def _is_up(place: str) -> bool:
    """Whether the pod's own end of its link is up."""
    namespace = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with netns.inside(namespace), IPRoute() as ip:
            (link,) = ip.get_links(ifname="eth0")
            return bool(link.get("IFLA_OPERSTATE") == "UP")
    finally:
        os.close(namespace)


class Traffic:
    """One datagram after the other from the pod that may to the pod that lets it, each waited for."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._sender, self._receiver = sender, receiver
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.passed = 0
        self.lost = 0

    def once(self, patience: float = 1.0) -> bool:
        text = f"{time.monotonic_ns()}".encode()
        self._receiver.settimeout(patience)
        self._sender.send(text)
        try:
            while self._receiver.recv(100) != text:
                pass
        except TimeoutError:
            return False
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            if self.once():
                self.passed += 1
            else:
                self.lost += 1

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)


class Pods:
    """Two namespaces with sockets in them; paths of the namespaces are those of descriptors."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.places: dict[str, str] = {}
        self._namespaces: dict[str, int] = {}
        for one in PODS:
            found = netns.fresh()
            stack.callback(os.close, found)
            self._namespaces[one.name] = found
            self.places[one.name] = f"/proc/{os.getpid()}/fd/{found}"

    def socket(self, name: str, *, bound: tuple[str, int] | None = None, to: tuple[str, int] | None = None) -> socket.socket:
        with netns.inside(self._namespaces[name]):
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.callback(made.close)
        if bound:
            made.bind(bound)
        if to:
            made.connect(to)
        return made


@contextmanager
def loaded(folder: Path) -> Iterator[Path]:
    pins = Path(f"/sys/fs/bpf/pilus-restart-{os.getpid()}")
    description = folder / "datapath.json"
    try:
        ensure_loaded(pins, description, folder, {"PILUS_FLOWS_SIZE": 512}).close()
        yield description
    finally:
        shutil.rmtree(pins, ignore_errors=True)


def on_a_node_of_its_own(scenario: Callable[[], Awaitable[None]]) -> None:
    """In a thread in a new network namespace with an uplink; every thread that it starts is there too."""

    def run() -> None:
        here = netns.fresh()
        with netns.inside(here):
            os.close(here)
            with IPRoute() as ip:
                ip.link("add", ifname="up0", kind="veth", peer="up1")
                index = ip.link_lookup(ifname="up0")[0]
                ip.addr("add", index=index, address="192.0.2.1", prefixlen=24)
                for name in ("lo", "up0", "up1"):
                    ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
            asyncio.run(_scenario())

    async def _scenario() -> None:
        async with asyncio.timeout(120):
            await scenario()

    in_own_thread(run, 150)


async def until(condition: Callable[[], Awaitable[object]], what: str) -> float:
    """How long it took until it held."""
    started = time.monotonic()
    while not await condition():
        assert time.monotonic() - started < PATIENCE, what
        await asyncio.sleep(0.005)
    return time.monotonic() - started


def test_a_new_agent_finds_everything_and_moves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        with loaded(tmp_path) as description, ExitStack() as stack, no_cgroup():
            files = tmp_path / "endpoints"
            pods = Pods(stack)
            first = Agent(description, files)
            async with first.running():
                web = await first.add("web", pods.places["web"])
                api = await first.add("api", pods.places["api"])
                where = str(web.addresses[0])
                receiver = pods.socket("web", bound=("0.0.0.0", OPEN))
                refused = pods.socket("web", bound=("0.0.0.0", CLOSED))
                refused.settimeout(0.05)
                traffic = Traffic(pods.socket("api", to=(where, OPEN)), receiver)
                forbidden = pods.socket("api", to=(where, CLOSED))
                assert traffic.once(), "what policy allows passes"
                forbidden.send(b"x")
                assert traffic.once(), "and goes on passing"
                with pytest.raises(TimeoutError):
                    refused.recv(100)
                rows, filters = await first.rows(), await first.filters()
                assert {name.split()[0] for name in filters} >= {web.link, api.link, "pilus_vxlan"}
                assert len(rows["endpoints"]) == 4, "by address and by link"
                assert rows["policies"]
                assert rows["peers"]

            with traffic:
                await until(lambda: _true(traffic.passed > 20), "traffic without any agent")
                second = Agent(description, files)
                async with second.running():
                    assert set(second.endpoints.attachments) == {"c-web/eth0", "c-api/eth0"}
                    assert second.endpoints.attachments["c-web/eth0"] == web
                    before = traffic.passed
                    await until(lambda: _true(traffic.passed > before + 20), "traffic with the new agent")
                    assert second.kernel.log == []
                    assert await second.rows() == rows
                    assert await second.filters() == filters
                    forbidden.send(b"x")
                    with pytest.raises(TimeoutError):
                        refused.recv(100)
                    assert second.wiring.ready
                    assert second.wiring.trouble == {}
            assert traffic.lost == 0

    on_a_node_of_its_own(scenario)


def test_a_filter_that_was_deleted_is_back_within_a_second(tmp_path: Path) -> None:
    async def scenario() -> None:
        with loaded(tmp_path) as description, ExitStack() as stack, no_cgroup():
            pods = Pods(stack)
            agent = Agent(description, tmp_path / "endpoints")
            async with agent.running():
                web = await agent.add("web", pods.places["web"])
                await agent.add("api", pods.places["api"])
                traffic = Traffic(pods.socket("api", to=(str(web.addresses[0]), OPEN)), pods.socket("web", bound=("0.0.0.0", OPEN)))
                assert traffic.once()
                filters = await agent.filters()

                async def whole() -> bool:
                    return await agent.filters() == filters

                def delete() -> None:
                    with IPRoute() as ip:
                        for one in agent.endpoints.attachments.values():
                            ip.tc("del", "clsact", one.ifindex)

                await agent.kernel.call(delete)
                assert not await whole()
                assert await until(whole, "the audit") < 1.5  # it looks once a second
                assert traffic.once()
                assert agent.endpoints.attachments["c-web/eth0"] == web

    on_a_node_of_its_own(scenario)


async def _true(value: bool) -> bool:
    return value
