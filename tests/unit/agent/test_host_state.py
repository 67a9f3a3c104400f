"""What an agent leaves for its node's next boot, and what comes of it there."""

import asyncio
import json
from ipaddress import ip_network
from pathlib import Path

import pytest
from tests.unit.agent.fakes import FakeDatapath, FakeKernel, allow_from, policy
from tests.unit.agent.test_host_policy import WORLD_TO_80, about_nodes, flags, guarded, host_row, why

from pilus_agent import host_state
from pilus_agent.decisions import Decisions
from pilus_agent.early import enforce
from pilus_agent.host_state import HostStateFile
from pilus_agent.judgement import HOST_FIREWALL
from pilus_agent.tables import Tables
from pilus_api.errors import InvalidError

pytestmark = pytest.mark.usefixtures("quick")

HELD = about_nodes("edge", {"ingress": [WORLD_TO_80, {"fromCIDRSet": [{"cidrGroupRef": "office"}]}]}, {"role": "edge"})


async def _left(kernel: FakeKernel, path: Path) -> Decisions:
    """The decisions of an agent that has written its file and ended."""
    world = guarded(kernel, HELD, labels={"role": "edge"}, host_firewall_lifelines=("ssh", "tcp/2222"))
    world.wiring.put("cidrgroups", "office", (ip_network("192.0.9.0/24"),))
    world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
    async with world.running():
        await world.realise()
        await HostStateFile(path).write(world.wiring.desired, "eth7")
    return world.wiring.desired


async def test_the_same_rows_come_of_it(kernel: FakeKernel, datapath: FakeDatapath, tmp_path: Path) -> None:
    """Those of the host's policy, under the same content; none of pods."""
    path = tmp_path / "held.json"
    before = await _left(kernel, path)
    state = host_state.read(path)
    assert state is not None
    assert (state.node, state.uplink, state.api_server, state.settings) == ("n1", "eth7", "", before.settings)
    made = Decisions(state.node, state.settings, Tables.of(datapath.description["maps"]), claimed=False)
    for kind, key, fact in state.facts:
        made.put(kind, key, fact)
    made.decide_nodes()
    made.decide_endpoints()
    assert made.host == before.host
    assert list(made.policy.objects.about_nodes()) == ["ccnp/edge"]
    assert made.policy.host.lifelines == ("ssh", "tcp/2222")
    assert {row[0]["address"] for row in made.ipcache.rows.values()} <= {row[0]["address"] for row in before.ipcache.rows.values()}


async def test_it_is_written_when_it_changes_and_goes_with_the_last_policy(kernel: FakeKernel, tmp_path: Path) -> None:
    path = tmp_path / "held.json"
    world = guarded(kernel, HELD, labels={"role": "edge"})
    held = HostStateFile(path)
    async with world.running():
        await world.realise()
        await held.write(world.wiring.desired, "eth7")
        assert path.stat().st_mode & 0o777 == 0o600
        first = path.stat().st_ino
        await held.write(world.wiring.desired, "eth7")
        assert path.stat().st_ino == first
        world.wiring.put("nodelabels", "n1", (("role", "inner"),))
        await world.realise()
        await held.write(world.wiring.desired, "eth7")
        assert json.loads(path.read_text())["labels"] == [["role", "inner"]]
        world.wiring.put("ccnp", "edge", None)
        await world.realise()
        await held.write(world.wiring.desired, "eth7")
    assert not path.exists()
    assert host_state.read(path) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"version": 2}', "{" * 100, '{"version": 1, "node": "n1"}'])
def test_a_broken_file_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "held.json"
    path.write_text(text)
    with pytest.raises(InvalidError):
        host_state.read(path)


async def test_tables_are_filled_before_there_is_a_link(kernel: FakeKernel, datapath: FakeDatapath, tmp_path: Path) -> None:
    """And an agent that starts afterwards finds its own."""
    path = tmp_path / "held.json"
    await _left(kernel, path)
    state = host_state.read(path)
    assert state is not None
    fresh = FakeKernel(datapath)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(enforce(state, fresh, 0.1), 10)
    again = guarded(fresh, HELD, labels={"role": "edge"}, host_firewall_lifelines=("ssh", "tcp/2222"))
    again.wiring.put("cidrgroups", "office", (ip_network("192.0.9.0/24"),))
    row = host_row(again)
    assert row is not None
    assert flags(again) & HOST_FIREWALL
    async with again.running():
        await again.realise()
        assert host_row(again) == row
        assert why(again, "192.0.9.9", "host", 443).startswith("allow")
        assert "the tables stay" in await enforce(state, fresh, 0)


async def test_a_second_try_after_one_that_found_no_link(kernel: FakeKernel, datapath: FakeDatapath, tmp_path: Path) -> None:
    """It waits again: tables alone guard nothing."""
    path = tmp_path / "held.json"
    await _left(kernel, path)
    state = host_state.read(path)
    assert state is not None
    fresh = FakeKernel(datapath)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await enforce(state, fresh, 0.1)


async def test_what_closes_every_node_is_kept_too(kernel: FakeKernel, tmp_path: Path) -> None:
    """Without any policy about nodes: `enable-policy: always`, and the host firewall switched on."""
    path = tmp_path / "held.json"
    world = guarded(kernel, enable_policy="always", enable_host_firewall=True)
    async with world.running():
        await world.realise()
        await HostStateFile(path).write(world.wiring.desired, "eth7")
    state = host_state.read(path)
    assert state is not None
    assert state.settings.enable_host_firewall


async def test_other_nodes_are_known_by_their_labels(kernel: FakeKernel, datapath: FakeDatapath, tmp_path: Path) -> None:
    """Else a denial of some nodes would let them in until the agent starts."""
    path = tmp_path / "held.json"
    denied = {"fromNodes": [{"matchLabels": {"role": "bad"}}]}
    bad = about_nodes("bad", {"ingress": [{"fromEntities": ["all"]}], "ingressDeny": [denied]})
    world = guarded(kernel, bad, enable_node_selector_labels=True)
    world.wiring.put("nodelabels", "n2", (("role", "bad"),))
    async with world.running():
        await world.realise()
        await HostStateFile(path).write(world.wiring.desired, "eth7")
        n2 = world.known("192.0.2.2")
    state = host_state.read(path)
    assert state is not None
    fresh = FakeKernel(datapath)
    with pytest.raises(TimeoutError):
        await enforce(state, fresh, 0.1)
    again = guarded(fresh, enable_node_selector_labels=True)
    assert again.known("192.0.2.2") == n2
    assert n2 is not None
    assert n2["identity"] >> 24
