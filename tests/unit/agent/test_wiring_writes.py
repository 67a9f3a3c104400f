"""The wiring on a fake kernel: in which order rows are written, and what stays when something goes wrong."""

import asyncio
import errno
from copy import deepcopy
from typing import Any

import pytest
from tests.unit.agent.fakes import (
    FakeDatapath,
    FakeKernel,
    Killed,
    World,
    allow_from,
    eventually,
    no_cgroup,
    pod,
    policy,
    remote,
)
from tests.unit.agent.populated import Whole, meaning, populated, prefixes
from tests.unit.agent.test_policy_stage import huge

from pilus_agent import writer
from pilus_agent.datapath.links import LinkError

pytestmark = pytest.mark.usefixtures("quick")


# -- the order of writes -------------------------------------------------------------------------------------------------------

STEPS: list[tuple[str, Any]] = [
    ("a policy", lambda world: world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))),
    ("another for the other", lambda world: world.wiring.put("cnp", "default/b", policy("b", allow_from("api", "web", "data")))),
    ("it changes", lambda world: world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data", port=443), 2))),
    ("a pod more", lambda world: world.pod(3, pod("web2", app="web"))),
    ("an identity more, which a policy selects", lambda world: world.identity(310, pod("data2", app="data", tier="x"))),
    ("a pod becomes another", lambda world: world.wiring.put("pods", "default/web", pod("web", app="api"))),
    ("address rules", lambda world: world.wiring.put("cnp", "default/c", policy("c", {
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "egress": [{"toCIDRSet": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.8/29"]}]}],
    }))),
    ("fewer", lambda world: world.wiring.put("cnp", "default/b", None)),
    ("a pod less", lambda world: world.wiring.put("attachments", "c-web2/eth0", None)),
    ("none", lambda world: [world.wiring.put("cnp", f"default/{name}", None) for name in "ac"]),
]  # fmt: skip


async def test_no_packet_is_ever_judged_by_half_a_policy(kernel: FakeKernel) -> None:
    """Between any two rows that are written or removed, every policy that an endpoint points at is whole."""
    world = populated(kernel)
    whole = Whole(world)
    start = deepcopy(kernel.rows)
    async with world.running():
        await world.realise()
        for _, step in STEPS:
            step(world)
            await world.realise()
            whole.learn(kernel.rows)
            await eventually(lambda: all(one.settled for one in world.tables.trackers.values()), "the sweep")
            whole.learn(kernel.rows)
    assert len(whole.whole) >= 4
    count = 0
    for rows in prefixes(start, kernel.log):
        whole.check(rows)
        count += 1
    assert count > 60
    assert rows == kernel.rows


async def _life(world: World, steps: int, lives: int | None) -> bool:
    """Begins, goes the steps one by one; whether it lived through all."""
    world.kernel.lives = lives
    with no_cgroup():
        return await _lived(world, steps)


async def _lived(world: World, steps: int) -> bool:
    task = asyncio.create_task(world.wiring.run())
    try:
        for _, step in [("begin", lambda world: world.sync()), *STEPS[:steps]]:
            step(world)
            realised = asyncio.create_task(world.wiring.realise(20))
            await asyncio.wait({realised, task}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                realised.cancel()
                await asyncio.gather(realised, return_exceptions=True)
                with pytest.raises(BaseExceptionGroup) as died:
                    task.result()
                assert died.group_contains(Killed) if hasattr(died, "group_contains") else died.value.split(Killed)[0]
                return False
        return True
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_killed_between_any_two_writes(datapath: FakeDatapath) -> None:
    """A new agent finishes what the old one left in the middle, and on the way nothing is judged by half of it either."""
    steps = 7
    sample = populated(FakeKernel(datapath), synced=False)
    whole = Whole(sample)
    async with sample.running():
        sample.sync()
        await sample.realise()
        for _, step in STEPS[:steps]:
            step(sample)
            await sample.realise()
            whole.learn(sample.kernel.rows)
        await eventually(lambda: all(one.settled for one in sample.tables.trackers.values()), "the sweep")
    total = len(sample.kernel.log)
    wanted = meaning(sample, sample.kernel.rows)
    assert total > 40
    for lives in range(total):
        first = populated(FakeKernel(datapath), synced=False)
        if await _life(first, steps, lives):
            continue  # its sweep had not come by then
        rows = first.kernel.rows
        second = populated(FakeKernel(datapath, rows, first.kernel.links), synced=False)
        for _, step in STEPS[:steps]:
            step(second)
        start = deepcopy(rows)
        second.sync()
        async with second.running():
            await second.realise()
            await eventually(lambda world=second: all(one.settled for one in world.tables.trackers.values()), "the sweep")  # type: ignore[misc]
        assert meaning(second, rows) == wanted, f"killed after {lives} rows"
        for between in prefixes(start, second.kernel.log):
            whole.check(between)


async def test_rows_go_a_while_after_nothing_points_at_them(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_LINGER_SECONDS", 3600)
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        before = {table: dict(kernel.rows[table]) for table in ("policies", "peers", "verdicts")}
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data", port=443), 2))
        await world.realise()
        for table, rows in before.items():
            assert rows.items() <= kernel.rows[table].items(), table  # a packet in flight may still read them


async def test_a_sweep_takes_nothing_that_is_still_pointed_at(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was scheduled for what was unwanted then; what a pass in its middle does not want yet is another matter."""
    monkeypatch.setattr(writer, "_LINGER_SECONDS", 0.05)
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        world.wiring.put("cnp", "default/b", policy("b", allow_from("api", "web")))
        await world.realise()
        world.wiring.put("cnp", "default/b", None)  # schedules a sweep
        await world.realise()
        held = world.endpoint("10.0.1.11")
        assert held is not None
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * writer._LINGER_SECONDS, over.set)
        kernel.wait["endpoints"] = asyncio.Event()
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data"), 2))
        await eventually(lambda: "endpoints" in kernel.waiting, "the pass stands before the switch")
        await over.wait()
        assert world.endpoint("10.0.1.11") == held
        policies = {key for key, _ in world.rows("policies")}
        kernel.wait["endpoints"].set()
        await world.realise()
        assert held["policy"] in policies, "the policy went before its endpoint was switched"


# -- full, refused, repaired ---------------------------------------------------------------------------------------------------


async def test_a_full_table_keeps_what_was_enforced_and_says_so(kernel: FakeKernel, logs: list[dict[str, object]]) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        await eventually(lambda: all(one.settled for one in world.tables.trackers.values()), "the sweep")
        before = meaning(world, kernel.rows)
        kernel.room["peers"] = len(kernel.rows["peers"]) + 1
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api", "data"), 2))
        await world.wiring.until(lambda: "peers" in world.wiring.trouble, 5)
        assert "stays so" in world.wiring.trouble["peers"].message
        assert not await world.wiring.realise(0.05)
        assert meaning(world, kernel.rows) == before
        assert len([one for one in logs if one["event"] == "not as wanted, trying again"]) == 1  # at the change alone

        # What has nothing to do with it goes on.
        world.wiring.put("slices", "t", remote("data", 302, "10.0.2.9"))
        await eventually(lambda: world.known("10.0.2.9"), "the address")
        assert meaning(world, kernel.rows) == before

        del kernel.room["peers"]
        await world.realise()
        assert world.wiring.trouble == {}
        after = meaning(world, kernel.rows)["10.0.1.11"]["policy"]
        assert after["peers"][0, 302] == before["10.0.1.11"]["policy"]["peers"][0, 301]


async def test_while_one_policy_is_too_large_new_identities_are_refused_and_that_is_told(kernel: FakeKernel) -> None:
    """The rows that stay know nothing of them, and what they say to strangers may be open. It is so for all pods of the node, also
    for those of others than the policy's."""

    def known() -> set[int]:
        return {key for key, _ in world.rows("identities")}

    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        world.wiring.put("cnp", "default/a", policy("a", huge(), 2))
        await world.realise()
        before = known()
        world.identity(303, pod("new", app="new"))
        await world.realise()
        assert known() == before
        (check,) = [one for one in world.wiring.policy.checks() if one["state"] != "ok"]
        assert check["name"] == "policy cnp/default/a"
        assert check["message"].endswith("identities that are new to this node are refused meanwhile")
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api"), 3))
        await world.realise()
        assert known() == {*before, 303}


async def test_full_endpoints_keep_the_others(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.room["endpoints"] = 4  # two pods, each by its address and by its link
    async with world.running():
        await world.realise()
        world.identity(303, pod("new", app="new"))
        world.pod(3, pod("new", app="new"))
        await world.wiring.until(lambda: "endpoints" in world.wiring.trouble, 5)
        assert world.endpoint("10.0.1.11")
        assert not world.wiring.settled("c-new/eth0")
        assert world.wiring.settled("c-web/eth0")
        world.wiring.put("attachments", "c-api/eth0", None)
        await world.realise()
        assert world.wiring.settled("c-new/eth0")
        assert world.wiring.trouble == {}


async def test_trouble_ends_when_what_did_not_fit_is_wanted_no_more(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.room["endpoints"] = 4  # two pods, each by its address and by its link
    async with world.running():
        await world.realise()
        world.identity(303, pod("new", app="new"))
        world.pod(3, pod("new", app="new"))
        await world.wiring.until(lambda: "endpoints" in world.wiring.trouble, 5)
        world.wiring.put("attachments", "c-new/eth0", None)
        await world.realise()
        assert world.wiring.trouble == {}


async def test_a_policy_that_did_not_fit_makes_room_for_one_that_does(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        await eventually(lambda: all(one.settled for one in world.tables.trackers.values()), "the sweep")
        kernel.room["peers"] = len(kernel.rows["peers"]) + 2
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api", "data"), 2))
        await world.wiring.until(lambda: "peers" in world.wiring.trouble, 5)
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data"), 3))  # fits once the half of the other has gone
        await world.realise()
        assert world.wiring.trouble == {}


@pytest.mark.parametrize("table", ["endpoints", "ipcache"])
async def test_rows_that_can_not_be_removed_are_tried_again(kernel: FakeKernel, table: str) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        kernel.refuse[table] = errno.EPERM
        world.wiring.put("attachments", "c-web/eth0", None)
        await world.wiring.until(lambda: table in world.wiring.trouble, 5)
        assert "can't be removed" in world.wiring.trouble[table].message
        del kernel.refuse[table]
        await world.realise()
        assert world.endpoint("10.0.1.11") is None
        assert world.known("10.0.1.11") is None
        assert world.wiring.trouble == {}


async def test_a_filter_that_somebody_took_is_put_back(kernel: FakeKernel, logs: list[dict[str, object]]) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        tunnel = kernel.links.links["pilus_vxlan"]
        wanted = dict(tunnel.filters)
        assert set(wanted) == {"ingress", "egress"}
        del tunnel.filters["ingress"]
        await eventually(lambda: tunnel.filters == wanted, "the audit")
        tunnel.filters["egress"] = "somebody-else"
        await eventually(lambda: tunnel.filters == wanted, "the audit")
        del kernel.links.links["pilus_vxlan"]
        await eventually(lambda: kernel.links.index("pilus_vxlan"), "the tunnel")
        index = kernel.links.index("pilus_vxlan")
        await eventually(lambda: world.rows("settings")[0][1]["tunnel_ifindex"] == index, "the settings")
    assert any(one["event"] == "filters were missing or old, put back" for one in logs)


async def test_an_audit_that_fails_goes_on(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        kernel.links.links["pilus_vxlan"].filters.clear()
        kernel.links.fail["attach"] = LinkError("no buffer space")
        await eventually(lambda: "audit" in world.wiring.trouble, "the failure")
        await eventually(lambda: not world.wiring.trouble, "the next audit")
    assert kernel.links.links["pilus_vxlan"].filters
