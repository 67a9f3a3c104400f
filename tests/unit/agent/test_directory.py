"""A directory of YAML as a source."""

import os
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.unit.parses import watched

from pilus_agent.facts import Pod
from pilus_agent.sources.directory import DirectorySource
from pilus_api.label_filters import IdentityFilter


class Told:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.facts: dict[tuple[str, str], Any] = {}
        self.kinds: set[str] = set()

    def put(self, kind: str, key: str, fact: Any) -> None:
        if fact is None:
            del self.facts[kind, key]
        else:
            self.facts[kind, key] = fact

    def synced(self, kind: str) -> None:
        self.kinds.add(kind)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def source(tmp_path: Path, told: Told) -> DirectorySource:
    return DirectorySource(tmp_path, told, "default", IdentityFilter())


def look(source: DirectorySource) -> None:
    if source._look():
        source._tell()


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))


POD = """
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}, annotations: {pilus.io/network-namespace: /run/netns/NAME}}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed}
spec: {endpointSelector: {}, ingress: [{}]}
"""


def test_pods_get_identities_by_their_labels(tmp_path: Path, source: DirectorySource, told: Told) -> None:
    write(tmp_path, "a.yaml", POD.replace("NAME", "web") + "---" + POD.replace("NAME", "client"))
    look(source)
    assert isinstance(told.facts["pods", "default/web"], Pod)
    numbers = {fact.number for (kind, _), fact in told.facts.items() if kind == "identities"}
    assert numbers == {256, 257}
    assert source.pods == {"default/web": "/run/netns/web", "default/client": "/run/netns/client"}
    assert {"pods", "nodes", "cnp", "identities"} <= told.kinds


def test_a_file_that_goes_takes_its_objects_along(tmp_path: Path, source: DirectorySource, told: Told) -> None:
    write(tmp_path, "a.yaml", POD.replace("NAME", "web"))
    write(tmp_path, "b.yaml", POLICY)
    look(source)
    assert ("cnp", "default/closed") in told.facts
    (tmp_path / "b.yaml").unlink()
    look(source)
    assert ("cnp", "default/closed") not in told.facts
    assert ("pods", "default/web") in told.facts


@pytest.mark.parametrize(
    "broken",
    [
        "a: b: c",
        "kind: [",
        POLICY.replace("endpointSelector: {}, ", ""),
        "- 1\n- 2",
        "kind: Pod\nmetadata: 7",
        "!!python/object:os.system {}",
    ],
    ids=["no YAML", "cut off", "refused by the model", "a list", "no metadata", "a tag"],
)
def test_a_broken_document_leaves_the_others_and_what_was_there(
    tmp_path: Path, source: DirectorySource, told: Told, broken: str
) -> None:
    write(tmp_path, "a.yaml", POLICY)
    look(source)
    with capture_logs() as logs:
        write(tmp_path, "a.yaml", broken + "\n---" + POD.replace("NAME", "late"))
        look(source)
    assert ("cnp", "default/closed") in told.facts, "what was enforced became unenforced by a broken file"
    assert ("pods", "default/late") in told.facts
    assert any("a.yaml" in str(entry.get("path")) for entry in logs)


def test_a_file_that_can_not_be_decoded_leaves_what_was_there(tmp_path: Path, source: DirectorySource, told: Told) -> None:
    write(tmp_path, "a.yaml", POLICY)
    look(source)
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\xff")
    look(source)
    assert ("cnp", "default/closed") in told.facts


def test_nothing_is_read_twice(tmp_path: Path, source: DirectorySource) -> None:
    write(tmp_path, "a.yaml", POLICY)
    assert source._look()
    assert not source._look()


def test_a_policy_of_10_mb_is_refused_before_anybody_reads_it(
    tmp_path: Path, source: DirectorySource, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.yaml", POLICY)
    look(source)
    parsed = watched(monkeypatch)
    large = POLICY.replace("[{}]", "[" + "{toPorts: [{ports: [{port: '80'}]}]}, " * 280_000 + "{}]")
    assert len(large) > 10_000_000
    with capture_logs() as logs:
        write(tmp_path, "a.yaml", large + "\n---" + POD.replace("NAME", "late"))
        look(source)
    (log,) = logs
    assert log["error"].startswith(f"a document of {len(large)} characters: no API server holds an object of more than 1572864")
    assert ("cnp", "default/closed") in told.facts, "what was enforced became unenforced by it"
    assert ("pods", "default/late") in told.facts
    assert parsed == [POD.replace("NAME", "late")]


def test_a_nodes_labels_are_its_nodes_or_its_ciliumnodes(tmp_path: Path, source: DirectorySource, told: Told) -> None:
    cilium = "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {name: n2, labels: {rack: red}}\nspec: {}\n"
    write(tmp_path, "a.yaml", cilium)
    look(source)
    assert told.facts["nodelabels", "n2"] == (("rack", "red"),)
    assert "nodelabels" in told.kinds
    write(tmp_path, "b.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n2, labels: {rack: blue}}\n")
    look(source)
    assert told.facts["nodelabels", "n2"] == (("rack", "blue"),)
    assert {kind for kind, _ in told.facts} == {"nodes", "nodelabels"}
    (tmp_path / "b.yaml").unlink()
    look(source)
    assert told.facts["nodelabels", "n2"] == (("rack", "red"),)
