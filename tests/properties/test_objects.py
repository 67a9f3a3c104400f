"""From objects to tables, against an evaluator that reads the objects themselves: policies of every kind and field."""

import random
from ipaddress import ip_network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.properties.conftest import WORLDS
from tests.properties.meaning import Cluster, End, Packet, decide
from tests.properties.objects import clusters, packet
from tests.unit.agent.fakes import described

from pilus_agent.desired.policy.answers import Decision
from pilus_agent.desired.policy.explain import explain
from pilus_agent.facts import RemoteEndpoint
from pilus_agent.policy_stage import PolicyStage
from pilus_agent.sources.kubernetes import policy_of
from pilus_agent.tables import Tables
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.policy_kinds import BY_NAME
from pilus_api.rules import ApiServers, CidrGroup, Direction, Services
from pilus_api.settings import Settings

PACKETS = 100


def labels_of(end: End) -> Labels:
    return canonical(Label(*each) for each in end.labels or ())


def ports_of(end: End) -> frozenset[tuple[str, int, int]]:
    return frozenset((name, protocol, port) for name, found in end.names.items() for protocol, port in found)


def told(cluster: Cluster) -> PolicyStage:
    """An agent's policies that has heard of all of it."""
    stage = PolicyStage(Settings(cluster_name="blue", **cluster.settings))
    objects = stage.objects
    for name, (_, mode) in cluster.namespaces.items():
        objects.namespace(name, mode)
    for group, texts in cluster.groups.items():
        objects.group(CidrGroup(group), tuple(map(ip_network, texts)))
    objects.group(ApiServers(), tuple(map(ip_network, cluster.api_servers)))
    for end in cluster.ends:
        # The outside has one number, whose labels say no family.
        if end.labels is not None and not (end.identity == 2 or RESERVED.get(Identity(end.identity)) == labels_of(end)):
            stage.identity(Identity(end.identity), labels_of(end))
    remote = [
        RemoteEndpoint(end.addresses[0], Identity(end.identity), None, "a/b", ports_of(end)) for end in cluster.ends if end.names
    ]
    stage.elsewhere("slice", remote)
    stage.place_host(tuple(label for label in labels_of(cluster.governed["host"]) if label.source == "node"), frozenset())
    for policy in cluster.policies:
        kind = BY_NAME[policy["kind"]]
        objects.put(kind.short, policy["metadata"]["name"], policy_of(policy))
        assert not objects.error(f"{kind.short}/{policy['metadata']['name']}")
    objects.place_services(lambda wanted: behind(cluster, wanted))
    return stage


def behind(cluster: Cluster, wanted: Services) -> Any:
    found = [
        texts
        for (namespace, name), (labels, texts) in cluster.services.items()
        if wanted.namespace in ("", namespace)
        and wanted.name in ("", name)
        and (wanted.labels is None or wanted.labels.matches(canonical(Label("k8s", *each) for each in labels.items())))
    ]
    return tuple(ip_network(text) for texts in found for text in texts) if found else None


def telling(cluster: Cluster, chance: random.Random) -> tuple[str, Packet]:
    """A packet, and rather one that some rule decides: most are nobody's."""
    for _ in range(chance.choice((0, 2, 4))):
        me, asked = packet(cluster, chance)
        if decide(cluster, me, asked, audited=chance.random() < 0.5)[1]:
            return me, asked
    return packet(cluster, chance)


@WORLDS
@given(cluster=clusters(), seed=st.integers(0, 2**16))
def test_the_tables_answer_as_the_objects_mean(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - packets, not a secret
    stage, tables = told(cluster), Tables.of(described()["maps"])
    pods = {name: end for name, end in cluster.governed.items() if name != "host"}
    governed = stage.decide(
        {name: labels_of(end) for name, end in pods.items()},
        {name: ports_of(end) for name, end in pods.items()},
        dict.fromkeys(pods),
    )
    stage.settle(tables)
    for _ in range(PACKETS):
        me, asked = telling(cluster, chance)
        applied = governed.get(me)
        sides = (applied.ingress_enforced, applied.egress_enforced) if applied else (False, False)
        check(stage, applied.policy if applied else b"", asked, decide(cluster, me, asked), enforced=sides[asked.direction])
        if applied and applied.audit:
            check(stage, applied.audit, asked, decide(cluster, me, asked, audited=True), enforced=True)
        else:
            assert decide(cluster, me, asked, audited=True)[0] == decide(cluster, me, asked)[0]


def check(stage: PolicyStage, name: bytes, asked: Packet, expected: tuple[bool, frozenset[Any]], *, enforced: bool) -> None:
    allowed, reasons = expected
    policy = stage.numbered(stage.number(name)) if name else None
    if policy is None or not enforced:
        assert allowed, (asked, reasons)
        return
    found = explain(
        policy,
        Direction(asked.direction),
        Identity(asked.peer.identity),
        asked.address,
        not asked.outside,
        asked.protocol,
        asked.port,
    )
    assert (found.decision is Decision.ALLOW) == allowed, (asked, reasons, found)
    if reasons:
        assert found.rule is not None, (asked, reasons)
        assert (found.rule.kind, found.rule.namespace, found.rule.name, found.rule.path) in reasons, (asked, reasons, found)
    else:
        assert found.rule is None, (asked, found)
