"""Why a packet passes, or does not: the agent's answer in words.

In: two ends and a port. Out: the path, each decision on it, the rule that made it, and what would have passed instead.
"""

import re

import click

from pilus_cli.client import Item, item
from pilus_cli.output import Asking, pass_asking, print_json
from pilus_cli.terminal import console, safe

_DESTINATION = re.compile(r"^(?P<end>\[[^\]]+\]|[^\[\]]+):(?P<port>\d{1,5})(?:/(?P<protocol>[A-Za-z0-9]+))?$")
_STYLES = {"allow": "green", "deny": "red"}


@click.command()
@click.argument("source")
@click.argument("destination", metavar="DESTINATION:PORT[/PROTOCOL]")
@pass_asking
def why(asking: Asking, source: str, destination: str) -> None:
    """Whether SOURCE may reach DESTINATION, and which rule says so.

    An end is a pod (NAMESPACE/NAME), a Service, an address ([fd00::1]:80), labels (k8s:app=web,k8s:env=prod), world, or host. world
    is whatever is outside and no rule names more narrowly than by its family; prefixes that fare otherwise are named. The
    protocol is TCP, UDP, SCTP, ICMP or ICMPv6, whose port is the type; without one it is TCP. What the kernel's tables hold is
    asked, on this node: for a pod of another node, ask there.
    """
    found = _DESTINATION.match(destination)
    if found is None:
        raise click.UsageError(f"{destination!r} is no DESTINATION:PORT[/PROTOCOL], such as shop/web:80/TCP or [fd00::1]:53/UDP")
    held = item(
        asking.agent,
        {
            "get": "why", "source": source, "destination": found["end"].strip("[]"), "port": int(found["port"]),
            "protocol": found["protocol"] or "TCP",
        },
    )  # fmt: skip
    if asking.as_json:
        print_json(held)
        return
    out = console()
    if held.get("service"):
        out.print(f"Service {safe(held.get('service'))}: connections go to one of these")
    ways = held.get("ways")
    for way in ways if isinstance(ways, list) else ():
        if isinstance(way, dict):
            _print_way(way, str(held.get("protocol")))


def _print_way(way: Item, protocol: str) -> None:
    out = console()
    end = "allowed" if way.get("allowed") else "denied"
    if way.get("allowed") and not way.get("decided"):
        end = "allowed here"
    out.print(
        f"{_end(way.get('source'))} -> {_end(way.get('destination'))}, {safe(protocol)} {safe(way.get('port'))}: {end}",
        style=_STYLES["allow" if way.get("allowed") else "deny"],
    )
    steps = way.get("steps")
    for step in steps if isinstance(steps, list) else ():
        if not isinstance(step, dict):
            continue
        where = f"  {safe(step.get('direction'))} of {safe(step.get('at'))}"
        out.print(f"{where}: {safe(step.get('verdict'))}, {safe(step.get('reason'))}", style=_STYLES.get(str(step.get("verdict"))))
        _print_because(step)
        audit = step.get("audit")
        if isinstance(audit, dict):
            out.print(f"    in audit mode, would be denied: {safe(audit.get('reason'))}", style="yellow")
            _print_because(audit)


def _print_because(step: Item) -> None:
    out = console()
    if step.get("rule"):
        out.print(f"    by {safe(step.get('rule'))}")
    if step.get("nearest"):
        out.print(f"    nearest: {safe(step.get('nearest'))}")


def _end(held: object) -> str:
    if not isinstance(held, dict):
        return "-"
    address = held.get("address")
    words = safe(held.get("words"))
    shown = words if address in (None, held.get("words")) else f"{words} ({safe(address)})"
    return f"{shown} identity {safe(held.get('identity'))}"
