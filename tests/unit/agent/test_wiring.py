"""The wiring on a fake kernel: what reaches the tables of whom, and who waits for it."""

import asyncio
from copy import deepcopy
from dataclasses import replace
from ipaddress import ip_network

import pytest
from tests.unit.agent.fakes import (
    NAMESPACE,
    NAMESPACE_LABELS,
    OWN,
    FakeDatapath,
    FakeKernel,
    World,
    allow_from,
    attachment,
    eventually,
    pod,
    policy,
    remote,
)
from tests.unit.agent.populated import API, DATA, WEB, meaning, populated

from pilus_agent.desired.endpoints import INGRESS_ENFORCED, READY, State
from pilus_agent.desired.nodes import LOCAL, NODE, POD
from pilus_agent.facts import Namespace
from pilus_agent.wiring import NEEDED, Wiring
from pilus_api.identities import INIT
from pilus_api.label_filters import IdentityFilter
from pilus_api.settings import Settings

pytestmark = pytest.mark.usefixtures("quick")


# -- facts to rows -------------------------------------------------------------------------------------------------------------


async def test_a_pod_gets_its_rows(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
    row = world.endpoint("10.0.1.11")
    assert row is not None
    assert {name: row[name] for name in ("ifindex", "identity", "policy", "number", "flags", "slot")} == {
        "ifindex": 101, "identity": 300, "policy": 0, "number": 1, "flags": READY, "slot": 1,
    }  # fmt: skip
    assert (row["mac"].hex(), row["gateway_mac"].hex()) == ("020000000001", "020000000101")
    assert (world.known("10.0.1.11") or {})["flags"] == POD | LOCAL
    assert (world.known("10.0.1.11") or {})["identity"] == 300
    assert (world.known("10.0.2.7") or {})["identity"] == 302
    assert (world.known("192.0.2.1") or {})["flags"] == NODE | LOCAL
    assert {300, 301, 302, 1, 2, 6} <= {key for key, _ in world.rows("identities")}
    ((_, settings),) = world.rows("settings")
    assert settings["flags"] & 3 == 3
    assert settings["node_ipv4"][:4] == bytes([192, 0, 2, 1])
    assert settings["router_ipv4"][:4] == bytes([10, 0, 1, 1])
    assert settings["tunnel_ifindex"] == kernel.links.index("pilus_vxlan")
    assert kernel.links.routes == {ip_network("10.0.2.0/24")}
    assert world.wiring.endpoints["c-web/eth0"].state is State.READY
    assert world.wiring.trouble == {}
    assert world.wiring.ready
    assert world.wiring.settled("c-web/eth0")
    assert not world.wiring.settled("c-nobody/eth0")


@pytest.mark.parametrize("missing", sorted(NEEDED))
async def test_nothing_is_touched_before_everything_is_told(kernel: FakeKernel, missing: str) -> None:
    first = populated(kernel)
    async with first.running():
        await first.realise()
    before, kernel.log = deepcopy(kernel.rows), []
    second = World(kernel, NEEDED)
    async with second.running():
        for kind in NEEDED - {missing}:
            second.wiring.synced(kind)
        second.begin()
        assert not await second.wiring.realise(0.03)
        assert not second.wiring.in_sync
        assert not second.wiring.ready
    assert (kernel.rows, kernel.log, kernel.links.routes) == (before, [], {ip_network("10.0.2.0/24")})


def test_labels_that_count_are_those_that_the_process_has_been_told(kernel: FakeKernel) -> None:
    """The filter that it read when it began, whatever the setting `labels` alone would say."""
    wiring = Wiring("n1", Settings(labels=("k8s:tier",)), kernel, relevant=IdentityFilter(["k8s:app"]))
    wiring.put("namespaces", NAMESPACE, Namespace(NAMESPACE_LABELS))
    wiring.put("pods", f"{NAMESPACE}/web", pod("web", app="web", tier="front"))
    wiring.put("attachments", "c-web/eth0", attachment("web", 1))
    wiring.desired.decide_endpoints()
    found = {label.key: label.value for label in wiring.labels_of(attachment("web", 1))}
    assert (found["app"], "tier" in found) == ("web", False)


async def test_a_new_agent_writes_nothing(kernel: FakeKernel) -> None:
    def told(world: World) -> None:
        for name, spec in (("a", allow_from("web", "api", "data")), ("b", allow_from("api", "web", port=443))):
            world.wiring.put("cnp", f"{NAMESPACE}/{name}", policy(name, spec))

    first = populated(kernel, synced=False)
    told(first)
    first.sync()
    async with first.running():
        await first.realise()
    assert (first.endpoint("10.0.1.11") or {})["policy"]
    kernel.log = []
    second = populated(kernel, synced=False)
    told(second)
    second.sync()
    async with second.running():
        await second.realise()
    assert kernel.log == []
    assert second.wiring.settled("c-web/eth0")


async def test_what_an_earlier_agent_left_goes(kernel: FakeKernel) -> None:
    first = populated(kernel)
    first.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "api")))
    async with first.running():
        await first.realise()
    second = World(kernel)
    second.begin(OWN)
    second.sync()
    async with second.running():
        await second.realise()
        assert second.rows("endpoints") == []
        assert second.known("10.0.2.7") is None
        await eventually(
            lambda: not second.rows("policies") and not second.rows("peers") and not second.rows("verdicts"), "the sweep"
        )
    assert [key["length"] for key, _ in second.rows("pod_ranges")] == [32 + 24]


