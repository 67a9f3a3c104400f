"""What policies in files would change, against the workloads that there are.

In: YAML, and a cluster's identities, endpoints and policies. Out: for each workload, who could reach it or be reached that can't
now, and the other way round. Changes nothing.
"""

import asyncio
import os
from pathlib import Path

import click

from pilus_agent.desired.policy.difference import OTHER, Change, Peer, Placed
from pilus_agent.nearest import port_words
from pilus_agent.sources.kubernetes import cidr_group_of
from pilus_api.connection import ApiError, Connection
from pilus_api.errors import PilusError
from pilus_api.identities import HOST, RESERVED
from pilus_api.labels import Labels
from pilus_api.policies import is_policy
from pilus_api.rules import CidrGroup, Direction, GroupName, Network
from pilus_api.yaml_text import Document, located
from pilus_cli.check import check, files, objects
from pilus_cli.client import Item
from pilus_cli.cluster import Cluster, Raw, read
from pilus_cli.comparison import Changed, Workload, compare, remarks
from pilus_cli.output import Asking, pass_asking, print_json
from pilus_cli.terminal import console, safe

_DIRECTIONS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


@click.command("diff")
@click.option("-f", "--file", "given", multiple=True, required=True, metavar="FILE", help="YAML, a folder of it, or - for stdin.")
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, exists=True), help="Default: KUBECONFIG, ~/.kube/config, or the pod's own."
)
@click.option("--context", default="", help="Of the kubeconfig; the current one without it.")
@click.option("--cluster", default="", help="Name of the cluster; as its setting cluster-name has it without this.")
@pass_asking
def policy_diff(asking: Asking, given: tuple[str, ...], kubeconfig: Path | None, context: str, cluster: str) -> None:
    """What policies in files would change, by workload: pods by their identities, and nodes where a policy is about nodes. What
    there is already of the same kind and name is taken to be replaced.

    Policies of the files count as enforced, whatever their mode. Settings are read from the ConfigMap pilus-config. Addresses
    behind Services are not known: rules by these are the same before and after. To pods, their own node is one without labels;
    and what the lifeline kubelet lets a node send to its own pods is not looked at.
    """
    texts = list(files(given))
    checked = check(texts, cluster or "default")
    if checked.failed or not checked.policies:
        for finding in checked.findings:
            console(stderr=True).print(safe(finding))
        raise click.ClickException("there is no policy to compare" if not checked.policies else "correct the policies first")
    held = [obj for _, text in texts for one in located(text) if isinstance(one, Document) for obj in objects(one.value)]
    wanted = [obj for obj in held if is_policy(obj)]
    groups: dict[GroupName, tuple[Network, ...]] = {
        CidrGroup(obj["metadata"]["name"]): cidr_group_of(obj) for obj in held if obj.get("kind") == "CiliumCIDRGroup"
    }
    default = Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    try:
        there = asyncio.run(_reach(kubeconfig or (default if default.exists() else None), context, wanted))
        found = compare(there, wanted, cluster, groups)
    except (ApiError, PilusError) as error:
        raise click.ClickException(str(error)) from error
    for note in (*there.notes, *remarks(there, wanted)):
        console(stderr=True).print(f"note: {safe(note)}")
    if asking.as_json:
        print_json([_item(there, one) for one in found])
        return
    _print(there, found)


async def _reach(kubeconfig: Path | None, context: str, wanted: list[Raw]) -> Cluster:
    async with Connection.from_kubeconfig(kubeconfig, context) if kubeconfig else Connection.in_cluster() as connection:
        return await read(connection, wanted)


def _peer(cluster: Cluster, peer: Peer) -> str:
    if isinstance(peer, Placed):
        more = f" and {len(peer.addresses) - 3} more" if len(peer.addresses) > 3 else ""
        return f"{_peer(cluster, peer.identity)} at {', '.join(map(str, peer.addresses[:3]))}{more}"
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
    workload = one.workload
    labels = RESERVED[HOST] if workload.node else cluster.identities[workload.identity]
    return {
        "identity": int(workload.identity),
        "labels": [str(label) for label in labels],
        "pods": [] if workload.node else list(workload.names),
        "nodes": list(workload.names) if workload.node else [],
        "direction": one.direction.name.lower(),
        "peers": [_peer(cluster, peer) for peer in one.peers],
        "changes": [
            {"what": _change(change), "allowed": change.allowed, "rule": str(change.rule) if change.rule else None}
            for change in one.changes
        ],
    }


def _title(cluster: Cluster, workload: Workload) -> str:
    names = workload.names
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"node {shown}" if workload.node else f"{_words(cluster.identities[workload.identity])}: {shown}"


def _print(cluster: Cluster, found: list[Changed]) -> None:
    out = console()
    if not found:
        out.print("nothing changes for any workload")
    last: Workload | None = None
    for one in found:
        if one.workload != last:
            out.print(safe(_title(cluster, one.workload)), style="bold")
            last = one.workload
        for change in one.changes:
            word, style = ("now allowed", "green") if change.allowed else ("now denied", "red")
            by = f"  by {change.rule}" if change.rule else ""
            out.print(f"  {one.direction.name.lower()}, {word}: {safe(_change(change))}{safe(by)}", style=style)
        for peer in one.peers[:10]:
            out.print(f"    {_DIRECTIONS[one.direction]} {safe(_peer(cluster, peer))}")
        if len(one.peers) > 10:
            out.print(f"    and {len(one.peers) - 10} more")
