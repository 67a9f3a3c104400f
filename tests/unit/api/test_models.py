"""Models refuse what the API server refuses, and say where."""

from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from pilus_api.errors import InvalidError
from pilus_api.labels import parse_label
from pilus_api.policies import policies_of
from pilus_api.resources.ciliumendpoint import CiliumEndpoint
from pilus_api.resources.ciliumidentity import CiliumIdentity
from pilus_api.resources.ciliumnode import CiliumNode
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.resources.model import Model, parse
from pilus_api.resources.pilusnodestatus import PilusNodeStatus
from pilus_api.resources.pilusrangeclaim import PilusRangeClaim, claim_name


def test_a_refused_policy_is_refused(refused: dict[str, Any]) -> None:
    with pytest.raises(InvalidError) as caught:
        policies_of(refused["policy"], cluster="default")
    assert refused["says"] in str(caught.value)
    assert caught.value.path == refused["path"]


def test_an_accepted_policy_is_accepted(accepted: dict[str, Any]) -> None:
    assert policies_of(accepted["policy"], cluster="default")


@given(st.text("ab.:/=$ ", max_size=6) | st.sampled_from(["reserved.", "reserved.$", "reserved.=", "k8s:$", "any:="]))
def test_a_key_that_can_not_be_read_is_refused_with_its_selector(key: str) -> None:
    """More are: whatever stands behind a `=` in a key would not count."""
    try:
        readable = bool(parse_label(key).key)
    except InvalidError:
        readable = False
    held: list[dict[str, Any]] = [{"matchLabels": {key: "v"}}, {"matchExpressions": [{"key": key, "operator": "Exists"}]}]
    for selector in held:
        try:
            parse(LabelSelector, selector)
        except InvalidError:
            assert not readable or "=" in key or not key[-1].isalnum()
        else:
            assert readable


def test_the_tables_name_each_case_once() -> None:
    for table in ("refused", "accepted"):
        names = [case["name"] for case in yaml.safe_load((Path(__file__).parent / f"{table}.yaml").read_text())]
        assert len(names) == len(set(names))


def test_the_path_leads_to_the_field() -> None:
    policy = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"},
        "specs": [{"endpointSelector": {}, "ingress": [{}, {"toPorts": [{"ports": [{"port": "80"}, {"port": "x y"}]}]}]}],
    }  # fmt: skip
    with pytest.raises(InvalidError) as caught:
        policies_of(policy, cluster="default")
    assert caught.value.path == "specs[0].ingress[1].toPorts[0].ports[1].port"


def test_a_mistyped_field_is_refused_and_not_dropped() -> None:
    policy = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"},
        "spec": {"endpointSelector": {}, "ingress": [{"fromEndpoint": [{}], "toPorts": [{"ports": [{"port": "80"}]}]}]},
    }  # fmt: skip
    with pytest.raises(InvalidError, match="fromEndpoint"):
        policies_of(policy, cluster="default")


@pytest.mark.parametrize("section", ["ingress", "egressDeny"])
def test_forty_ports_are_the_limit_of_a_list_and_not_of_a_policy(section: str) -> None:
    def held(*counts: int) -> dict[str, Any]:
        rules = [{"ports": [{"port": str(number + 1), "protocol": "TCP"} for number in range(count)]} for count in counts]
        return {
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"},
            "spec": {"endpointSelector": {}, section: [{"toPorts": rules}, {"toPorts": rules}]},
        }  # fmt: skip

    (found,) = policies_of(held(40, 40, 40), cluster="default")
    assert [len(rule.ports or ()) for rule in found.rules] == [40, 40]
    with pytest.raises(InvalidError, match="at most 40"):
        policies_of(held(1, 41), cluster="default")


def test_a_null_field_is_an_absent_one() -> None:
    policy = {
        "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "a"},
        "spec": {"endpointSelector": {}, "ingress": None, "egress": [{"toEndpoints": None}]},
    }  # fmt: skip
    (found,) = policies_of(policy, cluster="default")
    assert found.default_deny == (False, True)


@pytest.mark.parametrize("selector", [{"matchLabels": {"app": None}}, {"matchLabels": {"app": "a", "team": None}}])
def test_a_null_label_does_not_widen_a_selector(selector: dict[str, Any]) -> None:
    """An API server drops it before anybody sees it; from a directory it would select more than was written."""
    held = meta("a", "CiliumNetworkPolicy") | {"spec": {"endpointSelector": {}, "ingress": [{"fromEndpoints": [selector]}]}}
    with pytest.raises(InvalidError) as caught:
        policies_of(held, cluster="default")
    key = list(selector["matchLabels"])[-1]
    assert caught.value.path == f"spec.ingress[0].fromEndpoints[0].matchLabels.{key}"
    held = meta("a", "AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1")
    held["spec"] = {"priority": 1, "subject": {"namespaces": selector}}
    with pytest.raises(InvalidError) as caught:
        policies_of(held, cluster="default")
    assert caught.value.path == f"spec.subject.namespaces.matchLabels.{key}"


