"""`pilus policy diff`: what policies in files would change for the workloads that there are."""

from typing import Any

import pytest
import yaml

from pilus_agent.desired.policy.difference import Change
from pilus_api.errors import InvalidError
from pilus_api.identities import RESERVED, WORLD, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.rules import Direction
from pilus_cli.diff import Changed, Cluster, compare, name_of

WEB, CLIENT, STRANGER = Identity(300), Identity(301), Identity(302)


def labels(app: str) -> Labels:
    return canonical([
        Label("k8s", "app", app), Label("k8s", "io.kubernetes.pod.namespace", "shop"),
        Label("k8s", "io.cilium.k8s.policy.cluster", "default"),
    ])  # fmt: skip


def policy(spec: str, name: str = "web", **metadata: Any) -> Any:
    return {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "shop", **metadata}, "spec": yaml.safe_load(spec),
    }  # fmt: skip


def cluster(*policies: Any, modes: dict[str, str] | None = None) -> Cluster:
    identities = dict(RESERVED) | {WEB: labels("web"), CLIENT: labels("client"), STRANGER: labels("stranger")}
    pods = {number: (f"shop/{app}-1",) for number, app in ((WEB, "web"), (CLIENT, "client"), (STRANGER, "stranger"))}
    return Cluster(identities, pods, {name_of(obj): obj for obj in policies}, {}, modes or {})


LET_CLIENT = "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]}"
LET_PORT = LET_CLIENT.replace("client}}]", "client}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]")


def of(found: list[Changed], identity: Identity) -> list[Changed]:
    return [one for one in found if one.identity == identity]


def test_the_first_policy_of_a_workload_closes_it_for_everybody_else() -> None:
    found = compare(cluster(), [policy(LET_CLIENT)])
    assert {one.identity for one in found} == {WEB}
    (one,) = found
    assert one.direction is Direction.INGRESS
    assert {STRANGER, WORLD} <= set(one.peers)
    assert CLIENT not in one.peers
    assert one.changes == (Change(0, 0, 65535, allowed=False, rule=None),)


def test_another_version_of_it_changes_ports() -> None:
    (one,) = compare(cluster(policy(LET_CLIENT)), [policy(LET_PORT)])
    assert one.peers == (CLIENT,)
    tcp = [change for change in one.changes if change.protocol == 6]
    assert [(change.low, change.high, change.allowed) for change in tcp] == [(0, 79, False), (81, 65535, False)]
    (back,) = compare(cluster(policy(LET_PORT)), [policy(LET_CLIENT)])
    assert all(change.allowed for change in back.changes)
    assert {str(change.rule) for change in back.changes} == {"CiliumNetworkPolicy shop/web spec.ingress[0]"}


def test_the_same_again_changes_nothing() -> None:
    assert compare(cluster(policy(LET_PORT)), [policy(LET_PORT)]) == []
    assert compare(cluster(policy(LET_PORT), policy(LET_CLIENT, "other")), [policy(LET_PORT)]) == []


def test_addresses_outside_the_cluster() -> None:
    out = "{endpointSelector: {matchLabels: {app: web}}, egress: [{toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.8/32]}]}]}"
    found = compare(cluster(policy(out)), [policy(out.replace("/24", "/25"))])
    (one,) = found
    assert one.direction is Direction.EGRESS
    assert [str(peer) for peer in one.peers] == ["192.0.2.0/24"], "its upper half: the lower one is a prefix of its own"


def test_policies_in_audit_mode_take_no_part_and_the_given_ones_do() -> None:
    audited = policy(LET_CLIENT, annotations={"pilus.io/mode": "audit"})
    assert compare(cluster(audited), [policy(LET_CLIENT)]) != []
    assert compare(cluster(policy(LET_CLIENT), modes={"shop": "audit"}), [audited]) != []
    assert compare(cluster(policy(LET_CLIENT)), [audited]) == []


def test_what_means_nothing_is_refused_in_files_and_left_out_where_it_stands() -> None:
    broken = policy("{ingress: [{}]}", "broken")
    assert compare(cluster(broken, policy(LET_CLIENT)), [policy(LET_CLIENT)]) == []
    with pytest.raises(InvalidError):
        compare(cluster(), [broken])
