"""`pilus-early`: what policies last said about this node, in force before its network is up. Ends when it is.

In: the file that the agent has left (host_state.py). Out: filled tables, and programs on the link to the other nodes as soon as
it is there, before it carries anything. The agent finds the tables when it starts, and goes on from there.
"""

import asyncio
import socket
import sys
from pathlib import Path
from typing import Final

import click
import structlog

from pilus_agent import host_state
from pilus_agent.datapath import changes
from pilus_agent.datapath.changes import Ledger
from pilus_agent.datapath.kernel import Kernel
from pilus_agent.datapath.node import UPLINK_PRIORITY, NodeLinks, attach
from pilus_agent.datapath.programs import ensure_loaded
from pilus_agent.decisions import Decisions
from pilus_agent.host_state import HostState
from pilus_agent.main import PINS, RUNTIME, SIZES, STATE
from pilus_agent.tables import Tables
from pilus_agent.writer import Troubles, Writer
from pilus_api.errors import PilusError

_log = structlog.get_logger(__name__)
_DONE: Final = "it was done before, or an agent has run since the machine started: the tables stay"
_LINKS_OF_THE_KERNEL: Final = 1  # RTMGRP_LINK


async def _link(kernel: Kernel, name: str) -> int:
    """Its index, as soon as there is one."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE) as told:
        told.bind((0, _LINKS_OF_THE_KERNEL))  # before the first look: what comes meanwhile is told
        while not (index := await kernel.call(lambda: kernel.netlink().index(name))):
            await asyncio.get_running_loop().sock_recv(told, 1 << 16)
    return index


async def enforce(state: HostState, kernel: Kernel, patience: float) -> str:
    """What was done, in words. Raises PilusError; TimeoutError if there is no such link within `patience` seconds."""
    tables, troubles = Tables.of(kernel.datapath.description["maps"]), Troubles()
    desired = Decisions(state.node, state.settings, tables, claimed=False, api_server=state.api_server)
    for kind, key, fact in state.facts:
        desired.put(kind, key, fact)
    writer = Writer(kernel, tables, troubles, desired.swept, lambda: None)
    await writer.hold()
    layout = tables.layouts["settings"].value
    if any(layout.decode(row)["uplink_ifindex"] for row in tables.trackers["settings"].held.values()):
        return _DONE
    desired.decide_nodes()
    desired.decide_endpoints()
    desired.decide_addresses()
    if desired.host is None:
        return "no policy is about this node"

    async def settle(uplink: int) -> None:
        desired.decide_settings(NodeLinks(uplink, 0, 0, 0, 0))
        if not await writer.write():
            raise PilusError("; ".join(trouble.message for trouble in troubles.held.values()))

    await settle(0)
    async with asyncio.timeout(patience):
        index = await _link(kernel, state.uplink)
    await settle(index)
    await kernel.call(lambda: attach(kernel.netlink(), kernel.datapath, index, "uplink", UPLINK_PRIORITY))
    return f"in force on {state.uplink}; lifelines: {', '.join(desired.policy.host.lifelines) or 'none'}"


async def _run(state: HostState, patience: float) -> str:
    if (RUNTIME / "agent.sock").exists():  # what it has loaded may be of another release than ours
        return _DONE
    datapath = await asyncio.to_thread(ensure_loaded, PINS, RUNTIME / "datapath.json", STATE / "cache", SIZES)
    kernel = Kernel(datapath, Ledger(STATE / changes.NAME))
    try:
        return await enforce(state, kernel, patience)
    finally:
        await kernel.close()


@click.command()
@click.option("--wait", "patience", type=click.FloatRange(min=0), default=60.0, show_default=True,
              help="Seconds to wait for the link to the other nodes.")  # fmt: skip
def main(patience: float) -> None:
    """What policies last said about this node, in force before its network is up (`pilus install --early`)."""
    try:
        RUNTIME.mkdir(parents=True, exist_ok=True)
        state = host_state.read(Path(STATE / host_state.NAME))
        done = asyncio.run(_run(state, patience)) if state else "no policy was about this node"
        click.echo(f"pilus-early: {done}")
    except TimeoutError:
        click.echo(f"pilus-early: no link {state.uplink if state else ''} came within {patience:g} s", err=True)
        sys.exit(1)
    except PilusError as error:
        click.echo(f"pilus-early: {error}", err=True)
        sys.exit(1)
