"""A directory of YAML as a source: the same manifests, without an API server.

In: every *.yaml and *.yml file of a folder. Out: facts, put into a sink. A document that can't be read is said once and leaves
what it said before in force; the documents beside it go on. Objects are checked against the same models as by an API server.
"""

import asyncio
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from pilus_agent.facts import AllocatedIdentity, Namespace, Pod
from pilus_agent.sources.documents import documents
from pilus_agent.sources.kubernetes import Sink, cidr_group_of, namespace_of, node_labels_of, node_of, pod_of, policy_of
from pilus_api.errors import PilusError
from pilus_api.identities import FIRST_ALLOCATED, LAST_ALLOCATED, Identity, identity_labels, is_fixed
from pilus_api.label_filters import IdentityFilter
from pilus_api.labels import Labels
from pilus_api.policies import drafts_of
from pilus_api.policy_kinds import BY_NAME, BY_SHORT
from pilus_api.resources.ciliumcidrgroup import CiliumCIDRGroup
from pilus_api.resources.model import parse

_log = structlog.get_logger(__name__)

NETNS_ANNOTATION = "pilus.io/network-namespace"
_INTERVAL_SECONDS = 0.5
_LARGEST = 16 << 20

Raw = Mapping[str, Any]
Name = tuple[str, str]  # kind of fact, key

# Kinds of facts that stay here. A CiliumNode's labels hold where there is no Node of that name.
_LABELS = "labels of a CiliumNode"
_UNTOLD = ("netns", _LABELS)


class Identities:
    """Numbers for label sets, by this node alone: the same number for the same set as long as the process lives."""

    def __init__(self) -> None:
        self._numbers: dict[Labels, Identity] = {}
        self._next = FIRST_ALLOCATED

    def number(self, labels: Labels) -> Identity:
        if labels not in self._numbers:
            if self._next > LAST_ALLOCATED:
                raise PilusError("no identity is left: too many label sets for one node")
            self._numbers[labels] = Identity(self._next)
            self._next += 1
        return self._numbers[labels]


