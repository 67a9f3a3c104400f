"""`pilus lab`: the cluster on one machine, from a terminal.

In: a command line. Out: a lab, or what it says. Errors say what is wrong and what to do.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from pilus_lab.lab import Lab, LabError
from pilus_lab.spec import MOST_NODES, states

F = TypeVar("F", bound=Callable[..., object])


class _Group(click.Group):
    """Turns a lab's error into one line, not a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (LabError, ValueError, ConnectionError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def lab() -> None:
    """A Kubernetes cluster on this machine: nodes are namespaces, kubelets and control plane are real."""


def _named(command: F) -> F:
    return click.option("--name", default="default", show_default=True, help="Which lab; several run side by side.")(command)


@lab.command()
@_named
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(0, MOST_NODES), help="0: a control plane alone.")
@click.option("--cni", type=click.Choice(["pilus", "ptp"]), default="pilus", show_default=True)
@click.option("--without", multiple=True, type=click.Choice(["operator", "agent", "observer"]), help="Leave a part out.")
@click.option("--install", is_flag=True, help="Pilus from its image, by kubectl apply -k manifests/: none of it runs on the host.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A key of the configuration.")
def up(name: str, nodes: int, cni: str, without: tuple[str, ...], install: bool, settings: tuple[str, ...]) -> None:
    """Bring a lab up; prints what has come up and when."""
    pairs = dict(setting.partition("=")[::2] for setting in settings)
    if install and (cni != "pilus" or without or not nodes):
        raise click.UsageError("--install brings all of Pilus, to nodes: it goes with no --cni, --without or --nodes 0")
    made = Lab(name, nodes=nodes, cni="ptp" if cni == "ptp" else "none" if install else "pilus", settings=pairs, without=without)
    made.up()
    if install:
        made.install()
    click.echo(f"lab {name} is up: pilus lab kubectl --name {name} -- get pods -A", err=True)


@lab.command()
@_named
def down(name: str) -> None:
    """Take a lab down, however far it had come; nothing is left behind."""
    Lab.existing(name).down()


@lab.command()
def status() -> None:
    """Every lab: its nodes and what runs on them."""
    found = sorted(path.parent.name for path in states().glob("*/lab.json"))
    if not found:
        click.echo("no lab is up (pilus lab up)", err=True)
    for name in found:
        held = Lab.existing(name)
        click.echo(f"{name}: {len(held.spec.nodes)} nodes, {held.spec.cni}, {held.spec.folder}")
        for place in (held.control, *(held.node(node.name) for node in held.spec.nodes)):
            try:
                running = place.components()
            except ConnectionError:
                click.echo(f"  {place.name}: down")
                continue
            words = [key if c["status"] is None else f"{key} (ended: {c['status']})" for key, c in sorted(running.items())]
            click.echo(f"  {place.name}: {', '.join(words)}")


def _become(command: list[str]) -> None:
    """Go on as another program, with this terminal."""
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@_named
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def exec_(name: str, node: str, command: tuple[str, ...]) -> None:
    """Run a command in a node (or in `control`), in all its namespaces: pilus lab exec n1 -- pilus status."""
    held = Lab.existing(name)
    place = held.control if node == "control" else held.node(node)
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    _become([*place.entry(), *command])


@lab.command(context_settings={"ignore_unknown_options": True})
@_named
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, arguments: tuple[str, ...]) -> None:
    """Run kubectl as the cluster's admin: pilus lab kubectl -- get pods -A."""
    _become([*Lab.existing(name).kubectl_command(), *arguments])


@lab.command()
@_named
def kubeconfig(name: str) -> None:
    """Print the path of the admin's kubeconfig (the API server is reached from inside: pilus lab exec control -- ...)."""
    click.echo(Lab.existing(name).spec.kubeconfigs / "admin")


@lab.command()
@_named
@click.option("--follow", "-f", is_flag=True)
@click.argument("which", required=False)
def logs(name: str, follow: bool, which: str | None) -> None:
    """Print a log (n1-agent, operator, apiserver, ...); without a name, list them."""
    folder = Lab.existing(name).spec.logs
    if which is None:
        for path in sorted(folder.glob("*.log")):
            click.echo(path.stem)
        return
    path = folder / f"{which}.log"
    if not path.is_file() or path.parent != folder:
        raise LabError(f"there is no log {which!r}; pilus lab logs lists them")
    if follow:
        _become(["tail", "-n", "50", "-f", str(path)])
    subprocess.run(["cat", str(path)], check=False)


if __name__ == "__main__":
    lab()
