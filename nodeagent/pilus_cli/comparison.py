"""What policies change for the workloads of a cluster: pods by their identities, and nodes.

In: a Cluster, and policies that are to stand in it. Out: for each workload, for whom what passes that doesn't now, and the other
way round. Pure: it compiles as an agent does, once with and once without them, and compares what the tables answer.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pilus_agent.desired.policy.compiler import PolicyCompiler
from pilus_agent.desired.policy.difference import Change, Peer, differences
from pilus_agent.desired.policy.tables import CompiledPolicy, Endpoint, PolicyName
from pilus_agent.policy_stage import builtin, named_ports
from pilus_api.errors import InvalidError
from pilus_api.identities import HOST, RESERVED, Identity
from pilus_api.labels import SOURCE_RESERVED, Label, canonical
from pilus_api.lifelines import Surroundings, cut_by, lifeline
from pilus_api.policies import drafts_left, drafts_of, groups_of, resolve
from pilus_api.policy_modes import Mode, mode_of
from pilus_api.rules import Direction, GroupName, Network, Policy, Services
from pilus_api.selectors import exists, selector
from pilus_api.settings import Settings
from pilus_cli.cluster import Cluster, Name, Ports, Raw, about_nodes, name_of

Groups = Mapping[GroupName, tuple[Network, ...]]

_NO_GROUPS: Final[Groups] = {}


@dataclass(frozen=True, slots=True)
class Workload:
    """Pods of one identity, or nodes (`node`), for which the same comes of it. `names` are theirs."""

    identity: Identity
    names: tuple[str, ...]
    node: bool = False


@dataclass(frozen=True, slots=True)
class Changed:
    """One workload in one direction: `peers` for whom exactly `changes` come."""

    workload: Workload
    direction: Direction
    peers: tuple[Peer, ...]
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class _Declared:
    raw: Raw
    drafts: tuple[Policy, ...]
    enforced: bool


_Subjects = Mapping[str, tuple[Workload, Endpoint]]
_Holding = Mapping[str, CompiledPolicy]  # for whom it does, by the keys of subjects


def compare(cluster: Cluster, given: Iterable[Raw], name: str = "", groups: Groups = _NO_GROUPS) -> list[Changed]:
    """What the given policies change; each takes the place of one of its kind and name, and is enforced. Raises InvalidError.

    `name`: of the cluster, if not as its settings have it. `groups`: those that come with the policies.
    """
    reading = _reading(cluster.settings, name)
    fresh = {name_of(obj): _Declared(obj, drafts_of(obj, **reading), True) for obj in given}
    before = dict(_standing(cluster, name))
    sides = [(before, cluster.groups), (before | fresh, {**cluster.groups, **groups})]
    if cluster.settings.enable_policy == "never":
        return []
    subjects = _subjects(cluster, [each for declared, _ in sides for each in declared.values()])
    was, now = (_compiled(cluster, subjects, _in_force(declared, cluster.settings), known) for declared, known in sides)
    found: list[Changed] = []
    memo: dict[tuple[object, ...], Mapping[tuple[Change, ...], list[Peer]]] = {}
    for workload, key in _alike(subjects, was, now):
        for direction in Direction:
            # A policy has its rules' name, so what governs both is compared once.
            of = (workload.node, *_names(key, was, now), direction)
            if of not in memo:
                peers = sorted(cluster.identities.keys() - ({HOST} if workload.node else set()))
                memo[of] = differences(was.get(key), now.get(key), direction, peers, cluster.places)
            found += [Changed(workload, direction, tuple(peers), changes) for changes, peers in memo[of].items()]
    return found


def remarks(cluster: Cluster, given: Iterable[Raw]) -> list[str]:
    """What somebody should know of the settings who reads the comparison."""
    settings, policies = cluster.settings, list(given)
    found = []
    if settings.enable_policy == "never":
        found.append("enable-policy is never: no policy restricts anything, and these would not")
    if settings.policy_audit_mode:
        found.append("policy-audit-mode is true: what is compared is these policies enforced, and the others as they are")
    if not settings.enable_k8s_networkpolicy and any(obj["kind"] == "NetworkPolicy" for obj in policies):
        found.append("enable-k8s-networkpolicy is false: a NetworkPolicy means nothing")
    if settings.enable_host_firewall is False and any(map(about_nodes, policies)):
        found.append("enable-host-firewall is false: policies about nodes are not in force")
    if settings.policy_cidr_match_mode:
        found.append("policy-cidr-match-mode is nodes: what rules by address mean for other nodes' own addresses is not compared")
    return found


# -- what is declared ------------------------------------------------------------------------------------------------------------


def _reading(settings: Settings, name: str) -> dict[str, Any]:
    """How objects are read in this cluster."""
    nodes, hosts = settings.enable_node_selector_labels, settings.enable_host_firewall is not False
    return {"cluster": name or settings.cluster_name, "nodes": nodes, "hosts": hosts}


def _standing(cluster: Cluster, name: str) -> Iterator[tuple[Name, _Declared]]:
    """What the cluster has: of what makes no sense, what agents make of it."""
    reading = _reading(cluster.settings, name)
    for key, obj in cluster.policies.items():
        drafts, _ = drafts_left(obj, **reading)
        mode, _ = mode_of(obj, cluster.modes.get(key[1], ""), cluster.settings.policy_audit_mode)
        yield key, _Declared(obj, drafts, mode is Mode.ENFORCE)


def _in_force(declared: Mapping[Name, _Declared], settings: Settings) -> dict[Name, _Declared]:
    return {key: each for key, each in declared.items() if settings.enable_k8s_networkpolicy or key[0] != "NetworkPolicy"}


# -- for whom --------------------------------------------------------------------------------------------------------------------


def _subjects(cluster: Cluster, declared: Iterable[_Declared]) -> dict[str, tuple[Workload, Endpoint]]:
    """Pods, those of one identity together that call their ports the same; and nodes, if any policy is about these."""
    found: dict[str, tuple[Workload, Endpoint]] = {}
    for identity in sorted(cluster.pods.keys() & cluster.identities.keys()):
        called: dict[Ports, list[str]] = {}
        for pod, ports in sorted(cluster.pods[identity].items()):
            called.setdefault(ports, []).append(pod)
        for ports, names in called.items():
            endpoint = Endpoint(cluster.identities[identity], named_ports(ports))
            found[f"{identity}/{names[0]}"] = Workload(identity, tuple(names)), endpoint
    if any(draft.host for each in declared for draft in each.drafts):
        for name, labels in sorted((cluster.nodes or {}).items()):
            endpoint = Endpoint(canonical((*labels, *RESERVED[HOST])), {}, host=True)
            found[f"node/{name}"] = Workload(HOST, (name,), node=True), endpoint
    return found


def _names(key: str, *sides: _Holding) -> tuple[PolicyName | None, ...]:
    return tuple(side[key].name if key in side else None for side in sides)


def _alike(subjects: _Subjects, was: _Holding, now: _Holding) -> list[tuple[Workload, str]]:
    """Those that something else governs than before, alike ones together, each with the key of one of them."""
    together: dict[tuple[object, ...], tuple[Workload, str]] = {}
    for key, (workload, _) in subjects.items():
        before, after = _names(key, was, now)
        if before == after:
            continue
        of = (workload.node, workload.identity, before, after)
        first, of_first = together.get(of, (replace(workload, names=()), key))
        together[of] = replace(first, names=(*first.names, *workload.names)), of_first
    return list(together.values())


def _compiled(
    cluster: Cluster, subjects: _Subjects, declared: Mapping[Name, _Declared], groups: Groups
) -> dict[str, CompiledPolicy]:
    """Raises InvalidError for what no node can hold."""
    compiler = PolicyCompiler()
    for number, labels in cluster.identities.items():
        compiler.put_identity(number, labels, named_ports(set().union(*cluster.pods.get(number, {}).values())))
    lifelines = _lifelines(cluster)
    for key, (_, endpoint) in subjects.items():
        compiler.put_endpoint(key, _with_lifelines(endpoint, lifelines, declared.values()) if endpoint.host else endpoint)
    # What is in audit mode decides nothing, and binds nobody else.
    drafts = [draft for each in declared.values() if each.enforced for draft in each.drafts]
    drafts += lifelines.values()
    # Who is behind a Service is not known: nobody here. Of any other group that is not there agents make the same as `resolve`.
    unknown: Groups = {group: () for group in groups_of(drafts) if isinstance(group, Services)}
    compiler.put_policies("all", (*builtin(cluster.settings), *resolve(drafts, {**unknown, **groups})))
    compiled = compiler.compiled()
    holding = {}
    for key, applied in compiled.endpoints.items():
        if applied.policy in compiled.too_large:
            raise InvalidError(f"the policies of {subjects[key][0].names[0]} are more than a node can hold")
        if applied.policy is not None:
            holding[key] = compiled.policies[applied.policy]
    return holding


# -- lifelines -------------------------------------------------------------------------------------------------------------------


def _mark(name: str) -> str:
    """The key of a label that nodes have which have the lifeline."""
    return f"lifeline-{name}"


def _lifelines(cluster: Cluster) -> dict[str, Policy]:
    """Each for those nodes that have its label."""
    settings = cluster.settings
    tunnel = settings.tunnel_port if settings.routing_mode == "tunnel" else 0
    around = Surroundings(tunnel, cluster.api_ports, frozenset(filter(None, (settings.k8s_api_server,))))
    return {
        name: replace(lifeline(name, around), subject=selector(exists(SOURCE_RESERVED, _mark(name))))
        for name in settings.host_firewall_lifelines
    }


def _with_lifelines(node: Endpoint, names: Iterable[str], declared: Iterable[_Declared]) -> Endpoint:
    """With the labels of those that no policy cuts which is enforced and about the node."""
    cut: set[str] = set()
    for each in declared:
        named, _ = cut_by(each.raw)
        if named and each.enforced and any(one.host and one.subject.matches(node.labels) for one in each.drafts):
            cut |= named
    held = (Label(SOURCE_RESERVED, _mark(name), "") for name in names if name not in cut and "all" not in cut)
    return replace(node, labels=canonical((*node.labels, *held)))
