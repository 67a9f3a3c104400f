"""What every command shares: where to ask, how to print, how to fail.

In: answers of the node's processes. Out: a table, or JSON as it came. Never decides what a command shows.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pilus_cli.client import Item, Json
from pilus_cli.terminal import console, table

Cell = Callable[[Item], object]


@dataclass(frozen=True, slots=True)
class Asking:
    """Where the node's processes listen, and the form that the answer is wanted in."""

    agent: Path
    observer: Path
    as_json: bool


pass_asking = click.make_pass_decorator(Asking)


def print_json(value: Json) -> None:
    # json escapes every control character, so this too is safe for a terminal.
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def print_items(asking: Asking, found: Sequence[Item], columns: Sequence[tuple[str, Cell]], nothing: str) -> None:
    """A line per object, or the objects as JSON; ``nothing`` is said (to stderr) when there is none."""
    if asking.as_json:
        print_json(list(found))
        return
    if not found:
        console(stderr=True).print(nothing)
        return
    console().print(table([name for name, _ in columns], [[cell(item) for _, cell in columns] for item in found]))


def field(name: str) -> Cell:
    """A cell that shows one field; a list is joined by commas, a missing one is a dash."""

    def cell(item: Item) -> object:
        value = item.get(name)
        if isinstance(value, list):
            return ", ".join(str(part) for part in value) or "-"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return value

    return cell


def named(item: Item) -> str:
    """``namespace/name``, or the name alone where there is no namespace."""
    namespace, name = item.get("namespace"), item.get("name")
    return f"{namespace}/{name}" if namespace else str(name or "-")


def labels(item: Item) -> str:
    """The labels of an identity, shortened to what a person chose: derived ones only where nothing else is left."""
    listed = item.get("labels")
    if not isinstance(listed, list):
        return "-"
    chosen = [
        str(label)
        for label in listed
        if not str(label).startswith(("k8s:io.cilium.k8s.namespace.labels.", "k8s:io.cilium.k8s.policy.cluster="))
    ]
    return " ".join(chosen or [str(label) for label in listed])
