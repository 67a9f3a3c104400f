"""What the agent shows of itself, from a wiring's state, and the tables under it."""

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.unit.agent.fakes import (
    FakeDatapath,
    FakeKernel,
    World,
    allow_from,
    described,
    pod,
    policy,
    quicken,
    remote,
)

from pilus_agent.diff.order import WRITE_ORDER
from pilus_agent.tables import Tables
from pilus_agent.views import Views
from pilus_api.errors import PilusError

WEB, API = pod("web", app="web"), pod("api", app="api")


@pytest.fixture
async def world(datapath: FakeDatapath, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    quicken(monkeypatch)
    found = World(FakeKernel(datapath))
    found.begin()
    found.identity(300, WEB)
    found.identity(301, API)
    found.pod(2, WEB)
    found.pod(1, pod("new", app="new"))
    found.wiring.put("slices", "s", remote("far", 301, "10.0.2.7"))
    found.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
    found.sync()
    async with found.running():
        await found.realise()
        yield found


def ask(world: World, **asked: Any) -> Any:
    answer = Views(world.wiring, "1.0", time.monotonic()).answer(asked)
    assert json.loads(json.dumps(answer))  # it goes through the socket
    return answer["item"] if "item" in answer else answer["items"]


async def test_endpoints(world: World) -> None:
    waiting, ready = ask(world, get="endpoints")
    assert (waiting["number"], waiting["state"], waiting["identity"]) == (1, "waiting-for-identity", None)
    assert (ready["number"], ready["name"], ready["ipv4"], ready["ipv6"], ready["identity"]) == (2, "web", "10.0.1.12", None, 300)
    assert ready["ingress_enforced"]
    assert not ready["egress_enforced"]
    assert ready["policy_number"] == (world.endpoint("10.0.1.12") or {})["policy"] > 0
    assert "k8s:app=web" in ready["labels"]


async def test_identities(world: World) -> None:
    found = {item["identity"]: item for item in ask(world, get="identities")}
    assert found[1]["reserved"]
    assert (found[300]["endpoints"], found[300]["known"], found[301]["endpoints"]) == (1, True, 0)


async def test_addresses_and_nodes(world: World) -> None:
    found = {item["prefix"]: item for item in ask(world, get="ipcache")}
    assert found["10.0.1.12/32"]["name"] == "default/web"
    assert found["10.0.1.12/32"]["flags"] == ["pod", "local"]
    assert (found["10.0.2.7/32"]["tunnel"], found["10.0.2.7/32"]["name"]) == ("192.0.2.2", "default/far")
    assert found["192.0.2.2/32"]["name"] == "node n2"
    assert found["192.0.2.1/32"]["identity"] == 1
    nodes = ask(world, get="nodes")
    assert [(one["name"], one["local"], one["routers"]) for one in nodes] == [
        ("n1", True, ["10.0.1.1"]),
        ("n2", False, ["10.0.2.1"]),
    ]


async def test_policy(world: World) -> None:
    (one,) = ask(world, get="policies")
    assert (one["name"], one["endpoints"], one["realised"]) == ("a", [2], True)
    found = ask(world, get="policy", endpoint=2)
    assert found["endpoint"] == 2
    assert found["ingress"]["enforced"]
    assert not found["egress"]["enforced"]


async def test_status(world: World) -> None:
    found = ask(world, get="status")
    assert found["node"] == "n1"
    assert {check["name"]: check["state"] for check in found["checks"]} == {"api-server": "ok", "pods": "ok", "host firewall": "ok"}
    rows = {one["name"]: one["entries"] for one in found["maps"]}
    assert rows["endpoints"] == 4
    world.kernel.room["endpoints"] = 2
    world.pod(3, pod("third", app="api"))
    await world.wiring.until(lambda: "endpoints" in world.wiring.trouble, 5)
    (check,) = [check for check in ask(world, get="status")["checks"] if check["name"] == "endpoints"]
    assert check["state"] == "degraded"
    assert check["message"]
    assert check["action"]


async def test_status_before_everything_is_told(datapath: FakeDatapath) -> None:
    world = World(FakeKernel(datapath))
    world.wiring.synced("pods")
    checks = {check["name"]: check for check in ask(world, get="status")["checks"]}
    assert checks["api-server"]["state"] == checks["pods"]["state"] == "failed"
    assert "nodes" in checks["api-server"]["message"]
    assert "pods" not in checks["api-server"]["message"]


@pytest.mark.parametrize(
    "asked", [{}, {"get": None}, {"get": ["status"]}, {"get": "cats"}, {"get": "policy"}, {"get": "policy", "endpoint": 77},
              {"get": "policy", "endpoint": ["2"]}, {"get": "policy", "endpoint": "2"}],
)  # fmt: skip
async def test_what_can_not_be_asked(world: World, asked: dict[str, Any]) -> None:
    with pytest.raises(PilusError):
        Views(world.wiring, "1.0", 0).answer(asked)


# -- tables --------------------------------------------------------------------------------------------------------------------


def test_tables_speak_the_layouts_of_the_programs() -> None:
    tables = Tables.of(described()["maps"])
    assert set(tables.trackers) == set(tables.layouts) == set(WRITE_ORDER)
    tables.want("identities", 300, {"cluster": 1})
    assert tables.trackers["identities"].updates == {(300).to_bytes(4, "little"): bytes([1, 0, 0, 0, 0, 0, 0, 0])}
    tables.want("identities", 300, None)
    assert tables.trackers["identities"].settled
    tables.want_all("identities", [(5, {}), (6, {})])
    tables.want_all("identities", [(6, {})])
    assert list(tables.trackers["identities"].wanted) == [(6).to_bytes(4, "little")]
    with pytest.raises(KeyError, match="no such field"):
        tables.want("identities", 300, {"colour": 1})
    assert tables.full == {}
    room = tables.layouts["endpoints"].max_entries
    tables.want_all("endpoints", (({"family": 4, "address": n.to_bytes(16, "big")}, {"number": 1}) for n in range(room + 1)))
    assert tables.full == {"endpoints": (room + 1, room)}