class Leaf(Model):
    count: int | str


class Tree(Model):
    either: Annotated[int, Field(lt=9)] | Leaf | list[Leaf] | None = None
    named: dict[Annotated[str, Field(max_length=2)], int] | None = None


@pytest.mark.parametrize(
    ("obj", "path", "says"),
    [
        ({"either": {"count": []}}, "either", "integer"),
        ({"either": 10}, "either", "less than 9"),
        ({"either": [{}]}, "either", "integer"),
        ({"named": {"abc": 1}}, "named.abc", "at most 2"),
        ({"named": {"a": "b"}}, "named.a", "integer"),
        ({"named": {1: 1}}, "named.1", "string"),
        ({"either": {"count": 1}, "other": 1}, "other", "not permitted"),
    ],
)
def test_a_path_is_of_fields_alone(obj: dict[str, Any], path: str, says: str) -> None:
    """Whatever a union's branches are called."""
    with pytest.raises(InvalidError, match=says) as caught:
        parse(Tree, obj)
    assert caught.value.path == path


def test_a_missing_field_has_a_path_and_a_union_s_branch_has_none() -> None:
    with pytest.raises(InvalidError) as caught:
        parse(Leaf, {})
    assert caught.value.path == "count"
    with pytest.raises(InvalidError) as caught:
        parse(Leaf, {"count": 1.5})
    assert caught.value.path == "count"


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}, "kind"),
        ({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy"}, "metadata"),
        ({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {}}, "metadata.name"),
        ({}, "kind"),
    ],
)  # fmt: skip
def test_what_is_no_policy(obj: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidError) as caught:
        policies_of(obj, cluster="default")
    assert caught.value.path == path


def meta(name: str, kind: str, version: str = "cilium.io/v2") -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def test_unknown_fields_of_shared_kinds_are_kept() -> None:
    spec = {"addresses": [{"type": "InternalIP", "ip": "10.0.0.1", "zone": "a"}], "eni": {"vpc-id": "x"}}
    held = parse(CiliumNode, meta("n1", "CiliumNode") | {"spec": spec})
    assert held.model_dump(by_alias=True, exclude_none=True)["spec"] == spec
    status = {
        "id": 7,
        "state": "ready",
        "networking": {"addressing": [{"ipv4": "10.0.0.2"}], "node": "10.0.0.1"},
        "future": {"a": 1},
    }
    endpoint = parse(CiliumEndpoint, meta("web", "CiliumEndpoint") | {"status": status})
    assert endpoint.model_dump(by_alias=True, exclude_none=True)["status"] == status


def test_identity() -> None:
    held = parse(CiliumIdentity, meta("300", "CiliumIdentity") | {"security-labels": {"k8s:app": "web"}})
    assert held.security_labels == {"k8s:app": "web"}
    with pytest.raises(InvalidError, match="security-labels"):
        parse(CiliumIdentity, meta("300", "CiliumIdentity"))


@pytest.mark.parametrize(
    ("name", "text"),
    [("10-44-0-0-24", "10.44.0.0/24"), ("fd00-44--64", "fd00:44:/64"), ("10-44-0-1-24", "10.44.0.1/24"), ("other", "10.44.0.0/24")],
)
def test_range_claim(name: str, text: str) -> None:
    claim = meta(name, "PilusRangeClaim", "pilus.io/v1alpha1") | {"spec": {"node": "n1", "range": text}}
    if (name, text) == ("10-44-0-0-24", "10.44.0.0/24"):
        assert parse(PilusRangeClaim, claim).metadata.name == claim_name(text)
        return
    with pytest.raises(InvalidError):
        parse(PilusRangeClaim, claim)


def test_node_status() -> None:
    policies = [{"uid": "u", "generation": 3, "realised": True, "unenforced": ["spec.egress[0].toFQDNs"]}]
    held = parse(
        PilusNodeStatus,
        meta("n1", "PilusNodeStatus", "pilus.io/v1alpha1") | {"status": {"policies": policies, "agent": {"ready": True}}},
    )
    assert held.status.policies[0].unenforced == ["spec.egress[0].toFQDNs"]
    assert held.status.agent.ready
