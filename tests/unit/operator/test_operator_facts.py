"""Facts: what is kept of objects, and that nonsense in them is absent."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pilus_api.connection import Object
from pilus_operator import facts


def raw(**fields: Any) -> Object:
    return {"metadata": {"name": "x", "uid": "u", "resourceVersion": "7"}, **fields}


def test_a_pod() -> None:
    held = raw(spec={"serviceAccountName": "sa", "nodeName": "n1"}, status={"phase": "Running"})
    held["metadata"]["labels"] = {"b": "2", "a": "1"}
    assert facts.pod(held) == facts.Pod("u", (("a", "1"), ("b", "2")), "sa", "n1", False, False)


@pytest.mark.parametrize(("phase", "finished"), [("Pending", False), ("Succeeded", True), ("Failed", True)])
def test_a_pod_that_will_not_run_again_is_finished(phase: str, finished: bool) -> None:
    assert facts.pod(raw(spec={"hostNetwork": True}, status={"phase": phase})) == facts.Pod("u", (), "", "", True, finished)


def test_a_node_s_address_is_its_internal_one_of_ipv4_first() -> None:
    addresses = [{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": "fd00::1"},
                 {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "ExternalIP", "address": "198.51.100.1"}]  # fmt: skip
    assert facts.node(raw(status={"addresses": addresses})).address == "192.0.2.1"
    assert facts.node(raw(status={"addresses": addresses[:2]})).address == "fd00::1"
    assert facts.node(raw()).address == ""


def test_an_identity() -> None:
    held = raw(**{"security-labels": {"k8s:b": "2", "k8s:a": "1"}})
    held["metadata"]["annotations"] = {facts.UNUSED_SINCE: "then"}
    assert facts.identity(held) == facts.IdentityObject((("k8s:a", "1"), ("k8s:b", "2")), "u", "7", "then")


def test_a_cilium_node() -> None:
    held = raw(spec={"ipam": {"podCIDRs": ["10.0.0.0/24", "nonsense", "fd00::/64"]}})
    assert facts.cilium_node(held) == facts.NodeObject("u", "7", (ip_network("10.0.0.0/24"), ip_network("fd00::/64")), "", False)
    held["metadata"] |= {
        "ownerReferences": [{"kind": "X", "uid": "1"}, {"kind": "Node", "uid": "2"}],
        "annotations": {facts.KEEP_NODE: ""},
    }
    assert (facts.cilium_node(held).owner, facts.cilium_node(held).kept) == ("2", True)


@pytest.mark.parametrize(
    "spec", [{}, {"node": "a"}, {"node": "a", "range": "10.0.0.1/24"}, {"node": 3, "range": "10.0.0.0/24"}, None]
)
def test_a_claim_that_says_nothing_is_none(spec: object) -> None:
    assert facts.claim(raw(spec=spec)) is None


def test_a_claim() -> None:
    network = ip_network("10.0.0.0/24")
    assert facts.claim(raw(spec={"node": "a", "range": "10.0.0.0/24"})) == facts.Claim("a", network, "u", "7")
    assert facts.claim_name(network) == "10-0-0-0-24"


def test_an_endpoint() -> None:
    held = raw(
        status={
            "identity": {"id": 300},
            "networking": {"addressing": [{"ipv4": "10.0.0.5", "ipv6": "fd00::5"}, {"ipv4": "what"}], "node": "192.0.2.9"},
            "named-ports": [{"name": "web", "port": 80, "protocol": "TCP"}, {"name": "x"}, 3],
            "encryption": {"key": 1},
        }
    )
    held["metadata"]["ownerReferences"] = [{"kind": "Pod", "uid": "p"}]
    addresses = (ip_address("10.0.0.5"), ip_address("fd00::5"))
    assert facts.endpoint(held) == facts.EndpointObject(300, "p", addresses, (("web", 80, "TCP"),), 1)


@pytest.mark.parametrize("status", [None, 3, [], {}, {"identity": "x", "networking": {"addressing": "x"}, "named-ports": {}}])
def test_an_endpoint_full_of_nonsense_is_an_empty_one(status: object) -> None:
    assert facts.endpoint(raw(status=status)) == facts.EndpointObject(0, "", (), (), 0)


def test_a_slice() -> None:
    held = raw(namespace="ns", endpoints=[{"name": "a", "id": 1}, {"id": 2}, "x"])
    assert facts.endpoint_slice(held) == facts.SliceObject("ns", ({"name": "a", "id": 1},), "7")


def test_what_a_node_says_of_policies() -> None:
    said = [
        {"uid": "p", "generation": 2, "realised": True},
        {"uid": "q", "generation": 1, "realised": False, "error": "no", "notes": ["a", "b"]},
        {"uid": "r", "generation": 1, "pods": [{"namespace": "n", "name": "a", "uid": "u"}, "x"]},
        {"uid": 3},
    ]
    assert facts.node_status(raw(status={"policies": said})) == {
        "p": facts.Realised(2, True, ""),
        "q": facts.Realised(1, False, "no", notes=("a", "b")),
        "r": facts.Realised(1, False, "", pods=(("n", "a", "u"), ("None", "None", "None"))),
    }
    assert facts.node_status(raw()) == {}
