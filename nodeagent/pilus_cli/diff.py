"""What policies in files would change, against the workloads that there are.

In: YAML, and a cluster's identities, endpoints and policies. Out: for each workload, who could reach it or be reached that can't
now, and the other way round. Changes nothing.
"""

import asyncio
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from pilus_agent.desired.policy.compiler import PolicyCompiler
from pilus_agent.desired.policy.difference import OTHER, Change, Peer, differences
from pilus_agent.desired.policy.tables import CompiledPolicy, Endpoint
from pilus_agent.nearest import port_words
from pilus_agent.sources.kubernetes import cidr_group_of, identity_of, slice_of
from pilus_api.connection import ApiError, Connection, NotFound
from pilus_api.errors import InvalidError, PilusError
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import Labels
from pilus_api.policies import Draft, drafts_of, groups_of, is_policy, resolve
from pilus_api.policy_kinds import BY_NAME, POLICY_KINDS, optional
from pilus_api.policy_modes import MODE_ANNOTATION, Mode, mode_of
from pilus_api.rules import CidrGroup, Direction, GroupName, Network, Policy
from pilus_api.yaml_text import Document, located
from pilus_cli.check import check, files, objects
from pilus_cli.client import Item
from pilus_cli.output import Asking, pass_asking, print_json
from pilus_cli.terminal import console, safe

Raw = Mapping[str, Any]
Name = tuple[str, str, str]  # kind, namespace, name