@pytest.mark.parametrize("kind", ["nodes", "pods", "namespaces", "identities", "slices", "attachments", "cnp"])
async def test_gone_twice_and_gone_before_it_came(kernel: FakeKernel, kind: str) -> None:
    world = populated(kernel)
    async with world.running():
        for _ in range(2):
            world.wiring.put(kind, "302" if kind == "identities" else "nobody", None)
        await world.realise()
    assert world.endpoint("10.0.1.11")
    with pytest.raises(KeyError):
        world.wiring.put("cats", "a", None)


async def test_the_road_does_not_matter(kernel: FakeKernel, datapath: FakeDatapath) -> None:
    """Other order, everything twice, a detour: the same rows."""
    straight = populated(kernel, synced=False)
    straight.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "api")))
    straight.sync()
    async with straight.running():
        await straight.realise()
    other = World(FakeKernel(datapath))
    async with other.running():
        other.sync()
        other.wiring.put("slices", "s", remote("data", 302, "10.0.2.7", "10.0.2.8"))
        other.wiring.put("slices", "t", remote("data", 302, "10.0.2.9"))
        for _ in range(2):
            other.pod(2, API)
        other.begin()
        await other.realise()
        other.identity(300, API)
        other.pod(1, pod("web", app="other"))
        other.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "data")))
        other.wiring.put("cnp", f"{NAMESPACE}/b", policy("b", allow_from("api", "data")))
        await other.realise()
        other.wiring.put("cnp", f"{NAMESPACE}/b", None)
        other.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "api"), 2))
        for number, one in ((302, DATA), (301, API), (300, WEB), (300, WEB)):
            other.identity(number, one)
        other.pod(1, WEB)
        other.wiring.put("slices", "t", None)
        other.wiring.put("slices", "s", remote("data", 302, "10.0.2.7"))
        await other.realise()
        await eventually(lambda: all(one.settled for one in other.tables.trackers.values()), "the sweep")
    assert meaning(other, other.kernel.rows) == {
        address: held | {"ifindex": held["ifindex"]} for address, held in meaning(straight, kernel.rows).items()
    }
    for table in ("identities", "pod_ranges", "ipcache", "settings"):
        assert other.kernel.rows[table] == kernel.rows[table], table


# -- who a pod is --------------------------------------------------------------------------------------------------------------


async def test_a_pod_is_not_believed_about_itself(kernel: FakeKernel) -> None:
    world = populated(kernel)
    spoofed = {"app": "web", "io.cilium.k8s.policy.cluster": "other", "io.cilium.k8s.policy.serviceaccount": "admin",
               "io.cilium.k8s.namespace.labels.team": "root", "io.kubernetes.pod.namespace": "kube-system"}  # fmt: skip
    async with world.running():
        world.pod(3, pod("liar", **spoofed))
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 300  # the same as any app=web of this namespace
    assert world.wiring.labels["c-liar/eth0"] == world.wiring.labels["c-web/eth0"]


async def test_a_pod_that_asks_for_a_fixed_identity_has_it_or_none_at_all(kernel: FakeKernel) -> None:
    world = populated(kernel, fixed_identity_mapping=("128=kv-store",))
    asking = {"app": "store", "io.cilium.fixed-identity": "kv-store"}
    async with world.running():
        world.pod(3, replace(pod("asks"), labels=tuple(sorted(asking.items()))))
        world.pod(4, replace(pod("stray"), labels=(("io.cilium.fixed-identity", "nobody"),)))
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 128
        assert (world.known("10.0.1.13") or {})["identity"] == 128
        assert 128 in {key for key, _ in world.rows("identities")}
        world.wiring.give_up("c-stray/eth0")
        await world.realise()
        row = world.endpoint("10.0.1.14")
        assert row is not None
        assert (row["identity"], row["flags"] & READY) == (0, 0), "it never falls back"


