"""Policies about nodes: from objects to this host's row in the kernel, and what `pilus` says of them."""

import time
from collections.abc import Mapping
from typing import Any

import pytest
from tests.unit.agent.fakes import FakeKernel, World, allow_from, policy
from tests.unit.agent.populated import populated

from pilus_agent.facts import EndpointSlice, ServiceEndpoint, ServicePort
from pilus_agent.judgement import HOST_FIREWALL, HOST_PROBES, HOST_TUNNEL
from pilus_agent.sources.kubernetes import PolicyObject
from pilus_agent.views import Views
from pilus_api.lifelines import CUT_ANNOTATION
from pilus_api.policy_modes import MODE_ANNOTATION

pytestmark = pytest.mark.usefixtures("quick")

HTTP = {"ports": [{"port": "80", "protocol": "TCP"}]}
WORLD_TO_80 = {"fromEntities": ["world"], "toPorts": [HTTP]}


def about_nodes(
    name: str, spec: Mapping[str, Any], selector: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
) -> PolicyObject:
    metadata = {"name": name, "uid": f"uid-{name}", "generation": 1, "annotations": dict(annotations or {})}
    raw = {"metadata": metadata, "spec": {"nodeSelector": {"matchLabels": dict(selector or {})}, **spec}}
    return PolicyObject(raw, f"uid-{name}", 1)


def guarded(kernel: FakeKernel, *policies: PolicyObject, labels: Mapping[str, str] | None = None, **settings: Any) -> World:
    world = populated(kernel, **settings)
    world.wiring.put("nodelabels", "n1", tuple((labels or {}).items()))
    for each in policies:
        world.wiring.put("ccnp", each.raw["metadata"]["name"], each)
    return world


def flags(world: World) -> int:
    ((_, settings),) = world.rows("settings")
    return int(settings["flags"]) & (HOST_FIREWALL | HOST_PROBES | HOST_TUNNEL)


def host_row(world: World) -> dict[str, Any] | None:
    return next((row for key, row in world.rows("endpoints") if not key["family"] and not any(key["address"])), None)


def why(world: World, source: str, destination: str, port: int, protocol: str = "TCP") -> str:
    """`verdict` and rule of the step at the host."""
    asked = {"get": "why", "source": source, "destination": destination, "port": port, "protocol": protocol}
    (way,) = views(world).answer(asked)["item"]["ways"]
    (step,) = [one for one in way["steps"] if one["at"] in ("host", "192.0.2.1")]
    return f"{step['verdict']} {step['rule'] or step['reason']}"


def views(world: World) -> Views:
    return Views(world.wiring, "1.0", time.monotonic())


def check(world: World) -> str:
    (found,) = [one for one in views(world).answer({"get": "status"})["item"]["checks"] if one["name"] == "host firewall"]
    return f"{found['state']}: {found['message']}"


async def test_without_one_the_host_is_no_endpoint(kernel: FakeKernel) -> None:
    world = guarded(kernel)
    world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
    async with world.running():
        await world.realise()
    assert (host_row(world), flags(world)) == (None, 0)
    assert check(world) == "ok: no policy is about this node"
    assert why(world, "world", "host", 80) == "allow no policy is about this node"


async def test_a_node_with_the_labels_is_governed(kernel: FakeKernel) -> None:
    held = about_nodes("edge", {"ingress": [WORLD_TO_80]}, {"role": "edge"})
    world = guarded(kernel, held, labels={"role": "edge"})
    async with world.running():
        await world.realise()
        row = host_row(world)
        assert row is not None
        assert (row["identity"], row["flags"], row["slot"], row["number"]) == (1, 1 | 4, 0, 0)
        assert flags(world) == HOST_FIREWALL | HOST_PROBES | HOST_TUNNEL
        name = "CiliumClusterwideNetworkPolicy edge"
        assert why(world, "world", "host", 80) == f"allow {name} spec.ingress[0]"
        assert why(world, "world", "192.0.2.1", 81) == f"deny default deny of {name}"
        assert why(world, "world", "host", 22) == "allow Lifeline ssh ingress"
        assert why(world, "host", "192.0.9.9", 443) == "allow no policy restricts its egress"
        assert why(world, "host", "default/web", 80).startswith("allow lifeline kubelet")
        assert check(world) == "ok: ingress enforced; lifelines: kubelet, apiserver, etcd, ssh, tunnel, dhcp"
        words = views(world).answer({"get": "policy", "endpoint": "host"})["item"]
        assert words["ingress"]["enforced"]
        assert not words["egress"]["enforced"]
        (view,) = views(world).answer({"get": "policies"})["items"]
        assert (view["host"], view["endpoints"], view["realised"]) == (True, [], True)
        (told,) = world.wiring.policy.acknowledgements("")
        assert (told["selected"], told["realised"], told["unenforced"]) == (1, True, [])
        # Its labels change, and back: the pods' rows are as they were.
        world.wiring.put("nodelabels", "n1", (("role", "inner"),))
        await world.realise()
        assert (host_row(world), flags(world)) == (None, 0)
        world.wiring.put("nodelabels", "n1", (("role", "edge"),))
        await world.realise()
        assert flags(world)


