"""Objects of the API server, written by whoever may: agent and operator read what makes sense, leave out what does not, and go on.
CVE-2023-41332: an annotation stopped an agent.

The agent's other kinds are tried in tests/unit/agent/test_kubernetes_source.py.
"""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.conftest import HOSTILE
from tests.fuzz.test_documents import KINDS
from tests.fuzz.values import VALUES, places, with_value

from pilus_api.errors import InvalidError
from pilus_api.policies import drafts_of, resolve
from pilus_operator import facts
from pilus_operator.checks import check_policy

META = {"name": "n", "namespace": "d", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}, "annotations": {"c": "d"}}
OWNED = META | {"ownerReferences": [{"kind": "Pod", "uid": "p"}, {"kind": "Node", "uid": "n"}]}
OPERATORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "pod": (facts.pod, {"metadata": META, "spec": {"serviceAccountName": "s", "nodeName": "n"}, "status": {"phase": "Running"}}),
    "namespace": (facts.namespace, {"metadata": META}),
    "node": (facts.node, {"metadata": META, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}}),
    "identity": (facts.identity, {"metadata": META, "security-labels": {"k8s:a": "b"}}),
    "cilium node": (facts.cilium_node, {"metadata": OWNED, "spec": {"ipam": {"podCIDRs": ["10.0.0.0/24"]}}}),
    "claim": (facts.claim, {"metadata": META, "spec": {"range": "10.0.0.0/24", "node": "n"}}),
    "endpoint": (facts.endpoint, {"metadata": OWNED, "status": {
        "identity": {"id": 7}, "encryption": {"key": 1}, "named-ports": [{"name": "a", "port": 8, "protocol": "TCP"}],
        "networking": {"addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}]}}}),
    "slice": (facts.endpoint_slice, {"metadata": META, "namespace": "d", "endpoints": [{"name": "a", "id": 7}]}),
    "node status": (facts.node_status, {"metadata": META, "status": {
        "policies": [{"uid": "u", "generation": 1, "realised": True, "error": "", "unenforced": ["spec"]}]}}),
}  # fmt: skip
# What the API server itself sees to in every object: strings where strings belong.
_ITS_OWN = {("metadata",), ("metadata", "uid"), ("metadata", "resourceVersion"), ("metadata", "ownerReferences")}


def _theirs(kind: str, held: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The places that somebody else can fill as he likes. Built-in kinds are checked by the API server."""
    if kind in ("pod", "namespace", "node"):
        return []
    return sorted((at for at in places(held) if at[0] != "metadata" and at not in _ITS_OWN), key=repr)


@pytest.mark.parametrize("kind", [kind for kind, (_, held) in OPERATORS.items() if _theirs(kind, held)])
@HOSTILE
@given(data=st.data())
def test_cve_2023_41332_the_operator_reads_anything(kind: str, data: st.DataObject) -> None:
    read, held = OPERATORS[kind]
    read(with_value(held, data.draw(st.sampled_from(_theirs(kind, held))), data.draw(VALUES)))


POLICIES = [held for held in KINDS if "Policy" in held["kind"]]


@HOSTILE
@given(data=st.data())
def test_cve_2023_41332_a_policy_is_read_or_refused(data: st.DataObject) -> None:
    """By one error, which names the place, and quickly."""
    held = data.draw(st.sampled_from(POLICIES))
    changed = with_value(held, data.draw(st.sampled_from(sorted(places(held), key=repr))), data.draw(VALUES))
    for read in (lambda: resolve(drafts_of(changed, cluster="c"), {}), lambda: check_policy(changed, cluster="c")):
        with suppress(InvalidError):
            read()


@HOSTILE
@given(held=VALUES)
def test_cve_2023_41332_any_json_is_an_object_or_refused(held: Any) -> None:
    for whole in (held, {"kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "metadata": held, "spec": held}):
        if isinstance(whole, dict):
            try:
                drafts_of(whole, cluster="c")
            except InvalidError:
                continue


def test_the_examples_are_read() -> None:
    for held in POLICIES:
        assert drafts_of(held, cluster="c")
        check_policy(json.loads(json.dumps(held)), cluster="c")
    for read, held in OPERATORS.values():
        assert read(held) is not None
