"""Each table full, one after the other, on real maps: it is told in `status`, a metric and the policy's condition; what was denied
stays denied, what had fitted stays in force, also where it changes; and with room everything is as wanted again.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.kernel import live
from tests.kernel.live import PROBES, LiveKernel, Prober
from tests.loaded import loaded
from tests.unit.agent.fakes import World, allow_from, pod, policy, quicken, remote

from pilus_agent.facts import EndpointSlice, Node, Service, ServiceEndpoint, ServicePort
from pilus_agent.metrics import Metrics
from pilus_agent.views import Views
from pilus_maps import Datapath

pytestmark = pytest.mark.kernel
SIZES = {"ENDPOINTS": 10, "IPCACHE": 24, "POD_RANGES": 6, "IDENTITIES": 40, "POLICIES": 2, "PEERS": 24, "CIDRS": 8, "VERDICTS": 24,
         "SERVICES": 8, "BACKENDS": 32}  # fmt: skip


@pytest.fixture(scope="module")
def datapath(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Datapath]:
    config = {f"PILUS_{name}_SIZE": size for name, size in SIZES.items()}
    with loaded("full", tmp_path_factory.mktemp("datapath"), config | {"PILUS_FLOWS_SIZE": 512}) as made:
        yield made


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


def _put(world: World, name: str, spec: dict[str, Any] | None, generation: int = 1) -> None:
    world.wiring.put("cnp", f"default/{name}", policy(name, spec, generation) if spec is not None else None)


def _pods(world: World, more: bool) -> None:
    for number in range(4, 12):
        one = pod(f"more{number}", app="more")
        if more:
            world.identity(305, one)
            world.pod(number, one)
        else:
            world.wiring.put("attachments", f"c-{one.name}/eth0", None)


def _remotes(world: World, more: bool) -> None:
    addresses = [f"10.0.2.{number}" for number in range(20, 60)] if more else []
    world.wiring.put("slices", "more", remote("data", 302, *addresses))


def _nodes(world: World, more: bool) -> None:
    for number in range(3, 12):
        node = Node(f"n{number}", (ip_address(f"192.0.2.{number}"),), (), (ip_network(f"10.0.{number}.0/24"),))
        world.wiring.put("nodes", node.name, node if more else None)


def _identities(world: World, more: bool) -> None:
    for number in range(400, 450):
        if more:
            world.identity(number, pod(f"id{number}", app=f"id{number}"))
        else:
            world.wiring.put("identities", str(number), None)


def _policies(world: World, more: bool) -> None:
    """Each pod has its own."""
    for number, name in ((2, "api"), (4, "own4")):
        if number > 2 and more:
            world.identity(305, pod(name, app=name))
            world.pod(number, pod(name, app=name))
        elif number > 2:
            world.wiring.put("attachments", f"c-{name}/eth0", None)
        _put(world, f"of-{name}", allow_from(name, "web", port=number) if more else None)


def _peers(world: World, more: bool) -> None:
    """Selects one identity after the other."""
    for number in range(400, 412):
        if more:
            world.identity(number, pod(f"id{number}", app=f"id{number}"))
        else:
            world.wiring.put("identities", str(number), None)
    _put(world, "wide", _each([f"id{number}" for number in range(400, 412)]) if more else None)


def _each(apps: list[str]) -> dict[str, Any]:
    """Both pods let those in, each with another port, and talk to them."""
    expressions = [{"key": "app", "operator": "In", "values": apps}]
    ports = [{"ports": [{"port": "9000", "protocol": "TCP"}]}]
    return {"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchExpressions": expressions}], "toPorts": ports}],
            "egress": [{}]}  # fmt: skip


def _cidrs(world: World, more: bool) -> None:
    spec = {"endpointSelector": {"matchLabels": {"app": "api"}},
            "ingress": [{"fromCIDR": [f"198.51.{number}.0/24" for number in range(20)]}, {"fromEndpoints": [{}]}]}  # fmt: skip
    _put(world, "cidrs", spec if more else None)


def _verdicts(world: World, more: bool) -> None:
    ports = [{"port": str(1000 + 2 * number), "protocol": "TCP"} for number in range(40)]
    spec = {"endpointSelector": {"matchLabels": {"app": "api"}}, "ingress": [{"toPorts": [{"ports": ports}]}]}
    _put(world, "ports", spec if more else None)


def _service(world: World, name: str, ports: int, backends: int) -> None:
    """`ports` 0: there is none."""
    listed = tuple(ServicePort(f"p{number}", 6, 80 + number) for number in range(ports))
    ends = tuple(ServiceEndpoint(ip_address(f"10.0.2.{number}")) for number in range(10, 10 + backends))
    service = Service("default", name, "ClusterIP", (ip_address("10.96.0.10"),), listed)
    world.wiring.put("services", f"default/{name}", service if ports else None)
    world.wiring.put("endpointslices", f"default/{name}-x", EndpointSlice(f"default/{name}", listed, ends) if ports else None)


def _services(world: World, more: bool) -> None:
    _service(world, "many", 20 if more else 0, 1)


def _backends(world: World, more: bool) -> None:
    _service(world, "large", 1 if more else 0, 40)


@dataclass(frozen=True)
class Overflow:
    """`fill(world, True)` wants more than the table holds; `fill(world, False)` takes it back. `policy`: whose condition tells."""

    table: str
    fill: Callable[[World, bool], None]
    policy: str = ""


OVERFLOWS = (
    Overflow("endpoints", _pods), Overflow("ipcache", _remotes), Overflow("pod_ranges", _nodes),
    Overflow("identities", _identities), Overflow("services", _services), Overflow("backends", _backends),
    Overflow("policies", _policies, "of-own4"), Overflow("peers", _peers, "wide"), Overflow("cidrs", _cidrs, "cidrs"),
    Overflow("verdicts", _verdicts, "ports"),
)  # fmt: skip


@asynccontextmanager
async def running(datapath: Datapath) -> AsyncIterator[World]:
    live.empty(datapath)
    world = live.world(LiveKernel(datapath))
    async with world.running():
        world.sync()
        _put(world, "a", allow_from("web", "api"))
        await live.settled(world)
        yield world


@pytest.mark.parametrize("overflow", OVERFLOWS, ids=lambda one: one.table)
async def test_a_full_table(datapath: Datapath, prober: Prober, overflow: Overflow) -> None:
    async with running(datapath) as world:
        before = prober.all(PROBES)
        assert {probe for probe, passes in before.items() if passes and probe.to == "web"} == {live.Probe("api", "web", 80)}
        overflow.fill(world, True)
        await world.wiring.until(lambda: overflow.table in world.wiring.trouble, 10)
        trouble = world.wiring.trouble[overflow.table]
        assert "can't be written" in trouble.message
        _is_told(world, overflow)
        found = prober.all(PROBES)
        leaked = [probe for probe, passes in found.items() if passes and not before[probe]]
        assert not leaked, "denied before, and nobody has allowed it"
        if not overflow.policy:
            assert found == before, "what had fitted is in force"
        # What fits goes on to change: the pod that had let in one lets in another.
        _put(world, "a", allow_from("web", "data", port=443), 2)
        if overflow.policy:
            await world.wiring.until(lambda: False, 0.1)  # other policies wait for room with it, as they are told
            assert not [probe for probe, passes in prober.all(PROBES).items() if passes and not before[probe]]
        else:
            await _changed(prober, world)
        overflow.fill(world, False)
        await live.settled(world)
        assert world.wiring.trouble == {}
        now = prober.all(PROBES)
        assert {probe for probe, passes in now.items() if passes and probe.to == "web"} == {live.Probe("data", "web", 443)}


async def _changed(prober: Prober, world: World) -> None:
    wanted = {live.Probe("data", "web", 443)}

    def done() -> bool:
        return {probe for probe, passes in prober.all(PROBES).items() if passes and probe.to == "web"} == wanted

    assert await world.wiring.until(done, 5), "a policy that fits is not put in force because something else does not fit"


def _is_told(world: World, overflow: Overflow) -> None:
    checks = Views(world.wiring, "0", 0.0).answer({"get": "status"})["item"]["checks"]
    assert [check["state"] for check in checks if check["name"] == overflow.table] == ["degraded"]
    metrics = Metrics("0")
    metrics.update(world.wiring)
    assert metrics.registry.get_sample_value("pilus_agent_trouble", {"what": overflow.table}) == 1
    if overflow.policy:
        told = {one["uid"]: one for one in world.wiring.policy.acknowledgements(world.wiring.unwritten)}
        assert not told[f"uid-{overflow.policy}"]["realised"]
        assert overflow.table in told[f"uid-{overflow.policy}"]["error"]
