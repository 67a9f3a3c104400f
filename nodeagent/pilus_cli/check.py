"""Policies in files, checked before anybody applies them.

In: YAML. Out: what is wrong with each, and where: as the API server and the agents would say it. Asks nobody: for pipelines.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click

from pilus_api.errors import InvalidError
from pilus_api.policies import drafts_of, groups_of, is_policy, resolve, together
from pilus_api.policy_together import TooMuchTogetherError
from pilus_api.resources.ciliumcidrgroup import CiliumCIDRGroup
from pilus_api.resources.model import parse
from pilus_api.rules import AddressGroup, AddressPeer, ApiServers, CidrGroup, Direction, Policy, Rule
from pilus_api.yaml_text import BrokenYaml, Document, Position, located
from pilus_cli.lint import doubts, malformed, ours, overlooked, unserved
from pilus_cli.output import Asking, pass_asking
from pilus_cli.terminal import console, safe

_LARGEST = 16 << 20
_ERROR, _WARNING = "error", "warning"
_MOST = 20  # of one sort in an object: to find where a key stands costs all of its map


@dataclass(frozen=True, slots=True)
class Finding:
    file: str
    line: int
    column: int
    severity: str
    object: str
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.object}: " if self.object else ""
        path = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {where}{path}{self.message}"


@dataclass(frozen=True, slots=True)
class _Place:
    """An object, and where it stands; `steps` lead to it in its document."""

    file: str
    document: Document
    obj: Mapping[str, Any]
    steps: str


@dataclass(slots=True)
class Checked:
    """What was found in one or more texts, and how many policies there were."""

    findings: list[Finding]
    policies: int = 0

    @property
    def failed(self) -> bool:
        return any(finding.severity == _ERROR for finding in self.findings)


def check(texts: Iterable[tuple[str, str]], cluster: str = "default", *, nodes: bool = False) -> Checked:
    """Check named texts together: a group that one of them has is known to the others."""
    checked = Checked([])
    found: list[_Place] = []
    for file, text in texts:
        for document in located(text):
            if isinstance(document, BrokenYaml):
                checked.findings.append(_finding(file, document.position, _ERROR, "", "", document.message))
                continue
            for key, position in document.repeated():
                message = f"the key {key!r} is given twice, and the first is lost"
                checked.findings.append(_finding(file, position, _ERROR, "", "", message))
            for steps, obj in _listed(document.value):
                message = "stands in a list, which is no object, so nobody takes it: put it behind `---`, or into a List"
                checked.findings.append(_finding(file, document.position(steps), _ERROR, _what(obj), "", message))
            found += (_Place(file, document, obj, steps) for steps, obj in _stepped(document.value))
    groups = {one.obj["metadata"]["name"] for one in found if one.obj.get("kind") == "CiliumCIDRGroup" and _named(one.obj)}
    for place in found:
        checked.policies += is_policy(place.obj)
        checked.findings += _object(place, cluster, groups, nodes)
    checked.findings.sort(key=lambda finding: (finding.file, finding.line, finding.column))
    return checked


def _finding(file: str, position: Position, severity: str, what: str, path: str, message: str) -> Finding:
    return Finding(file, position.line, position.column, severity, what, path, message)


def _stepped(value: Any, steps: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Each object of a document with the way to it: a List has many. kubectl looks into a List in a List as well."""
    if not (isinstance(value, dict) and value.get("kind") == "List"):
        return [(steps, value)] if isinstance(value, dict) else []
    held = value.get("items")
    items = enumerate(held if isinstance(held, list) else ())
    return [found for i, one in items for found in _stepped(one, f"{steps}items[{i}].")]