async def test_without_identity_a_pod_waits_and_then_is_closed(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.pod(3, pod("new", app="new"))
        await world.realise()
        row = world.endpoint("10.0.1.13")
        assert row is not None
        assert (row["identity"], row["flags"] & READY) == (0, 0)
        assert world.known("10.0.1.13") is None
        assert world.wiring.endpoints["c-new/eth0"].state is State.WAITING_FOR_IDENTITY

        world.wiring.give_up("c-new/eth0")
        await world.realise()
        row = world.endpoint("10.0.1.13")
        assert row is not None
        assert (row["identity"], row["flags"] & READY) == (INIT, READY)

        world.identity(303, pod("new", app="new"))
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 303
        assert (world.known("10.0.1.13") or {})["identity"] == 303

        # New labels whose number is not there yet: the old identity goes on.
        world.wiring.put("pods", f"{NAMESPACE}/new", pod("new", app="newer"))
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 303
        # Its object goes before its DEL: it stays what it was.
        world.wiring.put("pods", f"{NAMESPACE}/new", None)
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 303

        world.wiring.put("attachments", "c-new/eth0", None)
        await world.realise()
        assert world.endpoint("10.0.1.13") is None
        assert world.known("10.0.1.13") is None


async def test_of_two_numbers_the_lowest(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.identity(299, WEB)
        world.identity(400, WEB)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 299
        world.wiring.put("identities", "299", None)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 300


async def test_a_reserved_number_is_nobodys(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.identity(1, WEB)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 300
        world.wiring.put("identities", "1", None)
        world.wiring.put("identities", "not-a-number", None)
        await world.realise()
        assert 1 in {key for key, _ in world.rows("identities")}


async def test_labels_of_a_namespace_move_its_pods(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        world.wiring.put("namespaces", NAMESPACE, Namespace((*NAMESPACE_LABELS, ("team", "red"))))
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 300  # none for the new set yet
        assert any(label.key.endswith(".team") for label in world.wiring.labels["c-web/eth0"])
        world.wiring.put("namespaces", NAMESPACE, None)
        await world.realise()
        assert world.endpoint("10.0.1.11")


async def test_a_pod_that_is_going_calls_its_ports_as_before(kernel: FakeKernel) -> None:
    world = populated(kernel)
    ports = frozenset({("http", 6, 80)})
    made = attachment("web", 1)
    async with world.running():
        await world.realise()
        assert world.wiring.ports_of(made) == frozenset()
        world.wiring.put("pods", f"{NAMESPACE}/web", replace(WEB, ports=ports))
        await world.realise()
        assert world.wiring.ports_of(made) == ports
        world.wiring.put("pods", f"{NAMESPACE}/web", None)
        await world.realise()
        assert world.wiring.ports_of(made) == ports


# -- waiting -------------------------------------------------------------------------------------------------------------------


async def test_waiting_ends_with_the_pass_that_brings_it(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.wait["settings"] = asyncio.Event()
    async with world.running():
        waiting = asyncio.create_task(world.wiring.realise(20))
        await eventually(lambda: "settings" in kernel.waiting, "the pass stands before its last table")
        assert not waiting.done()
        assert world.wiring.realised == 0
        kernel.wait["settings"].set()
        assert await waiting
        assert await world.wiring.realise(0)  # nothing new: at once
        assert not await world.wiring.until(lambda: False, 0.01)


async def test_what_comes_while_it_writes_is_in_the_next_pass(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.wait["endpoints"] = asyncio.Event()
    async with world.running():
        first = asyncio.create_task(world.wiring.realise(20))
        await eventually(lambda: "endpoints" in kernel.waiting, "the pass stands before the endpoints")
        world.pod(3, pod("web3", app="web"))
        second = asyncio.create_task(world.wiring.realise(20))
        kernel.wait["endpoints"].set()
        assert await first
        assert await second
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 300


async def test_policy_is_enforced_where_it_selects(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["flags"] == READY | INGRESS_ENFORCED
        assert (world.endpoint("10.0.1.12") or {})["flags"] == READY
        assert world.wiring.endpoints["c-web/eth0"].ingress_enforced
        world.wiring.put("cnp", "default/a", None)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["flags"] == READY


async def test_rows_of_pods_wait_for_the_earlier_agents_pods(kernel: FakeKernel) -> None:
    """Everything that Kubernetes says may be there before the files of the earlier agent's pods have been read."""
    first = populated(kernel)
    async with first.running():
        await first.realise()
    before, kernel.log = deepcopy(kernel.rows), []
    second = World(kernel)
    second.begin()
    for number, one in ((300, WEB), (301, API), (302, DATA)):
        second.identity(number, one)
        second.wiring.put("pods", f"{NAMESPACE}/{one.name}", one)
    second.wiring.put("slices", "s", remote("data", 302, "10.0.2.7"))
    async with second.running():
        for kind in NEEDED - {"attachments"}:
            second.wiring.synced(kind)
        await second.wiring.realise(0.05)
        assert kernel.rows["endpoints"] == before["endpoints"], "running pods lost their rows at a restart"
        second.wiring.put("attachments", "c-web/eth0", attachment("web", 1))
        second.wiring.put("attachments", "c-api/eth0", attachment("api", 2))
        second.sync()
        await second.realise()
    assert kernel.log == []


async def test_an_older_sandbox_does_not_become_the_new_pod_of_its_name(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        key, endpoint = next(iter(world.wiring.endpoints.items()))
        attachment, before = endpoint.attachment, endpoint.identity
        other = next(held.identity for held in world.wiring.endpoints.values() if held.identity != before)
        labels = next(
            pod.labels
            for pod in world.wiring.facts.pods.values()
            if (found := world.wiring.endpoints.get(f"c-{pod.name}/eth0")) is not None and found.identity == other
        )
        pod = world.wiring.facts.pods[f"{attachment.namespace}/{attachment.pod}"]
        world.wiring.put("pods", f"{pod.namespace}/{pod.name}", replace(pod, uid="another-uid", labels=labels))
        await world.realise()
        assert world.wiring.endpoints[key].identity == before
