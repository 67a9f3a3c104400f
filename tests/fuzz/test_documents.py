"""A directory of YAML in which somebody else writes. CVE-2023-41332's kind: nothing in it stops the agent, or what is beside it."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.conftest import HOSTILE
from tests.fuzz.values import VALUES, places, with_value

from pilus_agent.sources.directory import DirectorySource
from pilus_api.label_filters import IdentityFilter

PATIENCE = 10  # seconds of this process: what these cost before has no end
GOOD = {"kind": "Namespace", "metadata": {"name": "good"}}
KINDS: list[dict[str, Any]] = [
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "n",
            "uid": "u",
            "labels": {"a": "b"},
            "annotations": {"pilus.io/network-namespace": "/run/netns/x"},
        },
        "spec": {"serviceAccountName": "s", "containers": [{"ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}]},
    },
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"a": "b"}}},
    {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNode",
        "metadata": {"name": "n"},
        "spec": {"addresses": [{"type": "InternalIP", "ip": "192.0.2.1"}], "ipam": {"podCIDRs": ["10.0.0.0/24"]}},
    },
    {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "c", "namespace": "n", "generation": 1},
        "spec": {
            "endpointSelector": {"matchLabels": {"a": "b"}},
            "ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "80"}]}]}],
            "egress": [{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}, {"toFQDNs": [{"matchName": "a.b"}]}],
        },
    },
    {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "c"},
        "spec": {
            "endpointSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "egressDeny": [{"toEntities": ["world"]}],
        },
    },
    {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "k", "namespace": "n"},
        "spec": {
            "podSelector": {},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]}],
        },
    },
    {"kind": "List", "items": [{"kind": "Namespace", "metadata": {"name": "n"}}]},
]


class Sink:
    def __init__(self) -> None:
        self.facts: dict[tuple[str, str], Any] = {}

    def put(self, kind: str, key: str, fact: Any) -> None:
        self.facts[kind, key] = fact

    def synced(self, kind: str) -> None:
        pass


def read(folder: Path, text: str | bytes) -> dict[tuple[str, str], Any]:
    """What is told of a file, and of one beside it."""
    (folder / "hostile.yaml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    (folder / "good.yaml").write_text(yaml.safe_dump(GOOD))
    sink = Sink()
    source = DirectorySource(folder, sink, "default", IdentityFilter())
    begun = time.process_time()
    source._look()
    source._tell()
    took = time.process_time() - begun
    print(f"read in {took:.2f} s")
    assert took < PATIENCE
    assert ("namespaces", "good") in sink.facts
    return sink.facts


def _bomb(where: str) -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]" for before, after in zip("abcdefgh", "bcdefghi", strict=True)]
    return "\n".join([*lines, where])


_POLICY = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: x, namespace: y}\nspec: "
EXPLODING = {
    "a billion laughs": _bomb("kind: Pod\nmetadata: {name: x}"),
    "a billion laughs as a name": _bomb("kind: Pod\nmetadata: {name: *i}"),
    "a billion laughs as labels": _bomb("kind: Pod\nmetadata: {name: x, labels: {a: *i}}"),
    "a billion laughs as rules": _bomb(_POLICY + "{endpointSelector: {}, ingress: *i}"),
    "a billion laughs as items": _bomb("kind: List\nitems: *i"),
    "a policy within itself": _POLICY + "&s {endpointSelector: {}, ingress: [*s]}",
    "a name within itself": "kind: Pod\nmetadata: {name: &n [*n]}",
    "a chain of aliases": "a0: &a0 [x]\n"
    + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000))
    + "\nkind: Pod\nmetadata: {name: *a2999}",
    "brackets": "kind: Pod\nmetadata: " + "[" * 20_000,
    "brackets that end": "kind: Pod\nmetadata: {name: x, labels: " + "[" * 900 + "]" * 900 + "}",
    "deep rules": _POLICY + "{endpointSelector: {}, ingress: " + "[" * 150 + "]" * 150 + "}",
    "a number of a million digits": "kind: Pod\nmetadata: {name: x, uid: " + "9" * 1_000_000 + "}",
    "a number by sixties": "kind: Pod\nmetadata: {name: " + "1:" * 100_000 + "1}",
    "a hundred thousand documents": "---\n" * 100_000,
    "a name of a megabyte": f"kind: Pod\nmetadata: {{name: {'x' * 1_000_000}}}",
}


@pytest.mark.parametrize("text", EXPLODING.values(), ids=EXPLODING)
def test_cve_2023_41332_documents_that_explode(tmp_path: Path, text: str) -> None:
    """Some lines that are more values than there is memory, or have no end."""
    read(tmp_path, text)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "nowhere.yaml").symlink_to(tmp_path / "gone")
    (tmp_path / "folder.yaml").mkdir()
    read(tmp_path, "kind: Pod")


@HOSTILE
@given(raw=st.one_of(st.binary(max_size=200), st.text("[]{}:,&*!?|>-# \n\t\"'%@`ab01~", max_size=200).map(str.encode)))
def test_cve_2023_41332_any_bytes(tmp_path: Path, raw: bytes) -> None:
    read(tmp_path, raw)


@HOSTILE
@given(data=st.data())
def test_cve_2023_41332_any_value_anywhere(tmp_path: Path, data: st.DataObject) -> None:
    """A document of each kind, with something else in one of its places."""
    held = data.draw(st.sampled_from(KINDS))
    changed = with_value(held, data.draw(st.sampled_from(sorted(places(held), key=repr))), data.draw(VALUES))
    try:
        text = yaml.safe_dump(changed, allow_unicode=True)
    except (ValueError, yaml.YAMLError):  # a number of more digits than may be written
        return
    read(tmp_path, text)
