"""Somebody takes a link, a route or a filter of this node away, or makes its uplink another: it is as wanted again within a second,
and an agent that hears of it does not wait for its next look. How long it took is printed.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from tests.kernel.test_restart import OPEN, Agent, Pods, Traffic, loaded, on_a_node_of_its_own, until
from tests.unit.agent.fakes import no_cgroup

from pilus_agent.sources import netlink

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
Change = Callable[[IPRoute], object]


def _index(ip: IPRoute, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    return int(found[0]) if found else 0


def _mtu(size: int) -> Change:
    return lambda ip: ip.link("set", index=_index(ip, "up0"), mtu=size)


CHANGES: dict[str, Change] = {
    "the tunnel link deleted": lambda ip: ip.link("del", index=_index(ip, "pilus_vxlan")),
    "the tunnel link set down": lambda ip: ip.link("set", index=_index(ip, "pilus_vxlan"), state="down"),
    "the router link deleted": lambda ip: ip.link("del", index=_index(ip, "pilus_host")),
    "the router link set down": lambda ip: ip.link("set", index=_index(ip, "pilus_host"), state="down"),
    "the router's address removed": lambda ip: ip.flush_addr(index=_index(ip, "pilus_host")),
    "the tunnel's filters removed": lambda ip: ip.tc("del", "clsact", _index(ip, "pilus_vxlan")),
    "a pod's filters removed": lambda ip: ip.tc("del", "clsact", next(one["index"] for one in ip.get_links()
                                                                     if str(one.get("IFLA_IFNAME")).startswith("plx"))),
    "the uplink's filters removed": lambda ip: ip.tc("del", "clsact", _index(ip, "up0")),
    "the uplink's MTU shrunk": _mtu(1400),
    "the uplink's MTU as before": _mtu(1500),
}  # fmt: skip


async def _whole(agent: Agent) -> tuple[object, ...]:
    """All that the agent has made: links by name, MTU, whether up, addresses, routes; filters; the settings."""

    def look() -> tuple[object, ...]:
        with IPRoute() as ip:
            links = tuple(
                (
                    name,
                    held.get("IFLA_MTU"),
                    held["flags"] & 1,
                    tuple(sorted(str(one.get("IFA_ADDRESS")) for one in ip.get_addr(index=index))),
                )
                for name in ("pilus_host", "pilus_net", "pilus_vxlan")
                if (index := _index(ip, name))
                for held in [ip.link("get", index=index)[0]]
            )
            return links, _index(ip, "pilus_vxlan")

    links, tunnel = await agent.kernel.call(look)
    settings = await agent.kernel.call(agent.kernel.datapath.map("settings").lookup, 0)
    uplink = [held for name, held in (await agent.filters()).items() if name.startswith("up0 ")]
    tunnels = [held for name, held in (await agent.filters()).items() if name.startswith("pilus_vxlan ")]
    of_pods = [held for name, held in (await agent.filters()).items() if name.startswith("plx")]
    matches = settings["tunnel_ifindex"] == tunnel
    return links, matches, settings["uplink_mtu"], settings["tunnel_mtu"], len(uplink), len(tunnels), len(of_pods)


def test_what_somebody_changes_is_as_wanted_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        with loaded(tmp_path) as description, ExitStack() as stack, no_cgroup():
            pods = Pods(stack)
            agent = Agent(description, tmp_path / "endpoints")
            async with agent.running():
                web = await agent.add("web", pods.places["web"])
                await agent.add("api", pods.places["api"])
                receiver = pods.socket("web", bound=("0.0.0.0", OPEN))
                traffic = Traffic(pods.socket("api", to=(str(web.addresses[0]), OPEN)), receiver)
                source = asyncio.create_task(netlink.follow(agent.wiring), name="netlink")
                try:
                    before = await _whole(agent)
                    assert before[1:] == (True, 1500, 1450, 2, 2, 4)
                    with traffic:
                        for name, change in CHANGES.items():
                            print(f"{name}: {await _repaired(agent, name, change, before):.3f} s")
                        assert traffic.passed
                    assert traffic.lost <= 1, "but for the one whose filter was taken, pods have nothing to do with any of it"
                    assert agent.wiring.trouble == {}
                    quiet = agent.wiring.passes
                    await asyncio.sleep(1.2)  # longer than the audit's second: what it repairs must not make it repair
                    assert agent.wiring.passes == quiet
                finally:
                    source.cancel()
                    await asyncio.gather(source, return_exceptions=True)

    on_a_node_of_its_own(scenario)


async def _repaired(agent: Agent, name: str, change: Change, before: tuple[object, ...]) -> float:
    def do() -> None:
        with IPRoute() as ip:
            change(ip)

    wanted = before
    if name.endswith("shrunk"):
        links = tuple((one, 1350, *rest) for one, _, *rest in before[0])  # type: ignore[attr-defined]
        wanted = (links, True, 1400, 1350, 2, 2, 4)
    await agent.kernel.call(do)
    started = time.monotonic()

    async def as_wanted() -> bool:
        return await _whole(agent) == wanted

    await until(as_wanted, name)
    return time.monotonic() - started
