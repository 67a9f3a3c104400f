"""`pilus policy diff`: what policies in files would change for the workloads that there are."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from pilus_agent.desired.policy.difference import Change, Placed
from pilus_api.errors import InvalidError
from pilus_api.identities import HOST, REMOTE_NODE, RESERVED, WORLD, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.rules import ApiServers, CidrGroup, Direction, GroupName, Network
from pilus_api.settings import Settings
from pilus_cli import diff
from pilus_cli.cluster import Cluster, Name, Ports, name_of
from pilus_cli.comparison import Changed, Workload, compare, remarks
from pilus_cli.main import main

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


def about_nodes(spec: str, name: str = "nodes", **metadata: Any) -> Any:
    return {
        "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": name, **metadata},
        "spec": yaml.safe_load(spec),
    }  # fmt: skip


PODS = {WEB: "web", CLIENT: "client", STRANGER: "stranger"}


def cluster(
    *policies: Any, modes: dict[str, str] | None = None, ports: Mapping[str, Mapping[str, int]] | None = None,
    nodes: Mapping[str, str] | None = None, groups: Mapping[GroupName, tuple[Network, ...]] | None = None, **settings: Any,
) -> Cluster:  # fmt: skip
    """`ports`: by pod, what it calls its TCP ports. `nodes`: each with its label `rack`."""
    identities = dict(RESERVED) | {number: labels(app) for number, app in PODS.items()}
    pods: dict[Identity, dict[str, Ports]] = {number: {f"shop/{app}-1": frozenset()} for number, app in PODS.items()}
    for pod, named in (ports or {}).items():
        number = next(number for number, app in PODS.items() if pod.startswith(app))
        pods[number][f"shop/{pod}"] = frozenset((name, 6, port) for name, port in named.items())
    of_nodes = None if nodes is None else {name: (Label("node", "rack", rack),) for name, rack in nodes.items()}
    named_policies: dict[Name, Any] = {name_of(obj): obj for obj in policies}
    return Cluster(identities, pods, named_policies, groups or {}, modes or {}, Settings(**settings), of_nodes)


LET_CLIENT = "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEndpoints: [{matchLabels: {app: client}}]}]}"
LET_PORT = LET_CLIENT.replace("client}}]", "client}}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]")


def of(found: list[Changed], identity: Identity) -> list[Changed]:
    return [one for one in found if one.workload.identity == identity]


def test_the_first_policy_of_a_workload_closes_it_for_everybody_else() -> None:
    found = compare(cluster(), [policy(LET_CLIENT)])
    assert {one.workload for one in found} == {Workload(WEB, ("shop/web-1",))}
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


def blocking(spec: str) -> Any:
    block = {"to": [{"ipBlock": yaml.safe_load(spec)}]}
    held = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"], "egress": [block]}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "k", "namespace": "shop"},
        "spec": held,
    }


def test_rules_by_address_that_mean_pods_and_nodes_too() -> None:
    """An ipBlock lets a pod reach those of an identity whose addresses are inside, and no others of it."""
    places = {
        CLIENT: frozenset(map(ip_address, ("10.1.0.1", "10.2.0.1", "fd00::1"))),
        STRANGER: frozenset([ip_address("10.1.0.9")]),
        REMOTE_NODE: frozenset([ip_address("192.168.7.2")]),
    }
    here = replace(cluster(blocking("{cidr: 10.0.0.0/8}")), places=places)
    (one,) = compare(here, [blocking("{cidr: 10.1.0.0/16, except: [10.1.0.8/29]}")])
    assert (one.workload.identity, one.direction, [change.allowed for change in one.changes]) == (WEB, Direction.EGRESS, [False])
    assert [str(peer) for peer in one.peers if not isinstance(peer, int | Placed)] == ["10.0.0.0/8", "10.1.0.8/29"]
    assert [peer for peer in one.peers if isinstance(peer, int | Placed)] == [Placed(CLIENT, (ip_address("10.2.0.1"),)), STRANGER]
    (first,) = compare(replace(cluster(), places=places), [blocking("{cidr: 192.168.7.0/24}")])
    assert REMOTE_NODE not in first.peers
    assert {CLIENT, STRANGER} <= set(first.peers)
    assert diff._peer(here, one.peers[0]).startswith("301 ")
    assert diff._peer(here, one.peers[0]).endswith(" at 10.2.0.1")


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


# -- settings --------------------------------------------------------------------------------------------------------------------


def test_where_policy_is_off_nothing_changes() -> None:
    assert compare(cluster(enable_policy="never"), [policy(LET_CLIENT)]) == []
    (remark,) = remarks(cluster(enable_policy="never"), [])
    assert remark.startswith("enable-policy is never")
    assert remarks(cluster(), [policy(LET_CLIENT), about_nodes("{nodeSelector: {}, ingress: [{}]}")]) == []


def test_where_everybody_is_closed_a_policy_only_allows() -> None:
    (one,) = compare(cluster(enable_policy="always"), [policy(LET_CLIENT)])
    assert (one.peers, one.direction) == ((CLIENT,), Direction.INGRESS)
    assert [change.allowed for change in one.changes] == [True]


def test_in_audit_mode_what_there_is_takes_no_part() -> None:
    there = cluster(policy(LET_CLIENT), policy_audit_mode=True)
    assert {change.allowed for one in compare(there, [policy(LET_PORT)]) for change in one.changes} == {False}
    assert STRANGER in {peer for one in compare(there, [policy(LET_PORT)]) for peer in one.peers}
    assert any("policy-audit-mode" in remark for remark in remarks(there, []))
    kept = cluster(policy(LET_CLIENT, annotations={"pilus.io/mode": "enforce"}), policy_audit_mode=True)
    assert STRANGER not in {peer for one in compare(kept, [policy(LET_PORT)]) for peer in one.peers}


@pytest.mark.parametrize("read", [True, False])
def test_network_policies_count_where_they_are_read(read: bool) -> None:
    closed = {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "a", "namespace": "shop"},
        "spec": {"podSelector": {}},
    }  # fmt: skip
    assert bool(compare(cluster(enable_k8s_networkpolicy=read), [closed])) == read
    assert bool(remarks(cluster(enable_k8s_networkpolicy=read), [closed])) != read
    # One that stands there closes nothing either, so that another still does.
    found = compare(cluster(closed, enable_k8s_networkpolicy=read), [policy(LET_CLIENT)])
    assert any(CLIENT in one.peers for one in found) == read


def test_the_cluster_is_called_as_its_settings_say() -> None:
    let = policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromEntities: [cluster]}]}")
    for there, name, inside in ((cluster(), "", True), (cluster(cluster_name="blue"), "", False), (cluster(), "blue", False)):
        (one,) = compare(there, [let], name)
        assert (CLIENT not in one.peers) == inside


@pytest.mark.parametrize("on", [True, False])
def test_nodes_by_their_labels_are_peers_where_the_setting_says_so(on: bool) -> None:
    closed = policy("{endpointSelector: {matchLabels: {app: web}}, ingress: [{}]}")
    there = cluster(closed, enable_node_selector_labels=on)
    blue = Identity(0x0200_0001)
    of_blue = canonical((*RESERVED[Identity(6)], Label("node", "rack", "blue")))
    found = compare(replace(there, identities={**there.identities, blue: of_blue}), [policy(LET_NODES)])
    assert [one.peers for one in found] == ([(blue,)] if on else [])


LET_NODES = "{endpointSelector: {matchLabels: {app: web}}, ingress: [{fromNodes: [{matchLabels: {rack: blue}}]}]}"

# -- named ports -----------------------------------------------------------------------------------------------------------------

BY_NAME = LET_PORT.replace("'80'", "http")


def test_a_named_port_is_what_the_pod_calls_so() -> None:
    """Pods of one identity may call different ports so, and are told apart only where that matters."""
    there = cluster(policy(LET_CLIENT.replace("client", "nobody")), ports={"web-1": {"http": 8080}, "web-2": {"http": 9090}})
    found = compare(there, [policy(BY_NAME)])
    assert [(one.workload.names, one.peers, [(change.low, change.high) for change in one.changes]) for one in found] == [
        (("shop/web-1",), (CLIENT,), [(8080, 8080)]), (("shop/web-2",), (CLIENT,), [(9090, 9090)]),
    ]  # fmt: skip
    (one,) = compare(there, [policy(LET_PORT)])
    assert one.workload.names == ("shop/web-1", "shop/web-2")


def test_a_named_port_of_egress_is_the_peer_s() -> None:
    spec = "{endpointSelector: {matchLabels: {app: client}}, egress: [{toEndpoints: [{}], toPorts: [{ports: [{port: http}]}]}]}"
    there = cluster(policy(spec.replace("http", "none")), ports={"web-1": {"http": 8080}, "web-2": {"http": 9090}})
    (one,) = compare(there, [policy(spec)])
    assert (one.workload.identity, one.peers, one.direction) == (CLIENT, (WEB,), Direction.EGRESS)
    assert [(change.low, change.allowed) for change in one.changes] == [(8080, True), (9090, True)]


# -- nodes -----------------------------------------------------------------------------------------------------------------------

CLOSE_BLUE = "{nodeSelector: {matchLabels: {rack: blue}}, ingress: [{fromEntities: [cluster]}]}"


def ports_denied(one: Changed) -> set[int]:
    return {port for change in one.changes if change.protocol in (0, 6) for port in range(change.low, change.high + 1)}


def test_nodes_are_closed_but_for_their_lifelines() -> None:
    there = cluster(nodes={"n1": "blue", "n2": "green", "n3": "blue"})
    (one,) = compare(there, [about_nodes(CLOSE_BLUE)])
    assert one.workload == Workload(HOST, ("n1", "n3"), node=True)
    assert one.direction is Direction.INGRESS
    assert WORLD in one.peers
    assert not {WEB, HOST} & set(one.peers)
    denied = ports_denied(one)
    assert {21, 23, 80, 10250} <= denied
    assert not {22, 6443} & denied
    assert not any(change.allowed for change in one.changes)
    # The same again, with what cuts one; and what stands there already counts.
    (cut,) = compare(cluster(about_nodes(CLOSE_BLUE), nodes={"n1": "blue"}), [
        about_nodes(CLOSE_BLUE, annotations={"pilus.io/cut-lifelines": "ssh"})
    ])  # fmt: skip
    assert ports_denied(cut) == {22}
    assert compare(cluster(about_nodes(CLOSE_BLUE), nodes={"n1": "blue"}), [about_nodes(CLOSE_BLUE)]) == []
    assert compare(there, [policy(CLOSE_NOBODY)]) == []


def test_what_nodes_may_send_but_for_themselves() -> None:
    """And to where the API server is by all that is known: its ports, and the address that agents ask."""
    there = cluster(nodes={"n1": "blue"}, k8s_api_server="https://192.0.2.77:7443")
    closed = about_nodes("{nodeSelector: {}, egress: [{}]}")
    found = compare(replace(there, api_ports=frozenset({5443}), groups={ApiServers(): (ip_network("192.0.2.9/32"),)}), [closed])
    peers = {str(peer): ports_denied(one) for one in found for peer in one.peers}
    assert str(HOST) not in peers
    assert 443 in peers[str(WORLD)]
    assert 7443 not in peers["192.0.2.77/32"]
    assert 80 in peers["192.0.2.77/32"]
    assert peers["192.0.2.9/32"] == set()
    for one in compare(replace(there, api_ports=frozenset({5443})), [about_nodes("{nodeSelector: {}, ingress: [{}]}")]):
        assert {5443, 5444} & ports_denied(one) == {5444}


@pytest.mark.parametrize(
    ("annotations", "cut"),
    [
        ({"pilus.io/cut-lifelines": "all"}, True), ({"pilus.io/cut-lifelines": "dhcp"}, False),
        ({"pilus.io/cut-lifelines": "ssh", "pilus.io/mode": "audit"}, False),
    ],
)  # fmt: skip
def test_lifelines_are_cut_by_what_is_enforced(annotations: dict[str, str], cut: bool) -> None:
    standing = about_nodes("{nodeSelector: {}, egress: [{}]}", "other", annotations=annotations)
    found = compare(cluster(standing, nodes={"n1": "blue"}), [about_nodes(CLOSE_BLUE)])
    denied = {port for one in found if one.direction is Direction.INGRESS for port in ports_denied(one)}
    assert (22 in denied) == cut


CLOSE_NOBODY = "{endpointSelector: {matchLabels: {app: none}}, ingress: [{}]}"


def test_nodes_are_not_compared_where_policies_about_them_are_not_in_force() -> None:
    assert compare(cluster(nodes={"n1": "blue"}, enable_host_firewall=False), [about_nodes(CLOSE_BLUE)]) == []
    (remark,) = remarks(cluster(enable_host_firewall=False), [about_nodes(CLOSE_BLUE)])
    assert "enable-host-firewall" in remark
    assert compare(cluster(), [about_nodes(CLOSE_BLUE)]) == [], "nobody has told of any node"


# -- groups ----------------------------------------------------------------------------------------------------------------------


def test_a_group_that_is_not_there_is_what_agents_make_of_it() -> None:
    """Nobody where it is allowed, everybody outside where it is denied; and in the files it is as good as in the cluster."""
    let = policy("{endpointSelector: {matchLabels: {app: web}}, egress: [{toCIDRSet: [{cidrGroupRef: partners}]}]}")
    refuse = policy("{endpointSelector: {matchLabels: {app: web}}, egressDeny: [{toCIDRSet: [{cidrGroupRef: partners}]}],"
                    " enableDefaultDeny: {egress: false}}")  # fmt: skip
    partners: dict[GroupName, tuple[Network, ...]] = {CidrGroup("partners"): (ip_network("192.0.2.0/24"),)}

    def networks(there: Cluster, given: Any, groups: Mapping[GroupName, tuple[Network, ...]]) -> set[str]:
        return {str(peer) for one in compare(there, [given], groups=groups) for peer in one.peers if not isinstance(peer, int)}

    assert networks(cluster(), refuse, {}) == {"0.0.0.0/0", "::/0"}
    assert networks(cluster(), refuse, partners) == {"192.0.2.0/24"}
    assert networks(cluster(groups=partners), refuse, {}) == {"192.0.2.0/24"}
    closed = policy("{endpointSelector: {matchLabels: {app: web}}, egress: [{}]}")
    assert networks(cluster(closed), let, {}) == set()
    assert networks(cluster(closed), let, partners) == {"192.0.2.0/24"}


def test_the_api_server_is_where_it_says() -> None:
    closed = policy("{endpointSelector: {matchLabels: {app: web}}, egress: [{}]}")
    let = policy("{endpointSelector: {matchLabels: {app: web}}, egress: [{toEntities: [kube-apiserver]}]}")
    (one,) = compare(cluster(closed, groups={ApiServers(): (ip_network("192.0.2.9/32"),)}), [let])
    assert {str(peer) for peer in one.peers} == {"7", "192.0.2.9/32"}


@pytest.mark.parametrize(
    ("peers", "expected"),
    [
        ("{toCIDR: [0.0.0.0/0, '::/0']}", set()),
        ("{toEndpoints: [{matchLabels: {'reserved:world-ipv4': ''}}]}", {"::/0"}),
        ("{toEndpoints: [{matchExpressions: [{key: 'reserved:kube-apiserver', operator: DoesNotExist},"
         " {key: 'reserved:world', operator: Exists}]}]}", {"192.0.2.9/32"}),
        ("{toEntities: [none]}", {"2", "9", "10"}),
    ],
)  # fmt: skip
def test_of_the_outside_those_are_told_that_fare_otherwise(peers: str, expected: set[str]) -> None:
    """It has one number, and rows for parts of it may say the same as one for all."""
    world, part = (
        policy(f"{{endpointSelector: {{matchLabels: {{app: web}}}}, egress: [{each}]}}")
        for each in ("{toEntities: [world]}", peers)
    )
    there = cluster(world, groups={ApiServers(): (ip_network("192.0.2.9/32"),)})
    found = {str(peer): change.allowed for one in compare(there, [part]) for peer in one.peers for change in one.changes}
    assert found == dict.fromkeys(expected, False)


# -- printing -------------------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: Cluster, *documents: Any, options: tuple[str, ...] = ()) -> None:
    async def reach(*_: object) -> Cluster:
        return there

    monkeypatch.setattr(diff, "_reach", reach)
    (tmp_path / "given.yaml").write_text(yaml.safe_dump_all(documents))
    monkeypatch.setattr(sys, "argv", ["pilus", *options, "policy", "diff", "-f", str(tmp_path / "given.yaml")])
    with suppress(SystemExit):
        main()


def test_what_is_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = cluster(nodes={"n1": "blue"}, policy_audit_mode=True)
    run(monkeypatch, tmp_path, there, policy(LET_CLIENT), about_nodes(CLOSE_BLUE))
    out, error = capsys.readouterr()
    lines = out.splitlines()
    assert "node n1" in lines
    assert any(line.endswith("k8s:io.kubernetes.pod.namespace=shop: shop/web-1") for line in lines)
    assert "  ingress, now denied: everything" in lines
    assert error.startswith("note: policy-audit-mode is true")
    run(monkeypatch, tmp_path, there, about_nodes(CLOSE_BLUE), options=("-o", "json"))
    out, _ = capsys.readouterr()
    (one,) = json.loads(out)
    assert (one["nodes"], one["pods"], one["identity"], one["labels"]) == (["n1"], [], 1, ["reserved:host"])


def test_a_group_in_the_files_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = {"apiVersion": "cilium.io/v2alpha1", "kind": "CiliumCIDRGroup", "metadata": {"name": "partners"},
             "spec": {"externalCIDRs": ["192.0.2.0/24"]}}  # fmt: skip
    let = policy("{endpointSelector: {matchLabels: {app: web}}, egress: [{toCIDRSet: [{cidrGroupRef: partners}]}]}")
    closed = policy("{endpointSelector: {matchLabels: {app: web}}, egress: [{}]}")
    run(monkeypatch, tmp_path, cluster(closed), let, group)
    assert "    to 192.0.2.0/24" in capsys.readouterr().out.splitlines()
