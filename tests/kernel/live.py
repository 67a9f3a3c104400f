"""An agent's wiring on real maps, row by row: what a packet meets between any two writes, and an agent that dies there.

Links are the fakes' alone; each pod's is there as a veth too, for a test run names one. Whether a packet passes is asked of the
programs themselves (BPF_PROG_TEST_RUN).
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from tests.packets.harness import netns
from tests.unit.agent.fakes import FakeKernel, FakeNetlink, World, attachment, pod, remote

from pilus_agent.diff.order import WRITE_ORDER
from pilus_maps import Datapath

_SHOT, _REDIRECT = 2, 7
STATE = ("flows", "embryonic", "fragments")
WEB, API, DATA, DATA2, WEB2 = (pod("web", app="web"), pod("api", app="api"), pod("data", app="data"),
                               pod("data2", app="data", tier="x"), pod("web2", app="web"))  # fmt: skip
PODS = {"web": 1, "api": 2, "web2": 3}
REMOTES = {"data": (302, "10.0.2.7"), "data2": (310, "10.0.2.8")}
NODE2 = "192.0.2.2"


class LiveKernel(FakeKernel):
    """Rows go into the real maps one at a time. `between` is called after each; `lives` as in FakeKernel, generations too."""

    def __init__(self, datapath: Datapath, links: FakeNetlink | None = None) -> None:
        held = {table: datapath.map(table).items_raw() for table in WRITE_ORDER}
        super().__init__(datapath, held, links)
        self.between: Callable[[], None] = lambda: None
        self.writes = 0

    def read(self, table: str) -> dict[bytes, bytes]:
        return self.datapath.map(table).items_raw()

    def _row(self, write: Callable[[], None]) -> None:
        self._live()
        write()
        self.writes += 1
        self.between()

    def write(self, table: str, rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        held = self.datapath.map(table)
        for key, value in rows.items():
            self._row(lambda key=key, value=value: held.update_raw({key: value}))  # type: ignore[misc]
        return dict(rows)

    def remove(self, table: str, keys: Iterable[bytes]) -> None:
        held = self.datapath.map(table)
        for key in keys:
            self._row(lambda key=key: held.delete_raw([key]))  # type: ignore[misc]

    def raise_generations(self, slots: Iterable[int]) -> None:
        generation = self.datapath.map("generation")
        for slot in slots:
            self._row(lambda slot=slot: generation.update(slot, (int(generation.lookup(slot)) + 1) & 0xFFFF_FFFF))  # type: ignore[misc]


@dataclass(frozen=True, order=True)
class Probe:
    source: str
    to: str
    port: int


Answers = dict[Probe, bool]


class Prober:
    """Whether a packet passes now: a SYN, which is always decided on, or the data of a connection, which may be replayed."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._namespace = netns.fresh()
        with netns.inside(self._namespace), IPRoute() as ip:
            for number in (3, *(100 + number for number in PODS.values())):  # 3: what the fakes give the tunnel
                ip.link("add", ifname=f"l{number}", kind="veth", index=number, peer={"ifname": f"l{number}_"})
                ip.link("set", index=number, state="up")
        self._hook = datapath.enum("pilus_hook")["PILUS_HOOK_OVERLAY_FROM"]
        self._frames: dict[tuple[Probe, str], tuple[str, int, bytes]] = {}

    def close(self) -> None:
        os.close(self._namespace)

    def frame(self, probe: Probe, flags: str) -> tuple[str, int, bytes]:
        """Program, link, frame."""
        key = probe, flags
        if key not in self._frames:
            to = f"10.0.1.{10 + PODS[probe.to]}"
            layers = TCP(sport=1000 if flags == "S" else 2000, dport=probe.port, flags=flags)
            if probe.source in REMOTES:
                number, address = REMOTES[probe.source]
                made = Ether(src="02:00:00:00:0e:01", dst="02:00:00:00:0e:02") / IP(src=address, dst=to) / layers / b"x"
                self._frames[key] = "overlay_body", number, bytes(made)
            else:
                own = attachment(probe.source, PODS[probe.source])
                made = Ether(src=own.mac, dst=own.gateway_mac) / IP(src=str(own.addresses[0]), dst=to) / layers / b"x"
                self._frames[key] = "pod_from", own.ifindex, bytes(made)
        return self._frames[key]

    def passes(self, probe: Probe, flags: str = "S") -> bool:
        program, number, frame = self.frame(probe, flags)
        ifindex = number
        if program == "overlay_body":
            outer = bytes(map(int, NODE2.split("."))).ljust(16, b"\0")
            self.datapath.map("scratch").update(0, {"hook": self._hook, "vni": number, "outer": outer})
            ifindex = 3
        verdict, _, _ = self.datapath.program(program).test_run(frame, ifindex=ifindex)
        assert verdict in (_SHOT, _REDIRECT), f"{probe}: action {verdict}"
        return verdict == _REDIRECT

    @contextmanager
    def here(self) -> Iterator[None]:
        """This thread where the links are."""
        with netns.inside(self._namespace):
            yield

    def all(self, probes: Iterable[Probe], flags: str = "S") -> Answers:
        with self.here():
            return {probe: self.passes(probe, flags) for probe in probes}


PROBES = tuple(Probe(source, to, port) for source in (*PODS, *REMOTES) for to in PODS for port in (80, 443) if source != to)


def empty(datapath: Datapath) -> None:
    """As a node that has just begun."""
    for table in (*WRITE_ORDER, *STATE):
        if table == "settings":
            datapath.map(table).update(0, {})
        else:
            datapath.map(table).clear()


def world(kernel: FakeKernel, **settings: Any) -> World:
    """Two pods here, one on the other node; nothing has been told in full yet."""
    made = World(kernel, **settings)
    made.begin()
    for number, one in ((300, WEB), (301, API), (302, DATA)):
        made.identity(number, one)
    made.pod(1, WEB)
    made.pod(2, API)
    made.wiring.put("slices", "s", remote("data", 302, "10.0.2.7"))
    return made


async def settled(made: World) -> None:
    """Everything is in the kernel, and what went has gone. An agent that ends meanwhile raises what it ended of."""
    done = asyncio.create_task(_settled(made))
    tasks = {done} | ({made.task} if made.task else set())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if not done.done():
        done.cancel()
        await asyncio.gather(done, return_exceptions=True)
        assert made.task
        made.task.result()
    await done


async def _settled(made: World) -> None:
    await made.realise()
    async with asyncio.timeout(10):
        while not all(one.settled for one in made.tables.trackers.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)
