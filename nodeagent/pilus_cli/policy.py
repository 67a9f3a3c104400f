"""What is declared, and what it means for one endpoint.

In: the agent's answers. Out: tables, or a policy in words. Never decides anything itself: the words are the tables'.
"""

import importlib
from collections.abc import Mapping
from typing import ClassVar

import click

from pilus_cli.client import Item, item, items
from pilus_cli.inventory import find_endpoint
from pilus_cli.output import Asking, field, named, pass_asking, print_items, print_json
from pilus_cli.terminal import console, safe


class _WithLanguage(click.Group):
    """Commands that read policies themselves bring the whole language with them: it is imported only when one is asked for."""

    _THEIRS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "check": ("pilus_cli.check", "policy_check"),
        "diff": ("pilus_cli.diff", "policy_diff"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._THEIRS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._THEIRS:
            return super().get_command(ctx, cmd_name)
        module, name = self._THEIRS[cmd_name]
        found = getattr(importlib.import_module(module), name)
        return found if isinstance(found, click.Command) else None


@click.group(cls=_WithLanguage)
def policy() -> None:
    """Policies, and what they let an endpoint do."""


@policy.command("list")
@pass_asking
def policy_list(asking: Asking) -> None:
    """Every policy object, and whether this node's kernel has it."""
    print_items(
        asking,
        items(asking.agent, {"get": "policies"}),
        [
            ("KIND", field("kind")),
            ("POLICY", named),
            ("GENERATION", field("generation")),
            ("MODE", field("mode")),
            ("REALISED", field("realised")),
            ("ENDPOINTS HERE", _selected),
            ("MESSAGE", field("message")),
        ],
        "no policies: everything is allowed",
    )


@policy.command("get")
@click.argument("which")
@pass_asking
def policy_get(asking: Asking, which: str) -> None:
    """What one endpoint may do, in words. WHICH is its number, its address, NAMESPACE/POD, or host: the node itself."""
    endpoint: Item = {"number": "host"} if which == "host" else find_endpoint(asking, which)
    held = item(asking.agent, {"get": "policy", "endpoint": endpoint.get("number")})
    if asking.as_json:
        print_json(held)
        return
    out = console()
    who = "this node" if which == "host" else f"endpoint {safe(endpoint.get('number'))} {safe(named(endpoint))}"
    out.print(f"{who}, policy {safe(held.get('policy')) or 'none'}")
    for direction in ("ingress", "egress"):
        _print_direction(direction, held.get(direction))


def _selected(held: Item) -> object:
    return "this node" if held.get("host") else held.get("endpoints")


def _print_direction(direction: str, held: object) -> None:
    out = console()
    if not isinstance(held, dict) or not held.get("enforced"):
        out.print(f"{direction}: not enforced, everything may pass")
        return
    out.print(f"{direction}: enforced")
    for peer_class in _objects(held.get("classes")):
        for peer in _texts(peer_class.get("peers")):
            out.print(f"  {safe(peer)}")
        for verdict in _objects(peer_class.get("verdicts")):
            rule = verdict.get("rule")
            because = f"   ({safe(rule)})" if rule else ""
            if passed := verdict.get("passed"):
                because += f"   (passed on by {safe(passed)})"
            style = "green" if verdict.get("decision") == "allow" else "red"
            out.print(f"    {safe(verdict.get('decision')):5}  {safe(verdict.get('words'))}{because}", style=style)


def _texts(value: object) -> list[str]:
    return [str(entry) for entry in value] if isinstance(value, list) else []


def _objects(value: object) -> list[Item]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