async def test_cve_2024_42488_a_node_object_that_goes_takes_no_policy_along(kernel: FakeKernel) -> None:
    """Nor is a host without one for a moment while its labels change from one that is meant to another."""
    held = about_nodes("edge", {"ingress": [WORLD_TO_80]}, {"role": "edge"})
    world = guarded(kernel, held, labels={"role": "edge"})
    async with world.running():
        await world.realise()
        begun = len(kernel.log)
        world.wiring.put("nodelabels", "n1", None)
        await world.realise()
        world.wiring.put("nodelabels", "n1", (("role", "edge"), ("zone", "b")))
        await world.realise()
        assert flags(world)
        assert not [one for one in kernel.log[begun:] if one.table in ("endpoints", "settings")]


async def test_cve_2024_42488_no_pass_before_the_labels_are_known(kernel: FakeKernel) -> None:
    """An agent that starts does not take an earlier one's policy of the host away, for it knows no labels yet."""
    world = guarded(kernel, about_nodes("edge", {"ingress": [WORLD_TO_80]}, {"role": "edge"}), labels={"role": "edge"})
    async with world.running():
        await world.realise()
        row = host_row(world)
    again = World(kernel)
    again.begin()
    again.wiring.put("ccnp", "edge", about_nodes("edge", {"ingress": [WORLD_TO_80]}, {"role": "edge"}))
    for kind in sorted(again.wiring.needed - {"nodelabels"}):
        again.wiring.synced(kind)
    async with again.running():
        assert not await again.wiring.realise(0.2)
        assert host_row(again) == row
        again.wiring.put("nodelabels", "n1", (("role", "edge"),))
        again.wiring.synced("nodelabels")
        await again.realise()
        assert host_row(again) == row


async def test_policies_about_pods_are_none_about_nodes(kernel: FakeKernel) -> None:
    """Neither does a selector of everything mean a node, nor a policy about nodes a pod."""
    everything = PolicyObject(
        {"metadata": {"name": "all", "uid": "u", "generation": 1}, "spec": {"endpointSelector": {}, "egress": [{}]}}, "u", 1
    )
    world = guarded(kernel, everything)
    async with world.running():
        await world.realise()
        assert host_row(world) is None
        assert (world.endpoint("10.0.1.11") or {})["flags"] == 2 | 4
        (told,) = world.wiring.policy.acknowledgements("")
        assert told["selected"] == 2  # the pods of this node
        world.wiring.put("ccnp", "all", None)
        world.wiring.put("ccnp", "nodes", about_nodes("nodes", {"ingress": [WORLD_TO_80], "egress": [{}]}))
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["flags"] == 4
        assert (host_row(world) or {})["flags"] == 1 | 2 | 4


async def test_lifelines(kernel: FakeKernel) -> None:
    """Closed both ways, also by a denial of everything: each of them holds, for whom it is."""
    closed = about_nodes("closed", {"ingress": [{}], "egress": [{}], "ingressDeny": [{"fromEntities": ["all"]}]})
    world = guarded(kernel, closed)
    world.wiring.put("endpointslices", "default/kubernetes", EndpointSlice(
        "default/kubernetes", (ServicePort("https", 6, 7443),), (ServiceEndpoint(world.wiring.facts.nodes["n2"].addresses[0]),)
    ))  # fmt: skip
    async with world.running():
        await world.realise()
        refused = "CiliumClusterwideNetworkPolicy closed spec.ingressDeny[0]"
        for source, port, protocol, said in (
            ("world", 6443, "TCP", "allow Lifeline apiserver ingress"), ("world", 7443, "TCP", "allow Lifeline apiserver ingress"),
            ("192.0.2.2", 10250, "TCP", "allow Lifeline kubelet ingress"), ("world", 10250, "TCP", f"deny {refused}"),
            ("192.0.2.2", 2380, "TCP", "allow Lifeline etcd ingress"), ("default/web", 2379, "TCP", f"deny {refused}"),
            ("world", 68, "UDP", "allow Lifeline dhcp ingress"), ("world", 22, "UDP", f"deny {refused}"),
            ("world", 8472, "UDP", f"deny {refused}"),
        ):  # fmt: skip
            assert why(world, source, "host", port, protocol) == said
        for destination, port, protocol, said in (
            ("192.0.2.2", 7443, "TCP", "allow Lifeline apiserver egress"), ("192.0.9.9", 2379, "TCP", "allow Lifeline etcd egress"),
            ("192.0.9.9", 443, "TCP", "deny default deny of CiliumClusterwideNetworkPolicy closed"),
            ("192.0.2.2", 8472, "UDP", "allow lifeline tunnel: what is in its packets is judged"),
        ):  # fmt: skip
            assert why(world, "host", destination, port, protocol) == said


