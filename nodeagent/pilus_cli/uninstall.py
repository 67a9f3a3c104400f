"""What takes Pilus off a node: by the marks that everything of ours bears, and proved.

In: a command line. Out: what there was, or is; exit status 1 if something of ours is left. The one command of `pilus` that changes
a node, and that asks no process of ours.
"""

import sys
import time
from pathlib import Path

import click

from pilus_cli.output import Asking, pass_asking, print_json
from pilus_cli.terminal import console, safe


@click.command()
@click.option("--check", is_flag=True, help="Change nothing: list what of Pilus is on this node, and end with 1 if anything is.")
@click.option("--root", type=click.Path(path_type=Path, exists=True, file_okay=False), default=Path("/"), show_default=True,
              help="Where the node's file system is; in a container with the node's network, a folder that holds it.")  # fmt: skip
@click.option(
    "--wait", "patience", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for agent and observer to end."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_asking
def uninstall(asking: Asking, check: bool, root: Path, patience: float, yes: bool) -> None:
    """Take everything of Pilus off this node. Its pods lose their network."""
    from pilus_agent.datapath.removal import Removal  # noqa: PLC0415  # netlink, which no other command needs

    with Removal(root) as removal:
        if check:
            _report(asking, removal.found())
            return
        until = time.monotonic() + patience
        while (running := removal.running()) and time.monotonic() < until:
            time.sleep(0.2)
        if running:
            names = " and ".join(running)
            raise click.ClickException(f"{names} still runs on this node: kubectl delete -k manifests/ (or stop the process) first")
        if not yes and sys.stdin.isatty() and removal.found():
            click.confirm("Pods of this node lose their network. Remove Pilus?", abort=True)
        for line in removal.remove():
            if not asking.as_json:
                console().print(f"removed {safe(line)}")
        _report(asking, removal.found())


def _report(asking: Asking, left: list[str]) -> None:
    if asking.as_json:
        print_json({"clean": not left, "left": list(left)})
    elif left:
        for line in left:
            console().print(safe(line))
    else:
        console().print("nothing of Pilus is on this node")
    if left:
        sys.exit(1)
