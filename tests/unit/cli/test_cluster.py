"""What `pilus policy diff` reads of a cluster, and what it says where it may not."""

# ruff: noqa: ARG002  (a fake takes what the real one takes)

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Any

from pilus_api.connection import Access, Connection, Forbidden, NotFound, Object, Parameters
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import Label, canonical
from pilus_api.rules import ApiServers, CidrGroup
from pilus_api.settings import Settings
from pilus_cli.cluster import API_SERVERS, CONFIG, read
from pilus_cli.comparison import compare

ABOUT_PODS = {
    "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"endpointSelector": {}, "ingress": [{}]},
}  # fmt: skip
ABOUT_NODES = {
    "apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "nodes"},
    "spec": {"nodeSelector": {"matchLabels": {"rack": "blue"}}, "ingress": [{}]},
}  # fmt: skip


class Answers(Connection):
    """`held`: by path, a list, an object, or what is raised."""

    def __init__(self, held: Mapping[str, Any]) -> None:
        super().__init__(Access("http://nowhere"))
        self.held = {**{path: [] for path in COLLECTIONS}, **held}
        self.asked: list[str] = []

    def _answer(self, path: str) -> Any:
        self.asked.append(path)
        found = self.held.get(path, NotFound(f"GET {path}: not there", 404))
        if isinstance(found, Exception):
            raise found
        return found

    async def get(self, path: str, params: Parameters | None = None) -> Object:
        return dict(self._answer(path))

    async def list_all(self, path: str, page: int = 500) -> list[Object]:
        return list(self._answer(path))


COLLECTIONS = (
    "/apis/cilium.io/v2/ciliumnetworkpolicies", "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies",
    "/apis/networking.k8s.io/v1/networkpolicies", "/apis/cilium.io/v2/ciliumidentities",
    "/apis/cilium.io/v2alpha1/ciliumendpointslices", "/apis/cilium.io/v2alpha1/ciliumcidrgroups", "/api/v1/namespaces",
)  # fmt: skip


def settings(**data: str) -> dict[str, Any]:
    return {CONFIG: {"data": {key.replace("_", "-"): value for key, value in data.items()}}}


def server(*addresses: str) -> dict[str, Any]:
    entries = [{"addresses": [address], "conditions": {"ready": True}} for address in addresses]
    metadata = {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}}
    return {API_SERVERS: {"metadata": metadata, "ports": [{"name": "https", "port": 6443}], "endpoints": entries}}


NODES = {
    "/api/v1/nodes": [{"metadata": {"name": "n1", "labels": {"rack": "blue"}}}, {"metadata": {"name": "n2", "labels": {}}}],
    "/apis/cilium.io/v2/ciliumnodes": [
        {"metadata": {"name": name}, "spec": {"addresses": [{"type": "InternalIP", "ip": f"192.0.2.{number}"}]}}
        for number, name in enumerate(("n1", "n2"), 1)
    ],
}


async def test_settings_are_read_or_told_as_not() -> None:
    found = await read(
        Answers({**settings(enable_policy="always\n", cluster_name="blue", fixed_identity_mapping="128=kv"), **server()})
    )
    assert (found.settings.enable_policy, found.settings.cluster_name, found.notes) == ("always", "blue", ())
    assert found.identities[Identity(128)] == (Label("reserved", "kv", ""),)
    for held in ({}, {CONFIG: Forbidden("no", 403)}, settings(enable_policyy="always")):
        found = await read(Answers({**held, **server()}))
        assert found.settings == Settings()
        (note,) = found.notes
        assert note.startswith(
            "the ConfigMap kube-system/pilus-config can't be read, so that settings are taken to be the defaults"
        )


async def test_pods_are_read_with_their_named_ports() -> None:
    entry = {
        "name": "web-1", "id": 300, "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}]},
        "named-ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }  # fmt: skip
    slices = [{"metadata": {"name": "s"}, "namespace": "shop", "endpoints": [entry]}]
    found = await read(Answers({"/apis/cilium.io/v2alpha1/ciliumendpointslices": slices}))
    assert found.pods == {Identity(300): {"shop/web-1": frozenset({("http", 6, 8080)})}}


async def test_a_group_that_can_not_be_read_is_not_there_and_noted() -> None:
    groups = [
        {"metadata": {"name": name}, "spec": {"externalCIDRs": ["192.0.2.0/24", prefix]}}
        for name, prefix in (("good", "10.0.0.0/8"), ("bad", "010.0.0.0/8"))
    ]
    found = await read(Answers({**settings(), "/apis/cilium.io/v2alpha1/ciliumcidrgroups": groups}))
    assert [name for name in found.groups if isinstance(name, CidrGroup)] == [CidrGroup("good")]
    (note,) = found.notes
    assert note.startswith("the CiliumCIDRGroup bad is as if it weren't there")
    assert "'010.0.0.0/8' is not a prefix" in note


async def test_nodes_are_read_where_a_policy_speaks_of_them() -> None:
    asked = Answers({**settings(), **server(), **NODES})
    assert (await read(asked, [ABOUT_PODS])).nodes is None
    assert "/api/v1/nodes" not in asked.asked
    found = await read(asked, [ABOUT_NODES])
    assert found.nodes == {"n1": (Label("node", "rack", "blue"),), "n2": ()}
    assert found.api_ports == {6443}
    there = Answers({**settings(), **server(), **NODES, "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies": [ABOUT_NODES]})
    assert (await read(there)).nodes == found.nodes
    refused = await read(Answers({**settings(), **server(), "/api/v1/nodes": Forbidden("no", 403)}), [ABOUT_NODES])
    assert refused.nodes is None
    assert refused.notes == ("nodes are not compared, and have no labels here: no",)
    assert compare(refused, [ABOUT_NODES]) == []


async def test_api_servers_and_nodes_by_their_labels() -> None:
    """One that is on a node has its identity, with the node's labels where these make one; others are addresses."""
    found = await read(Answers({**settings(), **server("192.0.2.2", "192.0.2.9"), **NODES}))
    assert found.groups == {ApiServers(): (ip_network("192.0.2.9/32"),)}
    assert found.identities == RESERVED
    held = Answers({**settings(enable_node_selector_labels="true"), **server("192.0.2.2"), **NODES})
    found = await read(held)
    assert found.groups == {ApiServers(): ()}
    named = {labels for number, labels in found.identities.items() if number >> 24 == 2}
    assert named == {canonical((*RESERVED[Identity(6)], Label("node", "rack", "blue"))), canonical(RESERVED[Identity(7)])}
    assert ApiServers() not in (await read(Answers(settings()))).groups, "who it is, is not known, as an agent has it"
    filtered = await read(Answers({**settings(enable_node_selector_labels="true", node_labels="zone"), **server(), **NODES}))
    assert {labels for number, labels in filtered.identities.items() if number >> 24 == 2} == {RESERVED[Identity(6)]}
    refused = await read(Answers({**settings(), API_SERVERS: Forbidden("no", 403)}))
    assert refused.groups == {ApiServers(): ()}
    assert refused.notes == ("API servers that are on no node are not known: no",)
