"""An agent's policies that has heard of all of a drawn cluster."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from tests.properties.meaning import Cluster, End
from tests.properties.objects import ROUTER

from pilus_agent.desired.endpoints import Governed
from pilus_agent.facts import RemoteEndpoint
from pilus_agent.policy_stage import PolicyStage
from pilus_agent.sources.kubernetes import policy_of
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.policy_kinds import BY_NAME
from pilus_api.rules import ApiServers, CidrGroup, OtherNodes, Services
from pilus_api.settings import Settings


def staged(cluster: Cluster) -> tuple[PolicyStage, Mapping[str, Governed]]:
    """With what it has decided of the cluster's pods and of the host, which are called as they are there."""
    stage = _told(cluster)
    pods = {name: end for name, end in cluster.governed.items() if name != "host"}
    governed = stage.decide(
        {name: _labels_of(end) for name, end in pods.items()},
        {name: _ports_of(end) for name, end in pods.items()},
        dict.fromkeys(pods),
    )
    return stage, governed


def _labels_of(end: End) -> Labels:
    return canonical(Label(*each) for each in end.labels or ())


def _ports_of(end: End) -> frozenset[tuple[str, int, int]]:
    return frozenset((name, protocol, port) for name, found in end.names.items() for protocol, port in found)


def _told(cluster: Cluster) -> PolicyStage:
    stage = PolicyStage(Settings(cluster_name="blue", **cluster.settings))
    objects = stage.objects
    for name, (_, mode) in cluster.namespaces.items():
        objects.namespace(name, mode)
    for group, texts in cluster.groups.items():
        objects.group(CidrGroup(group), tuple(map(ip_network, texts)))
    objects.group(ApiServers(), tuple(map(ip_network, cluster.api_servers)))
    if cluster.settings["policy_cidr_match_mode"]:
        addresses = {*map(ip_address, ROUTER), *(address for end in cluster.other_nodes for address in end.addresses)}
        objects.group(OtherNodes(), tuple(map(ip_network, addresses)))
    for end in cluster.ends:
        # The outside has one number, whose labels say no family.
        if end.labels is not None and not (end.identity == 2 or RESERVED.get(Identity(end.identity)) == _labels_of(end)):
            stage.identity(Identity(end.identity), _labels_of(end))
    remote = [
        RemoteEndpoint(end.addresses[0], Identity(end.identity), None, "a/b", _ports_of(end)) for end in cluster.ends if end.names
    ]
    stage.elsewhere("slice", remote)
    stage.place_host(tuple(label for label in _labels_of(cluster.governed["host"]) if label.source == "node"), frozenset())
    for policy in cluster.policies:
        kind = BY_NAME[policy["kind"]]
        objects.put(kind.short, policy["metadata"]["name"], policy_of(policy))
        assert not objects.error(f"{kind.short}/{policy['metadata']['name']}")
    objects.place_services(lambda wanted: _behind(cluster, wanted))
    return stage


def _behind(cluster: Cluster, wanted: Services) -> Any:
    found = [
        texts
        for (namespace, name), (labels, texts) in cluster.services.items()
        if wanted.namespace in ("", namespace)
        and wanted.name in ("", name)
        and (wanted.labels is None or wanted.labels.matches(canonical(Label("k8s", *each) for each in labels.items())))
    ]
    return tuple(ip_network(text) for texts in found for text in texts) if found else None
