"""One page: what runs here, in which form, what is degraded, and what to do.

In: the agent's status, and the observer's counters. Out: the page, or JSON; exit status 1 when something has failed. Never
changes anything.
"""

import sys

import click
from rich.text import Text

from pilus_cli.client import AskError, Item, ask, item
from pilus_cli.output import Asking, pass_asking, print_json
from pilus_cli.terminal import console, safe, table

_STYLES = {"ok": "green", "degraded": "yellow", "failed": "red"}
_FULL = 0.7  # of a map: where marks of trouble begin to be shown


@click.command()
@pass_asking
def status(asking: Asking) -> None:
    """What runs on this node, what is degraded and what to do about it."""
    held = item(asking.agent, {"get": "status"})
    held["checks"] = [*_objects(held, "checks"), _observer(asking)]
    if asking.as_json:
        print_json(held)
    else:
        _print_page(held)
    if any(check.get("state") == "failed" for check in _objects(held, "checks")):
        sys.exit(1)


def _observer(asking: Asking) -> Item:
    """Whether somebody reads what the kernel tells. Without it traffic goes on; flows are not swept, and nobody sees drops."""
    try:
        found = ask(asking.observer, {"get": "counters"}, "observer")
    except AskError as error:
        return {"name": "observer", "state": "degraded", "message": str(error), "action": error.action}
    passed, dropped = (sum(_count(one.get("packets")) for one in _objects(found, name)) for name in ("forwards", "drops"))
    return {"name": "observer", "state": "ok", "message": f"{passed} packets passed, {dropped} dropped", "action": ""}


def _count(held: object) -> int:
    return held if isinstance(held, int) else 0


def _print_page(held: Item) -> None:
    out = console()
    uptime = held.get("uptime_seconds")
    since = f", up {_duration(uptime)}" if isinstance(uptime, int | float) else ""
    out.print(
        f"node {safe(held.get('node'))}, cluster {safe(held.get('cluster'))}, "
        f"pilus {safe(held.get('version'))}{since}, {safe(held.get('routing_mode'))} routing"
    )
    for check in _objects(held, "checks"):
        state = str(check.get("state"))
        line = Text(f"  {safe(state):9}", style=_STYLES.get(state, "red"))
        line.append(f" {safe(check.get('name'))}: {safe(check.get('message'))}", style="default")
        out.print(line)
        if state != "ok" and check.get("action"):
            out.print(f"            do: {safe(check.get('action'))}")
    maps = [entry for entry in _objects(held, "maps") if entry.get("entries")]
    if maps:
        out.print(table(["MAP", "ENTRIES", "OF", "FULL"], [_map_row(entry) for entry in maps]))


def _map_row(entry: Item) -> list[object]:
    entries, most = entry.get("entries"), entry.get("max_entries")
    share = entries / most if isinstance(entries, int) and isinstance(most, int) and most else 0.0
    return [entry.get("name"), entries, most, f"{share:.0%}{' !' if share >= _FULL else ''}"]


def _objects(held: Item, name: str) -> list[Item]:
    value = held.get(name)
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
