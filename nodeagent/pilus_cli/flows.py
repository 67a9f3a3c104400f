"""What passes and what does not: events as they happen, and the kernel's flow tables.

In: the observer's answers (docs/observer-api.md). Out: a line per event, a table of flows, or JSON lines. Never filters
in a way that hides a drop of what was asked for.
"""

import json
from datetime import UTC, datetime

import click
from rich.text import Text

from pilus_cli.client import Item, stream
from pilus_cli.output import Asking, field, pass_asking, print_items
from pilus_cli.terminal import console, safe


@click.group()
def flow() -> None:
    """Connections in the kernel's flow tables."""


@flow.command("list")
@click.option("--pod", help="Only flows of this pod (NAMESPACE/NAME) or address.")
@pass_asking
def flow_list(asking: Asking, pod: str | None) -> None:
    """Every flow that the kernel holds a decision for."""
    found = [item for item in stream(asking.observer, "observer", {"get": "flows"}) if _concerns(item, pod)]
    print_items(
        asking,
        found,
        [
            ("ZONE", field("zone")),
            ("PROTOCOL", field("protocol")),
            ("SOURCE", lambda item: ending(item.get("source"))),
            ("DESTINATION", lambda item: ending(item.get("destination"))),
            ("STATE", field("state")),
            ("VERDICT", field("verdict")),
            ("PACKETS", field("packets")),
            ("BYTES", field("bytes")),
            ("SEEN", lambda item: f"{item.get('last_seen_seconds')} s ago"),
        ],
        "no flows",
    )


@click.command()
@click.option("--last", type=click.IntRange(min=0), default=20, show_default=True, help="Show so many past events first.")
@click.option("--follow/--no-follow", "-f", default=True, show_default=True, help="Go on with events as they come.")
@click.option("--drops", is_flag=True, help="Only what was dropped.")
@click.option("--pod", help="Only events of this pod (NAMESPACE/NAME) or address.")
@pass_asking
def monitor(asking: Asking, last: int, follow: bool, drops: bool, pod: str | None) -> None:
    """Events of this node, live: who spoke to whom, and whether it passed."""
    request: Item = {"get": "events", "last": last, "follow": follow}
    try:
        for event in stream(asking.observer, "observer", request, timeout=None if follow else 10.0):
            if (drops and event.get("verdict") != "DROPPED") or not _concerns(event, pod):
                continue
            if asking.as_json:
                click.echo(json.dumps(event, ensure_ascii=True))
            else:
                console().print(event_line(event))
    except KeyboardInterrupt:
        return


def _concerns(item: Item, pod: str | None) -> bool:
    if pod is None:
        return True
    ends = (item.get("source"), item.get("destination"))
    return any(isinstance(end, dict) and pod in {end.get("name"), end.get("address")} for end in ends)


def ending(end: object) -> str:
    """One end of a flow in words: the name where there is one, the address, the port, and the identity."""
    if not isinstance(end, dict):
        return "-"
    address, port = str(end.get("address")), end.get("port")
    address = f"[{address}]" if ":" in address and port is not None else address
    where = address if port is None else f"{address}:{port}"
    name = end.get("name")
    shown = f"{name} ({where})" if name else where
    return f"{shown} identity {end.get('identity')}"


def event_line(event: Item) -> Text:
    """One event on one line; whatever came from the cluster is made safe."""
    line = Text()
    when = event.get("time")
    if isinstance(when, int | float):
        line.append(datetime.fromtimestamp(when, UTC).strftime("%H:%M:%S.%f")[:-3] + "  ")
    verdict = event.get("verdict")
    dropped = verdict == "DROPPED"
    line.append(f"{safe(verdict):9} ", style={"DROPPED": "red", "AUDIT": "yellow"}.get(str(verdict), "green"))
    source, destination = ending(event.get("source")), ending(event.get("destination"))
    line.append(f"{safe(event.get('protocol')):6} {safe(source)} -> {safe(destination)}")
    if event.get("direction"):
        line.append(f"  {safe(event.get('direction'))}")
    if dropped:
        line.append(f"  {safe(event.get('reason'))} ({safe(event.get('reason_number'))})", style="red")
    if event.get("rule"):
        line.append(f"  by {safe(event.get('rule'))}")
    if event.get("nearest"):
        line.append(f"; {safe(event.get('nearest'))}")
    if event.get("suppressed"):
        line.append(f"  (+{safe(event.get('suppressed'))} alike)")
    return line