async def test_a_policy_cuts_lifelines_only_by_saying_so(kernel: FakeKernel) -> None:
    """And only where it is enforced, and about this node."""
    spec = {"ingress": [WORLD_TO_80], "egress": [{}]}
    world = guarded(kernel, about_nodes("a", spec, annotations={CUT_ANNOTATION: "ssh, tunnel"}))
    async with world.running():
        await world.realise()
        by = "CiliumClusterwideNetworkPolicy a"
        assert why(world, "world", "host", 22) == f"deny default deny of {by}"
        assert flags(world) == HOST_FIREWALL | HOST_PROBES
        assert check(world).endswith(f"lifelines: kubelet, apiserver, etcd, dhcp; cut: ssh (by {by}), tunnel (by {by})")
        world.wiring.put("ccnp", "a", about_nodes("a", spec, annotations={CUT_ANNOTATION: "all"}))
        await world.realise()
        assert flags(world) == HOST_FIREWALL
        assert why(world, "host", "default/web", 80) == f"deny default deny of {by}"
        for other in (
            about_nodes("a", spec, annotations={CUT_ANNOTATION: "all", MODE_ANNOTATION: "audit"}),
            about_nodes("a", spec, {"role": "other"}, annotations={CUT_ANNOTATION: "all"}),
            about_nodes("a", spec, annotations={CUT_ANNOTATION: "everything"}),
        ):
            world.wiring.put("ccnp", "a", other)
            world.wiring.put("ccnp", "b", about_nodes("b", spec))
            await world.realise()
            assert why(world, "world", "host", 22) == "allow Lifeline ssh ingress"
        told = {one["uid"]: one["unenforced"] for one in world.wiring.policy.acknowledgements("")}
        assert told["uid-a"] == ["annotation pilus.io/cut-lifelines names 'everything', which is no lifeline"]


async def test_a_lifeline_is_cut_while_the_node_has_the_labels(kernel: FakeKernel) -> None:
    """The policy that cuts it stays as it is: what changes is the node."""
    spec = {"ingress": [WORLD_TO_80]}
    world = guarded(kernel, about_nodes("all", spec), about_nodes("edge", spec, {"role": "edge"}, {CUT_ANNOTATION: "ssh"}))
    async with world.running():
        for role, said in (("inner", "allow Lifeline ssh ingress"), ("edge", "deny default deny of"), ("inner", "allow Lifeline")):
            world.wiring.put("nodelabels", "n1", (("role", role),))
            await world.realise()
            assert why(world, "world", "host", 22).startswith(said)


async def test_audit(kernel: FakeKernel) -> None:
    world = guarded(kernel, about_nodes("a", {"ingress": [WORLD_TO_80]}, annotations={MODE_ANNOTATION: "audit"}))
    async with world.running():
        await world.realise()
        row = host_row(world) or {}
        assert (row["flags"], row["policy"]) == (4, 0)
        assert row["audit"]
        assert flags(world) & HOST_FIREWALL
        assert why(world, "world", "host", 443).startswith("allow")
        assert check(world).startswith("ok: nothing enforced, audit; ")


@pytest.mark.parametrize("settings", [{"enable_host_firewall": False}, {"enable_policy": "never"}])
async def test_switched_off(kernel: FakeKernel, settings: dict[str, Any]) -> None:
    world = guarded(kernel, about_nodes("a", {"ingress": [WORLD_TO_80]}), **settings)
    async with world.running():
        await world.realise()
        assert (host_row(world), flags(world)) == (None, 0)
        (told,) = world.wiring.policy.acknowledgements("")
        never = "enable-policy is never: nothing is restricted"
        assert told["unenforced"] == (["spec.nodeSelector"] if "enable_host_firewall" in settings else [never])


