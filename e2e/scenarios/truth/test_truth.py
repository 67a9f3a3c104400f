"""Policies of every kind, and the whole table of who reaches whom under each of them.

`make test` tries the most telling ones, `make soak` all.
"""

import time
from collections.abc import Mapping
from typing import Self

import pytest
from e2e.scenarios.truth import admin, cilium, kubernetes
from e2e.scenarios.truth.ask import SPACES
from e2e.scenarios.truth.case import Case, anp, cnp, into, knp, nothing
from e2e.scenarios.truth.world import PODS, World
from tests.soak import SOAK, WORLDS

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

KINDS = {"Kubernetes": kubernetes.CASES, "Cilium": cilium.CASES, "admin": admin.CASES}
CASES = {f"{kind}: {case.name}": case for kind, cases in KINDS.items() for case in cases if case.short or SOAK > WORLDS}
TO_A = "podSelector: {matchLabels: {pod: a}}"
FROM_FRIENDS = knp(
    "x", f"{TO_A}, ingress: [{{from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{friend: 'yes'}}}}}}]}}]"
)
FROM_TEAM = {
    "Kubernetes": knp("x", f"{TO_A}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{team: red}}}}}}]}}]"),
    "Cilium": cnp("x", "endpointSelector: {matchLabels: {pod: a}}, ingress: [{fromEndpoints: "
                  "[{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.team': red}}]}]"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_policy_means_what_it_says(world: World, case: Case) -> None:
    world.judge(case)


class labelled:  # noqa: N801  # reads as a statement
    """A pod or namespace has these labels inside. `changed`: when it was last asked for."""

    def __init__(self, world: World, path: str, labels: Mapping[str, str]) -> None:
        self._world, self._path, self._labels = world, path, labels
        self.changed = 0.0

    def _put(self, labels: Mapping[str, str | None]) -> None:
        self.changed = time.monotonic()
        self._world.api.label(self._path, labels)

    def __enter__(self) -> Self:
        self._put(self._labels)
        return self

    def __exit__(self, *_: object) -> None:
        self._put(dict.fromkeys(self._labels))


def test_a_policy_is_updated(world: World) -> None:
    """Each version is the whole truth: of peers, of ports, of pods, of directions; then it is open again."""
    with world.applied(knp("x", f"{TO_A}, ingress: [{{from: [{{podSelector: {{}}}}]}}]")) as change:
        world.becomes(lambda q: q.to == "x/a" and q.by_ns != "x", change.requested, "one version")
        change(knp("x", f"{TO_A}, ingress: [{{ports: [{{port: 81}}]}}]"))
        world.becomes(lambda q: q.to == "x/a" and (q.port, q.protocol) != (81, "TCP"), change.requested, "another one")
        change(knp("x", "podSelector: {matchLabels: {pod: b}}, ingress: [{ports: [{port: 81}]}]"))
        world.becomes(lambda q: q.to == "x/b" and (q.port, q.protocol) != (81, "TCP"), change.requested, "of another pod")
        change(knp("x", "podSelector: {matchLabels: {pod: b}}, policyTypes: [Egress]"))
        world.becomes(lambda q: q.by == "x/b", change.requested, "of the other direction")
        change(knp("x", "podSelector: {}, ingress: [{}], egress: [{}]"))
        world.becomes(nothing, change.requested, "of everything allowed")


def test_a_pods_label_changes(world: World) -> None:
    """Of who asks, then of who is asked: allowed, and denied."""
    with world.applied(FROM_FRIENDS) as change:
        world.becomes(into("x/a"), change.requested, "no pod has the label")
        with labelled(world, "/api/v1/namespaces/y/pods/b", {"friend": "yes"}) as label:
            world.becomes(lambda q: q.to == "x/a" and q.by != "y/b", label.changed, "one has it")
        world.becomes(into("x/a"), label.changed, "it has lost it")
    closed = cnp("z", "endpointSelector: {matchLabels: {tier: closed}}, ingress: [{}]")
    with world.applied(closed), labelled(world, "/api/v1/namespaces/z/pods/c", {"tier": "closed"}) as label:
        world.becomes(into("z/c"), label.changed, "a policy has got a pod")
    world.becomes(nothing, label.changed, "and lost it")


@pytest.mark.parametrize("kind", FROM_TEAM)
def test_a_namespaces_label_changes(world: World, kind: str) -> None:
    with world.applied(FROM_TEAM[kind]) as change:
        world.becomes(into("x/a"), change.requested, "no namespace has the label")
        with labelled(world, "/api/v1/namespaces/y", {"team": "red"}) as label:
            world.becomes(lambda q: q.to == "x/a" and q.by_ns != "y", label.changed, "one has it")
        world.becomes(into("x/a"), label.changed, "it has lost it")
    world.becomes(nothing, change.requested, "open again")


def test_audit_is_switched_on_and_off(world: World) -> None:
    """By the annotation of one policy: nothing of the rules changes."""
    rules = "subject: {namespaces: {matchLabels: {ns: x}}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]"
    with world.applied(anp(10, rules, more=", annotations: {pilus.io/mode: audit}")) as change:
        world.becomes(nothing, change.requested, "in audit", change.held)
        change(anp(10, rules, more=", annotations: {pilus.io/mode: enforce}"))
        world.becomes(lambda q: q.to_ns == "x" and q.by_is_pod, change.requested, "enforced")
    world.becomes(nothing, change.requested, "open again")


def test_a_pod_reaches_itself_and_stays_ready(world: World) -> None:
    """What closes everything is not asked on a pod's own loopback, and no kubelet was ever refused."""
    own = world.to_themselves()
    with world.applied("".join(knp(space, "podSelector: {}, policyTypes: [Ingress, Egress]") for space in SPACES)) as change:
        world.becomes(lambda q: q.by_is_pod or q.to_is_pod, change.requested, "all closed")
        assert world.table.reached(own, own) == set(own)
    world.becomes(nothing, change.requested, "open again")
    for held in (one for space in SPACES for one in world.api.ask("GET", f"/api/v1/namespaces/{space}/pods")["items"]):
        pod = f"{held['metadata']['namespace']}/{held['metadata']['name']}"
        assert pod in PODS
        statuses = held["status"]["containerStatuses"]
        assert [(one["ready"], one["restartCount"]) for one in statuses] == [(True, 0)] * 2, pod
        since = {one["type"]: one["lastTransitionTime"] for one in held["status"]["conditions"]}
        assert since["Ready"] == world.ready[pod], f"{pod} was not ready meanwhile"