_DIRECTIONS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster has that policies are about. `pods`: names of the pods that bear an identity."""

    identities: Mapping[Identity, Labels]
    pods: Mapping[Identity, tuple[str, ...]]
    policies: Mapping[Name, Raw]
    groups: Mapping[GroupName, tuple[Network, ...]]
    modes: Mapping[str, str]  # what namespaces say of the mode of their policies


@dataclass(frozen=True, slots=True)
class Changed:
    """One workload in one direction: `peers` for whom exactly `changes` come."""

    identity: Identity
    direction: Direction
    peers: tuple[Peer, ...]
    changes: tuple[Change, ...]


async def _list(connection: Connection, version: str, plural: str, *, missing: bool = False) -> list[Any]:
    try:
        return await connection.list_all(f"/{'api' if version == 'v1' else 'apis'}/{version}/{plural}")
    except NotFound:
        if missing:
            return []
        raise


def name_of(obj: Raw) -> Name:
    kind, metadata = str(obj["kind"]), obj["metadata"]
    return kind, str(metadata.get("namespace") or "default") if BY_NAME[kind].namespaced else "", str(metadata["name"])


async def read(connection: Connection) -> Cluster:
    """Raises ApiError."""
    policies: dict[Name, Raw] = {}
    for kind in POLICY_KINDS:
        for raw in await _list(connection, kind.version, kind.plural, missing=optional(kind)):
            obj = {**raw, "apiVersion": kind.version, "kind": kind.name}
            policies[name_of(obj)] = {key: value for key, value in obj.items() if key != "status"}
    found = [identity_of(raw) for raw in await _list(connection, "cilium.io/v2", "ciliumidentities")]
    pods: dict[Identity, set[str]] = {}
    for raw in await _list(connection, "cilium.io/v2alpha1", "ciliumendpointslices"):
        for endpoint in slice_of(raw).endpoints:
            pods.setdefault(endpoint.identity, set()).add(endpoint.name)
    groups: dict[GroupName, tuple[Network, ...]] = {
        CidrGroup(raw["metadata"]["name"]): cidr_group_of(raw)
        for raw in await _list(connection, "cilium.io/v2alpha1", "ciliumcidrgroups")
    }
    annotated = [raw["metadata"] for raw in await _list(connection, "v1", "namespaces")]
    modes = {one["name"]: str((one.get("annotations") or {}).get(MODE_ANNOTATION, "")) for one in annotated}
    labels = dict(RESERVED) | {held.number: held.labels for held in found}
    return Cluster(labels, {number: tuple(sorted(names)) for number, names in pods.items()}, policies, groups, modes)


def compare(cluster: Cluster, given: Iterable[Raw], name: str = "default") -> list[Changed]:
    """What the given policies change; each takes the place of one of its kind and name, and is enforced. Raises InvalidError."""
    replaced = {name_of(obj): obj for obj in given}
    after = {key: obj for key, obj in cluster.policies.items() if key not in replaced}
    was = _compiled(cluster, cluster.policies, name, enforced=frozenset())
    now = _compiled(cluster, after | replaced, name, enforced=frozenset(replaced))
    found = []
    for identity in sorted(cluster.pods.keys() & cluster.identities.keys()):
        for direction in Direction:
            changed = differences(was.get(identity), now.get(identity), direction, sorted(cluster.identities))
            found += [Changed(identity, direction, tuple(peers), changes) for changes, peers in changed.items()]
    return found


def _compiled(
    cluster: Cluster, policies: Mapping[Name, Raw], name: str, enforced: frozenset[Name]
) -> dict[Identity, CompiledPolicy]:
    """What holds for each workload."""
    compiler = PolicyCompiler()
    for number, labels in cluster.identities.items():
        compiler.put_identity(number, labels)
    for number in cluster.pods.keys() & cluster.identities.keys():
        compiler.put_endpoint(str(number), Endpoint(cluster.identities[number], {}))
    drafts: list[Draft] = []
    audited: set[Name] = set()
    for key, obj in policies.items():
        try:
            drafts += drafts_of(obj, cluster=name)
        except InvalidError:
            if key in enforced:
                raise
            continue  # one that stands there and means nothing
        mode, _ = mode_of(obj, cluster.modes.get(key[1], ""), everywhere=False)
        if mode is Mode.AUDIT and key not in enforced:
            audited.add(key)
    groups: dict[GroupName, tuple[Network, ...]] = dict.fromkeys(groups_of(drafts), ())
    compiler.put_policies("all", (_moded(policy, audited) for policy in resolve(drafts, groups | dict(cluster.groups))))
    compiled = compiler.compiled()
    holding = {}
    for endpoint, applied in compiled.endpoints.items():
        if applied.policy in compiled.too_large:
            raise InvalidError(f"the policies of identity {endpoint} are more than a node can hold")
        if applied.policy is not None:
            holding[Identity(int(endpoint))] = compiled.policies[applied.policy]
    return holding


def _moded(policy: Policy, audited: set[Name]) -> Policy:
    origin = policy.origin
    return replace(policy, audit=(origin.kind, origin.namespace, origin.name) in audited)


@click.command("diff")
@click.option("-f", "--file", "given", multiple=True, required=True, metavar="FILE", help="YAML, a folder of it, or - for stdin.")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, exists=True), help="Default: KUBECONFIG, ~/.kube/config, or the pod's own."
)
@click.option("--context", default="", help="Of the kubeconfig; the current one without it.")
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster, as its setting cluster-name has it.")
@pass_asking
def policy_diff(asking: Asking, given: tuple[str, ...], kubeconfig: Path | None, context: str, cluster: str) -> None:
    """What policies in files would change, by workload. What there is already of the same kind and name is taken to be replaced.

    Policies of the files count as enforced, whatever their mode. Named ports are known where policies spell them out alone, and
    addresses behind Services not at all: rules by these are the same before and after.
    """
    texts = list(files(given))
    checked = check(texts, cluster)
    if checked.failed or not checked.policies:
        for finding in checked.findings:
            console(stderr=True).print(safe(finding))
        raise click.ClickException("there is no policy to compare" if not checked.policies else "correct the policies first")
    wanted = [
        obj
        for _, text in texts
        for one in located(text)
        if isinstance(one, Document)
        for obj in objects(one.value)
        if is_policy(obj)
    ]
    default = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    try:
        there = asyncio.run(_reach(kubeconfig or (default if default.exists() else None), context))
        found = compare(there, wanted, cluster)
    except (ApiError, PilusError) as error:
        raise click.ClickException(str(error)) from error
    if asking.as_json:
        print_json([_item(there, one) for one in found])
        return
    _print(there, found)


async def _reach(kubeconfig: Path | None, context: str) -> Cluster:
    async with Connection.from_kubeconfig(kubeconfig, context) if kubeconfig else Connection.in_cluster() as connection:
        return await read(connection)


def _peer(cluster: Cluster, peer: Peer) -> str:
    if not isinstance(peer, int):
        return str(peer)
    return f"{peer} {_words(cluster.identities.get(peer, ()))}"


def _words(labels: Labels) -> str:
    chosen = [
        str(label)
        for label in labels
        if not label.key.startswith(("io.cilium.k8s.namespace.labels.", "io.cilium.k8s.policy.cluster"))
    ]
    return " ".join(chosen)


def _change(change: Change) -> str:
    if not change.protocol:
        return "everything"
    if change.protocol == OTHER:
        return "every other protocol"
    return port_words(change.protocol, change.low, change.high)


def _item(cluster: Cluster, one: Changed) -> Item:
    return {
        "identity": int(one.identity),
        "labels": [str(label) for label in cluster.identities[one.identity]],
        "pods": list(cluster.pods[one.identity]),
        "direction": one.direction.name.lower(),
        "peers": [_peer(cluster, peer) for peer in one.peers],
        "changes": [
            {"what": _change(change), "allowed": change.allowed, "rule": str(change.rule) if change.rule else None}
            for change in one.changes
        ],
    }


def _print(cluster: Cluster, found: list[Changed]) -> None:
    out = console()
    if not found:
        out.print("nothing changes for any workload")
    last: Identity | None = None
    for one in found:
        if one.identity != last:
            pods = cluster.pods[one.identity]
            shown = ", ".join(pods[:3]) + (f" and {len(pods) - 3} more" if len(pods) > 3 else "")
            out.print(f"{safe(_words(cluster.identities[one.identity]))}: {safe(shown)}", style="bold")
            last = one.identity
        for change in one.changes:
            word, style = ("now allowed", "green") if change.allowed else ("now denied", "red")
            by = f"  by {change.rule}" if change.rule else ""
            out.print(f"  {one.direction.name.lower()}, {word}: {safe(_change(change))}{safe(by)}", style=style)
        for peer in one.peers[:10]:
            out.print(f"    {_DIRECTIONS[one.direction]} {safe(_peer(cluster, peer))}")
        if len(one.peers) > 10:
            out.print(f"    and {len(one.peers) - 10} more")