def _listed(value: Any, steps: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What would be one of our objects, did it not stand in a document that is a list. Whatever else a list has is none of ours."""
    for i, one in enumerate(value if isinstance(value, list) else ()):
        if isinstance(one, dict) and ours(one):
            yield f"{steps}[{i}]", one
        yield from _listed(one, f"{steps}[{i}]")


def objects(value: Any) -> list[Mapping[str, Any]]:
    return [obj for _, obj in _stepped(value)]


def _named(obj: Mapping[str, Any]) -> bool:
    return isinstance(obj.get("metadata"), dict) and isinstance(obj["metadata"].get("name"), str)


def _what(obj: Mapping[str, Any]) -> str:
    metadata = obj["metadata"] if isinstance(obj.get("metadata"), dict) else {}
    name = "/".join(str(part) for part in (metadata.get("namespace"), metadata.get("name")) if part)
    return f"{obj.get('kind')} {name}".strip()


def _object(place: _Place, cluster: str, groups: set[str], nodes: bool) -> Iterator[Finding]:
    obj = place.obj
    kind, what = obj.get("kind"), _what(obj)

    def finding(severity: str, path: str, message: str) -> Finding:
        position = place.document.position(f"{place.steps}{path}")
        return _finding(place.file, position, severity, what, path.partition(" (")[0], message)

    if (nowhere := unserved(obj)) is not None:
        yield finding(_ERROR, *nowhere)
        return
    if kind == "Namespace":
        yield from (finding(_WARNING, *doubt) for doubt in doubts(obj))
    if kind == "CiliumCIDRGroup" or is_policy(obj):
        yield from (finding(_ERROR, *wrong) for wrong in islice(malformed(obj), _MOST))
        yield from (finding(_WARNING, *doubt) for doubt in islice(overlooked(obj), _MOST))
    try:
        if kind == "CiliumCIDRGroup":
            parse(CiliumCIDRGroup, obj)
        if not is_policy(obj):
            return
        drafts = drafts_of(obj, cluster=cluster, nodes=nodes)
        # A requirement may bring in the API servers, of whom no rule speaks. Specs may be about others than each other.
        policies = [found for each in resolve(drafts, dict.fromkeys(groups_of(drafts), ())) for found in together([each])]
    except TooMuchTogetherError as error:
        yield finding(_ERROR, "spec" if "spec" in obj else "specs", str(error))
        return
    except InvalidError as error:
        yield finding(_ERROR, error.path, str(error).removeprefix(f"{error.path}: "))
        return
    for field in dict.fromkeys(field for policy in policies for field in _unenforced(policy)):
        yield finding(_WARNING, field, "is not in force yet: of itself it allows nothing")
    for rule, port in _unresolved((*drafts, *policies)):
        effect = "denies every port of its protocol" if rule.deny else "allows nothing"
        yield finding(_WARNING, rule.origin.path, f"an address has no named port {port}: by addresses it {effect}")
    for group in sorted(
        str(group.name) for group in groups_of(drafts) if isinstance(group, CidrGroup) and group.name not in groups
    ):
        yield finding(_WARNING, "spec", f"names the CiliumCIDRGroup {group}, which none of these files has")
    yield from (finding(_WARNING, *doubt) for doubt in doubts(obj))


def _unenforced(policy: Policy) -> Iterator[str]:
    yield from policy.unenforced
    for rule in policy.rules:
        yield from rule.unenforced


def _unresolved(policies: Iterable[Policy]) -> Iterator[tuple[Rule, str]]:
    """Egress rules that have both addresses and a named port, once for each name. The API servers' addresses are left out: whether
    they have any here is for the cluster to say. `policies`: before their groups are resolved, and after."""
    told = set()
    for policy in policies:
        for rule in policy.rules:
            by_address = any(
                isinstance(peer, AddressPeer)
                or (isinstance(peer, AddressGroup) and (peer.others or not isinstance(peer.name, ApiServers)))
                for peer in rule.peers or ()
            )
            if rule.direction is not Direction.EGRESS or not by_address or (rule.unenforced and not rule.deny):
                continue
            for name in sorted({port.name for port in rule.ports or () if port.name}):
                if (rule.origin, name) not in told:
                    told.add((rule.origin, name))
                    yield rule, name


def files(given: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Raises ClickException for what can't be read."""
    for name in given:
        if name == "-":
            text = sys.stdin.read(_LARGEST + 1)
            if len(text) > _LARGEST:
                raise click.ClickException(f"standard input has more than {_LARGEST} characters")
            yield "-", text
            continue
        path = Path(name)
        paths = sorted(one for one in path.rglob("*") if one.suffix in (".yaml", ".yml", ".json")) if path.is_dir() else [path]
        for one in paths:
            try:
                if one.stat().st_size > _LARGEST:
                    raise click.ClickException(f"{one} has more than {_LARGEST} bytes")
                yield str(one), one.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise click.ClickException(f"can't read {one}: {error}") from error


@click.command("check")
@click.option("-f", "--file", "given", multiple=True, required=True, metavar="FILE", help="YAML, a folder of it, or - for stdin.")
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster that the policies are for.")
@click.option("--node-selector-labels", is_flag=True, help="As with the setting enable-node-selector-labels.")
@pass_asking
def policy_check(asking: Asking, given: tuple[str, ...], cluster: str, node_selector_labels: bool) -> None:
    """Check policies in files, without a cluster. Exit status 1 if one is refused, or there is none."""
    checked = check(files(given), cluster, nodes=node_selector_labels)
    if asking.as_json:
        click.echo(json.dumps([asdict(finding) for finding in checked.findings], indent=2, ensure_ascii=True))
    else:
        out = console()
        for finding in checked.findings:
            out.print(safe(finding), style="red" if finding.severity == _ERROR else "yellow")
        errors = sum(finding.severity == _ERROR for finding in checked.findings)
        console(stderr=True).print(f"{checked.policies} policies, {errors} errors, {len(checked.findings) - errors} warnings")
    if checked.failed or not checked.policies:
        sys.exit(1)