@pytest.mark.parametrize("on", [None, True])
async def test_everything_closed(kernel: FakeKernel, on: bool | None) -> None:
    """`enable-policy: always` closes nodes only where somebody has switched the host firewall on."""
    world = guarded(kernel, enable_policy="always", enable_host_firewall=on)
    async with world.running():
        await world.realise()
        assert bool(host_row(world)) == bool(on)
        assert why(world, "world", "host", 80).split()[0] == ("deny" if on else "allow")
        assert why(world, "world", "host", 22).split()[0] == "allow"


async def test_a_policy_that_does_not_fit_leaves_the_lifelines(kernel: FakeKernel) -> None:
    """Not one that lets in nobody: it could not be mended."""

    def ports(rule: int) -> list[dict[str, Any]]:
        starts = range(1000 + rule, 60000, 1500)
        return [{"ports": [{"port": str(first), "endPort": first + 777, "protocol": "TCP"} for first in starts]}]

    huge = {"ingress": [{"fromCIDR": [f"10.9.{rule}.0/24"], "toPorts": ports(rule)} for rule in range(150)]}
    world = guarded(kernel, about_nodes("huge", huge))
    async with world.running():
        await world.realise()
        assert why(world, "world", "host", 22) == "allow Lifeline ssh ingress"
        assert why(world, "world", "host", 443) == "deny default deny of Builtin host-floor"
        error = world.wiring.policy.acknowledgements("")[0]["error"]
        assert error.startswith("too large: ")
        assert error.endswith("; this node has none to keep, but for its lifelines")
        world.wiring.put("ccnp", "huge", about_nodes("huge", {"ingress": [WORLD_TO_80]}))
        await world.realise()
        world.wiring.put("ccnp", "huge", about_nodes("huge", huge))
        await world.realise()
        assert "; this node keeps the last version that was not; " in world.wiring.policy.acknowledgements("")[0]["error"]
        assert why(world, "world", "host", 80) == "allow CiliumClusterwideNetworkPolicy huge spec.ingress[0]"


async def test_the_firewall_begins_when_its_row_is_there(kernel: FakeKernel) -> None:
    """Never the other way round: without a row the programs let in nobody. And it ends in the other order."""
    world = guarded(kernel, about_nodes("a", {"ingress": [WORLD_TO_80]}))
    async with world.running():
        await world.realise()
        world.wiring.put("ccnp", "a", None)
        await world.realise()
    there = on = False
    seen = []
    layout = world.tables.layouts["endpoints"].key
    for one in kernel.log:
        if one.table == "endpoints" and not any(layout.decode(one.key)["address"]) and not layout.decode(one.key)["family"]:
            there = one.value is not None
            seen.append("row" if there else "no row")
        if one.table == "settings" and one.value is not None:
            now = bool(world.tables.layouts["settings"].value.decode(one.value)["flags"] & HOST_FIREWALL)
            if now != on:
                seen.append("on" if now else "off")
            on = now
        assert there or not on
    assert seen == ["row", "on", "off", "no row"]


async def test_an_invalid_change_cuts_no_lifeline(kernel: FakeKernel) -> None:
    """It closes what it could have meant, and whoever has to correct it gets in."""
    spec = {"ingress": [WORLD_TO_80]}
    world = guarded(kernel, about_nodes("a", spec))
    async with world.running():
        await world.realise()
        wrong = {"ingress": [{"toPorts": "x"}]}
        world.wiring.put("ccnp", "a", about_nodes("a", wrong, annotations={CUT_ANNOTATION: "all"}))
        await world.realise()
        assert why(world, "world", "host", 22) == "allow Lifeline ssh ingress"
        assert why(world, "world", "host", 80).startswith("deny")


async def test_the_api_server_that_the_agent_asks_is_reached(kernel: FakeKernel) -> None:
    """Also one that is in front of those that say where they are."""
    world = guarded(kernel, about_nodes("closed", {"egress": [{}]}), k8s_api_server="https://192.0.9.100:6443")
    async with world.running():
        await world.realise()
        assert why(world, "host", "192.0.9.100", 6443) == "allow Lifeline apiserver egress"
        assert why(world, "host", "192.0.9.100", 6444).startswith("deny")