class DirectorySource:
    """`pods` is what is to be connected: the path of the network namespace for each pod's key."""

    def __init__(self, folder: Path, sink: Sink, cluster: str, relevant: IdentityFilter) -> None:
        self._folder = folder
        self._sink = sink
        self._cluster = cluster
        self._relevant = relevant
        self._identities = Identities()
        self._read: dict[Path, tuple[tuple[int, int], dict[Name, Any]]] = {}
        self._told: dict[Name, Any] = {}
        self.pods: dict[str, str] = {}

    async def run(self, changed: asyncio.Event) -> None:
        """For ever."""
        while True:
            if await asyncio.to_thread(self._look):
                self._tell()
                changed.set()
            await asyncio.sleep(_INTERVAL_SECONDS)

    def _look(self) -> bool:
        """Read what is new; whether anything is."""
        try:
            paths = {path for path in self._folder.iterdir() if path.suffix in (".yaml", ".yml")}
        except OSError as error:
            raise PilusError(f"the directory of manifests can't be read: {error}") from error
        moved = self._read.keys() != paths
        for path in self._read.keys() - paths:
            del self._read[path]
        for path in paths:
            try:
                held = path.stat()
                stamp = (held.st_mtime_ns, held.st_size)
                if path in self._read and self._read[path][0] == stamp:
                    continue
                if not stat.S_ISREG(held.st_mode):  # a pipe or a device would never end
                    raise PilusError("not a file")
                if held.st_size > _LARGEST:
                    raise PilusError(f"more than {_LARGEST} bytes")
                before = self._read[path][1] if path in self._read else {}
                self._read[path] = (stamp, self._facts(path, path.read_text(), before))
            except (OSError, UnicodeDecodeError, PilusError) as error:
                _log.warning("a file can't be read, what it said before stays in force", path=str(path), error=str(error))
                self._read.setdefault(path, ((0, 0), {}))
            moved = True
        return moved

    def _facts(self, path: Path, text: str, before: dict[Name, Any]) -> dict[Name, Any]:
        found: dict[Name, Any] = {}
        broken = False
        for raw in documents(path, text):
            if raw is None:
                broken = True
                continue
            try:
                found.update(self._fact(raw))
            except (PilusError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
                broken = True
                name = raw.get("metadata", {}).get("name") if isinstance(raw.get("metadata"), dict) else None
                _log.warning(
                    "a document makes no sense, left out",
                    path=str(path),
                    name=_shown(name),
                    kind=_shown(raw.get("kind")),
                    error=f"{error!s:.300}",
                )
        # A broken document may be any of those that were there: none of them stops being in force for it.
        return before | found if broken else found

    def _fact(self, raw: Raw) -> dict[Name, Any]:
        kind = raw.get("kind")
        metadata = raw["metadata"]
        name = str(metadata["name"])
        namespace = str(metadata.get("namespace") or "default")
        named = {**raw, "metadata": {"uid": f"{kind}/{namespace}/{name}", "namespace": namespace, **metadata}}
        if kind in BY_NAME:
            policy = BY_NAME[str(kind)]
            drafts_of(raw, cluster=self._cluster)
            key = f"{namespace}/{name}" if policy.namespaced else name
            return {(policy.short, key): policy_of(named)}
        if kind == "Namespace":
            return {
                ("namespaces", name): namespace_of(
                    {"metadata": {**metadata, "labels": {"kubernetes.io/metadata.name": name, **(metadata.get("labels") or {})}}}
                )
            }
        if kind in ("CiliumNode", "Node"):
            labels = node_labels_of(raw)
            return {("nodelabels", name): labels} if kind == "Node" else {("nodes", name): node_of(raw), (_LABELS, name): labels}
        if kind == "CiliumCIDRGroup":
            parse(CiliumCIDRGroup, raw)
            return {("cidrgroups", name): cidr_group_of(raw)}
        if kind == "Pod":
            pod = pod_of(named)
            netns = (metadata.get("annotations") or {}).get(NETNS_ANNOTATION, "")
            return {("pods", f"{namespace}/{name}"): pod, ("netns", f"{namespace}/{name}"): str(netns)}
        _log.info("a kind that a directory does not need, left out", kind=_shown(kind), name=_shown(name))
        return {}

    def _tell(self) -> None:
        now = {name: fact for _, facts in self._read.values() for name, fact in facts.items()}
        for kind, key in [name for name in now if name[0] == "pods"]:
            namespace = key.partition("/")[0]
            now.setdefault(("namespaces", namespace), Namespace((("kubernetes.io/metadata.name", namespace),)))
            pod: Pod = now[kind, key]
            labels = self._relevant(
                identity_labels(
                    dict(pod.labels), namespace, dict(now["namespaces", namespace].labels), pod.service_account, self._cluster
                )
            )
            if not is_fixed(labels):  # its number stands in the settings
                number = self._identities.number(labels)
                now["identities", str(number)] = AllocatedIdentity(number, labels)
        for kind, key in [name for name in now if name[0] == _LABELS]:
            now.setdefault(("nodelabels", key), now[kind, key])
        self.pods = {key: netns for (kind, key), netns in now.items() if kind == "netns" and netns}
        for name in self._told.keys() | now.keys():
            if name[0] not in _UNTOLD and self._told.get(name) != now.get(name):
                self._sink.put(*name, now.get(name))
        self._told = now
        for kind in (
            "nodes",
            "nodelabels",
            "pods",
            "namespaces",
            "identities",
            "slices",
            *BY_SHORT,
            "services",
            "endpointslices",
            "cidrgroups",
        ):
            self._sink.synced(kind)


def _shown(value: object) -> str:
    """For a log: what should be a word. Some numbers are too long to be written at all."""
    return value[:100] if isinstance(value, str) else f"a {type(value).__name__}"
