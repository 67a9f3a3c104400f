"""What people type: `pilus`.

In: a command line. Out: a table or JSON, or one line that says what is wrong and one that says what to do.
Never reads the kernel itself: it asks the processes that do; `uninstall` alone acts when they are gone.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pilus_cli.client import AskError
from pilus_cli.flows import flow, monitor
from pilus_cli.install import install
from pilus_cli.inventory import endpoint, identity, ipcache, node, service
from pilus_cli.output import Asking
from pilus_cli.policy import policy
from pilus_cli.status import status
from pilus_cli.terminal import console, safe
from pilus_cli.uninstall import uninstall
from pilus_cli.why import why


class _WithLab(click.Group):
    """The lab is part of the development tree: a node's image does without, and it is imported only when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *(["lab"] if self._lab() else [])])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._lab() if cmd_name == "lab" else super().get_command(ctx, cmd_name)

    @staticmethod
    def _lab() -> click.Command | None:
        try:
            found = importlib.import_module("pilus_lab.cli").lab
        except ModuleNotFoundError:
            return None
        return found if isinstance(found, click.Command) else None


@click.group(cls=_WithLab, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Form of the answer.")
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    default=Path("/run/pilus"),
    envvar="PILUS_RUNTIME",
    show_default=True,
    help="Folder of the agent's and the observer's sockets.",
)
@click.version_option(package_name="pilus")
@click.pass_context
def cli(ctx: click.Context, output: str, runtime: Path) -> None:
    """Pilus: every pod's network, identity and policy, in the kernel. Run it on a node, as root."""
    ctx.obj = Asking(agent=runtime / "agent.sock", observer=runtime / "observer.sock", as_json=output == "json")


for command in (status, endpoint, identity, ipcache, policy, why, flow, service, node, monitor, install, uninstall):
    cli.add_command(command)


def _output_anywhere(arguments: Sequence[str]) -> list[str]:
    """``-o json`` may stand behind a command too, where kubectl's users look for it; click wants it in front.

    What is behind ``--`` or belongs to the lab's commands is somebody else's.
    """
    front: list[str] = []
    rest = list(arguments)
    if "lab" in rest[:3]:
        return rest
    kept: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--":
            kept += [word, *rest]
            break
        if word in ("-o", "--output") and rest:
            front += [word, rest.pop(0)]
        elif word.startswith(("--output=", "-ojson", "-otable")):
            front.append(word)
        else:
            kept.append(word)
    return front + kept


def main() -> None:
    """The console script. Exit status: 0 done, 1 what was asked failed, 2 the command line was wrong."""
    try:
        cli.main(args=_output_anywhere(sys.argv[1:]), prog_name="pilus", standalone_mode=False)
    except AskError as error:
        err = console(stderr=True)
        err.print(f"pilus: {safe(error)}")
        err.print(f"  do: {safe(error.action)}")
        sys.exit(1)
    except click.exceptions.Exit as stopped:
        sys.exit(stopped.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Leave nothing for the interpreter to flush into the closed pipe.
        sys.stdout = None
        sys.exit(0)


if __name__ == "__main__":
    main()
