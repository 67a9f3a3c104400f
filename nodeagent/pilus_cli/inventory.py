"""What is there: endpoints, identities, addresses, nodes, Services.

In: the agent's answers. Out: a table or JSON each. Never changes anything.
"""

import click

from pilus_cli.client import Item, items
from pilus_cli.output import Asking, field, labels, named, pass_asking, print_items, print_json


@click.group()
def endpoint() -> None:
    """Pods of this node, as the kernel knows them."""


def _enforcement(item: Item) -> str:
    directions = [name for name in ("ingress", "egress") if item.get(f"{name}_enforced")]
    return "+".join(directions) or "-"


@endpoint.command("list")
@pass_asking
def endpoint_list(asking: Asking) -> None:
    """Every endpoint: address, identity, and whether policy is enforced."""
    print_items(
        asking,
        items(asking.agent, {"get": "endpoints"}),
        [
            ("ENDPOINT", field("number")),
            ("POD", named),
            ("IDENTITY", field("identity")),
            ("IPv4", field("ipv4")),
            ("IPv6", field("ipv6")),
            ("ENFORCED", _enforcement),
            ("STATE", field("state")),
            ("LABELS", labels),
        ],
        "no endpoints on this node",
    )


@endpoint.command("get")
@click.argument("which")
@pass_asking
def endpoint_get(asking: Asking, which: str) -> None:
    """One endpoint as JSON. WHICH is its number, its address, or NAMESPACE/POD."""
    print_json(find_endpoint(asking, which))


def find_endpoint(asking: Asking, which: str) -> Item:
    """The endpoint that a person means by number, address or name. Raises ClickException if none or several do."""
    everything = items(asking.agent, {"get": "endpoints"})
    found = [
        item for item in everything if which in {str(item.get("number")), str(item.get("ipv4")), str(item.get("ipv6")), named(item)}
    ]
    found = found or [item for item in everything if item.get("name") == which]
    if len(found) == 1:
        return found[0]
    what = "no endpoint" if not found else f"{len(found)} endpoints"
    raise click.ClickException(f"{what} of this node matches {which!r}; pilus endpoint list shows all of them")


@click.group()
def identity() -> None:
    """Label sets and their numbers."""


@identity.command("list")
@click.option("--reserved", is_flag=True, help="Also the numbers that mean the same everywhere (host, world, ...).")
@pass_asking
def identity_list(asking: Asking, reserved: bool) -> None:
    """Identities that this node knows."""
    found = [item for item in items(asking.agent, {"get": "identities"}) if reserved or not item.get("reserved")]
    print_items(
        asking,
        found,
        [
            ("IDENTITY", field("identity")),
            ("ENDPOINTS HERE", field("endpoints")),
            ("IN KERNEL", field("known")),
            ("LABELS", labels),
        ],
        "no identities are known: no pod runs yet, or the operator is away (pilus status)",
    )


@identity.command("get")
@click.argument("number", type=int)
@pass_asking
def identity_get(asking: Asking, number: int) -> None:
    """One identity as JSON, with all its labels."""
    for item in items(asking.agent, {"get": "identities"}):
        if item.get("identity") == number:
            print_json(item)
            return
    raise click.ClickException(f"identity {number} is not known on this node; pilus identity list shows those that are")


@click.group()
def ipcache() -> None:
    """Addresses and the identities behind them."""


@ipcache.command("list")
@pass_asking
def ipcache_list(asking: Asking) -> None:
    """Every address whose identity this node knows, and the node it is behind."""
    print_items(
        asking,
        items(asking.agent, {"get": "ipcache"}),
        [
            ("PREFIX", field("prefix")),
            ("IDENTITY", field("identity")),
            ("BEHIND", field("tunnel")),
            ("WHAT", field("flags")),
            ("NAME", field("name")),
            ("LABELS", labels),
        ],
        "the table is empty",
    )


@click.group()
def node() -> None:
    """Nodes of the cluster."""


@node.command("list")
@pass_asking
def node_list(asking: Asking) -> None:
    """Every node: its addresses and the ranges its pods have."""
    print_items(
        asking,
        items(asking.agent, {"get": "nodes"}),
        [
            ("NODE", field("name")),
            ("THIS", field("local")),
            ("ADDRESSES", field("addresses")),
            ("ROUTER", field("routers")),
            ("POD RANGES", field("ranges")),
        ],
        "no CiliumNode is known yet",
    )


@click.group()
def service() -> None:
    """Services that this node translates."""


def _endings(name: str, item: Item) -> str:
    listed = item.get(name)
    if not isinstance(listed, list):
        return "-"
    shown = []
    for ending in listed:
        if isinstance(ending, dict):
            address = str(ending.get("address"))
            address = f"[{address}]" if ":" in address else address
            protocol = f"/{ending['protocol']}" if ending.get("protocol") else ""
            shown.append(f"{address}:{ending.get('port')}{protocol}")
    return ", ".join(shown) or "-"


@service.command("list")
@pass_asking
def service_list(asking: Asking) -> None:
    """Every Service: where clients connect to, and who answers."""
    print_items(
        asking,
        items(asking.agent, {"get": "services"}),
        [
            ("SERVICE", named),
            ("TYPE", field("type")),
            ("FRONTENDS", lambda item: _endings("frontends", item)),
            ("BACKENDS", lambda item: _endings("backends", item)),
        ],
        "no Services are known",
    )
